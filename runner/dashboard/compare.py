"""Two runs side by side: which tasks were in both, and what differed.

Next on the way: `runner.dashboard.artifacts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runner.control.records import ReconcileRecord, RunRecord, TaskRecord
from runner.dashboard import words
from runner.dashboard.artifacts import Details, Result, TaskDetails, unified
from runner.dashboard.overview import cr_path, run_path

# Tasks that are compared; of a result lines on each side, and lines of their difference.
MOST_TASKS = 300
_MOST_LINES, _MOST_CHANGED = 400, 200
# A time differs if it is that many times the other one, and by so many seconds.
_FACTOR, _SECONDS = 1.5, 0.1
_FACTS = ("gather_facts", "ansible.builtin.gather_facts", "setup", "ansible.builtin.setup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the runs."""

    title: str
    href: str
    cr: str
    cr_href: str
    status: str
    duration: str
    cause: str
    generation: int | None
    tasks: int
    requests: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A task in both runs, or in one: then the other's status and time are empty. `differs` names what does."""

    name: str
    role: str
    statuses: tuple[str, str]
    durations: tuple[str, str]
    items: tuple[int, int]
    differs: Sequence[str]
    diff: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    sides: tuple[Side, Side]
    pairs: Sequence[Pair]
    is_cut: bool

    @property
    def differing(self) -> int:
        return sum(bool(pair.differs) for pair in self.pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A run to compare, with what its tasks left. `is_known`: this process made it. `is_waiting`: it has not begun yet."""

    record: ReconcileRecord
    run: RunRecord
    details: Details
    is_known: bool = True
    is_waiting: bool = False


def comparison(one: Compared, other: Compared, *, now: float) -> Comparison:
    """Compare two runs."""
    first, second = (_by_key(each.run.tasks) for each in (one, other))
    keys = [*first, *(key for key in second if key not in first)]
    pairs = [_pair(first.get(key), second.get(key), one.details, other.details, now) for key in keys[:MOST_TASKS]]
    return Comparison(sides=(_side(one, now), _side(other, now)), pairs=pairs, is_cut=len(keys) > MOST_TASKS)


def _by_key(tasks: Sequence[TaskRecord]) -> dict[tuple[str, str, str, int], TaskRecord]:
    """The tasks by role, name and action; the same one for the second time is another."""
    found, times = {}, Counter[tuple[str, str, str]]()
    for task in tasks:
        key = (task.role, task.name, task.action)
        times[key] += 1
        found[*key, times[key]] = task
    return found


def _pair(one: TaskRecord | None, other: TaskRecord | None, left: Details, right: Details, now: float) -> Pair:
    known = one or other
    assert known is not None
    details = left.tasks.get(one.uuid) if one else None, right.tasks.get(other.uuid) if other else None
    differs, diff = [], []
    if one is None or other is None:
        differs.append("only in one")
    else:
        # Facts of the machine, such as the time, differ each time.
        diff = list(_diff(*details)) if one.action not in _FACTS or one.status != other.status else []
        differs += ["status"] * (one.status != other.status)
        differs += ["items"] * (one.items != other.items)
        differs += ["time"] * _is_slower(_seconds(one, now), _seconds(other, now))
        differs += ["result"] * bool(diff)
    return Pair(
        name=known.name or known.action,
        role=known.role,
        statuses=(str(one.status) if one else "", str(other.status) if other else ""),
        durations=(_duration(one, now), _duration(other, now)),
        items=(one.items if one else 0, other.items if other else 0),
        differs=differs,
        diff=diff,
    )


def _is_slower(one: float, other: float) -> bool:
    return abs(one - other) > _SECONDS and max(one, other) > _FACTOR * min(one, other)


def _seconds(task: TaskRecord, now: float) -> float:
    return (task.ended or now) - task.begun


def _diff(one: TaskDetails | None, other: TaskDetails | None) -> Iterator[str]:
    """The lines in which two results differ; nothing where one of them is not known."""
    if one is None or other is None:
        return
    before, after = (list(_lines(details))[:_MOST_LINES] for details in (one, other))
    if before != after:
        lines = list(unified(before, after))
        yield from lines[:_MOST_CHANGED]
        if len(lines) > _MOST_CHANGED:
            yield f"… and {len(lines) - _MOST_CHANGED} more lines"


def _lines(details: TaskDetails) -> Iterator[str]:
    for result in filter(None, (details.result, *details.items)):
        yield from _of_result(result)


def _of_result(result: Result) -> Iterator[str]:
    if result.label:
        yield f"item={result.label}: {result.status}"
    for text in (result.message, result.value, result.output, result.errors):
        yield from text.splitlines()
    yield from result.diff


def _side(compared: Compared, now: float) -> Side:
    record, run, is_known = compared.record, compared.run, compared.is_known
    key = record.request.key
    return Side(
        title=f"{run.ident[:8]} of {words.clock(run.begun)}",
        href=run_path(run.ident, record.request, is_known=is_known),
        cr=f"{record.request.watch.gvk.kind} {key}",
        cr_href=cr_path(record.request),
        status=words.run_status(run, is_waiting=compared.is_waiting),
        duration=words.duration((run.ended or now) - run.begun),
        cause=words.cut_short(words.cause(record.cause), 500) if is_known else words.cause(""),
        generation=record.generation,
        tasks=len(run.tasks) + run.more_tasks,
        requests=words.requests(run.requests) if is_known else words.NOT_KNOWN,
        problem=compared.details.problem,
    )


def _duration(task: TaskRecord | None, now: float) -> str:
    return words.duration(_seconds(task, now)) if task else ""
