"""Every metric series of the runner, declared once. Names and labels are the Go operator's, for the dashboards' sake.

Beside its own those are controller-runtime's and client-go's. A `controller` is a watch, by the name `Watch.controller`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

import runner

_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)

# A registry of our own: the default one would add another library's series, and ours to another program's. It asks also
# those collectors for their names that do not tell them on their own, so that no name is given twice.
REGISTRY = CollectorRegistry(auto_describe=True)
# Go's metrics have no such series.
disable_created_metrics()  # type: ignore[no-untyped-call]
ProcessCollector(registry=REGISTRY)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_build_info = Gauge(
    "ansible_operator_build_info", "Build information of the runner.", ("commit", "version"), registry=REGISTRY
)
_build_info.labels(commit="", version=runner.__version__).set(1)

_results = Gauge(
    "ansible_operator_reconcile_result",
    "Gauge of reconciles and their results.",
    ("GVK", "result"),
    registry=REGISTRY,
)
_reconciles = Histogram(
    "ansible_operator_reconciles",
    "How long in seconds a reconcile's run takes.",
    ("GVK",),
    # Go's default ones, and some for what takes longer.
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
    registry=REGISTRY,
)

_phases = Histogram(
    "rolerunner_phase_seconds",
    "How long in seconds the parts of a turn take, one after the other: read (the CR), start (of "
    "Ansible, to its first event; of it fork: until the run's process is there), tasks, end (of its processes), status.",
    ("phase",),
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60, 600),
    registry=REGISTRY,
)

_worker_runs = Histogram(
    "rolerunner_worker_runs",
    "Which run of its worker each run was: those up to 1 had a new one.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    registry=REGISTRY,
)
_worker_retired = Counter(
    "rolerunner_worker_retired_total",
    "Workers that are not used again, by the reason: isolated (their job asked for it), runs, age, memory (their limits), "
    "exit (of the run), died, or what was not as before (child, thread, code, patched, process, descriptor).",
    ("reason",),
    registry=REGISTRY,
)

_slow = Gauge(
    "rolerunner_slow_parts",
    "Parts of the runs that go ansible-core's standard way, as this ansible-core is not known there.",
    ("part",),
    registry=REGISTRY,
)

_loop_lag = Histogram(
    "rolerunner_event_loop_lag_seconds",
    "How late in seconds the event loop was with a timer; more than a second means that something held it up.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)

_CONTROLLER = ("controller",)
_turns = Counter(
    "controller_runtime_reconcile_total", "Reconciles by their result.", (*_CONTROLLER, "result"), registry=REGISTRY
)
_errors = Counter(
    "controller_runtime_reconcile_errors_total", "Reconciles that will be tried again.", _CONTROLLER, registry=REGISTRY
)
_panics = Counter(
    "controller_runtime_reconcile_panics_total",
    "Reconciles that a fault of the runner ended.",
    _CONTROLLER,
    registry=REGISTRY,
)
_turn_seconds = Histogram(
    "controller_runtime_reconcile_time_seconds",
    "How long in seconds a reconcile takes.",
    _CONTROLLER,
    buckets=(
        *(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1),
        *(1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 60),
    ),
    registry=REGISTRY,
)
_limit = Gauge(
    "controller_runtime_max_concurrent_reconciles", "Reconciles that may be on at once.", _CONTROLLER, registry=REGISTRY
)
_active = Gauge("controller_runtime_active_workers", "Reconciles that are on.", _CONTROLLER, registry=REGISTRY)

# Both labels have the same value.
_QUEUE = ("name", "controller")
_QUEUE_BUCKETS = [10.0**exponent for exponent in range(-8, 4)]
_depth = Gauge(
    "workqueue_depth",
    "Turns that wait, by priority: 0 is a change, below it are dependents, retries and the periodic pass.",
    (*_QUEUE, "priority"),
    registry=REGISTRY,
)
_adds = Counter("workqueue_adds_total", "Turns that were given.", _QUEUE, registry=REGISTRY)
_waits = Histogram(
    "workqueue_queue_duration_seconds",
    "How long in seconds a turn waits.",
    _QUEUE,
    buckets=_QUEUE_BUCKETS,
    registry=REGISTRY,
)
_works = Histogram(
    "workqueue_work_duration_seconds", "How long in seconds a turn is on.", _QUEUE, buckets=_QUEUE_BUCKETS, registry=REGISTRY
)
_unfinished = Gauge("workqueue_unfinished_work_seconds", "The seconds of all turns that are on.", _QUEUE, registry=REGISTRY)
_longest = Gauge(
    "workqueue_longest_running_processor_seconds", "The seconds of the longest turn that is on.", _QUEUE, registry=REGISTRY
)
_retries = Counter("workqueue_retries_total", "Turns that were given for later.", _QUEUE, registry=REGISTRY)

_requests = Counter(
    "rest_client_requests_total", "Requests to the API server.", ("code", "method", "host"), registry=REGISTRY
)
_leading = Gauge(
    "leader_election_master_status",
    "Whether this replica holds the Lease (1) or waits for it (0).",
    ("name",),
    registry=REGISTRY,
)


@functools.cache
def _series(metric: _Metric, *labels: str) -> _Metric:
    """The series of these labels. The metric keeps it for ever, and finds it less quickly."""
    return metric.labels(*labels)


@contextmanager
def reconciling(gvk: str) -> Iterator[None]:
    """Measures a run from its start to its end."""
    with _series(_reconciles, gvk).time():
        yield


def phase(name: str, seconds: float) -> None:
    """A part of a turn is over."""
    _series(_phases, name).observe(seconds)


def loop_lag(seconds: float) -> None:
    """A timer of the event loop was so late."""
    _loop_lag.observe(seconds)


def worker_run(number: int, retired: str) -> None:
    """A run was its worker's `number`th, which for this reason, if there is one, is not used again."""
    _worker_runs.observe(number)
    if retired:
        _worker_retired.labels(reason=retired).inc()


def slow(part: str) -> None:
    """This part of the runs goes the slow way, for as long as this process lives."""
    _series(_slow, part).set(1)


def reconciled(gvk: str, *, succeeded: bool) -> None:
    _series(_results, gvk, "succeeded" if succeeded else "failed").inc()


def follow(
    controller: str,
    *,
    limit: int,
    depths: Mapping[int, Callable[[], int]],
    running: Callable[[], list[float]],
) -> None:
    """Show a controller's series from now on, from 0.

    At each scrape `depths` are asked for how many wait, by priority, and `running` for the seconds of each turn that is on.
    """
    for result in ("success", "error", "requeue", "requeue_after"):
        _turns.labels(controller, result)
    for counted in (_errors, _panics, _turn_seconds):
        counted.labels(controller)
    for counted in (_adds, _waits, _works, _retries):
        counted.labels(controller, controller)
    for priority, depth in depths.items():
        _depth.labels(controller, controller, str(priority)).set_function(depth)
    _limit.labels(controller).set(limit)
    _active.labels(controller).set_function(lambda: len(running()))
    _unfinished.labels(controller, controller).set_function(lambda: sum(running()))
    _longest.labels(controller, controller).set_function(lambda: max(running(), default=0))


def queued(controller: str) -> None:
    """A turn waits."""
    _series(_adds, controller, controller).inc()


def delayed(controller: str) -> None:
    """A turn will wait when its time has come."""
    _series(_retries, controller, controller).inc()


def begun(controller: str, *, waited: float) -> None:
    """A turn is on, after so many seconds."""
    _series(_waits, controller, controller).observe(waited)


def ended(controller: str, *, worked: float) -> None:
    """A turn is over, after so many seconds."""
    _series(_works, controller, controller).observe(worked)


@contextmanager
def turning(controller: str) -> Iterator[None]:
    """Measures a reconcile from its start to its end."""
    with _series(_turn_seconds, controller).time():
        yield


def turned(controller: str, result: str, *, panic: bool = False) -> None:
    """A reconcile ended as `success`, `error` or `requeue_after`; `panic` if it was a fault of the runner's own."""
    _series(_turns, controller, result).inc()
    if result == "error":
        _series(_errors, controller).inc()
    if panic:
        _series(_panics, controller).inc()


def requested(*, code: str, method: str, host: str) -> None:
    """The API server answered, or, with `<error>` as code, it did not."""
    _series(_requests, code, method, host).inc()


def leading(name: str, is_leader: bool) -> None:
    """Whether this replica leads, by the Lease of this name."""
    _series(_leading, name).set(is_leader)


def exposition() -> bytes:
    """All series in the Prometheus text format."""
    return generate_latest(REGISTRY)
