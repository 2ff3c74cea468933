"""The measurement of many CRs: its world is as an operator leaves it, and its figures are told."""

import json
import sys
from pathlib import Path

import pytest

from bench.driver import ROOT, Operator, until
from bench.large import PAIR, lag, more, renamed, requests, series, served
from devkit.devcluster import Cluster as Devcluster
from runner.resource.metadata import ObjectKey

METRICS = """# HELP some_total Not this: some_total{verb="GET"} 7
# TYPE some_total counter
some_total{verb="GET",resource="pods"} 3
some_total{verb="GET",resource="pods",subresource="log"} 1.5e+01
some_total_more{verb="GET"} 9
depth 4
"""


def test_series_of_one_metric() -> None:
    found = series(METRICS, "some_total")
    assert found == {
        frozenset({("verb", "GET"), ("resource", "pods")}): 3.0,
        frozenset({("verb", "GET"), ("resource", "pods"), ("subresource", "log")}): 15.0,
    }
    assert series(METRICS, "depth") == {frozenset(): 4.0}
    assert series(METRICS, "other") == {}


def test_more() -> None:
    one, two, new = frozenset({("a", "1")}), frozenset({("a", "2")}), frozenset({("a", "3")})
    assert more({one: 1.0, two: 2.0}, {one: 1.0, two: 5.0, new: 4.0}) == {two: 3.0, new: 4.0}


def test_requests_by_verb_and_resource() -> None:
    before = 'apiserver_request_total{code="200",verb="GET",resource="pods"} 1\n'
    after = (
        'apiserver_request_total{code="200",verb="GET",resource="pods"} 3\n'
        'apiserver_request_total{code="404",verb="GET",resource="pods"} 1\n'
        'apiserver_request_total{code="200",verb="PUT",resource="pods",subresource="status"} 5\n'
        'apiserver_request_total{code="200",verb="GET",resource="",subresource="/readyz"} 9\n'
    )
    assert requests(before, after) == {"PUT pods/status": 5, "GET pods": 3}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param({}, {}, id="none"),
        pytest.param({"0.1": 5, "1": 5, "+Inf": 5}, {"p99_below_s": 0.1, "all_below_s": 0.1}, id="all soon"),
        pytest.param({"0.1": 199, "1": 199, "+Inf": 200}, {"p99_below_s": 0.1, "all_below_s": "more"}, id="one late"),
    ],
)
def test_lag(counts: dict[str, float], expected: dict[str, float | str]) -> None:
    assert lag({frozenset({("le", bound)}): count for bound, count in counts.items()}) == expected


def test_served() -> None:
    assert served([]) == {}
    assert served([0.3, 0.1, 0.2]) == {"count": 3, "median_s": 0.2, "p95_s": 0.2, "longest_s": 0.3}


def test_a_copy_of_a_dependent_belongs_to_another_cr() -> None:
    owner = {"apiVersion": PAIR.api_version, "kind": PAIR.kind, "name": "p0", "uid": "u0"}
    metadata = {"name": "p0", "namespace": "here", "uid": "x", "resourceVersion": "5", "ownerReferences": [owner]}
    service = {"kind": "Service", "metadata": metadata, "spec": {"selector": {"app": "p0"}}, "status": {}}
    copied = renamed(service, ObjectKey("there", "p7"), "u7")
    assert copied["metadata"] == {"name": "p7", "ownerReferences": [{**owner, "name": "p7", "uid": "u7"}]}
    assert copied["spec"]["selector"] == {"app": "p7"}
    assert service["spec"] == {"selector": {"app": "p0"}}


async def test_a_small_cluster_is_measured(devcluster: Devcluster, tmp_path: Path) -> None:
    environ = {"KUBECONFIG": str(devcluster.kubeconfig), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "bench.large", "--crs=20", "--idle=1", "--window=1"]
    bench = Operator(command, folder=ROOT, log=tmp_path / "log", environ=environ)

    async def ended() -> bool:
        return bench.process.poll() is not None

    try:
        await until(ended, "the bench ends")
    finally:
        bench.kill()
    assert bench.process.returncode == 0, bench.output
    figures = next(
        json.loads(line) for line in bench.output.splitlines() if line.startswith('{"crs": 20') and "idle" in line
    )
    assert figures["start"]["reconciles"] + figures["pass"]["reconciles"] >= 20
    assert figures["start"]["requests"]["LIST pairs"] >= 1
    assert figures["pass"]["new_crs"]["count"] >= 1
    assert figures["idle"]["reconciles"] == 0
    assert "| CRs | 20 |" in bench.output
