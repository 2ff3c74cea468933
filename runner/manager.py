"""The manager, which is the composition root: builds each part once, runs them together, and stops them in order.

Serve: run folders, client, proxy, health and metrics. Lead, with leader election: wait for the Lease. Operate: executor,
workers, watches. Drain, on SIGTERM or SIGINT: no reconcile begins any more, the runs that are on get their time, then they
are ended and their CRs say so, and the next replica may lead.

Next on the way: `runner.kube.primaries`, where the events come from, and `runner.leadership`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import runner
from runner import metrics, tracing
from runner.config.settings import Address, Settings, is_pattern
from runner.config.watches import Watch
from runner.control import Priority, Request
from runner.control.controller import Controller
from runner.control.drain import Drainer
from runner.control.failing import Failing
from runner.control.handlers import Handlers
from runner.control.history import History
from runner.control.reconciler import Reconciler
from runner.control.run import Runs
from runner.control.spans import Spans, add_trace_ids, trace_request
from runner.control.status import StatusWriter
from runner.control.workqueue import WorkQueue
from runner.errors import ConfigurationError
from runner.executor import cold
from runner.executor.jobs import Execute, ExecutorError, Limits
from runner.executor.run_folder import RunFolders
from runner.executor.warm.executor import WarmExecutor
from runner.kube.authorization import Access
from runner.kube.backoff import Backoff
from runner.kube.client import ApiClient, KubeError
from runner.kube.controller_ring import ControllerRing
from runner.kube.discovery import Discovery
from runner.kube.informer import Informer, Informers
from runner.kube.primaries import watch_primaries
from runner.leadership import Leadership
from runner.logs import RunnerEvent
from runner.loop_lag import watch_loop
from runner.proxy.server import ProxyServer
from runner.proxy.sessions import Sessions
from runner.resource.metadata import GroupVersionKind, ObjectKey
from runner.resource.selectors import EVERYTHING, Selector
from runner.serving.certificate import MOUNTED_FOR_DASHBOARD, ServingCertificate
from runner.serving.role_metrics import RoleMetrics
from runner.serving.server import serving_health, serving_metrics, serving_role_metrics

if TYPE_CHECKING:
    from runner.dashboard.server import Dashboard

logger = logging.getLogger(__name__)

# Seconds between two looks for a kind that the cluster does not have yet.
_LOOK_AGAIN = 2.0
# Seconds before a part that failed is started again, doubled with each failure in a row. One that has worked for
# longer than the last of them begins again with the first.
_FIRST_REST, _LAST_REST = 1.0, 60.0

# A part of the operator that goes on in the background, with its name for the log.
Part = tuple[str, Callable[[], Awaitable[object]]]


async def run(settings: Settings, watches: Sequence[Watch]) -> None:
    """Run the operator until SIGTERM or SIGINT. Raises ConfigurationError."""
    await Manager(settings, watches).run()


@dataclass(frozen=True, slots=True)
class Served:
    """The parts that are there before this process leads. `ring` is a shard's; `dashboard` is None where none is served."""

    client: ApiClient
    leadership: Leadership | None
    discovery: Discovery
    ring: ControllerRing | None
    folders: RunFolders
    sessions: Sessions
    proxy: ProxyServer
    dashboard: Dashboard | None
    # None where no traces are made.
    spans: Spans | None


@dataclass(frozen=True, slots=True)
class Operation:
    """The parts that work, which are stopped in the end."""

    queue: WorkQueue
    informers: Informers
    workers: asyncio.Task[None]
    primaries: asyncio.Task[None]
    background: Sequence[asyncio.Task[None]]


class Manager:
    """Runs an operator from its start to its end."""

    def __init__(self, settings: Settings, watches: Sequence[Watch]) -> None:
        self._settings = settings
        self._watches = [replace(watch, selector=watch.selector & settings.selector) for watch in watches]
        self._limit = settings.max_concurrent_runs or max(watch.max_concurrent_reconciles for watch in watches)
        self._warm = WarmExecutor(
            Limits(
                workers=self._limit,
                runs=settings.worker_max_runs,
                age=settings.worker_max_age,
                memory=settings.worker_max_memory,
            )
        )
        # Until this process leads there is none.
        self._informers: Informers | None = None
        self._waiting_to_lead, self._watching, self._stop = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Serve, lead, operate and drain. Raises ConfigurationError."""
        async with AsyncExitStack() as stack:
            base = await self._serve(stack)
            leadership = base.leadership
            if leadership is None or await self._lead(stack, leadership):
                async with asyncio.TaskGroup() as tasks:
                    # First: the Lease has to be renewed while the rest is being started.
                    leading = (
                        [tasks.create_task(part()) for part in (leadership.keep, leadership.announce)] if leadership else []
                    )
                    operation = await self._operate(stack, base, tasks)
                    await self._stop.wait()
                    await self._drain(operation, base.dashboard)
                    # The Lease is kept until there is nothing left that could need it.
                    for task in leading:
                        task.cancel()
            logger.info("Stopped")

    async def _serve(self, stack: AsyncExitStack) -> Served:
        """Start what a process has that waits to lead as well. Raises ConfigurationError."""
        settings = self._settings
        folders = stack.enter_context(contextlib.closing(RunFolders(settings.runs_dir)))
        tracer = tracing.start(os.environ)
        if tracer:
            # Ended last: what else is ended here may make spans, and the next replica need not wait for their export.
            stack.push_async_callback(tracer.close)
            add_trace_ids()
        client = await ApiClient.connect(os.environ, *([trace_request] if tracer else []))
        stack.push_async_callback(client.close)
        # Before anything is served: it raises where the namespace of its Lease cannot be found out.
        leadership = Leadership(client, settings.election, settings.shard) if settings.election else None
        sessions, discovery = Sessions(), Discovery(client)
        kinds = [watch.gvk for watch in self._watches]
        ring = ControllerRing(client, discovery, settings.shard.ring, kinds=kinds) if settings.shard else None
        controls = ring.controls if ring else lambda resource: False
        proxy = ProxyServer(
            client, discovery, sessions, covering=self._covering, controls=controls, port=settings.proxy_port
        )
        try:
            await stack.enter_async_context(proxy)
        except OSError as error:
            raise ConfigurationError(
                f"--proxy-port {settings.proxy_port} cannot be listened on: {error.strerror}; choose another, or 0"
            ) from error
        await self._serve_probes_and_metrics(stack, client)
        dashboard = await self._serve_dashboard(stack, client, discovery, leadership)
        spans = Spans(tracer, client.server) if tracer else None
        return Served(client, leadership, discovery, ring, folders, sessions, proxy, dashboard, spans)

    async def _serve_dashboard(
        self, stack: AsyncExitStack, client: ApiClient, discovery: Discovery, leadership: Leadership | None
    ) -> Dashboard | None:
        settings = self._settings
        if not settings.dashboard_address:
            return None
        # With its templates, for who asks for it.
        from runner.dashboard import leader
        from runner.dashboard.logins import KeyLogin, TokenLogins
        from runner.dashboard.server import Dashboard

        key = settings.dashboard_key
        logins = KeyLogin(key) if key else TokenLogins(Access(client), discovery)
        own: Address | None = None

        def find_leader() -> leader.LeaderEndpoint | None:
            # Shards all work, and dev's key is that of one process.
            if leadership is None or settings.shard or key or not self._waiting_to_lead.is_set():
                return None
            return leader.from_annotation(leadership.advertised, holder=leadership.holder, own=own)

        dashboard = Dashboard(
            logins,
            self._watches,
            waiting=lambda: _why_waiting(leadership, self._waiting_to_lead.is_set()),
            leader=find_leader,
        )
        certificate = None if key else ServingCertificate(MOUNTED_FOR_DASHBOARD, of="the dashboard")
        address = await stack.enter_async_context(dashboard.serving(settings.dashboard_address, certificate))
        own = leader.reachable(settings.pod_ip, address)
        if leadership and certificate and own:
            named = functools.partial(leader.to_annotation, own, holder=leadership.identity)
            leadership.advertise(lambda: named(certificate.fingerprint) if certificate.fingerprint else "")
        fields = {"event": RunnerEvent.DASHBOARD, "address": str(address), "secure": not key}
        logger.info("Serving the dashboard", extra=fields)
        return dashboard

    async def _serve_probes_and_metrics(self, stack: AsyncExitStack, client: ApiClient) -> None:
        settings, role_metrics = self._settings, RoleMetrics(metrics.REGISTRY)
        metrics.export_watching(self._watching.is_set)
        if settings.health_address:
            address = await stack.enter_async_context(
                serving_health(settings.health_address, is_ready=self._is_ready, is_healthy=lambda: self._warm.healthy)
            )
            logger.info("Serving health probes", extra={"address": str(address)})
        if settings.metrics_address:
            certificate = ServingCertificate() if settings.metrics_secure else None
            access = Access(client) if settings.metrics_require_rbac else None
            address = await stack.enter_async_context(
                serving_metrics(settings.metrics_address, role_metrics, certificate=certificate, access=access)
            )
            logger.info("Serving metrics", extra={"address": str(address), "secure": settings.metrics_secure})
        if settings.role_metrics_address:
            address = await stack.enter_async_context(serving_role_metrics(settings.role_metrics_address, role_metrics))
            logger.info("Taking the roles' metrics", extra={"address": str(address)})

    async def _lead(self, stack: AsyncExitStack, leadership: Leadership) -> bool:
        """Wait until this process leads, which it does until the stack is closed; False if it is asked to stop before."""
        stack.push_async_callback(leadership.resign)
        self._stop_on_signals()
        self._waiting_to_lead.set()
        if not await leadership.acquire(self._stop):
            return False
        self._waiting_to_lead.clear()
        return True

    async def _operate(self, stack: AsyncExitStack, base: Served, tasks: asyncio.TaskGroup) -> Operation:
        """Start what reconciles CRs, and return when they are watched."""
        settings = self._settings
        queue = WorkQueue(self._limit, strict=settings.max_concurrent_runs > 0)
        for watch in self._watches:
            queue.register(watch)
        drainer = self._drainer(base, queue)
        history, observe, add = History(), None, queue.add
        if dashboard := base.dashboard:
            history, observe = History(is_kept=True, notify=dashboard.note), dashboard.observe

            def add(request: Request, priority: Priority, after: float = 0.0) -> None:
                queue.add(request, priority, after)
                dashboard.note(request)

        handlers = Handlers(self._watches, add, drainer.takes if drainer else None, observe)
        execute = await self._executor(stack)
        if base.ring:
            # Before the first run: what is created without a controller gets no label.
            await base.ring.first_look()
        informers = self._informers = self._new_informers(base, handlers, tasks)
        runs = self._runs(base, execute, handlers, informers, history)
        reconciler = self._reconciler(base, handlers, runs, history)
        if dashboard:
            dashboard.show(
                settings=settings,
                queue=queue,
                handlers=handlers,
                history=history,
                runs=runs,
                client=base.client,
                discovery=base.discovery,
                informers=informers,
            )
        controller = Controller(queue, reconciler.reconcile, history, base.spans)
        parts = [*self._background(base, reconciler, handlers, informers)]
        if drainer:
            parts.append(("draining", functools.partial(drainer.run, controller.end, handlers.primary, reconciler.drop)))
        background = [tasks.create_task(supervise(name, part)) for name, part in parts]
        watching = functools.partial(
            watch_primaries,
            base.client,
            watches=self._watches,
            namespaces=settings.namespaces,
            notify=handlers.primary,
            listed=handlers.listed,
            started=self._started,
        )
        primaries = tasks.create_task(supervise("watching", watching))
        workers = tasks.create_task(controller.run())
        waiting = [asyncio.create_task(event.wait()) for event in (self._watching, self._stop)]
        # Where there is no API server any more, there is never a first list.
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        fields = {
            "version": runner.__version__,
            "kinds": ", ".join(watch.gvk.kind for watch in self._watches),
            "namespaces": ",".join(settings.namespaces) or "all",
        }
        if self._watching.is_set():
            logger.info("Watching", extra={"event": RunnerEvent.WATCHING, **fields})
        return Operation(queue, informers, workers, primaries, background)

    async def _executor(self, stack: AsyncExitStack) -> Execute:
        return await executor(self._settings.executor, stack, self._warm)

    def _new_informers(self, base: Served, handlers: Handlers, tasks: asyncio.TaskGroup) -> Informers:
        settings = self._settings
        # With patterns, namespaces come and go: all are watched, and events of others concern no CR here.
        namespaces = () if any(map(is_pattern, settings.namespaces)) else settings.namespaces
        return Informers(
            base.client,
            namespaces=namespaces,
            notify=handlers.changed,
            keeps=handlers.keeps,
            selector=settings.shard.selector if settings.shard else EVERYTHING,
            is_labelled=base.ring.controls if base.ring else lambda resource: False,
            tasks=tasks,
        )

    def _drainer(self, base: Served, queue: WorkQueue) -> Drainer | None:
        shard, grace = self._settings.shard, self._settings.shutdown_grace
        return Drainer(base.client, base.discovery, shard, queue=queue, grace=grace) if shard else None

    def _runs(self, base: Served, execute: Execute, handlers: Handlers, informers: Informers, history: History) -> Runs:
        return Runs(
            settings=self._settings,
            execute=execute,
            folders=base.folders,
            sessions=base.sessions,
            proxy_port=base.proxy.port,
            status=StatusWriter(base.client),
            own_writes=handlers.own_writes,
            on_dependent=informers.ensure,
            history=history,
            spans=base.spans,
        )

    def _reconciler(self, base: Served, handlers: Handlers, runs: Runs, history: History) -> Reconciler:
        shard = self._settings.shard
        failing = Failing(self._watches)
        return Reconciler(
            base.client,
            base.discovery,
            handlers=handlers,
            runs=runs,
            status=runs.status,
            failing=failing,
            shard=shard,
            history=history,
        )

    def _background(self, base: Served, reconciler: Reconciler, handlers: Handlers, informers: Informers) -> Iterator[Part]:
        for watch in self._watches:
            part = functools.partial(clear_up, reconciler, handlers, base.folders, watch)
            yield f"clearing up {watch.gvk}", part
        yield "loop lag", watch_loop
        for gvk, selector in _related(self._watches).items():
            yield f"watching {gvk}", functools.partial(_watch_related, gvk, selector, base.discovery, informers)
        if base.ring:
            yield "the ControllerRing", functools.partial(base.ring.follow, informers.select_again)
            yield "awaited dependents", informers.ask_for_awaited
        # Artifacts without a bound fill the node's disk, and the pod is evicted.
        if size := self._settings.max_artifacts_size:
            yield "bounding artifacts", functools.partial(base.folders.keep_below, size)
        if self._settings.requeue_from_stdin:
            yield "standard input", functools.partial(requeue_from_stdin, handlers, self._stop)

    async def _drain(self, operation: Operation, dashboard: Dashboard | None) -> None:
        """Let the runs that are on end in their time, end those that do not, and stop watching."""
        if dashboard:
            dashboard.hide()
        grace = self._settings.shutdown_grace
        logger.info("Stopping", extra={"running": operation.queue.running, "grace": grace})
        operation.queue.close()
        await asyncio.wait({operation.workers}, timeout=grace)
        operation.workers.cancel()
        await asyncio.wait({operation.workers})
        for task in (operation.primaries, *operation.background):
            task.cancel()
        operation.informers.stop()
        await asyncio.wait({operation.primaries})

    def _is_ready(self) -> bool:
        # A process that waits to lead is ready: a rolling update waits for that, and it for the old leader's end.
        return self._watching.is_set() or self._waiting_to_lead.is_set()

    def _covering(self, api_version: str, plural: str, namespace: str) -> Informer | None:
        return self._informers.covering(api_version, plural, namespace) if self._informers else None

    def _started(self) -> None:
        # kopf has just set its own.
        self._stop_on_signals()
        self._watching.set()

    def _stop_on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)


def _why_waiting(leadership: Leadership | None, is_waiting: bool) -> str:
    """Why this process has no CRs to show."""
    if leadership and is_waiting:
        # The pod's name, of a holder that is a runner.
        holder = leadership.holder.partition("_")[0] or "nobody yet"
        return f"This replica waits to lead. The Lease {leadership.lease} is held by {holder}: its dashboard shows the CRs."
    return "The operator is being started."


async def executor(name: str, stack: AsyncExitStack, warm: WarmExecutor | None = None) -> Execute:
    """The executor of this name. Where the warm one cannot be started, it is the cold one, which needs nothing."""
    if name == "warm":
        try:
            return (await stack.enter_async_context(warm or WarmExecutor())).execute
        except ExecutorError as error:
            logger.warning("Runs go the slow way", extra={"error": str(error)})
    return cold.execute


async def supervise(name: str, part: Callable[[], Awaitable[object]]) -> None:
    """Run a part of the operator to its end; if it fails unexpectedly, it is started again after a pause.

    One part's failure ends neither the others nor the runs. Raises ConfigurationError alone.
    """
    backoff = Backoff(_FIRST_REST, _LAST_REST)
    while True:
        begun = time.monotonic()
        try:
            await part()
            return
        except ConfigurationError:
            raise
        except Exception:
            if time.monotonic() - begun > _LAST_REST:
                backoff.reset()
            fields = {"part": name, "after": backoff.seconds}
            logger.exception("A part of the runner failed; it is begun again", extra=fields)
        await backoff.pause()


async def requeue_from_stdin(handlers: Handlers, stop: asyncio.Event) -> None:
    """Requeue the CRs of the kinds that each line of standard input lists; `stop` the operator when the input ends."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    with contextlib.closing(transport):
        while True:
            try:
                line = await reader.readline()
                if not line:
                    break
                kinds = json.loads(line)
                if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
                    raise ValueError("no list of kinds")
            except (ValueError, RecursionError) as error:
                logger.warning("A line of standard input was passed over", extra={"error": str(error)})
                continue
            handlers.requeue_kinds(kinds)
    stop.set()


def _related(watches: Sequence[Watch]) -> dict[GroupVersionKind, Selector]:
    """The related kinds, each with the selector that its objects have in common."""
    selectors: dict[GroupVersionKind, set[Selector]] = {}
    for related in (related for watch in watches for related in watch.related):
        selectors.setdefault(related.gvk, set()).add(related.selector)
    return {gvk: found.pop() if len(found) == 1 else EVERYTHING for gvk, found in selectors.items()}


async def _watch_related(gvk: GroupVersionKind, selector: Selector, discovery: Discovery, informers: Informers) -> None:
    """Watch a related kind, as soon as the cluster has it."""
    while True:
        with contextlib.suppress(KubeError):
            resource = await discovery.by_kind(gvk)
            if resource is not None:
                informers.watch(resource, selector)
                return
            logger.debug("Related kind not served yet", extra={"related": str(gvk)})
        await asyncio.sleep(_LOOK_AGAIN)


async def clear_up(reconciler: Reconciler, handlers: Handlers, folders: RunFolders, watch: Watch) -> None:
    """Remove the folders of a watch's CRs that were deleted while no runner was there.

    After a restart there is a folder for each CR. Those that have been listed need not be asked for one by one.
    """
    await handlers.first_list(watch)
    gvk = watch.gvk
    for parts in await asyncio.to_thread(lambda: list(folders.left_over((gvk.group, gvk.version, gvk.kind)))):
        namespace, name = ("", *parts)[-2:]
        request = Request(watch, ObjectKey(namespace, name))
        if not handlers.has_observed(request):
            await reconciler.clear_up(request)
