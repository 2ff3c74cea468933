"""Kubernetes Events on a CR or on the Lease, for `kubectl describe`.

The rules are client-go's: an Event that is posted again within ten minutes is the same one, counted, and an object gets 25
at once and one more each five minutes. What a tenant makes a CR say, again and again, fills neither etcd nor this process.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import TypeVar
from uuid import uuid4

from runner.json_codec import JsonObject
from runner.kube.client import ApiClient, KubeError, NotFound, Refused
from runner.resource.metadata import Owner, cut

logger = logging.getLogger(__name__)

# The API server refuses longer ones.
_NOTE_LIMIT = 1024
_COMPONENT = "rolerunner"

# client-go's: seconds within which the same Event is counted; Events of an object at once, and seconds for one more.
_WINDOW = 600.0
_BURST = 25
_REFILL = 300.0
# Objects, and Events, that are remembered.
_MOST = 4096


@dataclass(slots=True)
class _Posted:
    """An Event that was posted: its path, its count, and when it was last written to the cluster."""

    path: str
    first: str
    count: int
    at: float


class EventRecorder:
    """Posts Events, counts repeated ones, and limits them per object. `clock` gives seconds."""

    def __init__(self, client: ApiClient, *, clock: Callable[[], float] = monotonic) -> None:
        self._client = client
        self._clock = clock
        # By hashes of what makes an Event the same; the latest last.
        self._posted: OrderedDict[int, _Posted] = OrderedDict()
        # Events that an object may have now, and when that was reckoned, by uid.
        self._allowed: OrderedDict[str, tuple[float, float]] = OrderedDict()
        # Rights of older deployments allow only the creation of Events.
        self._may_patch = True

    async def warn(self, owner: Owner, *, reason: str, note: str) -> None:
        """Post a Warning on a CR."""
        await self.post(owner, type="Warning", action="Reconcile", reason=reason, note=note)

    async def post(self, owner: Owner, *, type: str, action: str, reason: str, note: str) -> None:
        """Post an Event, or count it. A failure is logged and nothing else."""
        note, now = cut(note, _NOTE_LIMIT), self._clock()
        key = hash((owner.uid, type, action, reason, note))
        before = self._posted.get(key)
        if before is not None and now - before.at > _WINDOW:
            before = None
            del self._posted[key]
        if before is not None:
            before.count += 1
        if (before is not None and not self._may_patch) or not self._is_allowed(owner.uid, now):
            logger.debug("An Event is not posted again", extra={"reason": reason, "on": str(owner.key)})
            return
        try:
            if before is None or not await self._counted(before, now):
                body = _event(owner, type=type, action=action, reason=reason, note=note)
                if before is not None:
                    body |= {"firstTimestamp": before.first, "count": before.count}
                namespace = body["metadata"]["namespace"]
                await self._client.post(_path(namespace), body)
                path = f"{_path(namespace)}/{body['metadata']['name']}"
                _remember(self._posted, key, _Posted(path, body["firstTimestamp"], body["count"], now))
        except KubeError as error:
            logger.info("An Event could not be posted", extra={"reason": reason, "error": str(error)})

    async def _counted(self, posted: _Posted, now: float) -> bool:
        """Update the count of an Event; False if it does not exist any more."""
        try:
            await self._client.patch(posted.path, {"count": posted.count, "lastTimestamp": _timestamp()})
        except NotFound:
            return False
        except Refused:
            self._may_patch = False
            return True
        posted.at = now
        return True

    def _is_allowed(self, uid: str, now: float) -> bool:
        allowed, at = self._allowed.get(uid, (float(_BURST), now))
        allowed = min(allowed + (now - at) / _REFILL, float(_BURST))
        _remember(self._allowed, uid, (max(allowed - 1, 0) if allowed >= 1 else allowed, now))
        return allowed >= 1


async def post(client: ApiClient, owner: Owner, *, type: str, action: str, reason: str, note: str) -> None:
    """Post one Event. A failure is logged and nothing else."""
    await EventRecorder(client).post(owner, type=type, action=action, reason=reason, note=note)


def _event(owner: Owner, *, type: str, action: str, reason: str, note: str) -> JsonObject:
    """An Event of the core group: the same object as one of events.k8s.io, and what most Roles allow."""
    now = _timestamp()
    # A name's parts end in a letter or a digit.
    name = owner.key.name[:200].rstrip("-.")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        # Events on cluster-scoped objects live in the namespace `default`.
        "metadata": {"name": f"{name}.{uuid4().hex[:16]}", "namespace": owner.key.namespace or "default"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "type": type,
        "reason": reason,
        "action": action,
        "message": note,
        "source": {"component": _COMPONENT},
        "reportingComponent": _COMPONENT,
        "reportingInstance": _COMPONENT,
        "involvedObject": {**owner.reference(), "namespace": owner.key.namespace},
    }


def _path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/events"


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


Key = TypeVar("Key")
Value = TypeVar("Value")


def _remember(kept: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _MOST:
        kept.popitem(last=False)
