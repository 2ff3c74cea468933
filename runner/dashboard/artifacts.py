"""The artifacts of a run, read for its page: within bounds, as a role may leave there whatever it likes; in a thread.

They are masked as `runner.executor.recorder` wrote them. A folder comes from a run's record or from `kept_runs`, never from
an address; and as a role may replace any part of its path by a link, to what another CR's runs have left, none is followed.

Next on the way: `runner.executor.recorder`.
"""

from __future__ import annotations

import contextlib
import difflib
import heapq
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.control.records import RunRecord, TaskStatus, result_status
from runner.dashboard.words import cut
from runner.errors import RolerunnerError
from runner.executor.jobs import ExecutorError, Fold, JobEvent
from runner.json_codec import JsonMapping, decode

# Events that are read for a page, and bytes of them and of each: reading JSON lets no other thread run meanwhile.
_MOST_EVENTS, _MOST_BYTES, _LARGEST = 10_000, 32 * 1024**2, 1024**2
# Of one page: characters. Of a task: items. Of a text: characters. Of a diff: lines on each side, and the characters that
# one that is compared counts for.
_LONGEST_PAGE, _MOST_ITEMS, _LONGEST, _MOST_LINES, _COMPARED = 512 * 1024, 100, 16 * 1024, 1000, 10
# Warnings of a task; members of a list or a mapping, and levels, of a result.
_MOST_WARNINGS, _MOST_MEMBERS, _MOST_LEVELS = 20, 200, 12
# Runs of an earlier process that are listed for a CR, and entries of its folder, and of a run's, that are looked at.
_MOST_RUNS, _MOST_ENTRIES, _MOST_FILES = 50, 1000, 100_000

_IDENT = re.compile(r"[0-9a-f]{16}", re.ASCII)
_EVENT = re.compile(r"([0-9]{1,9})-[0-9a-fA-F-]{1,64}\.json", re.ASCII)
# Shown by themselves, or of no use to anybody.
_ELSEWHERE = frozenset(
    "diff warnings deprecations stdout stdout_lines stderr stderr_lines msg exception results changed failed skipped".split()
)


class TooMuch(RolerunnerError):
    """There is no room for more on the page."""


@dataclass(slots=True, kw_only=True)
class Result:
    """The result of a task, or of an item of its loop. `diff` has lines, `value` the rest of the result as JSON."""

    status: str = ""
    label: str = ""
    message: str = ""
    value: str = ""
    output: str = ""
    errors: str = ""
    diff: Sequence[str] = ()
    warnings: Sequence[str] = ()
    deprecations: Sequence[str] = ()


@dataclass(slots=True)
class TaskDetails:
    """What a task left. `is_cut`: there was more than a page has room for."""

    result: Result | None = None
    items: list[Result] = field(default_factory=list)
    more_items: int = 0
    # Printed beside the results.
    warnings: list[str] = field(default_factory=list)
    is_cut: bool = False


@dataclass(slots=True)
class Details:
    """What the tasks left, by their uuids. `problem` says why there is nothing, or not all."""

    tasks: dict[str, TaskDetails] = field(default_factory=dict)
    problem: str = ""


def read_details(folder: Path, first: int = 0, last: int | None = None) -> Details:
    """Read what the events with numbers from `first` to before `last` (None: to the end) say about tasks."""
    details, room = Details(), _Room(_LONGEST_PAGE)
    task = None
    for event, problem in read_events(folder, first, last):
        if problem:
            details.problem = problem
        if event is None:
            continue
        kind, uuid = event.event, event.data.get("task_uuid")
        if kind in ("warning", "deprecated", "verbose") and task is not None:
            printed = event.printed.strip()
            if printed.startswith("[") and len(task.warnings) < _MOST_WARNINGS:
                task.warnings.append(room.text(printed))
        if not isinstance(uuid, str) or not uuid:
            continue
        task = details.tasks.setdefault(uuid, TaskDetails())
        try:
            status = result_status(event)
            if status is None:
                continue
            if not kind.startswith("runner_item_on_"):
                task.result = _result(event, status, room)
            elif len(task.items) < _MOST_ITEMS:
                task.items.append(_result(event, status, room))
            else:
                task.more_items += 1
        except TooMuch:
            task.is_cut = True
    return details


def read_run(folder: Path, ident: str) -> RunRecord:
    """Make the record of a run of an earlier process, of what it left."""
    run = RunRecord(ident=ident, content=Path(), artifacts=folder, is_dry_run=False, begun=0.0)
    fold, last = Fold(), 0.0
    for event, _ in read_events(folder):
        if event is not None:
            run.add_event(event)
            fold.add(event)
    if run.tasks:
        run.begun = run.tasks[0].begun
        last = max(task.ended or task.begun for task in run.tasks)
    try:
        run.outcome = fold.outcome()
    except ExecutorError:
        run.outcome = None
    run.ended = last or run.begun
    return run


def kept_runs(folder: Path) -> list[tuple[str, float]]:
    """(ident, time of its last writing) of the runs that have artifacts in a CR's folder, the latest first."""
    try:
        with _opened(folder) as descriptor, os.scandir(descriptor) as entries:
            runs = [
                (entry.name, entry.stat(follow_symlinks=False).st_mtime)
                for entry in itertools.islice(entries, _MOST_ENTRIES)
                if _IDENT.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []
    return sorted(runs, key=lambda run: -run[1])[:_MOST_RUNS]


def read_events(folder: Path, first: int = 0, last: int | None = None) -> Iterator[tuple[JobEvent | None, str]]:
    """Read events in their order, each with a problem that there was, if there was one; None where it cannot be read."""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = stack.enter_context(_opened(folder / "job_events"))
            names = _names(descriptor, first, last)
        except OSError:
            yield None, "The artifacts of this run are not there any more: newer ones took their place (maxRunnerArtifacts)."
            return
        size = 0
        for number, name in enumerate(names):
            if number >= _MOST_EVENTS or size > _MOST_BYTES:
                yield None, "This run has left more than a page has room for; its folder has the rest."
                return
            try:
                text = _read(name, descriptor)
                size += len(text)
                raw = decode(text, strict=False)
            except (OSError, ValueError, RecursionError, _Large) as error:
                yield None, f"An event could not be read: {error if isinstance(error, _Large) else type(error).__name__}"
                continue
            event = _event(raw)
            yield event, "" if event else "An event could not be read: it is none"


class _Large(RolerunnerError):
    """An event is larger than what a page shows."""


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A descriptor of a folder, an absolute path without links. Raises OSError, also where there is one."""
    parts = folder.parts
    with contextlib.ExitStack() as stack:
        descriptor: int | None = None
        for number, part in enumerate(parts, start=1):
            # Only the last one has to be readable.
            flags = os.O_RDONLY if number == len(parts) else getattr(os, "O_PATH", os.O_RDONLY)
            flags |= os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(part, flags, dir_fd=descriptor)
            stack.callback(os.close, descriptor)
        assert descriptor is not None
        yield descriptor


def _names(folder: int, first: int, last: int | None) -> list[str]:
    """The names of the first events, in their order, and of one more than a page has."""

    def found(entries: Iterable[os.DirEntry[str]]) -> Iterator[tuple[int, str]]:
        for entry in itertools.islice(entries, _MOST_FILES):
            match = _EVENT.fullmatch(entry.name)
            if match and first <= (number := int(match[1])) and (last is None or number < last):
                yield number, entry.name

    with os.scandir(folder) as entries:
        return [name for _, name in heapq.nsmallest(_MOST_EVENTS + 1, found(entries))]


def _read(name: str, folder: int) -> bytes:
    # No link, and nothing that would have to be waited for.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with open(descriptor, "rb") as file:
        text = file.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise _Large(f"it is larger than {_LARGEST // 1024} KiB; {name} in the run's folder has it")
    return text


def _event(raw: object) -> JobEvent | None:
    """The event, if its fields are what they should be."""
    if not isinstance(raw, Mapping):
        return None
    event = JobEvent.of(raw)
    texts = (event.event, event.created, event.stdout)
    if not all(isinstance(text, str) for text in texts) or not isinstance(event.data, Mapping):
        return None
    names = ("task", "name", "task_path", "task_action", "role", "task_uuid")
    if not isinstance(event.counter, int) or not all(isinstance(event.data.get(name) or "", str) for name in names):
        return None
    return event


class _Room:
    """The characters that are left on a page."""

    def __init__(self, left: int) -> None:
        self._left = left

    def text(self, text: str, most: int = _LONGEST) -> str:
        """The text, cut. Raises TooMuch."""
        text = cut(text, most)
        self.take(len(text))
        return text

    def take(self, size: int) -> None:
        """Take this much of what is left. Raises TooMuch if there is nothing left."""
        if self._left <= 0:
            raise TooMuch
        self._left -= size


def _result(event: JobEvent, status: TaskStatus, room: _Room) -> Result:
    """The parts of a result. Raises TooMuch."""
    result: JsonMapping = event.result
    if "censored" in result:
        return Result(status=status, message="The result is hidden by no_log.")
    label = result.get("_ansible_item_label", result.get(str(result.get("ansible_loop_var", "item")), ""))
    rest = {
        name: value
        for name, value in list(result.items())[:_MOST_MEMBERS]
        if name not in _ELSEWHERE and not name.startswith(("_ansible", "ansible_loop")) and name != "item"
    }
    return Result(
        status=status,
        label=room.text(_plain(label), 200),
        message=room.text(
            _plain(result.get("msg", "")) or (_why_skipped(event.printed) if status is TaskStatus.SKIPPED else "")
        ),
        value=room.text(as_json(rest)) if rest else "",
        output=room.text(_plain(result.get("stdout", ""))),
        errors=room.text("\n".join(filter(None, (_plain(result.get("stderr", "")), _traceback(result))))),
        diff=room.text("\n".join(_diffs(result.get("diff"), room))).splitlines(),
        warnings=[room.text(text) for text in _notes(result.get("warnings"))],
        deprecations=[room.text(text) for text in _notes(result.get("deprecations"))],
    )


def _traceback(result: JsonMapping) -> str:
    text = _plain(result.get("exception", ""))
    # Of ansible-core, where none is asked for.
    return "" if text == "(traceback unavailable)" else text


def _why_skipped(printed: str) -> str:
    """The condition that was false: the event of a skipped task leaves its result out, which from -v on is printed."""
    _, _, text = printed[:_LONGEST].partition(" => ")
    try:
        result = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    condition = result.get("false_condition") if isinstance(result, dict) else None
    return "" if condition is None else f"Skipped, as this is false: {_plain(condition)}"


def _notes(notes: object) -> Iterator[str]:
    for note in notes[:_MOST_WARNINGS] if isinstance(notes, list) else ():
        yield _plain(note.get("msg", "") if isinstance(note, Mapping) else note)


def _plain(value: object) -> str:
    """A value as text: JSON, unless it is a text itself."""
    return value if isinstance(value, str) else as_json(value)


def as_json(value: object, *, sort_keys: bool = False) -> str:
    """A value as readable JSON, cut where it is large."""
    bounded = _bounded(value, [_LONGEST], _MOST_LEVELS)
    return json.dumps(bounded, indent=2, ensure_ascii=False, default=str, sort_keys=sort_keys)


def _bounded(value: object, left: list[int], levels: int) -> object:
    """The value with no more than so many characters, about, and so many levels."""
    left[0] -= 8
    if isinstance(value, str):
        text = cut(value, max(left[0], 40))
        left[0] -= len(text)
        return text
    if not isinstance(value, Mapping | list):
        # A number may have a million digits.
        return value if not isinstance(value, int) or abs(value) < 2**64 else "a very large number"
    if value and (levels <= 0 or left[0] <= 0):
        return "…"
    if isinstance(value, list):
        members = [_bounded(member, left, levels - 1) for member in value[:_MOST_MEMBERS] if left[0] > 0]
        return [*members, "…"] if len(value) > len(members) else members
    named: dict[str, object] = {}
    for name, member in value.items():
        if left[0] <= 0 or len(named) >= _MOST_MEMBERS:
            named["…"] = f"{len(value) - len(named)} more"
            break
        name = cut(str(name), 200)
        left[0] -= len(name)
        named[name] = _bounded(member, left, levels - 1)
    return named


def _diffs(diff: object, room: _Room) -> Iterator[str]:
    """The lines of a task's diffs. Raises TooMuch."""
    for each in (diff if isinstance(diff, list) else [diff])[:_MOST_WARNINGS]:
        if not isinstance(each, Mapping):
            continue
        if isinstance(prepared := each.get("prepared"), str):
            yield from cut(prepared, _LONGEST).splitlines()
        if "before" in each or "after" in each:
            before, after = (lines_of(each.get(side, "")) for side in ("before", "after"))
            # Also those that are the same take their time.
            room.take(_COMPARED * (len(before) + len(after)))
            yield from unified(before, after)


def lines_of(value: object) -> list[str]:
    """The lines of a side of a diff."""
    # Objects in one order of their fields, whichever each of them has.
    text = value if isinstance(value, str) else as_json(value, sort_keys=True)
    return cut(text, 2 * _LONGEST).splitlines()[:_MOST_LINES]


def unified(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    """A unified diff, without the names of its sides."""
    yield from list(difflib.unified_diff(list(before), list(after), lineterm=""))[2:]
