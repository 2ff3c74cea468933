"""What is measured of an operator in a round, and what comes of several rounds: medians, ratios, and the table of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# By the names below; what could not be measured is not there.
Figures = Mapping[str, float]

# The process groups whose processor time is told apart.
GROUPS = {"api": "API server and etcd", "runner": "the operator's own process", "runs": "runs: all processes below it"}


def _of_burst(phase: str) -> dict[str, str]:
    groups = {f"{phase}_{group}_cpu_ms": f"    {heading}" for group, heading in GROUPS.items()}
    return {f"{phase}_reconciles": "  reconciles a CR", f"{phase}_cpu_ms": "  CPU of a reconcile, ms", **groups}


# In the order of the table, with their headings.
FIGURES = {
    "change_at_idle_s": "one change at idle → Deployment, p50, s",
    "burst_per_s": "burst of spec changes → Deployments, per second",
    **_of_burst("burst"),
    "pass_per_s": "pass in which nothing changes, CRs per second",
    **_of_burst("pass"),
    "first_burst_per_s": "first burst, just started: create → Successful, per second",
    "busy_pss_mb": "memory in the first burst (most seen), shared pages counted once, MB",
    "idle_pss_mb": "memory at idle, shared pages counted once, MB",
}


def of_burst(phase: str, cpu: Mapping[str, float], *, reconciles: int, crs: int) -> dict[str, float]:
    """`cpu`: the seconds of each group during the phase, of those that are known; all are known, or there is no sum."""
    milliseconds = {group: 1000 * seconds / reconciles for group, seconds in cpu.items()}
    figures = {f"{phase}_reconciles": reconciles / crs}
    figures |= {f"{phase}_{group}_cpu_ms": value for group, value in milliseconds.items()}
    if milliseconds.keys() == GROUPS.keys():
        figures[f"{phase}_cpu_ms"] = sum(milliseconds.values())
    return figures


@dataclass(frozen=True, slots=True)
class Measured:
    """An operator's figures, with facts or without, round by round."""

    operator: str
    facts: str
    rounds: Sequence[Figures]

    @property
    def medians(self) -> Figures:
        return _medians(self.rounds)

    def ratios(self, first: Measured) -> Figures:
        """How many times the first operator's its figures are: the median of what each round says, as noise hits the
        neighbours of a round alike."""
        return _medians(
            [
                {name: mine[name] / other[name] for name in mine if other.get(name)}
                for mine, other in zip(self.rounds, first.rounds, strict=True)
            ]
        )


def _medians(rounds: Sequence[Figures]) -> Figures:
    names = [name for name in FIGURES if any(name in one for one in rounds)]
    return {name: statistics.median(one[name] for one in rounds if name in one) for name in names}


def by_facts(measured: Sequence[Measured]) -> dict[str, list[Measured]]:
    """The first of each list is what the others are compared with."""
    found: dict[str, list[Measured]] = {}
    for one in measured:
        found.setdefault(one.facts, []).append(one)
    return found


def table(measured: Sequence[Measured]) -> str:
    """With facts and without: one row a figure, one column an operator, and one for how many times the first's it is."""
    width = max(map(len, FIGURES.values()))
    lines: list[str] = []
    for facts, operators in by_facts(measured).items():
        if not lines:
            lines += [f"[{number}] {one.operator}" for number, one in enumerate(operators, 1)]
        numbers = range(1, len(operators) + 1)
        heads = [f"[{number}]" for number in numbers] + [f"[{number}]/[1]" for number in numbers[1:]]
        lines += ["", f"{f'{facts} facts':<{width}}" + "".join(f"{head:>10}" for head in heads)]
        medians = [one.medians for one in operators]
        ratios = [one.ratios(operators[0]) for one in operators[1:]]
        for name, heading in FIGURES.items():
            cells = [_number(one.get(name)) for one in medians] + [_number(one.get(name), " ×") for one in ratios]
            lines.append(f"{heading:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def _number(value: float | None, unit: str = "") -> str:
    """With three digits that count, as more are noise."""
    if value is None:
        return "–"
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{decimals}f}{unit}"


def as_json(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    return [
        {
            "operator": one.operator,
            "facts": facts,
            "medians": _rounded(one.medians),
            "ratios_to_first": _rounded(one.ratios(operators[0])),
            "rounds": [_rounded(figures) for figures in one.rounds],
        }
        for facts, operators in by_facts(measured).items()
        for one in operators
    ]


def _rounded(figures: Figures) -> Figures:
    return {name: round(value, 4) for name, value in figures.items()}
