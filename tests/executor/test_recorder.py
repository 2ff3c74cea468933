import json
from pathlib import Path
from typing import Any

import pytest

from runner.executor import recorder
from runner.executor.jobs import JobEvent
from runner.executor.recorder import Recorder, shortened


def message(folder: Path, **more: Any) -> Any:
    (folder / "artifacts" / "it" / "job_events").mkdir(parents=True)
    return {"ident": "it", "folder": str(folder), "role": "/roles/it", "secrets": [], "names": [], "artifacts": True, **more}


def test_what_decides_about_a_run_outlives_the_cut() -> None:
    result = {"msg": "no", "stdout": "x" * 10_000_000, "results": [{"n": n} for n in range(100_000)], "failed": True}
    data = {"task": "it", "task_action": "fail", "host": "localhost", "ignore_errors": None, "res": result}
    event = JobEvent.of(shortened({"event": "runner_on_failed", "counter": 7, "uuid": "u", "event_data": data}))
    assert event.is_failure
    assert (event.task, event.counter, event.message, event.result["failed"]) == ("it", 7, "no", True)
    assert event.result["results"].startswith("[results is left out here: ")
    assert event.result["stdout"].endswith("[cut here: 10000000 characters]")


def test_one_run_leaves_so_many_events_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_MOST_EVENTS", 3)
    kept = Recorder(message(tmp_path), lambda event: None)
    for number in range(10):
        kept.keep_event(number, "u", "{}")
    left = sorted(path.name for path in (tmp_path / "artifacts" / "it" / "job_events").iterdir())
    assert left == ["0-u.json", "1-u.json", "2-u.json", "left-out.txt"]


def test_what_is_printed_is_kept_up_to_a_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_LONGEST_OUTPUT", 10)
    told: list[str] = []
    kept = Recorder(message(tmp_path), told.append)
    for _ in range(5):
        kept.record(json.dumps({"event": "verbose", "stdout": "12345"}), "12345")
    assert kept.close() == "12345\n12345\n[Cut here: one run may leave no more.]\n"
    assert len(told) == 5


def test_a_run_goes_on_where_there_is_no_room_for_its_artifacts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Recorder(message(tmp_path), lambda event: None)
    (tmp_path / "artifacts" / "it" / "rc").symlink_to("/dev/full")
    for _ in range(2):
        kept.keep("rc", "0")
    assert capsys.readouterr().err.count("Artifacts are left out") == 1


def test_what_is_told_of_missing_room_may_itself_be_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Recorder(message(tmp_path), lambda event: None)
    said: list[str] = []

    class Screen:
        def write(self, text: str) -> None:
            said.append(text)
            kept.keep_event(2, "u", json.dumps({"stdout": text}))

    monkeypatch.setattr("sys.stderr", Screen())
    (tmp_path / "artifacts" / "it" / "job_events").rmdir()
    kept.keep_event(1, "u", "{}")
    assert len(said) == 1
