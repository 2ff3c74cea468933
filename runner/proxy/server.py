"""The proxy's HTTP server: authenticates a run's request by its token, and answers it from a store or the API server.

A creation gets the CR as its owner. Whatever is created, or found to be the CR's already, has its kind watched from then
on, and what is watched is read from the informers' stores. Everything else goes through as it came, bytes for bytes, both
ways.

Next on the way: `runner.proxy.call`, `runner.proxy.cached_reads` and `runner.proxy.forward`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import aiohttp
from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11, RawRequestMessage

from runner.kube.client import ApiClient, KubeError
from runner.kube.discovery import Discovery, Resource
from runner.proxy import tunnel
from runner.proxy.cached_reads import Covering, from_store
from runner.proxy.call import Call
from runner.proxy.dry_run import Refusal
from runner.proxy.forward import Forwarder
from runner.proxy.ownership import Ownership
from runner.proxy.sessions import ApiRequest, Sessions

logger = logging.getLogger(__name__)

# One end of a connection: host and port.
Address = tuple[str, int]

# The API server's own limit for an object is about 3 MiB.
_BODY_LIMIT = 16 * 1024 * 1024
# The API server's own for a request's headers. A command for a pod is in the first line.
_LINE_LIMIT = 1024 * 1024
# Characters of a request's path that its record has.
_LONGEST_PATH = 1000
_UNAUTHORIZED = (
    "this proxy serves only the runs of its runner, each with its own token; $KUBECONFIG and $K8S_AUTH_KUBECONFIG are the "
    "kubeconfigs that have it"
)


class ProxyServer:
    """An HTTP server on loopback, which listens while it is entered (`async with`); `port` is then the real one.

    `controls`: see `Ownership`.
    """

    def __init__(
        self,
        client: ApiClient,
        discovery: Discovery,
        sessions: Sessions,
        *,
        covering: Covering,
        controls: Callable[[Resource], bool] = lambda resource: False,
        port: int,
    ) -> None:
        self.port = port
        self._sessions = sessions
        self._covering = covering
        self._forwarder = Forwarder(client, Ownership(client, discovery, covering, controls=controls), covering)
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
        traceparent = session.new_traceparent()
        call, begun, since = Call(request, session, target, traceparent), time.time(), time.monotonic()
        response: web.StreamResponse | None = None
        try:
            response = await self._serve(call)
            return response
        except web.HTTPException as answer:
            response = answer
            raise
        finally:
            status, from_store = (response.status, "X-Cache" in response.headers) if response is not None else (0, False)
            path, seconds = call.path[:_LONGEST_PATH], time.monotonic() - since
            session.on_request(ApiRequest(call.method, path, status, from_store, begun, seconds, traceparent))

    async def _serve(self, call: Call) -> web.StreamResponse:
        """The answer to a run's request, be it that there is none."""
        request, session = call.request, call.session
        try:
            if session.dry_run is not None:
                return await self._forwarder.forward_in_dry_run(call, session.dry_run)
            response = self._from_store(call)
            return await self._forwarder.forward(call) if response is None else response
        except Refusal as refusal:
            return _status(403, "Forbidden", str(refusal))
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

    def _from_store(self, call: Call) -> web.Response | None:
        """The answer as an informer's store has it; None if the request has to go to the API server."""
        # Rights of another user are for the API server to check.
        if call.method != "GET" or call.upgrades or call.impersonates:
            return None
        request = call.request
        accept = request.headers.get("Accept")
        content = from_store(call.info, request.query, accept, session=call.session, covering=self._covering)
        if content is None:
            return None
        call.session.record_shown(call.info, slim=True)
        return web.Response(body=content, content_type="application/json", headers={"X-Cache": "HIT"})

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


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """A request as aiohttp makes it, with a limit of our own for its body."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_BODY_LIMIT)


def _peer(request: web.BaseRequest) -> Address:
    """The client's end of a connection."""
    return _address(request.transport.get_extra_info("peername") if request.transport is not None else None)


def _address(name: tuple[str, int] | None) -> Address:
    """Host and port, as another of loopback's addresses may have the same port."""
    return (name[0], name[1]) if name else ("", 0)


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
