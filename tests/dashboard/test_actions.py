"""What may be asked for, by whom, and from where."""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from runner.control import Priority
from runner.control.spans import Spans
from runner.dashboard import plans
from runner.executor.jobs import Job, JobEvent
from runner.tracer import Tracer
from tests.control.test_workqueue import SOON
from tests.dashboard.stage import KEY, Stage

CR = "/cr/example.com/v1/Thing/a/one"
BOTH = {("ann", "get", "a"), ("ann", "update", "a")}


def form_token(stage: Stage) -> str:
    browser = next(iter(stage.dashboard._logins._browsers.values()))  # type: ignore[attr-defined]
    return str(browser.form_token)


@pytest.fixture
async def seen(stage: Stage) -> Stage:
    """A CR that has been reconciled."""
    stage.cluster.rights |= BOTH
    request = stage.add()
    assert await stage.queue.get() == request
    stage.queue.done(request)
    stage.handlers.pop_cause(request)
    return stage


async def test_a_run_that_is_asked_for_is_queued_with_its_cause(seen: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert len(seen.queue) == 0
    answer = await seen.post(f"{CR}/run", token="token-of-ann")
    assert (answer.status, answer.headers["Location"]) == (303, CR)
    request = await seen.queue.get()
    assert (request.key.name, seen.queue.begun(request)[0]) == ("one", Priority.CHANGE)
    assert seen.handlers.pop_cause(request) == "asked for by ann"
    assert [record.__dict__["user"] for record in caplog.records if record.msg == "A run was asked for"] == ["ann"]


async def test_a_users_name_makes_no_line_of_the_log(seen: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    name = "eve\n12:00:00 INFO    All is well\x1b[2K\u202e"
    seen.cluster.tokens["token-of-eve"] = name
    seen.cluster.rights |= {(name, "get", "a"), (name, "update", "a")}
    assert (await seen.post(f"{CR}/run", token="token-of-eve")).status == 303
    shown = "eve 12:00:00 INFO All is well\\u001b[2K\\u202e"
    assert [record.__dict__["user"] for record in caplog.records if record.msg == "A run was asked for"] == [shown]
    assert seen.handlers.pop_cause(await seen.queue.get()) == f"asked for by {shown}"


@pytest.mark.parametrize("what", ["run", "plan"])
@pytest.mark.parametrize(
    ("rights", "path", "status"),
    [
        ({("ann", "get", "a")}, CR, 403),
        ({("ann", "update", "a")}, CR, 404),
        ({("ann", "get", "b"), ("ann", "update", "b")}, CR, 404),
        (BOTH, "/cr/example.com/v1/Thing/a/none", 404),
        (BOTH, "/cr/example.com/v1/Other/a/one", 404),
        (BOTH, "/cr/example.com/v1/Thing/a/..%2fone", 404),
        (BOTH, "/cr/example.com/v1/Thing/-/one", 404),
        ({("bob", "get", "*"), ("bob", "update", "*")}, CR, 404),
        (set(), CR, 404),
    ],
)
async def test_who_may_not_gets_nothing(
    seen: Stage, what: str, rights: set[tuple[str, str, str]], path: str, status: int
) -> None:
    seen.cluster.rights = rights
    answer = await seen.post(f"{path}/{what}", token="token-of-ann")
    assert answer.status == status
    assert len(seen.queue) == 0
    assert seen.jobs == []


@pytest.mark.parametrize("what", ["run", "plan"])
async def test_a_browser_has_to_send_its_own_form(seen: Stage, what: str) -> None:
    cookie = await seen.log_in("token-of-ann")
    token = form_token(seen)
    here = f"http://{seen.address}"
    for headers, form in (
        ({}, {}),
        ({}, {"form_token": ""}),
        ({}, {"form_token": "é"}),
        ({}, {"form_token": token[:-1]}),
        ({"Origin": "https://evil.com"}, {"form_token": token}),
        ({"Origin": here.replace("http:", "https:")}, {"form_token": token}),
        ({"Origin": "null"}, {"form_token": token}),
        ({"Sec-Fetch-Site": "same-site"}, {"form_token": token}),
    ):
        answer = await seen.post(f"{CR}/{what}", cookie=cookie, headers=headers, data=form)
        assert answer.status == 403, (headers, form)
    assert len(seen.queue) == 0
    assert seen.jobs == []
    headers = {"Origin": here, "Sec-Fetch-Site": "same-origin"}
    answer = await seen.post(f"{CR}/{what}", cookie=cookie, headers=headers, data={"form_token": token})
    assert answer.status == 303


async def test_an_address_alone_asks_for_nothing(seen: Stage) -> None:
    for what in ("run", "plan"):
        assert (await seen.get(f"{CR}/{what}", token="token-of-ann")).status == 405
    assert len(seen.queue) == 0


async def test_a_dry_run_is_made_and_kept_apart(seen: Stage) -> None:
    answer = await seen.post(f"{CR}/plan", token="token-of-ann")
    assert answer.status == 303
    ident = re.fullmatch("/run/([0-9a-f]{16})", answer.headers["Location"])
    assert ident
    (job,) = seen.jobs
    assert job.check
    # A run of the CR may be on: the two share no files, and nothing of the dry run stays.
    assert not job.folder.is_relative_to(seen.runs.folders.root)
    assert not job.folder.exists()
    state = seen.dashboard._state
    assert state
    record = state.of_run(ident[1])
    assert record
    assert record.run
    assert "Thing a/one: 0 to create" in record.run.plan
    assert record.cause == "asked for by ann"
    # It is no reconcile of the CR's.
    assert seen.history.of(record.request) == []
    assert seen.history.of_run(ident[1]) is None


@pytest.mark.parametrize("how", ["planned", "cancelled"])
async def test_a_dry_run_is_a_trace(seen: Stage, how: str) -> None:
    exporter, begun = InMemorySpanExporter(), asyncio.Event()
    tracer = Tracer(exporter)
    state = seen.dashboard._state
    assert state
    state.plans._runs.spans = Spans(tracer, "https://10.0.0.1:6443")

    async def during(job: Job) -> AsyncGenerator[JobEvent, None]:
        begun.set()
        if how == "cancelled":
            await asyncio.Event().wait()
        return
        yield

    seen.during = during
    asking = asyncio.create_task(seen.post(f"{CR}/plan", token="token-of-ann"))
    async with asyncio.timeout(SOON):
        await begun.wait()
        if how == "cancelled":
            state.plans.close()
            with contextlib.suppress(aiohttp.ServerDisconnectedError):
                await asking
        else:
            assert (await asking).status == 303
    await tracer.close()
    made = {span.name: dict(span.attributes or {}) for span in exporter.get_finished_spans()}
    (run,) = [attributes for name, attributes in made.items() if name.startswith("run ")]
    assert run["rolerunner.dry_run"] is True
    root = made["reconcile Thing"]
    assert root["rolerunner.cause"] == "asked for by ann"
    assert root["rolerunner.result"] == ("dry run" if how == "planned" else "failed")


async def test_dry_runs_are_made_one_at_a_time_of_each_namespace(seen: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_PATIENCE", 0.1)
    seen.add("two")
    seen.add("other", "b")
    seen.cluster.rights |= {("bob", "get", "b"), ("bob", "update", "b")}
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def during(job: Job) -> AsyncGenerator[JobEvent, None]:
        begun.set()
        if "b" not in job.names:
            await go_on.wait()
        return
        yield

    seen.during = during
    first = asyncio.create_task(seen.post(f"{CR}/plan", token="token-of-ann"))
    async with asyncio.timeout(SOON):
        await begun.wait()
        for mine in (CR, CR.replace("one", "two")):
            second = await seen.post(f"{mine}/plan", token="token-of-ann")
            assert (second.status, "Another dry run is on" in second.text) == (409, True)
        # A tenant whose dry runs do not end keeps nobody else from making some.
        assert (await seen.post("/cr/example.com/v1/Thing/b/other/plan", token="token-of-bob")).status == 303
        go_on.set()
        assert (await first).status == 303
    assert len(seen.jobs) == 2


@pytest.mark.parametrize("how", ["client", "operator"])
async def test_a_dry_run_that_nobody_waits_for_is_ended(seen: Stage, how: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def during(job: Job) -> AsyncGenerator[JobEvent, None]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        yield

    seen.during = during
    asking = asyncio.create_task(seen.post(f"{CR}/plan", token="token-of-ann"))
    async with asyncio.timeout(SOON):
        await begun.wait()
        if how == "client":
            asking.cancel()
        else:
            seen.dashboard.hide()
        await ended.wait()
        with contextlib.suppress(asyncio.CancelledError, OSError, Exception):
            await asking
        seen.during = None
        seen.show()
        # The next one has its turn when the folder of the last one is gone.
        assert (await seen.post(f"{CR}/plan", token="token-of-ann")).status == 303
    if how == "client":
        assert not seen.jobs[0].folder.exists()


async def test_a_dry_run_of_what_is_gone_says_so(seen: Stage) -> None:
    seen.cluster.crs.clear()
    # Of a test before this one there may be some that are just being removed.
    before = set(Path(tempfile.gettempdir()).glob("rolerunner-plan-*"))
    answer = await seen.post(f"{CR}/plan", token="token-of-ann")
    assert (answer.status, "The CR is gone" in answer.text) == (409, True)
    assert set(Path(tempfile.gettempdir()).glob("rolerunner-plan-*")) <= before


async def test_results_are_bounded(seen: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_MOST", 2)
    idents = [(await seen.post(f"{CR}/plan", token="token-of-ann")).headers["Location"].split("/")[-1] for _ in range(3)]
    state = seen.dashboard._state
    assert state
    assert [state.of_run(ident) is not None for ident in idents] == [False, True, True]
    seen.add("other", "b")
    seen.cluster.rights |= {("bob", "get", "b"), ("bob", "update", "b")}
    answer = await seen.post("/cr/example.com/v1/Thing/b/other/plan", token="token-of-bob")
    idents.append(answer.headers["Location"].split("/")[-1])
    idents.append((await seen.post(f"{CR}/plan", token="token-of-ann")).headers["Location"].split("/")[-1])
    # Of the namespace that has the most.
    assert [state.of_run(ident) is not None for ident in idents] == [False, False, False, True, True]


async def test_with_devs_key_runs_may_be_asked_for(local: Stage) -> None:
    local.add()
    answer = await local.get(f"/?key={KEY}")
    (value,) = answer.cookies.values()
    cookie = value.partition(";")[0]
    assert (await local.post(f"{CR}/run", cookie=cookie)).status == 403
    token = re.findall(r'name="form_token" value="([^"]+)"', (await local.get(CR, cookie=cookie)).text)[0]
    assert (await local.post(f"{CR}/run", cookie=cookie, data={"form_token": token})).status == 303
