"""The HTTP servers of /healthz and /readyz, of /metrics, and of the address to which roles send their metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from runner import metrics
from runner.config.settings import Address
from runner.errors import ConfigurationError
from runner.kube.authorization import Access
from runner.kube.client import KubeError
from runner.serving.certificate import ServingCertificate
from runner.serving.role_metrics import RefusedMetric, RoleMetrics

logger = logging.getLogger(__name__)

# aiohttp's, for faults of the servers alone: what is no HTTP is its sender's, and would have a traceback in the log each
# time, with the URL, which may name a key.
_http = logging.getLogger(f"{__name__}.http")
_senders = (HttpProcessingError, web.RequestPayloadError)
_http.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], _senders)))

# Connections that a server has at once, and as many on which TLS has not begun yet; seconds for which an idle one is kept,
# and which TLS may take to begin.
_CONNECTIONS = 100
_KEEPALIVE = 15.0
_HANDSHAKE = 10.0


@asynccontextmanager
async def serving_health(
    address: Address, *, is_ready: Callable[[], bool], is_healthy: Callable[[], bool] = lambda: True
) -> AsyncIterator[Address]:
    """Serve /healthz (the process answers, and can run Ansible) and /readyz (it also watches, or waits to lead).

    Yields the real address.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok") if is_healthy() else web.Response(status=503, text="Ansible cannot be run")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok") if is_ready() else web.Response(status=503, text="not watching yet")

    routes = [web.get(path, healthz) for path in ("/healthz", "/healthz/healthz", "/healthz/ping")]
    routes += [web.get(path, readyz) for path in ("/readyz", "/readyz/readyz")]
    async with serving(address, application(routes), flag="--health-probe-bind-address") as bound:
        yield bound


@asynccontextmanager
async def serving_metrics(
    address: Address,
    role_metrics: RoleMetrics,
    *,
    certificate: ServingCertificate | None = None,
    access: Access | None = None,
) -> AsyncIterator[Address]:
    """Serve /metrics, the roles' after the runner's own. Yields the real address.

    Over TLS with a certificate; with `access`, only to who may get /metrics.
    """

    async def answer(request: web.Request) -> web.Response:
        refusal = await _refusal(request, access) if access else None
        if refusal is not None:
            return refusal
        text = metrics.exposition() + role_metrics.exposition()
        return web.Response(body=text, headers={"Content-Type": metrics.CONTENT_TYPE})

    routes = application([web.get("/metrics", answer)])
    async with serving(address, routes, flag="--metrics-bind-address", certificate=certificate) as bound:
        yield bound


async def _refusal(request: web.Request, access: Access) -> web.Response | None:
    """The answer to a client that may not get this; None for one that may. The texts are controller-runtime's."""
    scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
    failed = "Authentication failed"
    try:
        user = await access.user(token.strip()) if scheme.lower() == "bearer" and token.strip() else None
        if user is None:
            return web.Response(status=401, text="Unauthorized")
        failed = f"Authorization for user {user.name} failed"
        if await access.allows(user, verb=request.method.lower(), path=request.path):
            return None
        return web.Response(status=403, text=f"Authorization denied for user {user.name}")
    except KubeError as error:
        logger.error("Whether metrics may be shown could not be found out", extra={"error": str(error)})
        return web.Response(status=500, text=failed)


@asynccontextmanager
async def serving_role_metrics(address: Address, role_metrics: RoleMetrics) -> AsyncIterator[Address]:
    """Take what operator_sdk.util.osdk_metric posts to /metrics. Yields the real address."""

    async def record(request: web.Request) -> web.Response:
        try:
            role_metrics.record(await request.read())
        except RefusedMetric as error:
            logger.info("A role's metric was refused", extra={"error": str(error)})
            return web.Response(status=400, text=str(error))
        return web.Response()

    routes = application([web.post("/metrics", record)])
    async with serving(address, routes, flag="--role-metrics-bind-address") as bound:
        yield bound


def application(routes: list[web.RouteDef]) -> web.Application:
    """An application of nothing but these routes."""
    made = web.Application()
    made.add_routes(routes)
    return made


@asynccontextmanager
async def serving(
    address: Address,
    application: web.Application,
    *,
    flag: str,
    certificate: ServingCertificate | None = None,
    cancels: bool = False,
) -> AsyncIterator[Address]:
    """Serve an application, with a bound of its connections. Yields the real address. Raises ConfigurationError.

    Over TLS with a certificate, which is reloaded when it changes. `flag` gave the address; `cancels`: a client that goes
    away ends what it asked for.
    """
    tls = certificate.context if certificate else None
    runner = web.AppRunner(
        application,
        access_log=None,
        logger=_http,
        shutdown_timeout=1,
        keepalive_timeout=_KEEPALIVE,
        handler_cancellation=cancels,
    )
    await runner.setup()
    server = runner.server
    assert server is not None

    # Each in the task in which asyncio accepts it; the server knows of it only when TLS has begun.
    beginning: dict[asyncio.Task[object], None] = {}

    def connected() -> asyncio.Protocol:
        # The process's file descriptors are the runs', too. The oldest goes, so that a probe always finds a place.
        for oldest in server.connections[: max(len(server.connections) - _CONNECTIONS + 1, 0)]:
            oldest.force_close()
        for oldest_task in list(beginning)[: max(len(beginning) - _CONNECTIONS + 1, 0)]:
            oldest_task.cancel()
        if accepting := asyncio.current_task():
            beginning[accepting] = None
            accepting.add_done_callback(beginning.pop)
        return server()

    listener: asyncio.Server | None = None
    following: asyncio.Task[None] | None = None
    try:
        # No host: all interfaces, by IPv4 and IPv6. As in Go, a name is one address: many containers have a localhost by
        # IPv6 that cannot be listened on.
        host = "127.0.0.1" if address.host == "localhost" else address.host or None
        try:
            listener = await asyncio.get_running_loop().create_server(
                connected, host, address.port, ssl=tls, ssl_handshake_timeout=_HANDSHAKE if tls else None
            )
        except OSError as error:
            raise ConfigurationError(f"{flag} {address} cannot be listened on: {error.strerror}; choose another") from error
        following = asyncio.create_task(certificate.follow()) if certificate else None
        yield Address(address.host, listener.sockets[0].getsockname()[1])
    finally:
        if following is not None:
            following.cancel()
        if listener is not None:
            listener.close()
        await runner.cleanup()
