"""The alarms of the suite itself: what they look at is found."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.conftest import SESSION, held_up, of_session, tell_tasks


def test_processes_of_a_session_are_found_however_far_down() -> None:
    """One that has left its parent, its group and its terminal, too."""
    another = uuid.uuid4().hex
    daemon = "import os, time; os.fork() and os._exit(0); os.setsid(); print(os.getpid(), flush=True); time.sleep(3600)"
    started = subprocess.Popen(
        [sys.executable, "-c", daemon], env={**os.environ, SESSION: another}, stdout=subprocess.PIPE, text=True
    )
    with started:
        assert started.stdout is not None
        pid = int(started.stdout.readline())
        started.wait()
        try:
            assert of_session(another) == [pid]
            assert pid not in of_session(os.environ[SESSION])
        finally:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"seconds": 5.0, "busy": 1.5}, 1, id="own-work"),
        pytest.param({"seconds": 5.0, "busy": 0.2}, 0, id="the-machine"),
        pytest.param({"seconds": 5.0}, 0, id="unknown"),
    ],
)
def test_an_event_loop_that_was_held_up(fields: dict[str, float], expected: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        json.dumps({"msg": "The event loop was held up", **fields}) + '\n{"msg": "The event loop was held up", "bu'
    )
    assert len(held_up(log)) == expected


async def test_what_tasks_wait_for() -> None:
    never = asyncio.Event()

    async def inner() -> None:
        await never.wait()

    async def outer() -> None:
        await inner()

    task, told = asyncio.create_task(outer(), name="the one"), io.StringIO()
    await asyncio.sleep(0)
    await asyncio.to_thread(tell_tasks, "the test", told)
    task.cancel()
    lines = told.getvalue().partition("the one\n")[2].splitlines()
    assert [line.split()[-1] for line in lines[:3]] == ["outer", "inner", "wait"]
