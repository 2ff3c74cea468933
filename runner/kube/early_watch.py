"""Watching CRs while they are still being listed: a new CR does not wait until thousands of others have been found.

All pages of a list show the moment of the first. A watch from that moment on tells meanwhile of what has happened
since; what it has told of is newer than what a later page says. After the list kopf watches from where this one has come to.

Next on the way: `runner.kube.kopf_transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping

from runner.json_codec import JsonObject
from runner.kube.client import KubeError
from runner.resource.metadata import Object, ObjectKey

logger = logging.getLogger(__name__)

# Begins a watch of a path, with the parameters of its query.
BeginWatch = Callable[[str, Mapping[str, str]], AsyncGenerator[JsonObject, None]]
# Delivers an event, by its type and object; False if it has to come another way.
Deliver = Callable[[str, Object], bool]

_DELIVERED = ("ADDED", "MODIFIED", "DELETED")
# Seconds after which the API server ends it. A list that takes longer has its later events after its end.
_LONGEST = "300"


class EarlyWatch:
    """A watch that lasts until it is stopped, or meets an event that it cannot deliver: the next watch brings that again.

    `version` is the resourceVersion up to which all has been delivered; `seen` has the CRs that it has told of, with False
    for those that were deleted.
    """

    def __init__(self, begin: BeginWatch, path: str, version: str, selector: str, deliver: Deliver) -> None:
        self.version = version
        self.seen: dict[ObjectKey, bool] = {}
        self._deliver = deliver
        params = {"resourceVersion": version, "timeoutSeconds": _LONGEST}
        events = begin(path, {**params, "labelSelector": selector} if selector else params)
        self._following = asyncio.create_task(self._follow(path, events), name=f"early watch of {path}")

    def stop(self) -> asyncio.Task[None]:
        """Deliver nothing more; returns what has then to end."""
        self._following.cancel()
        return self._following

    async def _follow(self, path: str, events: AsyncGenerator[JsonObject, None]) -> None:
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    if not self._take(event):
                        return
        except KubeError as error:
            logger.debug(
                "CRs are not watched before they have been listed", extra={"path": path, "reason": str(error)[:500]}
            )
        except Exception:
            logger.exception("CRs are not watched before they have been listed", extra={"path": path})

    def _take(self, event: JsonObject) -> bool:
        kind, obj = event.get("type"), event["object"]
        metadata = obj.get("metadata")
        version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        if not isinstance(version, str) or not version:
            return False
        if kind in _DELIVERED:
            if not self._deliver(kind, obj):
                return False
            self.seen[ObjectKey.of(obj)] = kind != "DELETED"
        elif kind != "BOOKMARK":
            return False
        self.version = version
        return True
