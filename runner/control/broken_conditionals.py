"""Conditions of a role that give no boolean: allowed for the time being, and told once."""

from __future__ import annotations

import logging
from pathlib import Path

from runner.control import Request
from runner.executor.jobs import JobEvent

logger = logging.getLogger(__name__)

# Places that one warning names.
_MOST = 20
# Places that are kept of one run, and of one role or playbook.
_KEPT = 1000
# The ansible-core that will refuse them, as 2.19 to 2.21 say.
REFUSED_FROM = "2.23"
TOLD = "Conditions that give no boolean are allowed for now"


class Places:
    """The tasks of one run that have such a condition, found in its events one by one."""

    def __init__(self) -> None:
        self.found: dict[str, None] = {}
        self._place = ""

    def add(self, event: JobEvent) -> None:
        # Without colours a deprecation is displayed in events of its own, which name no task; it is the current one's.
        self._place = event.location or self._place
        if event.has_broken_conditional and len(self.found) < _KEPT:
            self.found[self._place] = None


class BrokenConditionals:
    """Logs one warning for a role or playbook, with all tasks of a run that have such a condition, and later new ones."""

    def __init__(self) -> None:
        self._told: dict[Path, set[str]] = {}

    def tell(self, content: Path, request: Request, found: Places) -> None:
        """After a run of `content`, in which these were found."""
        told = self._told.setdefault(content, set())
        places = [place for place in found.found if place not in told]
        if not places or len(told) >= _KEPT:
            return
        told.update(places)
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
