"""Draining: a CR that the sharder moves to another shard is let go, once this shard has finished with it.

No reconcile of the CR begins any more, the one that is on gets its time and is then ended, and one patch removes the labels
of the shard and of the drain. Until then no other shard touches the CR, so that it is never run by two at once.

Next on the way: `runner.control.reconciler`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from runner.control import Priority, Request
from runner.control.reconciliation import is_cr_not_found
from runner.control.workqueue import WorkQueue
from runner.errors import RolerunnerError
from runner.kube.backoff import Backoff
from runner.kube.client import ApiClient, Conflict, NotFound
from runner.kube.discovery import Discovery
from runner.kube.kopf_transport import EventType, Notify
from runner.logs import Once
from runner.resource.metadata import Object, version_number
from runner.resource.sharding import Shard

logger = logging.getLogger(__name__)

# Seconds before a CR that could not be let go is tried again.
_FIRST_PAUSE, _LAST_PAUSE = 0.2, 30.0
# CRs that are let go at once: a new shard gets its share of all of them.
_AT_ONCE = 20


class Drainer:
    """Lets CRs go that the sharder asks for, and takes the events that come of them meanwhile."""

    def __init__(self, client: ApiClient, discovery: Discovery, shard: Shard, *, queue: WorkQueue, grace: float) -> None:
        """`grace`: seconds for which a run that is on may go on."""
        self._client = client
        self._discovery = discovery
        self._shard = shard
        self._queue = queue
        self._grace = grace
        self._asked: asyncio.Queue[Request] = asyncio.Queue()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        # CRs that are being let go, as last delivered.
        self._draining: dict[Request, Object] = {}
        # The resourceVersions at which CRs were let go, until an event says that they are not this shard's any more.
        self._left: dict[Request, int] = {}
        self._trouble = Once()

    def takes(self, request: Request, event: EventType, obj: Object) -> bool:
        """True if an event of a CR is of no concern to its reconciles: it is being let go, or was when this happened."""
        if event == "DELETED":
            self._left.pop(request, None)
            return False
        if request in self._left:
            if _version(obj) <= self._left[request]:
                return True
            del self._left[request]
        if request not in self._draining:
            if not self._shard.is_draining(obj):
                return False
            self._queue.hold(request)
            self._asked.put_nowait(request)
        self._draining[request] = obj
        return True

    async def run(self, end: Callable[[Request], None], deliver: Notify) -> None:
        """Let go the CRs that are asked for, until cancelled.

        `end` ends the reconcile of a CR that is on. `deliver` is called with a CR that stays, as if the watch had.
        """
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(self._drain(await self._asked.get(), end, deliver))

    async def _drain(self, request: Request, end: Callable[[Request], None], deliver: Notify) -> None:
        """Let one CR go. An error with it is waited out: the sharder waits as well."""
        idle, backoff = self._queue.hold(request), Backoff(_FIRST_PAUSE, _LAST_PAUSE)
        await asyncio.wait({idle}, timeout=self._grace)
        if not idle.done():
            logger.info("A run is ended, as its CR goes to another shard", extra=request.fields)
            end(request)
            await idle
        left: Object | None = self._draining[request]
        while True:
            try:
                async with self._slots:
                    left = await self._let_go(request, left)
                break
            except Conflict:
                pass
            except Exception as error:
                self._log_trouble(request, error, backoff.seconds)
            left = None
            await backoff.pause()
        self._finish(request, left, deliver)

    def _log_trouble(self, request: Request, error: Exception, after: float) -> None:
        """Log a warning once for all CRs: thousands may go at once, and a right that is missing is missing for each."""
        is_expected = isinstance(error, RolerunnerError)
        level = logging.WARNING if self._trouble.is_new((type(error), getattr(error, "status", 0))) else logging.DEBUG
        fields = {**request.fields, "reason": str(error), "after": after}
        logger.log(level, "A CR cannot be let go for now", extra=fields, exc_info=None if is_expected else error)

    async def _let_go(self, request: Request, obj: Object | None) -> Object | None:
        """Remove the shard's labels from the CR, or from what is known of it; the CR as it is then, None if it is gone.

        Raises KubeError.
        """
        resource = await self._discovery.by_kind(request.watch.gvk)
        if resource is None:
            return None
        path = resource.path(request.key)
        try:
            obj = obj or await self._client.get(path)
            if not self._shard.is_draining(obj) or not self._shard.selector.matches(obj):
                return obj
            metadata = {
                "resourceVersion": obj["metadata"]["resourceVersion"],
                "labels": {self._shard.label: None, self._shard.drain_label: None},
            }
            return await self._client.patch(path, {"metadata": metadata})
        except NotFound as error:
            if not is_cr_not_found(error, request):
                raise
            return None

    def _finish(self, request: Request, obj: Object | None, deliver: Notify) -> None:
        """End the draining of a CR: `obj` is what it is in the cluster, None if it is gone."""
        last = self._draining.pop(request)
        self._queue.release(request)
        if obj is None:
            # The reconcile finds nothing there and clears up.
            self._queue.add(request, Priority.CHANGE)
            return
        newest = max(obj, last, key=_version)
        if self._shard.selector.matches(newest):
            # The sharder has changed its mind, which it may do before the answer to the patch is here.
            deliver(request.watch, "MODIFIED", newest)
        else:
            self._left[request] = _version(newest)
            logger.info("The CR is let go to another shard", extra=request.fields)


def _version(obj: Object) -> int:
    return version_number(obj["metadata"].get("resourceVersion", ""))
