"""What a run wrote itself, told from what happened beside it, in whichever order the watch and the answers come."""

import contextlib
import time
from typing import Any

import pytest

from runner.control import Request
from runner.control import own_writes as module
from runner.control.own_writes import OwnWrites, RunWrites, VersionChange
from runner.resource.metadata import ObjectKey
from tests.control.test_workqueue import watch

ONE, TWO = (Request(watch("Thing"), ObjectKey("default", name)) for name in ("one", "two"))


@pytest.fixture
def missed() -> list[Request]:
    return []


@pytest.fixture
def own_writes(missed: list[Request]) -> OwnWrites:
    return OwnWrites(lambda request, change: missed.append(request))


def test_what_a_run_wrote_is_own_once_whenever_it_is_reported(own_writes: OwnWrites, missed: list[Request]) -> None:
    with own_writes.of_run(ONE) as wrote:
        # The watch may be quicker than the answer.
        assert own_writes.consume(ONE, VersionChange("a", "1", "5"))
        wrote("a", "1", "5")
        wrote("b", "1", "6")
    assert missed == []
    assert own_writes.consume(ONE, VersionChange("b", "1", "6"))
    assert not own_writes.consume(ONE, VersionChange("b", "1", "6"))
    assert not own_writes.consume(ONE, VersionChange("a", "1", "5"))


@pytest.mark.parametrize(
    "change",
    [VersionChange("a", "1", "6"), VersionChange("a", "1", ""), VersionChange("b", "1", "5")],
    ids=["later", "deleted", "another-object"],
)
def test_what_others_did_during_a_run_requeues_the_cr_after_it(
    own_writes: OwnWrites, missed: list[Request], change: VersionChange
) -> None:
    with own_writes.of_run(ONE) as wrote:
        wrote("a", "1", "5")
        assert own_writes.consume(ONE, change)
        assert own_writes.consume(ONE, VersionChange("a", "1", "5"))
        assert missed == []
    assert missed == [ONE]


@pytest.mark.parametrize(
    ("writes", "told", "own"),
    [
        ([("1", "2"), ("2", "3")], [("1", "2"), ("2", "3")], True),
        ([("1", "2"), ("2", "3")], [("1", "3")], True),
        ([("1", "2"), ("3", "4")], [("1", "4")], False),
        ([("1", "2")], [("0", "2")], False),
        ([(None, "2")], [("1", "2")], False),
        ([("", "2"), ("2", "3")], [("", "3")], True),
        ([(None, "")], [("1", "")], True),
        ([("2", "2")], [("1", "2")], False),
    ],
    ids=[
        "one by one",
        "several as one",
        "another's between",
        "another's before",
        "not known whose",
        "created",
        "deleted",
        "nothing changed",
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["during the run", "after it"])
def test_a_change_is_own_if_own_writes_lead_to_it(
    own_writes: OwnWrites, missed: list[Request], writes: list[Any], told: list[Any], own: bool, late: bool
) -> None:
    with own_writes.of_run(ONE) as wrote:
        for step in writes:
            wrote("a", *step)
        if not late:
            assert all([own_writes.consume(ONE, VersionChange("a", *step)) for step in told])
    assert [own_writes.consume(ONE, VersionChange("a", *step)) for step in told if late] == [own for _ in told if late]
    assert missed == ([] if own or late else [ONE])


def test_what_others_changed_is_named() -> None:
    told: list[VersionChange | None] = []
    own_writes = OwnWrites(lambda request, change: told.append(change))
    obj = {"kind": "ConfigMap", "metadata": {"namespace": "default", "name": "x", "uid": "a", "resourceVersion": "1"}}
    with own_writes.of_run(ONE) as wrote:
        wrote("b", "1", "5")
        assert own_writes.consume(ONE, VersionChange("b", "1", "5"))
        assert own_writes.consume(ONE, VersionChange.between(obj, None))
    assert told == [VersionChange("a", "1", "", "ConfigMap", ObjectKey("default", "x"))]


def test_a_run_that_is_cut_short_loses_nothing(own_writes: OwnWrites, missed: list[Request]) -> None:
    with contextlib.suppress(RuntimeError), own_writes.of_run(ONE):
        own_writes.consume(ONE, VersionChange("a", "1", "5"))
        raise RuntimeError
    assert missed == [ONE]


def test_what_another_crs_run_wrote_is_not_own(own_writes: OwnWrites) -> None:
    with own_writes.of_run(TWO) as wrote:
        wrote("a", "1", "5")
        assert not own_writes.consume(ONE, VersionChange("a", "1", "5"))


def test_what_the_run_before_wrote_is_own_when_a_watch_that_lags_reports_it(
    own_writes: OwnWrites, missed: list[Request]
) -> None:
    with own_writes.of_run(ONE) as wrote:
        wrote("a", "1", "5")
        wrote("b", "2", "6")
    with own_writes.of_run(ONE) as wrote:
        assert own_writes.consume(ONE, VersionChange("a", "1", "5"))
        wrote("b", "6", "7")
    assert missed == []
    # Both runs' writes as one change, as after a gap; and each once.
    assert own_writes.consume(ONE, VersionChange("b", "2", "7"))
    assert not own_writes.consume(ONE, VersionChange("b", "6", "7"))
    assert not own_writes.consume(ONE, VersionChange("a", "1", "5"))


def test_writes_are_forgotten_with_the_next_run_but_one_and_with_the_cr(own_writes: OwnWrites) -> None:
    for _ in range(2):
        with own_writes.of_run(ONE) as wrote:
            wrote("a", "1", "5")
        for _ in range(2):
            with own_writes.of_run(ONE):
                pass
        assert not own_writes.consume(ONE, VersionChange("a", "1", "5"))
    with own_writes.of_run(ONE) as wrote:
        wrote("a", "1", "5")
    own_writes.forget(ONE)
    assert not own_writes.consume(ONE, VersionChange("a", "1", "5"))


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ({"uid": "a", "resourceVersion": "1"}, {"uid": "a", "resourceVersion": "2"}, VersionChange("a", "1", "2")),
        ({"uid": "a", "resourceVersion": "1"}, None, VersionChange("a", "1", "")),
        (None, {"uid": "a", "resourceVersion": "2"}, VersionChange("a", "", "2")),
    ],
    ids=["changed", "deleted", "created"],
)
def test_what_a_change_is(before: dict[str, Any] | None, after: dict[str, Any] | None, change: VersionChange) -> None:
    versions = [{"metadata": metadata} if metadata else None for metadata in (before, after)]
    assert VersionChange.between(*versions) == change


def test_what_is_held_back_during_a_run_is_bounded(
    own_writes: OwnWrites, missed: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_HELD", 3)
    with own_writes.of_run(ONE) as wrote:
        for version in range(1, 5):
            wrote("a", str(version - 1), str(version))
            assert own_writes.consume(ONE, VersionChange("a", str(version - 1), str(version)))
        assert len(own_writes._held[ONE]) == 3
    assert missed == [ONE]


def test_many_writes_of_one_object_are_followed_in_no_time() -> None:
    written, many = RunWrites(), 100_000
    for version in range(1, many):
        written.add("a", str(version - 1) if version > 1 else "", str(version))
    # Not what other processes take.
    begun = time.thread_time()
    assert written.pop(VersionChange("a", "", str(many - 1)))
    assert time.thread_time() - begun < 5
    assert not written
