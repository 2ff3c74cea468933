"""The changes: for which CRs something happens, for pages that show it live.

A change is told to those alone who may see its CR: others cannot find out from when they are told something, or from how
long they are told nothing, that there was one.

Next on the way: `runner.dashboard.live`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from runner.control import Request

# True for a CR that a page shows.
Shows = Callable[[Request], bool]


class Changes:
    """Tells those who follow CRs that something has happened to them. Not thread-safe: lives in the event loop."""

    def __init__(self) -> None:
        self._followers: dict[asyncio.Event, Shows] = {}

    def note(self, request: Request) -> None:
        """Take down that something has happened to a CR, or in its run."""
        for changed, shows in self._followers.items():
            if not changed.is_set() and shows(request):
                changed.set()

    @contextlib.contextmanager
    def following(self, shows: Shows) -> Iterator[asyncio.Event]:
        """Follow the CRs that a page shows: the event is set by each change of one of them."""
        changed = asyncio.Event()
        self._followers[changed] = shows
        try:
            yield changed
        finally:
            del self._followers[changed]
