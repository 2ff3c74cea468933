"""Requests that are passed on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from bench.driver import until
from runner.proxy import forward
from runner.proxy.requestinfo import parse
from tests.proxy.test_server import CONFIG_MAPS, OWNER, REFERENCE, config_map, proxied, stored


async def test_all_of_a_request_and_its_answer_goes_through_but_credentials() -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        await request.read()
        answer = web.Response(status=422, reason="Quite Wrong", body=b'{"kind": "Status",\n "code":422}')
        answer.headers["Content-Type"] = "application/json; odd=yes"
        answer.headers.add("Warning", '299 - "old"')
        answer.headers.add("Warning", '299 - "older"')
        answer.headers["Retry-After"] = "7"
        return answer

    async with proxied(handler) as run:
        headers = {
            "Impersonate-User": "admin",
            "X-Own": "1",
            "Content-Type": "application/merge-patch+json",
            "Expect": "100-continue",
        }
        path = CONFIG_MAPS + "/a%3Ab?fieldManager=me&x=%2F"
        async with run.http.patch(URL(path, encoded=True), data=b'{"a": 1}', headers=headers) as answer:
            body = await answer.read()
        async with run.http.head(CONFIG_MAPS) as head:
            assert (head.status, await head.read()) == (422, b"")
    request = seen[0]
    assert (request.method, request.raw_path, await request.read()) == ("PATCH", path, b'{"a": 1}')
    assert request.headers["X-Own"] == "1"
    # Whether the runner may be somebody else is for the API server to say.
    assert request.headers["Impersonate-User"] == "admin"
    assert not {"Authorization", "Expect"} & request.headers.keys()
    assert (answer.status, answer.reason, body) == (422, "Quite Wrong", b'{"kind": "Status",\n "code":422}')
    assert answer.headers["Content-Type"] == "application/json; odd=yes"
    assert answer.headers.getall("Warning") == ['299 - "old"', '299 - "older"']
    assert answer.headers["Retry-After"] == "7"
    assert seen[1].method == "HEAD"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (CONFIG_MAPS, {}),
        (CONFIG_MAPS, {"watch": "true"}),
        (CONFIG_MAPS + "/x", {"watch": "true"}),
        ("/api/v1/watch/configmaps", {}),
        ("/api/v1/namespaces/here/pods/x/log", {"follow": "true"}),
    ],
    ids=["list", "watch", "watch of one", "watch the old way", "log"],
)
async def test_the_first_bytes_come_before_the_last_are_sent(path: str, query: dict[str, str]) -> None:
    go_on = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        await answer.write(b"first")
        await go_on.wait()
        await answer.write(b"last")
        return answer

    async with proxied(handler) as run, run.http.get(path, params=query) as answer:
        assert await answer.content.readexactly(5) == b"first"
        go_on.set()
        assert await answer.content.read() == b"last"


async def test_a_slow_reader_holds_the_server_back() -> None:
    """A list of 100 MB is not gathered in memory."""
    sent = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        for _ in range(100):
            await answer.write(b"x" * 1024 * 1024)
            sent += 1
        return answer

    async with proxied(handler) as run, run.http.get(CONFIG_MAPS) as answer:
        before = -1
        # Everything on the way fills up, and then no more is sent until some is read.
        while sent != before:
            before = sent
            for _ in range(50):
                await asyncio.sleep(0.01)
        assert sent < 50
        received = 0
        async for chunk in answer.content.iter_any():
            received += len(chunk)
        assert received == 100 * 1024 * 1024


async def test_a_watch_ends_when_the_run_leaves_it(caplog: pytest.LogCaptureFixture) -> None:
    watching: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"{}\n")
        watching.append(request)
        await until(left, "the proxy leaves", patience=60)
        return answer

    async def left() -> bool:
        return watching[0].transport is None or watching[0].transport.is_closing()

    async with proxied(handler) as run:
        async with run.http.get(CONFIG_MAPS, params={"watch": "1"}) as answer:
            await answer.content.readline()
            answer.close()
        await until(left, "the watch upstream has ended", patience=60)
    # Nothing is wrong with that.
    assert [record.msg for record in caplog.records if record.name.startswith("runner")] == []


async def test_an_answer_that_breaks_off_breaks_off() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "1000"})
        await answer.prepare(request)
        await answer.write(b"first")
        assert request.transport is not None
        request.transport.close()
        return answer

    async with proxied(handler) as run, run.http.get(CONFIG_MAPS) as answer:
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


@pytest.mark.parametrize("begun", [False, True], ids=["no answer", "half an answer"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", CONFIG_MAPS),
        ("GET", CONFIG_MAPS + "/x"),
        ("GET", CONFIG_MAPS + "/x?watch=false"),
        ("GET", "/api/v1/namespaces/here/pods/x/log"),
        ("GET", "/version"),
        ("POST", CONFIG_MAPS),
        ("PATCH", CONFIG_MAPS + "/x"),
        ("DELETE", CONFIG_MAPS + "/x"),
        ("DELETE", CONFIG_MAPS),
        ("POST", "/api/v1/namespaces/here/pods/x/eviction"),
    ],
)
async def test_a_server_that_falls_silent_is_not_waited_for_without_end(
    method: str, path: str, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "_TIMEOUT", aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=0.2))
    over = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
        if begun:
            await answer.prepare(request)
            await answer.write(b"{")
        await over.wait()
        return answer

    async with proxied(handler) as run, asyncio.timeout(60):
        try:
            async with run.http.request(method, path, json=None if method == "GET" else {}) as answer:
                status, body = answer.status, await answer.read()
            assert (status, json.loads(body)["reason"]) == (504, "Timeout")
        except aiohttp.ClientPayloadError:
            # What has been passed on already breaks off.
            assert begun
        if method != "GET":
            # Perhaps it was written all the same.
            written = "/api/v1/namespaces/here/pods" if "pods" in path else CONFIG_MAPS
            assert not run.session.writes.covered_at(parse(written), "99")
        over.set()


@pytest.mark.parametrize(
    "path",
    [
        CONFIG_MAPS + "?watch=true",
        CONFIG_MAPS + "/x?watch",
        "/api/v1/watch/configmaps",
        "/apis/apps/v1/watch/deployments",
        "/api/v1/namespaces/here/pods/x/log?follow=1",
        "/api/v1/namespaces/here/pods/x/proxy/some/where",
    ],
)
async def test_what_is_followed_may_be_silent(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "_TIMEOUT", aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=0.05))

    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await asyncio.sleep(0.3)
        await answer.prepare(request)
        await answer.write(b"first")
        await asyncio.sleep(0.3)
        await answer.write(b"last")
        return answer

    async with proxied(handler) as run, run.http.get(URL(path, encoded=True)) as answer:
        assert await answer.read() == b"firstlast"


async def test_a_write_is_sent_with_the_version_that_is_known() -> None:
    """To what a watch tells of: whose the next version is has to be certain."""
    sent: list[dict[str, Any]] = []
    version = "5"

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal version
        if request.method == "GET":
            return web.json_response(config_map(version=version, uid="u"))
        sent.append((await request.json()).get("metadata", {}))
        if sent[-1].get("resourceVersion", version) != version:
            return web.json_response({"kind": "Status", "code": 409}, status=409)
        version = str(int(version) + 1)
        return web.json_response(config_map(version=version, uid="u"))

    async with proxied(handler) as run:
        headers = {"Content-Type": "application/merge-patch+json"}
        await run.http.patch(CONFIG_MAPS + "/x", json={}, headers=headers)
        run.informers.append(stored(version="1"))
        await run.http.patch(CONFIG_MAPS + "/x", json={}, headers=headers)
        version = "20"
        async with run.http.patch(CONFIG_MAPS + "/x", json={}, headers=headers) as answer:
            assert answer.status == 200
        assert run.written == [("u", None, "6"), ("u", "6", "7"), ("u", "20", "21")]
    # Nobody tells of what is not watched: that goes through as it came.
    assert sent == [{}, {"resourceVersion": "6"}, {"resourceVersion": "7"}, {"resourceVersion": "20"}]


async def test_a_write_that_changes_nothing_looks_like_it_to_a_run_that_has_read_from_a_store() -> None:
    """Stores keep no managedFields, and kubernetes.core takes any difference to what it has read for a change."""
    full = config_map(version="5", uid="u", managedFields=[{"manager": "rolerunner"}])

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(full)

    async with proxied(handler) as run:

        async def read_and_written() -> tuple[Any, Any]:
            async with run.http.get(CONFIG_MAPS + "/x") as answer:
                read = await answer.json()
            headers = {"Content-Type": "application/merge-patch+json"}
            async with run.http.patch(CONFIG_MAPS + "/x", json={}, headers=headers) as answer:
                return read, await answer.json()

        assert await read_and_written() == (full, full)
        slim = config_map(version="5", uid="u")
        run.informers.append(stored(slim, version="9"))
        assert await read_and_written() == (slim, slim)
        run.informers.clear()
        assert await read_and_written() == (full, full)


async def test_a_body_that_is_nested_deeply_passes_as_it_is() -> None:
    deep = b"[" * 100_000
    seen: list[bytes] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(await request.read())
        return web.Response(
            status=200 if request.method == "GET" else 400, body=deep + OWNER.uid.encode(), content_type="application/json"
        )

    async with proxied(handler) as run:
        async with run.http.post(CONFIG_MAPS, data=deep, headers={"Content-Type": "application/json"}) as answer:
            assert answer.status == 400
        async with run.http.get(CONFIG_MAPS + "/x") as answer:
            assert (await answer.read()).startswith(deep)
    assert seen[0] == deep


@pytest.mark.parametrize(
    ("method", "path", "answer", "written"),
    [
        pytest.param("PUT", "/x", config_map(uid="u", version="6"), [("u", "5", "6")], id="changed"),
        pytest.param("PATCH", "/x", config_map(uid="u", version="5"), [], id="as-it-was"),
        pytest.param("PATCH", "/x/scale", config_map(uid="u", version="6"), [("u", "5", "6")], id="a-part"),
        pytest.param("DELETE", "/x", {"kind": "Status", "details": {"uid": "u"}}, [("u", "5", "")], id="deleted"),
        pytest.param(
            "DELETE", "/x", config_map(uid="u", version="6"), [("u", "5", ""), ("u", "5", "6")], id="on-its-way-out"
        ),
        pytest.param("DELETE", "/x", config_map(uid="u", version="5"), [("u", "5", "")], id="was-on-its-way-out"),
        pytest.param("DELETE", "", {"kind": "Status"}, [], id="collection"),
        pytest.param("PUT", "/x?dryRun=All", config_map(uid="u", version="6"), [], id="trial"),
    ],
)
@pytest.mark.parametrize("read", [True, False], ids=["read", "not read"])
async def test_what_a_run_wrote_is_told(
    method: str, path: str, answer: dict[str, Any], written: list[tuple[str, str, str]], read: bool
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        mine = config_map(uid="u", ownerReferences=[REFERENCE])
        return web.json_response(mine if request.method == "GET" else answer)

    async with proxied(handler) as run:
        # A watch is there, and its store is behind.
        run.informers.append(stored(version="1"))
        if read:
            async with run.http.get(f"{CONFIG_MAPS}/x") as response:
                assert response.status == 200
        async with run.http.request(method, CONFIG_MAPS + path, json={}) as response:
            assert await response.json() == answer
        assert run.written == written


async def test_a_deletion_for_trial_is_no_write_of_the_runs() -> None:
    """Else the object's real deletion by somebody else would be taken for it."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(config_map(uid="u"))

    async with proxied(handler) as run:
        run.informers.append(stored(version="1"))
        options = {"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "dryRun": ["All"]}
        async with run.http.delete(CONFIG_MAPS + "/x", json=options) as response:
            assert response.status == 200
        assert run.written == []


# Each write, what the server answers, and from which version of the store on it may be read again.
WRITES: list[tuple[str, str, int, dict[str, Any] | None, int | None]] = [
    ("POST", CONFIG_MAPS, 201, config_map(version="12"), 12),
    ("PUT", CONFIG_MAPS + "/x", 200, config_map(version="12"), 12),
    ("PATCH", CONFIG_MAPS + "/x", 200, config_map(version="12"), 12),
    ("PATCH", CONFIG_MAPS + "/x", 200, config_map(version="4"), 10),
    ("PATCH", CONFIG_MAPS + "/x/scale", 200, {"kind": "Scale", "metadata": {"name": "x", "resourceVersion": "12"}}, 12),
    ("PATCH", CONFIG_MAPS + "/x", 200, config_map(version="12", deletionTimestamp="2030-01-01T00:00:00Z"), None),
    ("PATCH", CONFIG_MAPS + "/x", 200, None, None),
    ("POST", CONFIG_MAPS + "/x/eviction", 201, {"kind": "Status", "metadata": {}, "status": "Success"}, None),
    ("DELETE", CONFIG_MAPS + "/x", 200, {"kind": "Status", "metadata": {}, "status": "Success"}, None),
    ("DELETE", CONFIG_MAPS + "/x", 200, config_map(version="12"), None),
    ("DELETE", CONFIG_MAPS, 200, {"kind": "ConfigMapList", "metadata": {"resourceVersion": "12"}, "items": []}, None),
    ("POST", CONFIG_MAPS, 409, {"kind": "Status", "metadata": {}, "code": 409}, 10),
    ("POST", CONFIG_MAPS, 504, {"kind": "Status", "metadata": {}, "code": 504}, None),
    ("POST", CONFIG_MAPS + "/x/proxy/some/where", 200, {"metadata": {}}, 10),
    ("POST", CONFIG_MAPS + "?dryRun=All", 201, config_map(), 10),
    ("POST", "/api/v1/namespaces/there/configmaps", 201, config_map(version="12"), 10),
    ("DELETE", "/api/v1/namespaces/here/secrets/x", 200, {"kind": "Status", "metadata": {}}, 10),
]


@pytest.mark.parametrize(
    ("method", "path", "status", "answer", "read_from"), WRITES, ids=[f"{row[0]} {row[1][8:]} {row[2]}" for row in WRITES]
)
async def test_a_run_sees_what_it_wrote(
    method: str, path: str, status: int, answer: dict[str, Any] | None, read_from: int | None
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"kind": "Status"}, status=404)
        if answer is None:
            return web.Response(body=b"k8s\x00", content_type="application/vnd.kubernetes.protobuf")
        return web.json_response(answer, status=status)

    async with proxied(handler) as run:
        informer = stored(config_map(), version="10")
        run.informers.append(informer)

        async def hits(version: int) -> bool:
            informer.version = str(version)
            async with run.http.get(CONFIG_MAPS + "/x") as got:
                return "X-Cache" in got.headers

        assert await hits(10)
        async with run.http.request(method, path, json={"metadata": {}}) as wrote:
            assert wrote.status == status
            await wrote.read()
        seen = [version for version in range(10, 15) if await hits(version)]
        assert seen == (list(range(read_from, 15)) if read_from else [])
