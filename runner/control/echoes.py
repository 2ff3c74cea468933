"""What runs have written themselves comes back through the watches of dependents, and is no news to the CR it was done for.

While a CR's run is on, what happens to its dependents is held back: the watch is often quicker with a write than the
answer that says whose it was. When the run is over, what it did not do itself gives the CR another turn.

Next on the way: `runner.control.workqueue`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from runner.control import Request
from runner.resource.metadata import Object


class Change(NamedTuple):
    """An object's uid and the resourceVersion that it changed to; empty: it was deleted."""

    uid: str
    version: str

    @classmethod
    def between(cls, before: Object | None, after: Object | None) -> Change:
        metadata = (after or before or {})["metadata"]
        return cls(metadata.get("uid", ""), metadata.get("resourceVersion", "") if after else "")


class Echoes:
    """Per CR: what its last run wrote and no watch has told yet, and what was told while a run is on."""

    def __init__(self, missed: Callable[[Request], None]) -> None:
        """`missed` is called when a run is over during which something happened that was not its own doing."""
        self._missed = missed
        self._written: dict[Request, set[Change]] = {}
        self._held: dict[Request, set[Change]] = {}

    @contextmanager
    def of_run(self, request: Request) -> Iterator[Callable[[str, str], None]]:
        """For the length of a run: gives what is to be called with each of its writes (see `Change`)."""
        written = self._written[request] = set()
        held = self._held[request] = set()
        try:
            yield lambda uid, version: written.add(Change(uid, version))
        finally:
            del self._held[request]
            others = held - written
            written -= held
            if not written:
                del self._written[request]
            if others:
                self._missed(request)

    def pass_over(self, request: Request, change: Change) -> bool:
        """Whether this change, just told by a watch, is no news to the CR; or not known to be, as its run is still on."""
        held = self._held.get(request)
        if held is not None:
            held.add(change)
            return True
        written = self._written.get(request)
        if written is None or change not in written:
            return False
        written.discard(change)
        if not written:
            del self._written[request]
        return True

    def forget(self, request: Request) -> None:
        """The CR is gone."""
        self._written.pop(request, None)
