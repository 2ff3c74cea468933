"""The figures in Markdown."""

from __future__ import annotations

from collections.abc import Callable

from bench.large.subject import Figures

# What there is no figure of.
_NONE = "-"
# What `--sample` leaves out.
_LEFT_OUT = frozenset({"all_s", "idle", "periodic"})
# By heading, where the figure is.
_ROWS: tuple[tuple[str, Callable[[Figures], object]], ...] = (
    ("ready, after the start of the process, s", lambda figures: figures["ready_s"]),
    ("all CRs are found, s", lambda figures: figures["start"]["seconds"]),
    ("… until then: processor time of the runner, s", lambda figures: figures["start"]["runner_cpu_s"]),
    ("… requests to the API server; a second", lambda figures: _requests(figures["start"])),
    ("… event loop late, at most, s", lambda figures: _late(figures["start"], "all_below_s")),
    (
        "first new CR is served, after the start of the process, s",
        lambda figures: _or_none(figures["start"]["first_new_cr_s"]),
    ),
    ("all CRs are reconciled, s", lambda figures: figures["pass"]["all_s"]),
    ("pass after the start, CRs per second", lambda figures: _rate(figures["pass"])),
    ("… processor time each, the runner's own; runs, ms", lambda figures: _each(figures["pass"])),
    ("… processors in use by the operator", lambda figures: _processors(figures["pass"])),
    ("… a new CR meanwhile: median, longest, s", lambda figures: _new(figures["pass"])),
    ("… event loop late, 99 % below, s", lambda figures: _late(figures["pass"], "p99_below_s")),
    (
        "anonymous memory of the runner when all CRs are found; after the pass, MB",
        lambda figures: _memory(figures, "runner_mb"),
    ),
    ("anonymous memory of all processes, MB", lambda figures: _memory(figures, "all_mb")),
    ("idle: processor time of all processes, s per minute", lambda figures: _idle_cpu(figures["idle"])),
    ("periodic pass, CRs per second", lambda figures: _rate(figures["periodic"])),
    ("… processor time each, the runner's own; runs, ms", lambda figures: _each(figures["periodic"])),
    ("… processors in use by the operator", lambda figures: _processors(figures["periodic"])),
    ("… a new CR meanwhile: median, longest, s", lambda figures: _new(figures["periodic"])),
)


def _requests(phase: Figures) -> str:
    # Seconds are rounded: a phase may have none.
    count, seconds = sum(phase["requests"].values()), phase["seconds"]
    return f"{count}; {count / seconds:.0f}" if seconds else f"{count}; {_NONE}"


def _late(phase: Figures, name: str) -> object:
    return phase["lag"][name] if phase["lag"] else _NONE


def _or_none(figure: float | None) -> object:
    return _NONE if figure is None else figure


def _rate(phase: Figures) -> object:
    return phase["per_second"] if phase["reconciles"] else _NONE


def _each(phase: Figures) -> str:
    return f"{phase['runner_ms_each']}; {phase['runs_ms_each']}" if phase["reconciles"] else _NONE


def _processors(phase: Figures) -> str:
    seconds = phase["seconds"]
    return f"{(phase['runner_cpu_s'] + phase['runs_cpu_s']) / seconds:.2f}" if seconds else _NONE


def _new(phase: Figures) -> str:
    new = phase["new_crs"]
    return f"{new['median_s']}, {new['longest_s']}" if new else _NONE


def _memory(figures: Figures, name: str) -> str:
    return f"{figures['start'][name]}; {figures['idle' if 'idle' in figures else 'pass'][name]}"


def _idle_cpu(idle: Figures) -> object:
    return round(60 * (idle["runner_cpu_s"] + idle["runs_cpu_s"]) / idle["seconds"], 2)


def _cell(figure: Callable[[Figures], object], figures: Figures) -> str:
    try:
        return str(figure(figures))
    except KeyError as error:
        # Any other figure has another name than here.
        if figures["sample_s"] is None or error.args[0] not in _LEFT_OUT:
            raise
        return _NONE


def table(results: list[Figures]) -> str:
    """In Markdown, with a column for each size."""
    rows = [["CRs", *(f"{figures['crs']:,}" for figures in results)], ["---", *("---:" for _ in results)]]
    rows += [[heading, *(_cell(figure, figures) for figures in results)] for heading, figure in _ROWS]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
