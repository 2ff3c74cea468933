"""The log of a run: unless asked otherwise, each task as it starts, what `debug` shows, and what failed.

Next on the way: `runner.executor.jobs`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic

from runner.config.settings import LogEvents
from runner.control import Request
from runner.executor.jobs import JobEvent
from runner.logs import VALUE_LIMIT, RunnerEvent

logger = logging.getLogger(__name__)

_SET_FACT = frozenset({"set_fact", "ansible.builtin.set_fact"})
_DEBUG = frozenset({"debug", "ansible.builtin.debug"})
_NOT_LOGGED = _SET_FACT | _DEBUG
# Printed texts that are kept for the log of Ansible's output.
_OUTPUT_KEPT = 10_000
# Seconds between two warnings of a run that goes on and on.
_LONG_RUN = 3600.0


class RunLog:
    """Logs a run's events, as much of them as `--ansible-log-events` says, and with `output` in the end what was printed."""

    def __init__(self, request: Request, what: LogEvents, *, output: bool) -> None:
        self._fields = request.fields
        self._what = what
        self._output: deque[str] = deque(maxlen=_OUTPUT_KEPT if output else 0)

    def add(self, event: JobEvent) -> None:
        if event.printed:
            self._output.append(event.printed)
        if self._what is LogEvents.NOTHING:
            return
        if self._what is LogEvents.EVERYTHING:
            fields = {"event_type": event.event, "task": event.task, "data": dict(event.data), "output": event.printed}
            logger.info("Event", extra={**self._fields, **fields})
            return
        action = event.data.get("task_action")
        if event.is_failure:
            fields = {"task": event.task, "at": event.location, "error": event.message}
            # The message, which the CR's status has as well, has only its end.
            more = {"stderr": event.stderr} if event.stderr and event.stderr not in event.message else {}
            logger.error("Task failed", extra={"event": RunnerEvent.TASK_FAILED, **self._fields, **fields, **more})
        elif event.event == "playbook_on_task_start" and action not in _NOT_LOGGED:
            logger.info("Task", extra={"event": RunnerEvent.TASK_STARTED, **self._fields, "task": event.task})
        elif event.event == "runner_on_ok" and action in _DEBUG:
            fields = {"task": event.task, "output": event.printed.strip()}
            logger.info("Debug", extra={"event": RunnerEvent.DEBUG_OUTPUT, **self._fields, **fields})

    def close(self) -> None:
        """Log the output, in pieces that are no longer than a value in the log may be."""
        piece: list[str] = []
        size = 0
        for text in (*self._output, ""):
            if piece and (not text or size + len(text) > VALUE_LIMIT):
                logger.info("Ansible's output", extra={**self._fields, "output": "\n".join(piece)})
                piece, size = [], 0
            piece.append(text)
            size += len(text) + 1


@contextlib.contextmanager
def warn_of_long_run(request: Request, ident: str, current_task: Callable[[], str], remedy: str) -> Iterator[None]:
    """Warn again and again while a run goes on, as it takes a place that other runs wait for."""
    loop, begun = asyncio.get_running_loop(), monotonic()
    timer: asyncio.TimerHandle

    def warn() -> None:
        nonlocal timer
        fields = {"job": ident, "task": current_task(), "seconds": round(monotonic() - begun), "remedy": remedy}
        logger.warning("A run takes very long", extra={**request.fields, **fields})
        timer = loop.call_later(_LONG_RUN, warn)

    timer = loop.call_later(_LONG_RUN, warn)
    try:
        yield
    finally:
        timer.cancel()
