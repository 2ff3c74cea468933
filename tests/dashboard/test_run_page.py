from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.control import Priority
from runner.control.records import ReconcileRecord, RunRecord, TaskRecord, TaskStatus
from runner.dashboard.artifacts import Details, Result, TaskDetails
from runner.dashboard.run_page import TASKS, RunPage, events_of_page, run_page
from runner.executor.jobs import Outcome
from runner.proxy.sessions import ApiRequest
from tests.control.test_workqueue import A

BEGUN, NOW = 1000.0, 1010.0


def task(number: int = 0, **fields: Any) -> TaskRecord:
    made = TaskRecord(
        uuid=f"uuid-{number}",
        name=f"task {number}",
        action="debug",
        role="x",
        location="/project/roles/x/tasks/main.yml:3",
        begun=BEGUN + number,
        ended=BEGUN + number + 1,
        status=TaskStatus.OK,
        counter=10 * number,
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def run(*tasks: TaskRecord, outcome: Outcome | None = None, ended: float | None = NOW, **fields: Any) -> RunRecord:
    return RunRecord(
        **{"ident": "abc", "content": Path("/project/roles/x"), "artifacts": None, "is_dry_run": False, **fields},
        begun=BEGUN,
        ended=ended,
        tasks=list(tasks),
        outcome=outcome or (Outcome(ok=1) if ended else None),
    )


def view(of: RunRecord, details: Details | None = None, **rest: Any) -> RunPage:
    record = ReconcileRecord(request=A, priority=Priority.CHANGE, waited=2.0, begun=BEGUN, ended=of.ended, cause="changed")
    record.finish_phase("read", BEGUN, BEGUN)
    record.run = of
    return run_page(record, of, details or Details(), **{"now": NOW, **rest})


def test_tasks_are_bars_on_the_scale_of_the_run() -> None:
    first, second = view(run(task(0), task(5))).tasks
    assert (first.bar.x, first.bar.width, second.bar.x, second.bar.width) == (0, 100, 500, 100)
    assert (first.number, first.name, first.duration, first.status) == (1, "task 0", "1.0 s", "ok")
    assert first.location == "roles/x/tasks/main.yml:3"


def test_what_a_task_left_is_found_by_its_uuid() -> None:
    details = Details(tasks={"uuid-1": TaskDetails(result=Result(message="hello"))}, problem="not all")
    first, second = (made := view(run(task(0), task(1)), details)).tasks
    assert first.details is None
    assert second.details
    assert second.details.result
    assert (second.details.result.message, made.problem) == ("hello", "not all")


@pytest.mark.parametrize(("status", "is_open"), [(TaskStatus.FAILED, True), (TaskStatus.IGNORED, False)])
def test_what_failed_is_open(status: TaskStatus, is_open: bool) -> None:
    assert view(run(task(status=status))).tasks[0].is_open is is_open


def test_a_run_that_is_on_has_a_task_that_goes_on() -> None:
    made = view(run(task(8, ended=None, status=TaskStatus.RUNNING), ended=None))
    assert (made.is_on, made.status, made.duration, made.tasks[0].duration) == (True, "running", "10 s", "2.0 s")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, "succeeded"),
        ({"outcome": Outcome(messages=("no",))}, "failed"),
        ({"is_dry_run": True}, "dry run"),
        ({"is_dry_run": True, "outcome": Outcome(messages=("no",))}, "dry run, failed"),
    ],
    ids=["ok", "failed", "dry", "dry failed"],
)
def test_the_status_of_a_run(fields: dict[str, Any], status: str) -> None:
    assert view(run(**fields)).status == status


def test_a_run_that_was_ended_says_so() -> None:
    of = run()
    of.outcome = None
    assert view(of).status == "ended before its end"


def test_tasks_are_cut_into_pages() -> None:
    of = run(*(task(n) for n in range(2 * TASKS + 1)))
    of.more_tasks = 4000
    first, last, beyond = (view(of, page=page) for page in (1, 3, 99))
    assert (len(first.tasks), first.pages, first.task_count) == (TASKS, 3, 2 * TASKS + 4001)
    assert [each.number for each in last.tasks] == [each.number for each in beyond.tasks] == [2 * TASKS + 1]


def test_the_events_of_a_page_are_those_of_its_tasks() -> None:
    of = run(*(task(n) for n in range(2 * TASKS + 1)))
    assert [events_of_page(of, page) for page in (1, 2, 3)] == [
        (0, 10 * TASKS),
        (10 * TASKS, 20 * TASKS),
        (20 * TASKS, None),
    ]
    assert events_of_page(run(), 1) == (0, None)


def test_phases_begin_with_the_queue() -> None:
    queue, read = view(run()).phases
    assert (queue.name, queue.duration, queue.bar.x) == ("queue", "2.0 s", 0)
    assert read.name == "read"
    assert view(run(), is_known=False).phases == []


def test_requests_are_counted_and_cut() -> None:
    of = run()
    of.requests += [ApiRequest("GET", f"/api/{'x' * 10_000}", 200, True, 0, 0.01)] * 400
    of.requests += [ApiRequest("PATCH", "/api", 0, False, 0, 0.01)]
    of.more_requests = 10
    made = view(of)
    assert made.requests == "400 reads, 400 of them answered from the operator's store; 1 write"
    assert (made.call_count, len(made.calls)) == (411, 300)
    assert len(made.calls[0].path) < 400
    assert (made.calls[0].source, made.calls[0].status) == ("store", "200")


def test_long_texts_are_cut() -> None:
    made = view(run(outcome=Outcome(messages=("x" * 1_000_000,) * 50), plan="+ y\n" * 1_000_000))
    assert sum(map(len, made.messages)) < 200_000
    assert sum(map(len, made.plan)) < 70_000
