from dataclasses import replace
from typing import Any

import pytest

from runner.control.reconciler import Gate, gate
from runner.watches import Finalizer
from tests.control.test_workqueue import watch

PLAIN = watch("Thing")
GUARDED = replace(PLAIN, finalizer=Finalizer(name="example.com/clean"))


@pytest.mark.parametrize(
    ("guarded", "deleting", "finalizers", "expected"),
    [
        (False, False, [], Gate.RUN),
        (False, False, ["other"], Gate.RUN),
        (False, True, ["other"], Gate.STOP),
        (True, False, [], Gate.ADD_FINALIZER),
        (True, False, ["other"], Gate.ADD_FINALIZER),
        (True, False, ["example.com/clean"], Gate.RUN),
        (True, True, ["example.com/clean", "other"], Gate.FINALIZE),
        (True, True, ["other"], Gate.STOP),
    ],
)
def test_the_gate(guarded: bool, deleting: bool, finalizers: list[str], expected: Gate) -> None:
    metadata: dict[str, Any] = {"finalizers": finalizers}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert gate({"metadata": metadata}, GUARDED if guarded else PLAIN) is expected
