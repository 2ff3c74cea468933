"""Charts as geometry: where the templates draw rectangles and lines. Widths are per mille of a chart's.

SVG needs no script and no style of its own for them, which the pages' Content-Security-Policy would not allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 1000, 40
# What is shorter would not be seen.
_NARROWEST = 3.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle. `status` chooses its colour, and is part of `title`, its text."""

    x: float
    width: float
    status: str
    title: str
    href: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """What a bar stands for: times in seconds since the epoch."""

    begun: float
    ended: float
    status: str
    title: str
    href: str = ""


def bars(spans: Iterable[Span], begun: float, ended: float) -> list[Bar]:
    """A bar for each span, on a scale from `begun` to `ended`. What lies outside of it is at its ends."""
    length = max(ended - begun, 1e-6)

    def at(time: float) -> float:
        return min(max((time - begun) / length, 0.0), 1.0) * WIDTH

    made = []
    for span in spans:
        x = min(at(span.begun), WIDTH - _NARROWEST)
        width = max(at(span.ended) - x, _NARROWEST)
        made.append(Bar(round(x, 1), round(width, 1), span.status, span.title, span.href))
    return made


def sparkline(values: Sequence[int]) -> str:
    """The points of a line through the values, for `<polyline>`."""
    most, step = max(*values, 1, 0), WIDTH / max(len(values) - 1, 1)
    return " ".join(
        f"{number * step:.0f},{HEIGHT - 2 - (HEIGHT - 4) * value / most:.1f}" for number, value in enumerate(values)
    )
