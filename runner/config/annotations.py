"""The annotations by which a single CR overrides its watch: how they are read, and how far they may go.

A watch says with `allowAnnotations` which of them count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from runner.config.settings import MAX_VERBOSITY
from runner.config.watches import Watch
from runner.resource.metadata import Object, annotations_of, parse_duration, quoted

# On a CR, with the value "true", and if its watch allows it: its runs are dry runs.
DRY_RUN = "rolerunner.io/dry-run"
PREFIX = "ansible.sdk.operatorframework.io/"

# How far a CR's annotations go, unless its watch itself goes further: seconds, and runs whose artifacts are kept.
_SHORTEST_PERIOD, _MOST_ARTIFACTS = 1.0, 100


def for_cr(watch: Watch, obj: Object) -> tuple[Watch, list[str]]:
    """The watch with this CR's overrides, and a sentence about each annotation that does not count as it is."""
    changes: dict[str, Any] = {}
    problems = []
    annotations = annotations_of(obj)
    for name, what, key, convert, within, unit in _OVERRIDES:
        text = annotations.get(PREFIX + name)
        if text is None:
            continue
        if name not in watch.allow_annotations:
            problems.append(_not_allowed(PREFIX + name, name))
            continue
        try:
            wanted = convert(text)
        except ValueError as error:
            problems.append(f"Unable to parse {what} annotation: {error}")
            continue
        counts = changes[key] = within(wanted, watch)
        if counts != wanted:
            problems.append(f"The {what} annotation, {quoted(text)}, goes further than it may; {counts:g}{unit} counts")
    if annotations.get(DRY_RUN) == "true" and not is_dry_run(watch, obj):
        problems.append(_not_allowed(DRY_RUN, "dry-run"))
    return (replace(watch, **changes) if changes else watch), problems


def is_dry_run(watch: Watch, obj: Object) -> bool:
    return "dry-run" in watch.allow_annotations and annotations_of(obj).get(DRY_RUN) == "true"


def _not_allowed(annotation: str, name: str) -> str:
    return f"The annotation {annotation} does not count, as allowAnnotations of the CR's watch is without {name}"


def _whole_number(*, upto: int | None = None) -> Callable[[str], int]:
    def convert(text: str) -> int:
        # Before it is made a number, which takes longer the longer it is.
        if not text.isascii() or not text.isdigit() or len(text) > 9 or (upto is not None and int(text) > upto):
            raise ValueError(f"{quoted(text)} is no whole number from 0" + (f" to {upto}" if upto is not None else ""))
        return int(text)

    return convert


def _period(text: str) -> float:
    seconds = parse_duration(text)
    if seconds < 0:
        raise ValueError(f"{quoted(text)} is below zero")
    return seconds


def _period_within(wanted: float, watch: Watch) -> float:
    # 0: never.
    shortest = min(_SHORTEST_PERIOD, watch.reconcile_period or _SHORTEST_PERIOD)
    return max(wanted, shortest) if wanted else wanted


def _artifacts_within(wanted: int, watch: Watch) -> int:
    # 0 would keep all.
    most = max(_MOST_ARTIFACTS, watch.max_runner_artifacts)
    return min(wanted or most, most)


# Annotation, what it is called, the watch's field, how its text is read, what counts of that within a watch, and its unit.
_OVERRIDES: tuple[tuple[str, str, str, Callable[[str], Any], Callable[[Any, Watch], Any], str], ...] = (
    ("reconcile-period", "reconcile period", "reconcile_period", _period, _period_within, " s"),
    ("max-runner-artifacts", "max runner artifacts", "max_runner_artifacts", _whole_number(), _artifacts_within, ""),
    ("verbosity", "verbosity", "verbosity", _whole_number(upto=MAX_VERBOSITY), lambda wanted, _: wanted, ""),
)
