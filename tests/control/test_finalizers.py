from __future__ import annotations

from typing import Any

import pytest

from runner.control import Result
from runner.control.finalizers import Decision, decide
from runner.kube.client import Invalid
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


async def test_a_finalizer_that_the_server_refuses(guarded: Stage) -> None:
    """It is sent once: the CR that is read again is the same."""
    sent = 0

    def refuse() -> None:
        nonlocal sent
        sent += 1
        raise Invalid(422, 'Thing.example.com "a" is invalid: metadata.finalizers[0]: Invalid value')

    del guarded.cr["metadata"]["deletionTimestamp"]
    guarded.cr["metadata"]["finalizers"] = []
    guarded.server.next["patch"] = [refuse] * 3
    assert "Invalid value" in str(await guarded.reconcile())
    assert (sent, guarded.jobs) == (1, [])


async def test_a_finalizer_for_a_cr_that_was_replaced_is_refused_and_the_cr_gone(guarded: Stage) -> None:
    def replaced() -> None:
        guarded.server.replace()
        raise Invalid(422, 'Thing.example.com "a" is invalid: metadata.uid: Invalid value: field is immutable')

    del guarded.cr["metadata"]["deletionTimestamp"]
    guarded.cr["metadata"]["finalizers"] = []
    guarded.server.next["patch"] = [replaced]
    assert await guarded.reconcile() == Result()
    assert guarded.handlers.forgotten == ["1"]
    assert guarded.server.writes == []
