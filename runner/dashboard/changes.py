"""The changes: for which CRs something has happened of late, for pages that show it live.

Next on the way: `runner.dashboard.live`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from runner.control import Request

_MOST = 1000


class Changes:
    """Numbers what happens to CRs. Not thread-safe: lives in the event loop."""

    def __init__(self) -> None:
        self.last = 0
        # By CR the number of its last change, in their order; and that of the last one that is forgotten.
        self._numbers: OrderedDict[Request, int] = OrderedDict()
        self._forgotten = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def note(self, request: Request) -> None:
        """Take down that something has happened to a CR, or in its run."""
        self.last += 1
        self._numbers.pop(request, None)
        self._numbers[request] = self.last
        if len(self._numbers) > _MOST:
            _, self._forgotten = self._numbers.popitem(last=False)
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def after(self, number: int) -> None:
        """Wait until there is a change after this one."""
        while self.last <= number:
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)

    def since(self, number: int) -> set[Request] | None:
        """The CRs with a change after this one; None if that is not known any more."""
        if number < self._forgotten:
            return None
        changed = set()
        for request, at in reversed(self._numbers.items()):
            if at <= number:
                break
            changed.add(request)
        return changed
