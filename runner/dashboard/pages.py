"""The pages: the overview, a CR, a run, and two runs side by side."""

from __future__ import annotations

from aiohttp import web

from runner.dashboard.templating import page


async def overview(request: web.Request) -> web.Response:
    """The kinds and their CRs."""
    return page(request, "message.html", heading="Overview", text="")


async def cr(request: web.Request) -> web.Response:
    """A CR, by `group`, `version`, `kind`, `namespace` and `name` of the path; `-` stands for an empty one."""
    return page(request, "message.html", heading="CR", text="")


async def run(request: web.Request) -> web.Response:
    """A run, by `ident` of the path."""
    return page(request, "message.html", heading="Run", text="")


async def compare(request: web.Request) -> web.Response:
    """Two runs side by side, by the query's `one` and `other`."""
    return page(request, "message.html", heading="Compare", text="")
