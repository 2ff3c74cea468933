"""What is spared in what displays is not missed."""

import inspect
import sys
import threading
from typing import Any

import pytest

pytest.importorskip("ansible_runner")

from ansible import constants
from ansible.utils.display import Display

from runner.executor.patches import ansible_core, tasks
from runner.executor.warm import worker


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [(("said",), {}), (("said", "a host", 3), {}), (("said",), {"caplevel": 1, "host": "a host"})],
    ids=["defaults", "by place", "by name"],
)
def test_what_a_function_is_called_with(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    def verbose(msg: str, host: str | None = None, caplevel: int = 2) -> None:
        pass

    bound = inspect.signature(verbose).bind(*args, **kwargs)
    bound.apply_defaults()
    assert worker._arguments(worker._parameters(verbose), *args, **kwargs) == bound.arguments


def test_debugging_is_told_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(Display, "debug", lambda display, msg, host=None: told.append((msg, host)))
    module: dict[str, Any] = {"_getsignature": None, "_getcallargs": None}
    worker._lighten(module)
    for debug in (False, True):
        monkeypatch.setattr(constants, "DEFAULT_DEBUG", debug)
        Display().debug(f"said {debug}", host="a host")
    assert told == [("said True", "a host")]
    assert module == {"_getsignature": worker._parameters, "_getcallargs": worker._arguments}


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
