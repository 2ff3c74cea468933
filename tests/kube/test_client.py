"""What an API server may send, and how it is taken."""

import asyncio
import json
import re
import socket
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio import client as official

from devkit.devcluster import pki
from runner import metrics
from runner.errors import ConfigurationError
from runner.kube import client as client_module
from runner.kube.client import (
    ApiClient,
    ApiError,
    Conflict,
    Expired,
    Invalid,
    NotFound,
    NotReady,
    Refused,
    Silent,
    Unreachable,
    Unreadable,
)
from runner.kube.nesting import METADATA_ONLY
from tests.conftest import tcp_sockets


@asynccontextmanager
async def served(handler: Callable[[web.Request], object], base: str = "") -> AsyncIterator[ApiClient]:
    """A client of a server on loopback that answers every request so; the client's URL of it has the path `base`."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(application, auto_decompress=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    configuration = official.Configuration()
    configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}{base}"
    client = ApiClient(configuration)
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(404, NotFound), (409, Conflict), (410, Expired), (401, Refused), (403, Refused), (422, Invalid)],
        *[(400, ApiError), (500, ApiError)],
    ],
)
async def test_an_error_has_its_type_and_the_servers_words(status: int, kind: type[ApiError]) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "message": "because"}, status=status)

    async with served(handler) as client:
        with pytest.raises(kind, match=r"^because$") as caught:
            await client.get("/api")
    assert type(caught.value) is kind
    assert caught.value.status == status


@pytest.mark.parametrize(("message", "kind"), [("storage is (re)initializing", NotReady), ("too many requests", ApiError)])
async def test_a_new_kind_that_is_not_ready_is_told_from_a_server_that_is_too_busy(
    message: str, kind: type[ApiError]
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "message": message}, status=429)

    async with served(handler) as client:
        with pytest.raises(ApiError) as caught:
            await client.get("/api")
    assert type(caught.value) is kind


async def test_an_error_that_is_no_json_is_told_as_it_is() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=502, text="<html>bad gateway</html>")

    async with served(handler) as client:
        with pytest.raises(ApiError, match="bad gateway"):
            await client.get("/api")


async def test_no_answer_is_unreachable() -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with served(handler) as client:
        with pytest.raises(Unreachable, match="GET /api: "):
            await client.get("/api")


async def test_a_watch_event_may_be_of_any_size_and_come_in_any_pieces() -> None:
    events = [{"type": "ADDED", "object": {"data": "x" * 1_500_000}}, {"type": "DELETED", "object": {"data": "é"}}]
    text = b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.query == {"resourceVersion": "7", "watch": "true", "allowWatchBookmarks": "true"}
        response = web.StreamResponse()
        await response.prepare(request)
        for begin in range(0, len(text), 99_991):
            await response.write(text[begin : begin + 99_991])
        return response

    async with served(handler) as client:
        assert [event async for event in client.watch("/api", {"resourceVersion": "7"})] == events


def _says_no_farewell(listener: socket.socket, context: ssl.SSLContext, gone: threading.Event) -> None:
    """Serves one watch, of one event, and leaves it open: it does not even notice that the client closes it."""
    raw, _ = listener.accept()
    with context.wrap_socket(raw, server_side=True) as connection:
        connection.recv(65536)
        event = b'{"type": "ADDED", "object": {}}\n'
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(event), event))
        gone.wait()


def _established(port: int) -> list[str]:
    """The connections to this port of which the client has not let go, as Linux lists them."""
    return [row[1] for row in tcp_sockets() if int(row[2].split(":")[1], 16) == port and row[3] == "01"]


async def test_a_watch_that_was_given_up_is_closed_with_its_client(tmp_path: Path) -> None:
    # TLS waits for the other side's farewell, and a server may be too busy to send it: aiohttp no longer looks.
    issued = tmp_path / "pki"
    pki.write(issued, service_address="10.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued / "server.crt", issued / "server.key")
    configuration = official.Configuration()
    configuration.ssl_ca_cert = str(issued / "ca.crt")
    gone = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        server = threading.Thread(target=_says_no_farewell, args=(listener, context, gone))
        server.start()
        try:
            configuration.host = f"https://localhost:{listener.getsockname()[1]}"
            client = ApiClient(configuration)
            async with aclosing(client.watch("/api", {})) as events:
                await anext(events)
                assert _established(listener.getsockname()[1])
            await client.close()
            assert not _established(listener.getsockname()[1])
        finally:
            gone.set()
            server.join()


async def test_an_error_in_a_watch_is_raised() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=json.dumps({"type": "ERROR", "object": {"code": 410, "message": "too old"}}) + "\n")

    async with served(handler) as client:
        with pytest.raises(Expired, match="too old"):
            await anext(client.watch("/api", {}))


@pytest.mark.parametrize("content", ["", "{", "a: b", "[]", "clusters: []", "clusters: {}"])
async def test_an_unusable_kubeconfig_is_one_clear_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="KUBECONFIG: cannot be used to connect to a cluster"):
        await ApiClient.connect({"KUBECONFIG": str(path)})


async def test_requests_are_counted_by_their_answers() -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path == "/gone":
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({}, status=200 if request.path == "/here" else 404)

    def counted(client: ApiClient) -> Counter[tuple[str, str]]:
        """By code and method. Another test's server may have had the same port."""
        host = re.escape(client.server.removeprefix("http://"))
        line = rf'rest_client_requests_total{{code="(.*?)",host="{host}",method="(.*?)"}} (\d+)'
        found = re.findall(line, metrics.exposition().decode())
        return Counter({(code, method): int(value) for code, method, value in found})

    async with served(handler) as client:
        before = counted(client)
        await client.get("/here")
        await client.patch("/here", {})
        for path, error in (("/nowhere", NotFound), ("/gone", Unreachable)):
            with pytest.raises(error):
                await client.get(path)
        after = counted(client)
    assert all(after[labels] - before[labels] == 1 for labels in (("200", "GET"), ("200", "PATCH"), ("404", "GET")))
    # One that a connection was lost over is tried anew by aiohttp, within the same request.
    assert after["<error>", "GET"] > before["<error>", "GET"]


# Makes an answer; None: the connection is cut.
Made = Callable[[], web.Response] | None


class Answers:
    """Gives these answers in turn, and counts who asked how."""

    def __init__(self, *answers: Made) -> None:
        self.left = list(answers)
        self.asked: list[str] = []

    async def handler(self, request: web.Request) -> web.Response:
        self.asked.append(request.method)
        answer = self.left.pop(0)
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return answer()


def busy(status: int, retry_after: str = "", message: str = "busy") -> Made:
    headers = {"Retry-After": retry_after} if retry_after else {}
    return lambda: web.json_response({"kind": "Status", "message": message}, status=status, headers=headers)


def said(text: str) -> Made:
    return lambda: web.Response(text=text)


DONE = said('{"done": true}')
VERSIONED = {"metadata": {"resourceVersion": "7"}}


@pytest.mark.parametrize(
    ("method", "body", "answer"),
    [
        pytest.param("get", None, busy(429, retry_after="0"), id="get-429"),
        pytest.param("get", None, busy(503), id="get-503"),
        pytest.param("get", None, busy(504), id="get-504"),
        pytest.param("get", None, busy(500, retry_after="0"), id="get-500-that-asks-for-it"),
        pytest.param("get", None, said("<html>"), id="get-html"),
        pytest.param("get", None, said("[]"), id="get-no-object"),
        pytest.param("put", VERSIONED, busy(503), id="put-with-a-version"),
        pytest.param("patch", VERSIONED, busy(503), id="patch-with-a-version"),
        pytest.param("put", VERSIONED, None, id="put-without-an-answer"),
        pytest.param("post", {}, busy(429), id="post-429"),
    ],
)
async def test_what_may_be_repeated_is_repeated(method: str, body: Any, answer: Made) -> None:
    answers = Answers(answer, busy(429), DONE)
    async with served(answers.handler) as client:
        arguments = ["/api"] if body is None else ["/api", body]
        assert await getattr(client, method)(*arguments) == {"done": True}


@pytest.mark.parametrize(
    ("method", "body", "answer"),
    [
        pytest.param("get", None, busy(500), id="get-500"),
        pytest.param("get", None, busy(404), id="get-404"),
        pytest.param("post", {}, busy(503), id="post-503"),
        pytest.param("put", {}, busy(503), id="put-without-a-version"),
        pytest.param("patch", {}, busy(504), id="patch-without-a-version"),
        pytest.param("post", {}, None, id="post-without-an-answer"),
        pytest.param("put", VERSIONED, busy(409), id="conflict"),
        pytest.param("get", None, busy(429, message="storage is (re)initializing"), id="not-ready"),
    ],
)
async def test_what_may_not_be_repeated_is_not(method: str, body: Any, answer: Made) -> None:
    answers = Answers(answer, DONE)
    async with served(answers.handler) as client:
        arguments = ["/api"] if body is None else ["/api", body]
        with pytest.raises((ApiError, Unreachable)):
            await getattr(client, method)(*arguments)
    assert len(answers.asked) == 1


async def test_repeating_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.kube.client._FIRST_PAUSE", 0.001)
    answers = Answers(*[busy(503)] * 100)
    async with served(answers.handler) as client:
        with pytest.raises(ApiError, match="busy"):
            await client.get("/api")
    assert len(answers.asked) == 5


async def test_a_pause_that_the_server_asks_for_is_made_if_it_is_short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    answers = Answers(busy(429, retry_after="3"), busy(429, retry_after="3600"), busy(429, retry_after="x"), DONE)
    async with served(answers.handler) as client:
        monkeypatch.setattr("runner.kube.client.asyncio.sleep", sleep)
        await client.get("/api")
        monkeypatch.undo()
    assert pauses[:2] == [3.0, 10.0]
    assert pauses[2] < 1


async def test_a_post_that_never_left_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = official.Configuration()
    tried: list[float] = []

    async def sleep(seconds: float) -> None:
        tried.append(seconds)

    # One that does not listen; as long as it is there, nobody else gets its port.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        configuration.host = f"http://127.0.0.1:{closed.getsockname()[1]}"
        client = ApiClient(configuration)
        monkeypatch.setattr("runner.kube.client.asyncio.sleep", sleep)
        with pytest.raises(Unreachable):
            await client.post("/api", {})
        monkeypatch.undo()
        await client.close()
    assert len([seconds for seconds in tried if seconds]) == 4


NESTED = b'{"a":' * 100_000 + b"{}" + b"}" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"<html></html>", id="html"),
        pytest.param(b'{"items": [', id="truncated"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"\xff\xfe\xfd", id="no-text"),
        pytest.param(NESTED, id="too-deep"),
        pytest.param(b'"' + b"x" * 1_000_000 + b'"', id="large"),
    ],
)
async def test_an_answer_that_is_none_is_unreadable(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.kube.client._FIRST_PAUSE", 0.001)

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=content + b"\n", content_type="application/json")

    async with served(handler) as client:
        with pytest.raises(Unreadable):
            await client.get("/api")
        with pytest.raises(Unreadable):
            await anext(client.watch("/api", {}))


@pytest.mark.parametrize(
    "event", [b"{}", b'{"type":"ADDED"}', b'{"type":"ERROR","object":[]}', b"[]", b'{"type":"ADDED","object":"x"}']
)
async def test_an_event_that_is_none_is_unreadable(event: bytes) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=event + b"\n")

    async with served(handler) as client:
        with pytest.raises(Unreadable):
            await anext(client.watch("/api", {}))


async def test_a_refusal_that_is_no_status_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=NESTED, status=400)

    async with served(handler) as client:
        with pytest.raises(ApiError):
            await client.get("/api")


async def test_one_object_that_is_too_deep_does_not_hide_the_others() -> None:
    async def handler(request: web.Request) -> web.Response:
        bad = b'{"metadata":{"name":"bad"},"spec":%s}' % NESTED
        if "watch" in request.query:
            return web.Response(body=b'{"type":"ADDED","object":%s}\n{"type":"ADDED","object":{}}\n' % bad)
        return web.Response(body=b'{"items":[%s,{"metadata":{"name":"good"}}]}' % bad)

    async with served(handler) as client:
        page = await client.get("/api")
        events = [event["object"] async for event in client.watch("/api", {})]
    assert page["items"] == [{"metadata": {"name": "bad"}, METADATA_ONLY: True}, {"metadata": {"name": "good"}}]
    assert events == [{"metadata": {"name": "bad"}, METADATA_ONLY: True}, {}]


async def test_a_watch_without_a_word_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.kube.client._WATCH_TIMEOUT", aiohttp.ClientTimeout(total=None, sock_read=0.2))
    ended = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await ended.wait()
        return response

    async with served(handler) as client:
        opened: list[bool] = []
        error: Unreachable | None = None
        # Where the machine is too slow for the beginning, that is no silence.
        while not opened:
            with pytest.raises(Unreachable) as caught:
                await anext(client.watch("/api", {}, opened=lambda: opened.append(True)))
            error = caught.value
        assert type(error) is Silent
        ended.set()


async def test_a_connection_notices_that_its_peer_is_gone() -> None:
    ended = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await ended.wait()
        return response

    async with served(handler) as client, client.session.get(client.server) as response:
        connection = response.connection
        assert connection is not None
        assert connection.transport is not None
        made = connection.transport.get_extra_info("socket")
        options = [made.getsockopt(level, option) for level, option, _ in client_module._SOCKET_OPTIONS]
        ended.set()
    assert options == [1, 15, 10, 3, 45_000]
