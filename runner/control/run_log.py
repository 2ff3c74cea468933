"""The log of a run: unless asked otherwise, each task as it starts, what `debug` shows, and what failed."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from runner.config.settings import LogEvents
from runner.control import Request
from runner.executor.jobs import JobEvent
from runner.logs import VALUE_LIMIT, RunnerEvent

logger = logging.getLogger(__name__)

_SET_FACT = frozenset({"set_fact", "ansible.builtin.set_fact"})
_DEBUG = frozenset({"debug", "ansible.builtin.debug"})
_NOT_LOGGED = _SET_FACT | _DEBUG


class RunLog:
    """Logs a run's events, as much of them as `--ansible-log-events` says."""

    def __init__(self, request: Request, what: LogEvents) -> None:
        self._fields = request.fields
        self._what = what

    def add(self, event: JobEvent) -> None:
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

    def add_output(self, printed: Iterable[str]) -> None:
        """Log what Ansible printed, in pieces that are no longer than a value in the log may be."""
        piece: list[str] = []
        size = 0
        for text in (*printed, ""):
            if piece and (not text or size + len(text) > VALUE_LIMIT):
                logger.info("Ansible's output", extra={**self._fields, "output": "\n".join(piece)})
                piece, size = [], 0
            piece.append(text)
            size += len(text) + 1
