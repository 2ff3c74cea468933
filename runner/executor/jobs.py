"""The seam between the reconciler and Ansible: a `Job` goes in, `JobEvent`s come out, `fold` makes them an `Outcome`.

Next on the way: `runner.executor.warm`.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.executor.masking import REQUEUE_ACTIONS

# The host that roles run on, and whose counters are the run's.
LOCALHOST = "localhost"

_BROKEN_CONDITIONAL = "Conditionals must have a boolean result."
# Where a mistake in a file is, as ansible-core says it until 2.18; later as a path, line and column.
_PLACE = re.compile(r"'([^'\n]{1,4096})': line (\d{1,9}), column (\d{1,9})")
_FOR_CHECK_MODE = re.compile(r'"msg": "([^"]*check mode[^"]*)"', re.IGNORECASE)

# In check mode these have the cluster make a dry run.
_PREDICTED = frozenset(f"kubernetes.core.{name}" for name in ("k8s", "k8s_json_patch", "k8s_service"))
_UNKNOWN_FAILURE, _NOTHING_SAID = "unknown playbook failure", "Unknown error."

# How much of a loop's failures is told. All of it is in the artifacts.
_MOST_ITEMS, _LONGEST_LABEL, _LONGEST_ITEM = 5, 100, 1000

# "Task failed" and the like say nothing that the event itself does not.
_PRINTED_ERROR = re.compile(r"\[ERROR\]: (?:(?:Task|Module|Action) failed: )*([^\r\n]*)")

# ansible-playbook writes to a terminal, as far as it can tell.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


_FREE_SPACE = "free some space there, or name another folder with --runs-dir"
_REMEDIES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EROFS: "name a folder that can be written with --runs-dir",
    errno.EACCES: "name a folder that can be written with --runs-dir",
    errno.EMFILE: "let the runner have more open files (ulimit -n), or make fewer runs at once",
    errno.ENFILE: "let the node have more open files",
    errno.EAGAIN: "let the runner have more processes, or make fewer runs at once",
    errno.ENOMEM: "let the runner have more memory, or make fewer runs at once",
}


class ExecutorError(Exception):
    """A run could not be made, or ended without a result. Not a failed task: that is an Outcome."""


@contextlib.contextmanager
def told_as_executor_error(what: str) -> Iterator[None]:
    """An OSError becomes an ExecutorError, which the CR's status tells, with what can be done about it."""
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise ExecutorError(f"{what}: {error.strerror or error}{where}{remedy and f'; {remedy}'}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run. `role` is a folder, `playbook` a file, both absolute; exactly one is given."""

    ident: str
    # Of this CR alone; inputs and artifacts of its runs. Owner-only; made if it is missing.
    folder: Path
    # For temporary files of this run: a folder that is gone after it; made if it is missing. None: where Ansible has them.
    scratch: Path | None = None
    role: Path | None = None
    playbook: Path | None = None
    # Variables. In `data` no string and no key is ever a template; in `extra_vars` each may be one.
    data: Mapping[str, Any] = field(default_factory=dict)
    extra_vars: Mapping[str, Any] = field(default_factory=dict)
    # On top of the runner's own environment.
    environment: Mapping[str, str] = field(default_factory=dict)
    verbosity: int = 0
    arguments: str = ""
    # Of how many runs the artifacts are kept; 0: of all, None: of none.
    max_artifacts: int | None = 20
    # In check mode, with differences: nothing is to be changed.
    check: bool = False
    # Texts that must not be seen in any event.
    secrets: tuple[str, ...] = ()
    # Names that stay readable, also where a Secret holds the same text: those of the CR.
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One of ansible-runner's events: https://ansible.readthedocs.io/projects/runner/en/stable/intro/#artifactevents"""

    event: str
    counter: int
    created: str
    stdout: str
    data: Mapping[str, Any]
    # Of a loop that failed: its items that did.
    items: tuple[JobEvent, ...] = ()
    # What `message` is, once somebody has put it into other words.
    words: str = ""

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> JobEvent:
        return cls(
            event=raw.get("event", ""),
            counter=raw.get("counter", 0),
            created=raw.get("created", ""),
            stdout=raw.get("stdout", ""),
            data=raw.get("event_data") or {},
        )

    @property
    def task(self) -> str:
        return self.data.get("task") or self.data.get("name") or ""

    @property
    def printed(self) -> str:
        """`stdout` without colours."""
        return _COLOURS.sub("", self.stdout)

    @property
    def location(self) -> str:
        """`FILE:LINE` of the task."""
        return self.data.get("task_path") or ""

    @property
    def result(self) -> Mapping[str, Any]:
        result = self.data.get("res")
        return result if isinstance(result, Mapping) else {}

    @property
    def has_broken_conditional(self) -> bool:
        """A condition gave no boolean, and ansible-core (from 2.19 on) let it pass with a deprecation."""
        notes = self.result.get("deprecations")
        texts = [note.get("msg") for note in notes if isinstance(note, Mapping)] if isinstance(notes, list) else []
        # The event of a skipped task leaves its result out.
        return any(_BROKEN_CONDITIONAL in text for text in (self.stdout, *texts) if isinstance(text, str))

    @property
    def is_failure(self) -> bool:
        """A task failed, or its host could not be reached. The play may still make up for it by a rescue."""
        return self.event in ("runner_on_failed", "runner_on_unreachable") and self.data.get("ignore_errors") is not True

    @property
    def unpredicted(self) -> str:
        """In check mode: why it is not known what this task would do; empty where it is, or where it would do nothing."""
        if self.event in ("runner_on_skipped", "runner_item_on_skipped"):
            # The event of a skipped task leaves its result out, which from -v on is printed.
            if '"censored"' in self.printed:
                return "it is skipped, and no_log hides whether check mode is why"
            message = _FOR_CHECK_MODE.search(self.printed)
            return message[1] if message else ""
        action = str(self.data.get("resolved_action") or self.data.get("task_action") or "")
        is_known = action in _PREDICTED or action.startswith("operator_sdk.util.")
        if self.event == "runner_on_ok" and self.result.get("changed") is True and not is_known:
            return "it would change something that the cluster was not asked about"
        return ""

    @property
    def message(self) -> str:
        """A failed task's own words, its cause where that is told elsewhere, and the same of a loop's items."""
        if self.words:
            return self.words
        result = self.result
        if "censored" in result:
            return f"the result of task {self.task!r} is hidden by no_log"
        message = result.get("msg") or _unknown(self)
        if str(message).endswith(_NOTHING_SAID):
            # ansible-core from 2.19 on, of a result without a message.
            message = f"{str(message).rstrip('.')}{_where(self)}"
        lines = [message if isinstance(message, str) else str(message), *(item.line for item in self.items[:_MOST_ITEMS])]
        if not self.items:
            return self._with_cause(lines[0])
        more = len(self.items) - _MOST_ITEMS
        return "\n".join([*lines, *([f"and {more} more"] if more > 0 else [])])

    @property
    def line(self) -> str:
        """A loop's item, by its label, and its message."""
        result = self.result
        if "censored" in result:
            return "item: hidden by no_log"
        label = result.get("_ansible_item_label", result.get(result.get("ansible_loop_var", "item")))
        return f"item={_cut(str(label), _LONGEST_LABEL)}: {_cut(self.message, _LONGEST_ITEM)}"

    def _with_cause(self, text: str) -> str:
        # A command's or a module's own output says more than "non-zero return code" and "MODULE FAILURE".
        said = str(self.result.get("stderr") or self.result.get("module_stderr") or "").strip()
        if said:
            return text if said in text else f"{text}: {said}"
        # ansible-core from 2.19 on prints the whole chain of errors, and gives of it what the module has said.
        cause = _PRINTED_ERROR.match(self.printed.lstrip())
        told = cause[1].strip() if cause else ""
        if told in text:
            trace = str(self.result.get("exception") or "").strip().splitlines()
            told = trace[-1].strip() if len(trace) > 1 else ""
        if not told or told in text or (told.partition(": ")[2] or told) in text:
            return text
        return told if told.startswith(text.rstrip(".")) else f"{text.rstrip('.')}: {told}"


class Loops:
    """Puts the items of loops that failed with the failures of the loops. Ansible tells them one by one, before."""

    def __init__(self) -> None:
        self._items: dict[tuple[str, str], list[JobEvent]] = {}

    def joined(self, event: JobEvent) -> JobEvent:
        """The event; with its items, if it is a loop's failure."""
        key = str(event.data.get("task_uuid")), str(event.data.get("host"))
        if event.event == "runner_item_on_failed":
            self._items.setdefault(key, []).append(event)
        elif event.event in ("runner_on_failed", "runner_on_ok", "runner_on_unreachable"):
            # The same task may be played again, with other items.
            items = tuple(self._items.pop(key, ()))
            if event.is_failure:
                return replace(event, items=items)
        return event


Execute = Callable[[Job], AsyncGenerator[JobEvent, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run: its counters for localhost, what failed, and when the role wants to come back (Go duration)."""

    ok: int = 0
    changed: int = 0
    skipped: int = 0
    failures: int = 0
    completion: str = ""
    messages: tuple[str, ...] = ()
    # The same, each with its task's name.
    reports: tuple[str, ...] = ()
    requeue_after: str | None = None

    @property
    def succeeded(self) -> bool:
        return not self.messages


def fold(events: Iterable[JobEvent]) -> Outcome:
    """The outcome of a run. ExecutorError if it did not get as far as its statistics."""
    failures: list[JobEvent] = []
    requeue_after = None
    stats = last = None
    said: list[str] = []
    for event in events:
        last = event if event.task else last
        said += filter(None, [event.printed])
        if event.is_failure:
            failures.append(event)
        if event.event == "runner_on_ok" and event.data.get("task_action") in REQUEUE_ACTIONS:
            requeue_after = event.result.get("period", requeue_after)
        if event.event == "playbook_on_stats":
            stats = event
    if stats is None:
        # The Go operator's words, and what Ansible printed last, which is why.
        printed = _PLACE.sub(r"\1:\2:\3", "\n".join(said[-10:]))
        raise ExecutorError("\n".join(filter(None, ("did not receive playbook_on_stats event", printed))))

    def count(name: str) -> int:
        return int((stats.data.get(name) or {}).get(LOCALHOST, 0))

    # Ansible's own reckoning leaves out what was ignored or rescued; no event says so of itself. What was not made up for
    # ended its host's play, so it is among the last.
    unforgiven = sum(sum((stats.data.get(name) or {}).values()) for name in ("failures", "dark"))
    failed = failures[max(0, len(failures) - unforgiven) :] if unforgiven else []
    messages = [event.message for event in failed]
    if unforgiven and not failed:
        messages = [_unknown(last)]
    return Outcome(
        ok=count("ok"),
        changed=count("changed"),
        skipped=count("skipped"),
        failures=count("failures"),
        completion=stats.created,
        messages=tuple(messages),
        reports=tuple(f"Task {event.task!r} failed: {event.message}" for event in failed),
        requeue_after=requeue_after,
    )


def _unknown(event: JobEvent | None) -> str:
    """The Go operator's words for a failure that says nothing, and where it was."""
    return _UNKNOWN_FAILURE + _where(event)


def _where(event: JobEvent | None) -> str:
    if event is None or not event.task:
        return ""
    return f" in task {event.task!r}" + (f" ({event.location})" if event.location else "")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
