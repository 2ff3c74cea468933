import pytest

from bench.large.subject import Sample, lag, used


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


def sample(at: float, runner_cpu: float, runs_cpu: float, reconciles: int) -> Sample:
    return Sample(at, runner_cpu, runs_cpu, reconciles, delayed=0, waiting=0, active=0, lags={})


def test_used() -> None:
    found = used(sample(10, 1, 4, 5), sample(12, 1.5, 5, 15))
    assert found == {
        **{"seconds": 2, "reconciles": 10, "per_second": 5, "lag": {}},
        **{"runner_cpu_s": 0.5, "runner_ms_each": 50, "runs_cpu_s": 1, "runs_ms_each": 100},
    }


def test_a_process_that_is_missing_in_the_later_sum_has_taken_nothing() -> None:
    found = used(sample(10, 1, 4, 5), sample(12, 1.5, 3.9, 15))
    assert (found["runs_cpu_s"], found["runs_ms_each"]) == (0, 0)


def test_without_a_reconcile_none_has_a_share() -> None:
    assert used(sample(10, 1, 4, 5), sample(12, 1, 4, 5)).keys() == {
        *("seconds", "reconciles", "runner_cpu_s", "runs_cpu_s", "lag")
    }
