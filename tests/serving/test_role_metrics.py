"""What roles may bring as metrics, and how it is shown. The accepted requests are those of the Go operator."""

import json
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from runner import metrics
from runner.serving.role_metrics import RefusedMetric, RoleMetrics


def role_metrics() -> RoleMetrics:
    return RoleMetrics(CollectorRegistry(auto_describe=True))


def record(made: RoleMetrics, name: str = "x", **request: Any) -> list[str]:
    """The exposition after this request."""
    made.record(json.dumps({"name": name, "description": "What it is", **request}).encode())
    return made.exposition().decode().splitlines()


def test_a_counter_has_the_name_that_the_role_gave_it() -> None:
    made = role_metrics()
    assert record(made, counter={}) == ["# HELP x What it is", "# TYPE x counter", "x 0.0"]
    assert record(made, counter={"increment": True})[-1] == "x 1.0"
    assert record(made, counter={"add": 1.5, "increment": None})[-1] == "x 2.5"
    assert record(made, counter={"increment": True, "add": 10})[-1] == "x 3.5"
    assert record(made, "x_total", counter={"add": 3})[-3:] == [
        "# HELP x_total What it is",
        "# TYPE x_total counter",
        "x_total 3.0",
    ]


def test_a_gauge_does_what_it_is_told() -> None:
    made = role_metrics()
    assert record(made, gauge={"set": 5})[1:] == ["# TYPE x gauge", "x 5.0"]
    changes: list[tuple[dict[str, object], str]] = [
        ({"increment": True}, "6.0"),
        ({"decrement": True, "increment": False}, "5.0"),
        ({"add": 2.5}, "7.5"),
        ({"subtract": 0.5}, "7.0"),
        ({"set": 0}, "0.0"),
        ({"add": -1}, "-1.0"),
        ({"add": 0, "set": 3}, "3.0"),
        ({}, "3.0"),
        ({"increment": True, "set": 9}, "4.0"),
    ]
    for change, expected in changes:
        assert record(made, gauge=change)[-1] == f"x {expected}", change
    before = time.time()
    assert before <= float(record(made, gauge={"set_to_current_time": True})[-1].split()[1]) <= time.time()


def test_histograms_and_summaries_observe() -> None:
    made = role_metrics()
    assert record(made, histogram={})[-2:] == ["x_count 0.0", "x_sum 0.0"]
    record(made, histogram={"observe": 0})
    shown = record(made, histogram={"observe": 0.2})
    buckets = [line.split('"')[1] for line in shown if line.startswith("x_bucket")]
    assert buckets == "0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 2.5 5.0 10.0 +Inf".split()
    assert {'x_bucket{le="0.1"} 1.0', 'x_bucket{le="0.25"} 2.0', "x_count 2.0", "x_sum 0.2"} <= set(shown)
    shown = record(made, "y", summary={"observe": 4})
    assert shown[-4:] == ["# HELP y What it is", "# TYPE y summary", "y_count 1.0", "y_sum 4.0"]
    # As in Go, either may be told as the other.
    assert "y_sum 6.0" in record(made, "y", histogram={"observe": 2})
    assert "# TYPE y summary" in made.exposition().decode()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (b"", "the body is no JSON"),
        (b"[" * 100_000, "the body is no JSON"),
        (b"\xff", "the body is no JSON"),
        (b"[]", "must be a JSON object"),
        ({}, "a request should contain at least one metric"),
        ({"counter": {}, "gauge": {}}, "only one metric can be processed at a time"),
        ({"counter": {"add": -1}}, "counter metrics cannot decrease in value"),
        ({"counter": {"increment": "yes"}}, "increment: must be true or false"),
        ({"counter": {"add": "1"}}, "add: must be a number"),
        ({"counter": {"add": True}}, "add: must be a number"),
        ({"counter": {"add": 10**400}}, "add: must be a number"),
        (b'{"name": "x", "gauge": {"set": NaN}}', "NaN is no number"),
        (b'{"name": "x", "gauge": {"set": 1e999}}', "set: must be a number"),
        ({"counter": []}, "counter: must be an object"),
        ({"name": "", "counter": {}}, "a metric needs a name"),
        ({"name": 1, "counter": {}}, "name: must be a string"),
        ({"name": "\ud800", "counter": {}}, "name: must be a string"),
        ({"description": "\ud800", "counter": {}}, "description: must be a string"),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(request_: bytes | dict[str, Any], message: str) -> None:
    made = role_metrics()
    body = request_ if isinstance(request_, bytes) else json.dumps({"name": "x", "description": "d", **request_}).encode()
    with pytest.raises(RefusedMetric, match=message):
        made.record(body)
    assert made.exposition() == b""


def test_a_metric_keeps_its_type_and_its_description() -> None:
    made = role_metrics()
    record(made, gauge={"set": 1})
    for kind in ("counter", "histogram", "summary"):
        with pytest.raises(RefusedMetric, match="cannot change metric type of x, which is a gauge"):
            record(made, **{kind: {}})
    assert record(made, description="Something else", gauge={})[0] == "# HELP x What it is"


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("process_open_fds", {"gauge": {"set": 1}}),
        ("taken", {"counter": {}}),
        ("taken", {"summary": {}}),
        ("role_one_count", {"gauge": {}}),
        ("role-two", {"gauge": {}}),
    ],
    ids=["collector", "runner", "another type", "suffix", "escaped"],
)
def test_a_name_that_is_taken_is_refused(name: str, request_: dict[str, Any]) -> None:
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    Gauge("taken", "The runner's own", registry=registry)
    made = RoleMetrics(registry)
    record(made, "role_one", summary={})
    shown = record(made, "role_two", gauge={})
    with pytest.raises(RefusedMetric, match=f"{name}: there is a metric of this name already"):
        record(made, name, **request_)
    assert made.exposition().decode().splitlines() == shown


def test_what_is_no_name_for_prometheus_is_shown_as_one() -> None:
    shown = record(role_metrics(), "my-metric/é", description="two\nlines", counter={})
    assert shown == ["# HELP my_metric__ two\\nlines", "# TYPE my_metric__ counter", "my_metric__ 0.0"]


def test_the_runners_own_names_are_taken() -> None:
    made = RoleMetrics(metrics.REGISTRY)
    for name in ("ansible_operator_reconciles", "ansible_operator_reconciles_count", "process_cpu_seconds_total"):
        with pytest.raises(RefusedMetric, match="there is a metric of this name already"):
            record(made, name, counter={})


def test_what_roles_may_bring_is_bounded() -> None:
    made = role_metrics()
    with pytest.raises(RefusedMetric, match="no more than 200 characters"):
        record(made, "x" * 201, counter={})
    assert len(record(made, "long", description="x" * 10**6, counter={})[0]) < 1100
    for number in range(999):
        made.record(json.dumps({"name": f"m{number}", "counter": {}}).encode())
    with pytest.raises(RefusedMetric, match="may be no more"):
        record(made, "another", counter={})
    # Those that are there go on.
    made.record(json.dumps({"name": "m1", "counter": {"increment": True}}).encode())
    assert b"\nm1 1.0\n" in made.exposition()
