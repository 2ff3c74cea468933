"""The proxy: passes a run's API calls on with the runner's rights, and sees to it that what they create is found again.

A creation gets the CR as its owner. Whatever is created, or found to be the CR's already, has its kind watched from then
on, and what is watched is read from the informers' stores. Everything else goes through as it came, bytes for bytes, both
ways.

Next on the way: `runner.kube.informer`, and `runner.proxy.tunnel`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy, MultiDict
from yarl import URL

from runner.kube.client import ApiClient, KubeError, NotFound
from runner.kube.discovery import Discovery
from runner.proxy import tunnel
from runner.proxy.reads import Covering, from_store
from runner.proxy.rehearsal import READS, Refusal, Rehearsal, check_read, check_write, is_question
from runner.proxy.requestinfo import RequestInfo, parse
from runner.proxy.sessions import Session, Sessions
from runner.resource.metadata import Object, is_deleting, is_owned, own, split_api_version

logger = logging.getLogger(__name__)

# Of this connection only (RFC 9110, 7.6.1), or ours to set. `Host` names the proxy.
_HOP_HEADERS = frozenset(
    """
    connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade host
    """.split()
)
_REQUEST_ONLY = frozenset({"authorization", "content-length", "expect"})
_IMPERSONATION = "impersonate-"
# A server-side apply, which creates what is not there.
_APPLY = "application/apply-patch+yaml"
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# They tell of an object and are no part of it: a role that writes one with each run would be run for each one, for ever.
_EVENTS = frozenset({("", "events"), ("events.k8s.io", "events")})
# What Kubernetes calls connecting, whatever the method: it writes nothing that could be read.
_CONNECTS = frozenset({"attach", "exec", "portforward", "proxy"})
# The API server's own limit for an object is about 3 MiB.
_BODY_LIMIT = 16 * 1024 * 1024
# The API server's own for a request's headers. A command for a pod is in the first line.
_LINE_LIMIT = 1024 * 1024
# No limit on the whole: watches and logs are followed for as long as the run likes.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)


class ProxyServer:
    """Listens on loopback while it is entered (`async with`); `port` is then the real one."""

    def __init__(
        self, client: ApiClient, discovery: Discovery, sessions: Sessions, *, covering: Covering, port: int
    ) -> None:
        self.port = port
        self._client = client
        self._discovery = discovery
        self._sessions = sessions
        self._covering = covering
        application = web.Application(client_max_size=_BODY_LIMIT)
        application.router.add_route("*", "/{path:.*}", self._handle)
        # A watch that nobody listens to any more is ended, and not when the server next has something to say.
        self._runner = web.AppRunner(
            application,
            access_log=None,
            auto_decompress=False,
            handler_cancellation=True,
            max_line_size=_LINE_LIMIT,
            shutdown_timeout=1,
        )

    async def __aenter__(self) -> ProxyServer:
        """Raises OSError when the port is taken."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        try:
            await site.start()
        except OSError:
            await self._runner.cleanup()
            raise
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        session, target = self._sessions.of(request.raw_path, request.headers.get("Authorization"))
        if session is None:
            refusal = _status(401, "Unauthorized", "this proxy serves only the runs of its runner, each with its own token")
            # Some clients send what they have only when they are asked for it.
            refusal.headers["WWW-Authenticate"] = 'Basic realm="rolerunner"'
            return refusal
        # Behind the server's address nothing else may take the place of its path.
        if not target.startswith("/"):
            return _status(400, "BadRequest", "this proxy takes a path, and no other server's address")
        call = Call(request, session, target)
        try:
            if session.rehearsal is not None:
                return await self._rehearse(call, session.rehearsal)
            if request.method == "GET" and "Upgrade" not in request.headers:
                accept = request.headers.get("Accept")
                content = from_store(call.info, request.query, accept, session=session, covering=self._covering)
                if content is not None:
                    return web.Response(body=content, content_type="application/json", headers={"X-Cache": "HIT"})
            return await self._pass_on(call)
        except (ConnectionError, asyncio.CancelledError, web.HTTPException):
            # The run went away in the middle of its own request, or sent too much.
            raise
        except (aiohttp.ClientError, TimeoutError, KubeError) as error:
            logger.warning("The API server gave a run no answer", extra={"path": call.path, "error": str(error)})
            return _status(503, "ServiceUnavailable", f"the API server gave no answer: {error}")
        except Exception:
            logger.exception("A run's request failed unexpectedly", extra={"method": request.method, "path": call.path})
            return _status(500, "InternalError", "the runner's proxy failed; its log says more")

    async def _rehearse(self, call: Call, rehearsal: Rehearsal) -> web.StreamResponse:
        """A plan's request: reads are passed on, dry runs as well and kept, anything else is refused."""
        request, method = call.request, call.request.method
        body = await request.read() if request.body_exists else None
        try:
            if method in READS:
                # As the server takes it apart, so that no spelling hides a subresource.
                connects = parse(unquote(call.path)).subresource.partition("/")[0] in _CONNECTS
                check_read(method, call.path, connects=connects or "Upgrade" in request.headers)
            elif not is_question(method, call.info):
                body = check_write(method, call.path, dry_run=request.query.getall("dryRun", []), body=body)
        except Refusal as refusal:
            rehearsal.refused.append(f"{method} {call.path}")
            return _status(403, "Forbidden", str(refusal))
        if method == "GET" and call.path == rehearsal.path and not request.query:
            return web.json_response(rehearsal.cr)
        if method in READS or is_question(method, call.info):
            return await self._pass_on(call)
        if body is not None and call.session.inject_owner:
            body = await self._owned(body, call)
        before = None
        if call.info.name:
            with contextlib.suppress(NotFound):
                before = await self._client.get(call.path)
        # JSON both ways, whatever the client likes better: it is read here.
        headers = _forward(request.headers, drop=_REQUEST_ONLY | {"accept", "accept-encoding"})
        headers["Accept"] = "application/json"
        if method == "DELETE":
            headers["Content-Type"] = "application/json"
        url = URL(self._client.server + call.target, encoded=True)
        async with self._client.session.request(method, url, data=body, headers=headers, timeout=_TIMEOUT) as answer:
            content = await answer.read()
        obj = _object(content) if answer.status < 300 else None
        if obj is not None and method == "DELETE":
            rehearsal.keep_deleted(before=before, answer=obj)
        elif obj is not None:
            rehearsal.keep(call.info, before=before, sent=_object(body or b""), answer=obj)
        return web.Response(status=answer.status, body=content, content_type=answer.content_type)

    async def _pass_on(self, call: Call) -> web.StreamResponse:
        request = call.request
        body = await request.read() if request.body_exists else None
        if body is not None and call.session.inject_owner:
            body = await self._owned(body, call)
        headers = _forward(request.headers, drop=_REQUEST_ONLY)
        if upgrade := request.headers.get("Upgrade"):
            headers.update({"Connection": "Upgrade", "Upgrade": upgrade})
        try:
            async with self._client.session.request(
                request.method,
                URL(self._client.server + call.target, encoded=True),
                data=body,
                headers=headers,
                timeout=_TIMEOUT,
                allow_redirects=False,
                auto_decompress=False,
                # What the run did not send is not made up here.
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            ) as answer:
                if _is_one_object(call, answer):
                    return await self._whole(call, answer)
                if call.writes and not 400 <= answer.status < 500:
                    call.session.writes.add(call.info, None)
                return await _stream(call, answer)
        except (aiohttp.ClientError, TimeoutError, asyncio.CancelledError):
            # It may have been done all the same.
            if call.writes:
                call.session.writes.add(call.info, None)
            raise

    async def _owned(self, body: bytes, call: Call) -> bytes:
        """The body with the owner added, if this creates an object, or applies one that is the owner's already."""
        info, owner, kind = call.info, call.session.owner, call.request.content_type
        applies = call.request.method == "PATCH" and kind == _APPLY and info.name
        creates = call.request.method == "POST" and not info.name
        if not info.is_resource or info.subresource or not (applies or creates):
            return body
        resource = await self._discovery.by_plural(info.api_version, info.plural)
        # Reviews (SubjectAccessReview, TokenReview …) are created but not kept.
        if resource is None or not {"get", "list"} & resource.verbs:
            return body
        obj = _object(body)
        if obj is None:
            # Protobuf, YAML, something compressed, or nothing that the API server would take either.
            logger.debug("Passed on without an owner", extra={"path": call.path, "content_type": kind})
            return body
        if applies and not await self._may_own(call):
            return body
        if not own(obj, owner, namespace=info.namespace if resource.namespaced else ""):
            return body
        return json.dumps(obj).encode()

    async def _may_own(self, call: Call) -> bool:
        """Whether an applied object is not there yet, or has the owner already.

        In that case each apply has to name the owner, since what an applier leaves out the next time is taken away.
        """
        content = from_store(call.info, MultiDict(), None, session=call.session, covering=self._covering)
        try:
            existing = json.loads(content) if content else await self._client.get(call.path)
        except NotFound:
            return True
        except KubeError:
            # The apply itself will hear of it.
            return False
        return is_owned(existing, call.session.owner)

    async def _whole(self, call: Call, answer: aiohttp.ClientResponse) -> web.Response:
        """Pass on one object. Remember what was written, and have the object's kind watched if it is the owner's."""
        info, session = call.info, call.session
        content = await answer.read()
        if call.request.method == "DELETE":
            session.writes.add(info, None)
            session.has_deleted(_object(content) or {})
            return web.Response(status=answer.status, reason=answer.reason, headers=_forward(answer.headers), body=content)
        # Reading every object costs more than looking for the owner's name in the bytes first.
        if call.writes or session.owner.uid.encode() in content or session.owner.key.name.encode() in content:
            obj = _object(content)
            if call.writes:
                session.writes.add(info, _version(obj))
                session.has_written(obj or {})
            elif obj is not None:
                session.has_read(obj)
            is_event = (split_api_version(info.api_version)[0], info.plural) in _EVENTS
            if obj is not None and not info.subresource and not is_event and is_owned(obj, session.owner):
                # What was done is done, and told to the run, also if its kind cannot be found out now.
                with contextlib.suppress(KubeError):
                    resource = await self._discovery.by_plural(info.api_version, info.plural)
                    if resource is not None:
                        session.on_dependent(resource, obj)
        return web.Response(status=answer.status, reason=answer.reason, headers=_forward(answer.headers), body=content)


@dataclass(frozen=True, slots=True)
class Call:
    """A run's request. `target`: the path and query for the API server; `writes`: whether it changes what may be read."""

    request: web.Request
    session: Session
    target: str
    info: RequestInfo = field(init=False)
    writes: bool = field(init=False)

    def __post_init__(self) -> None:
        info = parse(self.path)
        writes = info.is_resource and info.subresource.partition("/")[0] not in _CONNECTS
        writes = writes and self.request.method in _WRITES and "dryRun" not in self.request.query
        object.__setattr__(self, "info", info)
        object.__setattr__(self, "writes", writes)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


def _is_one_object(call: Call, answer: aiohttp.ClientResponse) -> bool:
    """An object in full as JSON, or what became of it: the answer to a read by name or to a write."""
    method, info = call.request.method, call.info
    reads = method == "GET" and info.name and not info.subresource and "watch" not in call.request.query
    if answer.status >= 300 or not (reads or call.writes) or (method == "DELETE" and not info.name):
        return False
    return answer.content_type == "application/json" and "Content-Encoding" not in answer.headers


def _object(content: bytes) -> dict[str, Any] | None:
    """The JSON object with metadata that this is; None if it is none, or one that the API server would refuse."""
    try:
        obj = json.loads(content)
    except ValueError:
        return None
    metadata = obj.get("metadata", {}) if isinstance(obj, dict) else None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("annotations") or {}, dict):
        return None
    references = metadata.get("ownerReferences") or []
    if not isinstance(references, list) or not all(isinstance(reference, dict) for reference in references):
        return None
    return dict(obj)


def _version(obj: Object | None) -> str | None:
    """The resourceVersion that a write gave; None if there is none to go by."""
    # An update that took the last finalizer off has deleted the object, at a version that is not told.
    return None if obj is None or is_deleting(obj) else obj.get("metadata", {}).get("resourceVersion")


async def _stream(call: Call, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    request = call.request
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=_forward(answer.headers))
    if answer.status == 101:
        response.headers.update({"Connection": "Upgrade", "Upgrade": answer.headers.get("Upgrade", "")})
        await tunnel.pass_through(request, response, answer)
        return response
    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
    except (aiohttp.ClientPayloadError, aiohttp.ClientOSError) as error:
        # Too late for an answer of our own: the run sees a body that breaks off, as it would without the proxy.
        logger.warning("The API server broke off an answer", extra={"path": call.path, "error": str(error)})
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the API server broke off an answer") from error
    await response.write_eof()
    return response


def _forward(headers: CIMultiDictProxy[str], *, drop: Iterable[str] = ()) -> CIMultiDict[str]:
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if (lower := name.lower()) not in _HOP_HEADERS and lower not in drop and not lower.startswith(_IMPERSONATION)
    )


def _status(code: int, reason: str, message: str) -> web.Response:
    """An answer in the API server's own form, which every client can read."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return web.json_response(body, status=code)
