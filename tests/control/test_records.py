from pathlib import Path
from typing import Any

import pytest

from runner.control import Priority, records
from runner.control.reconciliation import Phases
from runner.control.records import ReconcileRecord, ReconcileStatus, RunRecord, TaskStatus
from runner.executor.jobs import JobEvent, Outcome
from runner.proxy.sessions import ApiRequest
from tests.control.test_workqueue import A


def run() -> RunRecord:
    return RunRecord(ident="1", content=Path("/roles/x"), artifacts=None, is_dry_run=False)


def event(name: str, second: int, uuid: str = "a", **data: Any) -> JobEvent:
    created = f"2026-01-01T00:00:{second:02}+00:00"
    return JobEvent.of(
        {"event": name, "created": created, "event_data": {"task_uuid": uuid, "task": f"Task {uuid}", **data}}
    )


def started(second: int, uuid: str = "a") -> JobEvent:
    data = {"task_action": "command", "role": "x", "task_path": "/roles/x/tasks/main.yml:3"}
    return event("playbook_on_task_start", second, uuid, **data)


def test_a_task_has_its_times_and_its_result() -> None:
    record = run()
    for each in (started(1), event("runner_on_start", 1), event("runner_on_ok", 4, res={"changed": True})):
        record.add_event(each)
    (task,) = record.tasks
    assert (task.name, task.action, task.role, task.location) == ("Task a", "command", "x", "/roles/x/tasks/main.yml:3")
    assert (task.status, task.ended and task.ended - task.begun) == (TaskStatus.CHANGED, 3)


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("runner_on_ok", {"res": {"changed": False}}, TaskStatus.OK),
        ("runner_on_ok", {"res": "no mapping"}, TaskStatus.OK),
        ("runner_on_skipped", {}, TaskStatus.SKIPPED),
        ("runner_on_failed", {"res": {"msg": "no"}}, TaskStatus.FAILED),
        ("runner_on_failed", {"res": {"msg": "no"}, "ignore_errors": True}, TaskStatus.IGNORED),
        ("runner_on_unreachable", {"res": {"msg": "no"}}, TaskStatus.UNREACHABLE),
    ],
    ids=["ok", "odd", "skipped", "failed", "ignored", "unreachable"],
)
def test_the_status_of_a_task_is_that_of_its_result(name: str, data: dict[str, Any], status: TaskStatus) -> None:
    record = run()
    record.add_event(started(1))
    record.add_event(event(name, 2, **data))
    assert record.tasks[0].status is status
    assert record.tasks[0].message == ("no" if data.get("res") == {"msg": "no"} else "")


def test_the_items_of_a_loop_are_counted() -> None:
    record = run()
    for each in (
        started(1),
        event("runner_item_on_ok", 2),
        event("runner_item_on_failed", 3),
        event("runner_on_failed", 4, res={}),
    ):
        record.add_event(each)
    assert record.tasks[0].items == 2
    assert record.tasks[0].status is TaskStatus.FAILED


def test_a_task_without_a_result_ends_with_the_next_one_or_with_the_run() -> None:
    record = run()
    record.add_event(started(1))
    record.add_event(started(3, "b"))
    # Not the last task's.
    record.add_event(event("runner_on_ok", 9, "a", res={}))
    assert record.tasks[0].ended == record.tasks[1].begun
    record.end(None)
    assert record.tasks[1].status is TaskStatus.RUNNING
    assert record.tasks[1].ended == record.ended


def test_tasks_and_requests_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_MOST_TASKS", 2)
    monkeypatch.setattr(records, "_MOST_REQUESTS", 2)
    record = run()
    for number in range(5):
        record.add_event(started(number, str(number)))
        record.add_request(ApiRequest("GET", "/api", 200, False, 0.0, 0.1))
    assert (len(record.tasks), record.more_tasks) == (2, 3)
    assert (len(record.requests), record.more_requests) == (2, 3)


def test_long_texts_are_cut() -> None:
    record = run()
    record.add_event(event("playbook_on_task_start", 1, task="t" * 10_000, task_path="p" * 10_000))
    record.add_event(event("runner_on_failed", 2, res={"msg": "m" * 10_000}))
    (task,) = record.tasks
    assert len(task.name) + len(task.location) + len(task.message) < 5000
    record.end(Outcome(messages=("m" * 100_000,) * 100, reports=("r" * 100_000,) * 100))
    assert record.outcome is not None
    assert not record.outcome.succeeded
    assert len("".join((*record.outcome.messages, *record.outcome.reports))) <= 20_000


@pytest.mark.parametrize("created", ["", "yesterday", 17, None, {"at": 1}], ids=str)
def test_an_event_without_a_time_happens_now(created: Any) -> None:
    record = run()
    record.add_event(JobEvent.of({"event": "playbook_on_task_start", "created": created, "event_data": {"task": "x"}}))
    assert record.tasks[0].begun >= record.begun


@pytest.mark.parametrize(
    "created", ["2026-01-01T00:00:01", "2026-01-01T00:00:01Z", "2025-12-31T19:00:01-05:00", "2026-01-01T00:00:01+00:00"]
)
def test_a_time_is_utc_where_it_does_not_say_otherwise(created: str) -> None:
    record = run()
    record.add_event(JobEvent.of({"event": "playbook_on_task_start", "created": created, "event_data": {"task": "x"}}))
    assert record.tasks[0].begun == 1_767_225_601


def test_an_event_of_odd_types_is_taken_as_far_as_it_goes() -> None:
    record = run()
    odd = {"task": {"a": 1}, "task_action": 7, "role": ["r"], "task_path": {"p": 1}}
    record.add_event(JobEvent.of({"event": "playbook_on_task_start", "event_data": odd}))
    record.add_event(JobEvent.of({"event": "runner_on_failed", "event_data": {"ignore_errors": True, "res": {"msg": [1]}}}))
    (task,) = record.tasks
    assert (task.name, task.action, task.role, task.location, task.message) == ("", "", "", "", "")
    assert task.status is TaskStatus.IGNORED


def test_the_gravest_of_several_hosts_results_is_the_task_s() -> None:
    record = run()
    results = [("ok", {"changed": True}), ("failed", {"msg": "no"}), ("ok", {"changed": False}), ("skipped", {})]
    for each in (started(1), *(event(f"runner_on_{name}", 2, res=res) for name, res in results)):
        record.add_event(each)
    assert (record.tasks[0].status, record.tasks[0].message) == (TaskStatus.FAILED, "no")


def test_the_first_result_of_a_reconcile_counts() -> None:
    record = ReconcileRecord(request=A, priority=Priority.CHANGE, waited=0.0)
    record.end(ReconcileStatus.FAILED, "why")
    record.end(ReconcileStatus.LEFT)
    assert (record.status, record.message) == (ReconcileStatus.FAILED, "why")


def test_a_run_ends_with_its_outcome() -> None:
    record = run()
    record.end(Outcome(ok=1))
    assert record.outcome == Outcome(ok=1)
    assert record.ended is not None


def test_a_phase_begins_where_the_last_one_ended() -> None:
    record = ReconcileRecord(request=A, priority=Priority.CHANGE, waited=0.0)
    phases = Phases(record)
    for name in ("read", "start", "status"):
        phases.finish(name)
    ends = [phase.begun + phase.seconds for phase in record.phases]
    assert [phase.begun for phase in record.phases[1:]] == pytest.approx(ends[:-1], abs=1e-6)
    record.finish_phase("after the clock was set back", 10.0, 5.0)
    assert record.phases[-1].seconds == 0
