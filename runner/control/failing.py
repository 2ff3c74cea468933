"""CRs that fail: whose last reconcile failed or was refused, and since when, for the metrics.

Next on the way: `runner.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic

from runner import metrics
from runner.config.watches import Watch
from runner.control import Request


class Failing:
    """Since when each CR that fails has failed, one reconcile after the other. Exported by kind, not by CR."""

    def __init__(self, watches: Sequence[Watch], clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._since: dict[Request, float] = {}
        for watch in watches:
            metrics.export_failing(str(watch.gvk), count=partial(self._count, watch), longest=partial(self._longest, watch))

    def add(self, request: Request) -> None:
        """Record that the CR's reconcile has failed, or that the CR was refused."""
        self._since.setdefault(request, self._clock())

    def discard(self, request: Request) -> None:
        """Record that the CR does not fail any more, or is gone."""
        self._since.pop(request, None)

    def _count(self, watch: Watch) -> int:
        return sum(request.watch == watch for request in self._since)

    def _longest(self, watch: Watch) -> float:
        """Seconds; 0 if no CR fails."""
        since = min((since for request, since in self._since.items() if request.watch == watch), default=None)
        return 0.0 if since is None else self._clock() - since
