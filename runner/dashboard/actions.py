"""What pages let one do: have a CR run now, or make a dry run of it. Both take the right to update the CR.

Next on the way: `runner.dashboard.dry_runs`.
"""

from __future__ import annotations

import logging

from aiohttp import web

from runner.control import Request
from runner.dashboard import words
from runner.dashboard.access import Caller
from runner.dashboard.dry_runs import DryRunError
from runner.dashboard.state import CALLER, STATE
from runner.dashboard.templating import page, see_other

logger = logging.getLogger(__name__)

VERB = "update"
# Characters of a user's name in a cause.
_LONGEST_NAME = 200


async def run_now(request: web.Request) -> web.Response:
    """Have the CR of the path reconciled now."""
    cr, caller = await _allowed(request), request[CALLER]
    logger.info("A run was asked for", extra={**cr.fields, "user": _name(caller)})
    request[STATE].handlers.requeue(cr, f"asked for by {_name(caller)}")
    return see_other(request.rel_url.raw_path.removesuffix("/run"))


async def dry_run(request: web.Request) -> web.Response:
    """Have a dry run of the CR of the path made, and lead to its page."""
    cr, caller = await _allowed(request), request[CALLER]
    logger.info("A dry run was asked for", extra={**cr.fields, "user": _name(caller)})
    try:
        ident = request[STATE].dry_runs.begin(cr, f"asked for by {_name(caller)}")
    except DryRunError as error:
        return page(request, "message.html", status=409, heading="No dry run", text=str(error))
    return see_other(f"/run/{ident}")


def _name(caller: Caller) -> str:
    """The caller's name for the log and for causes: an identity provider may let users choose it, line breaks included."""
    return words.visible(" ".join(caller.name.split())[:_LONGEST_NAME])


async def _allowed(request: web.Request) -> Request:
    """The CR of the path, which the caller may update. Raises HTTPNotFound, HTTPForbidden and KubeError."""
    state, caller = request[STATE], request[CALLER]
    cr = state.request(**request.match_info)
    if cr is None or not await caller.may("get", cr.watch, cr.key.namespace) or not state.handlers.has_observed(cr):
        raise web.HTTPNotFound
    if not await caller.may(VERB, cr.watch, cr.key.namespace, cr.key.name):
        raise web.HTTPForbidden(text=f"This takes the right to {VERB} the CR.")
    return cr
