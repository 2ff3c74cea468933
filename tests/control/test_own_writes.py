"""What a run wrote itself, told from what happened beside it, in whichever order the watch and the answers come."""

import contextlib
import time
from typing import Any

import pytest

from runner.control import Request
from runner.control import own_writes as module
from runner.control.own_writes import Change, Echoes, OwnWrites
from runner.resource.metadata import ObjectKey
from tests.control.test_workqueue import watch

ONE, TWO = (Request(watch("Thing"), ObjectKey("default", name)) for name in ("one", "two"))


@pytest.fixture
def missed() -> list[Request]:
    return []


@pytest.fixture
def echoes(missed: list[Request]) -> Echoes:
    return Echoes(missed.append)


def test_what_a_run_wrote_is_passed_over_once_whenever_it_is_told(echoes: Echoes, missed: list[Request]) -> None:
    with echoes.of_run(ONE) as wrote:
        # The watch may be quicker than the answer.
        assert echoes.pass_over(ONE, Change("a", "1", "5"))
        wrote("a", "1", "5")
        wrote("b", "1", "6")
    assert missed == []
    assert echoes.pass_over(ONE, Change("b", "1", "6"))
    assert not echoes.pass_over(ONE, Change("b", "1", "6"))
    assert not echoes.pass_over(ONE, Change("a", "1", "5"))


@pytest.mark.parametrize(
    "change",
    [Change("a", "1", "6"), Change("a", "1", ""), Change("b", "1", "5")],
    ids=["later", "deleted", "another-object"],
)
def test_what_others_did_during_a_run_gives_a_turn_after_it(echoes: Echoes, missed: list[Request], change: Change) -> None:
    with echoes.of_run(ONE) as wrote:
        wrote("a", "1", "5")
        assert echoes.pass_over(ONE, change)
        assert echoes.pass_over(ONE, Change("a", "1", "5"))
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
    echoes: Echoes, missed: list[Request], writes: list[Any], told: list[Any], own: bool, late: bool
) -> None:
    with echoes.of_run(ONE) as wrote:
        for step in writes:
            wrote("a", *step)
        if not late:
            assert all([echoes.pass_over(ONE, Change("a", *step)) for step in told])
    assert [echoes.pass_over(ONE, Change("a", *step)) for step in told if late] == [own for _ in told if late]
    assert missed == ([] if own or late else [ONE])


def test_a_run_that_is_cut_short_loses_nothing(echoes: Echoes, missed: list[Request]) -> None:
    with contextlib.suppress(RuntimeError), echoes.of_run(ONE):
        echoes.pass_over(ONE, Change("a", "1", "5"))
        raise RuntimeError
    assert missed == [ONE]


def test_another_crs_run_is_no_echo(echoes: Echoes) -> None:
    with echoes.of_run(TWO) as wrote:
        wrote("a", "1", "5")
        assert not echoes.pass_over(ONE, Change("a", "1", "5"))


def test_a_run_begins_anew_and_a_cr_that_is_gone_is_forgotten(echoes: Echoes) -> None:
    for _ in range(2):
        with echoes.of_run(ONE) as wrote:
            wrote("a", "1", "5")
        with echoes.of_run(ONE):
            pass
        assert not echoes.pass_over(ONE, Change("a", "1", "5"))
    with echoes.of_run(ONE) as wrote:
        wrote("a", "1", "5")
    echoes.forget(ONE)
    assert not echoes.pass_over(ONE, Change("a", "1", "5"))


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ({"uid": "a", "resourceVersion": "1"}, {"uid": "a", "resourceVersion": "2"}, Change("a", "1", "2")),
        ({"uid": "a", "resourceVersion": "1"}, None, Change("a", "1", "")),
        (None, {"uid": "a", "resourceVersion": "2"}, Change("a", "", "2")),
    ],
    ids=["changed", "deleted", "created"],
)
def test_what_a_change_is(before: dict[str, Any] | None, after: dict[str, Any] | None, change: Change) -> None:
    versions = [{"metadata": metadata} if metadata else None for metadata in (before, after)]
    assert Change.between(*versions) == change


def test_what_is_held_back_during_a_run_is_bounded(
    echoes: Echoes, missed: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_HELD", 3)
    with echoes.of_run(ONE) as wrote:
        for version in range(1, 5):
            wrote("a", str(version - 1), str(version))
            assert echoes.pass_over(ONE, Change("a", str(version - 1), str(version)))
        assert len(echoes._held[ONE]) == 3
    assert missed == [ONE]


def test_many_writes_of_one_object_are_followed_in_no_time() -> None:
    written, many = OwnWrites(), 100_000
    for version in range(1, many):
        written.add("a", str(version - 1) if version > 1 else "", str(version))
    begun = time.monotonic()
    assert written.take(Change("a", "", str(many - 1)))
    assert time.monotonic() - begun < 5
    assert not written
