"""The operator that is measured: its counters and its memory, from outside."""

from __future__ import annotations

import asyncio
import contextlib
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.driver import Operator
from bench.large.counters import Series, more, series

Figures = dict[str, Any]

# The shares of the event loop's delays of which the bounds are told.
_SHARES = {"p99_below_s": 0.99, "all_below_s": 1.0}


@dataclass(slots=True)
class Sample:
    """The counters of an operator at one moment."""

    at: float
    runner_cpu: float
    runs_cpu: float
    reconciles: float
    delayed: float
    waiting: float
    active: float
    lags: Series


@dataclass(slots=True)
class Subject:
    """The operator that is measured."""

    operator: Operator
    metrics: str
    ready: str

    async def is_ready(self) -> bool:
        assert self.operator.process.poll() is None, self.operator.output[-2000:]
        with contextlib.suppress(OSError):
            return bool(await asyncio.to_thread(_read, self.ready))
        return False

    async def sample(self) -> Sample:
        assert self.operator.process.poll() is None, self.operator.output[-2000:]
        text = await asyncio.to_thread(_read, self.metrics)
        runner, runs = self.operator.processor_seconds()
        total: Callable[[str], float] = lambda name: sum(series(text, name).values())  # noqa: E731
        return Sample(
            at=time.monotonic(),
            runner_cpu=runner,
            runs_cpu=runs,
            reconciles=total("controller_runtime_reconcile_total"),
            delayed=total("workqueue_retries_total"),
            waiting=total("workqueue_depth"),
            active=total("controller_runtime_active_workers"),
            lags=series(text, "rolerunner_event_loop_lag_seconds_bucket"),
        )

    def memory(self) -> Figures:
        """Anonymous memory, in MB."""
        pid = self.operator.process.pid
        return {
            "runner_mb": self.operator.memory([pid])["anonymous_mb"],
            "all_mb": self.operator.memory()["anonymous_mb"],
        }


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


def used(before: Sample, after: Sample) -> Figures:
    """Between two samples: seconds, reconciles, processor time, and how late the event loop was."""
    runner = after.runner_cpu - before.runner_cpu
    # A process that ended while they were read may be missing in the later sum.
    runs = max(0.0, after.runs_cpu - before.runs_cpu)
    reconciles, seconds = after.reconciles - before.reconciles, after.at - before.at
    figures: Figures = {
        "seconds": round(seconds, 1),
        "reconciles": int(reconciles),
        "runner_cpu_s": round(runner, 2),
        "runs_cpu_s": round(runs, 2),
        "lag": lag(more(before.lags, after.lags)),
    }
    if reconciles:
        figures |= {
            "per_second": round(reconciles / seconds, 1),
            "runner_ms_each": round(1000 * runner / reconciles, 1),
            "runs_ms_each": round(1000 * runs / reconciles, 1),
        }
    return figures


def lag(buckets: Series) -> Figures:
    """The bounds, in seconds, below which 99 % and all of the event loop's delays were."""
    counts = sorted((float(dict(labels)["le"]), count) for labels, count in buckets.items())
    if not counts:
        return {}
    most = counts[-1][1]
    found = {name: next(bound for bound, count in counts if count >= share * most) for name, share in _SHARES.items()}
    return {name: bound if bound != float("inf") else "more" for name, bound in found.items()}
