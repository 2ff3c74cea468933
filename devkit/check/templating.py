"""Findings for templates that ansible-core refuses from 2.19 on, as far as their text tells.

Conditions have to be true or false; rolerunner lets others pass for as long as ansible-core has the setting for it
(ALLOW_BROKEN_CONDITIONALS has no effect any more from 2.23 on). A template that is one expression keeps its type, so that a
number stays a number, which the API server refuses for text.
"""

from __future__ import annotations

from collections.abc import Iterator

from devkit.check import expressions
from devkit.check.findings import Finding, Level
from devkit.check.tasks import Condition, Reading, Sum, TextField

_NEW = (2, 19)
_NUMBER = frozenset({expressions.NUMBER})
_LAST = "2.23"
_REMEDIES = {
    expressions.NUMBER: "compare it, as in `… > 0`",
    expressions.TEXT: "compare it, as in `… != ''`, or add `| bool`",
    expressions.LIST: "ask for its length, as in `… | length > 0`",
    expressions.MAPPING: "ask for its length, as in `… | length > 0`",
    expressions.NONE: "ask with `is none`, or for a default that is true or false",
}


def compare(reading: Reading, core: tuple[int, ...]) -> list[Finding]:
    """Findings where this ansible-core has that templating, and notes where a later one would."""
    new = core >= _NEW
    found = [finding for condition in reading.conditions for finding in _condition(condition, new)]
    found += [_field(field, new) for field in reading.fields]
    numbers = {name: expressions.NUMBER for name, types in reading.assigned.items() if set(types) == {_NUMBER}}
    return found + [_sum(each, new) for each in reading.sums if expressions.types(each.other, numbers) == _NUMBER]


def _condition(condition: Condition, new: bool) -> Iterator[Finding]:
    file, line = condition.location.file, condition.location.line
    if condition.embedded == "mixed":
        message = (
            "a condition with {{ }} or {% %} around a part of it is refused from ansible-core 2.19 on; write it without"
        )
        yield Finding(Level.ERROR if new else Level.NOTE, file, line, message)
        return
    if condition.embedded:
        where = "around a condition" if condition.embedded == "whole" else "within the quotes of a condition"
        message = f"{{{{ }}}} {where} is refused from ansible-core {_LAST} on; leave it out"
        yield Finding(Level.NOTE, file, line, message)
    wrong = sorted(condition.types - {expressions.BOOLEAN})
    if wrong:
        remedy = _REMEDIES[wrong[0]]
        now = f"allowed by rolerunner's defaults, refused from ansible-core {_LAST} on"
        later = "refused from ansible-core 2.19 on, unless broken conditionals are allowed"
        message = f"a condition that may come to {wrong[0]}: {now if new else later}"
        yield Finding(Level.WARNING if new else Level.NOTE, file, line, f"{message}; {remedy}")


def _field(field: TextField, new: bool) -> Finding:
    types = " or ".join(sorted(field.types))
    level = (Level.ERROR if field.certain else Level.WARNING) if new else Level.NOTE
    comes = "comes" if field.certain else "may come"
    when = "" if new else " from ansible-core 2.19 on"
    message = f"{field.path} {comes} to {types}{when}, where the API server takes text only; add `| string`"
    return Finding(level, field.location.file, field.location.line, message)


def _sum(found: Sum, new: bool) -> Finding:
    when = "" if new else " from ansible-core 2.19 on"
    message = f"a number is added to text, as its variable is no text{when}, and that fails; write `~` instead of `+`"
    return Finding(Level.WARNING if new else Level.NOTE, found.location.file, found.location.line, message)
