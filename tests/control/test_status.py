"""Writes on a CR, against others' writes, a schema that wants something else, and a server that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import pytest

from runner.control import Result
from runner.control import status as module
from runner.control.status import failed
from runner.executor.jobs import Job, JobEvent
from runner.kube.client import Conflict, Invalid, KubeError
from runner.resource import conditions
from tests.control.stage import FAILURES, GONE, NAMES, Stage, cr, warnings
from tests.control.test_workqueue import SOON
from tests.executor.test_jobs import stats


async def test_an_interruption_is_not_written_on_another_cr_of_the_name(stage: Stage) -> None:
    stage.server.replace()
    await stage.status._interrupted(stage.reconciliation)
    assert stage.server.writes == []


@pytest.mark.parametrize(("uid", "written"), [("1", [conditions.FAILURE]), ("2", [])], ids=["the same", "another"])
async def test_a_write_is_compared_with_the_uid(stage: Stage, uid: str, written: list[str]) -> None:
    before = stage.cr
    stage.server.obj = cr(uid=uid, version=2)
    marked = await stage.status.write(stage.reconciliation, before, failed("boo"))
    assert (marked is not None) is bool(written)
    assert [kind for kind in (conditions.FAILURE,) if stage.server.condition(kind)] == written


@pytest.mark.parametrize("error", [*FAILURES, GONE, Conflict(409, "other")], ids=[*NAMES, "gone", "conflict"])
async def test_a_run_goes_on_though_its_beginning_cannot_be_told(stage: Stage, error: KubeError) -> None:
    stage.server.next["put"] = [error]
    async with asyncio.timeout(SOON):
        await stage.status._announce(stage.reconciliation, stage.cr)


@pytest.mark.parametrize("error", [*FAILURES, GONE], ids=[*NAMES, "gone"])
@pytest.mark.parametrize("method", ["get", "put"])
async def test_an_interruption_that_cannot_be_written(stage: Stage, method: str, error: KubeError) -> None:
    stage.server.next[method] = [error]
    await stage.status._interrupted(stage.reconciliation)
    assert stage.server.writes == []
    await stage.status._interrupted(stage.reconciliation)
    assert stage.server.condition("Failure")["message"] == module.INTERRUPTED


def strict(status: Mapping[str, Any]) -> None:
    for index, condition in enumerate(status["conditions"]):
        if not condition["reason"]:
            place = f"status.conditions[{index}].reason"
            raise Invalid(422, f'Thing.example.com "a" is invalid: {place}: should be at least 1 chars long')


def no_generation(status: Mapping[str, Any]) -> None:
    if "observedGeneration" in status:
        raise Invalid(422, 'Thing.example.com "a" is invalid: status.observedGeneration: Invalid value: "integer"')


def nothing(status: Mapping[str, Any]) -> None:
    raise Invalid(422, 'Thing.example.com "a" is invalid: status.conditions: Invalid value: "array"')


def both(status: Mapping[str, Any]) -> None:
    strict(status)
    no_generation(status)


@pytest.mark.parametrize(
    ("schema", "reason", "observed"),
    [(strict, "NoFailure", 1), (no_generation, "", None), (both, "NoFailure", None)],
    ids=["reasons", "generation", "both"],
)
async def test_a_status_is_written_as_the_schema_wants_it(
    stage: Stage, schema: Callable[[Mapping[str, Any]], None], reason: str, observed: int | None
) -> None:
    stage.server.schema = schema
    for _ in range(2):
        assert await stage.reconcile() == Result(requeue_after=60)
    assert stage.server.condition("Failure")["reason"] == reason
    assert stage.cr["status"].get("observedGeneration") == observed
    # It is learned once.
    assert stage.server.refused == 1 + (schema is both)
    # Another runner finds the reasons there.
    stage.having()
    assert await stage.reconcile() == Result(requeue_after=60)
    assert stage.server.condition("Failure")["reason"] == reason


async def test_a_status_that_no_schema_would_have_is_told_once_and_repeats_no_run(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.server.schema = nothing
    for _ in range(3):
        assert await stage.reconcile() == Result(requeue_after=60)
    assert len(stage.jobs) == 3
    assert [posted["reason"] for posted in stage.server.events] == ["StatusRefused"]
    assert len(warnings(caplog)) == 1


async def test_what_is_said_of_a_cr_is_bounded(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(100):
        stage.cr["spec"] = {f"ansible_{number}_{field}": "x" for field in range(200)}
        stage.cr["metadata"]["generation"] = number
        await stage.reconcile()
    assert {len(notes) for notes in stage.status._warned.values()} == {1}
    assert all(isinstance(note, int) for note in stage.status._warned[stage.request])
    assert all(len(text) <= module._WARNING_LIMIT for text in warnings(caplog))
    assert warnings(caplog)[0].endswith("spec.ansible_0_9, …")
    assert len(stage.server.events) == 25


async def test_a_long_name_is_cut(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.cr["spec"] = {f"ansible_{'x' * 100_000}": 1}
    await stage.reconcile()
    assert [len(text) < module._WARNING_LIMIT for text in warnings(caplog)] == [True]


async def test_a_mistake_that_is_made_again_is_told_again(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    for spec in ({"vars": 1}, {"vars": 1}, {}, {"vars": 1}):
        stage.cr["spec"] = spec
        await stage.reconcile()
    assert len(warnings(caplog)) == 2


async def test_conflicts_are_tried_again_and_end(stage: Stage) -> None:
    stage.server.next["put"] = [stage.server.touch] * 3
    assert await stage.reconcile() == Result(requeue_after=60)
    stage.cr["metadata"]["generation"] = 2
    stage.server.next["put"] = [stage.server.touch] * 100
    assert "by others at the same time" in str(await stage.reconcile())


async def test_a_run_that_takes_long_is_announced(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANNOUNCE_AFTER", 0.0)
    reasons: list[str] = []

    async def execute(job: Job) -> AsyncGenerator[JobEvent, None]:
        async with asyncio.timeout(SOON):
            while not stage.server.writes:  # noqa: ASYNC110 - what is awaited is a write
                await asyncio.sleep(0.001)
        reasons.append(stage.server.condition("Running")["reason"])
        yield stats(ok=1)

    stage.having(execute=execute)
    assert await stage.reconcile() == Result(requeue_after=60)
    assert reasons == ["Running"]
    assert stage.server.condition("Running")["reason"] == "Successful"
    assert stage.server.writes == ["status", "status"]


async def test_a_run_that_is_soon_over_is_not_announced(stage: Stage) -> None:
    """Nor is the next one, before which it would be written if this one had been slow."""
    for _ in range(2):
        stage.cr["metadata"]["generation"] += 1
        assert await stage.reconcile() == Result(requeue_after=60)
        assert stage.server.writes == ["status"]
        stage.server.writes.clear()


async def test_refusals_of_several_crs_at_once_are_learned_from_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All are sent before the first refusal is there."""
    stage.server.schema = strict
    sent, put = asyncio.Barrier(4), stage.server.put

    async def put_together(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if any(not condition["reason"] for condition in body["status"]["conditions"]):
            await sent.wait()
        return await put(path, body)

    monkeypatch.setattr(stage.server, "put", put_together)
    async with asyncio.timeout(SOON):
        await asyncio.gather(*(stage.status.write(stage.reconciliation, stage.cr, failed("boo")) for _ in range(4)))
    assert stage.server.condition("Failure")["message"] == "boo"
    assert warnings(caplog) == []
