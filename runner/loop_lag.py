"""A measure of how late the event loop is: everything waits while one piece of work holds it, the lease's renewal too.

Tests take the log line as their alarm.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic, thread_time
from typing import NoReturn

from runner import metrics

logger = logging.getLogger(__name__)

HELD_UP = "The event loop was held up"

# Seconds: between two looks; how late a timer may be; how often that is told, as one cause may come again and again.
_INTERVAL = 0.25
_TOO_LATE = 1.0
_TELL_EVERY = 60.0


async def watch_loop(
    *, interval: float = _INTERVAL, too_late: float = _TOO_LATE, tell_every: float = _TELL_EVERY
) -> NoReturn:
    """Measure until cancelled, and log a warning when the loop was held up; the longest of those not told with the next.

    `busy` is the loop's own share of the `seconds`: what it has of the processor's time. The rest was the machine's.
    """
    told, longest, busy = float("-inf"), 0.0, 0.0
    while True:
        begun, worked = monotonic(), thread_time()
        await asyncio.sleep(interval)
        now = monotonic()
        late = max(now - begun - interval, 0.0)
        metrics.loop_lag(late)
        if late > too_late and late > longest:
            longest, busy = late, thread_time() - worked
        if longest and now - told > tell_every:
            logger.warning(HELD_UP, extra={"seconds": round(longest, 3), "busy": round(busy, 3)})
            told, longest = now, 0.0
