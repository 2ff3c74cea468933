import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runner import metrics
from runner.control import Priority, Request
from runner.control.workqueue import Closed, WorkQueue
from runner.resource.metadata import GroupVersionKind, ObjectKey
from runner.watches import Content, Watch

SOON = 30.0


def watch(kind: str, limit: int = 10) -> Watch:
    return Watch(
        gvk=GroupVersionKind("example.com", "v1", kind),
        content=Content(role=Path("/roles/x")),
        reconcile_period=60,
        max_concurrent_reconciles=limit,
        verbosity=0,
    )


THING = watch("Thing")


def request(name: str, of: Watch = THING) -> Request:
    return Request(of, ObjectKey("default", name))


A, B, C = request("a"), request("b"), request("c")


@pytest.fixture
async def queue() -> AsyncIterator[WorkQueue]:
    made = WorkQueue(10)
    yield made
    made.close()


async def idle(queue: WorkQueue) -> bool:
    """Whether nobody gets a turn now."""
    getting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if getting.done():
        return False
    getting.cancel()
    await asyncio.wait({getting})
    return True


async def test_one_entry_a_key(queue: WorkQueue) -> None:
    for _ in range(3):
        queue.add(A, Priority.CHANGE)
    assert await queue.get() == A
    assert await idle(queue)


async def test_never_two_turns_at_once_and_one_more_after_changes(queue: WorkQueue) -> None:
    queue.add(A, Priority.CHANGE)
    await queue.get()
    for _ in range(3):
        queue.add(A, Priority.CHANGE)
    assert await idle(queue)
    queue.done(A)
    assert await queue.get() == A
    queue.done(A)
    assert await idle(queue)


async def test_a_change_goes_before_the_periodic_pass(queue: WorkQueue) -> None:
    queue.add(A, Priority.PERIODIC)
    queue.add(B, Priority.PERIODIC)
    queue.add(C, Priority.CHANGE)
    assert [await queue.get() for _ in range(3)] == [C, A, B]


async def test_a_change_lifts_what_waits_already(queue: WorkQueue) -> None:
    queue.add(A, Priority.PERIODIC)
    queue.add(B, Priority.PERIODIC)
    queue.add(B, Priority.CHANGE)
    assert [await queue.get() for _ in range(2)] == [B, A]
    assert await idle(queue)


async def test_limits_for_a_kind_and_over_all() -> None:
    queue = WorkQueue(3)
    narrow, wide = watch("Narrow", limit=1), watch("Wide", limit=5)
    for name in ("a", "b", "c"):
        queue.add(request(name, narrow), Priority.CHANGE)
        queue.add(request(name, wide), Priority.CHANGE)
    got = [await queue.get() for _ in range(3)]
    assert [(item.watch.gvk.kind, item.key.name) for item in got] == [("Narrow", "a"), ("Wide", "a"), ("Wide", "b")]
    assert await idle(queue)
    queue.done(got[1])
    assert (await queue.get()).watch.gvk.kind == "Wide"
    queue.done(got[0])
    assert (await queue.get()).watch.gvk.kind == "Narrow"


async def test_delays_and_the_shortest_counts(queue: WorkQueue) -> None:
    queue.add(A, Priority.PERIODIC, 3600)
    queue.add(A, Priority.PERIODIC, 0.01)
    queue.add(A, Priority.PERIODIC, 3600)
    assert await idle(queue)
    async with asyncio.timeout(SOON):
        assert await queue.get() == A


async def test_a_turn_stands_for_the_delayed_one_as_well(queue: WorkQueue) -> None:
    queue.add(A, Priority.PERIODIC, 0.05)
    queue.add(A, Priority.CHANGE)
    await queue.get()
    queue.done(A, after=3600)
    queue.add(B, Priority.PERIODIC, 0.1)
    async with asyncio.timeout(SOON):
        assert await queue.get() == B


async def test_backoff_doubles_and_success_resets_it(queue: WorkQueue) -> None:
    waits = []
    for _ in range(3):
        queue.add(A, Priority.CHANGE)
        await queue.get()
        waits.append(queue.done(A, failed=True))
    assert waits == [0.005, 0.01, 0.02]
    queue.add(A, Priority.CHANGE)
    await queue.get()
    assert queue.done(A) == 0
    queue.add(A, Priority.CHANGE)
    await queue.get()
    assert queue.done(A, failed=True) == 0.005


async def test_backoff_ends_at_a_thousand_seconds(queue: WorkQueue) -> None:
    for _ in range(40):
        queue.add(A, Priority.CHANGE)
        await queue.get()
        wait = queue.done(A, failed=True)
    assert wait == 1000


async def test_a_failed_turn_comes_again_at_once_for_a_change_and_not_for_a_dependent(queue: WorkQueue) -> None:
    for _ in range(12):
        queue.add(A, Priority.CHANGE)
        await queue.get()
        queue.add(A, Priority.DEPENDENT)
        queue.done(A, failed=True)
    # A backoff of seconds by now.
    assert await idle(queue)
    queue.add(A, Priority.CHANGE)
    await queue.get()
    queue.add(A, Priority.CHANGE)
    queue.done(A, failed=True)
    assert await queue.get() == A


async def test_it_forgets_what_is_over(queue: WorkQueue) -> None:
    queue.add(A, Priority.CHANGE)
    await queue.get()
    queue.done(A)
    assert queue._turns == {}


async def test_waiting_workers_do_not_keep_each_other_awake(queue: WorkQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    look = WorkQueue._next

    def counted(self: WorkQueue) -> Request | None:
        nonlocal looks
        looks += 1
        return look(self)

    monkeypatch.setattr(WorkQueue, "_next", counted)
    workers = [asyncio.ensure_future(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.add(A, Priority.CHANGE)
    for _ in range(100):
        await asyncio.sleep(0)
    assert sum(worker.done() for worker in workers) == 1
    queue.done(A)
    before = looks
    for _ in range(100):
        await asyncio.sleep(0)
    assert looks <= before + 1
    for worker in workers:
        worker.cancel()
    await asyncio.wait(workers)


async def test_a_worker_cancelled_as_it_is_woken_passes_its_turn_on(queue: WorkQueue) -> None:
    first, second = (asyncio.ensure_future(queue.get()) for _ in range(2))
    await asyncio.sleep(0)
    queue.add(A, Priority.CHANGE)
    first.cancel()
    async with asyncio.timeout(SOON):
        assert await second == A
    assert first.cancelled()


async def test_closed_it_gives_out_nothing(queue: WorkQueue) -> None:
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.add(B, Priority.PERIODIC, 0.01)
    queue.close()
    with pytest.raises(Closed):
        await waiting
    queue.add(A, Priority.CHANGE)
    with pytest.raises(Closed):
        await queue.get()


def shown(of: Watch) -> dict[str, float]:
    """The queue's series of this watch, without their prefix."""
    found = {}
    for line in metrics.exposition().decode().splitlines():
        match = re.fullmatch(r"workqueue_(\w+){(.*)} (\S+)", line)
        if match and f'name="{of.controller}"' in match[2] and not match[1].endswith("_bucket"):
            found[match[1] + "".join(re.findall(r'priority="(.*)"', match[2]))] = float(match[3])
    return found


async def test_the_metrics_tell_what_waits_and_what_is_on(queue: WorkQueue) -> None:
    counted = watch("Counted", limit=1)
    queue.follow(counted)
    assert set(shown(counted).values()) == {0.0}
    first, second = request("first", counted), request("second", counted)
    queue.add(first, Priority.PERIODIC)
    queue.add(first, Priority.CHANGE)
    queue.add(second, Priority.DEPENDENT)
    queue.add(second, Priority.DEPENDENT)
    seen = shown(counted)
    assert [seen[f"depth{priority}"] for priority in (0, -1, -2, -3)] == [1, 1, 0, 0]
    assert (seen["adds_total"], seen["queue_duration_seconds_count"]) == (2, 0)
    assert await queue.get() == first
    await asyncio.sleep(0.001)
    seen = shown(counted)
    assert (seen["depth0"], seen["depth-1"], seen["queue_duration_seconds_count"]) == (0, 1, 1)
    assert seen["longest_running_processor_seconds"] > 0
    assert seen["unfinished_work_seconds"] > 0
    assert f'controller_runtime_active_workers{{controller="{counted.controller}"}} 1.0' in metrics.exposition().decode()
    queue.done(first, failed=True)
    seen = shown(counted)
    assert (seen["unfinished_work_seconds"], seen["work_duration_seconds_count"], seen["retries_total"]) == (0, 1, 1)
    assert seen["work_duration_seconds_sum"] > 0
