"""How log records are written: for people on a terminal, as JSON lines everywhere else.

A message is constant, what varies are fields (`extra=`). Lines about a CR carry `kind`, `namespace` and `name`; the last
is `cr` in `extra=`, as logging keeps `name` for itself.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

FORMATS = ("auto", "console", "json")
LEVELS = ("debug", "info", "warning", "error")

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# Of the console line, in front of the other fields.
_SUBJECT = ("kind", "namespace", "cr")
_COLORS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "31"}


def configure(*, level: str, format: str, stream: TextIO | None = None) -> None:
    """Send the logs of this process to `stream` (standard error). `format` is one of FORMATS, `level` one of LEVELS."""
    stream = stream or sys.stderr
    console = stream.isatty() if format == "auto" else format == "console"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ConsoleFormatter(color=stream.isatty()) if console else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    if level != "debug":
        # These tell of every connection and every retry; what matters of it, the runner says itself.
        for chatty in ("kopf", "asyncio", "aiohttp", "urllib3", "kubernetes"):
            logging.getLogger(chatty).setLevel(logging.WARNING)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the keys that zap gives the Go operator's: level, ts, logger, msg."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "level": record.levelname.lower(),
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "logger": record.name,
            "msg": record.getMessage(),
            **{"name" if name == "cr" else name: value for name, value in fields_of(record).items()},
        }
        if record.exc_info:
            line["stacktrace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """`12:00:01 INFO    Memcached default/sample: Run succeeded  ok=4 changed=1`."""

    def __init__(self, *, color: bool) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        fields = fields_of(record)
        kind, namespace, name = (str(fields.pop(key, "") or "") for key in _SUBJECT)
        subject = f"{kind} {namespace}/{name}".replace(" /", " ") + ": " if kind else ""
        # A failure's own words stand on lines of their own, as they were printed.
        error = str(fields.pop("error", "") or "")
        rest = "".join(f"  {key}={value}" for key, value in fields.items() if value != "")
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        line = f"{time} {record.levelname:<7} {subject}{record.getMessage()}{rest}"
        if error:
            line += "".join(f"\n    {part}" for part in error.splitlines()) if "\n" in error else f"  {error}"
        if self._color and record.levelname in _COLORS:
            line = f"\x1b[{_COLORS[record.levelname]}m{line}\x1b[0m"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line
