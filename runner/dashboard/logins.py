"""Logins: who a request is from, by a Kubernetes token or by the key of `rolerunner dev`.

A program sends its token with each request. A browser sends it once, and gets a cookie with a random number by which it is
known from then on; the token stays in the memory of this process, and is reviewed again and again. With dev's key, the
cookie follows from the key, so that it is good for the next process on the port as well.

Next on the way: `runner.dashboard.access`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from aiohttp import web

from runner.dashboard import forms
from runner.dashboard.access import Caller, KeyHolder, TokenHolder
from runner.dashboard.templating import page, see_other
from runner.kube.authorization import Access, User
from runner.kube.discovery import Discovery

# Seconds after which a browser has to log in again: since its last page that somebody asked for, and since it did.
_IDLE, _LONGEST = 3600.0, 12 * 3600.0
# Browsers that are logged in at once, of all users and of one; the oldest goes.
_MOST, _MOST_OF_USER = 500, 20
# Characters of a token; those of cloud providers have a few thousand.
_LONGEST_TOKEN = 16 * 1024
# Tokens that are not valid, which an address may send in a row, and the seconds after which one is forgotten.
_FAILURES, _FORGOTTEN = 10, 6.0
# A replica that forwards requests is many addresses. Those that send still more together are not refused, as others are
# among them: the tokens are reviewed one after the other, with so many seconds after one that is not valid.
_FAILURES_FORWARDED, _FORGOTTEN_FORWARDED, _PAUSE = 100, 0.6, 0.2
_MOST_ADDRESSES = 1000
# Tokens that are reviewed at once.
_REVIEWS = 8
# By which a page asks for itself: nobody is known to look at it.
LIVE = "X-Dashboard-Live"
# On a request that a replica forwards to the leader: the address that it is from.
FORWARDED_FOR = "X-Rolerunner-Forwarded-For"
# Of a cookie with this prefix browsers see to it that no other host has set it.
_PREFIX = "__Host-"
# How a client that has no cookie yet sends dev's key.
_KEY = "key"


@dataclass(frozen=True, slots=True)
class Sender:
    """Whom a request is from: the peer's address, and that for which it says to forward the request; empty if for none.

    Anybody who reaches the leader can say so, for any address: what counts is that address together with the peer's.
    """

    peer: str
    claimed: str = ""

    @classmethod
    def of(cls, request: web.Request) -> Sender:
        try:
            return cls(request.remote or "", str(ipaddress.ip_address(request.headers.get(FORWARDED_FOR, ""))))
        except ValueError:
            return cls(request.remote or "")


class Logins(Protocol):
    """Knows callers."""

    async def caller(self, request: web.Request) -> Caller | None:
        """Who the request is from; None: a stranger. Raises KubeError, and web.HTTPException for one that is refused."""

    def enter(self, request: web.Request) -> web.Response:
        """The answer to a stranger: how to get in."""

    def routes(self) -> Sequence[web.RouteDef]:
        """What strangers may ask for."""

    def serves(self, host: str, port: int) -> bool:
        """True if the header Host may be this."""


@dataclass(slots=True)
class _Browser:
    """A browser that is logged in."""

    token: str = field(repr=False)
    user: str
    form_token: str = field(repr=False)
    begun: float
    used: float

    @property
    def is_over(self) -> bool:
        now = monotonic()
        return now - self.used > _IDLE or now - self.begun > _LONGEST


class TokenLogins:
    """Logins with Kubernetes tokens, over TLS."""

    def __init__(self, access: Access, discovery: Discovery) -> None:
        self._access = access
        self._discovery = discovery
        # By the hash of the cookie, in the order of their logins.
        self._browsers: OrderedDict[str, _Browser] = OrderedDict()
        # Of each that has sent a token, and of each peer that has forwarded some.
        self._attempts = Attempts(_FAILURES, _FORGOTTEN)
        self._forwarded = Attempts(_FAILURES_FORWARDED, _FORGOTTEN_FORWARDED)
        self._reviewing, self._reviewing_slowly = asyncio.Semaphore(_REVIEWS), asyncio.Semaphore(1)

    async def caller(self, request: web.Request) -> Caller | None:
        if "Authorization" in request.headers:
            scheme, _, token = request.headers["Authorization"].strip().partition(" ")
            user = await self._user(request, token.strip()) if scheme.lower() == "bearer" else None
            return TokenHolder(user, self._access, self._discovery) if user else None
        key = _digest(request.cookies.get(session_cookie(request), ""))
        browser = self._browsers.get(key)
        if browser is None:
            return None
        user = None if browser.is_over else await self._access.user(browser.token)
        if user is None:
            self._browsers.pop(key, None)
            return None
        if LIVE not in request.headers and request.path != "/live":
            browser.used = monotonic()
        return TokenHolder(user, self._access, self._discovery, browser.form_token)

    def enter(self, request: web.Request) -> web.Response:
        if "Authorization" in request.headers:
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"})
        return page(request, "login.html", status=401, problem="", path=request.rel_url.raw_path_qs)

    def routes(self) -> Sequence[web.RouteDef]:
        return [web.get("/login", self._show), web.post("/login", self._log_in), web.post("/logout", self._log_out)]

    def serves(self, host: str, port: int) -> bool:
        # Services, ingresses and forwarded ports give it any name; browsers check the certificate and the cookie's host.
        return True

    async def _user(self, request: web.Request, token: str) -> User | None:
        """The user of a token that a client has sent. Raises KubeError and HTTPTooManyRequests."""
        if not token or len(token) > _LONGEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
            return None
        if user := self._access.known(token):
            # Many may have one address, that of an ingress or a forwarded port: what one of them sends must not keep the
            # others out.
            return user
        sender = Sender.of(request)
        self._attempts.check(sender)
        is_slow = bool(sender.claimed) and self._forwarded.wait(sender.peer) > 0
        async with self._reviewing_slowly if is_slow else self._reviewing:
            user = await self._access.user(token)
            if user is None and is_slow:
                await asyncio.sleep(_PAUSE)
        if user is None:
            self._attempts.fail(sender)
            if sender.claimed:
                self._forwarded.fail(sender.peer)
        return user

    async def _show(self, request: web.Request) -> web.Response:
        return page(request, "login.html", problem="", path="/")

    async def _log_in(self, request: web.Request) -> web.Response:
        form = await forms.read(request)
        token, path = form.get("token", "").strip(), local_path(form.get("path", ""))
        user = await self._user(request, token)
        if user is None:
            problem = "The cluster does not know this token, or it has expired."
            return page(request, "login.html", status=401, problem=problem, path=path)
        cookie = self._remember(token, user)
        answer = see_other(path)
        answer.set_cookie(session_cookie(request), cookie, path="/", secure=True, httponly=True, samesite="Strict")
        return answer

    async def _log_out(self, request: web.Request) -> web.Response:
        self._browsers.pop(_digest(request.cookies.get(session_cookie(request), "")), None)
        answer = see_other("/login")
        answer.del_cookie(session_cookie(request), path="/", secure=True, httponly=True, samesite="Strict")
        return answer

    def _remember(self, token: str, user: User) -> str:
        """Log a browser in; the cookie that it gets."""
        for key in [key for key, browser in self._browsers.items() if browser.is_over]:
            del self._browsers[key]
        own = [key for key, browser in self._browsers.items() if browser.user == user.name]
        for key in own[: max(len(own) - _MOST_OF_USER + 1, 0)]:
            del self._browsers[key]
        while len(self._browsers) >= _MOST:
            self._browsers.popitem(last=False)
        cookie, now = secrets.token_urlsafe(32), monotonic()
        self._browsers[_digest(cookie)] = _Browser(token, user.name, secrets.token_urlsafe(32), now, now)
        return cookie


class KeyLogin:
    """The login with dev's key, over plain HTTP on a loopback address."""

    def __init__(self, key: str) -> None:
        self._key = key

    async def caller(self, request: web.Request) -> Caller | None:
        if _KEY in request.query or not _equal(
            request.cookies.get(_cookie_name(request), ""), self._made("cookie", request)
        ):
            return None
        return KeyHolder(self._made("form", request))

    def _made(self, purpose: str, request: web.Request) -> str:
        """A secret that follows from the key, does not lead back to it, and is good for one port alone.

        While the operator is started again, another process may take its port and be sent the cookie by an open page.
        """
        return hmac.new(self._key.encode(), f"{purpose} {_cookie_name(request)}".encode(), hashlib.sha256).hexdigest()

    def enter(self, request: web.Request) -> web.Response:
        if _equal(request.query.get(_KEY, ""), self._key):
            # Without the key, which stays out of the browser's history so.
            answer = see_other(local_path(str(request.rel_url.without_query_params(_KEY))))
            answer.set_cookie(
                _cookie_name(request), self._made("cookie", request), path="/", httponly=True, samesite="Strict"
            )
            return answer
        text = "Open the link that rolerunner dev has printed."
        return page(request, "message.html", status=401, heading="Who is there?", text=text)

    def routes(self) -> Sequence[web.RouteDef]:
        return [web.post("/logout", self._log_out)]

    def serves(self, host: str, port: int) -> bool:
        # Another name may be somebody's who has it lead here, and then reads what a browser on this machine gets.
        return host in {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}

    async def _log_out(self, request: web.Request) -> web.Response:
        answer = see_other("/")
        answer.del_cookie(_cookie_name(request), path="/", httponly=True, samesite="Strict")
        return answer


class Attempts:
    """Bounds tokens that are not valid, of each sender: `failures` at once, then one each `forgotten` seconds."""

    def __init__(self, failures: int, forgotten: float) -> None:
        self._forgotten = forgotten
        # Seconds until all is forgotten of who may send just one more.
        self._most = (failures - 1) * forgotten
        # When the last of somebody's failures is forgotten.
        self._until: OrderedDict[Hashable, float] = OrderedDict()

    def wait(self, sender: Hashable) -> float:
        """Seconds until the sender may send another one; 0 or less if it may now."""
        return self._until.get(sender, 0.0) - monotonic() - self._most

    def check(self, sender: Hashable) -> None:
        """Raises HTTPTooManyRequests."""
        if (wait := self.wait(sender)) > 0:
            raise web.HTTPTooManyRequests(headers={"Retry-After": str(int(wait) + 1)})

    def fail(self, sender: Hashable) -> None:
        now = monotonic()
        until = max(self._until.pop(sender, now), now) + self._forgotten
        while len(self._until) >= _MOST_ADDRESSES:
            self._until.popitem(last=False)
        self._until[sender] = until


def session_cookie(request: web.Request) -> str:
    """The name of the cookie by which a browser is known that has logged in with a token."""
    return _cookie_name(request, _PREFIX)


def _cookie_name(request: web.Request, prefix: str = "") -> str:
    # A host's cookies are sent to all of its ports, on each of which there may be an operator's dashboard.
    # (The URL's own port raises ValueError where the Host is none.)
    _, _, port = request.host.rpartition(":")
    return f"{prefix}rolerunner-{port}" if port.isascii() and port.isdigit() and len(port) < 6 else f"{prefix}rolerunner"


def local_path(path: str) -> str:
    """A path of this server, whatever was sent: another host's would lead away."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\", "/login", "/logout", "/live"))
    return path if is_local and path.isascii() and path.isprintable() and len(path) < 2000 else "/"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(errors="replace"), other.encode(errors="replace"))
