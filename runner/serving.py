"""What the runner serves about itself: /healthz and /readyz, and /metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from runner import metrics
from runner.settings import Address, ConfigurationError


@asynccontextmanager
async def serving_health(address: Address, *, is_ready: Callable[[], bool]) -> AsyncIterator[Address]:
    """Serve /healthz (the process answers) and /readyz (it also watches). Yields the real address."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok") if is_ready() else web.Response(status=503, text="not watching yet")

    routes = [web.get("/healthz", healthz), web.get("/readyz", readyz)]
    async with _serving(address, routes, flag="--health-probe-bind-address") as bound:
        yield bound


@asynccontextmanager
async def serving_metrics(address: Address) -> AsyncIterator[Address]:
    """Serve /metrics over plain HTTP. Yields the real address."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async with _serving(address, [web.get("/metrics", answer)], flag="--metrics-bind-address") as bound:
        yield bound


@asynccontextmanager
async def _serving(address: Address, routes: list[web.RouteDef], *, flag: str) -> AsyncIterator[Address]:
    application = web.Application()
    application.add_routes(routes)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        # No host: all interfaces, by IPv4 and IPv6.
        site = web.TCPSite(runner, address.host or None, address.port, shutdown_timeout=1)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(f"{flag} {address} cannot be listened on: {error.strerror}; choose another") from error
        yield Address(address.host, runner.addresses[0][1])
    finally:
        await runner.cleanup()
