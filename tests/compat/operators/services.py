"""What stands in for the HTTP services that an operator has made, whose pods run on paper and answer nothing.

Roles reach it as their HTTP proxy, so that any host name is as good as another.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web


@contextlib.asynccontextmanager
async def answering(answers: Mapping[str, Any]) -> AsyncIterator[Mapping[str, str]]:
    """The environment with which roles get these answers, JSON by the end of the URL's path; none without answers."""
    if not answers:
        yield {}
        return

    async def answer(request: web.Request) -> web.Response:
        found = next((content for path, content in answers.items() if request.path.endswith(path)), None)
        if found is None:
            return web.json_response({"error": f"no stand-in for {request.method} {request.url}"}, status=502)
        return web.json_response(found)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    server = web.AppRunner(app, access_log=None)
    await server.setup()
    try:
        site = web.TCPSite(server, "127.0.0.1", 0)
        await site.start()
        host, port = server.addresses[0][:2]
        yield {"http_proxy": f"http://{host}:{port}", "no_proxy": "127.0.0.1,localhost"}
    finally:
        await server.cleanup()
