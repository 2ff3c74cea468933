from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runner.control.records import TaskStatus
from runner.dashboard import artifacts
from runner.dashboard.artifacts import as_json, kept_runs, read_details, read_run
from tests.dashboard.test_pages import event, write

DEEP = json.loads("[" * 900 + "]" * 900)


def result(tmp_path: Path, **res: Any) -> Any:
    """The result of a task that has left this."""
    write(tmp_path, event(1, "playbook_on_task_start", "t"), event(2, "runner_on_ok", "t", res=res))
    return read_details(tmp_path).tasks["uuid-t"].result


def test_the_parts_of_a_result(tmp_path: Path) -> None:
    found = result(
        tmp_path,
        changed=True,
        msg="done",
        stdout="said\n",
        stdout_lines=["said"],
        stderr="oops",
        exception="Traceback",
        warnings=["mind", {"msg": "gap"}],
        deprecations=[{"msg": "old", "version": "2.99"}],
        _ansible_no_log=False,
        rc=0,
    )
    assert (found.status, found.message, found.output, found.errors) == ("changed", "done", "said\n", "oops\nTraceback")
    assert (found.warnings, found.deprecations) == (["mind", "gap"], ["old"])
    assert json.loads(found.value) == {"rc": 0}


@pytest.mark.parametrize(
    ("diff", "lines"),
    [
        ({"before": "a\nb\n", "after": "a\nc\n"}, [" a", "-b", "+c"]),
        ({"before": {"a": 1}, "after": {"a": 2}}, [" {", '-  "a": 1', '+  "a": 2', " }"]),
        ({"before": {"a": 1, "b": 1}, "after": {"b": 1, "a": 1}}, []),
        ([{"prepared": "-x\n+y"}], ["-x", "+y"]),
        ({"before": "same", "after": "same"}, []),
        ("no diff", []),
        ([3, None, {"before": 3}], ["-3"]),
    ],
    ids=["texts", "objects", "order", "prepared", "none", "odd", "members"],
)
def test_diffs(tmp_path: Path, diff: Any, lines: list[str]) -> None:
    found = list(result(tmp_path, diff=diff).diff)
    assert [line for line in found if not line.startswith("@@") and line != "+"] == lines


def test_items_of_a_loop(tmp_path: Path) -> None:
    items = [event(n, "runner_item_on_ok", "t", res={"item": f"i{n}", "changed": n == 2}) for n in range(2, 204)]
    write(tmp_path, event(1, "playbook_on_task_start", "t"), *items)
    task = read_details(tmp_path).tasks["uuid-t"]
    assert [(item.label, item.status) for item in task.items[:2]] == [("i2", "changed"), ("i3", "ok")]
    assert (len(task.items), task.more_items) == (100, 102)


def test_no_log_hides_all_of_it(tmp_path: Path) -> None:
    assert result(tmp_path, censored="hidden", stdout="secret").output == ""


def test_a_traceback_that_nobody_asked_for_is_no_error_to_show(tmp_path: Path) -> None:
    assert result(tmp_path, stderr="oops", exception="(traceback unavailable)").errors == "oops"


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ('skipping: [localhost] => {"false_condition": "size > 3"}', "Skipped, as this is false: size > 3"),
        ('skipping: [localhost] => {"false_condition": false}', "Skipped, as this is false: false"),
        ("skipping: [localhost]", ""),
        ("skipping: [localhost] => [3]", ""),
        ("skipping: => " + "[" * 100_000, ""),
    ],
    ids=["condition", "no text", "not printed", "odd", "deep"],
)
def test_a_skipped_task_has_the_condition_that_was_false(tmp_path: Path, printed: str, message: str) -> None:
    skipped = {**event(2, "runner_on_skipped", "t"), "stdout": f"\x1b[0;36m{printed}\x1b[0m"}
    write(tmp_path, event(1, "playbook_on_task_start", "t"), skipped)
    found = read_details(tmp_path).tasks["uuid-t"].result
    assert found
    assert (found.status, found.message) == ("skipped", message)


def test_only_the_events_of_a_page_are_read(tmp_path: Path) -> None:
    tasks = [event(n, "playbook_on_task_start", str(n)) for n in range(1, 10)]
    write(tmp_path, *tasks)
    assert list(read_details(tmp_path, 3, 5).tasks) == ["uuid-3", "uuid-4"]


def test_printed_warnings_are_of_the_task_that_was_on(tmp_path: Path) -> None:
    warning = {"event": "warning", "counter": 2, "created": "", "stdout": "\x1b[35m[WARNING]: mind\x1b[0m", "event_data": {}}
    write(tmp_path, event(1, "playbook_on_task_start", "t"), warning)
    assert read_details(tmp_path).tasks["uuid-t"].warnings == ["[WARNING]: mind"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        '{"event": 3}',
        '{"event": "runner_on_ok", "event_data": []}',
        '{"event": "runner_on_ok", "event_data": {"task_uuid": {}}}',
        '{"event": "runner_on_ok", "event_data": {"task_uuid": "x", "res": [1]}}',
        '{"event": "runner_on_ok", "counter": "1", "event_data": {"task_uuid": "x"}}',
        '{"event": "runner_on_ok", "event_data": {"task_uuid": "x", "res": {"n": ' + "9" * 100_000 + "}}}",
        '{"event": "runner_on_ok", "event_data": {"task_uuid": "x", "res": {"diff": ' + json.dumps(DEEP) + "}}}",
        '{"event": "runner_on_ok", "event_data": {"task_uuid": "x", "res": '
        + '{"a":' * 100_000
        + "1"
        + "}" * 100_000
        + "}}",
        "x" * 2_000_000,
    ],
    ids=lambda text: f"{text[:60]} {len(text)}",
)
def test_a_broken_event_takes_no_other_away(tmp_path: Path, text: str) -> None:
    write(tmp_path, event(1, "playbook_on_task_start", "t"), event(3, "runner_on_ok", "t", res={"msg": "fine"}))
    (tmp_path / "job_events" / "2-0.json").write_text(text)
    found = read_details(tmp_path).tasks["uuid-t"].result
    assert found
    assert found.message == "fine"
    assert read_run(tmp_path, "x").tasks[0].status is TaskStatus.OK


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, event(1, "playbook_on_task_start", "t"))
    secret = tmp_path / "secret"
    secret.write_text(json.dumps(event(2, "runner_on_ok", "t", res={"msg": "secret"})))
    (tmp_path / "job_events" / "2-0.json").symlink_to(secret)
    os.mkfifo(tmp_path / "job_events" / "3-0.json")
    (tmp_path / "job_events" / "4-0.json").mkdir()
    details = read_details(tmp_path)
    assert details.tasks["uuid-t"].result is None
    assert "could not be read" in details.problem


@pytest.mark.parametrize("part", ["one", "one/artifacts", "one/artifacts/1", "one/artifacts/1/job_events"])
def test_no_part_of_a_runs_folder_may_be_a_link_to_anothers(tmp_path: Path, part: str) -> None:
    """A task runs as the user as whom the pages are made, who may read what the runs of all CRs have left."""
    write(tmp_path / "other" / "artifacts" / "1", event(1, "playbook_on_task_start", "t"))
    (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / part).symlink_to(tmp_path / part.replace("one", "other", 1))
    details = read_details(tmp_path / "one" / "artifacts" / "1")
    assert (details.tasks, "not there" in details.problem) == ({}, True)
    if part != "one/artifacts/1/job_events":
        assert kept_runs(tmp_path / "one" / "artifacts") == []


def test_very_many_files_are_not_all_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "_MOST_FILES", 3)
    write(tmp_path, *(event(number, "playbook_on_task_start", str(number)) for number in range(1, 9)))
    assert len(read_details(tmp_path).tasks) <= 3


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    assert "not there any more" in read_details(tmp_path / "none").problem


def test_of_very_many_events_the_first_are_read(tmp_path: Path) -> None:
    write(tmp_path, event(1, "playbook_on_task_start", "t"))
    for number in range(2, 12_000):
        (tmp_path / "job_events" / f"{number}-0.json").write_text("{}")
    assert "more than a page has room for" in read_details(tmp_path).problem


def test_results_of_a_page_are_cut(tmp_path: Path) -> None:
    """5,000 tasks with a megabyte each are no page."""
    events = []
    for number in range(300):
        events += [event(2 * number + 1, "playbook_on_task_start", str(number))]
        events += [
            event(2 * number + 2, "runner_on_ok", str(number), res={"msg": "x" * 100_000, "list": ["y" * 1000] * 100})
        ]
    write(tmp_path, *events)
    details = read_details(tmp_path)
    kept = [task.result for task in details.tasks.values() if task.result]
    assert sum(len(each.message) + len(each.value) for each in kept) < 1_200_000
    assert any(task.is_cut for task in details.tasks.values())


def test_json_is_cut_where_it_is_large_or_deep() -> None:
    assert len(as_json({str(number): "x" * 100 for number in range(100_000)})) < 40_000
    assert len(as_json([["x" * 1_000_000]])) < 20_000
    assert "…" in as_json(DEEP)
    assert "a very large number" in as_json(10**5000)
    assert json.loads(as_json({"a": [1, None, True, "ü"]})) == {"a": [1, None, True, "ü"]}


def test_runs_that_are_kept_are_found_by_their_names(tmp_path: Path) -> None:
    assert kept_runs(tmp_path / "none") == []
    for name, at in (("0" * 16, 1), ("1" * 16, 2), ("../x", 3), ("latest", 4), ("g" * 16, 5)):
        if "/" not in name:
            (tmp_path / name).mkdir()
            os.utime(tmp_path / name, (at, at))
    (tmp_path / ("2" * 16)).symlink_to(tmp_path / ("1" * 16))
    (tmp_path / ("3" * 16)).write_text("")
    assert kept_runs(tmp_path) == [("1" * 16, 2.0), ("0" * 16, 1.0)]


def test_what_is_compared_counts_also_where_it_is_the_same(tmp_path: Path) -> None:
    """Thousands of them kept a thread for half a minute."""
    same = "\n".join(map(str, range(1000)))
    diff = [{"before": same, "after": same}] * 10
    events = [event(1, "playbook_on_task_start", "t")]
    events += [event(number, "runner_item_on_ok", "t", res={"item": "x", "diff": diff}) for number in range(2, 50)]
    write(tmp_path, *events)
    task = read_details(tmp_path).tasks["uuid-t"]
    assert task.is_cut
    assert len(task.items) < 10


def test_a_run_of_an_earlier_process_has_its_tasks_and_its_outcome(tmp_path: Path) -> None:
    stats = {"event": "playbook_on_stats", "counter": 3, "created": "", "stdout": "", "event_data": {"ok": {"localhost": 1}}}
    write(tmp_path, event(1, "playbook_on_task_start", "t"), event(2, "runner_on_ok", "t", res={}), stats)
    run = read_run(tmp_path, "x")
    assert run.outcome
    assert (run.outcome.ok, run.tasks[0].name, run.tasks[0].counter) == (1, "t", 1)
    assert run.ended == pytest.approx(run.begun + 1)


def test_a_run_that_left_nothing_is_one_without_tasks(tmp_path: Path) -> None:
    run = read_run(tmp_path, "x")
    assert (run.tasks, run.outcome, run.ended) == ([], None, 0.0)
