"""The composition root: builds each part once, runs them together, and takes them down in order.

Up: folders → client → proxy → health and metrics → (leadership) → workers → kopf. Down, on SIGTERM or SIGINT: no new turns,
the runs that are on get their time, then they are ended and their CRs say so, and the next replica may lead. A leader that
has lost the lease just ends, as it may write nothing more; its runs end with it.
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
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import NoReturn

import runner
from runner import metrics
from runner.config.settings import Settings, is_pattern
from runner.config.watches import Watch
from runner.control import Request
from runner.control.controller import Controller
from runner.control.handlers import Handlers
from runner.control.reconciler import Reconciler
from runner.control.run import Runs
from runner.control.status import StatusWriter
from runner.control.workqueue import WorkQueue
from runner.errors import ConfigurationError
from runner.executor import cold
from runner.executor.jobs import Execute, ExecutorError, Limits
from runner.executor.run_folder import ArtifactsError, RunFolders
from runner.executor.warm.executor import WarmExecutor
from runner.kube.authorization import Access
from runner.kube.backoff import Backoff
from runner.kube.client import ApiClient, KubeError
from runner.kube.discovery import Discovery
from runner.kube.informer import Informers
from runner.kube.lease import Elector, Lost
from runner.kube.primaries import watch_primaries
from runner.logs import RunnerEvent
from runner.loop_lag import watch_loop
from runner.proxy.server import ProxyServer
from runner.proxy.sessions import Sessions
from runner.resource.metadata import GroupVersionKind, ObjectKey
from runner.serving.certificate import ServingCertificate
from runner.serving.role_metrics import RoleMetrics
from runner.serving.server import serving_health, serving_metrics, serving_role_metrics

logger = logging.getLogger(__name__)

# Seconds: between two looks for a kind; how long a leader that has lost may take to say so.
_LOOK_AGAIN = 2.0
_LAST_LINE = 0.5
# Seconds: before a part that failed is begun again, doubled with each failure in a row; how long it has to go on to be well.
_FIRST_REST, _LAST_REST = 1.0, 60.0


async def run(settings: Settings, watches: Sequence[Watch]) -> None:
    """Run the operator until SIGTERM or SIGINT. Raises ConfigurationError for what the user can mend."""
    async with AsyncExitStack() as stack:
        try:
            folders = stack.enter_context(contextlib.closing(RunFolders(settings.runs_dir)))
        except ArtifactsError as error:
            raise ConfigurationError(str(error)) from error
        client = await ApiClient.connect(os.environ)
        stack.push_async_callback(client.close)
        sessions, discovery = Sessions(), Discovery(client)
        role_metrics = RoleMetrics(metrics.REGISTRY)
        proxy = ProxyServer(
            client,
            discovery,
            sessions,
            # There are none yet; nor is there a run that could ask.
            covering=lambda *what: informers.covering(*what),
            port=settings.proxy_port,
        )
        try:
            await stack.enter_async_context(proxy)
        except OSError as error:
            raise ConfigurationError(
                f"--proxy-port {settings.proxy_port} cannot be listened on: {error.strerror}; choose another, or 0"
            ) from error
        at_once = settings.max_concurrent_runs or max(watch.max_concurrent_reconciles for watch in watches)
        warm = WarmExecutor(
            Limits(
                workers=at_once,
                runs=settings.worker_max_runs,
                age=settings.worker_max_age,
                memory=settings.worker_max_memory,
            )
        )
        watching, stop, standing_by = asyncio.Event(), asyncio.Event(), asyncio.Event()
        elector = Elector(client, settings.election, hold=_end_unless_called_again) if settings.election else None

        def is_ready() -> bool:
            # A replica that waits to lead is ready: a rolling update waits for it, and it for the old leader's end.
            return watching.is_set() or standing_by.is_set()

        def started() -> None:
            # kopf has just set its own.
            _on_signals(stop.set)
            watching.set()

        if settings.health_address:
            address = await stack.enter_async_context(
                serving_health(settings.health_address, is_ready=is_ready, is_healthy=lambda: warm.healthy)
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
        if elector:
            stack.push_async_callback(_resign, elector)
            _on_signals(stop.set)
            standing_by.set()
            if not await _elected(elector, stop):
                logger.info("Stopped")
                return
            standing_by.clear()

        queue = WorkQueue(at_once, strict=settings.max_concurrent_runs > 0)
        for watch in watches:
            queue.register(watch)
        handlers = Handlers(watches, queue.add)
        async with asyncio.TaskGroup() as tasks:
            # First: the lease wants to be renewed while the rest is on its way.
            leading = [tasks.create_task(part) for part in (_keep(elector), _once(elector.announce))] if elector else []
            execute = await executor(settings.executor, stack, warm)
            # Namespaces that match a pattern come and go; what happens in others is of no CR here and passed over.
            somewhere = () if any(map(is_pattern, settings.namespaces)) else settings.namespaces
            informers = Informers(client, namespaces=somewhere, notify=handlers.changed, keeps=handlers.keeps, tasks=tasks)
            status = StatusWriter(client)
            runs = Runs(
                settings=settings,
                execute=execute,
                folders=folders,
                sessions=sessions,
                proxy_port=proxy.port,
                status=status,
                own_writes=handlers.own_writes,
                on_dependent=informers.ensure,
            )
            reconciler = Reconciler(client, discovery, handlers=handlers, runs=runs, status=status)
            controller = Controller(queue, reconciler.reconcile)
            beside = [
                tasks.create_task(_kept_up("clearing up", lambda: _clear_up(reconciler, folders, watches))),
                tasks.create_task(_kept_up("loop lag", watch_loop)),
            ]
            for gvk in {related.gvk for watch in watches for related in watch.related}:
                watching_related = functools.partial(_watch_related, gvk, discovery, informers)
                beside.append(tasks.create_task(_kept_up(f"watching {gvk}", watching_related)))
            # Artifacts that nobody bounds fill the node's disk, and the pod is evicted.
            if size := settings.max_artifacts_size:
                beside.append(tasks.create_task(_kept_up("bounding artifacts", lambda: folders.keep_below(size))))
            if settings.requeue_from_stdin:
                beside.append(tasks.create_task(_kept_up("standard input", lambda: _requeue_from_stdin(handlers, stop))))
            watching_primaries = functools.partial(
                watch_primaries,
                client,
                watches=watches,
                namespaces=settings.namespaces,
                notify=handlers.primary,
                listed=handlers.listed,
                started=started,
            )
            primaries = tasks.create_task(_kept_up("watching", watching_primaries))
            workers = tasks.create_task(controller.run())
            await watching.wait()
            logger.info(
                "Watching",
                extra={
                    "event": RunnerEvent.WATCHING,
                    "version": runner.__version__,
                    "kinds": ", ".join(watch.gvk.kind for watch in watches),
                    "namespaces": ",".join(settings.namespaces) or "all",
                },
            )
            await stop.wait()
            logger.info("Stopping", extra={"running": queue.running, "grace": settings.shutdown_grace})
            queue.close()
            await asyncio.wait({workers}, timeout=settings.shutdown_grace)
            workers.cancel()
            await asyncio.wait({workers})
            for task in (primaries, *beside):
                task.cancel()
            informers.stop()
            # The lease is kept until there is nothing left that could need it.
            await asyncio.wait({primaries})
            for task in leading:
                task.cancel()
        logger.info("Stopped")


async def executor(name: str, stack: AsyncExitStack, warm: WarmExecutor | None = None) -> Execute:
    """How Ansible is run. What cannot be warm goes the plain way, which needs nothing."""
    if name == "warm":
        try:
            return (await stack.enter_async_context(warm or WarmExecutor())).execute
        except ExecutorError as error:
            logger.warning("Runs go the slow way", extra={"error": str(error)})
    return cold.execute


def _on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


async def _elected(elector: Elector, stop: asyncio.Event) -> bool:
    """Wait until this replica leads; False if it is asked to stop before."""
    signal.signal(signal.SIGALRM, lambda *_: _end_at_once(elector, "the lease could not be renewed in time"))
    metrics.leads(elector.name, False)
    acquiring, stopping = asyncio.create_task(elector.acquire()), asyncio.create_task(stop.wait())
    done, waiting = await asyncio.wait({acquiring, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    if acquiring not in done:
        return False
    acquiring.result()
    metrics.leads(elector.name, True)
    return True


async def _keep(elector: Elector) -> None:
    try:
        await elector.keep()
    except Lost as lost:
        _end_at_once(elector, str(lost))


async def _resign(elector: Elector) -> None:
    """Nothing runs any more."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    await elector.release()


def _end_unless_called_again(until: float) -> None:
    """Ends this process at `until` (of time.monotonic) unless it is called again before.

    By the kernel's timer: it does not wait for a blocked event loop, and a process that was paused meanwhile finds it run
    out, and gets its signal before it writes anything more.
    """
    signal.setitimer(signal.ITIMER_REAL, max(until - time.monotonic(), 1e-6))


def _end_at_once(elector: Elector, reason: str) -> NoReturn:
    """For a leader that has lost: another may be at work already. Its runs end as they see that it is gone."""
    # Should even the log be blocked, the kernel ends this process.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, _LAST_LINE)
    logger.error("Leader election lost", extra={**elector.fields, "reason": reason})
    os._exit(1)


async def _kept_up(name: str, part: Callable[[], Awaitable[object]]) -> None:
    """Have a part of the operator do its work to the end; where it fails unexpectedly, it is begun again after a rest.

    One part's fault ends neither the others nor the runs. Raises ConfigurationError alone.
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


async def _once(part: Callable[[], Awaitable[object]]) -> None:
    """A courtesy that ends nothing if it fails."""
    try:
        await part()
    except Exception:
        logger.exception("A courtesy of the runner failed")


async def _requeue_from_stdin(handlers: Handlers, stop: asyncio.Event) -> None:
    """Each line of standard input is a list of kinds to run again; when it ends, so does the runner."""
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


async def _watch_related(gvk: GroupVersionKind, discovery: Discovery, informers: Informers) -> None:
    """Watch a kind that watches want beside their own, as soon as the cluster has it."""
    while True:
        with contextlib.suppress(KubeError):
            resource = await discovery.by_kind(gvk)
            if resource is not None:
                informers.ensure(resource)
                return
            logger.debug("Related kind not served yet", extra={"related": str(gvk)})
        await asyncio.sleep(_LOOK_AGAIN)


async def _clear_up(reconciler: Reconciler, folders: RunFolders, watches: Sequence[Watch]) -> None:
    """The folders of CRs that went while no runner was there go too."""
    for watch in watches:
        gvk = watch.gvk
        for parts in list(folders.left_over((gvk.group, gvk.version, gvk.kind))):
            namespace, name = ("", *parts)[-2:]
            await reconciler.clear_up(Request(watch, ObjectKey(namespace, name)))
