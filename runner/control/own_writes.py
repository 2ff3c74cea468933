"""What runs have written themselves comes back through the watches of dependents, and is no news to the CR it was done for.

While a CR's run is on, what happens to its dependents is held back: the watch is often quicker with a write than the
answer that says whose it was. When the run is over, what it did not do itself gives the CR another turn.

A change is the run's own if its writes lead from the version that the watch knew before to the one that it tells: what is
not certain counts as somebody else's.

Next on the way: `runner.control.workqueue`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from runner.control import Request
from runner.resource.metadata import Object

# Changes that are held back during one run, which may go on for days.
_MOST_HELD = 10_000


class Change(NamedTuple):
    """An object's uid and the resourceVersions that it changed from (empty: it is new) and to (empty: it was deleted)."""

    uid: str
    before: str
    version: str

    @classmethod
    def between(cls, before: Object | None, after: Object | None) -> Change:
        return cls((after or before or {})["metadata"].get("uid", ""), _version(before), _version(after))


class OwnWrites:
    """What one run has written."""

    def __init__(self) -> None:
        # By uid and version: the version before it.
        self._steps: dict[tuple[str, str], str] = {}

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, uid: str, before: str | None, version: str) -> None:
        """A write to a version (None: not known which), see `Change`."""
        if before is not None or not version:
            self._steps[uid, version] = before or ""

    def take(self, change: Change) -> bool:
        """Whether these writes, and nothing else, made this change; a change is told once, and so taken once."""
        if not change.version:
            # Whatever it was before, it is gone.
            return self._steps.pop((change.uid, ""), None) is not None
        # A watch that had a gap tells of several writes as one change.
        taken: dict[tuple[str, str], None] = {}
        version = change.version
        while (step := (change.uid, version)) in self._steps and step not in taken:
            taken[step] = None
            version = self._steps[step]
            if version == change.before:
                for each in taken:
                    del self._steps[each]
                return True
        return False


class Echoes:
    """Per CR: what its last run wrote and no watch has told yet, and what was told while a run is on."""

    def __init__(self, missed: Callable[[Request], None]) -> None:
        """`missed` is called when a run is over during which something happened that was not its own doing."""
        self._missed = missed
        self._written: dict[Request, OwnWrites] = {}
        self._held: dict[Request, list[Change]] = {}

    @contextmanager
    def of_run(self, request: Request) -> Iterator[Callable[[str, str | None, str], None]]:
        """For the length of a run: gives what is to be called with each of its writes (see `Change`)."""
        written = self._written[request] = OwnWrites()
        held = self._held[request] = []
        try:
            yield written.add
        finally:
            del self._held[request]
            # Of more than are held it is not known.
            others = len(held) >= _MOST_HELD or any([not written.take(change) for change in held])
            if not written:
                del self._written[request]
            if others:
                self._missed(request)

    def pass_over(self, request: Request, change: Change) -> bool:
        """Whether this change, just told by a watch, is no news to the CR; or not known to be, as its run is still on."""
        held = self._held.get(request)
        if held is not None:
            if len(held) < _MOST_HELD:
                held.append(change)
            return True
        written = self._written.get(request)
        if written is None or not written.take(change):
            return False
        if not written:
            del self._written[request]
        return True

    def forget(self, request: Request) -> None:
        """The CR is gone."""
        self._written.pop(request, None)


def _version(obj: Object | None) -> str:
    return str(obj["metadata"].get("resourceVersion", "")) if obj else ""
