"""Events → Requests: what is news, and whose turn it is.

The decisions are small functions; `Handlers` holds the little that has to be remembered between events.

Next on the way: `runner.control.workqueue`.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runner.config.related import MappingError
from runner.config.watches import Related, Watch, is_dry_run
from runner.control import Priority, Request
from runner.control.own_writes import Change, Echoes
from runner.json_codec import encode
from runner.kube.primaries import EventType
from runner.resource.comparison import changed_fields, content, declared, differ, in_place_of_generation
from runner.resource.metadata import (
    GroupKind,
    GroupVersionKind,
    Object,
    ObjectKey,
    annotations_of,
    is_deleting,
    owner_references,
    owners,
)

logger = logging.getLogger(__name__)

# Gives a CR a turn, after so many seconds.
Add = Callable[[Request, Priority, float], None]

# Of a change, how many fields are named, and how much of each name.
_MOST_FIELDS, _LONGEST_FIELD = 5, 80
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
        generation = metadata.get("generation")
        return cls(
            uid=metadata.get("uid", ""),
            deleting=is_deleting(obj),
            # Secrets, Nodes and others have no generation: what a generation would count is looked at itself.
            generation=generation if isinstance(generation, int) and generation else _digest(in_place_of_generation(obj)),
            annotations=_digest(annotations_of(obj)) if watch.watch_annotations else str(is_dry_run(watch, obj)),
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
        # Why CRs have last been put on the queue.
        self._causes: dict[Request, str] = {}

    def primary(self, watch: Watch, event: EventType, obj: Object) -> None:
        """Something happened to a CR, or it was found by listing (`event` None)."""
        request = Request(watch, ObjectKey.of(obj))
        if event == "DELETED":
            self._deleted(request, obj["metadata"].get("uid", ""))
            return
        self._remember(watch, obj)
        if not watch.selector.matches(obj):
            self._forget_request(request)
            return
        sight, before = Sight.of(watch, obj), self._seen.get(request)
        if sight != before or request in self._waiting:
            self._waiting[request] = obj
        if sight == before:
            return
        self._seen[request] = sight
        if event is None and before is None and has_been_reconciled(obj):
            self._put(request, Priority.PERIODIC, "found by listing", random.uniform(0, _START_SPREAD))
        else:
            self._put(request, Priority.CHANGE, _cause(before, sight))

    def listed(self, watch: Watch, namespace: str, present: Collection[ObjectKey]) -> None:
        """The CRs of a watch that there are, in a namespace or (namespace empty) all: others' deletion was not told."""
        for request in [request for request in self._seen if request.watch == watch]:
            if namespace in ("", request.key.namespace) and request.key not in present:
                self._deleted(request, self._seen[request].uid)

    def changed(self, before: Object | None, after: Object | None) -> None:
        """Something happened to an object that a role may have created, or that may concern CRs otherwise."""
        # Both: an owner that was taken off the object should know.
        versions = [obj for obj in (before, after) if obj is not None]
        requests: set[Request] = set()
        if dependent_changed(before, after):
            requests.update(request for obj in versions for request in self._requests(obj, gone=after is None))
        if self._related and differ(before and content(before), after and content(after)):
            requests.update(request for obj in versions for request in self._concerned(obj))
        if not requests:
            return
        change, cause = Change.between(before, after), ""
        for request in requests:
            if not self._echoes.pass_over(request, change):
                # Once, however many are concerned, and for none that is passed over.
                cause = cause or _what_changed(before, after)
                self._put(request, Priority.DEPENDENT, cause)

    def keeps(self, obj: Object) -> bool:
        """Whether what happens to an object that is no CR may ever concern one: it says that it is owned, or is related."""
        if GroupVersionKind.of(obj) in self._related:
            return True
        return any(kind in self._by_kind for kind, _ in owners(obj))

    def cause(self, request: Request) -> str:
        """Why a CR was put on the queue last, for the log; empty if that was by no event, or has been asked for already."""
        return self._causes.pop(request, "")

    def again(self, kinds: Collection[str]) -> None:
        """What CRs of these kinds (see GroupVersionKind) are run by has changed."""
        for request in self._seen:
            if str(request.watch.gvk) in kinds:
                self._put(request, Priority.CHANGE, "what it is run by has changed")

    def missed(self, request: Request) -> None:
        """During the CR's run something happened to its dependents that was not the run's own doing."""
        self._put(request, Priority.DEPENDENT, "a dependent changed during the run")

    def take(self, request: Request) -> Object | None:
        """A CR whose turn has come, as the watch has told it, if it was that which gave it the turn."""
        return self._waiting.pop(request, None)

    def forget(self, request: Request, uid: str | None = None) -> None:
        """The CR of this uid is gone; None: whichever it was. Its deletion may never have been told."""
        if self._drop(request, uid):
            self._echoes.forget(request)

    def _deleted(self, request: Request, uid: str) -> None:
        """A CR is gone, which may be told later than that another has come by its name; its run may still be on."""
        was_seen = request in self._seen
        # The turn finds nothing there and clears up.
        if self._drop(request, uid) and was_seen:
            self._put(request, Priority.CHANGE, "deleted")

    def _drop(self, request: Request, uid: str | None) -> bool:
        """Forget what was seen of a CR; False if one of another uid that has its name has been seen, and is there."""
        sight = self._seen.get(request)
        if uid is not None and sight is not None and sight.uid != uid:
            return False
        self._forget_request(request)
        if request.watch in self._crs:
            self._crs[request.watch].pop(request.key, None)
        return True

    def _forget_request(self, request: Request) -> None:
        """Forget what was seen of a CR, and that it waits."""
        for known in (self._seen, self._waiting, self._causes):
            known.pop(request, None)

    def _put(self, request: Request, priority: Priority, cause: str, after: float = 0) -> None:
        logger.debug("Queued", extra={**request.fields, "cause": cause})
        self._causes[request] = cause
        self._add(request, priority, after)

    def _remember(self, watch: Watch, obj: Object) -> None:
        if watch in self._crs:
            if watch.selector.matches(obj):
                self._crs[watch][ObjectKey.of(obj)] = obj
            else:
                self._crs[watch].pop(ObjectKey.of(obj), None)

    def _concerned(self, obj: Object) -> Iterator[Request]:
        """The CRs to which watches map an object that is not theirs."""
        for watch, related in self._related.get(GroupVersionKind.of(obj), ()):
            if not related.selector.matches(obj):
                continue
            try:
                keys = related.mapper(obj, self._crs[watch].values())
                found = [request for key in keys for request in self._known(watch, key)]
            except Exception as error:
                # Of the object's own shape, which is a tenant's; the words of others than MappingError may quote it.
                if (watch.gvk, related.gvk) not in self._failed:
                    self._failed.add((watch.gvk, related.gvk))
                    fields = {"kind": watch.gvk.kind, "object": f"{related.gvk.kind} {ObjectKey.of(obj)}"}
                    reason = str(error) if isinstance(error, MappingError) else type(error).__name__
                    logger.warning("A related object could not be mapped to CRs", extra={**fields, "error": reason})
                continue
            yield from found

    def _known(self, watch: Watch, key: ObjectKey) -> list[Request]:
        """The CR, if there is one. What names it may not know whether it is namespaced; what has been seen does."""
        candidates = (Request(watch, key), Request(watch, ObjectKey("", key.name)))
        return [request for request in candidates if request in self._seen]

    def _requests(self, obj: Object, *, gone: bool) -> Iterator[Request]:
        """The CRs that an object belongs to: those of its references' uids, and those that it names by annotation.

        What is gone concerns a CR of the same name, too: it may have been an earlier one's, of which this one's role found
        it still there.
        """
        uids, own = _uids_of_owners(obj), ObjectKey.of(obj).namespace
        for kind, key in owners(obj):
            for watch in self._by_kind.get(kind, ()):
                # Another watch may have had this kind watched.
                if wants(watch, GroupVersionKind.of(obj), namespaced=bool(own), owner=key):
                    for request in self._known(watch, key):
                        # No reference leads into another namespace: there an annotation names a namesake.
                        referred = uids.get((kind, key.name)) if key.namespace == own else None
                        if gone or referred is None or self._seen[request].uid in referred:
                            yield request


def dependent_changed(before: Object | None, after: Object | None) -> bool:
    """Whether the CR should have another look. Creation is the role's own doing, and status is the cluster's."""
    if before is None:
        return False
    if after is None:
        return True
    return differ(declared(before), declared(after))


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


def _digest(value: Any) -> str:
    """Equal for equal JSON. An annotation may have 256 KB, and a Secret 1 MB: they are not kept."""
    return hashlib.sha256(encode(value, sort_keys=True)).hexdigest()


def _uids_of_owners(obj: Object) -> dict[tuple[GroupKind, str], set[str]]:
    """By kind and name, the uids that owner references have."""
    uids: dict[tuple[GroupKind, str], set[str]] = {}
    for reference in owner_references(obj):
        owner = GroupVersionKind.of(reference).group_kind, str(reference.get("name", ""))
        uids.setdefault(owner, set()).add(str(reference.get("uid", "")))
    return uids


def _cause(before: Sight | None, after: Sight) -> str:
    """What is news of a CR."""
    if before is None:
        return "created"
    if before.uid != after.uid:
        return "created anew"
    if after.deleting and not before.deleting:
        return "deletion asked for"
    return "changed" if before.generation != after.generation else "annotations changed"


def _what_changed(before: Object | None, after: Object | None) -> str:
    """A change in a few words: `ConfigMap default/x changed: data.a, metadata.labels`."""
    obj = after or before or {}
    name = f"{obj.get('kind', '')} {ObjectKey.of(obj)}".strip()
    if before is None or after is None:
        return f"{name} {'created' if before is None else 'deleted'}"
    fields = list(changed_fields(declared(before), declared(after)))
    named = ", ".join(field[:_LONGEST_FIELD] for field in fields[:_MOST_FIELDS])
    more = " and more" if len(fields) > _MOST_FIELDS else ""
    return f"{name} changed: {named}{more}" if fields else f"{name} changed: status"
