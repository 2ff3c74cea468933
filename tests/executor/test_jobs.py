from typing import Any

import pytest

from runner.executor.jobs import ExecutorError, JobEvent, Outcome, fold


def event(name: str, stdout: str = "", **data: Any) -> JobEvent:
    return JobEvent.of(
        {"event": name, "counter": 1, "created": "2026-01-01T00:00:00.5+00:00", "stdout": stdout, "event_data": data}
    )


def stats(**counts: int) -> JobEvent:
    return event("playbook_on_stats", **{name: {"localhost": count} for name, count in counts.items()})


def failure(message: str, **data: Any) -> JobEvent:
    return event("runner_on_failed", res={"msg": message}, **data)


def test_a_good_run() -> None:
    outcome = fold([event("runner_on_ok"), stats(ok=3, changed=2, skipped=1)])
    assert outcome == Outcome(ok=3, changed=2, skipped=1, completion="2026-01-01T00:00:00.5+00:00")
    assert outcome.succeeded


def test_failures_are_told_in_their_own_words() -> None:
    outcome = fold([failure("first"), failure("last"), stats(failures=1)])
    assert outcome.messages == ("last",)
    assert outcome.failures == 1
    assert not outcome.succeeded


def test_what_was_ignored_or_rescued_is_no_failure() -> None:
    assert fold([failure("x", ignore_errors=True), stats(ok=1, ignored=1)]).succeeded
    assert fold([failure("x"), stats(ok=1, rescued=1)]).succeeded


def test_an_ignored_failure_is_not_taken_for_the_real_one() -> None:
    events = [failure("real"), failure("ignored", ignore_errors=True), stats(failures=1, ignored=1)]
    assert fold(events).messages == ("real",)


def test_an_unreachable_host_is_a_failure() -> None:
    assert fold([event("runner_on_unreachable", res={"msg": "no route"}), stats(dark=1)]).messages == ("no route",)


def test_a_failure_without_a_word_is_one_all_the_same() -> None:
    assert fold([stats(failures=1)]).messages == ("unknown playbook failure",)


def test_failures_of_other_hosts_count() -> None:
    assert not fold([failure("x"), event("playbook_on_stats", failures={"other": 1})]).succeeded


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"msg": "non-zero return code", "stderr": "no such file"}, "non-zero return code: no such file"),
        ({"msg": "boo", "stderr": "boo"}, "boo"),
        ({"msg": {"a": 1}}, "{'a': 1}"),
        ({}, "unknown playbook failure"),
        ({"censored": "…"}, "the result of task 'T' is hidden by no_log"),
    ],
)
def test_the_words_of_a_failed_task(result: dict[str, Any], message: str) -> None:
    assert event("runner_on_failed", res=result, task="T").message == message


@pytest.mark.parametrize("action", ["operator_sdk.util.requeue_after", "requeue_after"])
def test_the_last_requeue_counts(action: str) -> None:
    events = [event("runner_on_ok", task_action=action, res={"period": period}) for period in ("1m", "5s")]
    assert fold([*events, stats(ok=2)]).requeue_after == "5s"


def test_a_run_that_did_not_get_to_its_end_tells_what_was_printed() -> None:
    with pytest.raises(ExecutorError, match=r"did not receive playbook_on_stats event\nERROR! no module"):
        fold([event("verbose", stdout="\x1b[0;31mERROR! no module\x1b[0m"), event("verbose", stdout="\x1b[0;31m\x1b[0m")])


def skipped(result: str, name: str = "runner_on_skipped") -> JobEvent:
    return event(name, stdout=f"\x1b[0;36mskipping: [localhost] => {result}\x1b[0m")


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (skipped('{"changed": false, "msg": "Command would have run if not in check mode"}'), "Command would have run if"),
        (skipped('{"msg": "remote module (x) does not support check mode"}', "runner_item_on_skipped"), "remote module (x)"),
        (skipped('{"changed": false, "false_condition": "false", "skip_reason": "Conditional result was False"}'), ""),
        (skipped('{"censored": "the output has been hidden"}'), "it is skipped, and no_log hides"),
        (event("runner_on_ok", res={"changed": True}, resolved_action="kubernetes.core.helm"), "it would change something"),
        (event("runner_on_ok", res={"changed": True}, resolved_action="kubernetes.core.k8s"), ""),
        (event("runner_on_ok", res={"changed": True}, resolved_action="operator_sdk.util.k8s_status"), ""),
        (event("runner_on_ok", res={"changed": False}, resolved_action="ansible.builtin.copy"), ""),
    ],
    ids=["command", "item", "condition", "no_log", "helm", "k8s", "status", "unchanged"],
)
def test_what_check_mode_does_not_predict(told: JobEvent, reason: str) -> None:
    assert told.unpredicted.startswith(reason)
    assert bool(told.unpredicted) is bool(reason)
