"""Facts that are kept for the runs to come."""

from typing import Any

import pytest

pytest.importorskip("ansible.modules.setup")

from runner.executor.facts import Facts


def gathered() -> Any:
    return {"devices": {"sda": {"holders": {"dm-0"}}}, "processors": ["a", "b"]}


def never() -> Any:
    raise AssertionError("these facts are kept")


def test_what_was_gathered_for_the_runs_to_come_each_of_them_gets_as_its_own() -> None:
    gathering, run = Facts(), Facts()
    gathering._recording = True
    assert gathering.ask("hardware", gathered) == gathered()
    (lesson,) = gathering.learned()
    run.keep(lesson)
    for _ in range(2):
        found = run.ask("hardware", never)
        assert found == {"devices": {"sda": {"holders": ["dm-0"]}}, "processors": ["a", "b"]}
        found["devices"].clear()


def test_a_run_that_asks_says_so() -> None:
    run, server = Facts(), Facts()
    assert not server.is_due()
    run.ask("hardware", gathered)
    for lesson in run.learned():
        server.keep(lesson)
    assert server.is_due()
    # It is then being done.
    assert not server.is_due()
