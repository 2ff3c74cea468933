"""Merging conditions into a status, by type."""

from __future__ import annotations

import re

# RFC 3339, and what `date --rfc-3339 seconds` makes of it; seconds may be left out.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?(\.\d+)?(Z|[+-]\d\d:\d\d)")
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
        if time:
            match = _TIME.fullmatch(time)
            if not match:
                raise ValueError("condition %s: %s %r must be a time as in RFC 3339: 2026-01-31T12:00:00Z" % (kind, name, time))
            date, clock, seconds, fraction, zone = match.groups(default="")
            condition[name] = "%sT%s%s%s%s" % (date, clock, seconds or ":00", fraction, zone)
    return condition


def merged(existing: list[dict], new: list[dict], now: str) -> list[dict]:
    """The existing conditions with the new ones in the places of those of their types, or at the end.

    A condition that says nothing new but another time of transition stays as it is. One that changes its status gets
    `now` as that time, unless it brings one.
    """
    by_type = {condition.get("type"): condition for condition in existing}
    for condition in new:
        current = by_type.get(condition["type"])
        if current is None or any(
            current.get(name) != value for name, value in condition.items() if name != "lastTransitionTime"
        ):
            stays = current is not None and current.get("status") == condition.get("status")
            time = current.get("lastTransitionTime", now) if stays else now
            by_type[condition["type"]] = {"lastTransitionTime": time, **condition}
    return list(by_type.values())
