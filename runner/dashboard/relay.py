"""The relay: has the leader answer what this replica, which waits to lead, is asked for.

Over TLS, and to none but who has the certificate that the Lease names. The leader decides who gets in, and needs for that
what the browser has sent of host, origin, cookie and token; it gets no other headers. Where each of two replicas takes the
other for the leader, the second one refuses: what has been forwarded is not forwarded again.

Next on the way: `runner.dashboard.logins`, for what counts of an address that a request was forwarded for.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from runner.dashboard import forms
from runner.dashboard.deadlines import Deadlines
from runner.dashboard.leader import LeaderEndpoint
from runner.dashboard.logins import FORWARDED_FOR, LIVE, session_cookie
from runner.dashboard.templating import page
from runner.logs import Once
from runner.proxy.call import forwarded

logger = logging.getLogger(__name__)

# What of a request the leader's dashboard reads, besides its own cookie.
_FORWARDED = frozenset(
    """
    host origin sec-fetch-site sec-fetch-mode sec-fetch-dest sec-fetch-user authorization content-type accept
    """.split()
) | {LIVE.lower()}
_COOKIE = re.compile(r"[\w-]+", re.ASCII)
# Connections to the leader; its streams, which alone are held for long, are fewer (`runner.dashboard.live`).
_CONNECTIONS = 80
# Seconds in which there has to be a connection; in which the leader has to say something, as its streams do more often; for
# one answer. An idle connection is given up before the leader does so.
_CONNECT, _SILENCE, _LONGEST, _IDLE = 5.0, 40.0, 180.0, 5.0
# Seconds after which a program may try again.
_RETRY_AFTER = 5
# Reasons for no answer that are logged once, until there is an answer.
_MOST_REASONS = 10


class Relay:
    """Forwards requests to the leader, which `leader` finds: None where this replica knows none, or leads itself."""

    def __init__(self, leader: Callable[[], LeaderEndpoint | None]) -> None:
        self._leader = leader
        self._session: aiohttp.ClientSession | None = None
        # The leader of the last request. aiohttp knows connections apart by the fingerprint's object.
        self._known: tuple[LeaderEndpoint, aiohttp.Fingerprint] | None = None
        self._deadlines = Deadlines()
        self._trouble = Once(limit=_MOST_REASONS)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Forward requests until the end of this context."""
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=_IDLE)
        # The cookies are the callers'.
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, auto_decompress=False) as self._session:
            yield

    def close(self) -> None:
        """Have all answers end that have not yet, as when this replica leads."""
        self._deadlines.expire()

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        """The leader's answer, or why there is none; None where this replica has to answer itself.

        Raises HTTPBadRequest and the other errors of `forms.content`.
        """
        if self._leader() is None:
            return None
        if FORWARDED_FOR in request.headers:
            return _page(request, "The replicas do not agree yet on which of them leads.")
        # Whole, as it is small: a form that comes slowly takes no connection of the leader's.
        body = await forms.content(request) if request.method == "POST" else None
        # By now this replica may lead.
        leader = self._leader()
        if leader is None:
            return None
        headers, url, pinned = _headers(request), _url(request, leader), self._pin(leader)
        stream: web.StreamResponse | None = None
        try:
            async with (
                self._deadlines.after(_LONGEST),
                self._send(request.method, url, body, headers, pinned) as answer,
            ):
                self._trouble.reset()
                if answer.content_type != "text/event-stream":
                    return await _whole(answer)
                stream = web.StreamResponse(status=answer.status, reason=answer.reason, headers=forwarded(answer.headers))
                await stream.prepare(request)
                async for chunk in answer.content.iter_any():
                    await stream.write(chunk)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            if stream is None:
                self._log_trouble(leader, error)
                return _page(request, "The replica that leads does not answer.")
            # Too late for an answer of our own: the browser sees one that breaks off, and asks again.
            if request.transport is not None:
                request.transport.abort()
        return stream

    def _send(
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

    def _pin(self, leader: LeaderEndpoint) -> aiohttp.Fingerprint:
        """The fingerprint of the leader's certificate. What an earlier leader has not answered yet is given up."""
        if self._known is None or self._known[0] != leader:
            former, self._known = self._known, (leader, aiohttp.Fingerprint(leader.fingerprint))
            if former:
                self._deadlines.expire()
        return self._known[1]

    def _log_trouble(self, leader: LeaderEndpoint, error: Exception) -> None:
        # aiohttp's own texts have the address that was asked for, which a stranger may have made up.
        reason = getattr(error, "strerror", None) or type(error).__name__
        if isinstance(error, aiohttp.ServerFingerprintMismatch):
            reason = "another certificate"
        if self._trouble.is_new(reason):
            fields = {"address": str(leader.address), "reason": reason}
            logger.warning("The leader's dashboard could not be asked", extra=fields)


async def _whole(answer: aiohttp.ClientResponse) -> web.Response:
    """An answer that has an end. Its reader may be slow: the connection to the leader is free before."""
    # That to a HEAD has the length of what is not sent.
    body = await answer.read() or None
    return web.Response(status=answer.status, reason=answer.reason, headers=forwarded(answer.headers), body=body)


def _headers(request: web.Request) -> CIMultiDict[str]:
    """The headers for the leader. Raises HTTPBadRequest."""
    headers = CIMultiDict([(name, value) for name, value in request.headers.items() if name.lower() in _FORWARDED])
    try:
        for value in headers.values():
            value.encode()
    except UnicodeEncodeError:
        raise web.HTTPBadRequest(text="A header is no UTF-8.") from None
    # A host's other cookies are none of the leader's business.
    name = session_cookie(request)
    if _COOKIE.fullmatch(cookie := request.cookies.get(name, "")):
        headers["Cookie"] = f"{name}={cookie}"
    headers[FORWARDED_FOR] = request.remote or "unknown"
    return headers


def _url(request: web.Request, leader: LeaderEndpoint) -> URL:
    """What was asked for, of the leader: of an address that names another host, as those for proxies do, its path.

    Raises HTTPBadRequest.
    """
    asked = request.rel_url
    text = asked.raw_path_qs
    if not text.startswith("/") or not text.isascii() or not text.isprintable():
        raise web.HTTPBadRequest(text="The address is none.")
    return URL.build(
        scheme="https",
        authority=str(leader.address),
        path=asked.raw_path,
        query_string=asked.raw_query_string,
        encoded=True,
    )


def _page(request: web.Request, text: str) -> web.Response:
    is_form = request.method == "POST"
    if is_form:
        text += " What you asked for may have been done all the same: go back, and look."
    else:
        text += " This page asks again; it may take some seconds."
    answer = page(request, "message.html", status=503, heading="Nothing to be seen for now", text=text, live=not is_form)
    answer.headers["Retry-After"] = str(_RETRY_AFTER)
    return answer
