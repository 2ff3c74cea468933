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

from runner import metrics
from runner.control import Priority, Request, Result, Retry
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

    def __init__(self, queue: WorkQueue, reconcile: Reconcile) -> None:
        self._queue = queue
        self._reconcile = reconcile
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
        try:
            with metrics.time_reconcile(name):
                async with deadline:
                    result = await self._reconcile(request)
        except asyncio.CancelledError:
            self._queue.done(request)
            raise
        except Retry as retry:
            metrics.reconcile_ended(name, "error")
            after = self._queue.done(request, failed=True)
            logger.info("Will be tried again", extra={**request.fields, "reason": str(retry), "after": after})
        except Exception as error:
            was_ended = isinstance(error, TimeoutError) and deadline.expired()
            if not was_ended:
                # An exception that is not expected must not end the other CRs' reconciles.
                logger.exception("Reconciling failed unexpectedly; it will be tried again", extra=request.fields)
            metrics.reconcile_ended(name, "error", panic=not was_ended)
            self._queue.done(request, failed=True)
        else:
            metrics.reconcile_ended(name, "requeue_after" if result.requeue_after else "success")
            if not result.requeue_after:
                self._queue.done(request)
            elif result.exact:
                self._queue.done(request, after=result.requeue_after, priority=Priority.RETRY)
            else:
                self._queue.done(request, after=result.requeue_after * random.uniform(1 - _JITTER, 1))
        finally:
            del self._deadlines[request]
