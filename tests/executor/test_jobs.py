from time import process_time
from typing import Any

import pytest

from runner.executor.jobs import ExecutorError, Fold, JobEvent, Loops, Outcome, fold


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


def test_a_failure_without_a_word_says_where_it_was() -> None:
    started = event("playbook_on_task_start", task="Try", task_path="roles/x/tasks/main.yml:3")
    said = "unknown playbook failure in task 'Try' (roles/x/tasks/main.yml:3)"
    assert fold([started, failure("", task="Try", task_path="roles/x/tasks/main.yml:3"), stats(failures=1)]).messages == (
        said,
    )
    assert fold([started, stats(failures=1)]).messages == (said,)


def test_failures_of_other_hosts_count() -> None:
    assert not fold([failure("x"), event("playbook_on_stats", failures={"other": 1})]).succeeded


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"msg": "non-zero return code", "stderr": "no such file"}, "non-zero return code: no such file"),
        ({"msg": "boo", "stderr": "boo"}, "boo"),
        ({"msg": {"a": 1}}, "{'a': 1}"),
        ({}, "unknown playbook failure in task 'T' (main.yml:3)"),
        ({"msg": "Module failed: Unknown error."}, "Module failed: Unknown error in task 'T' (main.yml:3)"),
        ({"censored": "…"}, "the result of task 'T' is hidden by no_log"),
    ],
)
def test_the_words_of_a_failed_task(result: dict[str, Any], message: str) -> None:
    assert event("runner_on_failed", res=result, task="T", task_path="main.yml:3").message == message


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


def test_a_long_output_is_looked_through_once() -> None:
    told = event("runner_on_skipped", '"msg": "' + "check mode " * 50_000)
    before = process_time()
    assert told.unpredicted == ""
    assert process_time() - before < 5


@pytest.mark.parametrize(
    ("printed", "result", "message"),
    [
        (
            "[ERROR]: Task failed: Module failed: Error executing command: [Errno 2] No such file: b'/x'\r\nOrigin",
            {"msg": "Error executing command.", "stderr": "", "exception": "(traceback unavailable)"},
            "Error executing command: [Errno 2] No such file: b'/x'",
        ),
        (
            "fatal: [localhost]: FAILED! => {}",
            {"msg": "MODULE FAILURE", "exception": 'Traceback (most recent call last):\n  File "x"\nValueError: boom\n'},
            "MODULE FAILURE: ValueError: boom",
        ),
        (
            "[ERROR]: Task failed: Module failed: boom\r\n",
            {"msg": "Task failed: Module failed: boom"},
            "Task failed: Module failed: boom",
        ),
        ("[ERROR]: Task failed: Action failed: a\r\nb\r\n", {"msg": "a\nb"}, "a\nb"),
        ("", {"msg": "boom", "exception": "Traceback\n  x\nValueError: boom"}, "boom"),
        (
            "[ERROR]: Task failed: Module failed: hidden: words\r\n",
            {"censored": "…"},
            "the result of task 'T' is hidden by no_log",
        ),
    ],
    ids=["2.19", "2.18", "the same", "first line", "told", "no_log"],
)
def test_a_failure_names_its_cause(printed: str, result: dict[str, Any], message: str) -> None:
    assert event("runner_on_failed", stdout=printed, res=result, task="T").message == message


def item(result: dict[str, Any], **data: Any) -> JobEvent:
    return event(
        "runner_item_on_failed", res={"ansible_loop_var": "item", **result}, **{"task_uuid": "1", "host": "x", **data}
    )


def loop(**data: Any) -> JobEvent:
    result = {"msg": "One or more items failed", "results": []}
    return event("runner_on_failed", res=result, **{"task_uuid": "1", "host": "x", **data})


def test_a_loop_says_which_items_failed_and_why() -> None:
    loops = Loops()
    items = [
        item({"item": {"a": 1}, "_ansible_item_label": {"a": 1}, "msg": "non-zero return code", "stderr": "bad"}),
        item({"item": {"a": 2}, "_ansible_item_label": "two", "msg": "no"}),
        item({"censored": "the output has been hidden"}),
        item({"ansible_loop_var": "outer", "outer": "x" * 200, "msg": "y" * 5000}),
        item({"item": 5, "msg": "five"}, host="other"),
        *(item({"item": number, "msg": "more"}) for number in range(4)),
    ]
    for told in items:
        assert loops.joined(told) is told
    message = loops.joined(loop()).message
    assert [line if len(line) < 100 else len(line) for line in message.splitlines()] == [
        "One or more items failed",
        "item={'a': 1}: non-zero return code: bad",
        "item=two: no",
        "item: hidden by no_log",
        len("item=: ") + 100 + 1000,
        "item=0: more",
        "and 3 more",
    ]
    # Played again, it has failed with other items.
    assert loops.joined(loop()).message == "One or more items failed"
    assert fold([loops.joined(loop(host="other")), stats(failures=1)]).messages == (
        "One or more items failed\nitem=5: five",
    )


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        ("one\ntwo\n\nthree\nfour\n", "two\nthree\nfour"),
        ("note\nTraceback (most recent call last):\n  File 'x'\n    call(password)\nValueError: boom\n", "ValueError: boom"),
        ("x" * 5000, "…" + "x" * 499),
    ],
    ids=["lines", "traceback", "long"],
)
@pytest.mark.parametrize("key", ["stderr", "module_stderr"])
def test_of_stderr_a_message_has_the_end(key: str, stderr: str, told: str) -> None:
    made = event("runner_on_failed", res={"msg": "MODULE FAILURE", key: stderr})
    assert made.message == f"MODULE FAILURE: {told}"
    assert made.stderr == stderr.strip()


def test_without_statistics_no_results_are_told_and_little_of_the_rest() -> None:
    events = [
        event("runner_on_ok", stdout='ok: [localhost] => {"data": "of another"}'),
        event("verbose", stdout="x" * 10**6),
        event("runner_on_failed", stdout="fatal: => {'all': 'of it'}", res={"msg": "boo"}),
    ]
    with pytest.raises(ExecutorError) as raised:
        fold(events)
    text = str(raised.value)
    assert text.endswith("\nboo")
    assert len(text) < 600
    assert "of another" not in text
    assert "of it" not in text


def test_of_very_many_failures_the_last_are_kept() -> None:
    folded = Fold()
    for number in range(100_000):
        folded.add(failure(f"{number}"))
    assert len(folded._failures) == 100
    folded.add(stats(failures=1))
    assert folded.outcome().messages == ("99999",)


def test_of_a_loop_the_first_failures_are_kept() -> None:
    loops = Loops()
    for number in range(100_000):
        loops.joined(item({"item": number, "msg": "no"}))
    told = loops.joined(loop())
    assert len(told.items) == 5
    assert told.message.endswith("and 99995 more")
