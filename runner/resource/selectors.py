"""Label selectors, as in objects and in the query of a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runner.resource.metadata import Object, labels_of

_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL = rf"(?:[a-z0-9](?:[-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_NAME}"
_VALUE = rf"(?:{_NAME})?"
_LABEL_PATTERN, _VALUE_PATTERN = re.compile(_LABEL), re.compile(_VALUE)
# One requirement of a label selector, up to the comma behind it. Spaces are possessive, as values may be empty.
_REQUIREMENT = re.compile(
    rf"\s*+(?:(?P<absent>!)\s*+(?P<without>{_LABEL})"
    rf"|(?P<key>{_LABEL})(?:\s*+(?P<equals>==?|!=)\s*+(?P<value>{_VALUE})"
    rf"|\s++(?P<set>in|notin)\s*+\((?P<values>\s*+{_VALUE}\s*+(?:,\s*+{_VALUE}\s*+)*+)\))?)\s*+(?:,(?=.)|$)"
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One `matchExpressions` entry of a label selector."""

    key: str
    operator: str
    values: tuple[str, ...]

    def matches(self, present: Mapping[str, str]) -> bool:
        match self.operator:
            case "In":
                return present.get(self.key) in self.values
            case "NotIn":
                return present.get(self.key) not in self.values
            case "Exists":
                return self.key in present
            case _:
                return self.key not in present

    @property
    def is_valid(self) -> bool:
        """True if the API server takes it: its key can be a label's, and its values a label's values."""
        return bool(_LABEL_PATTERN.fullmatch(self.key)) and all(map(_VALUE_PATTERN.fullmatch, self.values))

    def __str__(self) -> str:
        """As a query has it. Several values, or none, cannot be told by `=`."""
        match self.operator:
            case "In" | "NotIn":
                return f"{self.key} {self.operator.lower()} ({','.join(self.values)})"
            case "Exists":
                return self.key
            case _:
                return f"!{self.key}"


@dataclass(frozen=True, slots=True)
class Selector:
    """A label selector; an empty one matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, obj: Object) -> bool:
        return self.matches_labels(labels_of(obj))

    def matches_labels(self, present: Mapping[str, str]) -> bool:
        return all(requirement.matches(present) for requirement in self.requirements)

    def __and__(self, other: Selector) -> Selector:
        """The selector of what both select."""
        return Selector((*self.requirements, *other.requirements))

    def __str__(self) -> str:
        """As the `labelSelector` of a query."""
        return ",".join(map(str, self.requirements))


EVERYTHING = Selector()


def label_selector(text: str) -> Selector | None:
    """The selector in a query's `labelSelector`; None if it cannot be parsed."""
    requirements, position = [], 0
    while position < len(text):
        match = _REQUIREMENT.match(text, position)
        if match is None:
            return None
        requirements.append(_requirement(match))
        position = match.end()
    return Selector(tuple(requirements))


def _requirement(match: re.Match[str]) -> Requirement:
    if match["absent"]:
        return Requirement(match["without"], "DoesNotExist", ())
    if match["equals"]:
        return Requirement(match["key"], "NotIn" if match["equals"] == "!=" else "In", (match["value"],))
    if match["set"]:
        values = tuple(value.strip() for value in match["values"].split(","))
        return Requirement(match["key"], "In" if match["set"] == "in" else "NotIn", values)
    return Requirement(match["key"], "Exists", ())
