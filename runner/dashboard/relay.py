"""The relay: has the leader answer what this replica, which waits to lead, is asked for.

Over TLS, and to none but who has the certificate that the Lease names. The leader decides who gets in, and needs for that
what the browser has sent of host, origin, cookie and token; it gets no other headers. Where each of two replicas takes the
other for the leader, the second one refuses: what has been passed on is not passed on again.

Addresses count for wrong tokens alone (`runner.dashboard.logins`). Anybody who reaches the leader can claim to pass
something on, for any address: what counts is that address together with the peer's (`Sender`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from runner.dashboard import forms
from runner.dashboard.leader import Leader
from runner.dashboard.templating import page
from runner.logs import Once
from runner.proxy.call import forwarded

logger = logging.getLogger(__name__)

# On a request that a replica passes on: whom it is from.
FROM = "X-Rolerunner-From"
# What of a request the leader's dashboard reads.
_PASSED_ON = frozenset(
    """
    host origin sec-fetch-site sec-fetch-mode sec-fetch-dest sec-fetch-user cookie authorization content-type accept
    x-dashboard-live
    """.split()
)
# Connections to the leader, which has room for a few more of its own.
_CONNECTIONS = 80
# Seconds in which there has to be a connection; in which the leader has to say something, as its streams do more often; for
# one answer. An idle connection is given up before the leader does so.
_CONNECT, _SILENCE, _LONGEST, _IDLE = 5.0, 40.0, 180.0, 5.0


@dataclass(frozen=True, slots=True)
class Sender:
    """Whom a request is from: the peer's address, and that for which it claims to pass the request on; empty if for none."""

    peer: str
    claimed: str = ""


def sender(request: web.Request) -> Sender:
    peer, claimed = request.remote or "", request.headers.get(FROM, "")
    try:
        return Sender(peer, str(ipaddress.ip_address(claimed)) if len(claimed) < 100 else "")
    except ValueError:
        return Sender(peer)


class Relay:
    """Passes requests on to the leader, which `leader` finds: None where this replica knows none, or leads itself."""

    def __init__(self, leader: Callable[[], Leader | None]) -> None:
        self._leader = leader
        self._session: aiohttp.ClientSession | None = None
        # aiohttp knows connections apart by the object.
        self._pinned: tuple[bytes, aiohttp.Fingerprint] | None = None
        self._deadlines: set[asyncio.Timeout] = set()
        self._trouble = Once(limit=1)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Pass on what comes until the end of this context."""
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=_IDLE)
        # The cookies are the callers'.
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, auto_decompress=False) as self._session:
            try:
                yield
            finally:
                self.close()

    def close(self) -> None:
        """Have all answers end that are on, as when this replica leads."""
        for deadline in self._deadlines:
            deadline.reschedule(asyncio.get_running_loop().time())

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        """The leader's answer, or why there is none; None where this replica has to answer itself.

        Raises HTTPBadRequest and the other errors of `forms.content`.
        """
        if FROM in request.headers:
            return _page(request, "The replicas do not agree yet on which of them leads.")
        if self._leader() is None:
            return None
        # Whole, as it is small: a form that comes slowly takes no connection of the leader's.
        body = await forms.content(request) if request.method == "POST" else None
        # By now this replica may lead.
        leader = self._leader()
        if leader is None:
            return None
        headers, url = _headers(request), _url(request, leader)
        begun = False
        try:
            async with (
                self._deadline(),
                self._ask(request.method, url, body, headers, self._pin(leader)) as answer,
            ):
                self._trouble.reset()
                response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=forwarded(answer.headers))
                begun = True
                return await _stream(request, response, answer)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if begun:
                # Too late for an answer of our own: the browser sees one that breaks off, and asks again.
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionResetError("the leader's answer broke off") from error
            self._log_trouble(leader, error)
            return _page(request, "The replica that leads does not answer.")

    def _ask(
        self, method: str, url: URL, body: bytes | None, headers: CIMultiDict[str], pinned: aiohttp.Fingerprint
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        assert self._session is not None
        return self._session.request(
            method,
            url,
            data=body,
            headers=headers,
            ssl=pinned,
            allow_redirects=False,
            # What the browser did not send is not made up here.
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            timeout=aiohttp.ClientTimeout(connect=_CONNECT, sock_read=_SILENCE),
        )

    @contextlib.asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        async with asyncio.timeout(_LONGEST) as deadline:
            self._deadlines.add(deadline)
            try:
                yield
            finally:
                self._deadlines.discard(deadline)

    def _pin(self, leader: Leader) -> aiohttp.Fingerprint:
        if self._pinned is None or self._pinned[0] != leader.fingerprint:
            self._pinned = (leader.fingerprint, aiohttp.Fingerprint(leader.fingerprint))
        return self._pinned[1]

    def _log_trouble(self, leader: Leader, error: Exception) -> None:
        reason = "another certificate" if isinstance(error, aiohttp.ServerFingerprintMismatch) else str(error)
        reason = reason or type(error).__name__
        if self._trouble.is_new(reason):
            fields = {"address": str(leader.address), "reason": reason}
            logger.warning("The leader's dashboard could not be asked", extra=fields)


async def _stream(request: web.Request, response: web.StreamResponse, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    await response.prepare(request)
    async for chunk in answer.content.iter_any():
        await response.write(chunk)
    await response.write_eof()
    return response


def _headers(request: web.Request) -> CIMultiDict[str]:
    """The headers for the leader. Raises HTTPBadRequest."""
    headers = CIMultiDict([(name, value) for name, value in request.headers.items() if name.lower() in _PASSED_ON])
    headers[FROM] = request.remote or "unknown"
    try:
        for value in headers.values():
            value.encode()
    except UnicodeEncodeError:
        raise web.HTTPBadRequest(text="A header is no UTF-8.") from None
    return headers


def _url(request: web.Request, leader: Leader) -> URL:
    """What was asked for, of the leader: of an address that names another host, as those for proxies do, its path.

    Raises HTTPBadRequest.
    """
    asked = request.rel_url
    if not asked.raw_path.startswith("/"):
        raise web.HTTPBadRequest(text="The address has no path.")
    return URL.build(
        scheme="https",
        host=leader.address.host,
        port=leader.address.port,
        path=asked.raw_path,
        query_string=asked.raw_query_string,
        encoded=True,
    )


def _page(request: web.Request, text: str) -> web.Response:
    text += " This page asks again; it may take some seconds."
    return page(request, "message.html", status=503, heading="Nothing to be seen for now", text=text, live=True)
