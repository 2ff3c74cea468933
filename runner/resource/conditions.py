"""What a CR's status says about its runs: the conditions `Running`, `Successful` and `Failure`.

The texts, the order and the rules of change are those of the Go operator (internal/ansible/controller/status), because
people's scripts wait on them. Where it drops fields of a condition that it does not know, these functions keep them.

Every function takes a status and returns a new one; whether it has to be written is `==`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Status = Mapping[str, Any]

RUNNING = "Running"
SUCCESSFUL = "Successful"
FAILURE = "Failure"

RUNNING_MESSAGE = "Running reconciliation"
AWAITING_MESSAGE = "Awaiting next reconciliation"
SUCCESSFUL_MESSAGE = "Last reconciliation succeeded"
DRY_RUN = "DryRun"
DRY_RUN_MESSAGE = "Nothing is written while the CR is annotated as a dry run; the Event Plan says what a run would change"

# etcd refuses objects over 1.5 MiB, and a status is read by people: the whole text is in the log and the artifacts.
MESSAGE_LIMIT = 32 * 1024


@dataclass(frozen=True, slots=True)
class AnsibleResult:
    """The counters of one run for localhost, and when it was completed (RFC 3339 with fractions, as Ansible says it)."""

    ok: int
    changed: int
    skipped: int
    failures: int
    completion: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "changed": self.changed,
            "skipped": self.skipped,
            "failures": self.failures,
            "completion": self.completion,
        }


def mark_running(status: Status | None, now: datetime) -> dict[str, Any]:
    """A run is about to start."""
    marked = dict(status or {})
    successful = _find(marked, SUCCESSFUL)
    if successful is not None:
        marked = _set(marked, {**successful, "status": "False"}, now)
    return _set(marked, _condition(RUNNING, "True", RUNNING, RUNNING_MESSAGE), now)


def mark_succeeded(status: Status | None, result: AnsibleResult, now: datetime) -> dict[str, Any]:
    """A run ended well."""
    marked = _set(dict(status or {}), _condition(RUNNING, "True", SUCCESSFUL, AWAITING_MESSAGE, result), now)
    marked = _set(marked, _condition(SUCCESSFUL, "True", SUCCESSFUL, SUCCESSFUL_MESSAGE), now)
    return _set(marked, _condition(FAILURE, "False", "", ""), now)


def mark_failed(status: Status | None, message: str, result: AnsibleResult | None, now: datetime) -> dict[str, Any]:
    """A run failed, or could not be made. `result` is None where Ansible gave none."""
    marked = dict(status or {})
    running = _find(marked, RUNNING)
    if running is not None:
        marked = _set(marked, {**running, "status": "False"}, now)
    if len(message) > MESSAGE_LIMIT:
        message = message[:MESSAGE_LIMIT] + "… (cut; the whole text is in the log)"
    marked = _set(marked, _condition(FAILURE, "True", "Failed", message, result), now)
    return _set(marked, _condition(SUCCESSFUL, "False", "", ""), now)


def mark_rehearsed(status: Status | None, failure: str, now: datetime) -> dict[str, Any]:
    """A dry run ended; `failure` is empty if well. What the last real run left stays, but for a dry run's own failure."""
    marked = _set(dict(status or {}), _condition(RUNNING, "False", DRY_RUN, DRY_RUN_MESSAGE), now)
    earlier = _find(marked, FAILURE)
    if failure:
        return _set(marked, _condition(FAILURE, "True", DRY_RUN, failure[:MESSAGE_LIMIT]), now)
    if earlier is not None and earlier.get("reason") == DRY_RUN:
        return _set(marked, _condition(FAILURE, "False", "", ""), now)
    return marked


def _condition(kind: str, status: str, reason: str, message: str, result: AnsibleResult | None = None) -> dict[str, Any]:
    condition: dict[str, Any] = {"type": kind, "status": status, "reason": reason, "message": message}
    if result is not None:
        condition["ansibleResult"] = result.as_dict()
    return condition


def _conditions(status: Status) -> list[Mapping[str, Any]]:
    conditions = status.get("conditions")
    return [item for item in conditions if isinstance(item, Mapping)] if isinstance(conditions, list) else []


def _find(status: Status, kind: str) -> Mapping[str, Any] | None:
    return next((condition for condition in _conditions(status) if condition.get("type") == kind), None)


def _set(status: dict[str, Any], condition: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The status with this condition, which moves to the end when it changes.

    Same status and reason: nothing to say, but for Failure, whose message is news. The time of transition stays while the
    status does.
    """
    current = _find(status, condition["type"])
    if current is not None and current.get("status") == condition["status"]:
        if condition["type"] != FAILURE and current.get("reason") == condition["reason"]:
            return status
        transition = current.get("lastTransitionTime") or _timestamp(now)
    else:
        transition = _timestamp(now)
    # What others put on the condition (observedGeneration, say) is not ours to drop; the result of an earlier run is.
    kept = {name: value for name, value in (current or {}).items() if name != "ansibleResult"}
    fresh = {**kept, **condition, "lastTransitionTime": transition}
    if fresh == current:
        return status
    others = [item for item in _conditions(status) if item.get("type") != condition["type"]]
    return {**status, "conditions": [*others, fresh]}


def _timestamp(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")
