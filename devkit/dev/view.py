"""The output of `rolerunner dev`: a line for each thing that happens, and on a terminal a live table of the CRs below them.

It is made of the operator's own log, one JSON record a line (`runner.logs`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

import click

from runner.errors import ConfigurationError
from runner.json_codec import JsonMapping
from runner.logs import RunnerEvent

try:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise ConfigurationError("dev needs the package rich: pip install 'rolerunner[devkit]'") from error

# The most rows of the table; the rest is counted.
_ROWS = 20
_ENDED = {RunnerEvent.RUN_SUCCEEDED: "ok", RunnerEvent.RUN_FAILED: "failed", RunnerEvent.DRY_RUN_ENDED: "planned"}
_STATES = {"running": ("●", "cyan"), "ok": ("✓", "green"), "planned": ("✓", "yellow"), "failed": ("✗", "red")}

Record = JsonMapping


@dataclass(slots=True)
class Row:
    """A CR. `text`: its task, or the result of its run; `took`: seconds of its last run; `at`: when that ended."""

    state: str = "running"
    text: str = ""
    begun: float = 0.0
    took: float = 0.0
    at: str = ""


class View:
    """Writes to `stream`: plain lines, and the table only if it is a terminal."""

    def __init__(self, stream: TextIO, *, title: str) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._title = title
        # Of the dashboard; it stays in sight where lines scroll by.
        self.link = ""
        self._rows: dict[str, Row] = {}
        # The last error of each CR, which its next tries need not repeat.
        self._errors: dict[str, str] = {}
        self._live: Live | None = None
        if stream.isatty() and self._console.is_interactive:
            self._live = Live(
                console=self._console,
                get_renderable=lambda: self.table(*self._console.size),
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def say(self, text: str, *, bad: bool = False) -> None:
        """Write what happened; further lines are indented."""
        first, *rest = text.rstrip().splitlines() or [""]
        for line in (f"{datetime.now():%H:%M:%S} {first}", *(f"    {line}" for line in rest)):
            if self._live:
                self._console.print(Text(line, style="red" if bad else ""), soft_wrap=True)
            else:
                click.echo(line, file=self._console.file)
        self.draw()

    def handle(self, record: Record) -> None:
        """Show a record of the operator's log."""
        event, cr = record.get("event"), subject(record)
        row = self._rows.get(cr)
        if event in (RunnerEvent.RUN_STARTED, RunnerEvent.DRY_RUN_STARTED):
            self._rows[cr] = Row(begun=time.monotonic())
            self._say_without_table(f"{cr}: {'running' if event == RunnerEvent.RUN_STARTED else 'a dry run'}")
        elif event == RunnerEvent.TASK_STARTED and row:
            row.text = record.get("task", "")
        elif event in _ENDED and row:
            row.state = _ENDED[event]
            counts = f"ok {record.get('ok', 0)}, changed {record.get('changed', 0)}, failed {record.get('failures', 0)}"
            row.text = f"in task {row.text!r}" if row.state == "failed" and row.text else counts
            row.took, row.at = time.monotonic() - row.begun, f"{datetime.now():%H:%M:%S}"
            self._say_without_table(f"{cr}: {row.state} in {row.took:.1f} s ({row.text})")
        elif event == RunnerEvent.CR_GONE:
            self._rows.pop(cr, None)
            self._say_without_table(f"{cr}: gone")
        elif event in (RunnerEvent.DRY_RUN_RESULT, RunnerEvent.DEBUG_OUTPUT):
            self.say(f"{cr}: {record.get('task', 'what a run would change')}\n{record.get('output', '')}")
        elif event == RunnerEvent.TASK_FAILED:
            self._say_error(cr, f"{cr}: task {record.get('task')!r} failed, {_place(record)}\n{record.get('error', '')}")
        elif record.get("level") in ("warning", "error", "critical"):
            message = f"{cr}: {record.get('msg', '')}".lstrip(": ")
            details = (record.get(name) for name in ("error", "reason", "stacktrace"))
            self._say_error(cr, "\n".join([message, *(str(text) for text in details if text)]))
        self.draw()

    def repeat_errors(self) -> None:
        """After an edit, the error of before is news again."""
        self._errors.clear()

    def clear(self) -> None:
        """Forget all CRs: the operator is a new one, which logs each of them again."""
        self._rows.clear()
        self.draw()

    def draw(self) -> None:
        """Draw the table over the one before; call it now and then, as the seconds of runs go on."""
        if self._live:
            self._live.start()
            self._live.refresh()

    def table(self, width: int, height: int) -> Group:
        """A title and a row for each CR, for a terminal of this size."""
        states = [row.state for row in self._rows.values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in _STATES if state in states) or "no CR yet"
        title = _line(f"{self._title}: {counts}. Ctrl-C ends it.", "bold")
        room = max(1, min(_ROWS, height - 4 - bool(self.link)))
        table = Table.grid("cr", "text", "seconds", "at", padding=(0, 2, 0, 0), expand=True)
        table.columns[0].max_width, table.columns[1].ratio = width // 2, 1
        for name, row in list(self._rows.items())[:room]:
            mark, colour = _STATES[row.state]
            spent = time.monotonic() - row.begun if row.state == "running" else row.took
            named = _line(f"{mark} {name}")
            named.stylize(colour, 0, 1)
            table.add_row(named, *map(_line, (" ".join(row.text.split()), f"{spent:.1f} s", row.at)))
        more = [_line(f"  and {len(self._rows) - room} more")] if len(self._rows) > room else []
        link = [_line(f"Dashboard: {self.link}")] if self.link else []
        return Group("", title, *link, table, *more)

    def close(self) -> None:
        """Leave the table as it is; what is said from now on are plain lines below it."""
        if self._live:
            self._live.stop()
            self._live = None

    def _say_error(self, cr: str, text: str) -> None:
        if not cr or self._errors.get(cr) != text:
            self._errors[cr] = text
            self.say(text, bad=True)

    def _say_without_table(self, text: str) -> None:
        if not self._live:
            self.say(text)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def subject(record: Record) -> str:
    """The CR that a record is about, as `Memcached default/sample`; empty if it is about none."""
    name = "/".join(filter(None, (record.get("namespace"), record.get("name"))))
    return f"{record.get('kind')} {name}" if record.get("kind") and name else ""


def _place(record: Record) -> str:
    path, _, line = str(record.get("at") or "").rpartition(":")
    return f"{shown(Path(path))}:{line}" if path else "at an unknown place"


def shown(path: Path) -> str:
    """A path as one would write it in this folder; what a run reaches by links is where they lead."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
