"""The server of the dashboard: routes, who gets in, and the headers of every answer.

The order for a request: its Host, its size, who it is from, for a change whether this server's own page asks for it, then
the page, which asks what the caller may see. Where this replica waits to lead, the leader does all of it but the first two.
Nothing of a page is stored by browsers, and nothing but this server's own scripts and styles is loaded by them.

Next on the way: `runner.dashboard.logins`, `runner.dashboard.pages`, `runner.dashboard.relay`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from runner.config.settings import Address, Settings
from runner.config.watches import Watch
from runner.control import Request
from runner.control.handlers import Handlers
from runner.control.history import History
from runner.control.run import Runs
from runner.control.workqueue import WorkQueue
from runner.dashboard import actions, forms, live, pages
from runner.dashboard.changes import Changes
from runner.dashboard.dry_runs import DryRuns
from runner.dashboard.index import Index
from runner.dashboard.leader import LeaderEndpoint
from runner.dashboard.logins import Logins, local_path
from runner.dashboard.relay import Relay
from runner.dashboard.state import CALLER, STATE, State
from runner.dashboard.templating import page
from runner.kube.client import ApiClient, KubeError
from runner.kube.discovery import Discovery
from runner.kube.informer import Informers
from runner.resource.metadata import Object
from runner.serving.certificate import ServingCertificate
from runner.serving.server import serving

logger = logging.getLogger(__name__)

FLAG = "--dashboard-bind-address"
# Characters of a path with its query.
_LONGEST = 4096
_HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With none at all, browsers leave out of a form's Origin which site it is from.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Its version is nobody's concern.
    "Server": "rolerunner",
}
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_SAFE = ("GET", "HEAD")
# What strangers may ask for.
_OPEN = frozenset({"/login", "/logout"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Dashboard:
    """The dashboard of this process. Until `show`, `leader` finds who answers instead; where there is none, it has nothing
    but `waiting` to say: why there is nothing to be seen."""

    def __init__(
        self,
        logins: Logins,
        watches: Sequence[Watch],
        *,
        waiting: Callable[[], str],
        leader: Callable[[], LeaderEndpoint | None] = lambda: None,
    ) -> None:
        self._logins = logins
        self._watches = watches
        self._waiting = waiting
        self._state: State | None = None
        # Of `show`: they end no later than the server.
        self._dry_runs: DryRuns | None = None
        self._index = Index(watches)
        self._changes = Changes()
        self._streams = live.Streams()
        self._relay = Relay(leader)
        self._port = 0

    def observe(self, request: Request, obj: Object | None) -> None:
        """Take a CR as it is now; None: it is gone, or another shard's. The first may come before `show`."""
        self._index.observe(request, obj)
        self._changes.note(request)

    def note(self, request: Request) -> None:
        """Take down that something has happened to a CR, or in its run."""
        self._changes.note(request)

    def show(
        self,
        *,
        settings: Settings,
        queue: WorkQueue,
        handlers: Handlers,
        history: History,
        runs: Runs,
        client: ApiClient,
        discovery: Discovery,
        informers: Informers,
    ) -> None:
        """Show the parts of the operator, which works from now on."""
        self._dry_runs = DryRuns(runs, client, discovery, notify=self.note)
        self._state = State(
            settings=settings,
            watches=self._watches,
            queue=queue,
            handlers=handlers,
            history=history,
            index=self._index,
            changes=self._changes,
            dry_runs=self._dry_runs,
            informers=informers,
            folders=runs.folders,
        )
        self._relay.close()

    def hide(self) -> None:
        """The operator is being stopped: there is nothing to be seen any more, and no dry run goes on."""
        if self._dry_runs:
            self._dry_runs.close()
        self._state, self._waiting = None, lambda: "The operator is being stopped."
        self._streams.close()

    @asynccontextmanager
    async def serving(self, address: Address, certificate: ServingCertificate | None) -> AsyncIterator[Address]:
        """Serve over TLS, or without a certificate over plain HTTP. Yields the real address. Raises ConfigurationError."""
        middlewares = [self._answer, self._check, self._forward, self._admit, self._prepare]
        application = web.Application(middlewares=middlewares, client_max_size=forms.LARGEST)
        application.add_routes(
            [
                web.get("/static/{name}", static_file),
                *self._logins.routes(),
                web.get("/", pages.overview),
                web.get("/cr/{group}/{version}/{kind}/{namespace}/{name}", pages.cr),
                web.get("/run/{ident}", pages.run),
                web.get("/compare", pages.compare),
                web.post("/cr/{group}/{version}/{kind}/{namespace}/{name}/run", actions.run_now),
                web.post("/cr/{group}/{version}/{kind}/{namespace}/{name}/dry-run", actions.dry_run),
                web.get("/live", self._streams.serve),
            ]
        )
        application.on_response_prepare.append(_add_headers)
        application.on_shutdown.append(self._close)
        async with (
            self._relay.open(),
            serving(address, application, flag=FLAG, certificate=certificate, cancels=True) as bound,
        ):
            self._port = bound.port
            try:
                yield bound
            finally:
                # Where the operator ends by a fault, nothing was hidden before.
                if self._dry_runs:
                    self._dry_runs.close()
                    await self._dry_runs.closed()

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Make a page of an error."""
        try:
            return await handler(request)
        except web.HTTPException as error:
            return _error_page(request, error)
        except KubeError as error:
            logger.error("A page could not be made, as the API server did not answer", extra={"error": str(error)})
            text = "The API server was asked for something that this page needs, and it did not answer. The log says more."
            return page(request, "message.html", status=503, heading="Not now", text=text)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            logger.exception("A page could not be made")
            text = "This page could not be made. The log says why."
            return page(request, "message.html", status=500, heading="A fault of the runner", text=text)

    @web.middleware
    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what is no request for this server."""
        if not self._logins.serves(request.host, self._port):
            raise web.HTTPMisdirectedRequest()
        if len(request.raw_path) > _LONGEST:
            raise web.HTTPRequestURITooLong(text="")
        if request.method not in (*_SAFE, "POST"):
            raise web.HTTPMethodNotAllowed(request.method, [*_SAFE, "POST"])
        return await handler(request)

    @web.middleware
    async def _forward(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Have the leader answer, if that is another replica."""
        # The page that says that the leader does not answer has its style and its script from here.
        if not _is_static(request) and self._state is None and (answer := await self._relay.answer(request)) is not None:
            return answer
        return await handler(request)

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Find out who asks, and let nobody else in."""
        if _is_static(request):
            return await handler(request)
        if request.method == "POST" and not forms.is_from_here(request):
            raise web.HTTPForbidden(text="The form is not one of this server's pages.")
        if request.path in _OPEN:
            return await handler(request)
        caller = await self._logins.caller(request)
        if caller is None:
            if _is_link_elsewhere(request):
                # Its cookie does not come with what another site leads to; it does when the page itself asks again.
                return page(request, "again.html", path=local_path(request.rel_url.raw_path_qs))
            return self._logins.enter(request)
        request[CALLER] = caller
        if request.method == "POST" and caller.form_token:
            given = (await forms.read(request)).get("form_token", "")
            if not hmac.compare_digest(given.encode(errors="replace"), caller.form_token.encode()):
                raise web.HTTPForbidden(text="The form is from before you logged in: go back, and load its page again.")
        return await handler(request)

    @web.middleware
    async def _prepare(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give the page what it reads."""
        if CALLER in request:
            if self._state is None:
                heading = "Nothing to be seen yet"
                return page(request, "message.html", status=503, heading=heading, text=self._waiting(), live=True)
            request[STATE] = self._state
        return await handler(request)

    async def _close(self, _: web.Application) -> None:
        self._streams.close()
        self._relay.close()


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _is_static(request: web.Request) -> bool:
    """True for the scripts, the styles and the images, which each replica has for anybody."""
    return request.path.startswith("/static/")


async def static_file(request: web.Request) -> web.Response:
    """A script, a style or an image, of those that were there at the start."""
    name = request.match_info["name"]
    if name not in _STATIC:
        raise web.HTTPNotFound
    return web.Response(body=_STATIC[name], content_type=_TYPES[Path(name).suffix], charset="utf-8")


_STATIC = {path.name: path.read_bytes() for path in (Path(__file__).parent / "static").iterdir() if path.suffix in _TYPES}


def _is_link_elsewhere(request: web.Request) -> bool:
    """True for a page that another site leads to."""
    headers = request.headers
    return headers.get("Sec-Fetch-Site") == "cross-site" and headers.get("Sec-Fetch-Mode") == "navigate"


def _error_page(request: web.Request, error: web.HTTPException) -> web.Response:
    heading, text = _ERRORS.get(error.status, (error.reason, ""))
    response = page(request, "message.html", status=error.status, heading=heading, text=text or error.text or "")
    for name in ("WWW-Authenticate", "Retry-After", "Allow"):
        if name in error.headers:
            response.headers[name] = error.headers[name]
    return response


_ERRORS = {
    # One text for what is not there and what one may not see.
    404: ("Not found", "There is nothing of this name that you may see."),
    413: ("Too large", "What was sent is too large."),
    421: ("Misdirected", "This address is served on this machine only, by the name that rolerunner dev has printed."),
    429: ("Too many tries", "Too many tokens were not valid; try again later."),
}
