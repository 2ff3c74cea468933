from __future__ import annotations

from typing import Any

import pytest

from runner.control import Result
from runner.control.finalizers import Decision, decide
from tests.control.stage import GUARDED, PLAIN, Stage, cr


@pytest.mark.parametrize(
    ("guarded", "deleting", "finalizers", "expected"),
    [
        (False, False, [], Decision.RUN),
        (False, False, ["other"], Decision.RUN),
        (False, True, ["other"], Decision.IGNORE),
        (True, False, [], Decision.ADD_FINALIZER),
        (True, False, ["other"], Decision.ADD_FINALIZER),
        (True, False, ["example.com/clean"], Decision.RUN),
        (True, True, ["example.com/clean", "other"], Decision.FINALIZE),
        (True, True, ["other"], Decision.IGNORE),
    ],
)
def test_what_a_deletion_and_finalizers_call_for(
    guarded: bool, deleting: bool, finalizers: list[str], expected: Decision
) -> None:
    metadata: dict[str, Any] = {"finalizers": finalizers}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert decide({"metadata": metadata}, GUARDED if guarded else PLAIN) is expected


async def test_a_finalizer_is_not_taken_off_another_cr_of_the_name(guarded: Stage) -> None:
    def another() -> None:
        guarded.server.obj = {**cr(uid="2", version=50)}
        guarded.cr["metadata"]["finalizers"] = ["example.com/clean"]

    guarded.server.next["patch"] = [another]
    assert await guarded.reconcile() == Result()
    assert guarded.cr["metadata"]["finalizers"] == ["example.com/clean"]
    assert guarded.server.writes == []


async def test_a_finalizer_is_removed_though_others_write_the_cr_meanwhile(guarded: Stage) -> None:
    guarded.server.next["patch"] = [guarded.server.touch] * 3
    assert await guarded.reconcile() == Result()
    assert guarded.cr["metadata"]["finalizers"] == []
