"""The reconciler: decides what a CR needs, has it done, and decides when the CR comes again.

It reads the CR; a CR that contradicts its role's argument specs is refused; another gets the watch's finalizer and is
run, or is run as a dry run; the outcome becomes the CR's status, and a Result. The steps are those of the Go
operator's reconcile.go, but that a role's `requeue_after` takes effect when its run has ended, and that nothing is
written that would change nothing.

Next on the way: `runner.control.finalizers`, `runner.control.run` and `runner.control.status`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from runner import metrics
from runner.config.annotations import for_cr, is_dry_run
from runner.config.watches import Watch
from runner.control import Request, RequeueReason, Result, Retry
from runner.control.failing import Failing
from runner.control.finalizers import Decision, add_finalizer, decide, remove_finalizer
from runner.control.handlers import Handlers
from runner.control.history import History
from runner.control.reconciliation import Phases, Reconciliation, is_cr_not_found, read
from runner.control.records import ReconcileStatus
from runner.control.run import Runs
from runner.control.status import StatusWriter, ended, failed
from runner.executor.jobs import Outcome
from runner.kube.client import ApiClient, KubeError, NotFound
from runner.kube.discovery import Discovery, Resource
from runner.logs import RunnerEvent
from runner.resource import conditions, parameters
from runner.resource.metadata import GroupVersionKind, Object, Owner, annotations_of, is_deleting, parse_duration
from runner.resource.sharding import Shard

logger = logging.getLogger(__name__)

# Seconds after which a CR that was deleted during its run is finalized.
_FINALIZE_AFTER = 5.0
# Seconds: for how long a kind that the API server does not serve may be one that it does not serve yet.
_KIND_GONE_AFTER = 60.0


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run that is over, with the CR as it was when the run began."""

    begun: Object
    outcome: Outcome
    finalizing: bool
    at: float = field(default_factory=monotonic)

    def stands_for(self, obj: Object, watch: Watch, *, finalizing: bool) -> bool:
        """True if a run of `obj` would be the same again, and is not due to the reconcile period."""
        if watch.reconcile_period and monotonic() - self.at > watch.reconcile_period:
            return False
        return self.finalizing == finalizing and _declared(self.begun) == _declared(obj)


class Reconciler:
    """Reconciles CRs of all watches; keeps what has to be remembered from one reconcile of a CR to the next."""

    def __init__(
        self,
        client: ApiClient,
        discovery: Discovery,
        *,
        handlers: Handlers,
        runs: Runs,
        status: StatusWriter,
        failing: Failing,
        shard: Shard | None = None,
        history: History | None = None,
    ) -> None:
        self._client = client
        self._discovery = discovery
        self._handlers = handlers
        self._runs = runs
        self._status = status
        self._failing = failing
        self._shard = shard
        self._history = history or History()
        # Runs that succeeded and whose CRs do not say so yet.
        self._unwritten: dict[Request, FinishedRun] = {}
        # Since when the API server has not served a kind.
        self._unserved: dict[GroupVersionKind, float] = {}
        # CRs whose RecursionError has been logged.
        self._too_deep: set[Request] = set()

    async def reconcile(self, request: Request) -> Result:
        """Reconcile the CR once. Raises Retry where it should be tried again with backoff."""
        try:
            return await self._reconcile_or_retry(request)
        except Exception:
            self._failing.add(request)
            raise
        finally:
            # What the watch has delivered meanwhile may be older than what was written; the next reconcile reads the CR.
            self._handlers.pop_delivered(request)

    async def _reconcile_or_retry(self, request: Request) -> Result:
        try:
            result = await self._reconcile(request)
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

    async def clear_up(self, request: Request) -> None:
        """Remove what an earlier process has left of a CR, if the CR is gone; an attempt."""
        with contextlib.suppress(KubeError):
            resource = await self._discovery.by_kind(request.watch.gvk)
            try:
                if resource is not None:
                    await self._client.get(resource.path(request.key))
            except NotFound as error:
                if is_cr_not_found(error, request):
                    await self._runs.forget(request)

    async def _reconcile(self, request: Request) -> Result:
        record = self._history.current(request)
        phases = Phases(record)
        record.cause_namespace = self._handlers.cause_namespace(request)
        cause = self._handlers.pop_cause(request)
        record.cause = cause or record.cause
        if cause:
            # Whatever comes of this reconcile, what is wanted now is another run.
            self._unwritten.pop(request, None)
        found = await self._find(request)
        if found is None:
            return await self._forget(request, None)
        resource, obj = found
        if not request.watch.selector.matches(obj):
            # It was selected when it was queued. It may be another shard's now.
            logger.debug("Left out by the watch's selector", extra=request.fields)
            if not self._handlers.has_observed(request):
                self.drop(request)
            return Result()
        watch, problems = for_cr(request.watch, obj)
        phases.finish("read")
        record.uid, record.generation = obj["metadata"]["uid"], obj["metadata"].get("generation")
        decision = decide(obj, watch)
        if decision is Decision.IGNORE:
            logger.debug("Going, without a finalizer of this watch", extra=request.fields)
            # Nothing is run for it any more, however long it takes to go.
            self._failing.discard(request)
            return Result()
        reconciliation = Reconciliation(
            request=request,
            watch=watch,
            resource=resource,
            owner=Owner(watch.gvk, request.key, obj["metadata"]["uid"]),
            finalizing=decision is Decision.FINALIZE,
            record=record,
            phases=phases,
            shard=self._shard,
        )
        try:
            return await self._act(reconciliation.sized(obj), obj, decision, problems)
        except parameters.Unusable as error:
            return await self._refuse(reconciliation, obj, [str(error)])

    async def _find(self, request: Request) -> tuple[Resource, Object] | None:
        """The CR, and its kind in the API; None if either is gone. Raises Retry while that is not certain."""
        gvk = request.watch.gvk
        resource = await self._discovery.by_kind(gvk)
        if resource is None:
            # The kind was removed, and its CRs with it; or the API server is about to serve it.
            since = self._unserved.setdefault(gvk, monotonic())
            if monotonic() - since < _KIND_GONE_AFTER:
                raise Retry("the API server does not serve the kind")
            return None
        self._unserved.pop(gvk, None)
        waiting = self._handlers.pop_delivered(request)
        if waiting:
            # The items of a list do not name their kind.
            return resource, {"apiVersion": gvk.api_version, "kind": gvk.kind, **waiting}
        try:
            return resource, await self._client.get(resource.path(request.key))
        except NotFound as error:
            self._discovery.forget(gvk)
            if not is_cr_not_found(error, request):
                raise Retry(str(error)) from error
            return None

    async def _act(
        self, reconciliation: Reconciliation, obj: Object, decision: Decision, bad_annotations: Sequence[str]
    ) -> Result:
        """Refuse the CR, run it, or run it as a dry run. Raises Unusable."""
        if is_dry_run(reconciliation.watch, obj):
            return await self._dry_run(reconciliation, obj)
        if not reconciliation.finalizing and (problems := await self._runs.problems(reconciliation, obj)):
            return await self._refuse(reconciliation, obj, problems)
        request, watch = reconciliation.request, reconciliation.watch
        finished = self._unwritten.pop(request, None)
        if finished and finished.stands_for(obj, watch, finalizing=reconciliation.finalizing):
            logger.info("The run has succeeded before; its status is written", extra=request.fields)
            return await self._conclude(reconciliation, finished, obj)
        if decision is Decision.ADD_FINALIZER:
            finalized = await add_finalizer(self._client, reconciliation, obj)
            if finalized is None:
                return await self._forget(request, reconciliation.owner.uid)
            obj = finalized
        for problem in bad_annotations:
            await self._status.warn_once(reconciliation, "BadAnnotation", problem)
        with metrics.time_run(str(watch.gvk)):
            run = functools.partial(self._runs.run, reconciliation)
            outcome, current = await self._status.while_running(reconciliation, obj, run)
        metrics.run_ended(str(watch.gvk), succeeded=outcome.succeeded)
        return await self._conclude(reconciliation, FinishedRun(obj, outcome, reconciliation.finalizing), current)

    async def _dry_run(self, reconciliation: Reconciliation, obj: Object) -> Result:
        """Make a dry run: an Event says what a run would change, and the conditions that there was none."""
        request, watch, record = reconciliation.request, reconciliation.watch, reconciliation.record
        plan = await self._runs.dry_run(
            request,
            reconciliation.resource,
            obj,
            ident=reconciliation.ident,
            finalizing=reconciliation.finalizing,
            record=record,
        )
        record.end(ReconcileStatus.DRY_RUN, plan.failure)
        # In a thread: a role may write as much of a CR's spec as it likes into objects.
        text, note = await asyncio.to_thread(lambda: (plan.text(), plan.note()))
        logger.info("Plan", extra={"event": RunnerEvent.DRY_RUN_RESULT, **request.fields, "output": text})
        await self._status.events.post(reconciliation.owner, type="Normal", action="Plan", reason="Plan", note=note)
        if watch.manage_status:
            await self._status.write(
                reconciliation, obj, lambda status, now: conditions.mark_dry_run(status, plan.failure, now)
            )
        # Nothing is run for it now.
        self._failing.discard(request)
        return Result(requeue_after=watch.reconcile_period)

    async def _refuse(self, reconciliation: Reconciliation, obj: Object, problems: Sequence[str]) -> Result:
        """Run nothing for a CR that cannot succeed before it is changed; only the periodic reconcile looks at it again."""
        message, watch = "\n".join(problems), reconciliation.watch
        reconciliation.record.end(ReconcileStatus.REFUSED, message)
        metrics.run_ended(str(watch.gvk), succeeded=False)
        self._failing.add(reconciliation.request)
        if watch.manage_status:
            await self._status.write(reconciliation, obj, failed(message), observed=obj)
        await self._status.warn_once(reconciliation, "InvalidSpec", message)
        self._status.drop_old_warnings(reconciliation)
        return Result(requeue_after=watch.reconcile_period)

    async def _conclude(self, reconciliation: Reconciliation, run: FinishedRun, current: Object) -> Result:
        """Write what came of the run, and decide when to come again. `current` is the CR as last known.

        A run that succeeded is kept until its CR says so: it is not repeated because that could not be written.
        """
        request, outcome, record = reconciliation.request, run.outcome, reconciliation.record
        if outcome.succeeded:
            self._unwritten[request] = run
        obj = await self._write_outcome(reconciliation, run, current)
        self._unwritten.pop(request, None)
        if obj is None:
            return await self._forget(request, reconciliation.owner.uid)
        if outcome.succeeded:
            record.end(ReconcileStatus.SUCCEEDED)
            self._failing.discard(request)
        if run.finalizing and outcome.succeeded:
            return Result()
        reconciliation.phases.finish("status")
        if not outcome.succeeded:
            record.end(ReconcileStatus.FAILED, "\n".join(outcome.messages))
            note = "\n".join(outcome.reports or outcome.messages)
            await self._status.events.warn(reconciliation.owner, reason="RunFailed", note=note)
            raise Retry("the run failed")
        if is_deleting(obj) and not run.finalizing:
            return Result(requeue_after=_FINALIZE_AFTER, reason=RequeueReason.DELETION)
        try:
            result = next_reconcile(outcome, reconciliation.watch)
        except ValueError as error:
            text = f"The period that requeue_after gave cannot be used: {error}"
            await self._status.warn_once(reconciliation, "BadPeriod", text)
            result = Result(requeue_after=reconciliation.watch.reconcile_period)
        self._status.drop_old_warnings(reconciliation)
        return result

    async def _write_outcome(self, reconciliation: Reconciliation, run: FinishedRun, current: Object) -> Object | None:
        """Write the outcome in the status, or remove the finalizer; the CR as it is then, None if it is gone."""
        manage_status, update = reconciliation.watch.manage_status, ended(run.outcome)
        if manage_status and not run.finalizing and reconciliation.owner.uid not in reconciliation.written:
            # Most runs leave their CR alone, and so does everybody else: then it need not be read again.
            written = await self._status.write(reconciliation, current, update, observed=run.begun)
            if written is not None:
                return written
        obj = await read(self._client, reconciliation)
        if obj is None:
            return None
        if run.finalizing and run.outcome.succeeded:
            await remove_finalizer(self._client, reconciliation, obj)
        elif manage_status:
            await self._status.write(reconciliation, obj, update, observed=run.begun)
        return obj

    async def _forget(self, request: Request, uid: str | None) -> Result:
        """Drop what is kept of a CR that is gone; `uid` is its uid, if one was seen.

        Another CR of its name has a reconcile of its own.
        """
        self.drop(request, uid)
        await self._runs.forget(request)
        self._history.current(request).end(ReconcileStatus.GONE)
        logger.info("The CR is gone", extra={"event": RunnerEvent.CR_GONE, **request.fields})
        return Result()

    def drop(self, request: Request, uid: str | None = None) -> None:
        """Drop what is kept of a CR that is gone, or another's now."""
        self._handlers.forget(request, uid)
        self._status.forget(request)
        self._failing.discard(request)
        self._history.forget(request)
        self._unwritten.pop(request, None)
        self._too_deep.discard(request)


def next_reconcile(outcome: Outcome, watch: Watch) -> Result:
    """The Result of a run that succeeded: the CR comes again when its role asked for it, or periodically. Raises
    ValueError."""
    if outcome.requeue_after is None:
        return Result(requeue_after=watch.reconcile_period)
    return Result(parse_duration(str(outcome.requeue_after)), RequeueReason.REQUEUE_AFTER)


def _declared(obj: Object) -> tuple[object, ...]:
    """The part of a CR that a run is made for."""
    metadata = obj["metadata"]
    rest = {name: value for name, value in obj.items() if name not in ("metadata", "status")}
    return metadata.get("uid"), metadata.get("generation"), annotations_of(obj), is_deleting(obj), rest
