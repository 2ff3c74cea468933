"""Pages of templates: Jinja2, with everything escaped, and an error for a value that is not there."""

from __future__ import annotations

from pathlib import Path

import jinja2
from aiohttp import web

from runner.dashboard.access import TokenHolder
from runner.dashboard.state import CALLER
from runner.dashboard.words import shown

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=shown,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(request: web.Request, template: str, *, status: int = 200, **values: object) -> web.Response:
    """A page of a template, which has `caller` (a name) and `form_token` besides its values; both empty for a stranger."""
    caller = request.get(CALLER)
    known: dict[str, object] = {
        "caller": caller.name if caller else "",
        "form_token": caller.form_token if caller else "",
        "can_log_out": isinstance(caller, TokenHolder),
    }
    text = _TEMPLATES.get_template(template).render(**known, **values)
    return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")


def see_other(path: str) -> web.Response:
    """An answer to a form that leads to a page of this server."""
    return web.Response(status=303, headers={"Location": path})
