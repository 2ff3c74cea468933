"""Changes of objects as a dry run predicts them, and their diffs for people.

What the API server fills in is left out. Of a Secret's data only the names are shown, and which values are new.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import yaml

from runner.json_codec import JsonObject
from runner.resource.comparison import manifest
from runner.resource.metadata import Object, ObjectKey
from runner.resource.secret_values import MASK, SECRET_FIELDS

_NEW = f"{MASK} (another value)"


class Action(StrEnum):
    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An object before and after a change; None where it does not exist. A Secret's values are masked in `diff` only."""

    before: Object | None
    after: Object | None

    @property
    def is_one(self) -> bool:
        """True if the manifests differ."""
        before, after = (None if obj is None else manifest(obj) for obj in (self.before, self.after))
        return before != after

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
        """A unified diff of the manifests as YAML: all of a created object, nothing of a deleted one."""
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


def _masked(obj: Object, before: Object | None) -> JsonObject:
    shown = dict(manifest(obj))
    if obj.get("kind") != "Secret":
        return shown
    for field in SECRET_FIELDS:
        values, others = obj.get(field), (before or {}).get(field)
        if isinstance(values, Mapping):
            known = others if isinstance(others, Mapping) else {}
            shown[field] = {name: MASK if known.get(name, value) == value else _NEW for name, value in values.items()}
    return shown
