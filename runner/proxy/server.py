"""The proxy: passes a run's API calls on with the runner's rights, and sees to it that what they create is found again.

A creation gets the CR as its owner. Whatever is created, or found to be the CR's already, has its kind watched from then
on, and what is watched is read from the informers' stores. What is written to it is sent with the version that is known
(`runner.proxy.preconditions`). Everything else goes through as it came, bytes for bytes, both ways.

Next on the way: `runner.kube.informer`, `runner.proxy.preconditions` and `runner.proxy.tunnel`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Mapping, Set
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
from aiohttp import web
from aiohttp.http import HttpVersion11
from multidict import CIMultiDict, CIMultiDictProxy, MultiDict
from yarl import URL

from runner.json_codec import decode, encode
from runner.kube.client import ApiClient, Conflict, KubeError, NotFound
from runner.kube.discovery import Discovery
from runner.proxy import preconditions, tunnel
from runner.proxy.cached_reads import Covering, from_store
from runner.proxy.dry_run import READS, DryRun, Refusal, check_read, check_write, is_question
from runner.proxy.preconditions import Answer
from runner.proxy.requestinfo import RequestInfo, parse
from runner.proxy.sessions import Session, Sessions
from runner.resource.metadata import Object, is_deleting, is_owned, own, split_api_version

logger = logging.getLogger(__name__)

# An answer, for as long as it is read.
Asked = AbstractAsyncContextManager[aiohttp.ClientResponse]
# One end of a connection: host and port.
Address = tuple[str, int]

# Of this connection only (RFC 9110, 7.6.1), or ours to set. `Host` names the proxy.
_HOP_HEADERS = frozenset(
    """
    connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade host
    """.split()
)
_REQUEST_ONLY = frozenset({"authorization", "content-length", "expect"})
# The API server asks whether the runner may do so.
_IMPERSONATION = "impersonate-"
# A server-side apply, which creates what is not there.
_APPLY = "application/apply-patch+yaml"
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# They tell of an object and are no part of it: a role that writes one with each run would be run for each one, for ever.
_EVENTS = frozenset({("", "events"), ("events.k8s.io", "events")})
# What Kubernetes calls connecting, whatever the method: it writes nothing that could be read.
_CONNECTS = frozenset({"attach", "exec", "portforward", "proxy"})
_OLD_WATCH = re.compile(r"/(api|apis/[^/]+)/[^/]+/watch/")
# The API server's own limit for an object is about 3 MiB.
_BODY_LIMIT = 16 * 1024 * 1024
# The API server's own for a request's headers. A command for a pod is in the first line.
_LINE_LIMIT = 1024 * 1024
# The API server ends each request after 60 seconds. What is silent for longer than this has lost its peer.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=75)
# Watches and logs are followed, and pods connected to, for as long as the run likes: they may be silent for as long. That
# their peer is lost the connection itself notices (keepalive).
_ENDLESS = aiohttp.ClientTimeout(total=None, sock_connect=10)
_UNAUTHORIZED = (
    "this proxy serves only the runs of its runner, each with its own token; $KUBECONFIG and $K8S_AUTH_KUBECONFIG are the "
    "kubeconfigs that have it"
)
# Others may write what has just been created.
_OWNING_TRIES = 5


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
        # By the local address of a connection to this server itself: the credentials of the one that it was made for.
        self._connected: dict[Address, str] = {}

    async def __aenter__(self) -> ProxyServer:
        """Raises OSError when the port is taken."""
        # Without an application's routes and middlewares, which cost a request some tenths of a millisecond, and through
        # which CONNECT, whose target is no path, finds no way.
        server = web.Server(
            self._answer,
            request_factory=_request,
            access_log=None,
            auto_decompress=False,
            # A watch that nobody listens to any more is ended, and not when the server next has something to say.
            handler_cancellation=True,
            max_line_size=_LINE_LIMIT,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=1)
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

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if expected := request.headers.get("Expect"):
            if expected.lower() != "100-continue":
                raise web.HTTPExpectationFailed(text=f"Unknown Expect: {expected[:100]}")
            # Some clients wait for it before they send a body. It is no part of the answer.
            if request.version >= HttpVersion11:
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
        return await self._handle(request)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        authorizations = [request.headers.get(name) for name in ("Authorization", "Proxy-Authorization")]
        own = f"127.0.0.1:{self.port}"
        if request.method == "CONNECT" and request.raw_path == own:
            return await self._connect(request, *authorizations)
        # As clients ask an HTTP proxy, if it is for this server.
        target = request.raw_path.removeprefix(f"http://{own}")
        session, target = self._sessions.of(target, *authorizations, self._connected.get(_peer(request)))
        if session is None:
            refusal = _status(401, "Unauthorized", _UNAUTHORIZED)
            # Some clients send what they have only when they are asked for it.
            refusal.headers["WWW-Authenticate"] = 'Basic realm="rolerunner"'
            return refusal
        # Behind the server's address nothing else may take the place of its path. What follows a `#` would be looked at here
        # and not be sent on.
        if not target.startswith("/") or "#" in target:
            return _status(400, "BadRequest", "this proxy takes a path, without a fragment, and no other server's address")
        call = Call(request, session, target)
        try:
            if session.dry_run is not None:
                return await self._dry_run(call, session.dry_run)
            # What another user may read is not for a store to say.
            if request.method == "GET" and "Upgrade" not in request.headers and not call.impersonates:
                accept = request.headers.get("Accept")
                content = from_store(call.info, request.query, accept, session=session, covering=self._covering)
                if content is not None:
                    return web.Response(body=content, content_type="application/json", headers={"X-Cache": "HIT"})
            return await self._pass_on(call)
        except (ConnectionError, asyncio.CancelledError, web.HTTPException):
            # The run went away in the middle of its own request, or sent too much.
            raise
        except TimeoutError as error:
            logger.warning("The API server gave a run no answer in time", extra={"path": call.path, "error": str(error)})
            return _status(504, "Timeout", f"the API server gave no answer in time: {error}")
        except (aiohttp.ClientError, KubeError) as error:
            logger.warning("The API server gave a run no answer", extra={"path": call.path, "error": str(error)})
            return _status(503, "ServiceUnavailable", f"the API server gave no answer: {error}")
        except Exception:
            logger.exception("A run's request failed unexpectedly", extra={"method": request.method, "path": call.path})
            return _status(500, "InternalError", "the runner's proxy failed; its log says more")

    async def _connect(self, request: web.BaseRequest, *authorizations: str | None) -> web.StreamResponse:
        """Serve as an HTTP proxy in front of this server itself, as clients have it for what they upgrade.

        What Go's clients send through the connection has no credentials any more, so those of the connection count. Python's
        are the other way round.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        address = _address(writer.get_extra_info("sockname"))
        self._connected[address] = next(filter(None, authorizations), "")
        try:
            response = web.StreamResponse()
            await tunnel.join(request, response, reader, writer)
            return response
        finally:
            del self._connected[address]
            writer.close()

    async def _dry_run(self, call: Call, dry_run: DryRun) -> web.StreamResponse:
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
            dry_run.refused.append(f"{method} {call.path}")
            return _status(403, "Forbidden", str(refusal))
        if method == "GET" and call.path == dry_run.path and not request.query:
            return web.json_response(dry_run.cr)
        if method in READS or is_question(method, call.info):
            return await self._pass_on(call)
        if body is not None and call.session.inject_owner:
            body = (await self._owned(body, call))[0]
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
            dry_run.record_deletion(before=before, answer=obj)
        elif obj is not None:
            dry_run.record(call.info, before=before, sent=_object(body or b""), answer=obj)
        return web.Response(status=answer.status, body=content, content_type=answer.content_type)

    async def _pass_on(self, call: Call) -> web.StreamResponse:
        request = call.request
        body = await request.read() if request.body_exists else None
        if call.writes and (call.info.name or request.method == "POST"):
            return await self._write(call, body)
        if body is not None and call.session.inject_owner:
            body, _ = await self._owned(body, call)
        headers = _forward(request.headers, drop=_REQUEST_ONLY)
        if upgrade := request.headers.get("Upgrade"):
            headers.update({"Connection": "Upgrade", "Upgrade": upgrade})
        if call.reads_one:
            _uncompressed(headers)
        try:
            async with self._asked(call, body, headers) as answer:
                if call.reads_one and _is_json(answer.status, answer.headers):
                    return await self._read_one(call, answer)
                if call.writes and not 400 <= answer.status < 500:
                    call.session.writes.add(call.info, None)
                return await _stream(call, answer)
        except (aiohttp.ClientError, TimeoutError, asyncio.CancelledError):
            # It may have been done all the same.
            if call.writes:
                call.session.writes.add(call.info, None)
            raise

    def _asked(self, call: Call, body: bytes | None, headers: CIMultiDict[str]) -> Asked:
        return self._client.session.request(
            call.request.method,
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
        # Reading every object costs more than looking for the owner's name in the bytes first.
        if session.owner.uid.encode() in content or session.owner.key.name.encode() in content:
            obj = _object(content)
            if obj is not None:
                session.has_read(call.info, obj)
                await self._notice(call, obj)
        return web.Response(status=answer.status, reason=answer.reason, headers=_forward(answer.headers), body=content)

    async def _write(self, call: Call, body: bytes | None) -> web.Response:
        """Pass on a write to one object. Remember what it did, and have the object's kind watched if it is the owner's."""
        info, session, method = call.info, call.session, call.request.method
        to_own = False
        if body is not None and session.inject_owner:
            body, to_own = await self._owned(body, call)
        headers = _forward(call.request.headers, drop=_REQUEST_ONLY)
        # What was written has to be understood, whatever the client likes better.
        _uncompressed(headers)
        _json_if_acceptable(headers)

        async def ask(sent: Any) -> Answer:
            data = body if sent is None else encode(sent)
            async with self._asked(call, data, headers) as answer:
                return Answer(answer.status, answer.reason, answer.headers, await answer.read())

        try:
            if info.name and method != "POST" and self._covers(call):
                write = preconditions.Write(method, call.request.content_type, info.subresource, _decoded(body or b""))
                answer, before = await preconditions.send(
                    write, known=lambda: self._known(call), current=lambda: self._current(call), ask=ask
                )
            else:
                answer = await ask(None)
                before = "" if answer.status == 201 else None
        except (aiohttp.ClientError, TimeoutError, asyncio.CancelledError):
            # It may have been done all the same.
            session.writes.add(info, None)
            raise
        content = answer.content
        if not _is_json(answer.status, answer.headers):
            if not 400 <= answer.status < 500:
                session.writes.add(info, None)
        elif method == "DELETE":
            session.writes.add(info, None)
            if not _is_trial(body):
                session.has_deleted(info, _object(content) or {}, before=before)
        else:
            obj = _object(content)
            session.writes.add(info, _version(obj))
            if obj is not None:
                info = info if info.name else replace(info, name=str(obj.get("metadata", {}).get("name", "")))
                session.has_written(info, obj, before=before)
                if to_own and (owned := await self._made_owned(call, info, obj)) is not obj:
                    obj, content = owned, encode(owned)
                await self._notice(call, obj)
        headers = _forward(answer.headers, drop={"content-length"})
        return web.Response(status=answer.status, reason=answer.reason, headers=headers, body=content)

    async def _notice(self, call: Call, obj: Object) -> None:
        """Have the object's kind watched if it is the owner's."""
        info, session = call.info, call.session
        is_event = (split_api_version(info.api_version)[0], info.plural) in _EVENTS
        if info.subresource or is_event or not is_owned(obj, session.owner):
            return
        # What was done is done, and told to the run, also if its kind cannot be found out now.
        with contextlib.suppress(KubeError):
            resource = await self._discovery.by_plural(info.api_version, info.plural)
            # Metadata or a table may be all that was asked for.
            if resource is not None and obj.get("kind") in (None, resource.gvk.kind):
                session.on_dependent(resource, obj)

    def _covers(self, call: Call) -> bool:
        """Whether a watch tells of the object's changes."""
        info = call.info
        return self._covering(info.api_version, info.plural, info.namespace) is not None

    async def _known(self, call: Call) -> str:
        """The object's version as the run or a store knows it, or else as it is there."""
        info, session = replace(call.info, subresource=""), call.session
        if not session.shown(info):
            from_store(info, MultiDict(), None, session=session, covering=self._covering)
        return session.shown(info) or await self._current(call)

    async def _current(self, call: Call) -> str:
        """The object's version; empty if there is none, or none that can be read."""
        info = replace(call.info, subresource="")
        path = call.path.removesuffix(f"/{call.info.subresource}") if call.info.subresource else call.path
        try:
            obj = await self._client.get(path)
        except KubeError:
            return ""
        call.session.has_read(info, obj)
        return str(obj.get("metadata", {}).get("resourceVersion", ""))

    async def _owned(self, body: bytes, call: Call) -> tuple[bytes, bool]:
        """The body with the owner added, if this creates an object, or writes all of one that is the owner's already.

        Also whether the owner is to be added to what comes of it, as the body is one that cannot be read here.
        """
        info, owner, method = call.info, call.session.owner, call.request.method
        creates = method == "POST" and not info.name
        # What an applier or an update leaves out is taken away. Both create what is not there.
        rewrites = bool(info.name) and (method == "PUT" or (method == "PATCH" and call.request.content_type == _APPLY))
        if not info.is_resource or info.subresource or not (creates or rewrites):
            return body, False
        resource = await self._discovery.by_plural(info.api_version, info.plural)
        # Reviews (SubjectAccessReview, TokenReview …) are created but not kept.
        if resource is None or not {"get", "list"} & resource.verbs:
            return body, False
        obj = _object(body)
        if obj is not None and is_owned(obj, owner):
            return body, False
        if rewrites and not await self._may_own(call):
            return body, False
        if obj is None:
            # Protobuf, YAML, something compressed, or nothing that the API server would take either.
            return body, True
        own(obj, owner, namespace=info.namespace if resource.namespaced else "")
        return encode(obj), False

    async def _made_owned(self, call: Call, info: RequestInfo, obj: dict[str, Any]) -> dict[str, Any]:
        """The object with its owner added in the cluster; as it is if that cannot be done."""
        session = call.session
        path = call.path if call.info.name else f"{call.path.rstrip('/')}/{quote(info.name)}"
        try:
            for _ in range(_OWNING_TRIES):
                if is_owned(obj, session.owner) or is_deleting(obj):
                    return obj
                before = obj["metadata"]["resourceVersion"]
                marked = {"metadata": dict(obj["metadata"])}
                own(marked, session.owner, namespace=obj["metadata"].get("namespace", ""))
                names = ("annotations", "ownerReferences", "resourceVersion")
                patch = {name: value for name, value in marked["metadata"].items() if name in names}
                try:
                    obj = await self._client.patch(path, {"metadata": patch})
                except Conflict:
                    obj = await self._client.get(path)
                else:
                    session.writes.add(info, _version(obj))
                    session.has_written(info, obj, before=before)
        except KubeError as error:
            logger.warning("What a run has created got no owner", extra={"path": path, "error": str(error)})
        return obj

    async def _may_own(self, call: Call) -> bool:
        """Whether an object that is written in full is not there yet, or has the owner already."""
        content = from_store(call.info, MultiDict(), None, session=call.session, covering=self._covering)
        try:
            existing = decode(content) if content else await self._client.get(call.path)
        except NotFound:
            return True
        except KubeError:
            # The write itself will hear of it.
            return False
        call.session.has_read(call.info, existing)
        return is_owned(existing, call.session.owner)


@dataclass(frozen=True, slots=True)
class Call:
    """A run's request. `target`: the path and query for the API server; `writes`: whether it changes what may be read."""

    request: web.BaseRequest
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

    @property
    def impersonates(self) -> bool:
        return any(name.lower().startswith(_IMPERSONATION) for name in self.request.headers)

    @property
    def reads_one(self) -> bool:
        info = self.info
        return self.request.method == "GET" and bool(info.name) and not info.subresource and not self.is_endless

    @property
    def is_endless(self) -> bool:
        """Whether the answer may be silent for any time: a watch, a log that is followed, a connection into a pod."""
        follows = any(_is_true(self.request.query.get(name)) for name in ("watch", "follow"))
        connects = self.info.subresource.partition("/")[0] in _CONNECTS or "Upgrade" in self.request.headers
        return follows or connects or _OLD_WATCH.match(self.path) is not None


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    """A request as aiohttp makes it, with a limit of our own for its body."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_BODY_LIMIT)


def _peer(request: web.BaseRequest) -> Address:
    """The client's end."""
    return _address(request.transport.get_extra_info("peername") if request.transport is not None else None)


def _address(name: Any) -> Address:
    """The whole of it: another of loopback's addresses may have the same port."""
    return (str(name[0]), int(name[1])) if name else ("", 0)


def _is_true(value: str | None) -> bool:
    """As the API server reads a parameter."""
    return value is not None and value.lower() not in ("false", "0")


def _is_json(status: int, headers: Mapping[str, str]) -> bool:
    """Whether this answer is JSON that tells of a success."""
    is_json = headers.get("Content-Type", "").partition(";")[0].strip().lower() == "application/json"
    return 200 <= status < 300 and is_json and "Content-Encoding" not in headers


def _uncompressed(headers: CIMultiDict[str]) -> None:
    if "Accept-Encoding" in headers:
        headers["Accept-Encoding"] = "identity"


def _json_if_acceptable(headers: CIMultiDict[str]) -> None:
    """Ask for JSON if the client takes it at all, though it may like protobuf better."""
    types = [kind.strip() for value in headers.getall("Accept", []) for kind in value.split(",")]
    if acceptable := [kind for kind in types if kind.partition(";")[0].strip() in ("application/json", "*/*")]:
        headers["Accept"] = ",".join(acceptable)


def _is_trial(body: bytes | None) -> bool:
    """Whether a deletion's options say that it is a dry run, as kubectl's do; beside them the query counts for nothing."""
    options = _decoded(body or b"")
    return isinstance(options, dict) and bool(options.get("dryRun"))


def _decoded(content: bytes) -> Any:
    """The JSON that this is; None if it is none. At its largest (`_BODY_LIMIT`) it takes a fraction of a second."""
    try:
        return decode(content)
    except (ValueError, RecursionError):
        return None


def _object(content: bytes) -> dict[str, Any] | None:
    """The JSON object with metadata that this is; None if it is none, or one that the API server would refuse."""
    obj = _decoded(content)
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
    except (aiohttp.ClientPayloadError, aiohttp.ClientOSError, aiohttp.ServerTimeoutError) as error:
        # Too late for an answer of our own: the run sees a body that breaks off, as it would without the proxy.
        logger.warning("The API server broke off an answer", extra={"path": call.path, "error": str(error)})
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the API server broke off an answer") from error
    await response.write_eof()
    return response


def _forward(headers: CIMultiDictProxy[str], *, drop: Set[str] = frozenset()) -> CIMultiDict[str]:
    dropped = _HOP_HEADERS | drop
    return CIMultiDict([(name, value) for name, value in headers.items() if name.lower() not in dropped])


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
