"""Findings, with level, file, line and remedy, and the report of them as text or JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

# Of one place in the text; JSON has all.
_MAX_LINES = 12
_MAX_PLACES = 20
_MAX_TEXT = 600


class Level(IntEnum):
    """Severity: an error keeps the operator from running, a warning may change its behaviour, a note will later."""

    ERROR = 0
    WARNING = 1
    NOTE = 2

    @property
    def label(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A problem in a file. `file` is relative to the project's folder; `line` counts from 1, and 0 means the whole file."""

    level: Level
    file: str
    line: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The findings of the project in `folder`; `context` names what it was compared with, in a line."""

    folder: str
    context: str
    findings: tuple[Finding, ...]

    @property
    def fails(self) -> bool:
        return any(finding.level is Level.ERROR for finding in self.findings)

    def summary(self) -> str:
        counts = [sum(finding.level is level for finding in set(self.findings)) for level in Level]
        told = [
            f"{count} {level.label}{'' if count == 1 else 's'}" for level, count in zip(Level, counts, strict=True) if count
        ]
        verdict = (
            "this operator would not run here" if self.fails else "nothing was found that keeps this operator from running"
        )
        return f"{', '.join(told) or 'Nothing found'}: {verdict}"

    def text(self) -> str:
        """A paragraph for each level, in it a line for each finding; what is said of several places is said once."""
        parts = [self.context]
        for level, found in groupby(sorted(set(self.findings)), key=lambda finding: finding.level):
            parts.append("\n".join(self._lines(level, list(found))))
        return "\n\n".join((*parts, self.summary()))

    def as_dict(self) -> dict[str, object]:
        findings = [
            {"level": each.level.label, "file": each.file, "line": each.line, "message": each.message}
            for each in sorted(set(self.findings))
        ]
        return {"context": self.context, "findings": findings, "summary": self.summary(), "runs": not self.fails}

    def _lines(self, level: Level, found: list[Finding]) -> Iterator[str]:
        by_message: dict[str, dict[str, list[int]]] = {}
        for finding in found:
            by_message.setdefault(finding.message, {}).setdefault(finding.file, []).append(finding.line)
        for message, places in by_message.items():
            if len(places) == 1:
                ((file, lines),) = places.items()
                also = f" (also {_also(lines[1:])})" if lines[1:] else ""
                yield f"{self._place(file, lines[:1])}: {level.label}: {_printable(message)}{also}"
                continue
            yield f"{level.label}, in {len(places)} files: {_printable(message)}"
            for file, lines in [*places.items()][:_MAX_PLACES]:
                also = f" (also {_also(lines[1:])})" if lines[1:] else ""
                yield f"  {self._place(file, lines[:1])}{also}"
            if len(places) > _MAX_PLACES:
                yield f"  and {len(places) - _MAX_PLACES} further files; --output json names them"

    def _place(self, file: str, lines: list[int]) -> str:
        path = os.path.normpath(os.path.join(self.folder, file))
        return _printable(f"{path}:{lines[0]}" if lines[0] else path)


def _printable(text: str) -> str:
    """A line of text, whatever a file has in its names."""
    cut = text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in cut)


def _also(lines: list[int]) -> str:
    shown = ", ".join(map(str, lines[:_MAX_LINES]))
    more = f" and {len(lines) - _MAX_LINES} more" if len(lines) > _MAX_LINES else ""
    return f"line{'s' if len(lines) > 1 else ''} {shown}{more}"
