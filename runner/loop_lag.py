"""Measures how late the event loop is: while one piece of work holds it everything waits, the renewal of the Lease too.

Tests fail on its warning.

Next on the way: `runner.metrics`.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic, thread_time
from typing import NoReturn

from runner import metrics

logger = logging.getLogger(__name__)

HELD_UP = "The event loop was held up"

# Seconds: between two measurements; how late a timer may be; between two warnings, as one cause may recur often.
_INTERVAL = 0.25
_TOO_LATE = 1.0
_WARN_EVERY = 60.0


async def watch_loop(
    *, interval: float = _INTERVAL, too_late: float = _TOO_LATE, warn_every: float = _WARN_EVERY
) -> NoReturn:
    """Measure until cancelled, and log a warning when the loop was held up, with the longest delay since the last warning.

    `busy` is the processor time that the loop's own thread had within the `seconds`. The rest was the machine's.
    """
    warned, longest, busy = float("-inf"), 0.0, 0.0
    while True:
        begun, worked = monotonic(), thread_time()
        await asyncio.sleep(interval)
        now = monotonic()
        late = max(now - begun - interval, 0.0)
        metrics.loop_lag(late)
        if late > too_late and late > longest:
            longest, busy = late, thread_time() - worked
        if longest and now - warned > warn_every:
            logger.warning(HELD_UP, extra={"seconds": round(longest, 3), "busy": round(busy, 3)})
            warned, longest = now, 0.0
