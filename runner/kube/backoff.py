"""Pauses between tries that grow: one rule for whatever is tried again.

Next on the way: `runner.kube.client`.
"""

from __future__ import annotations

import asyncio
import math
import random


class Backoff:
    """Pauses of `first` seconds, doubled for each further one up to `last`.

    `jitter` is the share of it by which each may be shorter or longer.
    """

    def __init__(self, first: float, last: float = math.inf, *, jitter: float = 0.2) -> None:
        self._first = first
        self._last = last
        self._jitter = jitter
        # The next pause, before it is made shorter or longer.
        self.seconds = first

    def reset(self) -> None:
        """What is tried has gone well: begin with the first pause again."""
        self.seconds = self._first

    def next(self) -> float:
        """Seconds of the next pause, which is then over for the one that follows."""
        seconds = self.seconds * random.uniform(1 - self._jitter, 1 + self._jitter)
        self.seconds = min(self.seconds * 2, self._last)
        return seconds

    async def pause(self) -> None:
        await asyncio.sleep(self.next())
