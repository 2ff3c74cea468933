"""Every metric series of the runner, declared once. Names and labels are the Go operator's, for the dashboards' sake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

import runner

# A registry of our own: the default one would add another library's series, and ours to another program's.
REGISTRY = CollectorRegistry()

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
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
    registry=REGISTRY,
)
_leader = Gauge(
    "leader_election_master_status",
    "Whether this replica leads, by the Lease's name: 1 or 0.",
    ("name",),
    registry=REGISTRY,
)


@contextmanager
def reconciling(gvk: str) -> Iterator[None]:
    """Measures a run from its start to its end."""
    with _reconciles.labels(GVK=gvk).time():
        yield


def reconciled(gvk: str, *, succeeded: bool) -> None:
    _results.labels(GVK=gvk, result="succeeded" if succeeded else "failed").inc()


def leading(name: str, is_leader: bool) -> None:
    """`name` is the Lease's."""
    _leader.labels(name=name).set(is_leader)


def exposition() -> bytes:
    """All series in the Prometheus text format."""
    return generate_latest(REGISTRY)
