"""A run by an executor that does what a test says."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from runner import metrics
from runner.config.settings import Settings
from runner.control import Result, private_folder, run_log
from runner.control import run as module
from runner.executor.jobs import Job, JobEvent
from runner.executor.run_folder import RunFolders
from runner.resource import conditions
from tests.control.stage import Stage, warnings
from tests.control.test_workqueue import SOON, watch
from tests.executor.test_jobs import event, failure, stats


@pytest.mark.parametrize("place", ["folder", "executor"])
async def test_a_full_disk_is_told_by_the_status(stage: Stage, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "/runs")

    if place == "folder":
        monkeypatch.setattr(private_folder, "_create", full)
    else:
        stage.during = full
    assert await stage.reconcile() == "the run failed"
    assert "No space left on device" in stage.server.condition("Failure")["message"]
    assert stage.server.condition("Successful")["status"] == "False"


async def test_a_run_that_was_ended_at_its_timeout_is_counted(folders: RunFolders) -> None:
    async def execute(job: Job) -> AsyncGenerator[JobEvent, None]:
        await asyncio.Event().wait()
        yield stats(ok=1)

    stage = Stage(folders, replace(watch("Late"), timeout=0.01))
    stage.having(execute=execute)
    line = 'rolerunner_run_timeouts_total{GVK="example.com/v1, Kind=Late"}'
    assert f"\n{line} 0.0\n" in metrics.exposition().decode()
    assert await stage.reconcile() == "the run failed"
    assert f"\n{line} 1.0\n" in metrics.exposition().decode()


async def test_a_run_that_takes_very_long_is_told_again_and_again(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "_LONG_RUN", 0.01)
    told = asyncio.Event()

    async def execute(job: Job) -> AsyncGenerator[JobEvent, None]:
        yield event("playbook_on_task_start", task="Wait for it")
        await told.wait()
        yield stats(ok=1)

    stage.having(execute=execute)
    working = asyncio.create_task(stage.reconcile())
    async with asyncio.timeout(SOON):
        while len(warnings(caplog)) < 3:  # noqa: ASYNC110 - what is awaited is a line of the log
            await asyncio.sleep(0.01)
    told.set()
    assert await working == Result(requeue_after=60)
    last = caplog.records[-2].__dict__
    assert (last["msg"], last["cr"], last["task"]) == ("A run takes very long", "a", "Wait for it")
    assert "`timeout`" in last["remedy"]


async def test_what_a_run_tells_is_not_kept(stage: Stage) -> None:
    """Gigabytes of results, one after the other."""
    alive = 0

    class Result_(dict[str, Any]):
        def __init__(self) -> None:
            nonlocal alive
            super().__init__(msg="x")
            alive += 1

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    most = 0

    async def execute(job: Job) -> AsyncGenerator[JobEvent, None]:
        nonlocal most
        for _ in range(500):
            yield event("runner_on_ok", stdout="printed", res=Result_())
            most = max(most, alive)
        yield stats(ok=500)

    stage.having(execute=execute)
    assert await stage.reconcile() == Result(requeue_after=60)
    assert most < 10


async def test_a_run_says_what_it_is_for(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.handlers.causes = ["ConfigMap default/x changed"]
    with caplog.at_level(logging.INFO):
        await stage.reconcile()
        await stage.reconcile()
    running = [record.__dict__.get("cause") for record in caplog.records if record.getMessage() == "Running"]
    assert running == ["ConfigMap default/x changed", None]


@pytest.mark.parametrize(("size", "in_thread"), [(10, False), (10**6, True)], ids=["short", "long"])
async def test_a_long_failure_is_put_into_words_beside_the_loop(
    stage: Stage, size: int, in_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[bool] = []

    def explained(told: JobEvent) -> JobEvent:
        if told.is_failure:
            where.append(threading.current_thread() is not threading.main_thread())
        return told

    monkeypatch.setattr(module, "explained", explained)
    stage.told = [failure("x" * size), stats(failures=1)]
    assert await stage.reconcile() == "the run failed"
    assert where == [in_thread]
    assert len(stage.server.condition("Failure")["message"]) <= conditions.MESSAGE_LIMIT


async def test_the_log_of_what_ansible_printed_has_the_last(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "_OUTPUT_KEPT", 3)
    stage.told = [*(event("verbose", stdout=f"line {number}") for number in range(100)), stats(ok=1)]
    stage.having(settings=Settings(debug_logs=True))
    with caplog.at_level(logging.INFO):
        await stage.reconcile()
    said = [record.__dict__["output"] for record in caplog.records if record.getMessage() == "Ansible's output"]
    assert said == ["line 97\nline 98\nline 99"]
