from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.control import Priority, Request, RequeueReason
from runner.control.history import ContentTimes
from runner.control.records import ReconcileRecord, ReconcileStatus, RunRecord
from runner.dashboard.index import PAGE, CrState, Filter, Selection, Summary
from runner.dashboard.overview import Facts, Load, Overview, address, cr_path, overview
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.control.test_workqueue import THING, A
from tests.dashboard.test_index import condition, cr

NOW = 1000.0


def record(**fields: Any) -> ReconcileRecord:
    made = ReconcileRecord(request=A, priority=Priority.CHANGE, waited=0, begun=NOW - 20, ended=NOW - 10)
    made.status = ReconcileStatus.SUCCEEDED
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def view(selection: Selection, last: ReconcileRecord | None = None, **rest: Any) -> Overview:
    facts = {summary.request: Facts(last=last, next_run="soon") for summary, _ in selection.rows}
    return overview(selection, facts, **{"now": NOW, "load": None, "contents": {}, **rest})


def selected(state: CrState = CrState.OK, **status: Any) -> Selection:
    summary = Summary.of(A, cr("a", "default", **status))
    return Selection(filter=Filter(), rows=[(summary, state)], total=1, counts={THING: Counter({state: 1})})


def test_a_row_has_the_last_run_with_its_cause_and_the_next_one() -> None:
    run = RunRecord(ident="abc", content=Path("/roles/x"), artifacts=None, is_dry_run=False)
    (row,) = view(selected(), record(run=run, cause=RequeueReason.PERIOD)).rows
    assert (row.name, row.state, row.last_status, row.last and row.last.ago) == ("a", CrState.OK, "succeeded", "10 s ago")
    assert (row.run_href, row.cause, row.next_run) == ("/run/abc", "its period was over", "soon")


def test_a_row_without_a_reconcile_has_the_time_of_its_condition() -> None:
    since = condition("Successful", lastTransitionTime="1970-01-01T00:15:40Z")
    (row,) = view(selected(conditions=[since])).rows
    assert (row.last and row.last.ago, row.last_status, row.run_href, row.cause) == ("1 min ago", "", "", "")
    (row,) = view(selected(conditions=[condition("Successful", lastTransitionTime="not a time")])).rows
    assert row.last is None


def test_what_has_changed_since_is_told() -> None:
    assert view(selected(observedGeneration=1)).rows[0].is_behind
    assert not view(selected(observedGeneration=2)).rows[0].is_behind
    assert not view(selected()).rows[0].is_behind


def test_kinds_lead_to_their_crs_by_state() -> None:
    found = selected()
    found.counts = {THING: Counter({CrState.FAILED: 2, CrState.OK: 1})}
    (kind,) = view(found).kinds
    assert (kind.kind, kind.total, kind.content) == ("Thing", 3, "x")
    assert kind.counts == [
        (CrState.OK, 1, "/?kind=example.com%2Fv1%2FThing&state=ok"),
        (CrState.FAILED, 2, "/?kind=example.com%2Fv1%2FThing&state=failed"),
    ]


def test_pages_keep_their_filter() -> None:
    found = replace(selected(), filter=Filter(text="a&b", namespace="x", page=2), total=3 * PAGE, page=2)
    made = view(found)
    assert (made.previous, made.next) == ("/?namespace=x&text=a%26b", "/?namespace=x&text=a%26b&page=3")
    assert address(Filter()) == "/"


def test_work_is_that_of_what_may_be_seen() -> None:
    found = selected()
    found.counts = {THING: Counter({CrState.RUNNING: 2, CrState.WAITING: 3, CrState.OK: 5})}
    made = view(found)
    assert (made.running, made.waiting, made.count, made.load) == (2, 3, 10, None)
    load = Load(delayed=4, by_minute=[0, 3, 1])
    assert (load.last_hour, load.most, load.points.count(",")) == (4, 3, 3)


def test_the_slowest_roles_come_first() -> None:
    contents = {Path(f"/roles/{n}"): ContentTimes(runs=2, seconds=2.0 * n, longest=1.5 * n) for n in range(20)}
    rows = view(selected(), contents=contents).contents
    assert [row.name for row in rows] == [str(n) for n in range(19, 9, -1)]
    assert (rows[0].runs, rows[0].mean, rows[0].longest) == (2, "19 s", "28 s")


def test_a_path_holds_any_name() -> None:
    watch = replace(THING, gvk=GroupVersionKind("", "v1", "Secret"))
    assert cr_path(Request(watch, ObjectKey("", "a/b?c#é"))) == "/cr/-/v1/Secret/-/a%2Fb%3Fc%23%C3%A9"
