"""What stands between an operator and the API server, and does harm: a TCP proxy, and an HTTP one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

_CHUNK = 64 * 1024


def server_of(kubeconfig: Path) -> tuple[str, int]:
    host, _, port = (
        json.loads(kubeconfig.read_text())["clusters"][0]["cluster"]["server"].removeprefix("https://").partition(":")
    )
    return host, int(port)


def kubeconfig_of(kubeconfig: Path, to: Path, server: str) -> Path:
    """The same with another address."""
    config = json.loads(kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = server
    to.write_text(json.dumps(config))
    return to


class TcpLink:
    """Passes bytes on, TLS and all. `mode` is what it does to them:

    pass      nothing                                     silent    those of connections that are there are kept for ever
    reset     each connection, old or new, is reset        delay     each piece comes up to three seconds late
    truncate  after some more bytes the connection ends
    """

    def __init__(self, kubeconfig: Path, chance: random.Random) -> None:
        self._to = server_of(kubeconfig)
        self._chance = chance
        self.mode = "pass"
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Of all connections there were: a silent one stays open, though nobody serves it any more.
        self._writers: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """The port on which it listens."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield self._server.sockets[0].getsockname()[1]
        finally:
            self._server.close()
            for task in list(self._tasks):
                task.cancel()
            if self._tasks:
                await asyncio.wait(list(self._tasks))
            for writer in self._writers:
                writer.transport.abort()
            # They are closed with the loop's next turn.
            await asyncio.sleep(0)

    def set(self, mode: str) -> None:
        self.mode = mode
        for connection in list(self._connections):
            if mode == "reset":
                connection.reset()
            elif mode == "silent":
                # These stay so, whatever comes next, as those of a peer that is gone.
                connection.silent = True
            elif mode == "truncate":
                connection.left = self._chance.randrange(1, 20_000)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.append(writer)
        connection = _Connection(writer)
        self._connections.add(connection)
        try:
            if self.mode == "reset":
                connection.reset()
                return
            if self.mode == "silent":
                connection.silent = True
            elif self.mode == "truncate":
                connection.left = self._chance.randrange(1, 20_000)
            there, back = await asyncio.open_connection(*self._to)
            connection.others.append(back)
            self._writers.append(back)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(connection, reader, back))
                both.create_task(self._pass(connection, there, writer))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass
        finally:
            connection.close()
            self._connections.discard(connection)
            self._tasks.discard(task)

    async def _pass(self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_CHUNK):
            if connection.silent:
                await asyncio.get_running_loop().create_future()
            if self.mode == "delay":
                await asyncio.sleep(self._chance.uniform(0, 3))
            if connection.left is not None:
                piece, connection.left = piece[: connection.left], max(0, connection.left - len(piece))
            writer.write(piece)
            await writer.drain()
            if connection.left == 0:
                break
        connection.close()


class _Connection:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.silent = False
        # Bytes until it is cut off.
        self.left: int | None = None
        self.others = [writer]

    def reset(self) -> None:
        for writer in self.others:
            connection: socket.socket = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def close(self) -> None:
        # One that is silent says nothing of its end either.
        if not self.silent:
            for writer in self.others:
                writer.close()


class HttpLink:
    """Passes requests on. `fault` is what it answers instead, to a share of them:

    429, 500, 503, 504   this status (429 with Retry-After: 1)      html    200 and a page
    410                  of lists and watches: their version is too old     closed  of watches: 200, and nothing more
    """

    def __init__(self, kubeconfig: Path, chance: random.Random) -> None:
        host, port = server_of(kubeconfig)
        self._to = f"https://{host}:{port}"
        self._kubeconfig = json.loads(kubeconfig.read_text())
        self._chance = chance
        self.fault = ""
        self.share = 1.0
        # Lists and watches since `fault` was set last.
        self.asked = 0
        self.since = time.monotonic()
        self._session: aiohttp.ClientSession | None = None
        # What is being passed on, and whether it is a watch.
        self._passing: dict[asyncio.Task[web.StreamResponse], bool] = {}

    def cut(self) -> None:
        """End the watches that are on."""
        for task, watches in list(self._passing.items()):
            if watches:
                task.cancel()

    def set(self, fault: str, share: float = 1.0) -> None:
        self.fault, self.share = fault, share
        self.asked, self.since = 0, time.monotonic()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """The port on which it listens."""
        user = self._kubeconfig["users"][0]["user"]
        context = ssl.create_default_context(cafile=self._kubeconfig["clusters"][0]["cluster"]["certificate-authority"])
        context.load_cert_chain(user["client-certificate"], user["client-key"])
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        ) as self._session:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            try:
                yield runner.addresses[0][1]
            finally:
                passing = list(self._passing)
                for task in passing:
                    task.cancel()
                if passing:
                    await asyncio.wait(passing)
                await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        watches = request.query.get("watch") in ("true", "1")
        lists = request.method == "GET" and (watches or "resourceVersion" in request.query or "limit" in request.query)
        self.asked += lists
        if self.fault and self._chance.random() < self.share:
            faulty = self.faulty(watches=watches, lists=lists)
            if faulty is not None:
                return faulty
        task = asyncio.create_task(self._passed_on(request))
        self._passing[task] = watches
        try:
            return await task
        except asyncio.CancelledError:
            # Its connection is closed, in the midst of the answer.
            if request.transport is not None:
                request.transport.abort()
            raise
        finally:
            task.cancel()
            self._passing.pop(task, None)

    def faulty(self, *, watches: bool, lists: bool) -> web.Response | None:
        match self.fault:
            case "429" | "500" | "503" | "504":
                headers = {"Retry-After": "1"} if self.fault == "429" else {}
                return web.json_response(_status(int(self.fault)), status=int(self.fault), headers=headers)
            case "html":
                return web.Response(text="<html><body>Be right back</body></html>", content_type="text/html")
            case "410" if watches:
                text = json.dumps({"type": "ERROR", "object": _status(410)}) + "\n"
                return web.Response(text=text, content_type="application/json")
            case "410" if lists:
                return web.json_response(_status(410), status=410)
            case "closed" if watches:
                return web.Response(text="", content_type="application/json")
        return None

    async def _passed_on(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        hop = {"host", "connection", "content-length", "transfer-encoding", "keep-alive"}
        headers = CIMultiDict((name, value) for name, value in request.headers.items() if name.lower() not in hop)
        try:
            async with self._session.request(
                request.method, self._to + request.raw_path, headers=headers, data=await request.read() or None
            ) as answer:
                passed = CIMultiDict((name, value) for name, value in answer.headers.items() if name.lower() not in hop)
                response = web.StreamResponse(status=answer.status, headers=passed)
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
                return response
        except (aiohttp.ClientError, ConnectionError) as error:
            return web.json_response(_status(502, str(error)), status=502)


def _status(code: int, message: str = "as the chaos has it") -> dict[str, Any]:
    reasons = {410: "Expired", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}
    return {
        **{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code},
        **{"message": message, "reason": reasons.get(code, "Unknown")},
    }
