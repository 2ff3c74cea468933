"""CRs that fail: whose last reconcile failed or was refused, and since when, for the metrics.

Next on the way: `runner.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic

from runner import metrics
from runner.config.watches import Watch
from runner.control import Request


class Failing:
    """Since when each CR that fails has failed, one reconcile after the other. Exported by kind, not by CR."""

    def __init__(self, watches: Sequence[Watch], clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        # Of each watch the CR that has failed for longest is the first. A scrape takes no longer where thousands fail.
        self._since: dict[Watch, dict[Request, float]] = {watch: {} for watch in watches}
        for watch, since in self._since.items():
            metrics.export_failing(str(watch.gvk), count=since.__len__, longest=partial(self._longest, since))

    def add(self, request: Request) -> None:
        """Record that the CR's reconcile has failed, or that the CR was refused."""
        self._since[request.watch].setdefault(request, self._clock())

    def discard(self, request: Request) -> None:
        """Record that the CR does not fail any more, or is gone."""
        self._since[request.watch].pop(request, None)

    def _longest(self, since: Mapping[Request, float]) -> float:
        """Seconds; 0 if no CR fails."""
        first = next(iter(since.values()), None)
        return 0.0 if first is None else self._clock() - first
