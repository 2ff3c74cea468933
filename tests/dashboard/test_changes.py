"""Who is told of a change."""

from __future__ import annotations

from runner.control import Request
from runner.dashboard.changes import Changes
from tests.control.test_workqueue import A, B, C


def test_a_change_is_told_to_who_follows_its_cr() -> None:
    made = Changes()
    with made.following({A, B}.__contains__) as one, made.following({B}.__contains__) as other:
        made.note(A)
        assert (one.is_set(), other.is_set()) == (True, False)
        made.note(C)
        made.note(B)
        assert (one.is_set(), other.is_set()) == (True, True)
        one.clear()
        made.note(C)
        assert not one.is_set()


def test_who_is_told_already_costs_nothing_more() -> None:
    made, asked = Changes(), list[Request]()

    def shows(request: Request) -> bool:
        asked.append(request)
        return request == B

    with made.following(shows):
        for request in (A, B, C, B):
            made.note(request)
    assert asked == [A, B]


def test_who_goes_leaves_nothing_behind() -> None:
    made = Changes()
    with made.following({A}.__contains__):
        pass
    assert made._followers == {}
