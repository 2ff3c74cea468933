"""Conditionals of a role that give no boolean: allowed for the time being, with one warning."""

from __future__ import annotations

import logging
from pathlib import Path

from runner.control import Request
from runner.executor.jobs import JobEvent

logger = logging.getLogger(__name__)

# Tasks that one warning names; that are remembered of one run, and of one role or playbook.
_MOST = 20
_KEPT = 1000
# The ansible-core that will refuse them, as the warnings of 2.19 to 2.21 say.
REFUSED_FROM = "2.23"
TOLD = "Conditions that give no boolean are allowed for now"


class Places:
    """Collects from a run's events the tasks that have such a conditional, as FILE:LINE."""

    def __init__(self) -> None:
        self.found: dict[str, None] = {}
        self._place = ""

    def add(self, event: JobEvent) -> None:
        # Without colours a deprecation comes in an event of its own, which names no task; it is the current task's.
        self._place = event.location or self._place
        if event.has_broken_conditional and len(self.found) < _KEPT:
            self.found[self._place] = None


class BrokenConditionals:
    """Logs one warning for each role or playbook, with all such tasks of a run, and later one with new tasks only."""

    def __init__(self) -> None:
        self._warned: dict[Path, set[str]] = {}

    def warn(self, content: Path, request: Request, found: Places) -> None:
        """Warn of what was found in a run of the role or playbook `content`, unless that was done before."""
        warned = self._warned.setdefault(content, set())
        places = [place for place in found.found if place not in warned]
        if not places or len(warned) >= _KEPT:
            return
        warned.update(places)
        more = {"more": len(places) - _MOST} if len(places) > _MOST else {}
        logger.warning(
            TOLD,
            extra={
                **request.fields,
                "content": str(content),
                "at": places[:_MOST],
                **more,
                "refused_from": f"ansible-core {REFUSED_FROM}",
            },
        )
