"""The metric series of the runner. Those that the Go operator has as well keep their names, so that its dashboards work.

Besides the Go operator's own these are controller-runtime's and client-go's; all others begin with `rolerunner_`. A
`controller` is a watch, by the name `Watch.controller`.
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
    "How long in seconds the parts of a reconcile take, one after the other: read (the CR), start (of "
    "Ansible, to its first event), tasks, end (of its processes), status.",
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
    "exit (of the run), died, or what was not as before (child, thread, code, patched, process, descriptor, unknown).",
    ("reason",),
    registry=REGISTRY,
)

_slow = Gauge(
    "rolerunner_slow_parts",
    "Parts of the runs that go ansible-core's standard way, as this ansible-core is not known there.",
    ("part",),
    registry=REGISTRY,
)

_crs = Gauge(
    "rolerunner_custom_resources",
    "Custom resources that this process has: with shards or a label selector, its part of them.",
    ("GVK",),
    registry=REGISTRY,
)
_watching = Gauge(
    "rolerunner_watching",
    "Whether this process watches custom resources (1), or is starting or waits for its Lease (0).",
    registry=REGISTRY,
)
_failing = Gauge(
    "rolerunner_failing_custom_resources",
    "Custom resources whose last reconcile failed, or that break their argument specs.",
    ("GVK",),
    registry=REGISTRY,
)
_longest_failing = Gauge(
    "rolerunner_longest_failing_seconds",
    "The seconds for which the custom resource that has failed for longest has failed, as far as this process knows.",
    ("GVK",),
    registry=REGISTRY,
)
_timeouts = Counter("rolerunner_run_timeouts_total", "Runs that were ended at their timeout.", ("GVK",), registry=REGISTRY)
_draining = Gauge(
    "rolerunner_draining_custom_resources",
    "Custom resources that this shard is letting go to others, and does not run any more.",
    registry=REGISTRY,
)
_loop_lag = Histogram(
    "rolerunner_event_loop_lag_seconds",
    "How late in seconds the event loop was with a timer; more than a second means that something held it up.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)

_CONTROLLER = ("controller",)
_reconcile_total = Counter(
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
_reconcile_seconds = Histogram(
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
    "controller_runtime_max_concurrent_reconciles", "Reconciles that may be done at once.", _CONTROLLER, registry=REGISTRY
)
_active = Gauge("controller_runtime_active_workers", "Reconciles that are being done.", _CONTROLLER, registry=REGISTRY)

# Both labels have the same value.
_QUEUE = ("name", "controller")
_QUEUE_BUCKETS = [10.0**exponent for exponent in range(-8, 4)]
_depth = Gauge(
    "workqueue_depth",
    "Reconciles that wait, by priority: 0 is a change, below it are dependents, retries and the periodic pass.",
    (*_QUEUE, "priority"),
    registry=REGISTRY,
)
_longest_waiting = Gauge(
    "rolerunner_longest_waiting_seconds",
    "The seconds that the reconcile which waits for longest has waited with its priority (see workqueue_depth).",
    (*_CONTROLLER, "priority"),
    registry=REGISTRY,
)
_adds = Counter("workqueue_adds_total", "Reconciles that were queued.", _QUEUE, registry=REGISTRY)
_waits = Histogram(
    "workqueue_queue_duration_seconds",
    "How long in seconds a reconcile waits.",
    _QUEUE,
    buckets=_QUEUE_BUCKETS,
    registry=REGISTRY,
)
_works = Histogram(
    "workqueue_work_duration_seconds",
    "How long in seconds a reconcile takes.",
    _QUEUE,
    buckets=_QUEUE_BUCKETS,
    registry=REGISTRY,
)
_unfinished = Gauge(
    "workqueue_unfinished_work_seconds", "The seconds that all current reconciles have taken.", _QUEUE, registry=REGISTRY
)
_longest = Gauge(
    "workqueue_longest_running_processor_seconds",
    "The seconds that the longest current reconcile has taken.",
    _QUEUE,
    registry=REGISTRY,
)
_retries = Counter("workqueue_retries_total", "Reconciles that were queued for later.", _QUEUE, registry=REGISTRY)

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
    """The series of these labels, which the metric itself would look up more slowly."""
    return metric.labels(*labels)


@contextmanager
def time_run(gvk: str) -> Iterator[None]:
    """Measure how long a run takes."""
    with _series(_reconciles, gvk).time():
        yield


def phase(name: str, seconds: float) -> None:
    """Count the seconds of a part of a reconcile."""
    _series(_phases, name).observe(seconds)


def loop_lag(seconds: float) -> None:
    """Count a timer of the event loop that was late by these seconds."""
    _loop_lag.observe(seconds)


def worker_run(number: int, retired: str) -> None:
    """Count a run by its number in its worker, and the worker by the reason, if any, for which it is not used again."""
    _worker_runs.observe(number)
    if retired:
        _worker_retired.labels(reason=retired).inc()


def slow_part(part: str) -> None:
    """Show, for as long as this process lives, that this part of the runs goes ansible-core's standard way."""
    _series(_slow, part).set(1)


def run_ended(gvk: str, *, succeeded: bool) -> None:
    """Count a run by its result; a CR that was refused without a run counts as a failure."""
    _series(_results, gvk, "succeeded" if succeeded else "failed").inc()


def export_custom_resources(gvk: str, count: Callable[[], int]) -> None:
    """Export the number of CRs of a kind, for which `count` is asked at each scrape, and the kind's counters from 0."""
    _timeouts.labels(gvk)
    for result in ("succeeded", "failed"):
        _results.labels(gvk, result)
    _crs.labels(gvk).set_function(count)


def export_failing(gvk: str, *, count: Callable[[], int], longest: Callable[[], float]) -> None:
    """Export the number of a kind's CRs that fail, and the seconds for which the longest of them has."""
    _failing.labels(gvk).set_function(count)
    _longest_failing.labels(gvk).set_function(longest)


def run_timed_out(gvk: str) -> None:
    """Count a run that was ended at its timeout."""
    _series(_timeouts, gvk).inc()


def export_watching(is_watching: Callable[[], bool]) -> None:
    """Export whether this process watches CRs."""
    _watching.set_function(is_watching)


def export_draining(count: Callable[[], int]) -> None:
    """Export the number of CRs that a shard is letting go."""
    _draining.set_function(count)


def export_controller(
    controller: str,
    *,
    limit: int,
    depths: Mapping[int, Callable[[], int]],
    waits: Mapping[int, Callable[[], float]],
    running: Callable[[], list[float]],
) -> None:
    """Export a controller's series from now on, from 0.

    At each scrape `depths` are asked how many reconciles wait, by priority, `waits` for the seconds that the first of these
    has waited, and `running` for the seconds that each current one has taken.
    """
    for result in ("success", "error", "requeue", "requeue_after"):
        _reconcile_total.labels(controller, result)
    for counted in (_errors, _panics, _reconcile_seconds):
        counted.labels(controller)
    for counted in (_adds, _waits, _works, _retries):
        counted.labels(controller, controller)
    for priority, depth in depths.items():
        _depth.labels(controller, controller, str(priority)).set_function(depth)
    for priority, longest in waits.items():
        _longest_waiting.labels(controller, str(priority)).set_function(longest)
    _limit.labels(controller).set(limit)
    _active.labels(controller).set_function(lambda: len(running()))
    _unfinished.labels(controller, controller).set_function(lambda: sum(running()))
    _longest.labels(controller, controller).set_function(lambda: max(running(), default=0))


def request_added(controller: str) -> None:
    """Count a request that was added to the queue."""
    _series(_adds, controller, controller).inc()


def request_delayed(controller: str) -> None:
    """Count a request that was queued for later."""
    _series(_retries, controller, controller).inc()


def request_started(controller: str, *, waited: float) -> None:
    """Count a request that was taken from the queue after so many seconds."""
    _series(_waits, controller, controller).observe(waited)


def request_done(controller: str, *, worked: float) -> None:
    """Count a request that was done after so many seconds."""
    _series(_works, controller, controller).observe(worked)


@contextmanager
def time_reconcile(controller: str) -> Iterator[None]:
    """Measure how long a reconcile takes."""
    with _series(_reconcile_seconds, controller).time():
        yield


def reconcile_ended(controller: str, result: str, *, panic: bool = False) -> None:
    """Count a reconcile by its result: `success`, `error` or `requeue_after`; `panic`: by a fault of the runner's own."""
    _series(_reconcile_total, controller, result).inc()
    if result == "error":
        _series(_errors, controller).inc()
    if panic:
        _series(_panics, controller).inc()


def api_request(*, code: str, method: str, host: str) -> None:
    """Count a request to the API server by its answer's code, which is `<error>` if there was no answer."""
    _series(_requests, code, method, host).inc()


def leads(name: str, is_leader: bool) -> None:
    """Show whether this replica holds the Lease of this name."""
    _series(_leading, name).set(is_leader)


def exposition() -> bytes:
    """All series in the Prometheus text format."""
    return generate_latest(REGISTRY)
