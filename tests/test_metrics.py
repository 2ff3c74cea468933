import functools

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runner import metrics

NAME = "k-v1-controller"
QUEUE = frozenset({"name", "controller"})


@pytest.fixture(scope="module")
def text() -> str:
    return shown_after_everything()


@functools.cache
def shown_after_everything() -> str:
    """The text of all series, each of which has been counted or set once."""
    with metrics.time_run("a/v1, Kind=K"):
        pass
    metrics.run_ended("a/v1, Kind=K", succeeded=True)
    metrics.phase("a phase", 0.5)
    metrics.slow_part("modules")
    metrics.worker_run(1, "code")
    metrics.loop_lag(0.02)
    metrics.export_controller(
        NAME, limit=3, depths={0: lambda: 4, -1: lambda: 0}, waits={0: lambda: 7.5}, running=lambda: [1.5, 2.5]
    )
    metrics.request_added(NAME)
    metrics.request_delayed(NAME)
    metrics.request_started(NAME, waited=0.5)
    metrics.request_done(NAME, worked=2)
    with metrics.time_reconcile(NAME):
        pass
    metrics.reconcile_ended(NAME, "requeue_after")
    metrics.reconcile_ended(NAME, "error")
    metrics.reconcile_ended(NAME, "error", panic=True)
    metrics.api_request(code="200", method="GET", host="127.0.0.1:6443")
    metrics.export_custom_resources("a/v1, Kind=K", lambda: 5)
    metrics.export_failing("a/v1, Kind=K", count=lambda: 2, longest=lambda: 60.5)
    metrics.export_watching(lambda: True)
    metrics.run_timed_out("a/v1, Kind=K")
    metrics.leads("lease", True)
    metrics.leads("lease", False)
    return metrics.exposition().decode()


def test_the_series_are_those_of_the_dashboards_users_have(text: str) -> None:
    for line in (
        'ansible_operator_reconcile_result{GVK="a/v1, Kind=K",result="succeeded"} 1.0',
        'ansible_operator_reconciles_count{GVK="a/v1, Kind=K"} 1.0',
        'controller_runtime_reconcile_total{controller="k-v1-controller",result="success"} 0.0',
        'controller_runtime_reconcile_total{controller="k-v1-controller",result="error"} 2.0',
        'controller_runtime_reconcile_total{controller="k-v1-controller",result="requeue"} 0.0',
        'controller_runtime_reconcile_total{controller="k-v1-controller",result="requeue_after"} 1.0',
        'controller_runtime_reconcile_errors_total{controller="k-v1-controller"} 2.0',
        'controller_runtime_reconcile_panics_total{controller="k-v1-controller"} 1.0',
        'controller_runtime_reconcile_time_seconds_count{controller="k-v1-controller"} 1.0',
        'controller_runtime_max_concurrent_reconciles{controller="k-v1-controller"} 3.0',
        'controller_runtime_active_workers{controller="k-v1-controller"} 2.0',
        'workqueue_depth{controller="k-v1-controller",name="k-v1-controller",priority="0"} 4.0',
        'workqueue_depth{controller="k-v1-controller",name="k-v1-controller",priority="-1"} 0.0',
        'workqueue_adds_total{controller="k-v1-controller",name="k-v1-controller"} 1.0',
        'workqueue_retries_total{controller="k-v1-controller",name="k-v1-controller"} 1.0',
        'workqueue_queue_duration_seconds_sum{controller="k-v1-controller",name="k-v1-controller"} 0.5',
        'workqueue_work_duration_seconds_sum{controller="k-v1-controller",name="k-v1-controller"} 2.0',
        'workqueue_unfinished_work_seconds{controller="k-v1-controller",name="k-v1-controller"} 4.0',
        'workqueue_longest_running_processor_seconds{controller="k-v1-controller",name="k-v1-controller"} 2.5',
        'rest_client_requests_total{code="200",host="127.0.0.1:6443",method="GET"} 1.0',
        'leader_election_master_status{name="lease"} 0.0',
        'rolerunner_phase_seconds_sum{phase="a phase"} 0.5',
        'rolerunner_slow_parts{part="modules"} 1.0',
        'rolerunner_custom_resources{GVK="a/v1, Kind=K"} 5.0',
        'rolerunner_failing_custom_resources{GVK="a/v1, Kind=K"} 2.0',
        'rolerunner_longest_failing_seconds{GVK="a/v1, Kind=K"} 60.5',
        'rolerunner_run_timeouts_total{GVK="a/v1, Kind=K"} 1.0',
        'rolerunner_longest_waiting_seconds{controller="k-v1-controller",priority="0"} 7.5',
        "rolerunner_watching 1.0",
    ):
        assert f"\n{line}\n" in text, line
    # This process' loop, which others' tests have run as well.
    assert '\nrolerunner_event_loop_lag_seconds_bucket{le="0.05"} ' in text
    assert 'ansible_operator_build_info{commit="",version="' in text


def test_every_series_and_its_labels(text: str) -> None:
    found = {
        family.name: (family.type, frozenset(label for sample in family.samples for label in sample.labels) - {"le"})
        for family in text_string_to_metric_families(text)
        if not family.name.startswith("process_")
    }
    controller = frozenset({"controller"})
    assert found == {
        "ansible_operator_build_info": ("gauge", {"commit", "version"}),
        "ansible_operator_reconcile_result": ("gauge", {"GVK", "result"}),
        "ansible_operator_reconciles": ("histogram", {"GVK"}),
        # The parser takes _total off the counters' names.
        "rolerunner_phase_seconds": ("histogram", {"phase"}),
        "rolerunner_slow_parts": ("gauge", {"part"}),
        "rolerunner_worker_runs": ("histogram", frozenset()),
        "rolerunner_worker_retired": ("counter", {"reason"}),
        "rolerunner_custom_resources": ("gauge", {"GVK"}),
        "rolerunner_failing_custom_resources": ("gauge", {"GVK"}),
        "rolerunner_longest_failing_seconds": ("gauge", {"GVK"}),
        "rolerunner_run_timeouts": ("counter", {"GVK"}),
        "rolerunner_longest_waiting_seconds": ("gauge", controller | {"priority"}),
        "rolerunner_watching": ("gauge", frozenset()),
        "rolerunner_draining_custom_resources": ("gauge", frozenset()),
        "rolerunner_event_loop_lag_seconds": ("histogram", frozenset()),
        "controller_runtime_reconcile": ("counter", {"controller", "result"}),
        "controller_runtime_reconcile_errors": ("counter", controller),
        "controller_runtime_reconcile_panics": ("counter", controller),
        "controller_runtime_reconcile_time_seconds": ("histogram", controller),
        "controller_runtime_max_concurrent_reconciles": ("gauge", controller),
        "controller_runtime_active_workers": ("gauge", controller),
        "workqueue_depth": ("gauge", QUEUE | {"priority"}),
        "workqueue_adds": ("counter", QUEUE),
        "workqueue_queue_duration_seconds": ("histogram", QUEUE),
        "workqueue_work_duration_seconds": ("histogram", QUEUE),
        "workqueue_unfinished_work_seconds": ("gauge", QUEUE),
        "workqueue_longest_running_processor_seconds": ("gauge", QUEUE),
        "workqueue_retries": ("counter", QUEUE),
        "rest_client_requests": ("counter", {"code", "method", "host"}),
        "leader_election_master_status": ("gauge", {"name"}),
    }


def test_the_process_is_measured(text: str) -> None:
    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"):
        assert f"\nprocess_{name} " in text
