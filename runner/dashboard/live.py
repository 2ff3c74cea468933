"""Live updates: a stream of server-sent events, one whenever what a page shows may have changed, at most one a second.

An event says that, and nothing of what has changed: the page is asked for again, and with it what the caller may see. What
happens to other CRs than those of the page is no event. `static/live.js` is the other end.

Next on the way: `runner.dashboard.changes`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from urllib.parse import parse_qs, unquote, urlsplit

from aiohttp import web

from runner.control import Request
from runner.dashboard.access import Caller, scopes
from runner.dashboard.changes import Shows
from runner.dashboard.deadlines import Deadlines
from runner.dashboard.state import CALLER, STATE, State

# Streams at once, of all callers and of one. Each takes one of the server's connections.
_MOST, _MOST_OF_CALLER = 60, 20
# Seconds: between two events; after which a silent stream says something, so that it is seen when the peer is gone; after
# which a browser has to ask for the stream again, and to be let in again.
_PAUSE, _HEARTBEAT, _LONGEST = 1.0, 15.0, 120.0


class Streams:
    """The streams that are open."""

    def __init__(self) -> None:
        self._by_caller: Counter[str] = Counter()
        self._deadlines = Deadlines()

    def close(self) -> None:
        """Have all of them end."""
        self._deadlines.expire()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve the changes of the page that the query's `path` names."""
        state, caller = request[STATE], request[CALLER]
        shows = await shown(state, caller, request.query.get("path", ""))
        with self._place(caller.name):
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
            await response.prepare(request)
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with self._deadlines.after(_LONGEST):
                    await response.write(b"retry: 1000\n\n")
                    async with contextlib.aclosing(events(state, shows)) as texts:
                        async for text in texts:
                            await response.write(text)
            return response

    @contextlib.contextmanager
    def _place(self, name: str) -> Iterator[None]:
        if self._by_caller.total() >= _MOST or self._by_caller[name] >= _MOST_OF_CALLER:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "60"})
        self._by_caller[name] += 1
        try:
            yield
        finally:
            self._by_caller[name] -= 1
            self._by_caller += Counter()


async def events(state: State, shows: Shows) -> AsyncGenerator[bytes, None]:
    """Yield what is to be sent for the CRs that a page shows."""
    with state.changes.following(shows) as changed:
        while True:
            try:
                async with asyncio.timeout(_HEARTBEAT):
                    await changed.wait()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            changed.clear()
            yield b"data: changed\n\n"
            await asyncio.sleep(_PAUSE)


async def shown(state: State, caller: Caller, address: str) -> Shows:
    """The CRs that the page of this path and query shows, of those that the caller may see. Raises HTTPNotFound and
    KubeError."""
    try:
        url = urlsplit(address)
        query: Mapping[str, list[str]] = parse_qs(url.query, max_num_fields=10)
    except ValueError:
        raise web.HTTPNotFound from None
    match (url.netloc + url.path).split("/"):
        case ["", ""]:
            found = await scopes(caller, {watch: state.index.namespaces(watch) for watch in state.watches})
            return lambda request: request.watch in found and request.key.namespace in found[request.watch]
        case ["", "cr", *parts] if len(parts) == 5:
            one = state.request(*map(unquote, parts))
            requests = {one} if one else set()
        case ["", "run", ident]:
            requests = _of_runs(state, ident)
        case ["", "compare"]:
            requests = _of_runs(state, *query.get("one", ()), *query.get("other", ()))
        case _:
            requests = set()
    if not requests:
        raise web.HTTPNotFound
    for request in requests:
        if not await caller.may("get", request.watch, request.key.namespace):
            raise web.HTTPNotFound
    return requests.__contains__


def _of_runs(state: State, *runs: str) -> set[Request]:
    """The CRs of runs, each named by its ident; one of an earlier process also by the path of its CR."""
    found = set()
    for run in runs:
        ident, *parts = run.split("/")
        if record := state.of_run(ident):
            found.add(record.request)
        elif len(parts) == 5 and (one := state.request(*parts)):
            found.add(one)
    return found
