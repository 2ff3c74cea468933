from bench.large.probes import served


def test_served() -> None:
    assert served([]) == {}
    assert served([0.3, 0.1, 0.2]) == {"count": 3, "median_s": 0.2, "p95_s": 0.2, "longest_s": 0.3}
