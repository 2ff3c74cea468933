"""A CR's turn: read it, run its role or playbook, write down what came of it, say when to come back.

This is where Kubernetes and Ansible meet. The steps are those of the Go operator's reconcile.go, but that a role's
`requeue_after` takes effect when its run has ended, and that nothing is written that would change nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import shutil
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from time import monotonic
from typing import Any

from runner import metrics
from runner.config.annotations import for_cr, is_dry_run
from runner.config.settings import LogEvents
from runner.config.watches import Content, Watch
from runner.control import Request, Result, Retry
from runner.control.broken_conditionals import BrokenConditionals, Places
from runner.control.failures import explained, is_to_be_explained
from runner.control.handlers import is_watched_dependent
from runner.control.own_writes import OwnWrites
from runner.control.plan import Plan
from runner.control.run_log import RunLog
from runner.executor.argument_check import Arguments
from runner.executor.jobs import Execute, ExecutorError, Fold, Job, JobEvent, Loops, Outcome
from runner.executor.run_folder import RunFolders
from runner.json_codec import encode
from runner.kube.backoff import Backoff
from runner.kube.client import ApiClient, Conflict, Invalid, KubeError, NotFound, Refused
from runner.kube.discovery import Discovery, Resource
from runner.kube.events import EventRecorder
from runner.logs import RunnerEvent
from runner.private_files import write_private
from runner.proxy.dry_run import DryRun
from runner.proxy.sessions import OnDependent, OnWrite, Session, Sessions, basic_authorization, kubeconfigs
from runner.resource import conditions, parameters
from runner.resource.metadata import (
    GroupVersionKind,
    Object,
    Owner,
    annotations_of,
    cut,
    finalizers,
    is_deleting,
    parse_duration,
)

logger = logging.getLogger(__name__)

# How often a write is tried against others' writes before it is left to the queue's backoff; seconds before the second
# try, doubled for each further one.
_WRITE_TRIES = 6
_WRITE_PAUSE = 0.05
# Seconds: how soon a CR that was deleted during its run is finalized; how long a last word may take at shutdown.
_FINALIZE_AFTER = 5.0
_LAST_WORD = 5.0

# Seconds; what is over sooner is not worth a write of its own, which would cost about as much as the run.
_ANNOUNCE_AFTER = 0.5

# Seconds: for how long a kind that the API server does not serve may be one that it does not serve yet.
_KIND_GONE_AFTER = 60.0
# Seconds: how often a run that goes on and on is told of.
LONG_RUN = 3600.0

# Notes on a CR that are not said again; characters of one.
_NOTES = 20
_NOTE_LIMIT = 1000
# Bytes of a CR as JSON, and characters of an event, from which on they are worked on in a thread: the event loop has the
# lease to renew meanwhile.
_BIG = 64 * 1024
# What each run has in its own folder: kubeconfigs for Go's and for Python's clients, and a place for temporary files.
_FOR_GO, _FOR_PYTHON, _SCRATCH = "kubeconfig", "kubeconfig-python", "tmp"
# Printed texts that are kept for the log of what Ansible printed.
_PRINTED_KEPT = 10_000

# What becomes of a status.
Mark = Callable[[Mapping[str, Any] | None, datetime], dict[str, Any]]

INTERRUPTED = "The runner was stopped before the run ended; it will be run again when the runner is back"


class Gate(Enum):
    """What a CR's deletion and finalizers ask for."""

    RUN = "run"
    ADD_FINALIZER = "add the finalizer, then run"
    FINALIZE = "run the finalizer"
    STOP = "going, and nothing to do about it"


def gate(obj: Object, watch: Watch) -> Gate:
    name = watch.finalizer.name if watch.finalizer else None
    held = name is not None and name in finalizers(obj)
    if is_deleting(obj):
        return Gate.FINALIZE if held else Gate.STOP
    return Gate.ADD_FINALIZER if name is not None and not held else Gate.RUN


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a reconciler works with, and what of the settings concerns it."""

    client: ApiClient
    discovery: Discovery
    sessions: Sessions
    execute: Execute
    folders: RunFolders
    # Told of each object that a CR owns and that its watch wants to know of, and of each CR that is gone.
    on_dependent: OnDependent
    own_writes: OwnWrites
    # The second is the uid of the object that is gone, where one was seen.
    forget: Callable[[Request, str | None], None]
    # Gives the CR as its watch has just told it, if it has.
    pop_waiting: Callable[[Request], Object | None]
    proxy_port: int
    # What the CR is being reconciled for, if something has happened; asked once a reconcile.
    pop_cause: Callable[[Request], str] = lambda request: ""
    ansible_args: str = ""
    inject_owner_ref: bool = True
    run_artifacts: bool = True
    # Whether runs of one watch may have one process, one after another.
    shares_workers: bool = True
    log_events: LogEvents = LogEvents.TASKS
    debug_logs: bool = False
    long_run: float = LONG_RUN


class Reconciler:
    def __init__(self, surroundings: Surroundings) -> None:
        self._with = surroundings
        self._arguments = Arguments()
        self._broken_conditionals = BrokenConditionals()
        self._events = EventRecorder(surroundings.client)
        # What has been said about a CR and need not be said at every run: the notes' hashes, the oldest first.
        self._said: dict[Request, dict[int, None]] = {}
        # Runs that succeeded and whose CRs do not say so yet.
        self._unwritten: dict[Request, Unwritten] = {}
        # Kinds that the API server did not serve, and since when.
        self._unserved: dict[GroupVersionKind, float] = {}
        # CRs whose reconcile ended in a RecursionError that has been told.
        self._too_deep: set[Request] = set()
        # Whose last run took long enough to be announced.
        self._slow: set[Request] = set()
        # Kinds whose status takes no observedGeneration.
        self._unobserved: set[GroupVersionKind] = set()
        # Kinds whose conditions must have a reason.
        self._strict: set[GroupVersionKind] = set()

    async def reconcile(self, request: Request) -> Result:
        """One turn. Raises Retry where it should be tried again with backoff."""
        try:
            result = await self._turn(request)
            self._too_deep.discard(request)
            return result
        except KubeError as error:
            raise Retry(str(error)) from error
        except RecursionError:
            # Its traceback is a thousand lines that say the same.
            if request not in self._too_deep:
                self._too_deep.add(request)
                logger.error("The CR, or something beside it, is nested too deeply to be worked on", extra=request.fields)
            logger.debug("Nested too deeply", extra=request.fields, exc_info=True)
            raise Retry("nested too deeply") from None
        finally:
            # What was told meanwhile may be older than what this turn has written; the next one reads the CR itself.
            self._with.pop_waiting(request)

    async def plan(self, request: Request, resource: Resource, obj: Object, *, finalizing: bool = False) -> Plan:
        """What a run of the CR would change, if it was as `obj` has it. Nothing is written. Raises KubeError."""
        plan = Plan(request.fields, DryRun(cr=obj, path=resource.path(request.key)))
        watch, _ = for_cr(request.watch, obj)
        turn = Turn(request, watch, resource, Owner(watch.gvk, request.key, obj["metadata"]["uid"]), Phases(), plan=plan)
        try:
            turn = _sized(turn, obj)
            wrong = [] if finalizing else await self._wrong(turn, obj)
            plan.outcome = Outcome(messages=tuple(wrong)) if wrong else await self._run(turn, obj, finalizing=finalizing)
        except parameters.Unusable as error:
            plan.outcome = Outcome(messages=(str(error),))
        return plan

    async def clear_up(self, request: Request) -> None:
        """Remove what is kept of a CR, if it is gone; not more than an attempt."""
        with contextlib.suppress(KubeError):
            resource = await self._with.discovery.by_kind(request.watch.gvk)
            try:
                if resource is not None:
                    await self._with.client.get(resource.path(request.key))
            except NotFound as error:
                if _is_of_object(error, request):
                    await asyncio.to_thread(self._with.folders.remove, _folder_parts(request))

    async def _turn(self, request: Request) -> Result:
        phases = Phases()
        cause = self._with.pop_cause(request)
        if cause:
            # Whatever becomes of this reconcile: what is to be done is another run.
            self._unwritten.pop(request, None)
        gvk = request.watch.gvk
        resource = await self._with.discovery.by_kind(gvk)
        if resource is None:
            # The kind was taken away, and its CRs with it; or the API server is about to serve it.
            since = self._unserved.setdefault(gvk, monotonic())
            if monotonic() - since < _KIND_GONE_AFTER:
                raise Retry("the API server does not serve the kind")
            return await self._gone(request, None)
        self._unserved.pop(gvk, None)
        told = self._with.pop_waiting(request)
        try:
            # The items of a list say nothing of their kind.
            kind = {"apiVersion": gvk.api_version, "kind": gvk.kind}
            obj = {**kind, **told} if told else await self._with.client.get(resource.path(request.key))
        except NotFound as error:
            self._with.discovery.forget(gvk)
            if not _is_of_object(error, request):
                raise Retry(str(error)) from error
            return await self._gone(request, None)
        if not request.watch.selector.matches(obj):
            # It was chosen when it was queued.
            logger.debug("Left out by the watch's selector", extra=request.fields)
            return Result()
        watch, problems = for_cr(request.watch, obj)
        phases.over("read")
        turn = Turn(request, watch, resource, Owner(watch.gvk, request.key, obj["metadata"]["uid"]), phases, cause=cause)
        decision = gate(obj, watch)
        if decision is Gate.STOP:
            logger.debug("Going, without a finalizer of this watch", extra=request.fields)
            return Result()
        try:
            turn = _sized(turn, obj)
            if is_dry_run(watch, obj):
                return await self._rehearse(turn, obj, finalizing=decision is Gate.FINALIZE)
            if decision is not Gate.FINALIZE and (wrong := await self._wrong(turn, obj)):
                return await self._refuse(turn, obj, wrong)
            return await self._played(turn, obj, problems, decision)
        except parameters.Unusable as error:
            return await self._refuse(turn, obj, [str(error)])

    async def _played(self, turn: Turn, obj: dict[str, Any], problems: Sequence[str], decision: Gate) -> Result:
        """Run what the CR asks for, if its last run does not stand for that, and write down what came of it."""
        request, watch = turn.request, turn.watch
        finalizing = decision is Gate.FINALIZE
        unwritten = self._unwritten.pop(request, None)
        if unwritten is not None and unwritten.stands_for(obj, watch, finalizing=finalizing):
            logger.info("The run has succeeded before; its status is written", extra=request.fields)
            return await self._concluded(turn, unwritten, obj)
        if decision is Gate.ADD_FINALIZER:
            name = _finalizer_name(watch)
            changed = await self._set_finalizers(turn, obj, lambda names: [*names, name] if name not in names else names)
            if changed is None:
                return await self._gone(request, turn.owner.uid)
            obj = changed
        for problem in problems:
            await self._warn_once(turn, "BadAnnotation", problem)
        with metrics.reconciling(str(watch.gvk)):
            if watch.manage_status:
                outcome, current = await self._run_announced(turn, obj, finalizing=finalizing)
            else:
                outcome, current = await self._run(turn, obj, finalizing=finalizing), obj
        metrics.reconciled(str(watch.gvk), succeeded=outcome.succeeded)
        return await self._concluded(turn, Unwritten(obj, outcome, finalizing), current)

    async def _concluded(self, turn: Turn, run: Unwritten, current: dict[str, Any]) -> Result:
        """`_conclude`; a run that succeeded is kept until its CR says so, and not done again for want of that."""
        if run.outcome.succeeded:
            self._unwritten[turn.request] = run
        result = await self._conclude(turn, run.begun, current, run.outcome, finalizing=run.finalizing)
        self._unwritten.pop(turn.request, None)
        return result

    async def _run_announced(self, turn: Turn, obj: dict[str, Any], *, finalizing: bool) -> tuple[Outcome, dict[str, Any]]:
        """Run, and have the CR say that it is being run, if that takes long enough to be seen. The CR as it is known then.

        To its role the CR says so from the beginning. Where the last run took so long, it is said beforehand: a role that
        updates its own CR should not find it changed meanwhile.
        """
        if turn.request in self._slow:
            obj = await self._mark(turn, obj, conditions.mark_running) or obj
        # Most runs are over before, and need no task of their own for this.
        announcing: list[asyncio.Task[dict[str, Any] | None]] = []
        timer = asyncio.get_running_loop().call_later(
            _ANNOUNCE_AFTER, lambda: announcing.append(asyncio.create_task(self._announce(turn, obj)))
        )

        async def announced() -> dict[str, Any] | None:
            timer.cancel()
            if not announcing:
                self._slow.discard(turn.request)
            return await announcing[0] if announcing else None

        try:
            marked = {**obj, "status": conditions.mark_running(_status(obj), datetime.now(UTC))}
            outcome = await self._run(turn, marked, finalizing=finalizing)
        except asyncio.CancelledError:
            await announced()
            await self._last_word(turn)
            raise
        finally:
            marked_meanwhile = await announced()
        return outcome, marked_meanwhile or obj

    async def _announce(self, turn: Turn, obj: Object) -> dict[str, Any] | None:
        """The CR with the status that was written; None if that was not to be."""
        self._slow.add(turn.request)
        try:
            return await self._mark(turn, obj, conditions.mark_running)
        except (KubeError, Retry) as error:
            # There will be more to say, and another attempt, when the run is over.
            logger.debug("The CR does not say that it is being run", extra={**turn.request.fields, "error": str(error)})
            return None

    async def _rehearse(self, turn: Turn, obj: Object, *, finalizing: bool) -> Result:
        """The CR wants a dry run: an Event says what came of it, and the conditions that it was none but that."""
        plan = await self.plan(turn.request, turn.resource, obj, finalizing=finalizing)
        logger.info("Plan", extra={"event": RunnerEvent.DRY_RUN_RESULT, **turn.request.fields, "output": plan.text()})
        await self._events.post(turn.owner, type="Normal", action="Plan", reason="Plan", note=plan.note())
        if turn.watch.manage_status:
            await self._mark(turn, obj, lambda status, now: conditions.mark_dry_run(status, plan.failure, now))
        return Result(requeue_after=turn.watch.reconcile_period)

    async def _gone(self, request: Request, uid: str | None) -> Result:
        """Clear up after a CR, which had this uid if one was seen. One of the same name has a reconcile of its own."""
        self._with.forget(request, uid)
        self._said.pop(request, None)
        self._unwritten.pop(request, None)
        self._slow.discard(request)
        self._too_deep.discard(request)
        await asyncio.to_thread(self._with.folders.remove, _folder_parts(request))
        logger.info("The CR is gone", extra={"event": RunnerEvent.CR_GONE, **request.fields})
        return Result()

    async def _wrong(self, turn: Turn, obj: Object) -> list[str]:
        """What the CR says against the argument specs of what it would run, in the CR's own names."""
        watch, spec = turn.watch, obj.get("spec")
        check = functools.partial(
            self._arguments.problems,
            role=watch.content.role,
            playbook=watch.content.playbook,
            given=spec if isinstance(spec, Mapping) else {},
            others=(*watch.vars, *parameters.own_variables(watch.gvk)),
            keys_of=functools.partial(parameters.fields_by_variable, snake_case=watch.snake_case_parameters),
            templates=not watch.mark_unsafe,
            complete=not self._with.ansible_args,
        )
        return await asyncio.to_thread(check) if turn.is_big else check()

    async def _refuse(self, turn: Turn, obj: Object, wrong: list[str]) -> Result:
        """Nothing is run for a CR that cannot be right before it is changed; only the periodic pass looks again."""
        message = "\n".join(wrong)
        metrics.reconciled(str(turn.watch.gvk), succeeded=False)
        if turn.watch.manage_status:
            await self._mark(turn, obj, lambda status, now: conditions.mark_failed(status, message, None, now), observed=obj)
        await self._warn_once(turn, "InvalidSpec", message)
        self._keep_notes(turn)
        return Result(requeue_after=turn.watch.reconcile_period)

    async def _run(self, turn: Turn, obj: Object, *, finalizing: bool) -> Outcome:
        """Run what the watch says. Where no run came about, the outcome says so."""
        request, watch = turn.request, turn.watch
        content, variables = _content(watch, finalizing=finalizing)
        build = functools.partial(
            parameters.build,
            gvk=watch.gvk,
            obj=obj,
            watch_vars=variables,
            snake_case=watch.snake_case_parameters,
            mark_unsafe=watch.mark_unsafe,
        )
        built = await asyncio.to_thread(build) if turn.is_big else build()
        if built.dropped:
            await self._warn_once(
                turn,
                "ReservedVariable",
                f"Not passed to the role, as Ansible would take them as its own variables: {', '.join(built.dropped)}",
            )
        ident = uuid.uuid4().hex[:16]
        try:
            outcome = await self._run_job(turn, ident, content, built)
        except ExecutorError as error:
            logger.error("The run came to nothing", extra={**request.fields, "job": ident, "error": str(error)})
            outcome = Outcome(messages=(str(error),))
        except OSError as error:
            # A full disk, no more processes: the CR says so, and it is tried again.
            said = f"The run could not be made: {error}"
            logger.error("The run came to nothing", extra={**request.fields, "job": ident, "error": said})
            outcome = Outcome(messages=(said,))
        except asyncio.CancelledError:
            logger.warning("The run was ended", extra={**request.fields, "job": ident})
            raise
        if turn.plan:
            message, event = "Planned", RunnerEvent.DRY_RUN_ENDED
        elif outcome.succeeded:
            message, event = "Run succeeded", RunnerEvent.RUN_SUCCEEDED
        else:
            message, event = "Run failed", RunnerEvent.RUN_FAILED
        logger.info(
            message,
            extra={
                "event": event,
                **request.fields,
                "job": ident,
                "ok": outcome.ok,
                "changed": outcome.changed,
                "skipped": outcome.skipped,
                "failures": outcome.failures,
            },
        )
        return outcome

    async def _run_job(self, turn: Turn, ident: str, content: Content, built: parameters.Parameters) -> Outcome:
        """Run with a session and a folder that live as long. Raises ExecutorError, and OSError if there is no room."""
        request, watch = turn.request, turn.watch
        folder = self._with.folders.folder(_folder_parts(request))
        async with contextlib.AsyncExitStack() as stack:
            on_write = stack.enter_context(self._with.own_writes.of_run(request))
            token = stack.enter_context(self._with.sessions.opened(self._session(turn, on_write)))
            private = await stack.enter_async_context(_run_folder(self._with.folders.running))
            for_go, for_python = kubeconfigs(token, port=self._with.proxy_port, namespace=request.key.namespace)
            # Where a CR may bring templates, it may bring code.
            shares_worker = self._with.shares_workers and watch.mark_unsafe and not turn.plan
            job = Job(
                ident=ident,
                folder=folder,
                scratch=private / _SCRATCH,
                role=content.role,
                playbook=content.playbook,
                data=built.data,
                extra_vars=built.extra_vars,
                is_big=turn.is_big,
                environment={
                    "KUBECONFIG": _written(private / _FOR_GO, for_go),
                    "K8S_AUTH_KUBECONFIG": _written(private / _FOR_PYTHON, for_python),
                    # kubectl's, which it names by the server's URL, and so by the token.
                    "KUBECACHEDIR": str(private / "cache"),
                },
                # From 1 on Ansible says why it skips a task.
                verbosity=max(watch.verbosity, 1) if turn.plan else watch.verbosity,
                arguments=self._with.ansible_args,
                max_artifacts=watch.max_runner_artifacts if self._with.run_artifacts else None,
                check=turn.plan is not None,
                pool=f"{watch.gvk} {content.path}" if shares_worker else "",
                # Clients put the server's URL into their errors, and the token with it; some send it by the other name.
                secrets=(token, basic_authorization(token)),
                names=(watch.gvk.group, watch.gvk.version, watch.gvk.kind, request.key.namespace, request.key.name),
            )
            about = {"job": ident, "content": str(content.path), **({"cause": turn.cause} if turn.cause else {})}
            event = RunnerEvent.DRY_RUN_STARTED if turn.plan else RunnerEvent.RUN_STARTED
            logger.info("Planning" if turn.plan else "Running", extra={"event": event, **request.fields, **about})
            return await self._followed(job, turn, RunLog(request, self._with.log_events))

    async def _followed(self, job: Job, turn: Turn, run_log: RunLog) -> Outcome:
        """Run the job to its end, or to the end of its time. Raises ExecutorError."""
        folded, loops, places = Fold(), Loops(), Places()
        printed: deque[str] = deque(maxlen=_PRINTED_KEPT)
        end_of_telling = self._tell_of_length(job, turn, folded)
        try:
            async with (
                asyncio.timeout(turn.watch.timeout) as deadline,
                contextlib.aclosing(self._with.execute(job)) as running,
            ):
                first = True
                async for told in running:
                    event = loops.joined(told)
                    if is_to_be_explained(event):
                        event = await asyncio.to_thread(explained, event) if _is_long(event) else explained(event)
                    if first:
                        turn.phases.over("start")
                        first = False
                    if event.event == "playbook_on_stats":
                        turn.phases.over("tasks")
                    run_log.add(event)
                    folded.add(event)
                    places.add(event)
                    if turn.plan:
                        turn.plan.add(event)
                    if self._with.debug_logs and event.printed:
                        printed.append(event.printed)
            turn.phases.over("end")
            self._broken_conditionals.warn(job.role or job.playbook or job.folder, turn.request, places)
            return folded.outcome()
        except TimeoutError:
            if not deadline.expired():
                raise
            at = f", in task {folded.task!r}" if folded.task else ""
            raise ExecutorError(f"The run was ended at its timeout of {turn.watch.timeout:g} s{at}") from None
        finally:
            end_of_telling()
            if self._with.debug_logs:
                run_log.add_output(printed)

    def _tell_of_length(self, job: Job, turn: Turn, folded: Fold) -> Callable[[], None]:
        """Warn of a run that goes on and on, as it holds one of the places for runs, until what this returns is called."""
        loop, begun = asyncio.get_running_loop(), monotonic()
        timer: asyncio.TimerHandle

        def tell() -> None:
            nonlocal timer
            fields = {"job": job.ident, "task": folded.task, "seconds": round(monotonic() - begun)}
            remedy = "set `timeout` for its kind in watches.yaml to have such a run ended" if not turn.watch.timeout else ""
            logger.warning("A run takes very long", extra={**turn.request.fields, **fields, "remedy": remedy})
            timer = loop.call_later(self._with.long_run, tell)

        timer = loop.call_later(self._with.long_run, tell)
        return lambda: timer.cancel()

    def _session(self, turn: Turn, on_write: OnWrite) -> Session:
        watch, owner = turn.watch, turn.owner

        def notice(resource: Resource, obj: Object) -> None:
            if is_watched_dependent(watch, resource.gvk, namespaced=resource.namespaced, owner=owner.key):
                self._with.on_dependent(resource, obj)

        def write(uid: str, before: str | None, version: str) -> None:
            turn.written.add(uid)
            on_write(uid, before, version)

        return Session(
            owner=owner,
            inject_owner=self._with.inject_owner_ref,
            on_dependent=notice,
            on_write=write,
            blacklist=watch.blacklist,
            dry_run=turn.plan.dry_run if turn.plan else None,
        )

    async def _conclude(
        self, turn: Turn, begun: Object, current: dict[str, Any], outcome: Outcome, *, finalizing: bool
    ) -> Result:
        """Write down what came of a run that was `begun` on this state of the CR; `current` is the last that is known."""
        request, watch = turn.request, turn.watch
        obj: dict[str, Any] | None = None
        if watch.manage_status and not finalizing and turn.owner.uid not in turn.written:
            # Most runs leave their CR alone, and nobody else has touched it: then there is no need to read it anew.
            obj = await self._mark(turn, current, _done(outcome), observed=begun)
        if obj is None:
            obj = await self._read(turn)
            if obj is None:
                return await self._gone(request, turn.owner.uid)
            if finalizing and outcome.succeeded:
                name = _finalizer_name(watch)
                await self._set_finalizers(turn, obj, lambda names: [item for item in names if item != name])
                return Result()
            if watch.manage_status:
                await self._mark(turn, obj, _done(outcome), observed=begun)
        turn.phases.over("status")
        if not outcome.succeeded:
            note = "\n".join(outcome.reports or outcome.messages)
            await self._events.warn(turn.owner, reason="RunFailed", note=note)
            raise Retry("the run failed")
        if is_deleting(obj) and not finalizing:
            return Result(requeue_after=_FINALIZE_AFTER, requested=True)
        period: float | None = None
        if outcome.requeue_after is not None:
            try:
                period = parse_duration(str(outcome.requeue_after))
            except ValueError as error:
                await self._warn_once(turn, "BadPeriod", f"The period that requeue_after gave cannot be used: {error}")
        self._keep_notes(turn)
        return Result(requeue_after=watch.reconcile_period) if period is None else Result(period, requested=True)

    async def _read(self, turn: Turn) -> dict[str, Any] | None:
        """The CR of this reconcile as it is now; None if it is gone, also if another has taken its name."""
        try:
            obj = await self._with.client.get(turn.resource.path(turn.request.key))
        except NotFound as error:
            if not _is_of_object(error, turn.request):
                raise Retry(str(error)) from error
            return None
        return obj if obj["metadata"].get("uid") == turn.owner.uid else None

    async def _set_finalizers(
        self, turn: Turn, obj: dict[str, Any], change: Callable[[list[str]], list[str]]
    ) -> dict[str, Any] | None:
        """The CR with its finalizers changed; None if it is gone. Raises Retry if others write it again and again."""
        backoff = _write_backoff()
        for _ in range(_WRITE_TRIES):
            names = change(finalizers(obj))
            if names == finalizers(obj):
                return obj
            # Of another CR of this name the server says that the precondition failed.
            preconditions = {"uid": turn.owner.uid, "resourceVersion": obj["metadata"]["resourceVersion"]}
            try:
                body = {"metadata": {"finalizers": names, **preconditions}}
                return await self._with.client.patch(turn.resource.path(turn.request.key), body)
            except NotFound:
                return await self._read(turn)
            except (Conflict, Invalid) as error:
                await backoff.pause()
                again = await self._read(turn)
                if again is None:
                    return None
                if isinstance(error, Invalid) and again["metadata"]["resourceVersion"] == preconditions["resourceVersion"]:
                    # Nobody has changed it: the server does not want the finalizer.
                    raise
                obj = again
        raise Retry("the finalizers were written by others at the same time, again and again")

    async def _mark(
        self,
        turn: Turn,
        obj: Object,
        mark: Mark,
        *,
        observed: Object | None = None,
    ) -> dict[str, Any] | None:
        """Write the status that `mark` makes of the CR's, and return the CR; None if the CR is gone or has none to write.

        Written only if it changes something. On a conflict the CR is read anew, so that what the role or a person wrote
        meanwhile stays. The generation of `observed` is written as well, where the CRD has a place for it, and a reason in
        each condition, where the CRD wants one. What its schema refuses all the same is told, and as good as written.
        """
        gvk = turn.watch.gvk
        if not turn.resource.has_status:
            await self._warn_once(
                turn, "NoStatus", "The CRD has no status subresource, so conditions cannot be written; add one to it"
            )
            return None
        path = turn.resource.path(turn.request.key)
        conflicts, backoff = 0, _write_backoff()
        while conflicts < _WRITE_TRIES:
            before = _status(obj)
            status = mark(conditions.without_reasons(before), datetime.now(UTC))
            if gvk in self._strict:
                status = conditions.with_reasons(status)
            generation = observed["metadata"].get("generation") if observed and gvk not in self._unobserved else None
            if generation is not None:
                status = {**status, "observedGeneration": generation}
            if status == before:
                return dict(obj)
            try:
                # With its uid and its resourceVersion: another's write, and another CR of this name, are conflicts.
                written = await self._with.client.put(path + "/status", {**obj, "status": status})
            except NotFound:
                return None
            except Conflict:
                await backoff.pause()
                conflicts += 1
                again = await self._read(turn)
                if again is None:
                    return None
                obj = again
                continue
            except Invalid as error:
                if self._learned(gvk, str(error), status, observes=generation is not None):
                    continue
                note = f"The CRD's schema refuses the status of a run: {error}"
                await self._warn_once(turn, "StatusRefused", note, about="schema")
                return dict(obj)
            except Refused as error:
                await self._warn_once(turn, "StatusRefused", f"The status cannot be written: {error}", about="rights")
                raise
            if generation is not None and "observedGeneration" not in (written.get("status") or {}):
                # The server drops what the CRD does not know.
                self._unobserved.add(gvk)
            return written
        raise Retry("the status was written by others at the same time, again and again")

    def _learned(self, gvk: GroupVersionKind, refusal: str, status: Mapping[str, Any], *, observes: bool) -> bool:
        """Whether something is known now of the kind's schema by which a status that it refused can be mended."""
        # The place of observedGeneration may be another's, of another type.
        can_leave_out = observes and gvk not in self._unobserved
        can_fill = gvk not in self._strict and conditions.with_reasons(status) != status
        # The server names the fields; a validation rule's message need not.
        named = [name for name in ("observedGeneration", "conditions") if f"status.{name}" in refusal]
        if can_fill and (not named or "conditions" in named):
            self._strict.add(gvk)
            return True
        if can_leave_out and (not named or "observedGeneration" in named):
            self._unobserved.add(gvk)
            return True
        return False

    async def _last_word(self, turn: Turn) -> None:
        """The run is being cut short: the CR says so, if that can be done at once."""
        try:
            async with asyncio.timeout(_LAST_WORD):
                obj = await self._read(turn)
                if obj is not None:
                    await self._mark(turn, obj, lambda status, now: conditions.mark_failed(status, INTERRUPTED, None, now))
        except (KubeError, Retry, TimeoutError) as error:
            logger.warning("The CR does not say that its run was ended", extra={**turn.request.fields, "error": str(error)})

    async def _warn_once(self, turn: Turn, reason: str, note: str, *, about: str = "") -> None:
        """Log a note on the CR, and post it as an Event, unless that was done and the CR has had it in each run since.

        `about`: what it is about, if its words differ from time to time.
        """
        note = cut(note, _NOTE_LIMIT)
        said, key = self._said.setdefault(turn.request, {}), hash((reason, about or note))
        turn.notes.add(key)
        if key in said:
            return
        said[key] = None
        if len(said) > _NOTES:
            del said[next(iter(said))]
        logger.warning(note, extra=turn.request.fields)
        if turn.plan is None:
            await self._events.warn(turn.owner, reason=reason, note=note)

    def _keep_notes(self, turn: Turn) -> None:
        """After a whole reconcile: what it had no cause to say would be news if it came again."""
        said = {key: None for key in self._said.get(turn.request, ()) if key in turn.notes}
        if said:
            self._said[turn.request] = said
        else:
            self._said.pop(turn.request, None)


class Phases:
    """A watch over how long the parts of a turn take."""

    def __init__(self) -> None:
        self._since = monotonic()

    def over(self, name: str) -> None:
        now = monotonic()
        metrics.phase(name, now - self._since)
        self._since = now


@dataclass(frozen=True, slots=True)
class Turn:
    """What stays the same through one turn."""

    request: Request
    # The request's, as the CR's annotations want it.
    watch: Watch
    resource: Resource
    owner: Owner
    phases: Phases
    # The uids of what its run has written.
    written: set[str] = field(default_factory=set)
    # What becomes of it, if it is a dry run.
    plan: Plan | None = None
    # What has happened that it is for; empty for a retry and the periodic pass.
    cause: str = ""
    # Whether work on the whole CR is for a thread.
    is_big: bool = False
    # Hashes of what there was to say about the CR.
    notes: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Unwritten:
    """A run that is over, with the CR as it was begun on, while the CR does not say what came of it."""

    begun: dict[str, Any]
    outcome: Outcome
    finalizing: bool
    at: float = field(default_factory=monotonic)

    def stands_for(self, obj: Object, watch: Watch, *, finalizing: bool) -> bool:
        """Whether a run of `obj` would be the same again, and not one that the period asks for."""
        if watch.reconcile_period and monotonic() - self.at > watch.reconcile_period:
            return False
        return self.finalizing == finalizing and _asked(self.begun) == _asked(obj)


def _asked(obj: Object) -> tuple[Any, ...]:
    """What of a CR a run is made for."""
    metadata = obj["metadata"]
    asked = {name: value for name, value in obj.items() if name not in ("metadata", "status")}
    return metadata.get("uid"), metadata.get("generation"), annotations_of(obj), is_deleting(obj), asked


def _content(watch: Watch, *, finalizing: bool) -> tuple[Content, Mapping[str, Any]]:
    """What to run, and with which of the watch's variables."""
    if not finalizing or watch.finalizer is None:
        return watch.content, watch.vars
    return watch.finalizer.content or watch.content, {**watch.vars, **watch.finalizer.vars}


def _finalizer_name(watch: Watch) -> str:
    assert watch.finalizer is not None
    return watch.finalizer.name


def _status(obj: Object) -> Mapping[str, Any] | None:
    status = obj.get("status")
    return status if isinstance(status, Mapping) else None


def _done(outcome: Outcome) -> Mark:
    """What a run's outcome makes of a status, whether that has said that it is being run or not."""

    def mark(status: Mapping[str, Any] | None, now: datetime) -> dict[str, Any]:
        status = conditions.mark_running(status, now)
        result = conditions.AnsibleResult(
            ok=outcome.ok,
            changed=outcome.changed,
            skipped=outcome.skipped,
            failures=outcome.failures,
            completion=outcome.completion or now.isoformat(timespec="microseconds"),
        )
        if outcome.succeeded:
            return conditions.mark_succeeded(status, result, now)
        return conditions.mark_failed(status, "\n".join(outcome.messages), result, now)

    return mark


def _folder_parts(request: Request) -> tuple[str, ...]:
    gvk, key = request.watch.gvk, request.key
    return (gvk.group, gvk.version, gvk.kind, key.namespace, key.name)


def _write_backoff() -> Backoff:
    """Before a write is tried again, for a time that is never as long as somebody else's."""
    return Backoff(_WRITE_PAUSE, jitter=0.5)


def _is_of_object(error: NotFound, request: Request) -> bool:
    """Whether the CR was not found, and not its path, of which a proxy or a server that is starting says so as well."""
    return f'"{request.key.name}" not found' in str(error)


def _sized(turn: Turn, obj: Object) -> Turn:
    """The reconcile of a CR that is of a size to be run at all. Raises Unusable."""
    parameters.check_size(obj)
    return replace(turn, is_big=len(encode(obj, default=str)) > _BIG)


def _is_long(event: JobEvent) -> bool:
    message = event.result.get("msg")
    return len(event.stdout) > _BIG or (isinstance(message, str) and len(message) > _BIG)


def _made(folder: Path) -> Path:
    private = folder / f"run-{uuid.uuid4().hex[:8]}"
    try:
        os.mkdir(private, 0o700)
    except FileNotFoundError:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.mkdir(private, 0o700)
    return private


@contextlib.asynccontextmanager
async def _run_folder(folder: Path) -> AsyncIterator[Path]:
    """A folder that lives as long as the run, for the runner's own user alone."""
    private = _made(folder)
    try:
        yield private
    finally:
        if not _removed(private):
            # What a run may have left there is for it to say; a thread goes on with it also when this is cancelled.
            await asyncio.to_thread(shutil.rmtree, private, ignore_errors=True)


def _removed(private: Path) -> bool:
    """Remove the folder of a run that has left nothing there beside its own inputs; whether it was one."""
    folder = str(private)
    try:
        for name in (_FOR_GO, _FOR_PYTHON):
            if os.lstat(f"{folder}/{name}").st_size > _BIG:
                return False
            os.unlink(f"{folder}/{name}")
        os.rmdir(f"{folder}/{_SCRATCH}")
        os.rmdir(folder)
    except OSError:
        return False
    return True


def _written(path: Path, text: str) -> str:
    write_private(path, text, new=True)
    return str(path)
