"""Exponential backoff: the growing pauses between tries, for whatever is tried again.

Next on the way: `runner.kube.client`.
"""

from __future__ import annotations

import asyncio
import math
import random

# What fails for months has more failures than a float has room for.
_MOST_DOUBLINGS = 64


def delay(failures: float, first: float, last: float = math.inf) -> float:
    """Seconds to wait after so many failures in a row: `first` after one, doubled by each further one, up to `last`."""
    return min(first * math.pow(2, min(failures - 1, _MOST_DOUBLINGS)), last)


class Backoff:
    """Pauses of `first` seconds, doubled for each further one up to `last`.

    `jitter` is the share of it by which each may be shorter or longer.
    """

    def __init__(self, first: float, last: float = math.inf, *, jitter: float = 0.2) -> None:
        self._first = first
        self._last = last
        self._jitter = jitter
        self._pauses = 0

    @property
    def seconds(self) -> float:
        """Seconds of the next pause, without jitter."""
        return delay(self._pauses + 1, self._first, self._last)

    def reset(self) -> None:
        """Begin with the first pause again, after a success."""
        self._pauses = 0

    def next(self) -> float:
        """Seconds of the next pause, with jitter; the one that follows is longer."""
        seconds = self.seconds * random.uniform(1 - self._jitter, 1 + self._jitter)
        self._pauses += 1
        return seconds

    async def pause(self) -> None:
        await asyncio.sleep(self.next())
