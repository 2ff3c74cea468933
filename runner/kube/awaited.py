"""Objects that a run has seen and whose labels will bring them into an informer's store: created or moved a moment ago.

The sharder labels what a CR owns some time after the CR itself, and until then no watch of the CR's shard reports it.

Next on the way: `runner.kube.informer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic

from runner.kube.client import ApiClient, NotFound
from runner.kube.discovery import Resource
from runner.resource.comparison import without_metadata
from runner.resource.metadata import Object, ObjectKey, labels_of, version_number
from runner.resource.selectors import Selector

# Seconds after which an awaited object is asked for, and after which its labels are not expected any more.
_ASKED_AFTER, _GIVEN_UP_AFTER = 10.0, 300.0
# A shard that gets the CRs of another awaits all that they own.
_MOST = 10_000


class Awaited:
    """The objects that a store awaits, as they were when a run last saw them."""

    def __init__(self, selector: Selector) -> None:
        self._selector = selector
        # With the time since when it is awaited.
        self._objects: dict[ObjectKey, tuple[Object, float]] = {}

    def __iter__(self) -> Iterator[tuple[ObjectKey, Object]]:
        return iter([(key, obj) for key, (obj, _) in self._objects.items()])

    def add(self, key: ObjectKey, obj: Object) -> None:
        """Await an object, or remember how it is now."""
        seen, since = self._objects.get(key, (None, monotonic()))
        if seen is None or not _is_as_new(seen, obj):
            self._objects[key] = (without_metadata(obj, ("managedFields",)), since)

    def pop(self, key: ObjectKey, obj: Object | None) -> Object | None:
        """An awaited object as it was when it was seen, except that `obj`, which has come, is no change if it is older."""
        seen, _ = self._objects.pop(key, (None, 0.0))
        if seen is None or obj is None:
            return seen
        return obj if _is_as_new(seen, obj) else self._as_selected(seen, obj)

    async def ask(
        self, client: ApiClient, resource: Resource, notify: Callable[[Object | None, Object | None], None]
    ) -> None:
        """Ask for each object that should have come by now, and notify of what became of it. Raises KubeError."""
        for key, (_, since) in list(self._objects.items()):
            if monotonic() - since < _ASKED_AFTER:
                continue
            try:
                found: Object | None = await client.get(resource.path(key))
            except NotFound:
                found = None
            # It may have come meanwhile.
            if key in self._objects:
                seen, since = self._objects.pop(key)
                if found is not None:
                    found = without_metadata(found, ("managedFields",))
                    self._objects[key] = (found, since)
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
        """An object whose labels are not expected any more; None if there is none."""
        if len(self._objects) > _MOST:
            return next(iter(self._objects))
        late = (
            key
            for key, (obj, since) in self._objects.items()
            if monotonic() - since > _GIVEN_UP_AFTER and not self._selector.matches(obj)
        )
        return next(late, None)


def _is_as_new(seen: Object, obj: Object) -> bool:
    """True if the version of what was seen is the other's or a later one, as far as that can be known."""
    versions = [version_number(str(each["metadata"].get("resourceVersion"))) for each in (seen, obj)]
    return versions[0] >= versions[1] > 0
