"""Forwarding of requests to the API server and of its answers to the run, byte for byte unless they concern one object.

A write is sent with the version of the object that is known (`runner.proxy.preconditions`), and its effect is remembered for
the reads to come. A dry run's request is refused unless it changes nothing.

Next on the way: `runner.proxy.ownership`, `runner.proxy.preconditions` and `runner.proxy.tunnel`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, MultiDict
from yarl import URL

from runner.json_codec import encode
from runner.kube.client import ApiClient, KubeError, NotFound
from runner.proxy import preconditions, tunnel
from runner.proxy.cached_reads import Covering, from_store
from runner.proxy.call import (
    REQUEST_ONLY,
    Call,
    accept_json,
    accept_uncompressed,
    decoded,
    forwarded,
    is_dry_run_deletion,
    is_json,
    object_in,
    version_of,
)
from runner.proxy.dry_run import READS, DryRun, Refusal, check_read, check_write, is_question
from runner.proxy.ownership import Ownership
from runner.proxy.preconditions import Answer
from runner.resource.comparison import without_metadata

logger = logging.getLogger(__name__)

# An answer of the API server, for as long as it is read.
Responding = AbstractAsyncContextManager[aiohttp.ClientResponse]

# The API server ends each request after 60 seconds. What is silent for longer than this has lost its peer.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=75)
# Watches and logs are followed, and pods connected to, for as long as the run likes: they may be silent for as long. That
# their peer is lost the connection itself notices (keepalive).
_ENDLESS = aiohttp.ClientTimeout(total=None, sock_connect=10)


class Forwarder:
    """Sends the calls of runs to the API server. Its methods raise aiohttp's errors, TimeoutError and KubeError."""

    def __init__(self, client: ApiClient, ownership: Ownership, covering: Covering) -> None:
        self._client = client
        self._ownership = ownership
        self._covering = covering

    async def forward(self, call: Call) -> web.StreamResponse:
        """Pass on any request."""
        request = call.request
        body = await request.read() if request.body_exists else None
        if call.writes and (call.info.name or call.method == "POST"):
            return await self._write(call, body)
        if body is not None and call.session.inject_owner:
            body, _ = await self._ownership.add_owner(body, call)
        headers = call.headers()
        if upgrade := request.headers.get("Upgrade"):
            headers.update({"Connection": "Upgrade", "Upgrade": upgrade})
        if call.reads_one:
            accept_uncompressed(headers)
        try:
            async with self._send(call, body, headers) as answer:
                if call.reads_one and is_json(answer.status, answer.headers):
                    return await self._read_one(call, answer)
                if call.writes and not 400 <= answer.status < 500:
                    call.session.writes.add(call.info, None)
                return await _stream(call, answer)
        except (aiohttp.ClientError, TimeoutError, asyncio.CancelledError):
            # It may have been done all the same.
            if call.writes:
                call.session.writes.add(call.info, None)
            raise

    def _send(self, call: Call, body: bytes | None, headers: CIMultiDict[str]) -> Responding:
        return self._client.session.request(
            call.method,
            URL(self._client.server + call.target, encoded=True),
            data=body,
            headers=headers,
            timeout=_ENDLESS if call.is_endless else _TIMEOUT,
            allow_redirects=False,
            auto_decompress=False,
            # What the run did not send is not made up here.
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    async def _read_one(self, call: Call, answer: aiohttp.ClientResponse) -> web.Response:
        """Pass on one object, and have its kind watched if it is the owner's."""
        session, content = call.session, await answer.read()
        session.record_shown(call.info, slim=False)
        # Reading every object costs more than looking for the owner's name in the bytes first.
        if session.owner.uid.encode() in content or session.owner.key.name.encode() in content:
            obj = object_in(content)
            if obj is not None:
                session.record_read(call.info, obj)
                await self._ownership.report_dependent(call, obj)
        return web.Response(status=answer.status, reason=answer.reason, headers=forwarded(answer.headers), body=content)

    async def _write(self, call: Call, body: bytes | None) -> web.Response:
        """Pass on a write to one object. Remember its effect, and have the object's kind watched if it is the owner's."""
        to_own = False
        if body is not None and call.session.inject_owner:
            body, to_own = await self._ownership.add_owner(body, call)
        try:
            answer, before = await self._send_write(call, body)
        except (aiohttp.ClientError, TimeoutError, asyncio.CancelledError):
            # It may have been done all the same.
            call.session.writes.add(call.info, None)
            raise
        content = await self._note_write(call, body, answer, before, to_own=to_own)
        headers = forwarded(answer.headers, drop={"content-length"})
        return web.Response(status=answer.status, reason=answer.reason, headers=headers, body=content)

    async def _send_write(self, call: Call, body: bytes | None) -> tuple[Answer, str | None]:
        """The answer, and the version that it was a write to, as of `preconditions.send`."""
        headers = call.headers()
        # What was written has to be understood, whatever the client likes better.
        accept_uncompressed(headers)
        accept_json(headers)

        async def ask(sent: object) -> Answer:
            data = body if sent is None else encode(sent)
            async with self._send(call, data, headers) as answer:
                return Answer(answer.status, answer.reason, answer.headers, await answer.read())

        info = call.info
        # Only where a watch reports the object's changes.
        is_watched = self._covering(info.api_version, info.plural, info.namespace) is not None
        if info.name and call.method != "POST" and is_watched:
            write = preconditions.Write(call.method, call.request.content_type, info.subresource, decoded(body or b""))
            return await preconditions.send(
                write, known=lambda: self._known_version(call), current=lambda: self._current_version(call), ask=ask
            )
        answer = await ask(None)
        return answer, "" if answer.status == 201 else None

    async def _note_write(
        self, call: Call, body: bytes | None, answer: Answer, before: str | None, *, to_own: bool
    ) -> bytes:
        """Remember what a write did; the content for the run, in which an owner may have been added."""
        info, session, content = call.info, call.session, answer.content
        if not is_json(answer.status, answer.headers):
            if not 400 <= answer.status < 500:
                session.writes.add(info, None)
            return content
        obj = object_in(content)
        if call.method == "DELETE":
            session.writes.add(info, None)
            if not is_dry_run_deletion(body):
                session.record_deletion(info, obj or {}, before=before)
            return content
        session.writes.add(info, version_of(obj))
        if obj is None:
            return content
        info = info if info.name else replace(info, name=str(obj.get("metadata", {}).get("name", "")))
        session.record_write(info, obj, before=before)
        if to_own and (owned := await self._ownership.add_owner_to_created(call, info, obj)) is not obj:
            obj, content = owned, encode(owned)
        if session.was_slim(info) and "managedFields" in (obj.get("metadata") or {}):
            # The run compares this with what it was shown before: otherwise each write would seem to change something.
            obj = {**without_metadata(obj, ("managedFields",))}
            content = encode(obj)
        await self._ownership.report_dependent(call, obj)
        return content

    async def _known_version(self, call: Call) -> str:
        """The object's version as the run or a store knows it, or else as the API server has it."""
        info, session = replace(call.info, subresource=""), call.session
        if not session.known_version(info):
            from_store(info, MultiDict(), None, session=session, covering=self._covering)
        return session.known_version(info) or await self._current_version(call)

    async def _current_version(self, call: Call) -> str:
        """The object's version; empty if there is none, or none that can be read."""
        info = replace(call.info, subresource="")
        path = call.path.removesuffix(f"/{call.info.subresource}") if call.info.subresource else call.path
        try:
            obj = await self._client.get(path)
        except KubeError:
            return ""
        call.session.record_read(info, obj)
        return str(obj.get("metadata", {}).get("resourceVersion", ""))

    async def forward_in_dry_run(self, call: Call, dry_run: DryRun) -> web.StreamResponse:
        """Pass on a read, or a write that is a dry run, whose result is recorded. Raises Refusal for anything else."""
        request, method = call.request, call.method
        body = await request.read() if request.body_exists else None
        is_read = method in READS
        try:
            if is_read:
                check_read(method, call.path, connects=call.connects)
            elif not is_question(method, call.info):
                body = check_write(method, call.path, dry_run=request.query.getall("dryRun", []), body=body)
        except Refusal:
            dry_run.refused.append(f"{method} {call.path}")
            raise
        if method == "GET" and call.path == dry_run.path and not request.query:
            return web.json_response(dry_run.cr)
        if is_read or is_question(method, call.info):
            return await self.forward(call)
        if body is not None and call.session.inject_owner:
            body, _ = await self._ownership.add_owner(body, call)
        before = None
        if call.info.name:
            with contextlib.suppress(NotFound):
                before = await self._client.get(call.path)
        # JSON both ways, whatever the client likes better: it is read here.
        headers = call.headers(REQUEST_ONLY | {"accept", "accept-encoding"})
        headers["Accept"] = "application/json"
        if method == "DELETE":
            headers["Content-Type"] = "application/json"
        url = URL(self._client.server + call.target, encoded=True)
        async with self._client.session.request(method, url, data=body, headers=headers, timeout=_TIMEOUT) as answer:
            content = await answer.read()
        obj = object_in(content) if answer.status < 300 else None
        if obj is not None and method == "DELETE":
            dry_run.record_deletion(before=before, answer=obj)
        elif obj is not None:
            dry_run.record(call.info, before=before, sent=object_in(body or b""), answer=obj)
        return web.Response(status=answer.status, body=content, content_type=answer.content_type)


async def _stream(call: Call, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    request = call.request
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=forwarded(answer.headers))
    if answer.status == 101:
        response.headers.update({"Connection": "Upgrade", "Upgrade": answer.headers.get("Upgrade", "")})
        await tunnel.pass_through(request, response, answer)
        return response
    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
    except (aiohttp.ClientPayloadError, aiohttp.ClientOSError, aiohttp.ServerTimeoutError) as error:
        # Too late for an answer of our own: the run sees a body that breaks off, as it would without the proxy.
        logger.warning("The API server broke off an answer", extra={"path": call.path, "error": str(error)})
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the API server broke off an answer") from error
    await response.write_eof()
    return response
