"""Records of what a reconcile did: its cause, its phases, and its run with the tasks and the requests that the run made.

They are filled while it goes on, and read by the dashboard and by traces. Times are seconds since the epoch, durations
seconds. All texts are as the run's events have them: masked, and cut here.

Next on the way: `runner.control.history`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from time import time

from runner.control import Priority, Request, RequeueReason
from runner.executor.jobs import JobEvent, Outcome
from runner.proxy.sessions import ApiRequest

# Of one run: tasks and requests that are kept. More of them nobody reads.
_MOST_TASKS, _MOST_REQUESTS = 1000, 1000
# Characters of a task's name and of a message; messages of a run's outcome.
_LONGEST_NAME, _LONGEST_MESSAGE, _MOST_MESSAGES = 200, 2000, 10

# The message of a reconcile, and the status of a run, that the runner has ended.
ENDED_EARLY = "ended before its end"

# By which the events of results, of a task or of an item of its loop, end.
_RESULTS = frozenset({"ok", "failed", "skipped", "unreachable"})


def new_ident() -> str:
    """A new run's ident."""
    return uuid.uuid4().hex[:16]


class TaskStatus(StrEnum):
    """The result of a task; `IGNORED` is a failure with `ignore_errors`."""

    RUNNING = "running"
    OK = "ok"
    CHANGED = "changed"
    SKIPPED = "skipped"
    FAILED = "failed"
    IGNORED = "ignored"
    UNREACHABLE = "unreachable"

    @property
    def is_failure(self) -> bool:
        return self in (TaskStatus.FAILED, TaskStatus.UNREACHABLE)


# Of a task's results on several hosts, the one that comes last here is the task's.
_ORDER = tuple(map(TaskStatus, ("running", "skipped", "ok", "changed", "ignored", "failed", "unreachable")))


class ReconcileStatus(StrEnum):
    """The result of a reconcile. `REFUSED`: the CR contradicts its argument specs, and was not run; `GONE`: it is not there
    any more; `LEFT`: nothing was to be done, such as for a CR that another operator finalizes."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "invalid spec"
    DRY_RUN = "dry run"
    GONE = "deleted"
    LEFT = "nothing to do"


@dataclass(slots=True, kw_only=True)
class TaskRecord:
    """A task of a run. `location` is `FILE:LINE`; `items` counts those of its loop that have ended."""

    uuid: str
    name: str
    action: str
    role: str
    location: str
    begun: float
    ended: float | None = None
    status: TaskStatus = TaskStatus.RUNNING
    items: int = 0
    # Of a failure.
    message: str = ""
    # Of the event with which it began.
    counter: int = 0


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """A run of a role or playbook. `artifacts` is the folder of what it left, None where nothing is kept."""

    ident: str
    content: Path
    artifacts: Path | None
    is_dry_run: bool
    begun: float = field(default_factory=time)
    ended: float | None = None
    tasks: list[TaskRecord] = field(default_factory=list)
    requests: list[ApiRequest] = field(default_factory=list)
    # How many there were beyond those that are kept.
    more_tasks: int = 0
    more_requests: int = 0
    # With the first of its messages.
    outcome: Outcome | None = None
    # Of a dry run: what would change, as text.
    plan: str = ""

    def add_event(self, event: JobEvent) -> None:
        """Take the next event of the run: a task that begins, a result, or an item's result."""
        kind = event.event
        if kind in ("playbook_on_task_start", "playbook_on_handler_task_start"):
            self._end_last(at=_seconds(event.created))
            if len(self.tasks) >= _MOST_TASKS:
                self.more_tasks += 1
                return
            data = event.data
            self.tasks.append(
                TaskRecord(
                    uuid=_text(data.get("task_uuid"), _LONGEST_NAME),
                    name=_text(event.task, _LONGEST_NAME),
                    action=_text(data.get("task_action"), _LONGEST_NAME),
                    role=_text(data.get("role"), _LONGEST_NAME),
                    location=_text(event.location, _LONGEST_MESSAGE),
                    begun=_seconds(event.created),
                    counter=event.counter,
                )
            )
        elif kind.startswith("runner_") and self.tasks:
            task = self.tasks[-1]
            if task.uuid != _text(event.data.get("task_uuid"), _LONGEST_NAME):
                return
            if kind.startswith("runner_item_on_"):
                task.items += 1
            elif (status := result_status(event)) is not None:
                task.ended = _seconds(event.created)
                if _ORDER.index(status) > _ORDER.index(task.status):
                    task.status, task.message = status, _message(event)

    def add_request(self, request: ApiRequest) -> None:
        if len(self.requests) < _MOST_REQUESTS:
            self.requests.append(request)
        else:
            self.more_requests += 1

    def end(self, outcome: Outcome | None) -> None:
        """End the run; None: it was ended before its own end."""
        self.outcome, self.ended = outcome and _cut(outcome), time()
        self._end_last(at=self.ended)

    def _end_last(self, *, at: float) -> None:
        # Such as `meta`, and what was running when the run was ended: they have no result.
        if self.tasks and self.tasks[-1].ended is None:
            self.tasks[-1].ended = at


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """A part of a reconcile: read, start, tasks, end, status."""

    name: str
    begun: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Requeue:
    """When a CR comes again by itself, and why."""

    due: float
    reason: RequeueReason


@dataclass(slots=True, kw_only=True)
class ReconcileRecord:
    """A reconcile of a CR. `waited` is how long it stood in the queue."""

    request: Request
    priority: Priority = Priority.CHANGE
    waited: float = 0.0
    begun: float = field(default_factory=time)
    # The event that it is due to, or why the last reconcile had it requeued.
    cause: str = ""
    # The namespace of another object than the CR that the cause names; empty for one of the whole cluster.
    cause_namespace: str | None = None
    # Of the CR that was reconciled; empty and None where it was not found.
    uid: str = ""
    generation: int | None = None
    phases: list[PhaseRecord] = field(default_factory=list)
    run: RunRecord | None = None
    status: ReconcileStatus = ReconcileStatus.RUNNING
    # Why it was refused, or has to be tried again.
    message: str = ""
    ended: float | None = None
    requeue: Requeue | None = None

    def finish_phase(self, name: str, begun: float, ended: float) -> None:
        # The clock may have been set back.
        self.phases.append(PhaseRecord(name, begun, max(0.0, ended - begun)))

    def end(self, status: ReconcileStatus, message: str = "") -> None:
        """Set the result, which the first call decides."""
        if self.status is ReconcileStatus.RUNNING:
            self.status, self.message = status, message[:_LONGEST_MESSAGE]


def result_status(event: JobEvent) -> TaskStatus | None:
    """The status that an event gives to a task, or to an item of its loop; None for an event that is no result."""
    source, _, result = event.event.rpartition("_on_")
    if source not in ("runner", "runner_item") or result not in _RESULTS:
        return None
    if result == "failed" and event.data.get("ignore_errors") is True:
        return TaskStatus.IGNORED
    if result == "ok" and event.result.get("changed") is True:
        return TaskStatus.CHANGED
    return TaskStatus(result)


def _message(event: JobEvent) -> str:
    """The message of a failure; empty for any other event."""
    if event.is_failure:
        return event.message[:_LONGEST_MESSAGE]
    # What the play ignores nobody has put into words yet, which takes as long as its output is.
    has_failed = event.event in ("runner_on_failed", "runner_on_unreachable")
    return _text(event.result.get("msg"), _LONGEST_MESSAGE) if has_failed else ""


def _cut(outcome: Outcome) -> Outcome:
    messages = tuple(message[:_LONGEST_MESSAGE] for message in outcome.messages[:_MOST_MESSAGES])
    return replace(outcome, messages=messages, reports=(), requeue_after=None)


def _text(value: object, most: int) -> str:
    """The beginning of a text; empty for anything else, which to write out may take long."""
    return value[:most] if isinstance(value, str) else ""


def _seconds(created: object) -> float:
    """The time of an event, which is UTC where it does not say otherwise. An event that gives none happens now."""
    try:
        at = datetime.fromisoformat(_text(created, _LONGEST_NAME))
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return time()
