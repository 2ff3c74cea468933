"""Writes what a reconcile says about its CR: conditions in the status, Events, and warnings in the log.

Next on the way: `runner.resource.conditions`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from runner.control import Request, Retry
from runner.control.reconciliation import Reconciliation, read, retry_on_conflict
from runner.control.status_schema import StatusSchemas
from runner.executor.jobs import Outcome
from runner.kube.client import ApiClient, Invalid, KubeError, NotFound, Refused
from runner.kube.events import EventRecorder
from runner.resource import conditions
from runner.resource.conditions import Status
from runner.resource.metadata import Object, cut

logger = logging.getLogger(__name__)

# Seconds; a run that is over sooner is not worth a write of its own, which would cost about as much as the run.
_ANNOUNCE_AFTER = 0.5
# Seconds that the write may take by which a CR says that its run was interrupted: the process is about to end.
_INTERRUPTED_WITHIN = 5.0
# Warnings about a CR that are remembered, so as not to be repeated; characters of one.
_WARNINGS = 20
_WARNING_LIMIT = 1000

INTERRUPTED = "The run was stopped before its end, with the runner or as the CR went to another shard; it will be run again"

# Makes the new status of the one that the CR has.
StatusUpdate = Callable[[Status | None, datetime], Status]


class StatusWriter:
    """Writes conditions on CRs, against conflicting writes of others, and posts Events about them."""

    def __init__(self, client: ApiClient) -> None:
        self.events = EventRecorder(client)
        self._client = client
        self._schemas = StatusSchemas()
        # Hashes of the warnings that are not to be repeated, the oldest first.
        self._warned: dict[Request, dict[int, None]] = {}
        # CRs whose last run took long enough to be announced.
        self._slow: set[Request] = set()

    async def write(
        self, reconciliation: Reconciliation, obj: Object, update: StatusUpdate, *, observed: Object | None = None
    ) -> Object | None:
        """Write the updated status, and return the CR; None if the CR is gone or has no status. Raises KubeError, Retry.

        Nothing is written that would change nothing. After a conflict the CR is read again, so that what the role or a
        person has written meanwhile stays. The generation of `observed` is written as well, where the CRD has a field for
        it. A status that the CRD's schema refuses whatever is changed is logged, and counts as written.
        """
        if not reconciliation.resource.has_status:
            text = "The CRD has no status subresource, so conditions cannot be written; add one to it"
            await self.warn_once(reconciliation, "NoStatus", text)
            return None
        gvk = reconciliation.watch.gvk
        generation: int | None = observed["metadata"].get("generation") if observed else None

        async def put(obj: Object) -> Object | None:
            before = _status(obj)
            while True:
                made = update(conditions.without_reasons(before), datetime.now(UTC))
                status = self._schemas.fit(gvk, made, generation)
                if status == before:
                    return obj
                try:
                    written = await self._client.put(f"{reconciliation.path}/status", {**obj, "status": status})
                except NotFound:
                    return None
                except Invalid as error:
                    # Another CR of the kind may have been refused for the same, and that learned, since this was sent.
                    is_known = self._schemas.fit(gvk, made, generation) != status
                    if not is_known and not self._schemas.learn(gvk, str(error), status, generation):
                        text = f"The CRD's schema refuses the status of a run: {error}"
                        await self.warn_once(reconciliation, "StatusRefused", text, about="schema")
                        return obj
                except Refused as error:
                    text = f"The status cannot be written: {error}"
                    await self.warn_once(reconciliation, "StatusRefused", text, about="rights")
                    raise
                else:
                    self._schemas.accepted(gvk, written.get("status") or {}, generation)
                    return written

        return await retry_on_conflict(self._client, reconciliation, obj, put, what="the status was")

    async def while_running(
        self, reconciliation: Reconciliation, obj: Object, run: Callable[[Object], Awaitable[Outcome]]
    ) -> tuple[Outcome, Object]:
        """`run` the CR, which says `Running` meanwhile if that takes long enough to be seen. The CR as last known.

        The CR that the role is given says so from the beginning. Where the last run took so long it is written before the
        run: a role that updates its own CR should not meet with a conflict.
        """
        if not reconciliation.watch.manage_status:
            return await run(obj), obj
        if reconciliation.request in self._slow:
            obj = await self.write(reconciliation, obj, conditions.mark_running) or obj
        # Most runs are over before, and need no task for this.
        announcing: list[asyncio.Task[Object | None]] = []
        timer = asyncio.get_running_loop().call_later(
            _ANNOUNCE_AFTER, lambda: announcing.append(asyncio.create_task(self._announce(reconciliation, obj)))
        )

        async def announced() -> Object | None:
            timer.cancel()
            if not announcing:
                self._slow.discard(reconciliation.request)
            return await announcing[0] if announcing else None

        try:
            outcome = await run({**obj, "status": conditions.mark_running(_status(obj), datetime.now(UTC))})
        except asyncio.CancelledError:
            await announced()
            await self._interrupted(reconciliation)
            raise
        finally:
            written_meanwhile = await announced()
        return outcome, written_meanwhile or obj

    async def _announce(self, reconciliation: Reconciliation, obj: Object) -> Object | None:
        """Write `Running`; the CR as it is then, None if that failed."""
        self._slow.add(reconciliation.request)
        try:
            return await self.write(reconciliation, obj, conditions.mark_running)
        except (KubeError, Retry) as error:
            # When the run is over there will be another attempt, with more to say.
            fields = {**reconciliation.request.fields, "error": str(error)}
            logger.debug("The CR does not say that it is being run", extra=fields)
            return None

    async def _interrupted(self, reconciliation: Reconciliation) -> None:
        """Write that the run is being cut short, if that can be done at once."""
        try:
            async with asyncio.timeout(_INTERRUPTED_WITHIN):
                obj = await read(self._client, reconciliation)
                if obj is not None:
                    await self.write(reconciliation, obj, failed(INTERRUPTED))
        except (KubeError, Retry, TimeoutError) as error:
            fields = {**reconciliation.request.fields, "error": str(error)}
            logger.warning("The CR does not say that its run was ended", extra=fields)

    async def warn_once(self, reconciliation: Reconciliation, reason: str, text: str, *, about: str = "") -> None:
        """Log a warning about the CR and post it as an Event, unless each reconcile since it was last said has said it.

        `about` identifies a warning whose text differs from time to time.
        """
        text, request = cut(text, _WARNING_LIMIT), reconciliation.request
        warned, key = self._warned.setdefault(request, {}), hash((reason, about or text))
        reconciliation.warnings.add(key)
        if key in warned:
            return
        warned[key] = None
        if len(warned) > _WARNINGS:
            del warned[next(iter(warned))]
        logger.warning(text, extra=request.fields)
        if reconciliation.plan is None:
            await self.events.warn(reconciliation.owner, reason=reason, note=text)

    def drop_old_warnings(self, reconciliation: Reconciliation) -> None:
        """After a whole reconcile: forget warnings that it had no cause for, so that they are given again if they recur."""
        request = reconciliation.request
        warned = {key: None for key in self._warned.get(request, ()) if key in reconciliation.warnings}
        if warned:
            self._warned[request] = warned
        else:
            self._warned.pop(request, None)

    def forget(self, request: Request) -> None:
        """Drop what is kept of a CR that is gone."""
        self._warned.pop(request, None)
        self._slow.discard(request)


def failed(message: str) -> StatusUpdate:
    """The update for a CR that was not run to the end."""
    return lambda status, now: conditions.mark_failed(status, message, None, now)


def ended(outcome: Outcome) -> StatusUpdate:
    """The update for a run that is over, whether the status says `Running` or not."""

    def update(status: Status | None, now: datetime) -> Status:
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

    return update


def _status(obj: Object) -> Status | None:
    status = obj.get("status")
    return status if isinstance(status, dict) else None
