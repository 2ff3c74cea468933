"""Facts that are kept for the runs to come."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ansible.modules.setup")

from runner.executor.patches import facts
from runner.executor.patches.facts import Facts


def gathered() -> Any:
    return {"devices": {"sda": {"holders": {"dm-0"}}}, "processors": ["a", "b"]}


def never() -> Any:
    raise AssertionError("these facts are kept")


def test_what_was_gathered_for_the_runs_to_come_each_of_them_gets_as_its_own(tmp_path: Path) -> None:
    gathering, run = Facts(), Facts()
    gathering._recording = True
    assert gathering.ask("hardware", gathered) == gathered()
    gathering.store(tmp_path / "facts")
    run.refresh(tmp_path / "facts")
    for _ in range(2):
        found = run.ask("hardware", never)
        assert found == {"devices": {"sda": {"holders": ["dm-0"]}}, "processors": ["a", "b"]}
        found["devices"].clear()


def test_a_run_that_asks_has_old_facts_until_they_are_gathered(tmp_path: Path) -> None:
    run, gathering, server = Facts(), Facts(), Facts()
    run.refresh(tmp_path / "facts")
    assert not run.are_old()
    run.ask("hardware", gathered)
    assert run.are_old()
    assert server.is_due()
    # It is then being done.
    assert not server.is_due()
    gathering.store(tmp_path / "facts")
    run.refresh(tmp_path / "facts")
    assert not run.are_old()
    run.ask("hardware", gathered)
    assert not run.are_old()


def test_a_process_that_lives_on_takes_over_what_was_gathered_meanwhile(tmp_path: Path) -> None:
    path, worker = tmp_path / "facts", Facts()
    worker.refresh(path)
    assert worker.ask("hardware", gathered) == gathered()
    for number in (1, 2):
        gathering = Facts()
        gathering._recording = True
        gathering.ask("hardware", lambda number=number: {"number": number})
        gathering.store(path)
        for _ in range(2):
            worker.refresh(path)
            assert worker.ask("hardware", never) == {"number": number}
    assert [name.name for name in tmp_path.iterdir()] == ["facts"]
    assert path.stat().st_mode & 0o077 == 0


def test_facts_of_a_file_are_as_old_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gathering, worker = Facts(), Facts()
    gathering._recording = True
    gathering.ask("hardware", gathered)
    gathering.store(tmp_path / "facts")
    monkeypatch.setattr(facts, "_OLDEST", 0.0)
    worker.refresh(tmp_path / "facts")
    assert worker.ask("hardware", lambda: "gathered by the run") == "gathered by the run"


@pytest.mark.parametrize("content", [b"", b"no facts", b"i"], ids=repr)
def test_a_file_that_cannot_be_read_is_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "facts").write_bytes(content)
    worker = Facts()
    worker.refresh(tmp_path / "facts")
    assert worker.ask("hardware", gathered) == gathered()
