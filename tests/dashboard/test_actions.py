"""What may be asked for, by whom, and from where."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from unittest.mock import AsyncMock, MagicMock

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from runner.control import Priority
from runner.control.spans import Spans
from runner.dashboard import dry_runs
from runner.executor.jobs import Job, JobEvent
from runner.kube.client import ApiClient
from runner.tracer import Tracer
from tests.control.test_workqueue import SOON
from tests.dashboard.stage import KEY, Stage

CR = "/cr/example.com/v1/Thing/a/one"
BOTH = {("ann", "get", "a"), ("ann", "update", "a")}


def form_token(stage: Stage) -> str:
    browser = next(iter(stage.dashboard._logins._browsers.values()))  # type: ignore[attr-defined]
    return str(browser.form_token)


async def asked(stage: Stage, path: str = CR, token: str = "token-of-ann") -> str:
    """The ident of a dry run that is asked for."""
    answer = await stage.post(f"{path}/dry-run", token=token)
    assert answer.status == 303
    ident = re.fullmatch("/run/([0-9a-f]{16})", answer.headers["Location"])
    assert ident
    return ident[1]


def dry_run(stage: Stage, ident: str) -> dry_runs.RequestedDryRun:
    state = stage.dashboard._state
    assert state
    made = state.dry_runs.get(ident)
    assert made
    return made


async def ends(stage: Stage, ident: str) -> dry_runs.RequestedDryRun:
    """The dry run when it has ended."""
    made = dry_run(stage, ident)
    await until(lambda: made.has_ended)
    return made


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not holds():  # noqa: ASYNC110 - it goes on by itself
            await asyncio.sleep(0.01)


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


@pytest.mark.parametrize("what", ["run", "dry-run"])
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


@pytest.mark.parametrize("what", ["run", "dry-run"])
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
    for what in ("run", "dry-run"):
        assert (await seen.get(f"{CR}/{what}", token="token-of-ann")).status == 405
    assert len(seen.queue) == 0


async def test_a_dry_run_is_made_and_kept_apart(seen: Stage) -> None:
    made = await ends(seen, ident := await asked(seen))
    (job,) = seen.jobs
    assert (job.check, job.ident) == (True, ident)
    # A run of the CR may be on: the two share no files, and nothing of the dry run stays.
    assert not job.folder.is_relative_to(seen.runs.folders.root)
    assert not job.folder.exists()
    assert "Thing a/one: 0 to create" in made.run.plan
    assert made.record.cause == "asked for by ann"
    # It is no reconcile of the CR's.
    assert seen.history.of(made.record.request) == []
    assert seen.history.of_run(ident) is None


def hold_runs(stage: Stage) -> tuple[asyncio.Event, asyncio.Event]:
    """Have runs wait. The first event is set when one has begun, the second is for setting, whereupon they end."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def during(job: Job) -> AsyncGenerator[JobEvent, None]:
        begun.set()
        await go_on.wait()
        return
        yield

    stage.during = during
    return begun, go_on


async def test_a_dry_run_is_answered_at_once_and_its_page_says_how_far_it_is(seen: Stage) -> None:
    begun, go_on = hold_runs(seen)
    first, second = await asked(seen), await asked(seen)
    async with asyncio.timeout(SOON):
        await begun.wait()
    states = {ident: await state_of(seen, ident) for ident in (first, second)}
    assert states == {first: "running", second: "waiting"}
    compared = (await seen.get(f"/compare?one={first}&other={second}", token="token-of-ann")).text
    assert re.findall(r'<td><span class="state [^"]*">([^<]*)', compared) == ["running", "waiting"]
    cr = (await seen.get(CR, token="token-of-ann")).text
    assert [cr.count(f'href="/run/{ident}"') for ident in states] == [1, 1]
    go_on.set()
    for ident in states:
        await ends(seen, ident)
        assert await state_of(seen, ident) == "dry run"
    cr = (await seen.get(CR, token="token-of-ann")).text
    assert cr.count("0 to create, 0 to change, 0 to delete") == 2


async def state_of(stage: Stage, ident: str) -> str:
    """The state that a run's page shows."""
    answer = await stage.get(f"/run/{ident}", token="token-of-ann")
    (state,) = re.findall(r'<h1>.*<span class="state [^"]*">([^<]*)', answer.text)
    return str(state)


@pytest.mark.parametrize("how", ["planned", "cancelled"])
async def test_a_dry_run_is_a_trace(seen: Stage, how: str) -> None:
    exporter, begun = InMemorySpanExporter(), asyncio.Event()
    tracer = Tracer(exporter)
    state = seen.dashboard._state
    assert state
    state.dry_runs._runs.spans = Spans(tracer, "https://10.0.0.1:6443")

    async def during(job: Job) -> AsyncGenerator[JobEvent, None]:
        begun.set()
        if how == "cancelled":
            await asyncio.Event().wait()
        return
        yield

    seen.during = during
    await asked(seen)
    async with asyncio.timeout(SOON):
        await begun.wait()
        if how == "cancelled":
            state.dry_runs.close()
        await state.dry_runs.closed()
    await tracer.close()
    made = {span.name: dict(span.attributes or {}) for span in exporter.get_finished_spans()}
    (run,) = [attributes for name, attributes in made.items() if name.startswith("run ")]
    assert run["rolerunner.dry_run"] is True
    root = made["reconcile Thing"]
    assert root["rolerunner.cause"] == "asked for by ann"
    assert root["rolerunner.result"] == ("dry run" if how == "planned" else "failed")


async def test_dry_runs_are_made_one_at_a_time_of_each_namespace(seen: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_runs, "_PATIENCE", 0.1)
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
    first = await asked(seen)
    async with asyncio.timeout(SOON):
        await begun.wait()
    for mine in (CR, CR.replace("one", "two")):
        ident = await asked(seen, mine)
        assert "Another dry run is on" in (await ends(seen, ident)).record.message
        assert "Another dry run is on" in (await seen.get(f"/run/{ident}", token="token-of-ann")).text
    # A tenant whose dry runs do not end keeps nobody else from making some.
    other = await ends(seen, await asked(seen, "/cr/example.com/v1/Thing/b/other", "token-of-bob"))
    assert other.run.plan
    go_on.set()
    assert (await ends(seen, first)).run.plan
    assert len(seen.jobs) == 2


async def test_dry_runs_that_wait_are_bounded(seen: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_runs, "_MOST_ASKED", 3)
    monkeypatch.setattr(dry_runs, "_MOST_ASKED_OF_ONE", 2)
    seen.add("other", "b")
    seen.cluster.rights |= {("bob", "get", "b"), ("bob", "update", "b")}
    go_on = asyncio.Event()

    async def during(job: Job) -> AsyncGenerator[JobEvent, None]:
        await go_on.wait()
        return
        yield

    seen.during = during
    other = "/cr/example.com/v1/Thing/b/other"
    idents = [await asked(seen), await asked(seen)]
    answer = await seen.post(f"{CR}/dry-run", token="token-of-ann")
    assert (answer.status, "Other dry runs are on or wait already" in answer.text) == (409, True)
    idents.append(await asked(seen, other, "token-of-bob"))
    assert (await seen.post(f"{other}/dry-run", token="token-of-bob")).status == 409
    go_on.set()
    for ident in idents:
        assert (await ends(seen, ident)).run.plan
    await ends(seen, await asked(seen))


async def test_a_dry_run_ends_with_the_operator(seen: Stage) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def during(job: Job) -> AsyncGenerator[JobEvent, None]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        yield

    seen.during = during
    made = dry_run(seen, await asked(seen))
    async with asyncio.timeout(SOON):
        await begun.wait()
        seen.dashboard.hide()
        await ended.wait()
    await until(lambda: made.has_ended)
    assert not seen.jobs[0].folder.exists()


async def test_a_dry_run_ends_with_the_server_also_where_nothing_was_hidden(tmp_path: Path) -> None:
    """As where the operator ends by a fault."""
    begun = asyncio.Event()

    async def during(job: Job) -> AsyncGenerator[JobEvent, None]:
        begun.set()
        await asyncio.Event().wait()
        yield

    async with Stage.serving(tmp_path) as stage:
        stage.show()
        stage.cluster.rights |= BOTH
        stage.add()
        stage.during = during
        made = dry_run(stage, await asked(stage))
        async with asyncio.timeout(SOON):
            await begun.wait()
    assert made.has_ended
    assert not stage.jobs[0].folder.exists()


async def test_no_dry_run_begins_when_the_operator_is_being_stopped(seen: Stage) -> None:
    """One may have been asked for before, and wait for whether that is allowed."""

    async def before_review() -> None:
        seen.dashboard.hide()

    seen.cluster.before_review = before_review
    answer = await seen.post(f"{CR}/dry-run", token="token-of-ann")
    assert (answer.status, "The operator is being stopped" in answer.text) == (409, True)


async def test_a_dry_run_ends_with_its_time(seen: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_runs, "_LONGEST", 0.05)

    async def during(job: Job) -> AsyncGenerator[JobEvent, None]:
        await asyncio.Event().wait()
        yield

    seen.during = during
    made = await ends(seen, await asked(seen))
    assert made.record.message == "The dry run was ended, as it has taken 0.05 s."
    assert "as it has taken 0.05 s" in (await seen.get(f"/run/{made.ident}", token="token-of-ann")).text


async def test_a_timeout_of_something_else_is_no_end_of_its_time(seen: Stage, caplog: pytest.LogCaptureFixture) -> None:
    state = seen.dashboard._state
    assert state
    state.dry_runs._client = MagicMock(spec=ApiClient, get=AsyncMock(side_effect=TimeoutError("of a connection")))
    made = await ends(seen, await asked(seen))
    assert made.record.message == "A fault of the runner. The log says more."
    (record,) = caplog.records
    assert (record.msg, record.exc_info and str(record.exc_info[1])) == ("A dry run could not be made", "of a connection")


@pytest.mark.parametrize(("how", "text"), [("gone", "The CR is gone"), ("broken", "The API server did not answer")])
async def test_a_dry_run_that_comes_to_nothing_says_why(seen: Stage, how: str, text: str) -> None:
    # The answer about the right to do it is kept for a while.
    assert (await seen.get(CR, token="token-of-ann")).status == 200
    await seen.discovery.by_kind(seen.add().watch.gvk)
    seen.cluster.crs.clear()
    ident = await asked(seen)
    seen.cluster.is_broken = how == "broken"
    made = await ends(seen, ident)
    seen.cluster.is_broken = False
    answer = await seen.get(f"/run/{ident}", token="token-of-ann")
    assert (answer.status, text in answer.text, text in made.record.message) == (200, True, True)
    assert await state_of(seen, ident) == "dry run, failed"
    assert seen.jobs == []


async def test_results_are_bounded(seen: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_runs, "_MOST", 2)
    state = seen.dashboard._state
    assert state
    idents = []
    for _ in range(3):
        idents.append(await asked(seen))
        await ends(seen, idents[-1])
    assert [state.of_run(ident) is not None for ident in idents] == [False, True, True]
    seen.add("other", "b")
    seen.cluster.rights |= {("bob", "get", "b"), ("bob", "update", "b")}
    for path, token in (("/cr/example.com/v1/Thing/b/other", "token-of-bob"), (CR, "token-of-ann")):
        idents.append(await asked(seen, path, token))
        await ends(seen, idents[-1])
    # Of the namespace that has the most.
    assert [state.of_run(ident) is not None for ident in idents] == [False, False, False, True, True]


async def test_results_are_dropped_in_the_order_of_their_ends_those_without_a_plan_first(
    seen: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_runs, "_MOST", 2)
    monkeypatch.setattr(dry_runs, "_PATIENCE", 0.05)
    state = seen.dashboard._state
    assert state
    begun, go_on = hold_runs(seen)
    idents = [await asked(seen)]
    async with asyncio.timeout(SOON):
        await begun.wait()
    # These are given up, as the first one is on.
    for _ in range(2):
        idents.append(await asked(seen))
        await ends(seen, idents[-1])
    request = dry_run(seen, idents[0]).record.request
    assert [made.ident for made in state.dry_runs.of(request)] == [idents[0], idents[2], idents[1]]

    def kept() -> list[int]:
        return [number for number, ident in enumerate(idents) if state.dry_runs.get(ident)]

    go_on.set()
    await ends(seen, idents[0])
    assert kept() == [0, 2]
    for is_gone, left in ((False, [0, 3]), (True, [3, 4]), (False, [3, 5])):
        seen.add()
        if is_gone:
            seen.cluster.crs.clear()
        idents.append(await asked(seen))
        made = await ends(seen, idents[-1])
        assert (bool(made.run.plan), kept()) == (not is_gone, left)


async def test_with_devs_key_runs_may_be_asked_for(local: Stage) -> None:
    local.add()
    answer = await local.get(f"/?key={KEY}")
    (value,) = answer.cookies.values()
    cookie = value.partition(";")[0]
    assert (await local.post(f"{CR}/run", cookie=cookie)).status == 403
    token = re.findall(r'name="form_token" value="([^"]+)"', (await local.get(CR, cookie=cookie)).text)[0]
    assert (await local.post(f"{CR}/run", cookie=cookie, data={"form_token": token})).status == 303
