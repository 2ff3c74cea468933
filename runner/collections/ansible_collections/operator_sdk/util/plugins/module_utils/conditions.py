"""Merging conditions into a status, by type."""

from __future__ import annotations

import re

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
# As the Kubernetes API has it for conditions.
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
_STATUSES = ("True", "False", "Unknown")


def checked(condition: dict) -> dict:
    """A condition as the API wants it. ValueError, with what was expected, for a bad one."""
    condition = {name: value for name, value in condition.items() if value is not None}
    kind = condition.get("type")
    if not kind:
        raise ValueError("a condition needs a type")
    # YAML makes truth values of what is meant as text.
    status = condition.get("status")
    condition["status"] = {True: "True", False: "False"}.get(status, status) if isinstance(status, bool) else str(status)
    if condition["status"] not in _STATUSES:
        raise ValueError("condition %s: status is %r, and must be one of %s" % (kind, status, ", ".join(_STATUSES)))
    reason = condition.get("reason")
    if reason and not _REASON.fullmatch(reason):
        raise ValueError("condition %s: reason %r must be one word, in CamelCase by custom" % (kind, reason))
    for name in ("lastHeartbeatTime", "lastTransitionTime"):
        time = condition.get(name)
        if time and not _TIME.fullmatch(time):
            raise ValueError("condition %s: %s %r must be a time as in RFC 3339: 2026-01-31T12:00:00Z" % (kind, name, time))
    return condition


def merged(existing: list[dict], new: list[dict], now: str) -> list[dict]:
    """The existing conditions with the new ones in the places of those of their types, or at the end.

    A condition that changes its status gets `now` as its time of transition, unless it brings one.
    """
    by_type = {condition.get("type"): condition for condition in existing}
    for condition in new:
        current = by_type.get(condition["type"])
        fresh = {**(current or {}), **condition}
        if "lastTransitionTime" not in condition and (current is None or current.get("status") != condition["status"]):
            fresh["lastTransitionTime"] = now
        by_type[condition["type"]] = fresh
    return list(by_type.values())
