"""Live updates: a stream of server-sent events, one for each time that a page's content may have changed.

Next on the way: `runner.control.history`.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

STOPPING: web.RequestKey[asyncio.Event] = web.RequestKey("stopping", asyncio.Event)


async def stream(request: web.Request) -> web.StreamResponse:
    """The changes of the page that the query's `path` names."""
    raise web.HTTPNotFound
