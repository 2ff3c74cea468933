from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.control import Priority
from runner.control.records import ReconcileRecord, ReconcileStatus, RunRecord
from runner.dashboard.custom_resource import CustomResource, custom_resource, readiness
from runner.dashboard.index import CrState, Summary
from runner.executor.jobs import Outcome
from tests.control.test_workqueue import A
from tests.dashboard.test_index import condition, cr

NOW = 1000.0
SUMMARY = Summary.of(A, cr("a", "default", conditions=[condition("Successful")], observedGeneration=1))


def record(begun: float, ident: str = "", **fields: Any) -> ReconcileRecord:
    made = ReconcileRecord(request=A, priority=Priority.CHANGE, waited=0.5, begun=begun, ended=begun + 2, generation=3)
    if ident:
        made.run = RunRecord(ident=ident, content=Path("/roles/x"), artifacts=None, is_dry_run=False)
        made.run.end(Outcome(ok=3, changed=1))
    for name, value in {"status": ReconcileStatus.SUCCEEDED, **fields}.items():
        setattr(made, name, value)
    return made


def view(*records: ReconcileRecord, summary: Summary | None = SUMMARY, **rest: Any) -> CustomResource:
    return custom_resource(A, summary, records, **{"now": NOW, "next_run": "soon", "activity": None, **rest})


def obj(name: str, kind: str = "ConfigMap", owners: tuple[str, ...] = (), **rest: Any) -> dict[str, Any]:
    references = [{"uid": owner} for owner in owners]
    metadata = {"name": name, "namespace": "default", "uid": name, "ownerReferences": references}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **rest}


def test_the_last_reconciles() -> None:
    made = view(record(990, "new", cause="changed"), record(980))
    first, second = made.reconciles
    assert (first.cause, first.duration, first.waited, first.begun.ago) == ("changed", "2.0 s", "0.50 s", "10 s ago")
    assert (first.counts, first.href, first.generation) == ("3 ok, 1 changed, 0 failed", "/run/new", 3)
    assert (second.href, second.cause) == ("", "not known")
    assert made.runs == ["new"]


def test_the_timeline_is_from_the_first_reconcile_to_now() -> None:
    made = view(record(990, status=ReconcileStatus.FAILED), record(980))
    assert [(bar.x, bar.status) for bar in made.timeline] == [(0, "succeeded"), (500, "failed")]
    assert made.timeline_begun == "20 s"


def test_one_that_is_on_has_no_end() -> None:
    (only,) = view(record(990, ended=None, status=ReconcileStatus.RUNNING)).reconciles
    assert (only.status, only.duration) == (ReconcileStatus.RUNNING, "10 s")


@pytest.mark.parametrize(
    ("statuses", "message"),
    [
        ((ReconcileStatus.FAILED, ReconcileStatus.SUCCEEDED), "why"),
        ((ReconcileStatus.RUNNING, ReconcileStatus.REFUSED), "why"),
        ((ReconcileStatus.SUCCEEDED, ReconcileStatus.FAILED), ""),
        ((), ""),
    ],
    ids=["failed", "refused", "succeeded", "none"],
)
def test_why_the_last_one_failed(statuses: tuple[ReconcileStatus, ...], message: str) -> None:
    assert view(*(record(990 - n, status=status, message="why") for n, status in enumerate(statuses))).message == message


def test_the_state_is_what_goes_on_or_that_of_the_conditions() -> None:
    assert (view().state, view(activity=CrState.WAITING).state, view(summary=None).state) == ("ok", "waiting", "deleted")
    assert view().is_behind
    assert view(summary=None, may_run=True).may_run is False


def test_dependents_follow_their_owners() -> None:
    made = view(dependents=[obj("grandchild", owners=("child",)), obj("child", owners=("x", "a")), obj("marked")])
    found = [(each.name, each.level, each.owner) for each in made.dependents]
    assert found == [("child", 1, "a"), ("grandchild", 2, "ConfigMap child"), ("marked", 1, "a")]
    # What owns what is a link, to its row; a CR of which there is a page has one to that.
    rows = {each.anchor: each.name for each in made.dependents}
    assert [rows.get(each.owner_href[1:], "the CR") for each in made.dependents] == ["the CR", "child", "the CR"]
    made = view(dependents=[obj("child", owners=("a",)), obj("other", owners=("a",))], links={"child": "/cr/x"})
    assert [each.href for each in made.dependents] == ["/cr/x", ""]


def test_objects_that_own_each_other_end_somewhere() -> None:
    made = view(dependents=[obj("one", owners=("two",)), obj("two", owners=("one",)), obj("self", owners=("self",))])
    assert {each.name for each in made.dependents} <= {"one", "two", "self"}


def test_very_many_dependents_are_cut() -> None:
    made = view(dependents=[obj(str(n), owners=("a",)) for n in range(1000)])
    assert (len(made.dependents), made.more_dependents) == (200, True)


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        ({"spec": {"replicas": 3, "template": {}}, "status": {"readyReplicas": 2}}, "2 of 3 ready"),
        ({"spec": {"replicas": 3, "template": {}}}, "0 of 3 ready"),
        ({"spec": {"template": {}}, "status": {"desiredNumberScheduled": 2, "numberReady": 2}}, "2 of 2 ready"),
        ({"status": {"phase": "Bound"}}, "Bound"),
        ({"status": {"conditions": [None, {"type": "Ready", "status": "False"}]}}, "Ready: False"),
        ({"status": {"conditions": "x", "phase": {}}, "spec": {"replicas": "x", "template": 1}}, ""),
        ({"spec": {"replicas": 10**5000, "template": {}}}, ""),
        ({"status": {"phase": "x" * 1_000_000}}, "x" * 50 + "…"),
        ({"spec": None, "status": []}, ""),
    ],
    ids=["some", "none", "daemons", "phase", "condition", "odd", "huge", "long", "empty"],
)
def test_readiness(rest: dict[str, Any], text: str) -> None:
    assert readiness(obj("x", **rest)) == text


def test_runs_of_an_earlier_process_are_those_that_are_not_known() -> None:
    made = view(record(990, "known"), earlier=[("known", 1.0), ("older", 0.0)])
    assert [(each.ident, each.href) for each in made.earlier] == [("older", "/run/older?of=example.com/v1/Thing/default/a")]
