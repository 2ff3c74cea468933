import sys
from typing import Any

import pytest

from runner.executor.environment import COLLECTIONS

sys.path.append(str(COLLECTIONS))

from ansible_collections.operator_sdk.util.plugins.module_utils.conditions import checked, merged
from ansible_collections.operator_sdk.util.plugins.module_utils.durations import check

NOW = "2026-01-31T12:00:00Z"
EARLIER = "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("status", "expected"),
    [(True, "True"), (False, "False"), ("True", "True"), ("Unknown", "Unknown")],
    ids=["yes", "no", "text", "unknown"],
)
def test_truth_values_become_text(status: object, expected: str) -> None:
    assert checked({"type": "Ready", "status": status, "reason": None}) == {"type": "Ready", "status": expected}


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"status": "True"}, "a condition needs a type"),
        ({"type": "Ready", "status": "maybe"}, "status is 'maybe', and must be one of True, False, Unknown"),
        ({"type": "Ready", "status": "True", "reason": "not one word"}, "reason 'not one word'"),
        ({"type": "Ready", "status": "True", "lastTransitionTime": "today"}, "lastTransitionTime 'today'"),
    ],
    ids=["type", "status", "reason", "time"],
)
def test_bad_conditions_are_refused(condition: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked(condition)


@pytest.mark.parametrize("reason", ["Ready", "Http404", "Scaled_Up", "Step2:Done"])
def test_reasons_that_the_api_takes_are_taken(reason: str) -> None:
    assert checked({"type": "Ready", "status": "True", "reason": reason})["reason"] == reason


def test_conditions_are_merged_by_type_in_their_places() -> None:
    existing = [
        {"type": "Running", "status": "True", "lastTransitionTime": EARLIER},
        {"type": "Ready", "status": "False", "lastTransitionTime": EARLIER, "message": "wait"},
    ]
    new = [{"type": "Ready", "status": "True"}, {"type": "Synced", "status": "True"}]
    assert merged(existing, new, NOW) == [
        existing[0],
        {"type": "Ready", "status": "True", "lastTransitionTime": NOW},
        {"type": "Synced", "status": "True", "lastTransitionTime": NOW},
    ]


@pytest.mark.parametrize(
    "news",
    [{}, {"lastTransitionTime": NOW}],
    ids=["same", "time"],
)
def test_a_condition_that_says_nothing_new_stays(news: dict[str, str]) -> None:
    existing = [{"type": "Ready", "status": "True", "message": "done", "lastTransitionTime": EARLIER}]
    assert merged(existing, [{"type": "Ready", "status": "True", **news}], NOW) == existing


def test_a_condition_keeps_its_time_as_long_as_it_keeps_its_status() -> None:
    existing = [{"type": "Ready", "status": "True", "reason": "Old", "lastTransitionTime": EARLIER}]
    new = {"type": "Ready", "status": "True", "message": "better"}
    assert merged(existing, [new], NOW) == [{**new, "lastTransitionTime": EARLIER}]
    assert merged(existing, [{**new, "lastTransitionTime": NOW}], NOW) == [{**new, "lastTransitionTime": NOW}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31 12:00:00+01:00", "2026-01-31T12:00:00+01:00"),
        ("2026-01-31T12:00Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00.25Z", "2026-01-31T12:00:00.25Z"),
    ],
    ids=["RFC 3339", "date", "no seconds", "fraction"],
)
def test_times_are_written_as_the_api_reads_them(text: str, expected: str) -> None:
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": text}
    assert checked(condition)["lastTransitionTime"] == expected


@pytest.mark.parametrize("text", ["0", "30s", "1h30m", "1.5h", "250ms"])
def test_durations(text: str) -> None:
    assert check(text) == text


@pytest.mark.parametrize("text", ["", "30", "-5s", "1d", "soon"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration; write it as"):
        check(text)
