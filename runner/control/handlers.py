"""Events → Requests: what is news, and whose turn it is.

The decisions are small functions; `Handlers` holds the little that has to be remembered between events.

Next on the way: `runner.control.workqueue`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from runner.control import Priority, Request
from runner.kube.primaries import EventType
from runner.resource.metadata import GroupKind, GroupVersionKind, Object, ObjectKey, annotations_of, is_deleting, owners
from runner.watches import Watch

# Gives a CR a turn, after so many seconds.
Add = Callable[[Request, Priority, float], None]

# Annotations by which Kubernetes' own controllers keep count, after every change and about nothing that a role set.
_BOOKKEEPING = frozenset({"deployment.kubernetes.io/revision"})
# Seconds over which CRs that were there before the runner get their first turn.
_START_SPREAD = 1.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What of a CR was seen last: a run is caused when this changes, and by nothing else."""

    uid: str
    deleting: bool
    generation: int | str
    annotations: str

    @classmethod
    def of(cls, watch: Watch, obj: Object) -> Sight:
        metadata = obj["metadata"]
        return cls(
            uid=metadata.get("uid", ""),
            deleting=is_deleting(obj),
            # Secrets, ConfigMaps and others have no generation: any change counts.
            generation=metadata.get("generation") or f"version {metadata.get('resourceVersion')}",
            annotations=json.dumps(annotations_of(obj), sort_keys=True) if watch.watch_annotations else "",
        )


class Handlers:
    """Puts Requests on the queue. Called in the event loop, by kopf for primaries and by the informers for dependents."""

    def __init__(self, watches: Sequence[Watch], add: Add) -> None:
        self._add = add
        self._by_kind: dict[GroupKind, list[Watch]] = {}
        for watch in watches:
            self._by_kind.setdefault(watch.gvk.group_kind, []).append(watch)
        self._seen: dict[Request, Sight] = {}

    def primary(self, watch: Watch, event: EventType, obj: Object) -> None:
        """Something happened to a CR, or it was found by listing (`event` None)."""
        request = Request(watch, ObjectKey.of(obj))
        if event == "DELETED":
            # The turn finds nothing there and clears up.
            if self._seen.pop(request, None) is not None:
                self._add(request, Priority.CHANGE, 0)
            return
        if not watch.selector.matches(obj):
            self._seen.pop(request, None)
            return
        sight, before = Sight.of(watch, obj), self._seen.get(request)
        if sight == before:
            return
        self._seen[request] = sight
        if event is None and before is None and has_been_reconciled(obj):
            self._add(request, Priority.PERIODIC, random.uniform(0, _START_SPREAD))
        else:
            self._add(request, Priority.CHANGE, 0)

    def dependent(self, before: Object | None, after: Object | None) -> None:
        """Something happened to an object that a role may have created."""
        if not dependent_changed(before, after):
            return
        # Both: an owner that was taken off the object should know.
        requests = {request for obj in (before, after) if obj is not None for request in self._requests(obj)}
        for request in requests:
            self._add(request, Priority.DEPENDENT, 0)

    def _requests(self, obj: Object) -> list[Request]:
        found = []
        for kind, key in owners(obj):
            for watch in self._by_kind.get(kind, ()):
                if not answers_for(watch, obj, key):
                    continue
                # A reference does not say whether its owner is namespaced; what has been seen does.
                candidates = (Request(watch, key), Request(watch, ObjectKey("", key.name)))
                found += [request for request in candidates if request in self._seen]
        return found


def dependent_changed(before: Object | None, after: Object | None) -> bool:
    """Whether the CR should have another look. Creation is the role's own doing, and status is the cluster's."""
    if before is None:
        return False
    if after is None:
        return True
    return _essence(before) != _essence(after)


def answers_for(watch: Watch, obj: Object, owner: ObjectKey) -> bool:
    """Whether a watch wants to know of such an object of its CR; another watch may have had its kind watched."""
    if not watch.watch_dependents or GroupVersionKind.of(obj) in watch.blacklist:
        return False
    # A namespaced CR's cluster-scoped things are found by annotation, over the whole cluster: only if asked for.
    return bool(ObjectKey.of(obj).namespace or not owner.namespace) or watch.watch_cluster_scoped


def has_been_reconciled(obj: Object) -> bool:
    """Whether a runner, perhaps an earlier one, has written conditions on this CR: it is not new."""
    status = obj.get("status")
    return isinstance(status, dict) and bool(status.get("conditions"))


def _essence(obj: Object) -> dict[str, Any]:
    metadata = {name: value for name, value in obj["metadata"].items() if name not in ("resourceVersion", "managedFields")}
    metadata["annotations"] = {name: value for name, value in annotations_of(obj).items() if name not in _BOOKKEEPING}
    return {**{name: value for name, value in obj.items() if name != "status"}, "metadata": metadata}
