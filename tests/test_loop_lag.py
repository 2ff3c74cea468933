import asyncio
import time

import pytest

from runner import metrics
from runner.loop_lag import HELD_UP, watch_loop


def counted() -> float:
    name = "rolerunner_event_loop_lag_seconds_count "
    return next(
        float(line.removeprefix(name)) for line in metrics.exposition().decode().splitlines() if line.startswith(name)
    )


async def test_a_loop_that_is_held_up_is_told_and_not_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    before = counted()
    watching = asyncio.create_task(watch_loop(interval=0.01, too_late=0.05))
    for _ in range(3):
        looks = counted()
        async with asyncio.timeout(30):
            while counted() < looks + 2:  # noqa: ASYNC110 - a metric is what is awaited
                await asyncio.sleep(0.01)
        time.sleep(0.2)  # noqa: ASYNC251 - this is what holds it up
    async with asyncio.timeout(30):
        while counted() < before + 10:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    watching.cancel()
    (record,) = caplog.records
    assert record.getMessage() == HELD_UP == "The event loop was held up"
    assert record.__dict__["seconds"] >= 0.05
    # It slept.
    assert record.__dict__["busy"] < record.__dict__["seconds"]


async def test_work_of_its_own_is_told_from_the_machines(caplog: pytest.LogCaptureFixture) -> None:
    watching = asyncio.create_task(watch_loop(interval=0.01, too_late=0.05))
    # It is at its first measurement, so that none before it tells of the machine.
    await asyncio.sleep(0)
    begun = time.thread_time()
    while time.thread_time() < begun + 0.2:
        pass
    async with asyncio.timeout(30):
        while not caplog.records:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    watching.cancel()
    assert caplog.records[0].__dict__["busy"] >= 0.2
