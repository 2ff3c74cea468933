import asyncio
import re
from typing import Any

import pytest

from runner import metrics
from runner.control import Priority, Request, RequeueReason, Result, Retry, controller
from runner.control.controller import Controller
from runner.control.history import History
from runner.control.records import ReconcileStatus
from runner.control.workqueue import WorkQueue
from tests.control.test_workqueue import SOON, A, B


class Recorder(WorkQueue):
    """A queue that tells what it was told."""

    def __init__(self) -> None:
        super().__init__(2)
        self.told: list[dict[str, Any]] = []

    def done(self, request: Request, **how: Any) -> float | None:
        self.told.append(how)
        return super().done(request, **how)


async def reconciled(outcome: Result | BaseException) -> Recorder:
    queue = Recorder()
    queue.add(A, Priority.CHANGE)

    async def reconcile(_: Request) -> Result:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    await Controller(queue, reconcile).reconcile(await queue.get())
    queue.close()
    return queue


@pytest.mark.parametrize("error", [Retry("later"), ValueError("a fault of our own")])
async def test_what_fails_comes_again_by_backoff(error: Exception) -> None:
    assert (await reconciled(error)).told == [{"failed": True}]


@pytest.mark.parametrize(
    "result",
    [Result(), Result(requeue_after=0.0), Result(requeue_after=0.0, reason=RequeueReason.REQUEUE_AFTER)],
    ids=["none", "0s", "asked-0s"],
)
async def test_what_is_done_comes_again_when_something_happens(result: Result) -> None:
    assert (await reconciled(result)).told == [{}]


async def test_the_periodic_pass_comes_a_little_early_and_never_late() -> None:
    (told,) = (await reconciled(Result(requeue_after=100))).told
    assert 90 <= told["after"] <= 100
    assert told.get("priority", Priority.PERIODIC) is Priority.PERIODIC


async def test_a_time_the_role_asked_for_is_kept() -> None:
    assert (await reconciled(Result(requeue_after=100, reason=RequeueReason.REQUEUE_AFTER))).told == [
        {"after": 100, "priority": Priority.RETRY}
    ]


@pytest.mark.parametrize(
    ("outcome", "counted"),
    [
        (Result(), {"total success"}),
        (Result(requeue_after=60), {"total requeue_after"}),
        (Retry("later"), {"total error", "errors_total"}),
        (ValueError("a fault of our own"), {"total error", "errors_total", "panics_total"}),
    ],
    ids=["success", "requeue_after", "error", "panic"],
)
async def test_each_reconcile_is_counted_by_its_result(outcome: Result | Exception, counted: set[str]) -> None:
    def shown() -> dict[str, float]:
        found = {}
        for line in metrics.exposition().decode().splitlines():
            match = re.fullmatch(rf'controller_runtime_reconcile_(\w+){{controller="{A.watch.controller}"(.*)}} (\S+)', line)
            if match and "_bucket" not in match[1]:
                found[" ".join([match[1], *re.findall('result="(.*)"', match[2])])] = float(match[3])
        return found

    before = shown()
    await reconciled(outcome)
    changed = {name for name, value in shown().items() if value == before.get(name, 0) + 1}
    assert changed == counted | {"time_seconds_count"}


async def test_a_fault_of_the_queue_s_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "_REST", 0.0)
    monkeypatch.setattr(controller, "_AFTER_FAULT", 0.01)
    again = asyncio.Event()
    reconciles = []

    class Faulty(WorkQueue):
        def done(self, request: Request, **how: Any) -> float | None:
            after = super().done(request, **how)
            if len(reconciles) <= 2:
                raise OverflowError("int too large to convert to float")
            return after

    queue = Faulty(1)

    async def reconcile(request: Request) -> Result:
        reconciles.append(request)
        if len(reconciles) > 2:
            again.set()
        return Result()

    running = asyncio.ensure_future(Controller(queue, reconcile).run())
    queue.add(A, Priority.CHANGE)
    async with asyncio.timeout(SOON):
        await again.wait()
        queue.close()
        await running
    assert reconciles == [A, A, A]


async def test_it_ends_when_the_reconciles_that_are_on_have_ended() -> None:
    queue = WorkQueue(2)
    gate = asyncio.Event()
    ended = []

    async def reconcile(request: Request) -> Result:
        await gate.wait()
        ended.append(request)
        return Result()

    running = asyncio.ensure_future(Controller(queue, reconcile).run())
    queue.add(A, Priority.CHANGE)
    queue.add(B, Priority.CHANGE)
    for _ in range(10):
        await asyncio.sleep(0)
    queue.close()
    await asyncio.sleep(0)
    assert not running.done()
    gate.set()
    await running
    assert set(ended) == {A, B}


async def test_a_reconcile_can_be_ended_alone() -> None:
    queue, begun, ended = Recorder(), asyncio.Event(), asyncio.Event()
    queue.add(A, Priority.CHANGE)

    async def reconcile(request: Request) -> Result:
        begun.set()
        if request == A:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
        return Result()

    made = Controller(queue, reconcile)
    working = asyncio.create_task(made.run())
    await begun.wait()
    # Of one that is not on, there is nothing to end.
    made.end(B)
    queue.add(B, Priority.CHANGE)
    held = queue.hold(A)
    made.end(A)
    await asyncio.wait_for(held, SOON)
    assert ended.is_set()
    queue.close()
    await working
    assert len(queue.told) == 2


async def test_a_timeout_of_the_reconcile_s_own_is_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    assert (await reconciled(TimeoutError())).told == [{"failed": True}]
    assert "Reconciling failed unexpectedly" in caplog.text


@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [
        (Result(requeue_after=60), ReconcileStatus.LEFT, RequeueReason.PERIOD),
        (Result(requeue_after=60, reason=RequeueReason.REQUEUE_AFTER), ReconcileStatus.LEFT, RequeueReason.REQUEUE_AFTER),
        (Result(), ReconcileStatus.LEFT, None),
        (Retry("no way"), ReconcileStatus.FAILED, RequeueReason.RETRY),
        (ValueError("a fault of our own"), ReconcileStatus.FAILED, RequeueReason.RETRY),
    ],
    ids=["period", "asked", "done", "failed", "fault"],
)
async def test_the_record_says_what_came_of_it_and_when_the_cr_comes_again(
    outcome: Result | Exception, status: ReconcileStatus, reason: RequeueReason | None
) -> None:
    queue, history = WorkQueue(2), History(is_kept=True)
    queue.add(A, Priority.CHANGE)

    async def reconcile(request: Request) -> Result:
        assert history.current(request) in history.of(request)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    await Controller(queue, reconcile, history).reconcile(await queue.get())
    (record,) = history.of(A)
    assert (record.status, record.requeue and record.requeue.reason) == (status, reason)
    assert record.requeue is None or record.requeue.due > record.begun
    assert record.ended is not None
    queue.close()


@pytest.mark.parametrize("outcome", [Result(requeue_after=60), Retry("no way")], ids=["period", "failed"])
async def test_a_cr_that_changed_meanwhile_does_not_come_for_its_period_or_as_a_retry(outcome: Result | Exception) -> None:
    queue, history = WorkQueue(2), History(is_kept=True)
    queue.add(A, Priority.CHANGE)

    async def reconcile(request: Request) -> Result:
        queue.add(request, Priority.CHANGE)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    await Controller(queue, reconcile, history).reconcile(await queue.get())
    (record,) = history.of(A)
    assert record.requeue is None
    assert queue.is_waiting(A)
    queue.close()
