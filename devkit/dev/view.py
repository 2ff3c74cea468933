"""What `rolerunner dev` shows: lines about what happens, and on a terminal a table of the CRs that stays below them.

Fed with the operator's own log, one record a line (see `runner.logs`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import click

from runner.logs import RunnerEvent

# The most rows of the table; the rest is counted.
_ROWS = 20
_ENDED = {RunnerEvent.RUN_SUCCEEDED: "ok", RunnerEvent.RUN_FAILED: "failed", RunnerEvent.DRY_RUN_ENDED: "planned"}
_LOOKS = {"running": ("●", "cyan"), "ok": ("✓", "green"), "planned": ("✓", "yellow"), "failed": ("✗", "red")}

Record = Mapping[str, Any]


@dataclass(slots=True)
class Row:
    """A CR. `text`: its task, or what came of it; `took`: seconds of its last run; `at`: when that ended."""

    state: str = "running"
    text: str = ""
    begun: float = 0.0
    took: float = 0.0
    at: str = ""


class View:
    def __init__(self, stream: TextIO, *, title: str) -> None:
        self._stream = stream
        self._title = title
        self._live = stream.isatty()
        self._rows: dict[str, Row] = {}
        # What went wrong with a CR last: its next tries need not tell it again.
        self._told: dict[str, str] = {}
        # How many lines of the terminal the table has.
        self._height = 0

    def say(self, text: str, *, bad: bool = False) -> None:
        """One thing that happened; further lines are indented."""
        first, *rest = text.rstrip().splitlines() or [""]
        lines = [f"{datetime.now():%H:%M:%S} {first}", *(f"    {line}" for line in rest)]
        self._erase()
        for line in lines:
            click.secho(line, file=self._stream, fg="red" if bad and self._live else None)
        self.draw()

    def hear(self, record: Record) -> None:
        """A line of the operator's log."""
        event, cr = record.get("event"), subject(record)
        row = self._rows.get(cr)
        if event in (RunnerEvent.RUN_STARTED, RunnerEvent.DRY_RUN_STARTED):
            self._rows[cr] = Row(begun=time.monotonic())
            self._tell(f"{cr}: {'running' if event == RunnerEvent.RUN_STARTED else 'a dry run'}")
        elif event == RunnerEvent.TASK_STARTED and row:
            row.text = record.get("task", "")
        elif event in _ENDED and row:
            row.state = _ENDED[event]
            counts = f"ok {record.get('ok', 0)}, changed {record.get('changed', 0)}, failed {record.get('failures', 0)}"
            row.text = f"in task {row.text!r}" if row.state == "failed" and row.text else counts
            row.took, row.at = time.monotonic() - row.begun, f"{datetime.now():%H:%M:%S}"
            self._tell(f"{cr}: {row.state} in {row.took:.1f} s ({row.text})")
        elif event == RunnerEvent.CR_GONE:
            self._rows.pop(cr, None)
            self._tell(f"{cr}: gone")
        elif event in (RunnerEvent.DRY_RUN_RESULT, RunnerEvent.DEBUG_OUTPUT):
            self.say(f"{cr}: {record.get('task', 'what a run would change')}\n{record.get('output', '')}")
        elif event == RunnerEvent.TASK_FAILED:
            self._complain(cr, f"{cr}: task {record.get('task')!r} failed, {_place(record)}\n{record.get('error', '')}")
        elif record.get("level") in ("warning", "error", "critical"):
            details = (record.get(name) for name in ("error", "reason", "stacktrace"))
            self._complain(
                cr, "\n".join([f"{cr}: {record.get('msg', '')}".lstrip(": "), *(str(text) for text in details if text)])
            )
        self.draw()

    def listen_anew(self) -> None:
        """Something was done about what went wrong: if it goes wrong again, that is news."""
        self._told.clear()

    def clear(self) -> None:
        """The operator is another one from here on, and tells of all CRs anew."""
        self._rows.clear()
        self.draw()

    def draw(self) -> None:
        """The table, in the place of the one before; call it now and then, as times go on."""
        if not self._live:
            return
        lines = self.table(*shutil.get_terminal_size())
        self._erase()
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._height = len(lines)

    def table(self, width: int, height: int) -> list[str]:
        """Lines for a terminal of this size."""
        states = [row.state for row in self._rows.values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in _LOOKS if state in states) or "no CR yet"
        lines = ["", click.style(f"{self._title}: {counts}. Ctrl-C ends it."[: width - 1], bold=True)]
        room = max(1, min(_ROWS, height - 4))
        names = max((len(name) for name in self._rows), default=0)
        for name, row in list(self._rows.items())[:room]:
            mark, colour = _LOOKS[row.state]
            spent = time.monotonic() - row.begun if row.state == "running" else row.took
            end = f"{spent:6.1f} s  {row.at or ' ' * 8}"
            space = max(0, width - len(end) - 5)
            text = f"{name:<{min(names, space // 2)}}  {' '.join(row.text.split())}"
            lines.append(f"{click.style(mark, fg=colour)} {text[:space]:<{space}}  {end}")
        if len(self._rows) > room:
            lines.append(f"  and {len(self._rows) - room} more")
        return lines

    def close(self) -> None:
        """What is there stays; nothing is drawn over it."""
        self._height = 0
        self._live = False

    def _complain(self, cr: str, text: str) -> None:
        if not cr or self._told.get(cr) != text:
            self._told[cr] = text
            self.say(text, bad=True)

    def _tell(self, text: str) -> None:
        """What the table shows, where there is none."""
        if not self._live:
            self.say(text)

    def _erase(self) -> None:
        if self._height:
            self._stream.write(f"\x1b[{self._height}F\x1b[J")
            self._height = 0


def subject(record: Record) -> str:
    """`Memcached default/sample`; empty for lines about no CR."""
    name = "/".join(filter(None, (record.get("namespace"), record.get("name"))))
    return f"{record.get('kind')} {name}" if record.get("kind") and name else ""


def _place(record: Record) -> str:
    path, _, line = str(record.get("at") or "").rpartition(":")
    return f"{shown(Path(path))}:{line}" if path else "nobody knows where"


def shown(path: Path) -> str:
    """As one would write it in this folder; what a run reaches by links is where they lead."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
