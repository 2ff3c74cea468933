"""What the sharder does with an object: the key by which it is assigned, and whether it is drained or moved.

Next on the way: `tests.sharding.sharder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from runner.resource.metadata import Object, labels_of, owner_references, split_api_version
from runner.resource.sharding import Shard as Labels
from tests.sharding.hash_ring import HashRing, hash_ring
from tests.sharding.leases import Shard


class Unassignable(ValueError):
    """The sharder refuses such an object: it cannot be told whose it is."""


@dataclass(frozen=True, slots=True)
class GroupResource:
    """A kind as a ControllerRing lists it. `controlled`: its objects follow the one that controls them."""

    group: str
    plural: str
    controlled: bool = False


def resources_of(ring: Object) -> list[GroupResource]:
    """The kinds that a ControllerRing lists, those that it controls after each."""
    found = []
    for main in (ring.get("spec") or {}).get("resources") or ():
        found.append(GroupResource(main.get("group", ""), main["resource"]))
        controlled = main.get("controlledResources") or ()
        found += [GroupResource(each.get("group", ""), each["resource"], controlled=True) for each in controlled]
    return found


def hash_key(obj: Object, *, controlled: bool) -> str:
    """The key of an object, the same for all that one object controls; empty if it is not to be assigned."""
    metadata = obj["metadata"]
    namespace = metadata.get("namespace", "")
    if controlled:
        controller = next((each for each in owner_references(obj) if each.get("controller")), None)
        if controller is None:
            return ""
        api_version, kind, name = (str(controller.get(key, "")) for key in ("apiVersion", "kind", "name"))
    else:
        # A name that the API server is yet to make up is not known here.
        api_version, kind, name = obj["apiVersion"], obj["kind"], metadata.get("name", "")
    if not (api_version and kind and name):
        raise Unassignable(f"an object of the kind {kind} without a name")
    group, _ = split_api_version(api_version)
    return f"{group}/{kind}/{namespace}/{name}"


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards of a ring at a moment, and the ring of hashes of those that are available."""

    ring: str
    known: frozenset[str]
    available: frozenset[str]
    hashes: HashRing

    @classmethod
    def of(cls, ring: str, leases: Iterable[Object], now: datetime) -> Shards:
        shards = [Shard.of(lease, now) for lease in leases]
        available = frozenset(shard.name for shard in shards if shard.state.is_available)
        return cls(ring, frozenset(shard.name for shard in shards), available, hash_ring(available))

    @property
    def labels(self) -> Labels:
        return Labels(self.ring, "")

    def admitted(self, obj: Object, *, controlled: bool) -> Sequence[Mapping[str, Any]]:
        """The JSON patch by which an object that is written gets its shard; empty if it has one, or there is none."""
        if labels_of(obj).get(self.labels.label):
            return ()
        key = hash_key(obj, controlled=controlled)
        shard = self.hashes.shard(key) if key else ""
        if not shard:
            return ()
        has_labels = isinstance(obj["metadata"].get("labels"), Mapping)
        made = () if has_labels else ({"op": "add", "path": "/metadata/labels", "value": {}},)
        label = self.labels.label.replace("~", "~0").replace("/", "~1")
        return (*made, {"op": "add", "path": f"/metadata/labels/{label}", "value": shard})

    def change(self, obj: Object, *, controlled: bool) -> Mapping[str, Any] | None:
        """The merge patch that drains an object, or moves it; None if it is where it has to be.

        The webhook sees to the new label. A main object whose shard may still work on it is only drained.
        """
        key = hash_key(obj, controlled=controlled)
        wanted = self.hashes.shard(key) if key else ""
        current = labels_of(obj).get(self.labels.label, "")
        if not wanted or wanted == current:
            return None
        labels: Mapping[str, str | None]
        if not controlled and current in self.available:
            labels = {self.labels.drain_label: "true"}
        else:
            labels = {self.labels.label: None, self.labels.drain_label: None}
        return {"metadata": {"resourceVersion": obj["metadata"]["resourceVersion"], "labels": labels}}
