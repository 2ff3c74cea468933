"""The proxy: passes a run's API calls on with the runner's rights, and sees to it that what they create is found again.

A creation gets the CR as its owner. Whatever is created, or found to be the CR's already, has its kind watched from then
on. Everything else goes through as it came, bytes for bytes, both ways.

Next on the way: `runner.kube.informer`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from runner.kube.client import ApiClient, KubeError
from runner.kube.discovery import Discovery
from runner.proxy.requestinfo import RequestInfo, parse
from runner.proxy.sessions import Session, Sessions
from runner.resource.metadata import is_owned, own

logger = logging.getLogger(__name__)

# Of this connection only (RFC 9110, 7.6.1), or ours to set. `Host` names the proxy.
_HOP_HEADERS = frozenset(
    """
    connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade host
    """.split()
)
_REQUEST_ONLY = frozenset({"authorization", "content-length"})
_IMPERSONATION = "impersonate-"
# The API server's own limit for an object is about 3 MiB.
_BODY_LIMIT = 16 * 1024 * 1024
# No limit on the whole: watches and logs are followed for as long as the run likes.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)


class ProxyServer:
    """Listens on loopback while it is entered (`async with`); `port` is then the real one."""

    def __init__(self, client: ApiClient, discovery: Discovery, sessions: Sessions, *, port: int) -> None:
        self.port = port
        self._client = client
        self._discovery = discovery
        self._sessions = sessions
        application = web.Application(client_max_size=_BODY_LIMIT)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, auto_decompress=False)

    async def __aenter__(self) -> ProxyServer:
        """Raises OSError when the port is taken."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, shutdown_timeout=1)
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
        session = self._sessions.by_authorization(request.headers.get("Authorization"))
        if session is None:
            return _status(401, "Unauthorized", "this proxy serves only the runs of its runner, each with its own token")
        try:
            return await self._pass_on(request, session)
        except (aiohttp.ClientError, TimeoutError, KubeError) as error:
            logger.warning("The API server gave a run no answer", extra={"path": request.path, "error": str(error)})
            return _status(503, "ServiceUnavailable", f"the API server gave no answer: {error}")
        except (ConnectionResetError, asyncio.CancelledError):
            # The run went away in the middle of its own request.
            raise
        except Exception:
            logger.exception("A run's request failed unexpectedly", extra={"method": request.method, "path": request.path})
            return _status(500, "InternalError", "the runner's proxy failed; its log says more")

    async def _pass_on(self, request: web.Request, session: Session) -> web.StreamResponse:
        info = parse(request.path)
        if request.headers.get("Upgrade"):
            return _status(501, "NotImplemented", "this proxy passes no upgraded connections (exec, attach, port-forward)")
        body = await request.read() if request.body_exists else None
        if body is not None and request.method == "POST" and session.inject_owner:
            body = await self._owned(body, request, info, session)
        async with self._client.session.request(
            request.method,
            URL(self._client.server + request.raw_path, encoded=True),
            data=body,
            headers=_forward(request.headers, drop=_REQUEST_ONLY),
            timeout=_TIMEOUT,
            allow_redirects=False,
            auto_decompress=False,
            # What the run did not send is not made up here.
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        ) as answer:
            if _is_one_object(request, info, answer):
                return await self._whole(request, info, session, answer)
            return await _stream(request, answer)

    async def _owned(self, body: bytes, request: web.Request, info: RequestInfo, session: Session) -> bytes:
        """The body with the owner added, if this creates an object."""
        if not info.is_resource or info.name or info.subresource:
            return body
        if "json" not in request.headers.get("Content-Type", "json"):
            return body
        try:
            obj = json.loads(body)
        except ValueError:
            # The API server says better what is wrong with it.
            return body
        if not isinstance(obj, dict) or not isinstance(obj.get("metadata", {}), dict):
            return body
        resource = await self._discovery.by_plural(info.api_version, info.plural)
        # Reviews (SubjectAccessReview, TokenReview …) are created but not kept.
        if resource is None or not {"get", "list"} & resource.verbs:
            return body
        if not own(obj, session.owner, namespace=info.namespace if resource.namespaced else ""):
            return body
        return json.dumps(obj).encode()

    async def _whole(
        self, request: web.Request, info: RequestInfo, session: Session, answer: aiohttp.ClientResponse
    ) -> web.Response:
        """Pass on one object, and have its kind watched if it turns out to be the owner's."""
        content = await answer.read()
        # Reading every object costs more than looking for the owner's name in the bytes first.
        if session.owner.uid.encode() in content or session.owner.key.name.encode() in content:
            await self._notice(content, info, session)
        return web.Response(status=answer.status, reason=answer.reason, headers=_forward(answer.headers), body=content)

    async def _notice(self, content: bytes, info: RequestInfo, session: Session) -> None:
        try:
            obj: Any = json.loads(content)
        except ValueError:
            return
        if isinstance(obj, dict) and obj.get("kind") != "Status" and is_owned(obj, session.owner):
            resource = await self._discovery.by_plural(info.api_version, info.plural)
            if resource is not None:
                session.on_dependent(resource)


def _is_one_object(request: web.Request, info: RequestInfo, answer: aiohttp.ClientResponse) -> bool:
    """An object in full as JSON: the answer to a read by name or to a write."""
    if not info.is_resource or info.subresource or answer.status >= 300 or request.method == "DELETE":
        return False
    if request.method == "GET" and (not info.name or "watch" in request.query):
        return False
    return answer.content_type == "application/json" and "Content-Encoding" not in answer.headers


async def _stream(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=_forward(answer.headers))
    await response.prepare(request)
    async for chunk in answer.content.iter_any():
        await response.write(chunk)
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
