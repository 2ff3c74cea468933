"""What pages let one do: have a CR run now, or make a dry run of it."""

from __future__ import annotations

from aiohttp import web


async def run_now(request: web.Request) -> web.Response:
    """Have a CR reconciled now."""
    raise web.HTTPNotFound


async def plan(request: web.Request) -> web.Response:
    """Make a dry run of a CR, and show its result."""
    raise web.HTTPNotFound
