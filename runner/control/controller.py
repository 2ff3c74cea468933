"""The controller: workers that take a Request from the queue, have it reconciled, and requeue it.

The reconciler says after how long a CR comes again, the work queue adds backoff; what becomes of a Result or a Retry
is decided here.

Next on the way: `runner.control.reconciler`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from time import time

from runner import metrics
from runner.control import Priority, Request, RequeueReason, Result, Retry
from runner.control.history import History
from runner.control.records import ENDED_EARLY, ReconcileRecord, ReconcileStatus, Requeue
from runner.control.spans import Spans
from runner.control.workqueue import Closed, WorkQueue

logger = logging.getLogger(__name__)

Reconcile = Callable[[Request], Awaitable[Result]]

# A periodic reconcile comes up to this share of its period early, so that CRs which began together drift apart.
_JITTER = 0.1

# Seconds after an unexpected exception: how long the worker rests, and when the CR is requeued.
_REST = 1.0
_AFTER_FAULT = 60.0


class Controller:
    """Runs as many workers as the queue allows reconciles at once."""

    def __init__(
        self, queue: WorkQueue, reconcile: Reconcile, history: History | None = None, spans: Spans | None = None
    ) -> None:
        self._queue = queue
        self._reconcile = reconcile
        self._history = history or History()
        self._spans = spans
        # By CR, the end of the reconcile that is on: never, unless it is asked for.
        self._deadlines: dict[Request, asyncio.Timeout] = {}

    async def run(self) -> None:
        """Work until the queue is closed and the reconciles that are on have ended, or until cancelled."""
        async with asyncio.TaskGroup() as workers:
            for number in range(self._queue.workers):
                workers.create_task(self._work(), name=f"worker {number}")

    def end(self, request: Request) -> None:
        """Have the reconcile of the CR that is on end now, and its run with it."""
        if deadline := self._deadlines.get(request):
            deadline.reschedule(asyncio.get_running_loop().time())

    async def _work(self) -> None:
        """Reconcile one CR after the other. No exception ends it: all other CRs' runs would end with the process."""
        while True:
            request: Request | None = None
            try:
                request = await self._queue.get()
                await self.reconcile(request)
            except Closed:
                return
            except Exception:
                logger.exception("A worker met with a fault of the runner", extra=request.fields if request else {})
                if request is not None:
                    with contextlib.suppress(Exception):
                        self._queue.add(request, Priority.RETRY, _AFTER_FAULT)
                await asyncio.sleep(_REST)

    async def reconcile(self, request: Request) -> None:
        """Reconcile once, and give the Request back to the queue, whatever the result."""
        name, deadline = request.watch.controller, asyncio.timeout(None)
        self._deadlines[request] = deadline
        record = self._history.begin(request, *self._queue.begun(request))
        if self._spans:
            self._spans.begin(record)
        try:
            with metrics.time_reconcile(name):
                async with deadline:
                    result = await self._reconcile(request)
        except asyncio.CancelledError:
            record.end(ReconcileStatus.FAILED, ENDED_EARLY)
            self._queue.done(request)
            raise
        except Retry as retry:
            metrics.reconcile_ended(name, "error")
            record.end(ReconcileStatus.FAILED, str(retry))
            after = self._queue.done(request, failed=True)
            _note(record, after, RequeueReason.RETRY)
            logger.info("Will be tried again", extra={**request.fields, "reason": str(retry), "after": after or 0.0})
        except Exception as error:
            was_ended = isinstance(error, TimeoutError) and deadline.expired()
            if not was_ended:
                # An exception that is not expected must not end the other CRs' reconciles.
                logger.exception("Reconciling failed unexpectedly; it will be tried again", extra=request.fields)
            metrics.reconcile_ended(name, "error", panic=not was_ended)
            record.end(ReconcileStatus.FAILED, ENDED_EARLY if was_ended else "a fault of the runner; its log says more")
            _note(record, self._queue.done(request, failed=True), RequeueReason.RETRY)
        else:
            metrics.reconcile_ended(name, "requeue_after" if result.requeue_after else "success")
            self._requeue(record, result)
        finally:
            del self._deadlines[request]
            self._history.end(record)
            if self._spans:
                await self._spans.end(record)

    def _requeue(self, record: ReconcileRecord, result: Result) -> None:
        after = result.requeue_after
        if not after:
            self._queue.done(record.request)
            return
        priority = Priority.RETRY
        if result.reason is RequeueReason.PERIOD:
            priority = Priority.PERIODIC
            after *= random.uniform(1 - _JITTER, 1)
        _note(record, self._queue.done(record.request, after=after, priority=priority), result.reason)


def _note(record: ReconcileRecord, after: float | None, reason: RequeueReason) -> None:
    """Note when the CR comes again, if the queue has it come for this reason."""
    if after is not None:
        record.requeue = Requeue(time() + after, reason)
