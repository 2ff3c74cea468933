import pytest

from bench.large.subject import lag


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
