"""The plan, which is the result of a dry run: the objects that a run would create, change and delete, and what is unknown.

Next on the way: `runner.proxy.dry_run`.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runner.executor.jobs import JobEvent, Outcome
from runner.proxy.dry_run import DryRun
from runner.resource.diff import Action, Change
from runner.resource.masking import Masker

# More than these nobody reads.
_MOST_EVENTS = 10_000
_SIGNS = {Action.CREATE: "+", Action.CHANGE: "~", Action.DELETE: "-"}


@dataclass(slots=True)
class Plan:
    """The result of one CR's dry run. `cr` has its kind, namespace and name, as in the log (`Request.fields`)."""

    cr: Mapping[str, str]
    dry_run: DryRun
    # Of tasks that failed or cannot be predicted.
    events: deque[JobEvent] = field(default_factory=lambda: deque(maxlen=_MOST_EVENTS))
    outcome: Outcome = field(default_factory=Outcome)

    def add(self, event: JobEvent) -> None:
        """Keep the event if its task failed or is not predicted."""
        if event.is_failure or event.unpredicted:
            self.events.append(event)

    @property
    def changes(self) -> list[Change]:
        return self.dry_run.changes

    @property
    def would_change(self) -> bool:
        return bool(self.changes or self.dry_run.refused)

    @property
    def failure(self) -> str:
        return "\n".join(self._failures())

    @property
    def counts(self) -> str:
        """`1 to create, 0 to change, 0 to delete`: each object counts once, however many tasks concern it."""
        found = Counter(action for action, _ in {(change.action, change.title) for change in self.changes})
        return ", ".join(f"{found[action]} to {action}" for action in Action)

    def text(self) -> str:
        """The plan for a terminal or a log: each object with its differences, then what is not known."""
        name = "/".join(filter(None, (self.cr["namespace"], self.cr["cr"])))
        lines = [f"{self.cr['kind']} {name}: {self.counts}"]
        for change in self.changes:
            lines += ["", f"{_SIGNS[change.action]} {change.action} {change.title}"]
            lines += [f"    {line}" for line in change.diff.splitlines()]
        unknowns = self._unknowns()
        return self._masked("\n".join([*lines, *([""] if unknowns else []), *unknowns]))

    def note(self) -> str:
        """The plan in the few lines that an Event has room for."""
        objects = [f"{_SIGNS[change.action]} {change.title}" for change in self.changes]
        return self._masked("\n".join([self.counts, *dict.fromkeys(objects), *self._unknowns()]))

    def as_dict(self) -> dict[str, object]:
        """The plan as JSON, for programs."""
        changes = [
            {"action": str(change.action), **change.identity, "diff": self._masked(change.diff)} for change in self.changes
        ]
        return {
            **{"kind": self.cr["kind"], "namespace": self.cr["namespace"], "name": self.cr["cr"]},
            "changes": changes,
            "refused": self.dry_run.refused,
            "unpredicted": [self._masked(text) for text in self._unpredicted()],
            "failures": [self._masked(text) for text in self._failures()],
        }

    def _unknowns(self) -> list[str]:
        """The lines about what is not known."""
        refused = [f"? refused, as no dry run: {request}" for request in self.dry_run.refused]
        failures = [f"! {text}" for text in self._failures()]
        after = ["! What would come after this is not known."] if failures else []
        return [*(f"? {text}" for text in self._unpredicted()), *refused, *failures, *after]

    def _unpredicted(self) -> Iterator[str]:
        lines = {
            f"task {_where(event)} is not predicted: {event.unpredicted}": None for event in self.events if event.unpredicted
        }
        yield from lines

    def _failures(self) -> Iterator[str]:
        failed = (
            [event for event in self.events if event.is_failure][-len(self.outcome.reports) :]
            if self.outcome.reports
            else []
        )
        if not failed:
            yield from self.outcome.messages
        created = [change for change in self.changes if change.action is Action.CREATE]
        for event in failed:
            missing = [change.title for change in created if _is_missing_for(change, event.message)]
            reason = f" ({', '.join(missing)} would be there by then)" if missing else ""
            yield f"task {_where(event)} failed: {event.message}{reason}"

    def _masked(self, text: str) -> str:
        masker = Masker(names=self.cr.values())
        masker.mask([[change.before, change.after] for change in self.changes])
        masked: str = masker.mask(text)
        return masked


def _is_missing_for(created: Change, message: str) -> bool:
    """True if the task failed because this object, or the kind that this CRD defines, was only planned and is not there."""
    definition = (created.after or {}).get("spec") or {}
    kind = re.escape(str(definition["names"].get("kind") or "")) if "names" in definition else None
    name = re.escape(created.identity["name"])
    return bool(
        re.search(rf'\b{name}\\?" not found', message) or (kind and re.search(rf"exact match for \S*\.{kind} by", message))
    )


def _where(event: JobEvent) -> str:
    """A task as `'Its name' (roles/thing/tasks/main.yml:3)`."""
    path, _, line = event.location.rpartition(":")
    place = Path(path).resolve()
    with_line = f"{place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place}:{line}"
    return f"{event.task!r} ({with_line})" if path else repr(event.task)
