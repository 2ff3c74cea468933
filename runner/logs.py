"""The format of log records: for people on a terminal, JSON lines everywhere else.

A message is constant, and values are fields (`extra=`). Lines about a CR have `kind`, `namespace` and `name`; the last is
`cr` in `extra=`, as logging keeps `name` for itself. What programs act on is the field `event`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TextIO

from runner.json_codec import encode

FORMATS = ("auto", "console", "json")
LEVELS = ("debug", "info", "warning", "error")


class RunnerEvent(StrEnum):
    """The field `event` of the records that programs such as `rolerunner dev` act on; messages may be reworded."""

    WATCHING = "watching"
    DASHBOARD = "dashboard"
    RUN_STARTED = "run_started"
    RUN_SUCCEEDED = "run_succeeded"
    RUN_FAILED = "run_failed"
    DRY_RUN_STARTED = "dry_run_started"
    DRY_RUN_ENDED = "dry_run_ended"
    DRY_RUN_RESULT = "dry_run_result"
    TASK_STARTED = "task_started"
    TASK_FAILED = "task_failed"
    DEBUG_OUTPUT = "debug_output"
    CR_GONE = "cr_gone"


# Makes sentences of what libraries log, in a message or a traceback.
Readable = Callable[[str], str]

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# The fields at the beginning of a console line.
_SUBJECT = ("kind", "namespace", "cr")
_COLORS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "31"}
# Fields that are printed with their line breaks: an error's text, a run's output.
_BLOCKS = ("error", "output")

# Characters of one value: more of it helps nobody, and what a tenant writes into a CR must not be what fills the log.
VALUE_LIMIT = 16 * 1024
# Up to this, an integer is short as text.
_LARGE = 2**63


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _zulu(text: str) -> str:
    return text.replace("+00:00", "Z")


# zap's, by its names; it writes the first three as numbers.
_TIMES: Mapping[str, Callable[[float], float | str]] = {
    "epoch": lambda seconds: seconds,
    "millis": lambda seconds: seconds * 1e3,
    # Its help says one, its code the other.
    "nano": lambda seconds: int(seconds * 1e9),
    "nanos": lambda seconds: int(seconds * 1e9),
    "iso8601": lambda seconds: _zulu(_utc(seconds).isoformat(timespec="milliseconds")),
    "rfc3339": lambda seconds: _zulu(_utc(seconds).isoformat(timespec="milliseconds")),
    "rfc3339nano": lambda seconds: _zulu(_utc(seconds).isoformat(timespec="microseconds")),
}
TIME_ENCODINGS = tuple(_TIMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of logging. `format` is one of FORMATS, `time_encoding` one of TIME_ENCODINGS; `level` and `traces`, from
    which on tracebacks are written, are logging's levels.
    """

    level: str = "info"
    format: str = "auto"
    traces: str = "error"
    time_encoding: str = "rfc3339"


def configure(options: Options, *, stream: TextIO | None = None, readable: Readable = str) -> None:
    """Send the logs of this process to `stream` (standard error); `readable` puts what libraries log into better words."""
    stream = stream or sys.stderr
    console = stream.isatty() if options.format == "auto" else options.format == "console"
    handler = logging.StreamHandler(stream)
    handler.addFilter(_drop_traces_below(logging.getLevelNamesMapping()[options.traces.upper()]))
    handler.setFormatter(
        ConsoleFormatter(color=stream.isatty(), readable=readable)
        if console
        else JsonFormatter(time_encoding=options.time_encoding, readable=readable)
    )
    # Not written: a record's file and line, thread and process. Finding them out takes time.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(options.level.upper())
    if options.level != "debug":
        # These log every connection and every retry; the runner logs what matters of it.
        for chatty in ("kopf", "asyncio", "aiohttp", "urllib3", "kubernetes"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        handler.addFilter(_drop_escalations)


def _drop_escalations(record: logging.LogRecord) -> bool:
    """Drop kopf's error lines about what it then raises, as for rights without which it goes on."""
    return not (record.name.startswith("kopf.") and "; escalating: " in record.getMessage())


def _drop_traces_below(level: int) -> Callable[[logging.LogRecord], bool]:
    def drop(record: logging.LogRecord) -> bool:
        if record.levelno < level:
            record.exc_info = None
        return True

    return drop


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """A record's fields, given as `extra=`, each value no longer than VALUE_LIMIT."""
    return {name: _bounded(value) for name, value in record.__dict__.items() if name not in _STANDARD}


def _bounded(value: object) -> object:
    """The value, or if it is too long, its beginning and its length."""
    if isinstance(value, str):
        text = value
    elif value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < _LARGE):
        return value
    else:
        try:
            text = encode(value, default=str).decode()
        except (TypeError, ValueError, RecursionError):
            # A key that is no text, a circle, or nested too deeply: no formatter could write it.
            value = text = f"{type(value).__name__} that cannot be written as JSON"
    return value if len(text) <= VALUE_LIMIT else f"{text[:VALUE_LIMIT]}… (cut, {len(text)} characters)"


def _message(record: logging.LogRecord, readable: Readable) -> str:
    return str(_bounded(readable(record.getMessage())))


def _trace(text: str) -> str:
    """A traceback, of which a long one keeps its beginning and end."""
    if len(text) <= VALUE_LIMIT:
        return text
    return f"{text[: VALUE_LIMIT // 2]}… (cut, {len(text)} characters)\n{text[-VALUE_LIMIT // 2 :]}"


class Once:
    """Tells the first occurrence of a key from its repetitions, so that a message is logged once and not again and again.

    It remembers up to `limit` keys and then begins again. With a limit of 1 it tells whether a key differs from the last.
    """

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._seen: set[Hashable] = set()

    def is_new(self, key: Hashable) -> bool:
        if key in self._seen:
            return False
        if len(self._seen) >= self._limit:
            self._seen.clear()
        self._seen.add(key)
        return True

    def reset(self) -> None:
        """Forget all keys, as when the trouble that they name is over."""
        self._seen.clear()


class JsonFormatter(logging.Formatter):
    """Formats a record as a line of JSON with zap's keys, as the Go operator's: level, ts, logger, msg."""

    def __init__(self, *, time_encoding: str = "rfc3339", readable: Readable = str) -> None:
        super().__init__()
        self._readable = readable
        self._time = _TIMES[time_encoding]

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "level": record.levelname.lower(),
            "ts": self._time(record.created),
            "logger": record.name,
            "msg": _message(record, self._readable),
            **{"name" if name == "cr" else name: value for name, value in fields_of(record).items()},
        }
        if record.exc_info:
            line["stacktrace"] = _trace(self._readable(self.formatException(record.exc_info)))
        return encode(line, default=str).decode()


class ConsoleFormatter(logging.Formatter):
    """Formats a record as `12:00:01 INFO    Memcached default/sample: Run succeeded  ok=4 changed=1`."""

    def __init__(self, *, color: bool, readable: Readable = str) -> None:
        super().__init__()
        self._readable = readable
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        fields = fields_of(record)
        # For programs, which read JSON.
        fields.pop("event", None)
        kind, namespace, name = (str(fields.pop(key, "") or "") for key in _SUBJECT)
        subject = f"{kind} {namespace}/{name}".replace(" /", " ") + ": " if kind else ""
        blocks = [str(fields.pop(name, "") or "") for name in _BLOCKS]
        rest = "".join(f"  {key}={value}" for key, value in fields.items() if value != "")
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        line = f"{time} {record.levelname:<7} {subject}{_message(record, self._readable)}{rest}"
        for block in filter(None, blocks):
            line += "".join(f"\n    {part}" for part in block.splitlines()) if "\n" in block else f"  {block}"
        if self._color and record.levelname in _COLORS:
            line = f"\x1b[{_COLORS[record.levelname]}m{line}\x1b[0m"
        if record.exc_info:
            line += "\n" + _trace(self._readable(self.formatException(record.exc_info)))
        return line
