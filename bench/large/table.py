"""The figures in Markdown."""

from __future__ import annotations

from collections.abc import Callable

from bench.large.subject import Figures

# By heading, where the figure is.
_ROWS: tuple[tuple[str, Callable[[Figures], object]], ...] = (
    ("ready, after the start of the process, s", lambda figures: figures["ready_s"]),
    ("all CRs are found, s", lambda figures: figures["start"]["seconds"]),
    ("… until then: processor time of the runner, s", lambda figures: figures["start"]["runner_cpu_s"]),
    ("… requests to the API server; a second", lambda figures: _requests(figures["start"])),
    ("… event loop late, at most, s", lambda figures: figures["start"]["lag"].get("all_below_s", "-")),
    ("first new CR is served, after the start of the process, s", lambda figures: figures["start"]["first_new_cr_s"]),
    ("all CRs are reconciled, s", lambda figures: figures["pass"]["all_s"]),
    ("pass after the start, CRs per second", lambda figures: figures["pass"]["per_second"]),
    ("… processor time each, the runner's own; runs, ms", lambda figures: _each(figures["pass"])),
    ("… processors in use by the operator", lambda figures: _processors(figures["pass"])),
    ("… a new CR meanwhile: median, longest, s", lambda figures: _new(figures["pass"])),
    ("… event loop late, 99 % below, s", lambda figures: figures["pass"]["lag"].get("p99_below_s", "-")),
    (
        "anonymous memory of the runner when all CRs are found; after the pass, MB",
        lambda figures: _memory(figures, "runner_mb"),
    ),
    ("anonymous memory of all processes, MB", lambda figures: _memory(figures, "all_mb")),
    ("idle: processor time of all processes, s per minute", lambda figures: _idle_cpu(figures["idle"])),
    ("periodic pass, CRs per second", lambda figures: figures["periodic"]["per_second"]),
    ("… processor time each, the runner's own; runs, ms", lambda figures: _each(figures["periodic"])),
    ("… processors in use by the operator", lambda figures: _processors(figures["periodic"])),
    ("… a new CR meanwhile: median, longest, s", lambda figures: _new(figures["periodic"])),
)


def _requests(phase: Figures) -> str:
    count = sum(phase["requests"].values())
    return f"{count}; {count / phase['seconds']:.0f}"


def _each(phase: Figures) -> str:
    return f"{phase['runner_ms_each']}; {phase['runs_ms_each']}"


def _processors(phase: Figures) -> str:
    return f"{(phase['runner_cpu_s'] + phase['runs_cpu_s']) / phase['seconds']:.2f}"


def _new(phase: Figures) -> str:
    new = phase["new_crs"]
    return f"{new['median_s']}, {new['longest_s']}" if new else "-"


def _memory(figures: Figures, name: str) -> str:
    return f"{figures['start'][name]}; {figures['idle' if 'idle' in figures else 'pass'][name]}"


def _idle_cpu(idle: Figures) -> object:
    return round(60 * (idle["runner_cpu_s"] + idle["runs_cpu_s"]) / idle["seconds"], 2)


def _cell(figure: Callable[[Figures], object], figures: Figures) -> str:
    try:
        return str(figure(figures))
    except KeyError:
        # It was not measured.
        return "-"


def table(results: list[Figures]) -> str:
    """In Markdown, with a column for each size."""
    rows = [["CRs", *(f"{figures['crs']:,}" for figures in results)], ["---", *("---:" for _ in results)]]
    rows += [[heading, *(_cell(figure, figures) for figures in results)] for heading, figure in _ROWS]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
