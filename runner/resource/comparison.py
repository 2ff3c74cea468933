"""Objects without what Kubernetes changes by itself, for finding out whether somebody has changed them.

Next on the way: `runner.resource.diff`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from runner.resource.metadata import Object, annotations_of

# Metadata that the API server sets.
_SERVER_METADATA = frozenset({"creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"})
# kubectl's and `apply: true`'s copy of the object, a Secret's data included.
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
# Beginnings of annotations in which Kubernetes' own controllers keep state, after every change and about nothing that a role
# set; an autoscaler's whole status is there.
_CONTROLLER_ANNOTATIONS = (
    "autoscaling.alpha.kubernetes.io/",
    "control-plane.alpha.kubernetes.io/leader",
    "deployment.kubernetes.io/",
    "endpoints.kubernetes.io/last-change-trigger-time",
    "node.alpha.kubernetes.io/ttl",
    "pv.kubernetes.io/",
    "storage.alpha.kubernetes.io/migrated-plugins",
    "volume.beta.kubernetes.io/",
    "volume.kubernetes.io/",
    "csi.volume.kubernetes.io/",
)
# What Kubernetes fills in of a core kind's spec, once and for good.
_BOUND = {"PersistentVolumeClaim": "volumeName", "PersistentVolume": "claimRef", "Pod": "nodeName"}


def without_metadata(obj: Object, names: Collection[str]) -> Object:
    """The object without these fields of its metadata."""
    return {**obj, "metadata": {name: value for name, value in obj["metadata"].items() if name not in names}}


def content(obj: Object) -> Object:
    """The object without what changes with every write."""
    return without_metadata(obj, ("resourceVersion", "managedFields"))


def declared(obj: Object) -> Object:
    """The parts that a role or a person sets: neither the status nor what Kubernetes keeps elsewhere for itself."""
    found = content(obj)
    annotations = {
        name: value for name, value in annotations_of(obj).items() if not name.startswith(_CONTROLLER_ANNOTATIONS)
    }
    kept = {name: value for name, value in found.items() if name != "status"}
    bound, spec = _BOUND.get(obj.get("kind", "")), obj.get("spec")
    if bound and obj.get("apiVersion") == "v1" and isinstance(spec, Mapping):
        kept["spec"] = {name: value for name, value in spec.items() if name != bound}
    return {**kept, "metadata": {**found["metadata"], "annotations": annotations}}


def in_place_of_generation(obj: Object) -> Object:
    """The fields whose changes a generation would count, for kinds without one.

    Finalizers are not among them: controllers set them, the runner as well.
    """
    # Items of a list say nothing of their kind.
    kept = {name: value for name, value in declared(obj).items() if name not in ("apiVersion", "kind")}
    return without_metadata(kept, ("finalizers",))


def manifest(obj: Object) -> Object:
    """The object as one would write it into a file: without its status and without what the API server fills in."""
    metadata = {name: value for name, value in (obj.get("metadata") or {}).items() if name not in _SERVER_METADATA}
    if _LAST_APPLIED in annotations_of(obj):
        metadata["annotations"] = {name: value for name, value in annotations_of(obj).items() if name != _LAST_APPLIED}
    first = {name: obj[name] for name in ("apiVersion", "kind") if name in obj}
    rest = {name: value for name, value in obj.items() if name not in (*first, "metadata", "status")}
    return {**first, "metadata": {name: value for name, value in metadata.items() if value}, **rest}


def differ(before: object, after: object) -> bool:
    """`before != after`, also for values that nest deeper than Python compares: those count as different."""
    try:
        return bool(before != after)
    except RecursionError:
        return True


def changed_fields(before: Mapping[str, object], after: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """The fields that differ, two levels deep: `data.a`, `metadata.labels`."""
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if differ(old, new):
            if not prefix and isinstance(old, Mapping) and isinstance(new, Mapping):
                yield from changed_fields(old, new, f"{name}.")
            else:
                yield f"{prefix}{name}"
