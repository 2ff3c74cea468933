"""Time limits of answers that go on, all of which can be ended at once.

Next on the way: `runner.dashboard.live` and `runner.dashboard.relay`, whose answers these are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Deadlines:
    """The deadlines of answers that have not ended yet."""

    def __init__(self) -> None:
        self._pending: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def after(self, seconds: float) -> AsyncIterator[None]:
        """Raises TimeoutError after so many seconds, or at `expire`."""
        async with asyncio.timeout(seconds) as deadline:
            self._pending.add(deadline)
            try:
                yield
            finally:
                self._pending.discard(deadline)

    def expire(self) -> None:
        """Have all of them expire now."""
        for deadline in self._pending:
            # One that has just expired cannot be moved any more.
            if not deadline.expired():
                deadline.reschedule(asyncio.get_running_loop().time())
