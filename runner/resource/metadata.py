"""Names and owners of Kubernetes objects.

Next on the way: `runner.resource.conditions`.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from runner.json_codec import JsonMapping, JsonObject, mapping

# An object of the API server's, decoded.
Object = JsonMapping

# Set on what a role creates outside its owner's reach, where Kubernetes allows no owner reference. Same as Go's.
PRIMARY_RESOURCE = "operator-sdk/primary-resource"
PRIMARY_RESOURCE_TYPE = "operator-sdk/primary-resource-type"

# Possessive: a text that is no duration, which any tenant may write, is read once.
_DURATION = re.compile(r"([0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(ns|us|µs|μs|ms|s|m|h)")
_LONGEST_DURATION = 64
# Go's durations are nanoseconds in 64 bits.
_MOST_SECONDS = 2**63 / 1e9
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

_LONGEST_QUOTE = 64
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 2, _LONGEST_QUOTE, _LONGEST_QUOTE, _LONGEST_QUOTE


@dataclass(frozen=True, slots=True, order=True)
class GroupKind:
    group: str
    kind: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind


@dataclass(frozen=True, slots=True, order=True)
class GroupVersionKind:
    """A kind in full; `group` is empty for the core group."""

    group: str
    version: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_kind(self) -> GroupKind:
        return GroupKind(self.group, self.kind)

    @classmethod
    def of(cls, obj: Object) -> GroupVersionKind:
        """The kind an object (or an owner reference) says it is of."""
        group, version = split_api_version(_text(obj.get("apiVersion")))
        return cls(group, version, _text(obj.get("kind")))

    def __str__(self) -> str:
        # The form of Go's schema.GroupVersionKind, which dashboards know as the metrics' GVK label.
        return f"{self.group}/{self.version}, Kind={self.kind}"


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """The namespace and name of an object; `namespace` is empty for cluster-scoped objects."""

    namespace: str
    name: str

    @classmethod
    def of(cls, obj: Object) -> ObjectKey:
        metadata = mapping(obj.get("metadata"))
        return cls(_text(metadata.get("namespace")), _text(metadata.get("name")))

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Owner:
    """The CR on whose behalf a run makes its API calls."""

    gvk: GroupVersionKind
    key: ObjectKey
    uid: str

    def reference(self, *, controller: bool = False) -> JsonObject:
        """An owner reference, without `controller` if it is not to be one: the role may name its own controller."""
        reference = {"apiVersion": self.gvk.api_version, "kind": self.gvk.kind, "name": self.key.name, "uid": self.uid}
        return {**reference, "controller": True} if controller else reference


def split_api_version(api_version: str) -> tuple[str, str]:
    """`apps/v1` → (`apps`, `v1`); `v1` → (``, `v1`)."""
    group, _, version = api_version.rpartition("/")
    return group, version


def annotations_of(obj: Object) -> Mapping[str, str]:
    return mapping(mapping(obj.get("metadata")).get("annotations"))


def labels_of(obj: Object) -> Mapping[str, str]:
    return mapping(mapping(obj.get("metadata")).get("labels"))


def finalizers(obj: Object) -> list[str]:
    return mapping(obj.get("metadata")).get("finalizers") or []


def is_deleting(obj: Object) -> bool:
    return bool(mapping(obj.get("metadata")).get("deletionTimestamp"))


def is_owned(obj: Object, owner: Owner) -> bool:
    """True if the object names this very CR as an owner, by reference or by annotation."""
    if any(reference.get("uid") == owner.uid for reference in owner_references(obj)):
        return True
    marks = annotations_of(obj)
    return marks.get(PRIMARY_RESOURCE_TYPE) == str(owner.gvk.group_kind) and marks.get(
        PRIMARY_RESOURCE
    ) == _primary_resource(owner.key)


def controllers(obj: Object) -> list[Object]:
    """The owner references that name a controller: Kubernetes allows one."""
    return [reference for reference in owner_references(obj) if reference.get("controller")]


def is_assigned_with(obj: Object, owner: Owner) -> bool:
    """True if a sharder gives the object to the shard of its owner: the owner is its controller, in the same namespace.

    It finds the owner by the reference, and looks for it in the object's own namespace, whatever the owner's scope is.
    """
    is_controller = any(reference.get("uid") == owner.uid for reference in controllers(obj))
    return is_controller and ObjectKey.of(obj).namespace == owner.key.namespace


def own(obj: JsonObject, owner: Owner, *, namespace: str, controller: bool = False) -> bool:
    """Add the owner to an object that is about to be created in `namespace`; False if it has it already.

    An owner reference where Kubernetes allows one (same namespace, or a cluster-scoped owner), annotations where it does
    not. A role's own reference to this CR (say, as its controller) is left alone. As Go's proxy/inject_owner.go. With
    `controller` the owner becomes the object's controller in its own namespace, if there is no other.
    """
    if is_owned(obj, owner):
        return False
    metadata = obj.setdefault("metadata", {})
    if not owner.key.namespace or owner.key.namespace == namespace:
        reference = owner.reference(controller=controller and owner.key.namespace == namespace and not controllers(obj))
        metadata["ownerReferences"] = [*(metadata.get("ownerReferences") or ()), reference]
    else:
        metadata["annotations"] = {
            **(metadata.get("annotations") or {}),
            PRIMARY_RESOURCE: _primary_resource(owner.key),
            PRIMARY_RESOURCE_TYPE: str(owner.gvk.group_kind),
        }
    return True


def owner_references(obj: Object) -> Iterator[Object]:
    references = mapping(obj.get("metadata")).get("ownerReferences")
    yield from map(mapping, references if isinstance(references, list | tuple) else ())


def owners(obj: Object) -> Iterator[tuple[GroupKind, ObjectKey]]:
    """The (kind, key) of each owner that the object names. A reference's namespace is the object's own: whether the
    owner is namespaced at all is for the caller to know."""
    namespace = ObjectKey.of(obj).namespace
    for reference in owner_references(obj):
        gvk = GroupVersionKind.of(reference)
        yield gvk.group_kind, ObjectKey(namespace, _text(reference.get("name")))
    marks = annotations_of(obj)
    kind, _, group = _text(marks.get(PRIMARY_RESOURCE_TYPE)).partition(".")
    namespace, _, name = _text(marks.get(PRIMARY_RESOURCE)).rpartition("/")
    if kind and name:
        yield GroupKind(group, kind), ObjectKey(namespace, name)


def version_number(version: str) -> int:
    """A resourceVersion as a number, 0 if it is none: Kubernetes promises from 1.35 on that they compare so."""
    return int(version) if version.isdecimal() else 0


def object_version(obj: Object) -> int:
    """The object's resourceVersion as a number, 0 if it has none that is one."""
    return version_number(str(obj["metadata"].get("resourceVersion")))


def cut(text: str, most: int, *, end: str = "…") -> str:
    """The text, cut to so many characters and with this end if it is longer."""
    return text if len(text) <= most else text[: most - len(end)] + end


def quoted(value: object) -> str:
    """A value that somebody else wrote, in quotes and cut, for a message: at most about 80 characters, whatever it is."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _LONGEST_QUOTE else repr(value[: _LONGEST_QUOTE - 1]) + "…"
    try:
        return _REPR.repr(value)
    except ValueError:
        # A number of more digits than Python is willing to write.
        return f"of type {type(value).__name__}"


def parse_duration(text: str) -> float:
    """Seconds of a Go duration (`1h5m`, `300ms`, `0`). ValueError, with what was expected, for anything else."""
    sign = -1.0 if text.startswith("-") else 1.0
    body = text.removeprefix("-") if sign < 0 else text.removeprefix("+")
    if body == "0":
        return 0.0
    seconds, position = 0.0, 0
    while len(body) <= _LONGEST_DURATION and (match := _DURATION.match(body, position)):
        seconds += float(match[1]) * _SECONDS[match[2]]
        position = match.end()
    if not body or position != len(body) or seconds >= _MOST_SECONDS:
        raise ValueError(f"{quoted(text)} is no duration; write it as 30s, 5m, 1h30m or 10h")
    return sign * seconds


def _primary_resource(key: ObjectKey) -> str:
    return f"{key.namespace}/{key.name}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
