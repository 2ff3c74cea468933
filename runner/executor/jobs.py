"""The interface between the reconciler and Ansible: a `Job` goes in, `JobEvent`s come out, `Fold` makes them an `Outcome`.

Next on the way: `runner.executor.warm.executor`.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

from runner.errors import RolerunnerError
from runner.executor.environment import environment, temporary
from runner.json_codec import JsonMapping

# The host that roles run on, and whose counters are the run's.
LOCALHOST = "localhost"
# By action, the key of its result that says after which time the CR is to be reconciled again. It is never masked.
REQUEUE_RESULTS = {"operator_sdk.util.requeue_after": "period", "requeue_after": "period"}

# An event holds a task's whole result; the recorder cuts it where it is longer than this in its line. What is longer than
# the line may be, in bytes, breaks the run.
LONGEST_EVENT = 4 * 1024 * 1024
LONGEST_LINE = 4 * LONGEST_EVENT

_BROKEN_CONDITIONAL = "Conditionals must have a boolean result."
# Where a mistake in a file is, as ansible-core says it until 2.18; later as a path, line and column.
_PLACE = re.compile(r"'([^'\n]{1,4096})': line (\d{1,9}), column (\d{1,9})")
_MESSAGE = re.compile(r'"msg": "([^"]*+)"')

# In check mode these have the cluster make a dry run.
_PREDICTED = frozenset(f"kubernetes.core.{name}" for name in ("k8s", "k8s_json_patch", "k8s_service"))
_UNKNOWN_FAILURE, _NOTHING_SAID = "unknown playbook failure", "Unknown error."

# How much of a loop's failures is told. All of it is in the artifacts.
_MOST_ITEMS, _LONGEST_LABEL, _LONGEST_ITEM = 5, 100, 1000

# Characters of a failure's stderr that its message has, of what was printed where there are no statistics, and of a
# failure's message: the rest is for the log and the artifacts, not for the readers of the CR.
_LONGEST_STDERR, _LONGEST_PRINTED, _LONGEST_MESSAGE = 500, 500, 32 * 1024
# Texts that are told where there are no statistics; failures whose messages are kept. More hosts fail in no role's run.
_LAST_PRINTED, _LAST_FAILURES = 10, 100

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


class ExecutorError(RolerunnerError):
    """A run could not be made, or ended without a result. Not a failed task: that is an Outcome."""


@contextlib.contextmanager
def executor_errors(what: str) -> Iterator[None]:
    """Raise an OSError as an ExecutorError that names `what` failed and a remedy; the CR's status shows it."""
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise ExecutorError(f"{what}: {error.strerror or error}{where}{remedy and f'; {remedy}'}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the workers, the processes that play jobs one after another."""

    # Workers at once, those that wait for a job included; those that play are never too many.
    workers: int = 4
    # Of a worker: jobs, seconds, and bytes more than after its first job.
    runs: int = sys.maxsize
    age: float = math.inf
    memory: int = sys.maxsize
    # Seconds after which a worker ends that waits though another of the same pool does.
    idle: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run to be made. `role` is a folder, `playbook` a file, both absolute; exactly one is given."""

    ident: str
    # Of this CR alone; inputs and artifacts of its runs. Owner-only; made if it is missing.
    folder: Path
    # For temporary files of this run: a folder that is gone after it; made if it is missing.
    scratch: Path
    role: Path | None = None
    playbook: Path | None = None
    # Variables. In `data` no string and no key is ever a template; in `extra_vars` each may be one.
    data: Mapping[str, object] = field(default_factory=dict)
    extra_vars: Mapping[str, object] = field(default_factory=dict)
    # They are many, and take a while to be written down.
    is_big: bool = False
    # On top of the runner's own environment.
    environment: Mapping[str, str] = field(default_factory=dict)
    verbosity: int = 0
    arguments: str = ""
    # Of how many runs the artifacts are kept; 0: of all, None: of none.
    max_artifacts: int | None = 0
    # In check mode, with differences: nothing is to be changed.
    check: bool = False
    # A process that has played jobs of this pool may play it, too. Empty: it has a process of its own.
    pool: str = ""
    # Texts that must not be seen in any event.
    secrets: tuple[str, ...] = ()
    # Names that stay readable, also where a Secret holds the same text: those of the CR.
    names: tuple[str, ...] = ()

    def message(self) -> JobMessage:
        """The job as the process that runs it gets it."""
        return {
            "ident": self.ident,
            "folder": str(self.folder),
            "role": str(self.role) if self.role else None,
            "playbook": str(self.playbook) if self.playbook else None,
            "gather_facts": os.environ.get("ANSIBLE_GATHERING") != "explicit",
            "environment": {**self.environment, **environment(), **temporary(str(self.scratch))},
            "verbosity": self.verbosity,
            "secrets": self.secrets,
            "names": self.names,
            "artifacts": self.max_artifacts is not None,
        }


class JobMessage(TypedDict):
    """A job as JSON, for the process that runs it. Extra vars and arguments are in files that ansible-runner reads."""

    # First: the fork server knows a message by it that nobody has read.
    ident: str
    folder: str
    role: str | None
    playbook: str | None
    gather_facts: bool
    environment: dict[str, str]
    verbosity: int
    secrets: Sequence[str]
    names: Sequence[str]
    # Whether they are kept.
    artifacts: bool


@dataclass(frozen=True, slots=True)
class JobEvent:
    """An event of ansible-runner: https://ansible.readthedocs.io/projects/runner/en/stable/intro/#artifactevents"""

    event: str
    counter: int
    created: str
    stdout: str
    data: JsonMapping
    # Of a loop that failed: the first of its items that did, and how many more there were.
    items: tuple[JobEvent, ...] = ()
    more_items: int = 0
    # Replaces `message`, where a clearer text is known.
    words: str = ""

    @classmethod
    def of(cls, raw: JsonMapping) -> JobEvent:
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
        return _COLOURS.sub("", self.stdout) if "\x1b" in self.stdout else self.stdout

    @property
    def location(self) -> str:
        """`FILE:LINE` of the task."""
        return self.data.get("task_path") or ""

    @property
    def result(self) -> JsonMapping:
        result = self.data.get("res")
        return result if isinstance(result, dict) else {}

    @property
    def stderr(self) -> str:
        """The standard error of a command or a module, in full."""
        return str(self.result.get("stderr") or self.result.get("module_stderr") or "").strip()

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
            messages = (found[1] for found in _MESSAGE.finditer(self.printed))
            return next((message for message in messages if "check mode" in message.lower()), "")
        action = str(self.data.get("resolved_action") or self.data.get("task_action") or "")
        is_known = action in _PREDICTED or action.startswith("operator_sdk.util.")
        if self.event == "runner_on_ok" and self.result.get("changed") is True and not is_known:
            return "it would change something that the cluster was not asked about"
        return ""

    @property
    def message(self) -> str:
        """The message of a failed task, with its cause where the event has that elsewhere, and those of a loop's items."""
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
        more = len(self.items) - _MOST_ITEMS + self.more_items
        return "\n".join([*lines, *([f"and {more} more"] if more > 0 else [])])

    @property
    def line(self) -> str:
        """The label and the message of a loop's item."""
        result = self.result
        if "censored" in result:
            return "item: hidden by no_log"
        label = result.get("_ansible_item_label", result.get(result.get("ansible_loop_var", "item")))
        return f"item={_cut(str(label), _LONGEST_LABEL)}: {_cut(self.message, _LONGEST_ITEM)}"

    def _with_cause(self, text: str) -> str:
        # A command's or a module's own output says more than "non-zero return code" and "MODULE FAILURE".
        said = _end_of(self.stderr)
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
    """Adds the failed items of a loop to the loop's own failure. Ansible emits their events one by one, before it."""

    def __init__(self) -> None:
        # The first that failed, and how many did.
        self._items: dict[tuple[str, str], tuple[list[JobEvent], int]] = {}

    def joined(self, event: JobEvent) -> JobEvent:
        """The event; with its items, if it is a loop's failure."""
        if not event.event.startswith("runner_"):
            return event
        key = str(event.data.get("task_uuid")), str(event.data.get("host"))
        if event.event == "runner_item_on_failed":
            items, count = self._items.get(key, ([], 0))
            self._items[key] = [*items, event] if len(items) < _MOST_ITEMS else items, count + 1
        elif event.event in ("runner_on_failed", "runner_on_ok", "runner_on_unreachable"):
            # The same task may be played again, with other items.
            items, count = self._items.pop(key, ([], 0))
            if event.is_failure:
                return replace(event, items=tuple(items), more_items=count - len(items))
        return event


Execute = Callable[[Job], AsyncGenerator[JobEvent, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a run: its counters for localhost, its failures, and the requeue that the role wants (Go duration)."""

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

    @property
    def counts(self) -> dict[str, int]:
        """The counters by their names."""
        return {"ok": self.ok, "changed": self.changed, "skipped": self.skipped, "failures": self.failures}


class Fold:
    """Folds the events of a run into an Outcome, one by one, and keeps none: a run may emit hundreds of megabytes."""

    def __init__(self) -> None:
        # (message, report) of the last tasks that failed.
        self._failures: deque[tuple[str, str]] = deque(maxlen=_LAST_FAILURES)
        self._printed: deque[str] = deque(maxlen=_LAST_PRINTED)
        self._requeue_after: str | None = None
        self._counts: Mapping[str, Mapping[str, int]] | None = None
        self._completion = ""
        self._where = ""
        # The name of the task that is on, or was last.
        self.task = ""

    def add(self, event: JobEvent) -> None:
        """Take the next event; the statistics are the last."""
        if event.task:
            self.task, self._where = event.task, _where(event)
        if event.is_failure:
            message = _cut(event.message, _LONGEST_MESSAGE)
            self._failures.append((message, f"Task {event.task!r} failed: {message}"))
        # Results are printed as well, whole ones; of them only a failure's message is for the CR.
        printed = event.message if event.is_failure else "" if event.event.startswith("runner_") else event.printed
        if printed:
            self._printed.append(_cut(printed, _LONGEST_PRINTED))
        if event.event == "runner_on_ok" and (key := REQUEUE_RESULTS.get(str(event.data.get("task_action")))):
            self._requeue_after = event.result.get(key, self._requeue_after)
        if event.event == "playbook_on_stats":
            self._completion = event.created
            self._counts = {name: counts for name, counts in event.data.items() if isinstance(counts, Mapping)}

    def outcome(self) -> Outcome:
        """The outcome of the run. ExecutorError if it did not get as far as its statistics."""
        if self._counts is None:
            # The Go operator's words, and what Ansible printed last, which is why.
            printed = _PLACE.sub(r"\1:\2:\3", "\n".join(self._printed))
            raise ExecutorError("\n".join(filter(None, ("did not receive playbook_on_stats event", printed))))
        counts = self._counts

        def count(name: str) -> int:
            return int(counts.get(name, {}).get(LOCALHOST, 0))

        # Ansible's own reckoning leaves out what was ignored or rescued; no event says so of itself. What was not made up
        # for ended its host's play, so it is among the last.
        unforgiven = sum(sum(counts.get(name, {}).values()) for name in ("failures", "dark"))
        failed = list(self._failures)[max(0, len(self._failures) - unforgiven) :] if unforgiven else []
        messages = [message for message, _ in failed]
        if unforgiven and not failed:
            messages = [_UNKNOWN_FAILURE + self._where]
        return Outcome(
            ok=count("ok"),
            changed=count("changed"),
            skipped=count("skipped"),
            failures=count("failures"),
            completion=self._completion,
            messages=tuple(messages),
            reports=tuple(report for _, report in failed),
            requeue_after=self._requeue_after,
        )


def fold(events: Iterable[JobEvent]) -> Outcome:
    """The outcome of a run, of all its events. ExecutorError if it did not get as far as its statistics."""
    folded = Fold()
    for event in events:
        folded.add(event)
    return folded.outcome()


def _unknown(event: JobEvent) -> str:
    """The Go operator's words for a failure that says nothing, and where it was."""
    return _UNKNOWN_FAILURE + _where(event)


def _where(event: JobEvent) -> str:
    if not event.task:
        return ""
    return f" in task {event.task!r}" + (f" ({event.location})" if event.location else "")


def _end_of(text: str) -> str:
    """The last lines, which say what was wrong; of a traceback the last, as the others are the program's."""
    lines = [line for line in text.splitlines() if line.strip()]
    told = "\n".join(lines[-1:] if "Traceback (most recent call last)" in text else lines[-3:])
    return told if len(told) <= _LONGEST_STDERR else "…" + told[1 - _LONGEST_STDERR :]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
