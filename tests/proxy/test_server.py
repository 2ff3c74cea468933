"""What goes through the proxy, and what it does with it on the way. The API server here is a stub on loopback."""

from __future__ import annotations

import asyncio
import base64
import gzip
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

from bench.driver import until
from runner.kube.client import ApiClient
from runner.kube.discovery import Discovery, Resource
from runner.kube.informer import Informer
from runner.proxy import forward
from runner.proxy.requestinfo import parse
from runner.proxy.server import ProxyServer
from runner.proxy.sessions import Session, Sessions
from runner.resource.metadata import PRIMARY_RESOURCE, PRIMARY_RESOURCE_TYPE, GroupVersionKind, ObjectKey, Owner
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


@asynccontextmanager
async def proxied(handler: Handler, *, owner: Owner = OWNER, inject_owner: bool = True) -> AsyncIterator[Run]:
    noticed: list[Resource] = []
    informers: list[Informer] = []
    written: list[tuple[str, str | None, str]] = []
    session = Session(
        owner=owner,
        inject_owner=inject_owner,
        on_dependent=lambda resource, _: noticed.append(resource),
        on_write=lambda uid, before, version: written.append((uid, before, version)),
    )
    sessions = Sessions()

    def covering(api_version: str, plural: str, namespace: str) -> Informer | None:
        return next((some for some in informers if some.resource.plural == plural), None)

    async with (
        served(handler) as client,
        ProxyServer(client, Known(client), sessions, covering=covering, port=0) as proxy,
    ):
        with sessions.opened(session) as token:
            headers = {"Authorization": f"Bearer {token}"}
            url = f"http://127.0.0.1:{proxy.port}"
            async with aiohttp.ClientSession(url, headers=headers, auto_decompress=False) as http:
                yield Run(http, session, proxy.port, client.server, noticed, written, informers)


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


@pytest.mark.parametrize(
    ("owner", "path", "reference"),
    [
        (OWNER, CONFIG_MAPS, True),
        (OWNER, "/api/v1/namespaces/there/configmaps", False),
        (OWNER, "/api/v1/nodes", False),
        (CLUSTER_OWNER, CONFIG_MAPS, True),
        (CLUSTER_OWNER, "/api/v1/nodes", True),
    ],
)
async def test_what_is_created_gets_its_owner(owner: Owner, path: str, reference: bool) -> None:
    echo = Echo()
    async with proxied(echo.answer, owner=owner) as run:
        kind = "Node" if "nodes" in path else "ConfigMap"
        async with run.http.post(path, json={"kind": kind, "metadata": {"generateName": "x-"}}) as answer:
            assert answer.status == 201
        assert run.noticed == [NODE if "nodes" in path else CONFIG_MAP]
    if reference:
        assert echo.metadata["ownerReferences"] == [owner.reference()]
        assert "annotations" not in echo.metadata
    else:
        assert "ownerReferences" not in echo.metadata
        assert echo.metadata["annotations"] == {
            PRIMARY_RESOURCE: "here/one",
            PRIMARY_RESOURCE_TYPE: "Thing.example.com",
        }
    assert echo.metadata["generateName"] == "x-"


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        (CONFIG_MAPS + "/x/anything", b'{"metadata": {}}', "application/json"),
        ("/apis/authorization.k8s.io/v1/selfsubjectreviews", b'{"metadata": {}}', "application/json"),
        ("/apis/example.com/v1/unknowns", b'{"metadata": {}}', "application/json"),
        (CONFIG_MAPS, b"k8s\x00\n\x0b", "application/vnd.kubernetes.protobuf"),
        (CONFIG_MAPS, gzip.compress(b'{"metadata": {}}'), "application/json"),
        (CONFIG_MAPS, b"kind: ConfigMap\n", "application/yaml"),
        (CONFIG_MAPS, b"[]", "application/json"),
        (CONFIG_MAPS, b'{"metadata": 1}', "application/json"),
        (CONFIG_MAPS, b'{"metadata": {"annotations": "oops"}}', "application/json"),
        (CONFIG_MAPS, b'{"metadata": {"ownerReferences": ["oops"]}}', "application/json"),
        (CONFIG_MAPS, b"{", "application/json"),
    ],
    ids=[
        "subresource",
        "review",
        "unknown kind",
        "protobuf",
        "gzip",
        "yaml",
        "array",
        "odd metadata",
        "odd annotations",
        "odd references",
        "cut off",
    ],
)
async def test_what_gets_no_owner_passes_as_it_is(path: str, body: bytes, kind: str) -> None:
    seen: list[bytes] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(await request.read())
        return web.json_response({"kind": "Status", "code": 400}, status=400)

    async with proxied(handler) as run:
        headers = {"Content-Type": kind, "Content-Encoding": "gzip" if body[:2] == b"\x1f\x8b" else "identity"}
        async with run.http.post(path, data=body, headers=headers) as answer:
            assert answer.status == 400
    assert seen == [body]


async def test_without_injection_nothing_is_added_but_what_is_owned_is_noticed() -> None:
    echo = Echo()
    async with proxied(echo.answer, inject_owner=False) as run:
        await run.http.post(CONFIG_MAPS, json=config_map())
        assert "ownerReferences" not in echo.metadata
        assert run.noticed == []
        await run.http.post(CONFIG_MAPS, json=config_map(ownerReferences=[REFERENCE]))
        assert run.noticed == [CONFIG_MAP]


@pytest.mark.parametrize(
    ("existing", "owned"),
    [
        (None, True),
        (config_map(), False),
        (config_map(ownerReferences=[{**REFERENCE, "uid": "another"}]), False),
        # What an applier no longer names is taken from what it applied before.
        (config_map(ownerReferences=[REFERENCE]), True),
    ],
    ids=["not there", "nobody's", "another's", "ours"],
)
@pytest.mark.parametrize("in_store", [True, False], ids=["stored", "not stored"])
async def test_a_server_side_apply_makes_no_strange_object_ones_own(
    existing: dict[str, Any] | None, owned: bool, in_store: bool
) -> None:
    echo = Echo(existing)
    async with proxied(echo.answer) as run:
        if in_store and existing:
            run.informers.append(stored(existing, version="5"))
        await run.http.patch(CONFIG_MAPS + "/x?fieldManager=me", data=json.dumps({"metadata": {"name": "x"}}), headers=APPLY)
        assert run.noticed == ([CONFIG_MAP] if owned else [])
    assert echo.metadata.get("ownerReferences") == ([REFERENCE] if owned else None)


class Kept:
    """One object, which may be there already. A body that is no JSON is taken for it. Others write it `disturbed` times."""

    def __init__(self, obj: dict[str, Any] | None, *, disturbed: int = 0) -> None:
        self.obj = obj
        self.disturbed = disturbed
        self.asked: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        body = await request.read()
        if request.method == "GET":
            return web.json_response(self.obj or {"kind": "Status"}, status=200 if self.obj else 404)
        if request.content_type != "application/merge-patch+json":
            created = self.obj is None
            self.obj = config_map("odd name", version="5", uid="u")
            return web.json_response(self.obj, status=201 if created else 200)
        assert self.obj is not None
        metadata = json.loads(body)["metadata"]
        if self.disturbed:
            self.disturbed -= 1
            self.obj["metadata"].update(
                resourceVersion=f"{self.obj['metadata']['resourceVersion']}0", labels={"by": "others"}
            )
        if metadata.pop("resourceVersion") != self.obj["metadata"]["resourceVersion"]:
            return web.json_response({"kind": "Status"}, status=409)
        self.obj["metadata"].update(metadata, resourceVersion=f"{self.obj['metadata']['resourceVersion']}1")
        return web.json_response(self.obj)


@pytest.mark.parametrize("disturbed", [0, 2], ids=["at rest", "written by others"])
@pytest.mark.parametrize(
    ("method", "body", "kind"),
    [
        ("POST", b"k8s\x00\n\x0b", "application/vnd.kubernetes.protobuf"),
        ("POST", b"\xd9\xd9\xf7\xa0", "application/cbor"),
        ("POST", gzip.compress(b'{"metadata": {}}'), "application/json"),
        ("POST", b"kind: ConfigMap\n", "application/yaml"),
        ("PATCH", b"metadata: {name: odd name}\n", "application/apply-patch+yaml"),
        ("PUT", b"k8s\x00\n\x0b", "application/vnd.kubernetes.protobuf"),
    ],
    ids=["protobuf", "cbor", "gzip", "yaml", "apply in YAML", "update that creates"],
)
async def test_what_is_created_in_another_encoding_gets_its_owner_afterwards(
    method: str, body: bytes, kind: str, disturbed: int
) -> None:
    kept = Kept(None, disturbed=disturbed)
    async with proxied(kept.answer) as run:
        path = CONFIG_MAPS if method == "POST" else CONFIG_MAPS + "/odd%20name"
        headers = {
            "Content-Type": kind,
            "Accept": "application/vnd.kubernetes.protobuf,application/json",
            "Accept-Encoding": "gzip",
        }
        async with run.http.request(method, URL(path, encoded=True), data=body, headers=headers) as answer:
            assert answer.status == 201
            assert await answer.json() == kept.obj
        (first, *_), last = [request for request in kept.asked if request.method != "GET"], kept.asked[-1]
        assert run.noticed == [CONFIG_MAP]
        assert run.written[0] == ("u", "", "5")
        assert run.written[-1] == ("u", "5" + "0" * disturbed, "5" + "0" * disturbed + "1")
        assert len(run.written) == 2
    # Else the answer could not be read.
    assert first.headers["Accept"] == "application/json"
    assert first.headers["Accept-Encoding"] == "identity"
    assert last.raw_path == CONFIG_MAPS + "/odd%20name"
    assert kept.obj is not None
    assert kept.obj["metadata"]["ownerReferences"] == [REFERENCE]
    assert kept.obj["metadata"].get("labels") == ({"by": "others"} if disturbed else None)


async def test_what_cannot_get_its_owner_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            return web.json_response(config_map(), status=201)
        return web.json_response({"kind": "Status", "message": "may not"}, status=403)

    async with (
        proxied(handler) as run,
        run.http.post(CONFIG_MAPS, data=b"k8s", headers={"Content-Type": "application/x"}) as answer,
    ):
        assert (answer.status, await answer.json()) == (201, config_map())
    assert "What a run has created got no owner" in [record.msg for record in caplog.records]


@pytest.mark.parametrize(
    ("existing", "sent", "references"),
    [
        (None, config_map(), [REFERENCE]),
        (config_map(), config_map(), None),
        (config_map(ownerReferences=[{**REFERENCE, "uid": "another"}]), config_map(), None),
        (config_map(ownerReferences=[REFERENCE]), config_map(), [REFERENCE]),
        (
            config_map(ownerReferences=[REFERENCE]),
            config_map(ownerReferences=[{**REFERENCE, "controller": True}]),
            [{**REFERENCE, "controller": True}],
        ),
        (
            config_map(ownerReferences=[REFERENCE]),
            config_map(ownerReferences=[{**REFERENCE, "uid": "another"}]),
            [{**REFERENCE, "uid": "another"}, REFERENCE],
        ),
    ],
    ids=["not there", "nobody's", "another's", "ours", "ours in the role's words", "ours and another's"],
)
async def test_an_update_keeps_the_owner(
    existing: dict[str, Any] | None, sent: dict[str, Any], references: list[dict[str, Any]] | None
) -> None:
    echo = Echo(existing)
    async with proxied(echo.answer) as run:
        await run.http.put(CONFIG_MAPS + "/x", json=sent)
        assert run.noticed == ([CONFIG_MAP] if references else [])
    assert echo.metadata.get("ownerReferences") == references


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


async def test_a_trial_gets_its_owner_and_starts_nothing() -> None:
    echo = Echo()
    async with proxied(echo.answer) as run:
        run.informers.append(stored(version="1"))
        await run.http.post(CONFIG_MAPS + "?dryRun=All", json=config_map())
        assert echo.metadata["ownerReferences"] == [REFERENCE]
        assert run.noticed == []
        assert run.session.writes.covered_at(parse(CONFIG_MAPS), "1")


async def test_events_are_not_watched() -> None:
    echo = Echo()
    async with proxied(echo.answer) as run:
        await run.http.post("/api/v1/namespaces/here/events", json={"metadata": {"name": "x"}})
        assert echo.metadata["ownerReferences"] == [REFERENCE]
        assert run.noticed == []


async def test_an_object_that_is_read_and_found_to_be_ours_is_watched() -> None:
    async with proxied(Echo(config_map(ownerReferences=[REFERENCE])).answer) as run:
        async with run.http.get(CONFIG_MAPS + "/x") as answer:
            assert "X-Cache" not in answer.headers
        assert run.noticed == [CONFIG_MAP]


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
