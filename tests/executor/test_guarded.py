"""Nothing of a run outlives it, whichever is killed first: its process, the one that serves it, the guard, the runner."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess as subprocesses
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bench.driver import until
from runner.executor import processes
from runner.executor.environment import PACKAGE
from tests.conftest import alive

# A shell, what it waits for, a daemon, and one that has left its environment.
TASKS = """
- ansible.builtin.shell: |
    sleep 3600 &
    echo $! >> {folder}/pids
    setsid sleep 3600 >/dev/null 2>&1 &
    echo $! >> {folder}/pids
    env -i sleep 3600 &
    echo $! >> {folder}/pids
    echo $$ >> {folder}/pids
    wait
"""

RUNNER = """
import asyncio, contextlib, sys
from pathlib import Path
from runner.executor import cold
from runner.executor.jobs import ExecutorError, Job
from runner.executor.warm.executor import WarmExecutor

async def main(executor, folder):
    async with contextlib.AsyncExitStack() as stack:
        warm = executor == "warm"
        execute = (await stack.enter_async_context(WarmExecutor())).execute if warm else cold.execute
        (folder / "tmp").mkdir()
        try:
            job = Job(ident="it", folder=folder / "run", role=folder / "roles" / "thing", scratch=folder / "tmp")
            async for event in execute(job):
                pass
            print("The run is over", flush=True)
        except ExecutorError as error:
            print(error, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
"""


class Stage:
    """A runner in a process of its own, and a role of which four processes run."""

    def __init__(self, folder: Path, executor: str) -> None:
        self.folder = folder
        tasks = folder / "roles" / "thing" / "tasks" / "main.yml"
        tasks.parent.mkdir(parents=True)
        tasks.write_text(TASKS.format(folder=folder))
        self.runner = subprocesses.Popen(
            [sys.executable, "-c", RUNNER, executor, str(folder)],
            stdout=subprocesses.PIPE,
            cwd=folder,
            # The folder for temporary files of whatever it starts.
            env={**os.environ, "PYTHONPATH": str(PACKAGE), "ANSIBLE_GATHERING": "explicit", "TMPDIR": str(folder)},
        )
        self.pids: list[int] = []

    async def playing(self) -> None:
        async def written() -> bool:
            assert self.runner.poll() is None
            with contextlib.suppress(OSError):
                self.pids = [int(line) for line in (self.folder / "pids").read_text().split()]
            return len(self.pids) == 4

        await until(written, "the role's processes run")

    def chain(self) -> list[int]:
        """The runner, the guard, what serves the run, the run's process, and so on down to the role's shell."""
        found = [self.pids[-1]]
        while found[0] != self.runner.pid:
            found.insert(0, int(processes._stat(found[0])[1]))
        return found

    def left(self) -> list[int]:
        """All that this runner has started, as far as it still runs."""
        sign = f"{processes.MARK}={self.runner.pid}-".encode()
        everything = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        marked = [pid for pid in everything if any(text.startswith(sign) for text in processes._environment(pid))]
        return sorted({*alive(marked), *alive(self.pids)})

    def kill(self) -> None:
        self.runner.kill()
        self.runner.wait()


@pytest.fixture(params=["warm", "subprocess"])
async def stage(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    made = Stage(tmp_path, request.param)
    with _seen_off(made):
        await made.playing()
        yield made


@contextlib.contextmanager
def _seen_off(stage: Stage) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.kill(stage.runner.pid, signal.SIGCONT)
        stage.kill()
        if stage.runner.stdout is not None:
            stage.runner.stdout.close()
        for pid in stage.left():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


async def nothing_left(stage: Stage) -> None:
    async def gone() -> bool:
        return not stage.left()

    await until(gone, "all that the runner has started has ended")


@pytest.mark.parametrize(
    "victim",
    [pytest.param(1, id="guard"), pytest.param(2, id="server"), pytest.param(3, id="run"), pytest.param(-1, id="shell")],
)
async def test_a_run_ends_as_a_whole(stage: Stage, victim: int) -> None:
    os.kill(stage.chain()[victim], signal.SIGKILL)
    assert stage.runner.stdout is not None
    told = await asyncio.to_thread(stage.runner.stdout.readline)
    # When it is told, and the run may be made again, nothing is left of it.
    assert told
    assert alive(stage.pids) == []
    stage.kill()
    await nothing_left(stage)


async def test_all_ends_with_the_runner(stage: Stage) -> None:
    stage.kill()
    await nothing_left(stage)
    assert [path.name for path in stage.folder.iterdir() if path.name.startswith("rolerunner-warm-")] == []


async def test_all_ends_with_the_runner_though_what_serves_the_run_is_stopped(stage: Stage) -> None:
    os.kill(stage.chain()[2], signal.SIGSTOP)
    stage.kill()
    await nothing_left(stage)


async def test_all_ends_with_the_runner_though_the_run_is_stopped(stage: Stage) -> None:
    for pid in stage.chain()[3:]:
        os.kill(pid, signal.SIGSTOP)
    stage.kill()
    await nothing_left(stage)
