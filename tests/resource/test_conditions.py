import re
from datetime import UTC, datetime
from typing import Any

from runner.resource.conditions import (
    MESSAGE_LIMIT,
    AnsibleResult,
    mark_dry_run,
    mark_failed,
    mark_running,
    mark_succeeded,
    with_reasons,
    without_reasons,
)

ONE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TWO = datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
RESULT = AnsibleResult(ok=3, changed=1, skipped=0, failures=0, completion="2026-01-02T03:04:05.678901+00:00")
RESULT_JSON = {"ok": 3, "changed": 1, "skipped": 0, "failures": 0, "completion": "2026-01-02T03:04:05.678901+00:00"}


def by_type(status: dict[str, Any]) -> dict[str, Any]:
    return {condition["type"]: condition for condition in status["conditions"]}


def test_a_first_run_and_its_success_word_for_word() -> None:
    running = mark_running(None, ONE)
    assert running == {
        "conditions": [
            {
                "type": "Running",
                "status": "True",
                "reason": "Running",
                "message": "Running reconciliation",
                "lastTransitionTime": "2026-01-02T03:04:05Z",
            }
        ]
    }
    assert mark_succeeded(running, RESULT, TWO) == {
        "conditions": [
            {
                "type": "Running",
                "status": "True",
                "reason": "Successful",
                "message": "Awaiting next reconciliation",
                "ansibleResult": RESULT_JSON,
                "lastTransitionTime": "2026-01-02T03:04:05Z",
            },
            {
                "type": "Successful",
                "status": "True",
                "reason": "Successful",
                "message": "Last reconciliation succeeded",
                "lastTransitionTime": "2026-01-02T03:04:06Z",
            },
            {
                "type": "Failure",
                "status": "False",
                "reason": "",
                "message": "",
                "lastTransitionTime": "2026-01-02T03:04:06Z",
            },
        ]
    }


def test_a_failure_and_its_end() -> None:
    running = mark_running(None, ONE)
    failed = mark_failed(running, "no such image", RESULT, ONE)
    conditions = by_type(failed)
    assert conditions["Running"]["status"] == "False"
    assert conditions["Successful"] == {
        "type": "Successful",
        "status": "False",
        "reason": "",
        "message": "",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }
    assert conditions["Failure"] == {
        "type": "Failure",
        "status": "True",
        "reason": "Failed",
        "message": "no such image",
        "ansibleResult": RESULT_JSON,
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }
    mended = by_type(mark_succeeded(mark_running(failed, TWO), RESULT, TWO))
    assert mended["Failure"]["status"] == "False"
    assert mended["Failure"]["message"] == ""
    assert "ansibleResult" not in mended["Failure"]


def test_failing_again_in_other_words_tells_them_and_keeps_the_time() -> None:
    first = mark_failed(None, "one", RESULT, ONE)
    second = by_type(mark_failed(first, "two", RESULT, TWO))
    assert second["Failure"]["message"] == "two"
    assert second["Failure"]["lastTransitionTime"] == "2026-01-02T03:04:05Z"


def test_running_again_takes_success_back() -> None:
    status = mark_succeeded(mark_running(None, ONE), RESULT, ONE)
    again = by_type(mark_running(status, TWO))
    assert again["Running"]["reason"] == "Running"
    assert "ansibleResult" not in again["Running"]
    assert again["Successful"]["status"] == "False"
    assert again["Successful"]["lastTransitionTime"] == "2026-01-02T03:04:06Z"


def test_what_does_not_change_is_the_same_object_to_compare() -> None:
    running = mark_running({"nodes": ["a"]}, ONE)
    assert mark_running(running, TWO) == running


def test_others_conditions_fields_and_unknown_fields_stay() -> None:
    status = {
        "nodes": ["a"],
        "conditions": [
            {"type": "Ready", "status": "True"},
            {"type": "Running", "status": "False", "reason": "Running", "observedGeneration": 4},
        ],
    }
    marked = mark_succeeded(mark_running(status, ONE), RESULT, ONE)
    assert marked["nodes"] == ["a"]
    assert by_type(marked)["Ready"] == {"type": "Ready", "status": "True"}
    assert by_type(marked)["Running"]["observedGeneration"] == 4
    assert status["conditions"][1]["status"] == "False"


def test_a_changed_condition_moves_to_the_end() -> None:
    status = {"conditions": [{"type": "Running", "status": "False"}, {"type": "Ready", "status": "True"}]}
    assert [condition["type"] for condition in mark_running(status, ONE)["conditions"]] == ["Ready", "Running"]


def test_a_message_too_long_for_an_object_is_cut() -> None:
    message = by_type(mark_failed(None, "x" * 10**6, None, ONE))["Failure"]["message"]
    # metav1.Condition's own limit.
    assert len(message) == MESSAGE_LIMIT == 32768
    assert message.endswith("the whole text is in the log)")


def test_a_dry_runs_message_is_cut_as_well() -> None:
    message = by_type(mark_dry_run(None, "x" * 10**6, ONE))["Failure"]["message"]
    assert len(message) == MESSAGE_LIMIT
    assert message.endswith("the whole text is in the log)")


def test_where_each_condition_must_have_a_reason_it_has_one() -> None:
    others = {"type": "Ready", "status": "False", "reason": ""}
    for marked in (
        mark_succeeded(mark_running({"conditions": [others]}, ONE), RESULT, ONE),
        mark_failed(mark_running({"conditions": [others]}, ONE), "no", RESULT, ONE),
        mark_dry_run(mark_dry_run({"conditions": [others]}, "no", ONE), "", TWO),
    ):
        filled = with_reasons(marked)
        ours = [item for item in filled["conditions"] if item["type"] != "Ready"]
        # metav1.Condition's rules.
        for condition in ours:
            assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", condition["reason"])
            assert {"message", "lastTransitionTime", "status"} <= condition.keys()
        assert by_type(filled)["Ready"] == others
        assert without_reasons(filled) == marked
    assert without_reasons(None) is None
    assert with_reasons({"conditions": ["odd", {"type": 1}]}) == {"conditions": ["odd", {"type": 1}]}


def test_garbage_in_the_place_of_conditions_is_survived() -> None:
    assert mark_running({"conditions": "none"}, ONE)["conditions"][0]["type"] == "Running"


def test_a_dry_run_says_so_and_leaves_what_the_last_run_left() -> None:
    before = mark_succeeded(mark_running(None, ONE), RESULT, ONE)
    after = by_type(mark_dry_run(before, "", TWO))
    assert (after["Running"]["status"], after["Running"]["reason"]) == ("False", "DryRun")
    assert {kind: after[kind] for kind in ("Successful", "Failure")} == {
        kind: by_type(before)[kind] for kind in ("Successful", "Failure")
    }


def test_a_dry_run_s_own_failure_goes_with_the_next_and_a_run_s_does_not() -> None:
    failed = mark_dry_run(None, "no", ONE)
    assert by_type(failed)["Failure"]["message"] == "no"
    assert by_type(mark_dry_run(failed, "", TWO))["Failure"]["status"] == "False"
    ran = mark_failed(None, "really", RESULT, ONE)
    assert by_type(mark_dry_run(ran, "", TWO))["Failure"]["message"] == "really"
