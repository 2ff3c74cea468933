"""A CR's turn: read it, run its role or playbook, write down what came of it, say when to come back.

This is where Kubernetes and Ansible meet. The steps are those of the Go operator's reconcile.go, but that a role's
`requeue_after` takes effect when its run has ended, and that nothing is written that would change nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from runner import metrics
from runner.control import Request, Result, Retry
from runner.executor.artifacts import RunFolders
from runner.executor.jobs import Execute, ExecutorError, Job, JobEvent, Outcome, fold
from runner.kube import events
from runner.kube.client import ApiClient, Conflict, KubeError, NotFound
from runner.kube.discovery import Discovery, Resource
from runner.proxy.sessions import OnDependent, Session, Sessions, kubeconfig
from runner.resource import conditions, parameters
from runner.resource.metadata import Object, ObjectKey, Owner, finalizers, is_deleting, parse_duration
from runner.watches import Content, Watch, period_of

logger = logging.getLogger(__name__)

# How often a status is tried against others' writes before the turn is left to the backoff.
_STATUS_TRIES = 5
# Seconds: how soon a CR that was deleted during its run is finalized; how long a last word may take at shutdown.
_FINALIZE_AFTER = 5.0
_LAST_WORD = 5.0

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
    # Told of each kind of which a CR of this watch owns an object.
    on_dependent: Callable[[Watch, Resource], None]
    proxy_port: int
    ansible_args: str = ""
    inject_owner_ref: bool = True


class Reconciler:
    def __init__(self, surroundings: Surroundings) -> None:
        self._with = surroundings
        # What has been said about a CR (by uid) and need not be said at every run.
        self._said: set[tuple[str, str]] = set()

    async def reconcile(self, request: Request) -> Result:
        """One turn. Raises Retry where it should be tried again with backoff."""
        try:
            return await self._turn(request)
        except KubeError as error:
            raise Retry(str(error)) from error

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
        watch = request.watch
        resource = await self._with.discovery.by_kind(watch.gvk)
        if resource is None:
            # The kind was taken away, and its CRs with it.
            return self._gone(request)
        try:
            obj: dict[str, Any] = await self._with.client.get(resource.path(request.key))
        except NotFound:
            self._with.discovery.forget(watch.gvk)
            return self._gone(request)
        turn = Turn(request, resource, Owner(watch.gvk, request.key, obj["metadata"]["uid"]))
        decision = gate(obj, watch)
        if decision is Gate.STOP:
            logger.debug("Going, without a finalizer of this watch", extra=request.fields)
            return Result()
        if decision is Gate.ADD_FINALIZER:
            obj = await self._set_finalizers(turn, obj, [*finalizers(obj), _finalizer_name(watch)])
        period = await self._period(turn, obj)
        if watch.manage_status:
            obj = await self._mark(turn, obj, lambda status, now: conditions.mark_running(status, now)) or obj
        with metrics.reconciling(str(watch.gvk)):
            outcome = await self._run(turn, obj, finalizing=decision is Gate.FINALIZE)
        return await self._conclude(turn, outcome, finalizing=decision is Gate.FINALIZE, period=period)

    def _gone(self, request: Request) -> Result:
        logger.info("The CR is gone", extra=request.fields)
        self._with.folders.remove(_folder_parts(request))
        return Result()

    async def _period(self, turn: Turn, obj: Object) -> float:
        try:
            return period_of(turn.request.watch, obj)
        except ValueError as error:
            await self._warn_once(turn, "BadAnnotation", f"Unable to parse reconcile period annotation: {error}")
            return turn.request.watch.reconcile_period

    async def _run(self, turn: Turn, obj: Object, *, finalizing: bool) -> Outcome:
        """Run what the watch says. Raises Retry, with the failure in the CR's status, where no run came about."""
        request = turn.request
        watch = request.watch
        owner = turn.owner
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
        session = Session(
            owner=owner,
            inject_owner=self._with.inject_owner_ref,
            on_dependent=self._on_dependent(watch, owner.key),
            blacklist=watch.blacklist,
        )
        folder = self._with.folders.folder(_folder_parts(request))
        ident = uuid.uuid4().hex[:16]
        with (
            self._with.sessions.opened(session) as token,
            _kubeconfig_file(
                folder, kubeconfig(token, port=self._with.proxy_port, namespace=request.key.namespace)
            ) as config,
        ):
            job = Job(
                ident=ident,
                folder=folder,
                role=content.role,
                playbook=content.playbook,
                extra_vars=built.extra_vars,
                environment={"K8S_AUTH_KUBECONFIG": str(config), "KUBECONFIG": str(config)},
                verbosity=watch.verbosity,
                arguments=self._with.ansible_args,
                max_artifacts=watch.max_runner_artifacts,
                # Clients put the server's URL into their errors, and the token with it.
                secrets=(token,),
            )
            logger.info("Running", extra={**request.fields, "job": ident, "content": str(content.path)})
            seen: list[JobEvent] = []
            try:
                async with contextlib.aclosing(self._with.execute(job)) as running:
                    async for event in running:
                        _narrate(event, request)
                        seen.append(event)
                outcome = fold(seen)
            except ExecutorError as error:
                logger.error("The run came to nothing", extra={**request.fields, "job": ident, "error": str(error)})
                outcome = Outcome(messages=(str(error),))
            except asyncio.CancelledError:
                logger.warning("The run was ended", extra={**request.fields, "job": ident})
                await self._last_word(turn)
                raise
        logger.info(
            "Run succeeded" if outcome.succeeded else "Run failed",
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

    def _on_dependent(self, watch: Watch, key: ObjectKey) -> OnDependent:
        def notice(resource: Resource) -> None:
            if not watch.watch_dependents or resource.gvk in watch.blacklist:
                return
            # A namespaced CR's cluster-scoped things are found by annotation, over the whole cluster: only if asked for.
            if not resource.namespaced and key.namespace and not watch.watch_cluster_scoped:
                return
            self._with.on_dependent(watch, resource)

        return notice

    async def _conclude(self, turn: Turn, outcome: Outcome, *, finalizing: bool, period: float) -> Result:
        request = turn.request
        metrics.reconciled(str(request.watch.gvk), succeeded=outcome.succeeded)
        try:
            obj = await self._with.client.get(turn.resource.path(request.key))
        except NotFound:
            return self._gone(request)
        if finalizing and outcome.succeeded:
            name = _finalizer_name(request.watch)
            await self._set_finalizers(turn, obj, [item for item in finalizers(obj) if item != name])
            return Result()
        if request.watch.manage_status:
            await self._mark(turn, obj, lambda status, now: _mark_done(status, outcome, now))
        if not outcome.succeeded:
            note = "\n".join(outcome.messages)
            await events.warn(self._with.client, turn.owner, reason="RunFailed", note=note)
            raise Retry("the run failed")
        if is_deleting(obj) and not finalizing:
            return Result(requeue_after=_FINALIZE_AFTER, requested=True)
        if outcome.requeue_after is not None:
            return Result(requeue_after=parse_duration(outcome.requeue_after), requested=True)
        return Result(requeue_after=period)

    async def _set_finalizers(self, turn: Turn, obj: Object, names: list[str]) -> dict[str, Any]:
        metadata = {"finalizers": names, "resourceVersion": obj["metadata"]["resourceVersion"]}
        try:
            return await self._with.client.patch(turn.resource.path(turn.request.key), {"metadata": metadata})
        except NotFound:
            return dict(obj)

    async def _mark(
        self, turn: Turn, obj: Object, mark: Callable[[Mapping[str, Any] | None, datetime], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Write the status that `mark` makes of the CR's, and return the CR; None if the CR is gone or has none to write.

        Written only if it changes something. On a conflict the CR is read anew, so that what the role or a person wrote
        meanwhile stays.
        """
        if not turn.resource.has_status:
            await self._warn_once(
                turn, "NoStatus", "The CRD has no status subresource, so conditions cannot be written; add one to it"
            )
            return None
        path = turn.resource.path(turn.request.key)
        for _ in range(_STATUS_TRIES):
            before = obj.get("status")
            before = before if isinstance(before, Mapping) else None
            status = mark(before, datetime.now(UTC))
            if status == before:
                return dict(obj)
            try:
                return await self._with.client.put(path + "/status", {**obj, "status": status})
            except NotFound:
                return None
            except Conflict:
                with contextlib.suppress(NotFound):
                    obj = await self._with.client.get(path)
                    continue
                return None
        raise Retry("the status was written by others at the same time, again and again")

    async def _last_word(self, turn: Turn) -> None:
        """The run is being cut short: the CR says so, if that can be done at once."""
        if not turn.request.watch.manage_status:
            return
        try:
            async with asyncio.timeout(_LAST_WORD):
                obj = await self._with.client.get(turn.resource.path(turn.request.key))
                await self._mark(turn, obj, lambda status, now: conditions.mark_failed(status, INTERRUPTED, None, now))
        except (KubeError, Retry, TimeoutError) as error:
            logger.warning("The CR does not say that its run was ended", extra={**turn.request.fields, "error": str(error)})

    async def _warn_once(self, turn: Turn, reason: str, note: str) -> None:
        if (turn.owner.uid, note) not in self._said:
            self._said.add((turn.owner.uid, note))
            logger.warning(note, extra=turn.request.fields)
            await events.warn(self._with.client, turn.owner, reason=reason, note=note)


@dataclass(frozen=True, slots=True)
class Turn:
    """What stays the same through one turn."""

    request: Request
    resource: Resource
    owner: Owner


def _content(watch: Watch, *, finalizing: bool) -> tuple[Content, Mapping[str, Any]]:
    """What to run, and with which of the watch's variables."""
    if not finalizing or watch.finalizer is None:
        return watch.content, watch.vars
    return watch.finalizer.content or watch.content, {**watch.vars, **watch.finalizer.vars}


def _finalizer_name(watch: Watch) -> str:
    assert watch.finalizer is not None
    return watch.finalizer.name


def _mark_done(status: Mapping[str, Any] | None, outcome: Outcome, now: datetime) -> dict[str, Any]:
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


def _folder_parts(request: Request) -> tuple[str, ...]:
    gvk, key = request.watch.gvk, request.key
    return (gvk.group, gvk.version, gvk.kind, key.namespace, key.name)


@contextlib.contextmanager
def _kubeconfig_file(folder: Path, text: str) -> Iterator[Path]:
    """A file that lives as long as the run, readable by the runner's own user alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"kubeconfig-{uuid.uuid4().hex[:8]}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _narrate(event: JobEvent, request: Request) -> None:
    """The run, for the log: each task as it starts, and what failed, with its place and words."""
    if event.event == "playbook_on_task_start":
        logger.debug("Task", extra={**request.fields, "task": event.task})
    elif event.is_failure:
        logger.error(
            "Task failed",
            extra={**request.fields, "task": event.task, "at": event.location, "error": event.message},
        )
