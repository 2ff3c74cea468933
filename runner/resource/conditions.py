"""The conditions `Running`, `Successful` and `Failure` of a CR's status.

The texts, the order and the rules of change are those of the Go operator (internal/ansible/controller/status), because
people's scripts wait on them. Where it drops fields of a condition that it does not know, these functions keep them.

Every function takes a status and returns a new one; whether it has to be written is `==`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from runner.json_codec import JsonMapping, JsonObject
from runner.resource.metadata import cut

Status = JsonMapping
Condition = JsonMapping

RUNNING = "Running"
SUCCESSFUL = "Successful"
FAILURE = "Failure"

RUNNING_MESSAGE = "Running reconciliation"
AWAITING_MESSAGE = "Awaiting next reconciliation"
SUCCESSFUL_MESSAGE = "Last reconciliation succeeded"
DRY_RUN = "DryRun"
DRY_RUN_MESSAGE = "Nothing is written while the CR is annotated as a dry run; the Event Plan says what a run would change"

# Characters of a condition's message. metav1.Condition allows no more, etcd refuses objects over 1.5 MiB, and a status is
# read by people: the whole text is in the artifacts.
MESSAGE_LIMIT = 32 * 1024
_CUT = "… (cut; the whole text is in the log)"

# metav1.Condition's rule for a reason, which the Go operator's empty ones do not follow.
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
# What is written for an empty reason where a CRD's schema refuses it; by type of condition.
_STAND_INS = {RUNNING: "NotRunning", SUCCESSFUL: "NotSuccessful", FAILURE: "NoFailure"}


@dataclass(frozen=True, slots=True)
class AnsibleResult:
    """The counters of one run for localhost, and when it was completed (RFC 3339 with fractions, as Ansible says it)."""

    ok: int
    changed: int
    skipped: int
    failures: int
    completion: str

    def as_dict(self) -> JsonObject:
        return {
            "ok": self.ok,
            "changed": self.changed,
            "skipped": self.skipped,
            "failures": self.failures,
            "completion": self.completion,
        }


def mark_running(status: Status | None, now: datetime) -> JsonObject:
    """The status when a run is about to start."""
    marked = dict(status or {})
    successful = _find(marked, SUCCESSFUL)
    if successful is not None:
        marked = _set(marked, {**successful, "status": "False"}, now)
    return _set(marked, _condition(RUNNING, "True", RUNNING, RUNNING_MESSAGE), now)


def mark_succeeded(status: Status | None, result: AnsibleResult, now: datetime) -> JsonObject:
    """The status after a run that succeeded."""
    marked = _set(dict(status or {}), _condition(RUNNING, "True", SUCCESSFUL, AWAITING_MESSAGE, result), now)
    marked = _set(marked, _condition(SUCCESSFUL, "True", SUCCESSFUL, SUCCESSFUL_MESSAGE), now)
    return _set(marked, _condition(FAILURE, "False", "", ""), now)


def mark_failed(status: Status | None, message: str, result: AnsibleResult | None, now: datetime) -> JsonObject:
    """The status after a run that failed, or could not be made. `result` is None where Ansible gave none."""
    marked = dict(status or {})
    running = _find(marked, RUNNING)
    if running is not None:
        marked = _set(marked, {**running, "status": "False"}, now)
    marked = _set(marked, _condition(FAILURE, "True", "Failed", cut(message, MESSAGE_LIMIT, end=_CUT), result), now)
    return _set(marked, _condition(SUCCESSFUL, "False", "", ""), now)


def mark_dry_run(status: Status | None, failure: str, now: datetime) -> JsonObject:
    """The status after a dry run; `failure` is empty if it succeeded. Only the failure of an earlier dry run is removed."""
    marked = _set(dict(status or {}), _condition(RUNNING, "False", DRY_RUN, DRY_RUN_MESSAGE), now)
    earlier = _find(marked, FAILURE)
    if failure:
        return _set(marked, _condition(FAILURE, "True", DRY_RUN, cut(failure, MESSAGE_LIMIT, end=_CUT)), now)
    if earlier is not None and earlier.get("reason") == DRY_RUN:
        return _set(marked, _condition(FAILURE, "False", "", ""), now)
    return marked


def with_reasons(status: Status) -> JsonObject:
    """The status with a reason in each of this module's conditions that has none, for CRDs whose schema wants one."""

    def filled(condition: Condition) -> Condition:
        reason = condition.get("reason")
        if isinstance(reason, str) and _REASON.fullmatch(reason):
            return condition
        return {**condition, "reason": _STAND_INS[condition["type"]]}

    return _each_of_ours(status, filled)


def without_reasons(status: Status | None) -> JsonObject | None:
    """The inverse of `with_reasons`: the status as it is where a reason may be empty."""

    def emptied(condition: Condition) -> Condition:
        stands_in = condition.get("status") == "False" and condition.get("reason") == _STAND_INS[condition["type"]]
        return {**condition, "reason": ""} if stands_in else condition

    return None if status is None else _each_of_ours(status, emptied)


def _each_of_ours(status: Status, change: Callable[[Condition], Condition]) -> JsonObject:
    conditions = status.get("conditions")
    if not isinstance(conditions, list):
        return dict(status)

    def is_ours(item: object) -> bool:
        return isinstance(item, dict) and isinstance(item.get("type"), str) and item["type"] in _STAND_INS

    return {**status, "conditions": [change(item) if is_ours(item) else item for item in conditions]}


def _condition(kind: str, status: str, reason: str, message: str, result: AnsibleResult | None = None) -> JsonObject:
    condition: JsonObject = {"type": kind, "status": status, "reason": reason, "message": message}
    if result is not None:
        condition["ansibleResult"] = result.as_dict()
    return condition


def _conditions(status: Status) -> list[Condition]:
    conditions = status.get("conditions")
    return [item for item in conditions if isinstance(item, dict)] if isinstance(conditions, list) else []


def _find(status: Status, kind: str) -> Condition | None:
    for condition in _conditions(status):
        if condition.get("type") == kind:
            return condition
    return None


def _set(status: JsonObject, condition: Condition, now: datetime) -> JsonObject:
    """The status with this condition, which moves to the end when it changes.

    Same status and reason: nothing changes, but for Failure, whose message may. The time of transition stays while the
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
