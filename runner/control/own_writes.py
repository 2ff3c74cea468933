"""Recognises the changes that a CR's own runs made when they come back through the watches of dependents.

While a CR's run is on, changes of its dependents are held back: the watch often delivers a write before the proxy has the
answer to it. When the run is over, a change that was not its own requeues the CR.

A change is the run's own if its writes lead from the version that the watch knew before to the one that it reports now.
What is not certain counts as somebody else's.

Next on the way: `runner.control.workqueue`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from runner.control import Request
from runner.resource.metadata import Object, ObjectKey

# Changes that are held back during one run, which may go on for days.
_MOST_HELD = 10_000


class VersionChange(NamedTuple):
    """An object's uid and the resourceVersions that it changed from (empty: it is new) and to (empty: it was deleted).

    `kind` and `key` say which object it is, for people.
    """

    uid: str
    before: str
    version: str
    kind: str = ""
    key: ObjectKey = ObjectKey("", "")

    @classmethod
    def between(cls, before: Object | None, after: Object | None) -> VersionChange:
        obj = after or before or {}
        uid = obj["metadata"].get("uid", "")
        return cls(uid, _version(before), _version(after), str(obj.get("kind", "")), ObjectKey.of(obj))


class RunWrites:
    """The writes of one run, and of the one before, that no watch has reported yet."""

    def __init__(self, before: RunWrites | None = None) -> None:
        # By uid and version: the version before it, of both runs' writes and of this run's own.
        # A watch that lags may report a run's writes only during the next. Of what is not watched nothing is ever reported.
        self._steps: dict[tuple[str, str], str] = dict(before._own) if before else {}
        self._own: dict[tuple[str, str], str] = {}

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, uid: str, before: str | None, version: str) -> None:
        """Record a write, see `VersionChange`; `before` None: it is not known which version it replaced."""
        if before is not None or not version:
            self._steps[uid, version] = self._own[uid, version] = before or ""

    def pop(self, change: VersionChange) -> bool:
        """True if these writes and no others made the change. They are removed, as a change is reported once."""
        if not change.version:
            # Whatever it was before, it is gone.
            return self._pop((change.uid, ""))
        # A watch that had a gap reports several writes as one change.
        found: dict[tuple[str, str], None] = {}
        version = change.version
        while (step := (change.uid, version)) in self._steps and step not in found:
            found[step] = None
            version = self._steps[step]
            if version == change.before:
                for each in found:
                    self._pop(each)
                return True
        return False

    def _pop(self, step: tuple[str, str]) -> bool:
        self._own.pop(step, None)
        return self._steps.pop(step, None) is not None


class OwnWrites:
    """By CR: the writes of its last runs that no watch has reported yet, and the changes reported while a run is on."""

    def __init__(self, missed: Callable[[Request, VersionChange | None], None]) -> None:
        """`missed` is called after a run during which a dependent was changed by others, with the first that is known."""
        self._missed = missed
        self._writes: dict[Request, RunWrites] = {}
        self._held: dict[Request, list[VersionChange]] = {}

    @contextmanager
    def of_run(self, request: Request) -> Iterator[Callable[[str, str | None, str], None]]:
        """Hold changes back for the length of a run. Yields the function that records a write (see `RunWrites.add`)."""
        writes = self._writes[request] = RunWrites(self._writes.get(request))
        held = self._held[request] = []
        try:
            yield writes.add
        finally:
            del self._held[request]
            by_others = [change for change in held if not writes.pop(change)]
            if not writes:
                del self._writes[request]
            # Beyond what is held it is not known.
            if by_others or len(held) >= _MOST_HELD:
                self._missed(request, by_others[0] if by_others else None)

    def consume(self, request: Request, change: VersionChange) -> bool:
        """True if the CR's run made this change, which is forgotten by that: an event comes once.

        True as well while the run is on: that is decided when it is over.
        """
        held = self._held.get(request)
        if held is not None:
            if len(held) < _MOST_HELD:
                held.append(change)
            return True
        writes = self._writes.get(request)
        if writes is None or not writes.pop(change):
            return False
        if not writes:
            del self._writes[request]
        return True

    def forget(self, request: Request) -> None:
        """Drop what is kept of a CR that is gone."""
        self._writes.pop(request, None)


def _version(obj: Object | None) -> str:
    return str(obj["metadata"].get("resourceVersion", "")) if obj else ""
