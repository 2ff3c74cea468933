"""What a run wrote itself, told from what happened beside it, in whichever order the watch and the answers come."""

import contextlib
from typing import Any

import pytest

from runner.control import Request
from runner.control.echoes import Change, Echoes
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
        assert echoes.pass_over(ONE, Change("a", "5"))
        wrote("a", "5")
        wrote("b", "6")
    assert missed == []
    assert echoes.pass_over(ONE, Change("b", "6"))
    assert not echoes.pass_over(ONE, Change("b", "6"))
    assert not echoes.pass_over(ONE, Change("a", "5"))


@pytest.mark.parametrize(
    "change", [Change("a", "6"), Change("a", ""), Change("b", "5")], ids=["later", "deleted", "another-object"]
)
def test_what_others_did_during_a_run_gives_a_turn_after_it(echoes: Echoes, missed: list[Request], change: Change) -> None:
    with echoes.of_run(ONE) as wrote:
        wrote("a", "5")
        assert echoes.pass_over(ONE, change)
        assert echoes.pass_over(ONE, Change("a", "5"))
        assert missed == []
    assert missed == [ONE]


def test_a_run_that_is_cut_short_loses_nothing(echoes: Echoes, missed: list[Request]) -> None:
    with contextlib.suppress(RuntimeError), echoes.of_run(ONE):
        echoes.pass_over(ONE, Change("a", "5"))
        raise RuntimeError
    assert missed == [ONE]


def test_another_crs_run_is_no_echo(echoes: Echoes) -> None:
    with echoes.of_run(TWO) as wrote:
        wrote("a", "5")
        assert not echoes.pass_over(ONE, Change("a", "5"))


def test_a_run_begins_anew_and_a_cr_that_is_gone_is_forgotten(echoes: Echoes) -> None:
    for _ in range(2):
        with echoes.of_run(ONE) as wrote:
            wrote("a", "5")
        with echoes.of_run(ONE):
            pass
        assert not echoes.pass_over(ONE, Change("a", "5"))
    with echoes.of_run(ONE) as wrote:
        wrote("a", "5")
    echoes.forget(ONE)
    assert not echoes.pass_over(ONE, Change("a", "5"))


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ({"uid": "a", "resourceVersion": "1"}, {"uid": "a", "resourceVersion": "2"}, Change("a", "2")),
        ({"uid": "a", "resourceVersion": "1"}, None, Change("a", "")),
        (None, {"uid": "a", "resourceVersion": "2"}, Change("a", "2")),
    ],
    ids=["changed", "deleted", "created"],
)
def test_what_a_change_is(before: dict[str, Any] | None, after: dict[str, Any] | None, change: Change) -> None:
    versions = [{"metadata": metadata} if metadata else None for metadata in (before, after)]
    assert Change.between(*versions) == change
