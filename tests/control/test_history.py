from __future__ import annotations

from pathlib import Path
from time import time

import pytest

from runner.control import Priority, Request, RequeueReason, history, records
from runner.control.history import History
from runner.control.records import ReconcileRecord, ReconcileStatus, Requeue, RunRecord
from runner.proxy.sessions import ApiRequest
from tests.control.test_workqueue import A, B


def run(ident: str) -> RunRecord:
    return RunRecord(ident=ident, content=Path("/roles/x"), artifacts=None, is_dry_run=False)


def reconciled(made: History, request: Request, ident: str = "", requests: int = 0) -> ReconcileRecord:
    record = made.begin(request, Priority.CHANGE, 0.5)
    if ident:
        of_run = run(ident)
        made.begin_run(record, of_run)
        for _ in range(requests):
            of_run.add_request(ApiRequest("GET", "/api", 200, False, 0.0, 0.1))
        of_run.end(None)
    record.end(ReconcileStatus.SUCCEEDED)
    made.end(record)
    return record


def test_reconciles_are_kept_with_the_latest_first() -> None:
    made = History(is_kept=True)
    first, second = reconciled(made, A, "1"), reconciled(made, A)
    third = made.begin(A, Priority.CHANGE, 0.0)
    reconciled(made, B)
    assert made.of(A) == [third, second, first]
    assert made.last(A) is second
    assert made.of_run("1") is first
    assert made.is_on(A)
    assert not made.is_on(B)
    assert made.current(A) is third


def test_nothing_is_kept_where_nobody_looks() -> None:
    made = History()
    record = reconciled(made, A, "1")
    assert record.ended is not None
    assert made.of(A) == []
    assert made.of_run("1") is None
    assert not made.contents


def test_a_cr_has_its_last_reconciles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_MOST_OF_CR", 3)
    made = History(is_kept=True)
    kept = [reconciled(made, A, str(number)) for number in range(5)]
    assert made.of(A) == kept[:1:-1]
    assert made.of_run("1") is None
    assert made.of_run("2") is kept[2]


def test_the_oldest_goes_where_all_take_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_MOST_ENTRIES", 10)
    made = History(is_kept=True)
    reconciled(made, A, "1")
    second = reconciled(made, B, "2", requests=7)
    assert made.of(A) == []
    assert made.of_run("1") is None
    assert made.of(B) == [second]
    # One that is larger than all there is room for.
    reconciled(made, A, "3", requests=20)
    assert made.of(A) == made.of(B) == []
    reconciled(made, A)
    assert len(made.of(A)) == 1


def test_long_texts_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_MOST_ENTRIES", 100)
    made = History(is_kept=True)
    record = made.begin(A, Priority.CHANGE, 0.0)
    made.begin_run(record, run("1"))
    assert record.run is not None
    record.run.plan = "p" * 200 * 512
    made.end(record)
    assert made.of(A) == []


def test_what_is_answered_after_the_end_takes_no_room_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_MOST_ENTRIES", 10)
    made = History(is_kept=True)
    for number in range(20):
        record = reconciled(made, A, str(number))
        assert record.run is not None
        for _ in range(5):
            record.run.add_request(ApiRequest("GET", "/api", 200, False, 0.0, 0.1))
    assert len(made.of(A)) == 5
    reconciled(made, B, "large", requests=20)
    assert made.of(A) == made.of(B) == []


@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "not kept"])
def test_a_reconcile_that_was_due_to_the_last_one_has_its_cause(is_kept: bool) -> None:
    made = History(is_kept=is_kept)

    def next_one(priority: Priority) -> str:
        """The cause of a reconcile with this priority, after one whose role asked for it."""
        record = made.begin(A, Priority.CHANGE, 0.0)
        record.requeue = Requeue(time(), RequeueReason.REQUEUE_AFTER)
        made.end(record)
        return made.begin(A, priority, 0.0).cause

    assert next_one(Priority.CHANGE) == ""
    assert next_one(Priority.RETRY) == "requeue_after"
    # What came of that one is not known, and the reason is not that of the one before.
    assert made.begin(A, Priority.RETRY, 0.0).cause == ""


def test_a_cr_that_is_gone_does_not_come_again() -> None:
    made = History()
    record = made.begin(A, Priority.CHANGE, 0.0)
    record.requeue = Requeue(time(), RequeueReason.PERIOD)
    made.end(record)
    made.forget(A)
    assert made.begin(A, Priority.PERIODIC, 0.0).cause == ""


def test_one_that_did_nothing_says_so() -> None:
    made = History(is_kept=True)
    record = made.begin(A, Priority.PERIODIC, 0.0)
    made.end(record)
    assert record.status is ReconcileStatus.LEFT


def test_runs_are_counted_by_minute_and_by_role() -> None:
    made = History(is_kept=True)
    for number in range(3):
        reconciled(made, A, str(number))
    assert sum(made.runs_by_minute()) == 3
    assert made.contents[Path("/roles/x")].runs == 3


def test_a_clock_that_is_set_back_counts_nothing_below_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    made, now = History(is_kept=True), [1e9]
    monkeypatch.setattr(history, "time", lambda: now[0])
    monkeypatch.setattr(records, "time", lambda: now[0])
    record = made.begin(A, Priority.CHANGE, 0.0)
    of_run = run("1")
    of_run.begun = now[0] + 5
    made.begin_run(record, of_run)
    of_run.end(None)
    made.end(record)
    assert made.contents[of_run.content].seconds == 0
    for minute in range(300):
        # Forward for a while, and then back before all of it.
        now[0] = 1e9 + 60 * (minute if minute < 150 else minute - 1000)
        reconciled(made, A, str(minute))
    assert made.runs_by_minute() == [1] * 60
    assert len(made._minutes) <= 120


def test_each_change_is_told() -> None:
    told: list[Request] = []
    made = History(is_kept=True, notify=told.append)
    record = made.begin(A, Priority.CHANGE, 0.0)
    assert told == [A]
    made.end(record)
    assert told == [A, A]
