"""Events → Requests: what is news, and whose turn it is.

The decisions are small functions; `Handlers` holds the little that has to be remembered between events.

Next on the way: `runner.control.workqueue`.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runner.control import Priority, Request
from runner.control.echoes import Change, Echoes
from runner.kube.primaries import EventType
from runner.mapping import MappingError
from runner.resource.metadata import GroupKind, GroupVersionKind, Object, ObjectKey, annotations_of, is_deleting, owners
from runner.watches import DRY_RUN, Related, Watch, is_dry_run

logger = logging.getLogger(__name__)

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
        metadata, annotations = obj["metadata"], annotations_of(obj)
        noticed = annotations if watch.watch_annotations else {DRY_RUN: is_dry_run(watch, obj)}
        return cls(
            uid=metadata.get("uid", ""),
            deleting=is_deleting(obj),
            # Secrets, ConfigMaps and others have no generation: any change counts.
            generation=metadata.get("generation") or f"version {metadata.get('resourceVersion')}",
            annotations=json.dumps(noticed, sort_keys=True),
        )


class Handlers:
    """Puts Requests on the queue. Called in the event loop, by kopf for primaries and by the informers for dependents."""

    def __init__(self, watches: Sequence[Watch], add: Add, echoes: Echoes) -> None:
        self._add = add
        self._echoes = echoes
        self._by_kind: dict[GroupKind, list[Watch]] = {}
        for watch in watches:
            self._by_kind.setdefault(watch.gvk.group_kind, []).append(watch)
        self._seen: dict[Request, Sight] = {}
        # CRs that wait for their turn because of a change, as they are now.
        self._waiting: dict[Request, Object] = {}
        self._related: dict[GroupVersionKind, list[tuple[Watch, Related]]] = {}
        for watch in watches:
            for related in watch.related:
                self._related.setdefault(related.gvk, []).append((watch, related))
        # The CRs as they are now, of watches with related kinds: expressions look at them.
        self._crs: dict[Watch, dict[ObjectKey, Object]] = {watch: {} for watch in watches if watch.related}
        # Mappings that failed, and need not be told for every object.
        self._failed: set[tuple[GroupVersionKind, GroupVersionKind]] = set()

    def primary(self, watch: Watch, event: EventType, obj: Object) -> None:
        """Something happened to a CR, or it was found by listing (`event` None)."""
        request = Request(watch, ObjectKey.of(obj))
        self._remember(watch, event, obj)
        if event == "DELETED":
            self._waiting.pop(request, None)
            # The turn finds nothing there and clears up.
            if self._seen.pop(request, None) is not None:
                self._add(request, Priority.CHANGE, 0)
            return
        if not watch.selector.matches(obj):
            self._seen.pop(request, None)
            self._waiting.pop(request, None)
            return
        sight, before = Sight.of(watch, obj), self._seen.get(request)
        if sight != before or request in self._waiting:
            self._waiting[request] = obj
        if sight == before:
            return
        self._seen[request] = sight
        if event is None and before is None and has_been_reconciled(obj):
            self._add(request, Priority.PERIODIC, random.uniform(0, _START_SPREAD))
        else:
            self._add(request, Priority.CHANGE, 0)

    def changed(self, before: Object | None, after: Object | None) -> None:
        """Something happened to an object that a role may have created, or that may concern CRs otherwise."""
        # Both: an owner that was taken off the object should know.
        versions = [obj for obj in (before, after) if obj is not None]
        requests: set[Request] = set()
        if dependent_changed(before, after):
            requests.update(request for obj in versions for request in self._requests(obj))
        if self._related and _content(before) != _content(after):
            requests.update(request for obj in versions for request in self._concerned(obj))
        change = Change.between(before, after)
        for request in requests:
            if not self._echoes.pass_over(request, change):
                self._add(request, Priority.DEPENDENT, 0)

    def again(self, kinds: Collection[str]) -> None:
        """What CRs of these kinds (see GroupVersionKind) are run by has changed."""
        for request in self._seen:
            if str(request.watch.gvk) in kinds:
                self._add(request, Priority.CHANGE, 0)

    def take(self, request: Request) -> Object | None:
        """A CR whose turn has come, as the watch has told it, if it was that which gave it the turn."""
        return self._waiting.pop(request, None)

    def forget(self, request: Request, uid: str | None = None) -> None:
        """The CR is gone. Its deletion may never have been told."""
        self._seen.pop(request, None)
        self._waiting.pop(request, None)
        self._echoes.forget(request)
        if request.watch in self._crs:
            self._crs[request.watch].pop(request.key, None)

    def _remember(self, watch: Watch, event: EventType, obj: Object) -> None:
        if watch in self._crs:
            if event == "DELETED" or not watch.selector.matches(obj):
                self._crs[watch].pop(ObjectKey.of(obj), None)
            else:
                self._crs[watch][ObjectKey.of(obj)] = obj

    def _concerned(self, obj: Object) -> Iterator[Request]:
        """The CRs to which watches map an object that is not theirs."""
        for watch, related in self._related.get(GroupVersionKind.of(obj), ()):
            if not related.selector.matches(obj):
                continue
            try:
                keys = related.mapper(obj, self._crs[watch].values())
            except MappingError as error:
                if (watch.gvk, related.gvk) not in self._failed:
                    self._failed.add((watch.gvk, related.gvk))
                    fields = {"kind": watch.gvk.kind, "object": f"{related.gvk.kind} {ObjectKey.of(obj)}"}
                    logger.warning("A related object could not be mapped to CRs", extra={**fields, "error": str(error)})
                continue
            for key in keys:
                yield from self._known(watch, key)

    def _known(self, watch: Watch, key: ObjectKey) -> list[Request]:
        """The CR, if there is one. What names it may not know whether it is namespaced; what has been seen does."""
        candidates = (Request(watch, key), Request(watch, ObjectKey("", key.name)))
        return [request for request in candidates if request in self._seen]

    def _requests(self, obj: Object) -> Iterator[Request]:
        for kind, key in owners(obj):
            for watch in self._by_kind.get(kind, ()):
                # Another watch may have had this kind watched.
                namespaced = bool(ObjectKey.of(obj).namespace)
                if wants(watch, GroupVersionKind.of(obj), namespaced=namespaced, owner=key):
                    yield from self._known(watch, key)


def dependent_changed(before: Object | None, after: Object | None) -> bool:
    """Whether the CR should have another look. Creation is the role's own doing, and status is the cluster's."""
    if before is None:
        return False
    if after is None:
        return True
    return _essence(before) != _essence(after)


def wants(watch: Watch, gvk: GroupVersionKind, *, namespaced: bool, owner: ObjectKey) -> bool:
    """Whether a watch wants to know of objects of this kind that its CR `owner` has."""
    if not watch.watch_dependents or gvk in watch.blacklist:
        return False
    # A namespaced CR's cluster-scoped things are found by annotation, over the whole cluster: only if asked for.
    return namespaced or not owner.namespace or watch.watch_cluster_scoped


def has_been_reconciled(obj: Object) -> bool:
    """Whether a runner, perhaps an earlier one, has written conditions on this CR: it is not new."""
    status = obj.get("status")
    return isinstance(status, dict) and bool(status.get("conditions"))


def _content(obj: Object | None) -> dict[str, Any] | None:
    """All of an object but what changes with every write."""
    if obj is None:
        return None
    metadata = {name: value for name, value in obj["metadata"].items() if name not in ("resourceVersion", "managedFields")}
    return {**obj, "metadata": metadata}


def _essence(obj: Object) -> dict[str, Any]:
    content = _content(obj) or {}
    annotations = {name: value for name, value in annotations_of(obj).items() if name not in _BOOKKEEPING}
    essence = {name: value for name, value in content.items() if name != "status"}
    return {**essence, "metadata": {**content["metadata"], "annotations": annotations}}
