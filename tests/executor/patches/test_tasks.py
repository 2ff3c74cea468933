"""The output of a task, and what threads write meanwhile."""

import sys
import threading
from typing import Any

import pytest

pytest.importorskip("ansible.executor.process.worker")

from runner.executor.patches import ansible_core, tasks


@pytest.mark.skipif(not ansible_core.TAGS, reason="what a task prints is not caught")
def test_a_thread_that_displays_does_not_bring_back_a_tasks_output() -> None:
    displaying, over = threading.Event(), threading.Event()

    def display(display: Any, msg: str) -> None:
        displaying.set()
        assert over.wait(60)

    thread = threading.Thread(target=tasks._display_through(display), args=(None, "said"))
    real = sys.stdout
    with tasks._caught_output():
        thread.start()
        assert displaying.wait(60)
        assert sys.stdout is not real
    over.set()
    thread.join()
    assert sys.stdout is real


@pytest.mark.skipif(not ansible_core.TAGS, reason="what a task prints is not caught")
def test_what_a_thread_says_is_not_what_a_task_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with tasks._caught_output():
        sys.stdout.write("by the task\n")
        thread = threading.Thread(target=print, args=("by a thread",))
        thread.start()
        thread.join()
    assert capsys.readouterr().out == "by a thread\n"
