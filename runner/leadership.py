"""Leadership of this process, or its part in a ring of shards: waited for, kept while the operator works, and given up when
nothing runs any more.

A process that has lost its Lease ends the process at once, as it may write nothing more; its runs end with it.

Next on the way: `runner.kube.lease`, where the Lease is kept.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import NoReturn

from runner import metrics
from runner.config.settings import Election
from runner.kube.client import ApiClient
from runner.kube.lease import Elector, Lost
from runner.resource.sharding import Shard

logger = logging.getLogger(__name__)

# Seconds that the last line of the log may take.
_LAST_LINE = 0.5


class Leadership:
    """This process's part in the election, or in its ring. Uses SIGALRM and the process's interval timer."""

    def __init__(self, client: ApiClient, election: Election, shard: Shard | None = None) -> None:
        """Raises ConfigurationError."""
        self._elector = Elector(client, election, shard=shard, hold=_exit_unless_renewed)
        self._lost = "The shard's lease is lost" if shard else "Leader election lost"

    @property
    def lease(self) -> str:
        """The Lease as `NAMESPACE/NAME`."""
        return self._elector.fields["lease"]

    @property
    def holder(self) -> str:
        """The holder as last seen; empty if there is none."""
        return self._elector.holder

    @property
    def identity(self) -> str:
        """What this process is called in the Lease."""
        return self._elector.identity

    @property
    def advertised(self) -> str:
        """What the Lease says of the dashboard of another that holds it; empty for nothing."""
        return self._elector.advertised

    def advertise(self, text: Callable[[], str]) -> None:
        """Have the Lease say this of this process's dashboard whenever it is taken or renewed; empty for nothing."""
        self._elector.advertise(text)

    async def acquire(self, stop: asyncio.Event) -> bool:
        """Wait until this process holds the Lease; False if it is asked to stop before."""
        signal.signal(signal.SIGALRM, lambda *_: self._exit("the lease could not be renewed in time"))
        metrics.leads(self._elector.name, False)
        acquiring, stopping = asyncio.create_task(self._elector.acquire()), asyncio.create_task(stop.wait())
        done, waiting = await asyncio.wait({acquiring, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if acquiring not in done:
            return False
        acquiring.result()
        metrics.leads(self._elector.name, True)
        return True

    async def keep(self) -> None:
        """Renew the Lease until cancelled. Ends the process if another has it."""
        try:
            await self._elector.keep()
        except Lost as lost:
            self._exit(str(lost))

    async def announce(self) -> None:
        """Post the Event of a new holder; an attempt."""
        try:
            await self._elector.announce()
        except Exception:
            logger.exception("A courtesy of the runner failed")

    async def resign(self) -> None:
        """Give the Lease up, so that another may work at once. Nothing may run any more."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        await self._elector.release()

    def _exit(self, reason: str) -> NoReturn:
        """End the process: another may be at work already. Its runs end as they notice that it is gone."""
        # Should even the log be blocked, the kernel ends this process.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, _LAST_LINE)
        logger.error(self._lost, extra={**self._elector.fields, "reason": reason})
        os._exit(1)


def _exit_unless_renewed(until: float) -> None:
    """End this process at `until` (of time.monotonic) unless this is called again before.

    By the kernel's timer: it does not depend on the event loop, and a process that was paused meanwhile finds that it has
    expired, and gets its signal before it writes anything more.
    """
    signal.setitimer(signal.ITIMER_REAL, max(until - time.monotonic(), 1e-6))
