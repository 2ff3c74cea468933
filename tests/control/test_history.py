from __future__ import annotations

from pathlib import Path
from time import time

import pytest

from runner.control import Priority, Request, RequeueReason, history
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
    assert list(made.on()) == [third]
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


def test_a_reconcile_that_was_due_to_the_last_one_has_its_cause() -> None:
    made = History(is_kept=True)
    reconciled(made, A).requeue = Requeue(time(), RequeueReason.REQUEUE_AFTER)
    assert made.begin(A, Priority.CHANGE, 0.0).cause == ""
    assert made.begin(A, Priority.RETRY, 0.0).cause == "requeue_after"


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


def test_each_change_is_told() -> None:
    told: list[Request] = []
    made = History(is_kept=True, notify=told.append)
    record = made.begin(A, Priority.CHANGE, 0.0)
    assert told == [A]
    made.end(record)
    assert told == [A, A]
