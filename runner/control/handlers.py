"""Event handlers: make Requests, for the CRs that have to be reconciled, of the watches' events.

The decisions (the predicates, in controller-runtime's terms) are small pure functions; `Handlers` keeps the little that has
to be remembered between events.

Next on the way: `runner.control.workqueue`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from runner import metrics
from runner.config.annotations import is_dry_run
from runner.config.related import MappingError
from runner.config.watches import Related, Watch
from runner.control import Priority, Request, Taken
from runner.control.own_writes import OwnWrites, VersionChange
from runner.json_codec import encode
from runner.kube.primaries import EventType
from runner.logs import Once
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
from runner.resource.sharding import is_labelled

logger = logging.getLogger(__name__)

# Puts a CR on the queue, after so many seconds.
Add = Callable[[Request, Priority, float], None]
# Takes the events of CRs that go to another shard: see `control.drain`.
Takes = Callable[[Request, EventType, Object], Taken | None]

# Called with each CR as it is now, and None for one that is gone or another's.
Observe = Callable[[Request, Object | None], None]

# How many fields of a change are named in the log, and characters of each name.
_MOST_FIELDS, _LONGEST_FIELD = 5, 80
# Fields of a CR's spec that are told apart.
_MOST_SPEC_FIELDS = 200
# CRs that are kept while they wait, which saves reading them again. After a start all that there are may wait for long.
_MOST_DELIVERED = 1000
# Seconds over which the first reconciles of CRs that were there before the runner are spread.
_START_SPREAD = 1.0


@dataclass(frozen=True, slots=True)
class Observed:
    """The part of a CR, as last observed, whose change causes a reconcile; nothing else does."""

    uid: str
    deleting: bool
    generation: int | str
    annotations: str

    @classmethod
    def of(cls, watch: Watch, obj: Object) -> Observed:
        metadata = obj["metadata"]
        generation = metadata.get("generation")
        return cls(
            uid=metadata.get("uid", ""),
            deleting=is_deleting(obj),
            # Secrets, Nodes and others have no generation: then the content stands for it.
            generation=generation if isinstance(generation, int) and generation else _digest(in_place_of_generation(obj)),
            annotations=_digest(annotations_of(obj)) if watch.watch_annotations else str(is_dry_run(watch, obj)),
        )


class Cause(NamedTuple):
    """Why a CR was put on the queue; and the namespace of the object that it was for, if that is another than the CR."""

    text: str = ""
    namespace: str | None = None
    priority: Priority = Priority.PERIODIC


_NO_CAUSE = Cause()


class Handlers:
    """Puts Requests on the queue. Called in the event loop: for primaries by the kopf transport, for dependents by
    the informers."""

    def __init__(
        self, watches: Sequence[Watch], add: Add, takes: Takes | None = None, observe: Observe | None = None
    ) -> None:
        """`takes`: None where CRs go to no other shard. `observe`: see there."""
        self._observe: Observe = observe or (lambda request, obj: None)
        self._add = add
        self._is_shard = takes is not None
        # A shard reads each CR before it is run: it may be another's by then.
        self._most_delivered = 0 if self._is_shard else _MOST_DELIVERED
        self._takes: Takes = takes or (lambda request, event, obj: None)
        self.own_writes = OwnWrites(self._missed)
        self._by_kind: dict[GroupKind, list[Watch]] = {}
        for watch in watches:
            self._by_kind.setdefault(watch.gvk.group_kind, []).append(watch)
        self._observed: dict[Request, Observed] = {}
        for watch in watches:
            metrics.export_custom_resources(str(watch.gvk), partial(self._count, watch))
        # Of each CR the fields of its spec, see `_spec_fields`: for the cause of a reconcile.
        self._spec_fields: dict[Request, dict[str, int]] = {}
        # CRs that wait to be reconciled because of a change, as they are now, up to a number.
        self._delivered: dict[Request, Object] = {}
        self._related: dict[GroupVersionKind, list[tuple[Watch, Related]]] = {}
        for watch in watches:
            for related in watch.related:
                self._related.setdefault(related.gvk, []).append((watch, related))
        # The CRs as they are now, of watches with related kinds: their expressions read them.
        self._crs: dict[Watch, dict[ObjectKey, Object]] = {watch: {} for watch in watches if watch.related}
        # Mappings whose failure has been logged, and need not be for every object.
        self._failed = Once()
        # Why each CR was put on the queue.
        self._causes: dict[Request, Cause] = {}
        # Set when a watch's CRs have been listed.
        self._listed = {watch: asyncio.Event() for watch in watches}

    def _count(self, watch: Watch) -> int:
        return sum(request.watch == watch for request in self._observed)

    def primary(self, watch: Watch, event: EventType, obj: Object) -> None:
        """Handle an event of a CR; `event` is None for a CR that was found by listing."""
        request = Request(watch, ObjectKey.of(obj))
        if event == "DELETED":
            self._deleted(request, obj["metadata"].get("uid", ""))
            return
        taken = self._takes(request, event, obj)
        if taken is Taken.OLD:
            return
        is_selected = watch.selector.matches(obj) and not taken
        self._remember(request, obj if is_selected else None)
        if not is_selected:
            self._forget_request(request)
            return
        self._observe(request, obj)
        observed, before = Observed.of(watch, obj), self._observed.get(request)
        if (observed != before and len(self._delivered) < self._most_delivered) or request in self._delivered:
            self._delivered[request] = obj
        if observed == before:
            return
        self._observed[request] = observed
        known, fields = self._spec_fields.get(request, {}), _spec_fields(obj)
        self._spec_fields[request] = fields
        changed = [name for name in {**known, **fields} if known.get(name) != fields.get(name)] if known and fields else []
        # A CR that comes into a shard was another's before.
        is_found = before is None and (event is None or (event == "ADDED" and self._is_shard))
        if not is_found or not has_been_reconciled(obj):
            self._put(request, Priority.CHANGE, _cause(before, observed, changed))
            return
        cause = "found at the operator's start" if event is None else "given to this shard"
        if has_changed_since(obj):
            self._put(request, Priority.CHANGE, f"{cause}, changed")
        else:
            self._put(request, Priority.PERIODIC, cause, random.uniform(0, _START_SPREAD))

    def listed(self, watch: Watch, namespace: str, present: Collection[ObjectKey]) -> None:
        """Handle a list of a watch's CRs, of one namespace or (namespace empty) of all: others are deleted."""
        # Namespaces first: where there are many, each of them is listed on its own, and has few of the CRs.
        gone = [
            request
            for request in self._observed
            if namespace in ("", request.key.namespace) and request.watch == watch and request.key not in present
        ]
        for request in gone:
            self._deleted(request, self._observed[request].uid)
        self._listed[watch].set()

    async def first_list(self, watch: Watch) -> None:
        """Wait until a watch's CRs have been listed, of several namespaces those of one."""
        await self._listed[watch].wait()

    def has_observed(self, request: Request) -> bool:
        """True if there is such a CR, as far as is known; False as well if it could not be listed yet."""
        return request in self._observed

    def changed(self, before: Object | None, after: Object | None) -> None:
        """Handle an event of an object that a role may have created, or of a related kind."""
        # Both: an owner that was removed from the object is reconciled, too.
        versions = [obj for obj in (before, after) if obj is not None]
        requests: set[Request] = set()
        if dependent_changed(before, after):
            requests.update(request for obj in versions for request in self._owning(obj, gone=after is None))
        if self._related and differ(before and content(before), after and content(after)):
            requests.update(request for obj in versions for request in self._related_to(obj))
        if not requests:
            return
        change, cause = VersionChange.between(before, after), ""
        for request in requests:
            if not self.own_writes.consume(request, change):
                # Computed once for all of them, and not at all for the runs' own writes.
                cause = cause or _describe_change(before, after)
                self._put(request, Priority.DEPENDENT, cause, namespace=ObjectKey.of(versions[0]).namespace)

    def keeps(self, obj: Object) -> bool:
        """True if an object's events may ever requeue a CR: it names an owner of a watched kind, or is of a related kind."""
        if GroupVersionKind.of(obj) in self._related:
            return True
        return any(kind in self._by_kind for kind, _ in owners(obj))

    def pop_cause(self, request: Request) -> str:
        """The reason why a CR was put on the queue, for the log; empty if there is none, or it was popped before."""
        return self._causes.pop(request, _NO_CAUSE).text

    def cause_namespace(self, request: Request) -> str | None:
        """The namespace of the object that the cause names (empty: it is in none); None if it is no other than the CR."""
        return self._causes.get(request, _NO_CAUSE).namespace

    def cause(self, request: Request) -> str:
        """The reason why a CR waits to be reconciled; empty if that is no event."""
        return self._causes.get(request, _NO_CAUSE).text

    def requeue(self, request: Request, cause: str) -> None:
        """Have the CR reconciled now, if there is such a CR."""
        if self.has_observed(request):
            self._put(request, Priority.CHANGE, cause)

    def requeue_kinds(self, kinds: Collection[str]) -> None:
        """Requeue all CRs of these kinds (as GroupVersionKind writes them): their role or playbook has been edited."""
        for request in self._observed:
            if str(request.watch.gvk) in kinds:
                self._put(request, Priority.CHANGE, "its role or playbook was edited")

    def _missed(self, request: Request, change: VersionChange | None) -> None:
        name = f"{change.kind} {change.key}".strip() if change else "a dependent"
        namespace = change.key.namespace if change else None
        self._put(request, Priority.DEPENDENT, f"{name} changed during the run", namespace=namespace)

    def pop_delivered(self, request: Request) -> Object | None:
        """The CR as the watch last delivered it, if that is what put it on the queue."""
        return self._delivered.pop(request, None)

    def forget(self, request: Request, uid: str | None = None) -> None:
        """Drop what is kept of a CR that is gone: the one of this uid, or any. Its deletion may not have been delivered."""
        if self._drop(request, uid):
            self.own_writes.forget(request)

    def _deleted(self, request: Request, uid: str) -> None:
        """Handle a deletion. It may be delivered after another CR of the name was created, and while a run is still on."""
        self._takes(request, "DELETED", {})
        was_observed = request in self._observed
        # The reconcile finds nothing there and clears up.
        if self._drop(request, uid) and was_observed:
            self._put(request, Priority.CHANGE, "deleted")

    def _drop(self, request: Request, uid: str | None) -> bool:
        """Forget a CR; False if another of its name, with another uid, has been observed since."""
        observed = self._observed.get(request)
        if uid is not None and observed is not None and observed.uid != uid:
            return False
        self._forget_request(request)
        self._remember(request, None)
        return True

    def _forget_request(self, request: Request) -> None:
        """Forget what was observed of a CR, and that it waits."""
        for known in (self._observed, self._spec_fields, self._delivered, self._causes):
            known.pop(request, None)
        self._observe(request, None)

    def _put(
        self, request: Request, priority: Priority, cause: str, after: float = 0, *, namespace: str | None = None
    ) -> None:
        logger.debug("Queued", extra={**request.fields, "cause": cause})
        waiting = self._causes.get(request)
        # That the CR itself was changed, or a run was asked for, says more than what others did. Otherwise the last counts.
        if waiting is None or priority <= waiting.priority:
            self._causes[request] = Cause(cause, namespace, priority)
        self._add(request, priority, after)

    def _remember(self, request: Request, obj: Object | None) -> None:
        if (crs := self._crs.get(request.watch)) is not None:
            if obj is not None:
                crs[request.key] = obj
            else:
                crs.pop(request.key, None)

    def _related_to(self, obj: Object) -> Iterator[Request]:
        """The CRs to which watches map an object of a related kind."""
        for watch, related in self._related.get(GroupVersionKind.of(obj), ()):
            if not related.selector.matches(obj):
                continue
            try:
                keys = related.mapper(obj, self._crs[watch].values())
                found = [request for key in keys for request in self._known(watch, key)]
            except Exception as error:
                # A tenant decides what the object looks like, and another error's message than MappingError's may quote it.
                if self._failed.is_new((watch.gvk, related.gvk)):
                    fields = {"kind": watch.gvk.kind, "object": f"{related.gvk.kind} {ObjectKey.of(obj)}"}
                    reason = str(error) if isinstance(error, MappingError) else type(error).__name__
                    logger.warning("A related object could not be mapped to CRs", extra={**fields, "error": reason})
                continue
            yield from found

    def _known(self, watch: Watch, key: ObjectKey) -> list[Request]:
        """The CR, if it has been observed: as namespaced or, where what names it does not know, as cluster-scoped."""
        candidates = (Request(watch, key), Request(watch, ObjectKey("", key.name)))
        return [request for request in candidates if request in self._observed]

    def _owning(self, obj: Object, *, gone: bool) -> Iterator[Request]:
        """The CRs that own an object, by its owner references (name and uid) or by the operator-sdk annotations (name).

        An object that is gone requeues a CR of the owner's name with another uid as well: the role may have found there
        what an earlier CR's run had made.
        """
        uids, own = _uids_of_owners(obj), ObjectKey.of(obj).namespace
        for kind, key in owners(obj):
            for watch in self._by_kind.get(kind, ()):
                # It may be another watch that has this kind watched.
                if is_watched_dependent(watch, GroupVersionKind.of(obj), namespaced=bool(own), owner=key):
                    for request in self._known(watch, key):
                        # A reference cannot lead into another namespace: there it is an annotation that names the owner.
                        referred = uids.get((kind, key.name)) if key.namespace == own else None
                        if gone or referred is None or self._observed[request].uid in referred:
                            yield request


def dependent_changed(before: Object | None, after: Object | None) -> bool:
    """Predicate: a dependent was deleted, or changed in more than its status. A creation is the role's own."""
    if before is None:
        return False
    if after is None:
        return True
    return differ(declared(before), declared(after))


def is_watched_dependent(watch: Watch, gvk: GroupVersionKind, *, namespaced: bool, owner: ObjectKey) -> bool:
    """True if objects of this kind that the watch's CR `owner` owns are watched."""
    if not watch.watch_dependents or gvk in watch.blacklist:
        return False
    # A namespaced CR's cluster-scoped dependents are found by annotation, over the whole cluster: only if asked for.
    return namespaced or not owner.namespace or watch.watch_cluster_scoped


def has_been_reconciled(obj: Object) -> bool:
    """True if a runner, perhaps another one, has written conditions on this CR: it is not new."""
    status = obj.get("status")
    return isinstance(status, dict) and bool(status.get("conditions"))


def has_changed_since(obj: Object) -> bool:
    """True if a CR that has been reconciled is known to have changed since; not every CRD has a field by which to know."""
    generation = obj["metadata"].get("generation")
    return is_deleting(obj) or bool(obj["status"].get("observedGeneration", generation) != generation)


def _digest(value: object) -> str:
    """A hash, equal for equal JSON. An annotation may have 256 KB, and a Secret 1 MB: they are not kept."""
    return hashlib.sha256(encode(value, sort_keys=True)).hexdigest()


def _uids_of_owners(obj: Object) -> dict[tuple[GroupKind, str], set[str]]:
    """The uids that the owner references give, by the owner's kind and name."""
    uids: dict[tuple[GroupKind, str], set[str]] = {}
    for reference in owner_references(obj):
        owner = GroupVersionKind.of(reference).group_kind, str(reference.get("name", ""))
        uids.setdefault(owner, set()).add(str(reference.get("uid", "")))
    return uids


def _spec_fields(obj: Object) -> dict[str, int]:
    """For each field of a CR's spec a number that changes with its value, which is not kept; none of a spec with many."""
    spec = obj.get("spec")
    if not isinstance(spec, Mapping) or len(spec) > _MOST_SPEC_FIELDS:
        return {}
    try:
        return {name: hash(encode(value, sort_keys=True)) for name, value in spec.items()}
    except (TypeError, ValueError, RecursionError):
        # It nests deeper than is written.
        return {}


def _cause(before: Observed | None, after: Observed, changed: Sequence[str]) -> str:
    """The reason for a reconcile that an event of the CR itself gives: `spec changed: size`."""
    if before is None:
        return "created"
    if before.uid != after.uid:
        return "created again"
    if after.deleting and not before.deleting:
        return "deletion asked for"
    if before.generation == after.generation:
        return "annotations changed"
    return f"spec changed: {_named(changed)}" if changed else "spec changed"


def _named(fields: Sequence[str]) -> str:
    more = " and more" if len(fields) > _MOST_FIELDS else ""
    return ", ".join(field[:_LONGEST_FIELD] for field in fields[:_MOST_FIELDS]) + more


def _describe_change(before: Object | None, after: Object | None) -> str:
    """A change as the log has it: `ConfigMap default/x changed: data.a, metadata.labels`."""
    obj = after or before or {}
    name = f"{obj.get('kind', '')} {ObjectKey.of(obj)}".strip()
    if before is None:
        return f"{name} created"
    if after is None:
        # A watch by labels reports both in the same way.
        return f"{name} deleted{' or given to another shard' if is_labelled(before) else ''}"
    # A new generation follows from what else has changed.
    fields = [field for field in changed_fields(declared(before), declared(after)) if field != "metadata.generation"]
    return f"{name} changed: {_named(fields)}" if fields else f"{name} changed: status"
