"""Upgraded connections (exec, attach, port-forward) and CONNECT: bytes both ways, whatever protocol they are of.

aiohttp speaks HTTP up to the server's 101 and websockets from there on, but kubectl also speaks SPDY. So both connections
are taken out of its hands at that point. What is used of aiohttp for it is that a `ClientResponse` with a 101 keeps its
`connection`, and that the connection's protocol hands over what it has read already (`set_parser`).
"""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web

_CHUNK = 64 * 1024


class Connection(asyncio.StreamReaderProtocol):
    """A connection that has been upgraded. Its former protocol is notified of its end only."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.reader = asyncio.StreamReader()
        super().__init__(self.reader)
        self._former = transport.get_protocol()
        transport.set_protocol(self)
        self.connection_made(transport)
        self.writer = asyncio.StreamWriter(transport, self, self.reader, asyncio.get_running_loop())

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._former.connection_lost(exc)


class Rest:
    """A parser for aiohttp that passes what was read after the 101 to `reader`."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._reader.feed_data(bytes(data))
        return False, b""

    def feed_eof(self) -> None:
        """Nothing: `Connection.connection_lost` reports the end."""


async def pass_through(request: web.BaseRequest, response: web.StreamResponse, answer: aiohttp.ClientResponse) -> None:
    """Send the 101 on, then bytes both ways, until one side ends. Raises ConnectionError if one breaks off."""
    upstream = answer.connection
    if upstream is None or upstream.transport is None or upstream.protocol is None or request.transport is None:
        raise aiohttp.ClientConnectionError("the connection was lost as it was upgraded")
    server, client = Connection(upstream.transport), Connection(request.transport)
    upstream.protocol.set_parser(Rest(server.reader), None)
    # What comes next on this connection is no request.
    response.force_close()
    await response.prepare(request)
    try:
        await _both_ways(server.reader, server.writer, client)
    finally:
        answer.close()


async def join(
    request: web.BaseRequest, response: web.StreamResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send the answer to a CONNECT, then bytes both ways between the client and the connection that was made for it."""
    if request.transport is None:
        raise ConnectionResetError("the client is gone")
    client = Connection(request.transport)
    response.force_close()
    await response.prepare(request)
    await _both_ways(reader, writer, client)


async def _both_ways(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: Connection) -> None:
    directions = [asyncio.create_task(_copy(reader, client.writer)), asyncio.create_task(_copy(client.reader, writer))]
    try:
        done, _ = await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for direction in done:
            direction.result()
    finally:
        for direction in directions:
            direction.cancel()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
