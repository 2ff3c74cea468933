"""Error messages of failed tasks, made readable: the API server's answers as sentences, with a remedy where one is known."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from runner.executor.jobs import JobEvent
from runner.resource import api_status

logger = logging.getLogger(__name__)

_FAILURES = ("runner_on_failed", "runner_item_on_failed", "runner_on_unreachable")
# Arguments of kubernetes.core's modules in which objects, or patches of them, are sent.
_SENT = ("definition", "resource_definition", "patch")


def is_to_be_explained(event: JobEvent) -> bool:
    """True for a failure that the play does not ignore."""
    return event.event in _FAILURES and event.data.get("ignore_errors") is not True


def explained(event: JobEvent) -> JobEvent:
    """The event; for a failure, with `words`: its message made readable, and a remedy where there is one."""
    if not is_to_be_explained(event):
        return event
    event = replace(event, items=tuple(map(explained, event.items)))
    try:
        return replace(event, words=_words(event))
    except Exception as error:
        # A less readable message is better than a run that ends here: all of this is text that somebody else wrote.
        logger.debug("Failure not put into better words", extra={"error": repr(error)})
        return event


def _words(event: JobEvent) -> str:
    message = api_status.readable(event.message)
    # Each item of a loop has its own.
    remedy = "" if event.items else api_status.remedy(message, _sent(event))
    return "\n".join(filter(None, (message, remedy)))


def _sent(event: JobEvent) -> list[object]:
    invocation = event.result.get("invocation")
    arguments = invocation.get("module_args") if isinstance(invocation, Mapping) else None
    given = [arguments.get(name) for name in _SENT] if isinstance(arguments, Mapping) else []
    return next(([sent] for sent in given if sent), [])
