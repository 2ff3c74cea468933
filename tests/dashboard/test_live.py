"""Streams of changes: of what, for whom, and until when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from runner.control import Priority, Request
from runner.control.records import RunRecord
from runner.dashboard import live
from tests.control.test_workqueue import SOON
from tests.dashboard.stage import THING, Stage

CR = "/cr/example.com/v1/Thing/a/one"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_PAUSE", 0.0)


@contextlib.asynccontextmanager
async def open_stream(stage: Stage, path: str, token: str = "token-of-ann") -> AsyncIterator[aiohttp.StreamReader]:
    headers = {"Authorization": f"Bearer {token}"}
    url = f"http://{stage.address}/live"
    async with stage.session.get(url, params={"path": path}, headers=headers) as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        async with asyncio.timeout(SOON):
            assert await answer.content.readuntil(b"\n\n") == b"retry: 1000\n\n"
            yield answer.content


def run_of(stage: Stage, request: Request, ident: str) -> None:
    record = stage.history.begin(request, Priority.CHANGE, 0.0)
    stage.history.begin_run(
        record, RunRecord(ident=ident, content=THING.content.path or THING, artifacts=None, is_dry_run=False)
    )


@pytest.mark.parametrize(
    "path", ["/", "/?state=failed", CR, "/run/1", "/compare?one=1&other=2", f"/compare?one=x{CR[3:]}&other=2"]
)
async def test_a_page_is_told_of_its_crs_and_of_no_others(stage: Stage, path: str) -> None:
    stage.cluster.rights = {("ann", "list", "a"), ("ann", "get", "a")}
    mine, other, hidden = stage.add("one"), stage.add("two"), stage.add("three", "b")
    run_of(stage, mine, "1")
    run_of(stage, other, "2")
    async with open_stream(stage, path) as content:
        # Neither of them is told before the last one.
        stage.dashboard.note(hidden)
        stage.dashboard.note(Request(THING, hidden.key))
        await stage.get("/", token="token-of-ann")
        stage.dashboard.note(mine)
        assert await content.readuntil(b"\n\n") == b"data: changed\n\n"
        assert content.total_bytes == len(b"retry: 1000\n\ndata: changed\n\n")


async def test_a_change_is_told_as_soon_after_what_one_may_not_see(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a tenant could measure with changes of its own CR when there are some of others'."""
    monkeypatch.setattr(live, "_PAUSE", 3600.0)
    stage.cluster.rights = {("ann", "list", "a")}
    mine, hidden = stage.add("one"), stage.add("three", "b")
    async with open_stream(stage, "/") as content:
        stage.dashboard.note(hidden)
        # The stream has had its turn.
        await stage.get("/", token="token-of-ann")
        stage.dashboard.note(mine)
        assert await content.readuntil(b"\n\n") == b"data: changed\n\n"


@pytest.mark.parametrize(
    "path",
    [
        *("", "/x", "/login", "//evil.com/", "/cr/example.com/v1/Thing/a", "/run/", "/run/none", "/compare", "x" * 300),
        *("/cr/example.com/v1/Other/a/one", "/cr/-/v1/Thing/a/one", "/compare?" + "one=1&" * 50),
        # Of a namespace of which nothing may be seen, whether or not it is there.
        *("/run/3", "/compare?one=1&other=3", "/cr/example.com/v1/Thing/b/three", "/cr/example.com/v1/Thing/b/none"),
    ],
)
async def test_a_page_that_there_is_not_has_no_stream(stage: Stage, path: str) -> None:
    stage.cluster.rights = {("ann", "list", "a"), ("ann", "get", "a")}
    run_of(stage, stage.add("one"), "1")
    run_of(stage, stage.add("three", "b"), "3")
    headers = {"Authorization": "Bearer token-of-ann"}
    async with stage.session.get(f"http://{stage.address}/live", params={"path": path}, headers=headers) as answer:
        assert answer.status in (400, 404)


async def test_streams_are_bounded_and_give_their_places_back(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_MOST_OF_CALLER", 2)
    stage.cluster.rights = {("ann", "list", "*"), ("bob", "list", "*")}
    async with open_stream(stage, "/"), open_stream(stage, "/"):
        answer = await stage.get("/live?path=/", token="token-of-ann")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "60")
        async with open_stream(stage, "/", token="token-of-bob"):
            pass

    await until(lambda: stage.dashboard._streams._by_caller.total() == 0)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not holds():  # noqa: ASYNC110 - the server notices by itself that a client has gone
            await asyncio.sleep(0.01)


async def test_streams_end_when_the_operator_does(stage: Stage) -> None:
    stage.cluster.rights = {("ann", "list", "*")}
    async with open_stream(stage, "/") as content:
        stage.dashboard.hide()
        assert await content.read() == b""


async def test_a_silent_stream_says_that_it_is_there(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_HEARTBEAT", 0.01)
    stage.cluster.rights = {("ann", "list", "*")}
    async with open_stream(stage, "/") as content:
        assert (await content.readuntil(b"\n\n")).startswith(b":")


async def test_a_stream_has_to_be_asked_for_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever has lost a right, or a login, has no stream for long."""
    monkeypatch.setattr(live, "_LONGEST", 0.2)
    stage.cluster.rights = {("ann", "list", "*")}
    async with open_stream(stage, "/") as content:
        assert await content.read() == b""
