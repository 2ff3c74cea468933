import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runner import metrics
from runner.config.watches import Content, Watch
from runner.control import Priority, Request, workqueue
from runner.control.workqueue import Closed, Damper, WorkQueue
from runner.resource.metadata import GroupVersionKind, ObjectKey

# Seconds: the patience with what comes at once, and the delay of what does not come during a test.
SOON = 120.0


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
    """True if no CR is given out now."""
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


async def test_never_two_reconciles_at_once_and_one_more_after_changes(queue: WorkQueue) -> None:
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
    assert await idle(queue)
    queue.add(A, Priority.PERIODIC, 0.01)
    queue.add(A, Priority.PERIODIC, 3600)
    async with asyncio.timeout(SOON):
        assert await queue.get() == A


async def test_a_reconcile_stands_for_the_delayed_one_as_well(queue: WorkQueue) -> None:
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
    assert queue.done(A) is None
    queue.add(A, Priority.CHANGE)
    await queue.get()
    assert queue.done(A, failed=True) == 0.005


async def test_backoff_ends_at_a_thousand_seconds(queue: WorkQueue) -> None:
    for _ in range(40):
        queue.add(A, Priority.CHANGE)
        await queue.get()
        wait = queue.done(A, failed=True)
    assert wait == 1000


async def test_a_cr_may_fail_for_ever(queue: WorkQueue) -> None:
    """The 1,025th backoff once had no room in a float, and its OverflowError ended the process."""
    for _ in range(2000):
        queue.add(A, Priority.CHANGE)
        await queue.get()
        wait = queue.done(A, failed=True)
        assert wait is not None
        assert wait <= 1000


async def test_the_end_of_a_reconcile_that_is_not_on_is_ignored(queue: WorkQueue) -> None:
    assert queue.done(A, failed=True) is None
    queue.add(A, Priority.CHANGE)
    assert queue.done(A) is None
    assert await queue.get() == A
    queue.done(A)
    assert queue.done(A, failed=True) is None
    assert queue.running == 0


async def test_a_failed_reconcile_is_requeued_at_once_for_a_change_and_not_for_a_dependent(queue: WorkQueue) -> None:
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


async def test_no_priority_starves() -> None:
    """Three CRs whose dependents change all the time, and one of each priority that comes again as soon as it was on."""
    queue = WorkQueue(1, dependents=Damper(burst=1_000_000))
    flood = [request(f"flood-{number}") for number in range(3)]
    others = {request(priority.name): priority for priority in Priority}
    for each in flood:
        queue.add(each, Priority.DEPENDENT)
    for each, priority in others.items():
        queue.add(each, priority)
    given: Counter[Request] = Counter()
    for _ in range(20_000):
        each = await queue.get()
        given[each] += 1
        queue.done(each)
        # Changes all the time are for the next test.
        if others.get(each) is not Priority.CHANGE:
            queue.add(each, others.get(each, Priority.DEPENDENT))
    queue.close()
    assert given[request("RETRY")] > 500
    assert given[request("PERIODIC")] > 500
    assert sum(given[each] for each in flood) > 10_000


async def test_of_waiting_crs_each_is_reconciled_whatever_comes_before_it() -> None:
    queue = WorkQueue(1)
    crowd = [request(f"cr-{number}") for number in range(200)]
    for each in crowd:
        queue.add(each, Priority.PERIODIC)
    left = set(crowd)
    for number in range(4 * len(crowd)):
        queue.add(request(f"new-{number}"), Priority.CHANGE)
        each = await queue.get()
        queue.done(each)
        left.discard(each)
    queue.close()
    assert not left


async def test_a_kind_whose_runs_hang_leaves_the_others_their_share() -> None:
    now = 100.0
    queue = WorkQueue(2, clock=lambda: now)
    hanging, other, third = watch("Hanging", limit=2), watch("Other", limit=2), watch("Third", limit=2)
    for each in (hanging, other, third):
        queue.register(each)
    assert queue.workers == 4
    for name in ("a", "b", "c"):
        queue.add(request(name, hanging), Priority.CHANGE)
    for _ in range(2):
        assert (await queue.get()).watch is hanging
    queue.add(request("a", other), Priority.PERIODIC)
    queue.add(request("b", other), Priority.PERIODIC)
    queue.add(request("a", third), Priority.PERIODIC)
    # They may end yet.
    assert await idle(queue)
    now += 31
    # One after the other, and none of the kind that hangs.
    for expected in (request("a", other), request("b", other), request("a", third)):
        assert await queue.get() == expected
        assert await idle(queue)
        queue.done(expected)
    # Should that one hang as well, there is still the third.
    queue.add(request("a", other), Priority.CHANGE)
    queue.add(request("a", third), Priority.CHANGE)
    assert await queue.get() == request("a", other)
    assert await idle(queue)
    now += 31
    assert await queue.get() == request("a", third)
    assert queue.running == 4
    queue.close()


async def test_the_others_share_comes_by_itself() -> None:
    queue = WorkQueue(1, patience=0.01)
    kinds = [watch(kind) for kind in ("Hanging", "Other", "Third", "Fourth")]
    for each in kinds:
        queue.register(each)
    workers = [asyncio.ensure_future(queue.get()) for _ in range(queue.workers)]
    for each in kinds:
        queue.add(request("a", each), Priority.CHANGE)
        queue.add(request("b", each), Priority.CHANGE)
    async with asyncio.timeout(SOON):
        assert {each.watch for each in await asyncio.gather(*workers)} == set(kinds)
    assert await idle(queue)
    queue.close()


@pytest.mark.parametrize(("limit", "share"), [(1, 1), (2, 1), (5, 4)])
async def test_a_users_limit_holds_and_no_kind_has_all_of_it(limit: int, share: int) -> None:
    now = 100.0
    queue = WorkQueue(limit, strict=True, clock=lambda: now)
    hanging, other = watch("Hanging"), watch("Other")
    for each in (hanging, other):
        queue.register(each)
    assert queue.workers == limit
    for number in range(10):
        queue.add(request(str(number), hanging), Priority.CHANGE)
    for _ in range(share):
        await queue.get()
    assert await idle(queue)
    now += 3600
    queue.add(request("a", other), Priority.PERIODIC)
    for _ in range(limit - share):
        assert (await queue.get()).watch is other
    assert await idle(queue)
    queue.close()


async def test_a_users_limit_is_all_there_is_for_a_single_kind() -> None:
    queue = WorkQueue(2, strict=True)
    queue.register(THING)
    for each in (A, B):
        queue.add(each, Priority.CHANGE)
    assert [await queue.get() for _ in range(2)] == [A, B]
    queue.close()


def test_a_cr_comes_less_and_less_often_for_its_dependents() -> None:
    damper, now, waits = Damper(), 0.0, []
    for _ in range(100):
        waits.append(damper.wait(A, now))
        now += waits[-1]
        damper.count(A, now)
    assert waits[:10] == [0] * 10
    assert waits[10] == 1
    assert waits[10:15] == sorted(waits[10:15])
    assert max(waits) <= 30
    # In the long run.
    assert sum(waits[-20:]) == pytest.approx(200, rel=0.1)
    assert damper.wait(B, now) == 0
    assert damper.wait(A, now + 3600) == 0


def test_what_is_long_ago_is_forgotten() -> None:
    damper = Damper()
    for number in range(10_000):
        damper.count(request(str(number)), float(number))
    assert len(damper._forgotten) <= 1024


async def test_dependents_that_change_all_the_time_do_not_keep_their_cr_running(monkeypatch: pytest.MonkeyPatch) -> None:
    # What has to wait waits so long at once.
    monkeypatch.setattr(workqueue, "delay", lambda times, first, last: last)
    damper = Damper(longest=SOON)
    queue = WorkQueue(1, dependents=damper)
    for _ in range(10):
        queue.add(A, Priority.DEPENDENT)
        assert await queue.get() == A
        # Also what comes during its reconcile.
        queue.add(A, Priority.DEPENDENT)
        queue.done(A)
        if queue._entries[A].timer is not None:
            break
    assert await idle(queue)
    # Its own change does not wait.
    queue.add(A, Priority.CHANGE)
    assert await queue.get() == A
    queue.done(A)
    queue.add(A, Priority.DEPENDENT)
    assert await idle(queue)
    # Nor does the other for ever.
    damper.longest = 0.05
    queue.add(A, Priority.DEPENDENT)
    async with asyncio.timeout(SOON):
        assert await queue.get() == A
    queue.close()


async def test_it_forgets_what_is_over(queue: WorkQueue) -> None:
    queue.add(A, Priority.CHANGE)
    await queue.get()
    queue.done(A)
    assert queue._entries == {}


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


async def test_a_worker_cancelled_as_it_is_woken_wakes_another(queue: WorkQueue) -> None:
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
    """The queue's series of this watch, without their prefix, each with its priority if it has one."""
    found = {}
    for line in metrics.exposition().decode().splitlines():
        match = re.fullmatch(r"(?:workqueue|rolerunner)_(\w+){(.*)} (\S+)", line)
        if match and f'controller="{of.controller}"' in match[2] and not match[1].endswith("_bucket"):
            found[match[1] + "".join(re.findall(r'priority="(.*)"', match[2]))] = float(match[3])
    return found


async def test_the_metrics_tell_what_waits_and_what_is_on(queue: WorkQueue) -> None:
    counted = watch("Counted", limit=1)
    now = [100.0]
    queue.clock = lambda: now[0]
    queue.register(counted)
    assert set(shown(counted).values()) == {0.0}
    first, second = request("first", counted), request("second", counted)
    queue.add(first, Priority.PERIODIC)
    now[0] += 30
    queue.add(first, Priority.CHANGE)
    now[0] += 2
    queue.add(second, Priority.DEPENDENT)
    queue.add(second, Priority.DEPENDENT)
    now[0] += 3
    seen = shown(counted)
    assert [seen[f"depth{priority}"] for priority in (0, -1, -2, -3)] == [1, 1, 0, 0]
    assert [seen[f"longest_waiting_seconds{priority}"] for priority in (0, -1, -2, -3)] == [5, 3, 0, 0]
    assert (seen["adds_total"], seen["queue_duration_seconds_count"]) == (2, 0)
    assert await queue.get() == first
    now[0] += 1
    seen = shown(counted)
    assert (seen["depth0"], seen["depth-1"], seen["queue_duration_seconds_count"]) == (0, 1, 1)
    assert seen["longest_running_processor_seconds"] > 0
    assert seen["unfinished_work_seconds"] > 0
    assert f'controller_runtime_active_workers{{controller="{counted.controller}"}} 1.0' in metrics.exposition().decode()
    queue.done(first, failed=True)
    seen = shown(counted)
    assert (seen["unfinished_work_seconds"], seen["work_duration_seconds_count"], seen["retries_total"]) == (0, 1, 1)
    assert seen["work_duration_seconds_sum"] > 0


async def test_a_cr_that_is_held_is_given_out_when_it_is_released(queue: WorkQueue) -> None:
    queue.add(A, Priority.CHANGE)
    assert queue.hold(A).done()
    assert await idle(queue)
    assert len(queue) == 0
    queue.add(A, Priority.PERIODIC, after=SOON)
    queue.add(A, Priority.CHANGE)
    assert await idle(queue)
    queue.release(A)
    assert await queue.get() == A
    queue.done(A)
    assert await idle(queue)


async def test_what_waited_when_a_cr_was_held_is_dropped(queue: WorkQueue) -> None:
    queue.add(A, Priority.CHANGE)
    queue.add(B, Priority.RETRY, after=SOON)
    queue.hold(A)
    queue.hold(B)
    queue.release(A)
    queue.release(B)
    assert await idle(queue)
    assert not queue._entries


async def test_who_holds_a_cr_hears_of_the_end_of_its_reconcile(queue: WorkQueue) -> None:
    queue.add(A, Priority.CHANGE)
    assert await queue.get() == A
    held = queue.hold(A)
    assert queue.hold(A) is held
    assert not held.done()
    assert queue.is_running(A)
    assert queue.done(A, failed=True) is None
    assert not queue.is_running(A)
    assert held.done()
    assert await idle(queue)
    assert queue.running == 0
    queue.release(A)
    # Neither is it tried again, nor does its failure count.
    assert not queue._entries


async def test_the_others_go_on_while_a_cr_is_held() -> None:
    queue = WorkQueue(1)
    queue.add(A, Priority.CHANGE)
    queue.add(B, Priority.CHANGE)
    assert await queue.get() == A
    queue.hold(A)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.done(A)
    assert await waiting == B
    queue.close()


async def test_a_cr_may_be_released_before_its_reconcile_has_ended(queue: WorkQueue) -> None:
    queue.add(A, Priority.CHANGE)
    assert await queue.get() == A
    held = queue.hold(A)
    queue.add(A, Priority.CHANGE)
    queue.release(A)
    assert await idle(queue)
    queue.done(A)
    assert not held.done()
    assert await queue.get() == A


async def test_a_hold_that_nobody_waits_for_any_more_is_in_no_ones_way(queue: WorkQueue) -> None:
    queue.add(A, Priority.CHANGE)
    assert await queue.get() == A
    queue.hold(A).cancel()
    queue.done(A)
    assert queue.running == 0


async def test_what_the_queue_tells_of_its_crs() -> None:
    now = 100.0
    queue = WorkQueue(10, clock=lambda: now)
    for each, after in ((A, 0), (B, 0), (C, 60)):
        queue.add(each, Priority.CHANGE, after)
    assert await queue.get() == A
    now = 103.0
    assert (queue.on(), queue.waiting(), queue.delayed) == ([A], [B], 1)
    assert (queue.waited(A), queue.waited(B), queue.waited(C)) == (None, 3.0, None)
    queue.done(A, failed=True)
    assert (queue.failures(A), queue.failures(B), queue.on(), queue.delayed) == (1, 0, [], 2)
    queue.close()
