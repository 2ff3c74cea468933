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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from time import monotonic
from typing import Any

from runner import metrics
from runner.control import Request, Result, Retry
from runner.control.broken_conditionals import BrokenConditionals
from runner.control.echoes import Echoes
from runner.control.failures import explained
from runner.control.handlers import wants
from runner.control.narrator import Narrator
from runner.control.plan import Plan
from runner.executor.arguments import Arguments
from runner.executor.artifacts import RunFolders
from runner.executor.jobs import Execute, ExecutorError, Job, JobEvent, Loops, Outcome, fold
from runner.kube import events
from runner.kube.client import ApiClient, Conflict, Invalid, KubeError, NotFound
from runner.kube.discovery import Discovery, Resource
from runner.proxy.rehearsal import Rehearsal
from runner.proxy.sessions import OnDependent, OnWrite, Session, Sessions, basic_authorization, kubeconfigs
from runner.resource import conditions, parameters
from runner.resource.metadata import (
    GroupVersionKind,
    Object,
    Owner,
    finalizers,
    is_deleting,
    parse_duration,
)
from runner.settings import LogEvents
from runner.watches import Content, Watch, for_cr, is_dry_run

logger = logging.getLogger(__name__)

# How often a status is tried against others' writes before the turn is left to the backoff.
_STATUS_TRIES = 5
# Seconds: how soon a CR that was deleted during its run is finalized; how long a last word may take at shutdown.
_FINALIZE_AFTER = 5.0
_LAST_WORD = 5.0

# Seconds; what is over sooner is not worth a write of its own, which would cost about as much as the run.
_ANNOUNCE_AFTER = 0.5

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
    echoes: Echoes
    forget: Callable[[Request], None]
    # Gives the CR as its watch has just told it, if it has.
    take: Callable[[Request], Object | None]
    proxy_port: int
    ansible_args: str = ""
    inject_owner_ref: bool = True
    run_artifacts: bool = True
    log_events: LogEvents = LogEvents.TASKS
    debug_logs: bool = False


class Reconciler:
    def __init__(self, surroundings: Surroundings) -> None:
        self._with = surroundings
        self._arguments = Arguments()
        self._broken_conditionals = BrokenConditionals()
        # What has been said about a CR and need not be said at every run.
        self._said: dict[Request, set[str]] = {}
        # Whose last run took long enough to be announced.
        self._slow: set[Request] = set()
        # Kinds whose status takes no observedGeneration.
        self._unobserved: set[GroupVersionKind] = set()

    async def reconcile(self, request: Request) -> Result:
        """One turn. Raises Retry where it should be tried again with backoff."""
        try:
            return await self._turn(request)
        except KubeError as error:
            raise Retry(str(error)) from error
        finally:
            # What was told meanwhile may be older than what this turn has written; the next one reads the CR itself.
            self._with.take(request)

    async def plan(self, request: Request, resource: Resource, obj: Object, *, finalizing: bool = False) -> Plan:
        """What a run of the CR would change, if it was as `obj` has it. Nothing is written. Raises KubeError."""
        plan = Plan(request.fields, Rehearsal(cr=obj, path=resource.path(request.key)))
        watch, _ = for_cr(request.watch, obj)
        turn = Turn(request, watch, resource, Owner(watch.gvk, request.key, obj["metadata"]["uid"]), Phases(), plan=plan)
        wrong = [] if finalizing else self._wrong(turn, obj)
        plan.outcome = Outcome(messages=tuple(wrong)) if wrong else await self._run(turn, obj, finalizing=finalizing)
        return plan

    async def clear_up(self, request: Request) -> None:
        """Remove what is kept of a CR, if it is gone; not more than an attempt."""
        with contextlib.suppress(KubeError):
            resource = await self._with.discovery.by_kind(request.watch.gvk)
            try:
                if resource is not None:
                    await self._with.client.get(resource.path(request.key))
                    return
            except NotFound:
                pass
            self._with.folders.remove(_folder_parts(request))

    async def _turn(self, request: Request) -> Result:
        phases = Phases()
        resource = await self._with.discovery.by_kind(request.watch.gvk)
        if resource is None:
            # The kind was taken away, and its CRs with it.
            return self._gone(request)
        try:
            told = self._with.take(request)
            # The items of a list say nothing of their kind.
            kind = {"apiVersion": request.watch.gvk.api_version, "kind": request.watch.gvk.kind}
            obj = {**kind, **told} if told else await self._with.client.get(resource.path(request.key))
        except NotFound:
            self._with.discovery.forget(request.watch.gvk)
            return self._gone(request)
        watch, problems = for_cr(request.watch, obj)
        phases.over("read")
        turn = Turn(request, watch, resource, Owner(watch.gvk, request.key, obj["metadata"]["uid"]), phases)
        decision = gate(obj, watch)
        if decision is Gate.STOP:
            logger.debug("Going, without a finalizer of this watch", extra=request.fields)
            return Result()
        if is_dry_run(obj):
            return await self._rehearse(turn, obj, finalizing=decision is Gate.FINALIZE)
        if decision is not Gate.FINALIZE and (wrong := self._wrong(turn, obj)):
            return await self._refuse(turn, obj, wrong)
        if decision is Gate.ADD_FINALIZER:
            obj = await self._set_finalizers(turn, obj, [*finalizers(obj), _finalizer_name(watch)])
        for problem in problems:
            await self._warn_once(turn, "BadAnnotation", problem)
        finalizing = decision is Gate.FINALIZE
        with metrics.reconciling(str(watch.gvk)):
            if watch.manage_status:
                outcome, current = await self._run_announced(turn, obj, finalizing=finalizing)
            else:
                outcome, current = await self._run(turn, obj, finalizing=finalizing), obj
        return await self._conclude(turn, obj, current, outcome, finalizing=finalizing)

    async def _run_announced(self, turn: Turn, obj: dict[str, Any], *, finalizing: bool) -> tuple[Outcome, dict[str, Any]]:
        """Run, and have the CR say that it is being run, if that takes long enough to be seen. The CR as it is known then.

        To its role the CR says so from the beginning. Where the last run took so long, it is said beforehand: a role that
        updates its own CR should not find it changed meanwhile.
        """
        if turn.request in self._slow:
            obj = await self._mark(turn, obj, conditions.mark_running) or obj
        over = asyncio.Event()
        announcing = asyncio.create_task(self._announce(turn, obj, over))
        try:
            marked = {**obj, "status": conditions.mark_running(_status(obj), datetime.now(UTC))}
            outcome = await self._run(turn, marked, finalizing=finalizing)
        except asyncio.CancelledError:
            over.set()
            await announcing
            await self._last_word(turn)
            raise
        finally:
            over.set()
            announced = await announcing
        return outcome, announced or obj

    async def _announce(self, turn: Turn, obj: Object, over: asyncio.Event) -> dict[str, Any] | None:
        """The CR with the status that was written, if the run was not over before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANNOUNCE_AFTER):
                await over.wait()
            self._slow.discard(turn.request)
            return None
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
        logger.info("Plan", extra={**turn.request.fields, "output": plan.text()})
        await events.post(self._with.client, turn.owner, type="Normal", action="Plan", reason="Plan", note=plan.note())
        if turn.watch.manage_status:
            await self._mark(turn, obj, lambda status, now: conditions.mark_rehearsed(status, plan.failure, now))
        return Result(requeue_after=turn.watch.reconcile_period)

    def _gone(self, request: Request) -> Result:
        self._with.forget(request)
        self._said.pop(request, None)
        self._slow.discard(request)
        self._with.folders.remove(_folder_parts(request))
        logger.info("The CR is gone", extra=request.fields)
        return Result()

    def _wrong(self, turn: Turn, obj: Object) -> list[str]:
        """What the CR says against the argument specs of what it would run, in the CR's own names."""
        watch, spec = turn.watch, obj.get("spec")
        return self._arguments.problems(
            role=watch.content.role,
            playbook=watch.content.playbook,
            given=spec if isinstance(spec, Mapping) else {},
            others=(*watch.vars, *parameters.own_variables(watch.gvk)),
            key_of=functools.partial(parameters.field_of, snake_case=watch.snake_case_parameters),
            templates=not watch.mark_unsafe,
            complete=not self._with.ansible_args,
        )

    async def _refuse(self, turn: Turn, obj: Object, wrong: list[str]) -> Result:
        """Nothing is run for a CR that cannot be right before it is changed; only the periodic pass looks again."""
        message = "\n".join(wrong)
        metrics.reconciled(str(turn.watch.gvk), succeeded=False)
        if turn.watch.manage_status:
            await self._mark(turn, obj, lambda status, now: conditions.mark_failed(status, message, None, now), observed=obj)
        await self._warn_once(turn, "InvalidSpec", message)
        return Result(requeue_after=turn.watch.reconcile_period)

    async def _run(self, turn: Turn, obj: Object, *, finalizing: bool) -> Outcome:
        """Run what the watch says. Where no run came about, the outcome says so."""
        request, watch = turn.request, turn.watch
        content, variables = _content(watch, finalizing=finalizing)
        built = parameters.build(
            gvk=watch.gvk,
            obj=obj,
            watch_vars=variables,
            snake_case=watch.snake_case_parameters,
            mark_unsafe=watch.mark_unsafe,
        )
        if built.dropped:
            await self._warn_once(
                turn,
                "ReservedVariable",
                f"Not passed to the role, as Ansible would take them as its own variables: {', '.join(built.dropped)}",
            )
        folder = self._with.folders.folder(_folder_parts(request))
        ident = uuid.uuid4().hex[:16]
        with (
            self._with.echoes.of_run(request) as on_write,
            self._with.sessions.opened(self._session(turn, on_write)) as token,
            _run_folder(self._with.folders.running) as private,
        ):
            for_go, for_python = kubeconfigs(token, port=self._with.proxy_port, namespace=request.key.namespace)
            job = Job(
                ident=ident,
                folder=folder,
                scratch=private / "tmp",
                role=content.role,
                playbook=content.playbook,
                data=built.data,
                extra_vars=built.extra_vars,
                environment={
                    "KUBECONFIG": _written(private / "kubeconfig", for_go),
                    "K8S_AUTH_KUBECONFIG": _written(private / "kubeconfig-python", for_python),
                    # kubectl's, which it names by the server's URL, and so by the token.
                    "KUBECACHEDIR": str(private / "cache"),
                },
                # From 1 on Ansible says why it skips a task.
                verbosity=max(watch.verbosity, 1) if turn.plan else watch.verbosity,
                arguments=self._with.ansible_args,
                max_artifacts=watch.max_runner_artifacts if self._with.run_artifacts else None,
                check=turn.plan is not None,
                # Clients put the server's URL into their errors, and the token with it; some send it by the other name.
                secrets=(token, basic_authorization(token)),
                names=(watch.gvk.group, watch.gvk.version, watch.gvk.kind, request.key.namespace, request.key.name),
            )
            logger.info(
                "Planning" if turn.plan else "Running", extra={**request.fields, "job": ident, "content": str(content.path)}
            )
            try:
                outcome = await self._followed(job, turn, Narrator(request, self._with.log_events))
            except ExecutorError as error:
                logger.error("The run came to nothing", extra={**request.fields, "job": ident, "error": str(error)})
                outcome = Outcome(messages=(str(error),))
            except asyncio.CancelledError:
                logger.warning("The run was ended", extra={**request.fields, "job": ident})
                raise
        logger.info(
            "Planned" if turn.plan else "Run succeeded" if outcome.succeeded else "Run failed",
            extra={
                **request.fields,
                "job": ident,
                "ok": outcome.ok,
                "changed": outcome.changed,
                "skipped": outcome.skipped,
                "failures": outcome.failures,
            },
        )
        return outcome

    async def _followed(self, job: Job, turn: Turn, narrator: Narrator) -> Outcome:
        """Run the job to its end, or to the end of its time. Raises ExecutorError."""
        seen: list[JobEvent] = turn.plan.events if turn.plan else []
        loops = Loops()
        try:
            async with (
                asyncio.timeout(turn.watch.timeout) as deadline,
                contextlib.aclosing(self._with.execute(job)) as running,
            ):
                async for told in running:
                    event = explained(loops.joined(told))
                    if not seen:
                        turn.phases.over("start")
                    if event.event == "playbook_on_stats":
                        turn.phases.over("tasks")
                    narrator.tell(event)
                    seen.append(event)
            turn.phases.over("end")
            self._broken_conditionals.tell(job.role or job.playbook or job.folder, turn.request, seen)
            return fold(seen)
        except TimeoutError:
            if not deadline.expired():
                raise
            task = next((event.task for event in reversed(seen) if event.task), "")
            at = f", in task {task!r}" if task else ""
            raise ExecutorError(f"The run was ended at its timeout of {turn.watch.timeout:g} s{at}") from None
        finally:
            if self._with.debug_logs:
                narrator.tell_all(seen)

    def _session(self, turn: Turn, on_write: OnWrite) -> Session:
        watch, owner = turn.watch, turn.owner

        def notice(resource: Resource, obj: Object) -> None:
            if wants(watch, resource.gvk, namespaced=resource.namespaced, owner=owner.key):
                self._with.on_dependent(resource, obj)

        def write(uid: str, version: str) -> None:
            turn.written.add(uid)
            on_write(uid, version)

        return Session(
            owner=owner,
            inject_owner=self._with.inject_owner_ref,
            on_dependent=notice,
            on_write=write,
            blacklist=watch.blacklist,
            rehearsal=turn.plan.rehearsal if turn.plan else None,
        )

    async def _conclude(self, turn: Turn, begun: Object, current: Object, outcome: Outcome, *, finalizing: bool) -> Result:
        """Write down what came of a run that was `begun` on this state of the CR; `current` is the last that is known."""
        request, watch = turn.request, turn.watch
        metrics.reconciled(str(watch.gvk), succeeded=outcome.succeeded)
        obj: Object | None = None
        if watch.manage_status and not finalizing and turn.owner.uid not in turn.written:
            # Most runs leave their CR alone, and nobody else has touched it: then there is no need to read it anew.
            obj = await self._mark(turn, current, _done(outcome), observed=begun)
        if obj is None:
            try:
                obj = await self._with.client.get(turn.resource.path(request.key))
            except NotFound:
                return self._gone(request)
            if finalizing and outcome.succeeded:
                name = _finalizer_name(watch)
                await self._set_finalizers(turn, obj, [item for item in finalizers(obj) if item != name])
                return Result()
            if watch.manage_status:
                await self._mark(turn, obj, _done(outcome), observed=begun)
        turn.phases.over("status")
        if not outcome.succeeded:
            note = "\n".join(outcome.reports or outcome.messages)
            await events.warn(self._with.client, turn.owner, reason="RunFailed", note=note)
            raise Retry("the run failed")
        if is_deleting(obj) and not finalizing:
            return Result(requeue_after=_FINALIZE_AFTER, requested=True)
        if outcome.requeue_after is not None:
            try:
                return Result(requeue_after=parse_duration(str(outcome.requeue_after)), requested=True)
            except ValueError as error:
                await self._warn_once(turn, "BadPeriod", f"The period that requeue_after gave cannot be used: {error}")
        return Result(requeue_after=watch.reconcile_period)

    async def _set_finalizers(self, turn: Turn, obj: Object, names: list[str]) -> dict[str, Any]:
        metadata = {"finalizers": names, "resourceVersion": obj["metadata"]["resourceVersion"]}
        try:
            return await self._with.client.patch(turn.resource.path(turn.request.key), {"metadata": metadata})
        except NotFound:
            return dict(obj)

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
        meanwhile stays. The generation of `observed` is written as well, where the CRD has a place for it.
        """
        gvk = turn.watch.gvk
        if not turn.resource.has_status:
            await self._warn_once(
                turn, "NoStatus", "The CRD has no status subresource, so conditions cannot be written; add one to it"
            )
            return None
        path = turn.resource.path(turn.request.key)
        for _ in range(_STATUS_TRIES):
            before = _status(obj)
            status = mark(before, datetime.now(UTC))
            generation = observed["metadata"].get("generation") if observed and gvk not in self._unobserved else None
            if generation is not None:
                status = {**status, "observedGeneration": generation}
            if status == before:
                return dict(obj)
            try:
                written = await self._with.client.put(path + "/status", {**obj, "status": status})
            except NotFound:
                return None
            except Conflict:
                with contextlib.suppress(NotFound):
                    obj = await self._with.client.get(path)
                    continue
                return None
            except Invalid:
                # Its place is another's, of another type.
                if generation is None:
                    raise
                self._unobserved.add(gvk)
                continue
            if generation is not None and "observedGeneration" not in (written.get("status") or {}):
                # The server drops what the CRD does not know.
                self._unobserved.add(gvk)
            return written
        raise Retry("the status was written by others at the same time, again and again")

    async def _last_word(self, turn: Turn) -> None:
        """The run is being cut short: the CR says so, if that can be done at once."""
        try:
            async with asyncio.timeout(_LAST_WORD):
                obj = await self._with.client.get(turn.resource.path(turn.request.key))
                await self._mark(turn, obj, lambda status, now: conditions.mark_failed(status, INTERRUPTED, None, now))
        except (KubeError, Retry, TimeoutError) as error:
            logger.warning("The CR does not say that its run was ended", extra={**turn.request.fields, "error": str(error)})

    async def _warn_once(self, turn: Turn, reason: str, note: str) -> None:
        said = self._said.setdefault(turn.request, set())
        if note not in said:
            said.add(note)
            logger.warning(note, extra=turn.request.fields)
            if turn.plan is None:
                await events.warn(self._with.client, turn.owner, reason=reason, note=note)


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


@contextlib.contextmanager
def _run_folder(folder: Path) -> Iterator[Path]:
    """A folder that lives as long as the run, for the runner's own user alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    private = folder / f"run-{uuid.uuid4().hex[:8]}"
    private.mkdir(mode=0o700)
    try:
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _written(path: Path, text: str) -> str:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return str(path)
