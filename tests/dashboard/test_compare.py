from __future__ import annotations

from runner.control import Priority
from runner.control.records import ReconcileRecord, RunRecord, TaskRecord, TaskStatus
from runner.dashboard.artifacts import Details, Result, TaskDetails
from runner.dashboard.compare import Compared, Comparison, comparison
from runner.proxy.sessions import ApiRequest
from tests.control.test_workqueue import A, B
from tests.dashboard.test_run_page import NOW, run, task


def compared(one: RunRecord, other: RunRecord, left: Details | None = None, right: Details | None = None) -> Comparison:
    sides = [
        Compared(
            record=ReconcileRecord(request=request, priority=Priority.CHANGE, waited=0), run=of, details=details or Details()
        )
        for request, of, details in ((A, one, left), (B, other, right))
    ]
    return comparison(sides[0], sides[1], now=NOW)


def details(*results: str) -> Details:
    return Details({f"uuid-{number}": TaskDetails(Result(message=text)) for number, text in enumerate(results)})


def differs(one: TaskRecord, other: TaskRecord) -> list[str]:
    (pair,) = compared(run(one), run(other)).pairs
    return list(pair.differs)


def test_what_is_the_same_does_not_differ() -> None:
    made = compared(run(task(0)), run(task(0)), details("x"), details("x"))
    assert (made.differing, made.pairs[0].diff, made.pairs[0].statuses) == (0, [], ("ok", "ok"))


def test_status_items_and_time() -> None:
    assert differs(task(0), task(0, status=TaskStatus.FAILED)) == ["status"]
    assert differs(task(0, items=1), task(0, items=2)) == ["items"]
    assert differs(task(0), task(0, ended=task(0).begun + 3)) == ["time"]
    # Milliseconds are no difference.
    assert differs(task(0, ended=task(0).begun + 0.01), task(0, ended=task(0).begun + 0.05)) == []


def test_results_are_compared_line_by_line() -> None:
    (pair,) = compared(run(task(0)), run(task(0)), details("same\nold"), details("same\nnew")).pairs
    assert pair.differs == ["result"]
    assert list(pair.diff)[1:] == [" same", "-old", "+new"]


def test_items_are_part_of_the_result() -> None:
    left, right = details("x"), details("x")
    left.tasks["uuid-0"].items.append(Result(status="ok", label="a"))
    right.tasks["uuid-0"].items.append(Result(status="failed", label="a"))
    assert "-item=a: ok" in compared(run(task(0)), run(task(0)), left, right).pairs[0].diff


def test_a_result_that_is_not_known_is_no_difference() -> None:
    assert compared(run(task(0)), run(task(0)), details("x"), Details()).pairs[0].differs == []


def test_a_task_of_one_run_alone() -> None:
    made = compared(run(task(0), task(1)), run(task(0), task(2)))
    assert [(pair.name, pair.statuses) for pair in made.pairs] == [
        ("task 0", ("ok", "ok")),
        ("task 1", ("ok", "")),
        ("task 2", ("", "ok")),
    ]
    assert [list(pair.differs) for pair in made.pairs[1:]] == [["only in one"]] * 2


def test_a_task_that_is_there_twice_is_two() -> None:
    twice = run(task(0), task(0, uuid="again", status=TaskStatus.SKIPPED))
    assert [pair.statuses for pair in compared(twice, run(task(0))).pairs] == [("ok", "ok"), ("skipped", "")]


def test_sides_may_be_of_two_crs() -> None:
    other = run()
    other.requests += [ApiRequest("GET", "/", 200, True, 0, 0), ApiRequest("POST", "/", 201, False, 0, 0)]
    first, second = compared(run(), other).sides
    assert (first.cr, second.cr) == ("Thing default/a", "Thing default/b")
    assert first.requests == "0 reads; 0 writes"
    assert second.requests == "1 read, 1 of them answered from the operator's store; 1 write"


def test_very_large_runs_are_cut() -> None:
    many = run(*(task(number) for number in range(5000)))
    text = "\n".join(map(str, range(100_000)))
    made = compared(many, many, details(text), details(text[::-1]))
    assert (len(made.pairs), made.is_cut) == (300, True)
    assert len(made.pairs[0].diff) <= 201
