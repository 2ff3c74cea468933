"""What a dry run would make of an object: created, changed or deleted, and how that reads.

What the server keeps count by is left out. Of a Secret's data only the names are shown, and which values are new.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import yaml

from runner.resource.metadata import Object, ObjectKey, annotations_of

_MASK = "********"
_NEW = "******** (another value)"
_COUNTED = frozenset({"creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"})
# kubectl's and `apply: true`'s copy of the object, a Secret's data included.
_COPY = "kubectl.kubernetes.io/last-applied-configuration"


class Action(StrEnum):
    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An object before and after; None where it is not there. Holds what it was given: Secrets are masked as it is shown."""

    before: Object | None
    after: Object | None

    @property
    def is_one(self) -> bool:
        """Whether there is anything to tell."""
        return _essence(self.before) != _essence(self.after)

    @property
    def action(self) -> Action:
        if self.before is None:
            return Action.CREATE
        return Action.DELETE if self.after is None else Action.CHANGE

    @property
    def identity(self) -> dict[str, str]:
        obj = self.after or self.before or {}
        key = ObjectKey.of(obj)
        name = key.name or f"{(obj.get('metadata') or {}).get('generateName', '')}…"
        whole = {
            "apiVersion": obj.get("apiVersion", ""),
            "kind": obj.get("kind", ""),
            "namespace": key.namespace,
            "name": name,
        }
        return {part: str(value) for part, value in whole.items()}

    @property
    def title(self) -> str:
        """`Deployment default/one`."""
        identity = self.identity
        return f"{identity['kind']} {ObjectKey(identity['namespace'], identity['name'])}"

    @property
    def diff(self) -> str:
        """The whole of what is created, the lines that change with some around them, nothing of what goes."""
        if self.after is None:
            return ""
        before, after = _lines(self.before), _lines(self.after, instead_of=self.before)
        if self.before is None:
            return "\n".join(f"+{line}" for line in after)
        return "\n".join(list(difflib.unified_diff(before, after, lineterm=""))[2:])


def _lines(obj: Object | None, *, instead_of: Object | None = None) -> list[str]:
    if obj is None:
        return []
    return yaml.safe_dump(_masked(obj, instead_of), sort_keys=False, allow_unicode=True, width=1000).splitlines()


def _essence(obj: Object | None) -> dict[str, Any] | None:
    """What of an object somebody has set. Its status is for whoever runs it to say."""
    if obj is None:
        return None
    metadata = {name: value for name, value in (obj.get("metadata") or {}).items() if name not in _COUNTED}
    if _COPY in annotations_of(obj):
        metadata["annotations"] = {name: value for name, value in annotations_of(obj).items() if name != _COPY}
    first = {name: obj[name] for name in ("apiVersion", "kind") if name in obj}
    rest = {name: value for name, value in obj.items() if name not in (*first, "metadata", "status")}
    return {**first, "metadata": {name: value for name, value in metadata.items() if value}, **rest}


def _masked(obj: Object, before: Object | None) -> dict[str, Any]:
    essence = _essence(obj) or {}
    if obj.get("kind") != "Secret":
        return essence
    for field in ("data", "stringData"):
        values, others = obj.get(field), (before or {}).get(field)
        if isinstance(values, Mapping):
            known = others if isinstance(others, Mapping) else {}
            essence[field] = {name: _MASK if known.get(name, value) == value else _NEW for name, value in values.items()}
    return essence
