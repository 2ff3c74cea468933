"""Labels by which kubernetes-controller-sharding assigns objects to the shards of a controller.

A sharder in the cluster puts the label of a ring on each object, with the name of a shard. To move it to another shard, it
adds the ring's drain label, which the shard answers by removing both.

Next on the way: `runner.control.drain`.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.resource.metadata import GroupVersionKind, Object, labels_of
from runner.resource.selectors import Requirement, Selector

CONTROLLER_RING = GroupVersionKind("sharding.timebertt.dev", "v1alpha1", "ControllerRing")
RING_DOMAIN = "alpha.sharding.timebertt.dev"
# On a shard's Lease, with the ring's name.
RING_LABEL = f"{RING_DOMAIN}/controllerring"
# The beginning of the labels of objects.
_SHARD = f"shard.{RING_DOMAIN}/"


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the processes that share the CRs of a ControllerRing."""

    ring: str
    name: str

    @property
    def label(self) -> str:
        """The label whose value is the name of an object's shard."""
        return f"{_SHARD}{self.ring}"

    @property
    def drain_label(self) -> str:
        """The label that asks an object's shard to stop with it, whatever its value."""
        return f"drain.{RING_DOMAIN}/{self.ring}"

    @property
    def selector(self) -> Selector:
        """The selector of the objects that are this shard's."""
        return Selector((Requirement(self.label, "In", (self.name,)),))

    def is_draining(self, obj: Object) -> bool:
        """True if this shard is asked to stop with the object."""
        return self.drain_label in labels_of(obj)


def is_labelled(obj: Object) -> bool:
    """True if a sharder has given the object to a shard, of whichever ring."""
    return any(label.startswith(_SHARD) for label in labels_of(obj))
