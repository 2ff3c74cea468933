"""One reconcile against an API server that fails in each way it can. With a real one: tests/behaviour."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from runner.config.watches import Finalizer, Watch
from runner.control import Result, Retry
from runner.control import reconciler as module
from runner.control.own_writes import OwnWrites
from runner.control.reconciler import Gate, Phases, Reconciler, Surroundings, Turn, gate
from runner.executor.jobs import Job, JobEvent, Outcome
from runner.executor.run_folder import RunFolders
from runner.kube.client import ApiClient, Conflict, Invalid, KubeError, NotFound, Refused, Unreachable
from runner.kube.discovery import Discovery, Resource
from runner.proxy.sessions import Sessions
from runner.resource import conditions
from runner.resource.metadata import Owner
from runner.resource.selectors import Selector, label_selector
from tests.control.test_workqueue import SOON, watch
from tests.control.test_workqueue import request as named
from tests.executor.test_jobs import event, failure, stats

PLAIN = watch("Thing")
GUARDED = replace(PLAIN, finalizer=Finalizer(name="example.com/clean"))


@pytest.mark.parametrize(
    ("guarded", "deleting", "finalizers", "expected"),
    [
        (False, False, [], Gate.RUN),
        (False, False, ["other"], Gate.RUN),
        (False, True, ["other"], Gate.STOP),
        (True, False, [], Gate.ADD_FINALIZER),
        (True, False, ["other"], Gate.ADD_FINALIZER),
        (True, False, ["example.com/clean"], Gate.RUN),
        (True, True, ["example.com/clean", "other"], Gate.FINALIZE),
        (True, True, ["other"], Gate.STOP),
    ],
)
def test_the_gate(guarded: bool, deleting: bool, finalizers: list[str], expected: Gate) -> None:
    metadata: dict[str, Any] = {"finalizers": finalizers}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert gate({"metadata": metadata}, GUARDED if guarded else PLAIN) is expected


MINE = cast(Selector, label_selector("mine=yes"))
GONE = NotFound(404, 'things.example.com "a" not found')
NO_PATH = NotFound(404, "the server could not find the requested resource")
RESOURCE = Resource(gvk=PLAIN.gvk, plural="things", namespaced=True, verbs=frozenset(), subresources=frozenset({"status"}))


class Server:
    """Holds one CR, as an API server would, and answers what a test says before that."""

    def __init__(self) -> None:
        self.obj: dict[str, Any] | None = cr()
        # By method, what is raised or done at the next requests; None: nothing.
        self.next: dict[str, list[Exception | Callable[[], None] | None]] = {}
        # Raises what the schema has against a status.
        self.schema: Callable[[Mapping[str, Any]], None] = lambda status: None
        self.writes: list[str] = []
        self.refused = 0
        self.events: list[dict[str, Any]] = []

    async def get(self, path: str, params: object = None) -> dict[str, Any]:
        self._begin("get")
        return json.loads(json.dumps(self._there()))  # type: ignore[no-any-return]

    async def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        assert path.endswith("/status")
        self._begin("put")
        self._compare(body["metadata"])
        try:
            self.schema(body["status"])
        except Invalid:
            self.refused += 1
            raise
        return self._written("status", status=body["status"])

    async def patch(self, path: str, body: Mapping[str, Any], params: object = None) -> dict[str, Any]:
        if "/events/" in path:
            return {}
        self._begin("patch")
        self._compare(body["metadata"])
        metadata = {**self._there()["metadata"], "finalizers": body["metadata"]["finalizers"]}
        return self._written("finalizers", metadata=metadata)

    async def post(self, path: str, body: Mapping[str, Any], params: object = None) -> dict[str, Any]:
        assert path.endswith("/events")
        self.events.append(dict(body))
        return dict(body)

    def touch(self, **fields: Any) -> None:
        """Somebody else writes the CR."""
        there = self._there()
        version = str(int(there["metadata"]["resourceVersion"]) + 1)
        self.obj = {**there, **fields}
        self.obj["metadata"] = {**self.obj["metadata"], "resourceVersion": version}

    def replace(self) -> None:
        """Somebody deletes the CR and makes another of its name."""
        self.obj = cr(uid="2", version=50, spec={"size": 5})

    def condition(self, kind: str) -> dict[str, Any]:
        return next((item for item in self._there().get("status", {}).get("conditions", ()) if item["type"] == kind), {})

    def _begin(self, method: str) -> None:
        for what in self.next.get(method, [])[:1]:
            self.next[method].pop(0)
            if isinstance(what, Exception):
                raise what
            if what is not None:
                what()

    def _there(self) -> dict[str, Any]:
        if self.obj is None:
            raise GONE
        return self.obj

    def _compare(self, given: Mapping[str, Any]) -> None:
        there = self._there()["metadata"]
        if given["uid"] != there["uid"] or given["resourceVersion"] != there["resourceVersion"]:
            raise Conflict(409, "the object has been modified")

    def _written(self, what: str, **fields: Any) -> dict[str, Any]:
        self.writes.append(what)
        self.touch(**fields)
        return json.loads(json.dumps(self._there()))  # type: ignore[no-any-return]


def cr(*, uid: str = "1", version: int = 1, generation: int = 1, **fields: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "a", "namespace": "default", "uid": uid}
    metadata |= {"resourceVersion": str(version), "generation": generation}
    return {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": metadata, "spec": {}, **fields}


class Known:
    """Discovery, of one kind."""

    def __init__(self) -> None:
        self.resource: Resource | None = RESOURCE

    async def by_kind(self, gvk: object) -> Resource | None:
        return self.resource

    def forget(self, gvk: object) -> None:
        pass


class Stage:
    def __init__(self, folders: RunFolders, of: Watch = PLAIN) -> None:
        self.server, self.known = Server(), Known()
        self.request = named("a", of)
        self.runs: list[Job] = []
        self.told: list[JobEvent] = [stats(ok=1)]
        # What happens during a run.
        self.during: Callable[[], None] = lambda: None
        self.forgotten: list[str | None] = []
        self.causes: list[str] = []
        self.folders = folders
        self.surroundings = Surroundings(
            client=cast(ApiClient, self.server),
            discovery=cast(Discovery, self.known),
            sessions=Sessions(),
            execute=self.execute,
            folders=self.folders,
            on_dependent=lambda *_: None,
            own_writes=OwnWrites(lambda _: None),
            forget=lambda _, uid: self.forgotten.append(uid),
            pop_waiting=lambda _: None,
            pop_cause=lambda _: self.causes.pop() if self.causes else "",
            proxy_port=1,
        )
        self.reconciler = Reconciler(self.surroundings)

    def having(self, **changes: Any) -> Stage:
        self.reconciler = Reconciler(replace(self.surroundings, **changes))
        return self

    async def execute(self, job: Job) -> AsyncGenerator[JobEvent, None]:
        self.runs.append(job)
        self.during()
        for told in self.told:
            yield told

    async def reconcile(self) -> Result | str:
        """The result, or why it is to be tried again."""
        async with asyncio.timeout(SOON):
            try:
                return await self.reconciler.reconcile(self.request)
            except Retry as retry:
                return str(retry)

    @property
    def turn(self) -> Turn:
        of = self.request.watch
        return Turn(self.request, of, RESOURCE, Owner(of.gvk, self.request.key, "1"), Phases())

    @property
    def cr(self) -> dict[str, Any]:
        assert self.server.obj is not None
        return self.server.obj


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolders]:
    monkeypatch.setattr(module, "_WRITE_PAUSE", 0.0)
    with contextlib.closing(RunFolders(tmp_path / "runs")) as made:
        yield made


@pytest.fixture
def stage(folders: RunFolders) -> Stage:
    return Stage(folders)


@pytest.fixture
def guarded(folders: RunFolders) -> Stage:
    made = Stage(folders, GUARDED)
    metadata = {**made.cr["metadata"], "finalizers": ["example.com/clean"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    made.server.obj = {**made.cr, "metadata": metadata}
    return made


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


async def test_a_run_and_its_status(stage: Stage) -> None:
    assert await stage.reconcile() == Result(requeue_after=60)
    assert stage.server.condition("Successful")["status"] == "True"
    assert stage.cr["status"]["observedGeneration"] == 1
    assert stage.server.writes == ["status"]


# The CR was deleted and another has its name.


async def test_the_outcome_of_a_cr_is_not_written_on_another_of_its_name(stage: Stage) -> None:
    stage.during = stage.server.replace
    assert await stage.reconcile() == Result()
    assert stage.server.writes == []
    assert stage.forgotten == ["1"]
    assert "status" not in stage.cr


async def test_a_finalizer_is_not_taken_off_another_cr_of_the_name(guarded: Stage) -> None:
    def another() -> None:
        guarded.server.obj = {**cr(uid="2", version=50)}
        guarded.cr["metadata"]["finalizers"] = ["example.com/clean"]

    guarded.server.next["patch"] = [another]
    assert await guarded.reconcile() == Result()
    assert guarded.cr["metadata"]["finalizers"] == ["example.com/clean"]
    assert guarded.server.writes == []


async def test_a_last_word_is_not_said_to_another_cr_of_the_name(stage: Stage) -> None:
    stage.server.replace()
    await stage.reconciler._last_word(stage.turn)
    assert stage.server.writes == []


@pytest.mark.parametrize(("uid", "written"), [("1", [conditions.FAILURE]), ("2", [])], ids=["the same", "another"])
async def test_a_mark_is_compared_with_the_uid(stage: Stage, uid: str, written: list[str]) -> None:
    before = stage.cr
    stage.server.obj = cr(uid=uid, version=2)
    marked = await stage.reconciler._mark(
        stage.turn, before, lambda status, now: conditions.mark_failed(status, "boo", None, now)
    )
    assert (marked is not None) is bool(written)
    assert [kind for kind in (conditions.FAILURE,) if stage.server.condition(kind)] == written


# Not found.


async def test_a_cr_that_is_gone_is_cleared_up(stage: Stage) -> None:
    folder = stage.folders.folder(("example.com", "v1", "Thing", "default", "a"))
    folder.mkdir(parents=True)
    stage.server.obj = None
    assert await stage.reconcile() == Result()
    assert stage.forgotten == [None]
    assert not folder.exists()


@pytest.mark.parametrize("answer", [NO_PATH, NotFound(404, "404 page not found")], ids=["api server", "proxy"])
async def test_a_path_that_is_not_found_is_no_cr_that_is_gone(stage: Stage, answer: NotFound) -> None:
    folder = stage.folders.folder(("example.com", "v1", "Thing", "default", "a"))
    folder.mkdir(parents=True)
    stage.server.next["get"] = [answer, answer]
    assert await stage.reconcile() == str(answer)
    await stage.reconciler.clear_up(stage.request)
    assert folder.exists()
    assert stage.forgotten == []


async def test_a_kind_that_is_not_served_may_come_back(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.known.resource = None
    assert await stage.reconcile() == "the API server does not serve the kind"
    stage.known.resource = RESOURCE
    assert await stage.reconcile() == Result(requeue_after=60)
    stage.known.resource = None
    monkeypatch.setattr(module, "_KIND_GONE_AFTER", 0.0)
    assert await stage.reconcile() == Result()
    assert stage.forgotten == [None]


async def test_a_cr_that_goes_during_its_run_is_cleared_up(stage: Stage) -> None:
    stage.during = lambda: setattr(stage.server, "obj", None)
    assert await stage.reconcile() == Result()
    assert stage.forgotten == ["1"]


# Selectors.


async def test_a_cr_that_its_selector_no_longer_chooses_is_not_run(stage: Stage) -> None:
    stage.request = replace(stage.request, watch=replace(PLAIN, selector=MINE))
    assert await stage.reconcile() == Result()
    assert stage.runs == []
    stage.cr["metadata"]["labels"] = {"mine": "yes"}
    assert await stage.reconcile() == Result(requeue_after=60)


# A status that cannot be written.

FAILURES = [Unreachable("away"), KubeError("429"), Refused(403, "no right")]
NAMES = ["away", "busy", "refused"]


@pytest.mark.parametrize("error", FAILURES, ids=NAMES)
async def test_a_run_that_succeeded_is_not_repeated_for_want_of_its_status(stage: Stage, error: KubeError) -> None:
    stage.server.next["put"] = [error, error]
    for _ in range(2):
        assert await stage.reconcile() == str(error)
    assert await stage.reconcile() == Result(requeue_after=60)
    assert len(stage.runs) == 1
    assert stage.server.condition("Successful")["status"] == "True"
    # The next is a run again.
    await stage.reconcile()
    assert len(stage.runs) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda stage: stage.cr["metadata"].update(generation=2),
        lambda stage: stage.cr.update(spec={"size": 2}),
        lambda stage: stage.cr["metadata"].update(annotations={"a": "b"}),
        lambda stage: stage.causes.append("a dependent changed"),
        lambda stage: stage.server.replace(),
    ],
    ids=["generation", "spec", "annotations", "dependent", "uid"],
)
async def test_a_change_is_run_though_the_last_run_is_not_written_yet(stage: Stage, change: Callable[[Stage], None]) -> None:
    stage.server.next["put"] = [Unreachable("away")]
    assert await stage.reconcile() == "away"
    change(stage)
    assert await stage.reconcile() == Result(requeue_after=60)
    assert len(stage.runs) == 2


async def test_a_change_is_run_though_the_first_reconcile_after_it_came_to_nothing(stage: Stage) -> None:
    stage.server.next = {"put": [Unreachable("away")], "get": [None, Unreachable("still away")]}
    assert await stage.reconcile() == "away"
    stage.causes = ["a dependent changed"]
    assert await stage.reconcile() == "still away"
    assert await stage.reconcile() == Result(requeue_after=60)
    assert len(stage.runs) == 2


async def test_the_period_asks_for_a_run_though_the_last_is_not_written_yet(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.server.next["put"] = [Unreachable("away")] * 2
    assert await stage.reconcile() == "away"
    assert await stage.reconcile() == "away"
    now = module.monotonic()
    monkeypatch.setattr(module, "monotonic", lambda: now + 61)
    assert await stage.reconcile() == Result(requeue_after=60)
    assert len(stage.runs) == 2


@pytest.mark.parametrize("method", ["get", "patch"])
async def test_a_finalizer_s_role_is_not_run_again_for_want_of_its_removal(guarded: Stage, method: str) -> None:
    guarded.server.next[method] = [None, Unreachable("away")] if method == "get" else [Unreachable("away")]
    assert await guarded.reconcile() == "away"
    assert await guarded.reconcile() == Result()
    assert len(guarded.runs) == 1
    assert guarded.cr["metadata"]["finalizers"] == []


async def test_a_finalizer_is_removed_though_others_write_the_cr_meanwhile(guarded: Stage) -> None:
    guarded.server.next["patch"] = [guarded.server.touch] * 3
    assert await guarded.reconcile() == Result()
    assert guarded.cr["metadata"]["finalizers"] == []


async def test_conflicts_are_tried_again_and_end(stage: Stage) -> None:
    stage.server.next["put"] = [stage.server.touch] * 3
    assert await stage.reconcile() == Result(requeue_after=60)
    stage.cr["metadata"]["generation"] = 2
    stage.server.next["put"] = [stage.server.touch] * 100
    assert "by others at the same time" in str(await stage.reconcile())


async def test_a_failed_run_is_told_and_tried_again(stage: Stage) -> None:
    stage.told = [failure("boo", task="Try"), stats(failures=1)]
    assert await stage.reconcile() == "the run failed"
    assert stage.server.condition("Failure")["message"] == "boo"
    assert [posted["message"] for posted in stage.server.events] == ["Task 'Try' failed: boo"]


@pytest.mark.parametrize("error", [*FAILURES, GONE, Conflict(409, "other")], ids=[*NAMES, "gone", "conflict"])
async def test_a_run_goes_on_though_its_beginning_cannot_be_told(stage: Stage, error: KubeError) -> None:
    stage.server.next["put"] = [error]
    async with asyncio.timeout(SOON):
        await stage.reconciler._announce(stage.turn, stage.cr)


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
    stage.told = [stats(ok=1)]
    assert await stage.reconcile() == Result(requeue_after=60)
    assert stage.server.writes == ["status"]


@pytest.mark.parametrize("error", [*FAILURES, GONE], ids=[*NAMES, "gone"])
@pytest.mark.parametrize("method", ["get", "put"])
async def test_a_last_word_that_cannot_be_said(stage: Stage, method: str, error: KubeError) -> None:
    stage.server.next[method] = [error]
    await stage.reconciler._last_word(stage.turn)
    assert stage.server.writes == []
    await stage.reconciler._last_word(stage.turn)
    assert stage.server.condition("Failure")["message"] == module.INTERRUPTED


@pytest.mark.parametrize("error", [Unreachable("away"), Refused(403, "no right")], ids=["away", "refused"])
async def test_a_conclusion_that_cannot_be_read_for(stage: Stage, error: KubeError) -> None:
    turn = stage.turn
    turn.written.add("1")
    stage.server.next["get"] = [error]
    with pytest.raises(type(error)):
        await stage.reconciler._conclude(turn, stage.cr, stage.cr, Outcome(), finalizing=False)


# What a CRD's schema says of conditions.


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
    # What it wants is learned once.
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
    assert len(stage.runs) == 3
    assert [posted["reason"] for posted in stage.server.events] == ["StatusRefused"]
    assert len(warnings(caplog)) == 1


# What a tenant's text may do.


async def test_what_is_said_of_a_cr_is_bounded(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(100):
        stage.cr["spec"] = {f"ansible_{number}_{field}": "x" for field in range(200)}
        stage.cr["metadata"]["generation"] = number
        await stage.reconcile()
    assert {len(notes) for notes in stage.reconciler._said.values()} == {1}
    assert all(isinstance(note, int) for note in stage.reconciler._said[stage.request])
    assert all(len(text) <= module._NOTE_LIMIT for text in warnings(caplog))
    assert warnings(caplog)[0].endswith("spec.ansible_0_9, …")
    assert len(stage.server.events) == 25


async def test_a_long_name_is_cut(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.cr["spec"] = {f"ansible_{'x' * 100_000}": 1}
    await stage.reconcile()
    assert [len(text) < module._NOTE_LIMIT for text in warnings(caplog)] == [True]


async def test_a_mistake_that_is_made_again_is_told_again(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    for spec in ({"vars": 1}, {"vars": 1}, {}, {"vars": 1}):
        stage.cr["spec"] = spec
        await stage.reconcile()
    assert len(warnings(caplog)) == 2


def nested(depth: int) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    for _ in range(depth):
        spec = {"a": spec}
    return spec


@pytest.mark.parametrize("depth", [150, 700])
async def test_a_cr_that_is_nested_too_deeply_is_refused(stage: Stage, depth: int, caplog: pytest.LogCaptureFixture) -> None:
    stage.cr["spec"] = nested(depth)
    assert await stage.reconcile() == Result(requeue_after=60)
    assert stage.runs == []
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
    turns = 0
    while not working.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert await working == Result(requeue_after=60)
    assert turns > 10


# What keeps a run from being made.


@pytest.mark.parametrize("place", ["folder", "executor"])
async def test_a_full_disk_is_told_by_the_status(stage: Stage, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "/runs")

    if place == "folder":
        monkeypatch.setattr(module, "_made", full)
    else:
        stage.during = full
    assert await stage.reconcile() == "the run failed"
    assert "No space left on device" in stage.server.condition("Failure")["message"]
    assert stage.server.condition("Successful")["status"] == "False"


async def test_a_run_that_takes_very_long_is_told_again_and_again(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    told = asyncio.Event()

    async def execute(job: Job) -> AsyncGenerator[JobEvent, None]:
        yield event("playbook_on_task_start", task="Wait for it")
        await told.wait()
        yield stats(ok=1)

    stage.having(execute=execute, long_run=0.01)
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
    stage.causes = ["ConfigMap default/x changed"]
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
    monkeypatch.setattr(module, "_PRINTED_KEPT", 3)
    stage.told = [*(event("verbose", stdout=f"line {number}") for number in range(100)), stats(ok=1)]
    stage.having(debug_logs=True)
    with caplog.at_level(logging.INFO):
        await stage.reconcile()
    said = [record.__dict__["output"] for record in caplog.records if record.getMessage() == "Ansible's output"]
    assert said == ["line 97\nline 98\nline 99"]


@pytest.mark.parametrize("left", ["nothing", "a file", "a tree", "fewer", "large", "not begun"])
async def test_a_runs_own_folder_goes_with_it_whatever_it_has_left_there(left: str, tmp_path: Path) -> None:
    async with module._run_folder(tmp_path / "running") as private:
        if left != "not begun":
            (private / "kubeconfig").write_text("{}")
            (private / "kubeconfig-python").write_text("{}")
            (private / "tmp").mkdir()
        match left:
            case "a file":
                (private / "tmp" / "file").write_text("a")
            case "a tree":
                (private / "cache" / "deep").mkdir(parents=True)
            case "fewer":
                (private / "kubeconfig").unlink()
            case "large":
                (private / "kubeconfig").write_text("a" * 1024**2)
    assert list((tmp_path / "running").iterdir()) == []
