"""Draining: a CR that the sharder moves to another shard is let go, once this shard has finished with it.

No reconcile of the CR begins any more, the one that is on gets its time and is then ended, and one patch removes the labels
of the shard and of the drain. Until then no other shard touches the CR, so that it is never run by two at once.

Next on the way: `runner.control.reconciler`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

from runner import metrics
from runner.control import Priority, Request, Taken
from runner.control.reconciliation import is_cr_not_found
from runner.control.workqueue import WorkQueue
from runner.errors import RolerunnerError
from runner.kube.backoff import Backoff
from runner.kube.client import ApiClient, Conflict, KubeError, NotFound
from runner.kube.discovery import Discovery
from runner.kube.kopf_transport import EventType, Notify
from runner.logs import Once
from runner.resource.metadata import Object, object_version
from runner.resource.sharding import Shard

logger = logging.getLogger(__name__)

# Seconds before a CR that could not be let go is tried again.
_FIRST_PAUSE, _LAST_PAUSE = 0.2, 30.0
# Seconds after which a problem is logged again.
_LOG_AGAIN = 600
# CRs that are let go at once: a new shard gets its share of all of them.
_AT_ONCE = 20

# Ends the reconcile of a CR that is on.
End = Callable[[Request], None]


class Drainer:
    """Lets CRs go that the sharder asks for, and takes the events that come of them meanwhile."""

    def __init__(self, client: ApiClient, discovery: Discovery, shard: Shard, *, queue: WorkQueue, grace: float) -> None:
        """`grace`: seconds for which a run that is on may go on."""
        self._client = client
        self._discovery = discovery
        self._shard = shard
        self._queue = queue
        self._grace = grace
        # CRs that are to be let go, and (False) those that left during their run.
        self._asked: asyncio.Queue[tuple[Request, bool]] = asyncio.Queue()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        # CRs that are being let go, as last delivered; None for one that is gone from the watch.
        self._draining: dict[Request, Object | None] = {}
        # The resourceVersions at which CRs were let go or stayed, until there are later events of them.
        self._settled: dict[Request, int] = {}
        self._trouble = Once()
        metrics.export_draining(lambda: len(self._draining))

    def takes(self, request: Request, event: EventType, obj: Object) -> Taken | None:
        """Take an event of a CR that is being let go, or is from before that; None for any other.

        Of a deletion `obj` does not count.
        """
        if event == "DELETED":
            self._settled.pop(request, None)
            if request in self._draining:
                self._draining[request] = None
            elif self._queue.is_running(request):
                self._asked.put_nowait((request, False))
            return None
        # A version that is no number is news.
        if request in self._settled and 0 < object_version(obj) <= self._settled[request]:
            return Taken.OLD
        self._settled.pop(request, None)
        if request not in self._draining:
            if not self._is_asked_for(obj):
                return None
            self._queue.hold(request)
            self._asked.put_nowait((request, True))
        self._draining[request] = obj
        return Taken.DRAINING

    async def run(self, end: End, deliver: Notify, forget: Callable[[Request], None]) -> None:
        """Let go the CRs that are asked for, until cancelled.

        `end` ends the reconcile of a CR that is on. `deliver` is called with a CR that stays, as if the watch had, and
        `forget` with one that went.
        """
        async with asyncio.TaskGroup() as tasks:
            while True:
                request, is_drain = await self._asked.get()
                if is_drain:
                    tasks.create_task(self._drain(request, end, deliver, forget))
                else:
                    tasks.create_task(self._end_if_it_left(request, end))

    async def _drain(self, request: Request, end: End, deliver: Notify, forget: Callable[[Request], None]) -> None:
        """Let one CR go. An error with it is waited out, and concerns no other CR: the sharder waits as well."""
        backoff, known = Backoff(_FIRST_PAUSE, _LAST_PAUSE), True
        while True:
            await self._wait_for_the_run(request, end)
            try:
                async with self._slots:
                    left = await self._let_go(request, self._draining[request] if known else None)
                self._settle(request, left, deliver, forget)
                return
            except Conflict:
                pass
            except Exception as error:
                self._log_trouble(request, error, backoff.seconds)
            known = False
            await backoff.pause()

    async def _wait_for_the_run(self, request: Request, end: End) -> None:
        """Wait until no reconcile of the CR is on, or the drain was called off; a run that takes too long is ended."""
        idle = self._queue.hold(request)
        await asyncio.wait({idle}, timeout=self._grace)
        last = self._draining[request]
        if not idle.done() and (last is None or self._is_asked_for(last)):
            logger.info("A run is ended, as its CR goes to another shard", extra=request.fields)
            end(request)
            # Not the future itself: this task's end must not cancel it.
            await asyncio.wait({idle})

    async def _let_go(self, request: Request, obj: Object | None) -> Object | None:
        """Remove the shard's labels from the CR, or from what is known of it; the CR as it is then, None if it is gone.

        Raises KubeError.
        """
        resource = await self._discovery.by_kind(request.watch.gvk)
        if resource is None:
            if self._draining[request] is None:
                return None
            raise KubeError("the API server does not serve the kind")
        path = resource.path(request.key)
        try:
            obj = obj or await self._client.get(path)
            if not self._is_asked_for(obj):
                return obj
            if self._queue.is_running(request):
                raise Conflict(409, "the drain was called off and is asked for again")
            metadata = {
                "resourceVersion": obj["metadata"]["resourceVersion"],
                "labels": {self._shard.label: None, self._shard.drain_label: None},
            }
            return await self._client.patch(path, {"metadata": metadata})
        except NotFound as error:
            if not is_cr_not_found(error, request):
                raise
            return None

    def _settle(self, request: Request, obj: Object | None, deliver: Notify, forget: Callable[[Request], None]) -> None:
        """End the draining of a CR: `obj` is what it is in the cluster, None if it is gone."""
        last = self._draining[request]
        newest = max((each for each in (obj, last) if each is not None), key=object_version, default=None)
        stays = newest is not None and self._shard.selector.matches(newest)
        if obj is None and newest is not None:
            # It is gone, or it is another one of its name.
            stays = stays and not self._shard.is_draining(newest)
        del self._draining[request]
        self._queue.release(request)
        try:
            if newest is not None and stays:
                # The sharder has changed its mind, which it may do before the answer to the patch is here.
                deliver(request.watch, "MODIFIED", newest)
            elif obj is None:
                # The reconcile finds nothing there and clears up.
                self._queue.add(request, Priority.CHANGE)
            else:
                forget(request)
                logger.info("The CR is let go to another shard", extra=request.fields)
        except Exception:
            logger.exception("A CR that was drained could not be handled", extra=request.fields)
            self._queue.add(request, Priority.CHANGE)
        if newest is not None and last is not None:
            self._settled[request] = object_version(newest)

    async def _end_if_it_left(self, request: Request, end: End) -> None:
        """End the run of a CR that was given to another shard without a drain, by its owner or as this one seemed dead.

        A deleted CR's run goes on to its end.
        """
        backoff = Backoff(_FIRST_PAUSE, _LAST_PAUSE)
        while self._queue.is_running(request):
            try:
                resource = await self._discovery.by_kind(request.watch.gvk)
                obj = await self._client.get(resource.path(request.key)) if resource else None
            except NotFound:
                return
            except Exception as error:
                logger.debug("It is not known where a CR is", extra={**request.fields, "reason": str(error)})
                await backoff.pause()
                continue
            if obj is not None and not self._shard.selector.matches(obj) and self._queue.is_running(request):
                logger.warning("A run is ended, as its CR was given to another shard", extra=request.fields)
                end(request)
            return

    def _is_asked_for(self, obj: Object) -> bool:
        return self._shard.is_draining(obj) and self._shard.selector.matches(obj)

    def _log_trouble(self, request: Request, error: Exception, after: float) -> None:
        """Log a warning once for all CRs, and again now and then: a right that is missing is missing for thousands."""
        is_expected = isinstance(error, RolerunnerError)
        key = (type(error), getattr(error, "status", 0), monotonic() // _LOG_AGAIN)
        level = logging.WARNING if self._trouble.is_new(key) else logging.DEBUG
        fields = {**request.fields, "reason": str(error), "after": after}
        logger.log(level, "A CR cannot be let go for now", extra=fields, exc_info=None if is_expected else error)
