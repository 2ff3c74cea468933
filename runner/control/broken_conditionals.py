"""Conditions of a role that give no boolean: allowed for the time being, and told once."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from runner.control import Request
from runner.executor.jobs import JobEvent

logger = logging.getLogger(__name__)

# Places that one warning names.
_MOST = 20
# The ansible-core that will refuse them, as 2.19 to 2.21 say.
REFUSED_FROM = "2.23"
TOLD = "Conditions that give no boolean are allowed for now"


class BrokenConditionals:
    """Logs one warning for a role or playbook, with all tasks of a run that have such a condition, and later new ones."""

    def __init__(self) -> None:
        self._told: dict[Path, set[str]] = {}

    def tell(self, content: Path, request: Request, events: Iterable[JobEvent]) -> None:
        """After a run of `content`. `events` are all of the run's."""
        told = self._told.setdefault(content, set())
        places: dict[str, None] = {}
        place = ""
        for event in events:
            # Without colours a deprecation is displayed in events of its own, which name no task; it is the current one's.
            place = event.location or place
            if event.has_broken_conditional and place not in told:
                places[place] = None
        if not places:
            return
        told.update(places)
        more = {"more": len(places) - _MOST} if len(places) > _MOST else {}
        logger.warning(
            TOLD,
            extra={
                **request.fields,
                "content": str(content),
                "at": list(places)[:_MOST],
                **more,
                "refused_from": f"ansible-core {REFUSED_FROM}",
            },
        )
