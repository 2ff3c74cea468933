"""What one run has found out and the next need not: kept in the warm process, of which the next is a fork.

A child tells its fork server, over a socket of datagrams that the two have in common. What does not fit, or comes while
the fork server is busy, is let go: the next run finds it out again. `Lessons.kinds` says who takes what.

Next on the way: `runner.executor.patches.facts`, `runner.executor.patches.templates` and `runner.executor.patches.files`.
"""

from __future__ import annotations

import contextlib
import marshal
import socket
from collections.abc import Iterable
from typing import Any, Protocol

# Larger than what the kernel lets through by default; other nodes let more.
_DATAGRAM = 512 * 1024


class Kind(Protocol):
    """Something that runs learn. What `learned` gives in a child, `keep` takes in the fork server; all of it marshals."""

    def learned(self) -> Iterable[Any]:
        """What is new since the last call."""

    def keep(self, lesson: Any) -> None: ...


class Lessons:
    """Made in the fork server, before its first fork."""

    def __init__(self, kinds: dict[str, Kind]) -> None:
        self.kinds = kinds
        self._here, self._there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._there.setblocking(False)

    def fileno(self) -> int:
        """Readable when there is something to `hear`."""
        return self._here.fileno()

    def hear(self) -> None:
        """In the fork server: take one lesson."""
        name, lesson = marshal.loads(self._here.recv(_DATAGRAM))
        self.kinds[name].keep(lesson)

    def forked(self) -> None:
        """In a child, first of all."""
        self._here.close()

    def tell(self) -> None:
        """In a child, when it has nothing else to do: what it has learned."""
        for name, kind in self.kinds.items():
            for lesson in kind.learned():
                with contextlib.suppress(OSError, ValueError):
                    told = marshal.dumps((name, lesson))
                    # A longer one would arrive cut, if at all.
                    if len(told) <= _DATAGRAM:
                        self._there.send(told)
