from __future__ import annotations

from runner.dashboard.charts import HEIGHT, WIDTH, Span, bars, sparkline


def span(begun: float, ended: float) -> Span:
    return Span(begun, ended, "ok", "title")


def test_bars_are_on_one_scale() -> None:
    first, second = bars([span(10, 15), span(15, 20)], 10, 20)
    assert (first.x, first.width, second.x, second.width) == (0, 500, 500, 500)


def test_what_is_short_or_outside_can_be_seen_all_the_same() -> None:
    for bar in bars([span(10, 10), span(20, 20), span(-1e9, -1e9), span(1e9, 1e9), span(15, 12)], 10, 20):
        assert bar.width >= 3
        assert bar.x >= 0
        assert bar.x + bar.width <= WIDTH + 0.1


def test_a_scale_without_length() -> None:
    (bar,) = bars([span(10, 10)], 10, 10)
    assert (bar.x, bar.width) == (0, 3)


def test_a_sparkline_goes_from_edge_to_edge() -> None:
    assert sparkline([0, 5, 10]) == f"0,{HEIGHT - 2:.1f} 500,20.0 1000,2.0"
    assert sparkline([7]) == "0,2.0"
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "0,38.0 1000,38.0"
