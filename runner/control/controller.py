"""The workers: each takes a turn from the queue, has it reconciled, and decides when the CR comes again.

The decision to retry is made here and nowhere else.

Next on the way: `runner.control.reconciler`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from runner import metrics
from runner.control import Priority, Request, Result, Retry
from runner.control.workqueue import Closed, WorkQueue

logger = logging.getLogger(__name__)

Reconcile = Callable[[Request], Awaitable[Result]]

# The periodic pass comes up to this share of its period early, so that CRs which began together drift apart.
_JITTER = 0.1


class Controller:
    """As many workers as the queue allows runs at once."""

    def __init__(self, queue: WorkQueue, reconcile: Reconcile) -> None:
        self._queue = queue
        self._reconcile = reconcile

    async def run(self) -> None:
        """Work until the queue is closed and the turns that are on have ended, or until cancelled."""
        async with asyncio.TaskGroup() as workers:
            for number in range(self._queue.workers):
                workers.create_task(self._work(), name=f"worker {number}")

    async def _work(self) -> None:
        while True:
            try:
                request = await self._queue.get()
            except Closed:
                return
            try:
                await self.turn(request)
            except Exception:
                # Counting and queueing, too, must not end the other workers, and the process with them.
                logger.exception("A turn could not be ended properly", extra=request.fields)

    async def turn(self, request: Request) -> None:
        """One turn, whatever becomes of it, is over for the queue when this returns."""
        name = request.watch.controller
        try:
            with metrics.turning(name):
                result = await self._reconcile(request)
        except asyncio.CancelledError:
            self._queue.done(request)
            raise
        except Retry as retry:
            metrics.turned(name, "error")
            after = self._queue.done(request, failed=True)
            logger.info("Will be tried again", extra={**request.fields, "reason": str(retry), "after": after})
        except Exception:
            # A fault of the runner's own must not end the other CRs' turns.
            logger.exception("Reconciling failed unexpectedly; it will be tried again", extra=request.fields)
            metrics.turned(name, "error", panic=True)
            self._queue.done(request, failed=True)
        else:
            metrics.turned(name, "requeue_after" if result.requeue_after else "success")
            if not result.requeue_after:
                self._queue.done(request)
            elif result.requested:
                self._queue.done(request, after=result.requeue_after, priority=Priority.RETRY)
            else:
                self._queue.done(request, after=result.requeue_after * random.uniform(1 - _JITTER, 1))
