"""The executor whose runs wait: it tells the journal of each, and notices two of one CR at once."""

import asyncio
import contextlib
import sys
from pathlib import Path

import pytest

from bench.driver import ROOT, until
from bench.scale.journal import Reader, RunEvent
from bench.scale.shard import JOURNAL, LOCKS, Waiting
from runner.executor.jobs import Fold, Job, Outcome


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / LOCKS).mkdir()
    return tmp_path


def job(cr: str) -> Job:
    return Job(ident="i", folder=Path("/nowhere"), scratch=Path("/nowhere"), names=("group", "v1", "Kind", "default", cr))


async def run(executor: Waiting, cr: str) -> Outcome:
    fold = Fold()
    async with contextlib.aclosing(executor.execute(job(cr))) as events:
        async for event in events:
            fold.add(event)
    return fold.outcome()


def told(folder: Path) -> list[tuple[RunEvent, str, str]]:
    return [(entry.event, entry.shard, entry.cr) for entry in Reader(folder / JOURNAL).update()]


async def test_a_run_succeeds_and_is_told(folder: Path) -> None:
    outcome = await run(Waiting(folder, "a", 0), "x")
    assert (outcome.succeeded, outcome.ok) == (True, 1)
    assert told(folder) == [(RunEvent.BEGIN, "a", "x"), (RunEvent.END, "a", "x")]


async def test_two_runs_of_a_cr_at_once_are_told(folder: Path) -> None:
    one, another = Waiting(folder, "a", 3600), Waiting(folder, "b", 0)
    waiting = asyncio.create_task(run(one, "x"))

    async def begun() -> bool:
        return (folder / JOURNAL).exists() and bool(told(folder))

    await until(begun, "the first run has begun")
    await run(another, "y")
    await run(another, "x")
    waiting.cancel()
    await asyncio.wait([waiting])
    await run(another, "x")
    assert told(folder) == [
        (RunEvent.BEGIN, "a", "x"),
        *((RunEvent.BEGIN, "b", "y"), (RunEvent.END, "b", "y")),
        *((RunEvent.OVERLAP, "b", "x"), (RunEvent.BEGIN, "b", "x"), (RunEvent.END, "b", "x")),
        (RunEvent.CUT, "a", "x"),
        *((RunEvent.BEGIN, "b", "x"), (RunEvent.END, "b", "x")),
    ]


async def test_a_run_of_a_process_that_was_killed_is_over(folder: Path) -> None:
    program = f"""
import asyncio, pathlib
from tests.bench.scale import test_shard
from bench.scale.shard import Waiting
asyncio.run(test_shard.run(Waiting(pathlib.Path({str(folder)!r}), "a", 3600), "x"))
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=ROOT)
    try:

        async def begun() -> bool:
            assert process.returncode is None
            return (folder / JOURNAL).exists() and bool(told(folder))

        await until(begun, "its run has begun")
    finally:
        process.kill()
        await process.wait()
    await run(Waiting(folder, "b", 0), "x")
    assert told(folder) == [(RunEvent.BEGIN, "a", "x"), (RunEvent.BEGIN, "b", "x"), (RunEvent.END, "b", "x")]
