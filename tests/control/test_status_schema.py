from datetime import UTC, datetime
from typing import Any

import pytest

from runner.control.status_schema import StatusSchemas
from runner.resource import conditions
from tests.control.test_workqueue import watch

KIND, OTHER = watch("Thing").gvk, watch("Other").gvk
STATUS = conditions.mark_failed(None, "boo", None, datetime(2026, 1, 1, tzinfo=UTC))


def reasons(status: Any) -> list[str]:
    return [condition["reason"] for condition in status["conditions"]]


@pytest.mark.parametrize(
    ("refusals", "learned", "generation", "filled"),
    [
        ([], [], 1, False),
        (["status.observedGeneration: Invalid value"], [True], None, False),
        (["status.conditions[1].reason: should be at least 1 chars long"], [True], 1, True),
        (["a validation rule"] * 3, [True, True, False], None, True),
        (["status.observedGeneration: Invalid value"] * 2, [True, False], None, False),
    ],
    ids=["nothing", "generation", "reasons", "either of them", "nothing more"],
)
def test_what_a_refusal_says_of_a_kind(
    refusals: list[str], learned: list[bool], generation: int | None, filled: bool
) -> None:
    schemas = StatusSchemas()
    assert [schemas.learn(KIND, refusal, schemas.fit(KIND, STATUS, 1), 1) for refusal in refusals] == learned
    status = schemas.fit(KIND, STATUS, 1)
    assert status.get("observedGeneration") == generation
    assert all(reasons(status)) is filled
    assert schemas.fit(OTHER, STATUS, 1) == {**STATUS, "observedGeneration": 1}


def test_a_generation_that_the_server_drops_is_not_written_again() -> None:
    schemas = StatusSchemas()
    schemas.accepted(KIND, STATUS, None)
    assert "observedGeneration" in schemas.fit(KIND, STATUS, 1)
    schemas.accepted(KIND, STATUS, 1)
    assert schemas.fit(KIND, STATUS, 1) == STATUS
