"""What goes through the proxy, and what it does with it on the way. The API server here is a stub on loopback."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from runner.kube.client import ApiClient
from runner.kube.discovery import Discovery, Resource
from runner.kube.informer import Informer
from runner.proxy import server
from runner.proxy.requestinfo import parse
from runner.proxy.server import ProxyServer
from runner.proxy.sessions import ApiRequest, Session, Sessions
from runner.resource.metadata import GroupVersionKind, ObjectKey, Owner
from tests.kube.test_client import served

KEPT = frozenset({"get", "list", "watch", "create"})
CONFIG_MAP = Resource(GroupVersionKind("", "v1", "ConfigMap"), "configmaps", True, KEPT)
NODE = Resource(GroupVersionKind("", "v1", "Node"), "nodes", False, KEPT)
EVENT = Resource(GroupVersionKind("", "v1", "Event"), "events", True, KEPT)
REVIEW = Resource(GroupVersionKind("authorization.k8s.io", "v1", "SelfSubjectReview"), "selfsubjectreviews", False)
OWNER = Owner(GroupVersionKind("example.com", "v1", "Thing"), ObjectKey("here", "one"), "uid-1")
CLUSTER_OWNER = Owner(GroupVersionKind("example.com", "v1", "Fleet"), ObjectKey("", "one"), "uid-1")
REFERENCE = {"apiVersion": "example.com/v1", "kind": "Thing", "name": "one", "uid": "uid-1"}
CONFIG_MAPS = "/api/v1/namespaces/here/configmaps"
APPLY = {"Content-Type": "application/apply-patch+yaml"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Known(Discovery):
    async def by_plural(self, api_version: str, plural: str) -> Resource | None:
        known = (CONFIG_MAP, NODE, EVENT, REVIEW)
        return next((some for some in known if (some.gvk.api_version, some.plural) == (api_version, plural)), None)


@dataclass
class Run:
    """A run's way to the API server: `http` has its token already."""

    http: aiohttp.ClientSession
    session: Session
    port: int
    upstream: str
    noticed: list[Resource] = field(default_factory=list)
    written: list[tuple[str, str | None, str]] = field(default_factory=list)
    informers: list[Informer] = field(default_factory=list)
    requests: list[ApiRequest] = field(default_factory=list)


@asynccontextmanager
async def proxied(
    handler: Handler,
    *,
    owner: Owner = OWNER,
    inject_owner: bool = True,
    controlled: tuple[Resource, ...] = (),
    new_traceparent: Callable[[], str] = str,
) -> AsyncIterator[Run]:
    noticed: list[Resource] = []
    informers: list[Informer] = []
    written: list[tuple[str, str | None, str]] = []
    requests: list[ApiRequest] = []
    session = Session(
        owner=owner,
        inject_owner=inject_owner,
        on_dependent=lambda resource, _: noticed.append(resource),
        on_write=lambda uid, before, version: written.append((uid, before, version)),
        on_request=requests.append,
        new_traceparent=new_traceparent,
    )
    sessions = Sessions()

    def covering(api_version: str, plural: str, namespace: str) -> Informer | None:
        return next((some for some in informers if some.resource.plural == plural), None)

    async with (
        served(handler) as client,
        ProxyServer(
            client, Known(client), sessions, covering=covering, controls=lambda resource: resource in controlled, port=0
        ) as proxy,
    ):
        with sessions.opened(session) as token:
            headers = {"Authorization": f"Bearer {token}"}
            url = f"http://127.0.0.1:{proxy.port}"
            async with aiohttp.ClientSession(url, headers=headers, auto_decompress=False) as http:
                yield Run(http, session, proxy.port, client.server, noticed, written, informers, requests)


def stored(*objects: dict[str, Any], version: str) -> Informer:
    informer = Informer(ApiClient.__new__(ApiClient), CONFIG_MAP, "", lambda before, after: None)
    informer.store = {ObjectKey.of(obj): obj for obj in objects}
    informer.version, informer.list_kind, informer.fresh = version, "ConfigMapList", True
    return informer


def config_map(name: str = "x", version: str = "5", **metadata: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "here", "resourceVersion": version, **metadata}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


class Echo:
    """Answers a write with the object that was sent, at version 5, and a GET with `existing`."""

    def __init__(self, existing: dict[str, Any] | None = None) -> None:
        self.existing = existing
        self.bodies: list[bytes] = []

    @property
    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.bodies[-1])["metadata"]
        return found

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            if self.existing is None:
                return web.json_response({"kind": "Status", "message": "not there"}, status=404)
            return web.json_response(self.existing)
        self.bodies.append(await request.read())
        try:
            obj = json.loads(self.bodies[-1])
        except ValueError:
            obj = {}
        obj.setdefault("metadata", {})["resourceVersion"] = "5"
        return web.json_response(obj, status=201)


@pytest.mark.parametrize("path", ["/version", "/api", "/apis", "/openapi/v3", "/api/v1/namespaces/here/pods/x/log"])
async def test_what_is_no_object_passes_though_stores_are_there(path: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text=request.raw_path)

    async with proxied(handler) as run:
        run.informers.append(stored(version="9"))
        async with run.http.get(path) as answer:
            assert await answer.text() == path
            assert "X-Cache" not in answer.headers


@pytest.mark.parametrize(
    "target",
    [
        "http://a:b@127.0.0.1:{port}/api",
        "http:/@127.0.0.1:{port}/api",
        "http:@127.0.0.1:{port}/api",
        # What is behind it would be looked at here, and not be sent.
        f"{CONFIG_MAPS}#?dryRun=All",
        f"{CONFIG_MAPS}/x#/status",
    ],
)
async def test_a_request_can_name_no_other_server(target: str) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.raw_path)
        return web.Response()

    async with proxied(handler) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
        authorization = run.http.headers["Authorization"]
        target = target.format(port=run.upstream.rpartition(":")[2])
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n\r\n".encode())
        status = await reader.readline()
        writer.close()
        await writer.wait_closed()
    assert int(status.split()[1]) in (400, 404)
    assert asked == []


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_token_may_be_part_of_the_url_and_goes_no_further(method: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(f"{request.raw_path} {request.headers}")
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with proxied(handler) as run, aiohttp.ClientSession() as http:
        token = run.http.headers["Authorization"].split()[1]
        url = f"http://127.0.0.1:{run.port}/run/{token}{CONFIG_MAPS}?x=%2F"
        async with http.request(method, URL(url, encoded=True), data=b"k8s", allow_redirects=False) as answer:
            said = await answer.text()
    assert all(text.startswith(f"{CONFIG_MAPS}?x=%2F") for text in seen)
    told = [str(record.__dict__) for record in caplog.records if record.name.startswith("runner")]
    assert seen
    assert told
    assert [text for text in [*seen, *told, said] if token in text] == []


async def test_a_stranger_is_told_how_to_log_in() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        raise AssertionError("nothing may come through")

    async with (
        proxied(handler) as run,
        aiohttp.ClientSession() as stranger,
        stranger.get(f"http://127.0.0.1:{run.port}{CONFIG_MAPS}") as answer,
    ):
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert (await answer.json())["kind"] == "Status"


async def spoken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *lines: str) -> tuple[int, bytes]:
    """The status and the body of the answer to a request."""
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
    return int(head.split()[1]), await reader.readexactly(length)


@pytest.mark.parametrize("by_connect", [False, True], ids=["as an HTTP proxy", "by CONNECT"])
async def test_the_token_may_be_an_http_proxys_credentials(by_connect: bool) -> None:
    """As Go's clients have it, which send no other without TLS."""
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.Response(text="an answer")

    async with proxied(handler) as run, asyncio.timeout(60):
        token = run.http.headers["Authorization"].split()[1]
        basic = base64.b64encode(f"{token}:unused".encode()).decode()
        own = f"127.0.0.1:{run.port}"
        for credentials, status in ((basic, 200), ("c3RyYW5nZXI6eA==", 401)):
            reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
            proxy = f"Proxy-Authorization: Basic {credentials}"
            if by_connect:
                connected, _ = await spoken(reader, writer, f"CONNECT {own} HTTP/1.1", f"Host: {own}", proxy)
                assert connected == 200
                # More than one request goes through a connection.
                for _ in range(2):
                    answer = await spoken(reader, writer, "GET /api?x=%2F HTTP/1.1", f"Host: {own}")
                    assert answer[0] == status
            else:
                answer = await spoken(reader, writer, f"GET http://{own}/api?x=%2F HTTP/1.1", f"Host: {own}", proxy)
                assert answer[0] == status
            writer.close()
            await writer.wait_closed()
    assert [request.raw_path for request in seen] == ["/api?x=%2F"] * (2 if by_connect else 1)
    assert not any("Proxy-Authorization" in request.headers for request in seen)


async def test_a_connections_credentials_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another of loopback's addresses may have the same port, and needs no token to come from there."""
    original, opened = asyncio.open_connection, list[int]()

    async def open_connection(*arguments: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await original(*arguments, **options)
        opened.append(writer.get_extra_info("sockname")[1])
        return reader, writer

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text="an answer")

    async with proxied(handler) as run, asyncio.timeout(60):
        own = f"127.0.0.1:{run.port}"
        reader, writer = await original("127.0.0.1", run.port)
        monkeypatch.setattr(asyncio, "open_connection", open_connection)
        proxy = f"Proxy-Authorization: {run.http.headers['Authorization']}"
        assert (await spoken(reader, writer, f"CONNECT {own} HTTP/1.1", f"Host: {own}", proxy))[0] == 200
        assert (await spoken(reader, writer, "GET /api HTTP/1.1", f"Host: {own}"))[0] == 200
        stranger = await original("127.0.0.1", run.port, local_addr=("127.0.0.2", opened[0]))
        assert (await spoken(*stranger, "GET /api HTTP/1.1", f"Host: {own}"))[0] == 401
        for end in (writer, stranger[1]):
            end.close()
            await end.wait_closed()


async def test_a_connection_is_made_to_this_server_alone() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        raise AssertionError("nothing may come through")

    async with proxied(handler) as run, asyncio.timeout(60):
        authorization = run.http.headers["Authorization"]
        for target in (run.upstream.removeprefix("http://"), f"localhost:{run.port}", "203.0.113.1:443"):
            reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
            lines = (f"CONNECT {target} HTTP/1.1", f"Host: {target}", f"Proxy-Authorization: {authorization}")
            assert (await spoken(reader, writer, *lines))[0] in (400, 404)
            writer.close()
            await writer.wait_closed()


async def test_a_body_that_is_too_large_is_said_to_be() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        raise AssertionError("nothing may come through")

    async with proxied(handler) as run, run.http.post(CONFIG_MAPS, data=io.BytesIO(bytes(17 * 1024 * 1024))) as answer:
        assert answer.status == 413


async def test_what_else_a_client_expects_is_refused() -> None:
    async with proxied(Echo().answer) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
        writer.write(b"GET /version HTTP/1.1\r\nHost: a\r\nExpect: wonders\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 417 ")
        writer.close()


async def test_no_answer_is_said_in_the_apis_own_form() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with proxied(handler) as run:
        async with run.http.post(CONFIG_MAPS, json=config_map()) as answer:
            assert (answer.status, (await answer.json())["reason"]) == (503, "ServiceUnavailable")
        # Perhaps it was written all the same.
        assert not run.session.writes.covered_at(parse(CONFIG_MAPS), "99")


@pytest.mark.parametrize("path", ["", "/x"], ids=["list", "one"])
async def test_another_users_reads_are_the_servers(path: str) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers["impersonate-group"])
        return web.json_response({"kind": "Status", "code": 403}, status=403)

    async with proxied(handler) as run:
        run.informers.append(stored(config_map(), version="9"))
        async with run.http.get(CONFIG_MAPS + path, headers={"Impersonate-Group": "nobodies"}) as answer:
            assert answer.status == 403
        async with run.http.get(CONFIG_MAPS + path) as answer:
            assert (answer.status, answer.headers["X-Cache"]) == (200, "HIT")
    assert asked == ["nobodies"]


async def test_a_store_answers_and_what_it_lacks_the_server() -> None:
    async with proxied(Echo(config_map("far", version="3")).answer) as run:
        run.informers.append(stored(config_map("x"), version="9"))
        async with run.http.get(CONFIG_MAPS + "/x") as answer:
            assert (answer.status, answer.headers["X-Cache"]) == (200, "HIT")
            assert answer.headers["Content-Type"].partition(";")[0] == "application/json"
            assert await answer.json() == config_map("x")
        async with run.http.get(CONFIG_MAPS) as answer:
            assert answer.headers["X-Cache"] == "HIT"
            assert (await answer.json())["items"] == [config_map("x")]
        async with run.http.get(CONFIG_MAPS + "/far") as answer:
            assert "X-Cache" not in answer.headers
            assert (await answer.json())["metadata"]["name"] == "far"
        for headers in ({"Upgrade": "websocket", "Connection": "Upgrade"}, {"Accept": "application/json;as=Table"}):
            async with run.http.get(CONFIG_MAPS, headers=headers) as answer:
                assert "X-Cache" not in answer.headers
        async with run.http.head(CONFIG_MAPS + "/x") as answer:
            assert "X-Cache" not in answer.headers


async def test_each_request_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(config_map(), status=200)

    async with proxied(handler) as run:
        async with run.http.get(f"{CONFIG_MAPS}/x?pretty=true") as answer:
            await answer.read()
        run.informers.append(stored(config_map(), version="9"))
        async with run.http.get(f"{CONFIG_MAPS}/x") as answer:
            await answer.read()
        async with run.http.get("/" + "x" * 5000) as answer:
            await answer.read()
        told = [(each.method, each.path, each.status, each.from_store) for each in run.requests]
        assert told[:2] == [("GET", f"{CONFIG_MAPS}/x", 200, False), ("GET", f"{CONFIG_MAPS}/x", 200, True)]
        assert len(told[2][1]) == 1000
        # One that is too large for this proxy itself.
        monkeypatch.setattr(server, "_BODY_LIMIT", 10)
        async with run.http.post(CONFIG_MAPS, data=b"x" * 100) as answer:
            assert answer.status == 413
        assert run.requests[3].status == 413
        assert all(each.seconds >= 0 and each.begun > 0 for each in run.requests)


async def test_a_request_names_its_trace_unless_the_run_has_named_one() -> None:
    echo, seen, numbers = Echo(config_map()), [], iter(range(10))

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.getall("traceparent", []))
        return await echo.answer(request)

    async with proxied(handler, new_traceparent=lambda: f"00-{next(numbers)}") as run:
        async with run.http.get(f"{CONFIG_MAPS}/x") as answer:
            await answer.read()
        async with run.http.post(CONFIG_MAPS, json=config_map()) as answer:
            await answer.read()
        async with run.http.get(CONFIG_MAPS, headers={"Traceparent": "00-own"}) as answer:
            await answer.read()
    assert seen == [["00-0"], ["00-1"], ["00-own"]]
    assert [each.traceparent for each in run.requests] == ["00-0", "00-1", "00-2"]
    async with proxied(handler) as run, run.http.get(f"{CONFIG_MAPS}/x") as answer:
        await answer.read()
    assert seen[-1] == []
