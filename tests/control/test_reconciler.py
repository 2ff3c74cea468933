"""One reconcile against an API server that fails in each way it can."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from runner import metrics
from runner.control import Priority, RequeueReason, Result
from runner.control import reconciler as module
from runner.control.plan import Plan
from runner.control.reconciler import FinishedRun, next_reconcile
from runner.control.records import ReconcileStatus
from runner.control.run import Runs
from runner.executor.jobs import Outcome
from runner.executor.run_folder import RunFolders
from runner.kube.client import KubeError, NotFound, Refused, Unreachable
from runner.resource.selectors import Selector, label_selector
from runner.resource.sharding import Shard
from tests.control.stage import FAILURES, NAMES, PLAIN, RESOURCE, Stage
from tests.executor.test_jobs import failure, stats

MINE = cast(Selector, label_selector("mine=yes"))
NO_PATH = NotFound(404, "the server could not find the requested resource")


async def test_a_run_and_its_status(stage: Stage) -> None:
    assert await stage.reconcile() == Result(requeue_after=60)
    assert stage.server.condition("Successful")["status"] == "True"
    assert stage.cr["status"]["observedGeneration"] == 1
    assert stage.server.writes == ["status"]


async def test_the_outcome_of_a_cr_is_not_written_on_another_of_its_name(stage: Stage) -> None:
    stage.during = stage.server.replace
    assert await stage.reconcile() == Result()
    assert stage.server.writes == []
    assert stage.handlers.forgotten == ["1"]
    assert "status" not in stage.cr


async def test_a_cr_that_is_gone_is_cleared_up(stage: Stage) -> None:
    folder = stage.folders.folder(("example.com", "v1", "Thing", "default", "a"))
    folder.mkdir(parents=True)
    stage.server.obj = None
    assert await stage.reconcile() == Result()
    assert stage.handlers.forgotten == [None]
    assert not folder.exists()


@pytest.mark.parametrize("answer", [NO_PATH, NotFound(404, "404 page not found")], ids=["api server", "proxy"])
async def test_a_path_that_is_not_found_is_no_cr_that_is_gone(stage: Stage, answer: NotFound) -> None:
    folder = stage.folders.folder(("example.com", "v1", "Thing", "default", "a"))
    folder.mkdir(parents=True)
    stage.server.next["get"] = [answer, answer]
    assert await stage.reconcile() == str(answer)
    await stage.reconciler.clear_up(stage.request)
    assert folder.exists()
    assert stage.handlers.forgotten == []


async def test_a_kind_that_is_not_served_may_come_back(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.known.resource = None
    assert await stage.reconcile() == "the API server does not serve the kind"
    stage.known.resource = RESOURCE
    assert await stage.reconcile() == Result(requeue_after=60)
    stage.known.resource = None
    monkeypatch.setattr(module, "_KIND_GONE_AFTER", 0.0)
    assert await stage.reconcile() == Result()
    assert stage.handlers.forgotten == [None]


async def test_a_cr_that_goes_during_its_run_is_cleared_up(stage: Stage) -> None:
    stage.during = lambda: setattr(stage.server, "obj", None)
    assert await stage.reconcile() == Result()
    assert stage.handlers.forgotten == ["1"]


async def test_a_cr_that_its_selector_no_longer_chooses_is_not_run(stage: Stage) -> None:
    stage.request = replace(stage.request, watch=replace(PLAIN, selector=MINE))
    stage.having()
    stage.server.next["put"] = [FAILURES[0]]
    assert await stage.reconcile() == Result()
    assert stage.jobs == []
    # It may be another shard's now, and is not gone.
    assert stage.handlers.forgotten == [None]
    stage.server.next.clear()
    stage.cr["metadata"]["labels"] = {"mine": "yes"}
    assert await stage.reconcile() == Result(requeue_after=60)


@pytest.mark.parametrize("is_shard", [True, False], ids=["shard", "selector"])
async def test_nothing_more_is_written_on_a_cr_that_left_its_shard_during_its_run(stage: Stage, is_shard: bool) -> None:
    shard = Shard("ring", "one")
    stage.request = replace(stage.request, watch=replace(PLAIN, selector=shard.selector))
    stage.having()
    stage.cr["metadata"]["labels"] = {shard.label: "one"}
    if is_shard:
        stage.reconciler._shard = shard

    def leave() -> None:
        assert stage.server.obj is not None
        metadata = {**stage.server.obj["metadata"], "labels": {shard.label: "two"}, "resourceVersion": "99"}
        stage.server.obj = {**stage.server.obj, "metadata": metadata}

    stage.during = leave
    # Where there are no shards its label is its own affair, and its status says what came of the run.
    assert await stage.reconcile() == ("it is another shard's now" if is_shard else Result(requeue_after=60))
    assert stage.server.obj is not None
    assert ("Successful" in str(stage.server.obj.get("status"))) is not is_shard
    assert await stage.reconcile() == Result()
    assert len(stage.jobs) == 1


@pytest.mark.parametrize("error", FAILURES, ids=NAMES)
async def test_a_run_that_succeeded_is_not_repeated_for_want_of_its_status(stage: Stage, error: KubeError) -> None:
    stage.server.next["put"] = [error, error]
    for _ in range(2):
        assert await stage.reconcile() == str(error)
    assert await stage.reconcile() == Result(requeue_after=60)
    assert len(stage.jobs) == 1
    assert stage.server.condition("Successful")["status"] == "True"
    # The next is a run again.
    await stage.reconcile()
    assert len(stage.jobs) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda stage: stage.cr["metadata"].update(generation=2),
        lambda stage: stage.cr.update(spec={"size": 2}),
        lambda stage: stage.cr["metadata"].update(annotations={"a": "b"}),
        lambda stage: stage.handlers.causes.append("a dependent changed"),
        lambda stage: stage.server.replace(),
    ],
    ids=["generation", "spec", "annotations", "dependent", "uid"],
)
async def test_a_change_is_run_though_the_last_run_is_not_written_yet(stage: Stage, change: Callable[[Stage], None]) -> None:
    stage.server.next["put"] = [Unreachable("away")]
    assert await stage.reconcile() == "away"
    change(stage)
    assert await stage.reconcile() == Result(requeue_after=60)
    assert len(stage.jobs) == 2


async def test_a_change_is_run_though_the_first_reconcile_after_it_came_to_nothing(stage: Stage) -> None:
    stage.server.next = {"put": [Unreachable("away")], "get": [None, Unreachable("still away")]}
    assert await stage.reconcile() == "away"
    stage.handlers.causes = ["a dependent changed"]
    assert await stage.reconcile() == "still away"
    assert await stage.reconcile() == Result(requeue_after=60)
    assert len(stage.jobs) == 2


async def test_the_period_asks_for_a_run_though_the_last_is_not_written_yet(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.server.next["put"] = [Unreachable("away")] * 2
    assert await stage.reconcile() == "away"
    assert await stage.reconcile() == "away"
    now = module.monotonic()
    monkeypatch.setattr(module, "monotonic", lambda: now + 61)
    assert await stage.reconcile() == Result(requeue_after=60)
    assert len(stage.jobs) == 2


@pytest.mark.parametrize("method", ["get", "patch"])
async def test_a_finalizer_s_role_is_not_run_again_for_want_of_its_removal(guarded: Stage, method: str) -> None:
    guarded.server.next[method] = [None, Unreachable("away")] if method == "get" else [Unreachable("away")]
    assert await guarded.reconcile() == "away"
    assert await guarded.reconcile() == Result()
    assert len(guarded.jobs) == 1
    assert guarded.cr["metadata"]["finalizers"] == []


async def test_a_failed_run_is_told_and_tried_again(stage: Stage) -> None:
    stage.told = [failure("boo", task="Try"), stats(failures=1)]
    assert await stage.reconcile() == "the run failed"
    assert stage.server.condition("Failure")["message"] == "boo"
    assert [posted["message"] for posted in stage.server.events] == ["Task 'Try' failed: boo"]


def failing() -> float:
    line = 'rolerunner_failing_custom_resources{GVK="example.com/v1, Kind=Thing"} '
    (found,) = (each for each in metrics.exposition().decode().splitlines() if each.startswith(line))
    return float(found.removeprefix(line))


async def test_which_crs_fail_is_counted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: object) -> list[str]:
        return ["spec.size: no number"]

    succeeding, failed = [stats(ok=1)], [failure("boo", task="Try"), stats(failures=1)]
    stage.told = failed
    await stage.reconcile()
    assert failing() == 1
    stage.told = succeeding
    await stage.reconcile()
    assert failing() == 0
    # A reconcile that comes to no run, and a CR that is not run for what it says.
    stage.server.next["get"] = [Unreachable("away")]
    await stage.reconcile()
    assert failing() == 1
    await stage.reconcile()
    assert failing() == 0
    with monkeypatch.context() as patch:
        patch.setattr(Runs, "problems", refused)
        assert await stage.reconcile() == Result(requeue_after=60)
        assert failing() == 1
    # One that is gone does not fail.
    stage.server.obj = None
    await stage.reconcile()
    assert failing() == 0


async def test_a_cr_that_is_run_no_more_does_not_fail(folders: RunFolders) -> None:
    stage = Stage(folders, replace(PLAIN, allow_annotations=frozenset({"dry-run"})))
    stage.told = [failure("boo", task="Try"), stats(failures=1)]
    await stage.reconcile()
    assert failing() == 1
    stage.server.touch(metadata={**stage.cr["metadata"], "annotations": {"rolerunner.io/dry-run": "true"}})
    await stage.reconcile()
    assert failing() == 0


async def test_a_plan_is_not_written_out_in_the_event_loop(folders: RunFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of one object of a megabyte takes two seconds."""
    made: list[threading.Thread] = []

    def text(_: Plan) -> str:
        made.append(threading.current_thread())
        return "nothing"

    for name in ("text", "note"):
        monkeypatch.setattr(Plan, name, text)
    stage = Stage(folders, replace(PLAIN, allow_annotations=frozenset({"dry-run"})))
    stage.server.touch(metadata={**stage.cr["metadata"], "annotations": {"rolerunner.io/dry-run": "true"}})
    await stage.reconcile()
    assert len(made) >= 2
    assert threading.main_thread() not in made


@pytest.mark.parametrize("error", [Unreachable("away"), Refused(403, "no right")], ids=["away", "refused"])
async def test_a_conclusion_that_cannot_be_read_for(stage: Stage, error: KubeError) -> None:
    reconciliation = stage.reconciliation
    reconciliation.written.add("1")
    stage.server.next["get"] = [error]
    with pytest.raises(type(error)):
        await stage.reconciler._conclude(reconciliation, FinishedRun(stage.cr, Outcome(), False), stage.cr)


def nested(depth: int) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    for _ in range(depth):
        spec = {"a": spec}
    return spec


@pytest.mark.parametrize("depth", [150, 700])
async def test_a_cr_that_is_nested_too_deeply_is_refused(stage: Stage, depth: int, caplog: pytest.LogCaptureFixture) -> None:
    stage.cr["spec"] = nested(depth)
    assert await stage.reconcile() == Result(requeue_after=60)
    assert stage.jobs == []
    assert "deep" in stage.server.condition("Failure")["message"]
    assert [record.exc_info for record in caplog.records if record.exc_info] == []


async def test_a_recursion_without_end_is_told_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.server.next["get"] = [RecursionError(), RecursionError()]
    for _ in range(2):
        assert await stage.reconcile() == "nested too deeply"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert await stage.reconcile() == Result(requeue_after=60)


async def test_the_loop_goes_on_while_a_large_cr_is_worked_on(stage: Stage) -> None:
    stage.cr["spec"] = {f"someField{number}": {"anotherField": "x"} for number in range(20_000)}
    working = asyncio.create_task(stage.reconcile())
    passes = 0
    while not working.done():
        await asyncio.sleep(0.001)
        passes += 1
    assert await working == Result(requeue_after=60)
    assert passes > 10


@pytest.mark.parametrize(
    ("asked", "result"),
    [
        (None, Result(requeue_after=60)),
        ("90s", Result(requeue_after=90, reason=RequeueReason.REQUEUE_AFTER)),
        ("0", Result(requeue_after=0, reason=RequeueReason.REQUEUE_AFTER)),
    ],
    ids=["periodic", "asked for", "only by an event"],
)
def test_when_a_cr_comes_again(asked: str | None, result: Result) -> None:
    assert next_reconcile(Outcome(requeue_after=asked), PLAIN) == result


def test_a_period_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="soon"):
        next_reconcile(Outcome(requeue_after="soon"), PLAIN)


async def test_a_reconcile_leaves_a_record(stage: Stage) -> None:
    record = stage.history.begin(stage.request, Priority.CHANGE, 0.0)
    stage.handlers.causes = ["changed"]
    await stage.reconcile()
    assert (record.cause, record.status, record.uid, record.generation) == ("changed", ReconcileStatus.SUCCEEDED, "1", 1)
    assert record.run is not None
    assert record.run.ended is not None
    assert record.run.outcome is not None
    assert record.run.artifacts is not None
    assert {phase.name for phase in record.phases} >= {"read", "start", "status"}
    assert stage.history.of_run(record.run.ident) is record


async def test_the_record_of_a_run_that_failed_says_why(stage: Stage) -> None:
    record = stage.history.begin(stage.request, Priority.CHANGE, 0.0)
    stage.told = [failure("no such thing"), stats(failures=1)]
    await stage.reconcile()
    assert (record.status, record.message) == (ReconcileStatus.FAILED, "no such thing")


async def test_the_record_of_a_cr_that_is_gone_says_so(stage: Stage) -> None:
    record = stage.history.begin(stage.request, Priority.CHANGE, 0.0)
    stage.server.obj = None
    await stage.reconcile()
    assert record.status is ReconcileStatus.GONE
    assert record.run is None


async def test_a_cr_that_waits_for_others_finalizers_does_not_fail(stage: Stage) -> None:
    stage.told = [failure("boo", task="Try"), stats(failures=1)]
    await stage.reconcile()
    assert failing() == 1
    stage.server.touch(
        metadata={**stage.cr["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["another/one"]}
    )
    assert await stage.reconcile() == Result()
    assert failing() == 0


async def test_a_run_that_a_fault_ends_does_not_go_on_for_ever(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError

    record = stage.history.begin(stage.request, Priority.CHANGE, 0.0)
    monkeypatch.setattr("runner.control.run.Fold.add", fault)
    with pytest.raises(ZeroDivisionError):
        await stage.reconciler.reconcile(stage.request)
    assert record.run is not None
    assert record.run.ended is not None
