"""Upgraded connections, with a server on loopback that really upgrades and then echoes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio import client as official

from bench.driver import until
from runner.kube.client import ApiClient
from runner.kube.discovery import Discovery
from runner.proxy.server import ProxyServer
from runner.proxy.sessions import Session, Sessions
from runner.resource.metadata import GroupVersionKind, ObjectKey, Owner
from tests.kube.test_client import served

EXEC = "/api/v1/namespaces/here/pods/x/exec?command=%2Fbin%2Fsh&stdin=true"
SESSION = Session(
    owner=Owner(GroupVersionKind("example.com", "v1", "Thing"), ObjectKey("here", "one"), "uid"),
    inject_owner=True,
    on_dependent=lambda *_: None,
)


@dataclass
class Upgrading:
    """A server that upgrades whatever it is asked to, says `greeting` at once, and sends back what it gets."""

    protocol: str
    greeting: bytes = b""
    heads: list[str] = field(default_factory=list)
    open: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        head = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: {self.protocol}\r\nConnection: Upgrade\r\nX-Own: 1\r\n\r\n"
        # Both in one segment, as a server may.
        writer.write(head.encode() + self.greeting)
        while data := await reader.read(65536):
            if data == b"bye":
                writer.write(b"farewell")
                break
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        self.open -= 1


@asynccontextmanager
async def proxied(client: ApiClient) -> AsyncIterator[tuple[int, str]]:
    """The proxy's port and a session's token."""
    sessions = Sessions()
    proxy = ProxyServer(client, Discovery(client), sessions, covering=lambda *_: None, port=0)
    async with proxy:
        with sessions.opened(SESSION) as token:
            yield proxy.port, token


@asynccontextmanager
async def upgrading(server: Upgrading) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, str]]:
    """A connection through the proxy on which the upgrade has been asked for, and the answer's head."""
    listener = await asyncio.start_server(server, "127.0.0.1", 0)
    configuration = official.Configuration()
    configuration.host = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    configuration.api_key = {"BearerToken": "the-runners"}
    configuration.api_key_prefix = {"BearerToken": "Bearer"}
    client = ApiClient(configuration)
    async with proxied(client) as (port, token):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"POST {EXEC} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nImpersonate-User: admin\r\n"
            f"Connection: Upgrade\r\nUpgrade: {server.protocol}\r\nX-Stream-Protocol-Version: v4\r\n"
            f"Content-Length: 0\r\n\r\n".encode()
        )
        yield reader, writer, (await reader.readuntil(b"\r\n\r\n")).decode()
        writer.close()
        await writer.wait_closed()

        async def ended() -> bool:
            return server.open == 0

        await until(ended, "the connection upstream has ended", patience=60)
    await client.close()
    listener.close()
    await listener.wait_closed()


@pytest.mark.parametrize("protocol", ["websocket", "SPDY/3.1"])
@pytest.mark.parametrize("greeting", [b"", b"\x80\x03\x00\x01 to begin with"])
async def test_bytes_go_both_ways(protocol: str, greeting: bytes) -> None:
    server = Upgrading(protocol, greeting)
    async with upgrading(server) as (reader, writer, head):
        status, *headers = head.strip().split("\r\n")
        assert status.split()[1] == "101"
        assert {f"Upgrade: {protocol}", "Connection: Upgrade", "X-Own: 1"} <= set(headers)
        assert await reader.readexactly(len(greeting)) == greeting
        for data in (b"\x00\xff", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 40_000):
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
        writer.write(b"bye")
        assert await reader.read() == b"farewell"
    (sent,) = server.heads
    lines = sent.strip().split("\r\n")
    assert lines[0] == f"POST {EXEC} HTTP/1.1"
    assert {f"Upgrade: {protocol}", "Connection: Upgrade", "X-Stream-Protocol-Version: v4"} <= set(lines)
    assert [line for line in lines if line.lower().startswith("authorization")] == ["Authorization: Bearer the-runners"]
    # Whether the runner may be somebody else is for the API server to say.
    assert "Impersonate-User: admin" in lines


async def test_the_tunnel_ends_with_the_run() -> None:
    server = Upgrading("SPDY/3.1")
    async with upgrading(server) as (reader, writer, _):
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        # Left without a word; `upgrading` sees the server's side end.
        writer.transport.abort()


async def test_a_websocket_of_aiohttps_own() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await socket.prepare(request)
        await socket.send_bytes(b"\x01hello")
        async for message in socket:
            await socket.send_bytes(b"\x01" + message.data)
        return socket

    async with served(handler) as client, proxied(client) as (port, token), aiohttp.ClientSession() as http:
        headers = {"Authorization": f"Bearer {token}"}
        url = f"http://127.0.0.1:{port}{EXEC}"
        async with http.ws_connect(url, headers=headers, protocols=("v5.channel.k8s.io",)) as socket:
            assert socket.protocol == "v5.channel.k8s.io"
            assert await socket.receive_bytes() == b"\x01hello"
            await socket.send_bytes(b"there")
            assert await socket.receive_bytes() == b"\x01there"


async def test_a_refusal_to_upgrade_goes_through_as_it_is() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.headers["Upgrade"] == "SPDY/3.1"
        return web.Response(status=403, reason="No Way", body=b"because", headers={"X-Own": "1"})

    async with served(handler) as client, proxied(client) as (port, token), aiohttp.ClientSession() as http:
        headers = {"Authorization": f"Bearer {token}", "Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
        for _ in range(2):
            async with http.post(f"http://127.0.0.1:{port}{EXEC}", headers=headers) as answer:
                assert (answer.status, answer.reason, await answer.read()) == (403, "No Way", b"because")
                assert answer.headers["X-Own"] == "1"
