"""Objects that a run has seen and whose labels will bring them into an informer's store: created or moved a moment ago.

The sharder labels what a CR owns some time after the CR itself, and until then no watch of the CR's shard reports it.

Next on the way: `runner.kube.informer`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import monotonic

from runner.kube.client import ApiClient, KubeError, NotFound
from runner.kube.discovery import Resource
from runner.resource.comparison import without_metadata
from runner.resource.metadata import Object, ObjectKey, labels_of, object_version
from runner.resource.selectors import Selector

logger = logging.getLogger(__name__)

# Seconds after which an awaited object is asked for, twice as many for each further time, and after which it is not expected
# any more.
_ASKED_AFTER, _GIVEN_UP_AFTER = 10.0, 300.0
# A shard that gets the CRs of another awaits all that they own.
_MOST = 10_000


@dataclass(slots=True)
class _Entry:
    """An awaited object as last seen, since when it is awaited, and when it is asked for next."""

    obj: Object
    since: float = field(default_factory=lambda: monotonic())
    pause: float = _ASKED_AFTER
    due: float = 0.0

    def __post_init__(self) -> None:
        self.due = self.since + self.pause

    def postpone(self) -> None:
        self.pause *= 2
        self.due = monotonic() + self.pause


class Awaited:
    """The objects that a store awaits, as they were when a run last saw them."""

    def __init__(self, selector: Selector) -> None:
        self._selector = selector
        self._entries: dict[ObjectKey, _Entry] = {}

    def __iter__(self) -> Iterator[tuple[ObjectKey, Object]]:
        return iter([(key, entry.obj) for key, entry in self._entries.items()])

    def add(self, key: ObjectKey, obj: Object) -> None:
        """Await an object, or remember how it is now."""
        entry, slim = self._entries.get(key), without_metadata(obj, ("managedFields",))
        if entry is None:
            self._entries[key] = _Entry(slim)
        elif not _is_as_new(entry.obj, obj):
            entry.obj = slim

    def pop(self, key: ObjectKey, obj: Object | None) -> Object | None:
        """An awaited object as it was when it was seen, except that `obj`, which has come, is no change if it is older."""
        entry = self._entries.pop(key, None)
        seen = entry.obj if entry else None
        if seen is None or obj is None:
            return seen
        return obj if _is_as_new(seen, obj) else self._as_selected(seen, obj)

    async def ask(
        self, client: ApiClient, resource: Resource, notify: Callable[[Object | None, Object | None], None]
    ) -> None:
        """Ask for each object that should have come by now, and notify of what became of it."""
        for key, entry in list(self._entries.items()):
            if monotonic() < entry.due:
                continue
            entry.postpone()
            try:
                found: Object | None = without_metadata(await client.get(resource.path(key)), ("managedFields",))
            except NotFound:
                found = None
            except KubeError as error:
                logger.debug("An object could not be asked for", extra={"object": str(key), "reason": str(error)})
                continue
            # It may have come meanwhile, or a run may have seen a later state of it.
            if self._entries.get(key) is not entry or (found is not None and _is_as_new(entry.obj, found)):
                continue
            seen = entry.obj
            if found is None:
                del self._entries[key]
            else:
                entry.obj = found
            notify(seen if found is None else self._as_selected(seen, found), found)

    def _as_selected(self, seen: Object, obj: Object) -> Object:
        """The object that was seen, with the labels of the selector as `obj` has them: that they have come is no change."""
        labels, present = dict(labels_of(seen)), labels_of(obj)
        for requirement in self._selector.requirements:
            labels.pop(requirement.key, None)
            if requirement.key in present:
                labels[requirement.key] = present[requirement.key]
        metadata = {name: value for name, value in seen["metadata"].items() if name != "labels"}
        return {**seen, "metadata": {**metadata, "labels": labels} if labels else metadata}

    def overdue(self) -> ObjectKey | None:
        """An object that will get no labels, as it seems; None if there is none.

        One that has got them is given up: this shard's comes by itself when it can be listed, another's went with its CR.
        """
        for key, entry in list(self._entries.items()):
            if len(self._entries) <= _MOST and monotonic() - entry.since <= _GIVEN_UP_AFTER:
                continue
            if not any(requirement.key in labels_of(entry.obj) for requirement in self._selector.requirements):
                return key
            del self._entries[key]
        return None


def _is_as_new(seen: Object, obj: Object) -> bool:
    """True if the version of what was seen is the other's or a later one, as far as that can be known."""
    return object_version(seen) >= object_version(obj) > 0
