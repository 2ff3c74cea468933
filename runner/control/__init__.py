"""One CR's turn: from an event to a status.

What belongs here: telling news from echoes (`handlers`), who is next (`workqueue`), running and retrying (`controller`),
and the turn itself (`reconciler`). What does not: how the cluster is spoken to (`kube`), how Ansible is run (`executor`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from runner.config.watches import Watch
from runner.errors import RolerunnerError
from runner.resource.metadata import ObjectKey


@dataclass(frozen=True, slots=True)
class Request:
    """A CR's turn: whose it is. What to do is looked up when the turn comes."""

    watch: Watch
    key: ObjectKey

    @property
    def fields(self) -> dict[str, str]:
        """What every log line about this CR carries."""
        return {"kind": self.watch.gvk.kind, "namespace": self.key.namespace, "cr": self.key.name}


class Priority(IntEnum):
    """Who goes first when there is not room for all."""

    CHANGE = 0
    DEPENDENT = 1
    RETRY = 2
    PERIODIC = 3


@dataclass(frozen=True, slots=True)
class Result:
    """When to come back, in seconds; None or 0: only when something happens."""

    requeue_after: float | None = None
    # Asked for by the role, and so on time, unlike the periodic pass.
    requested: bool = False


class Retry(RolerunnerError):
    """The turn did not reach its end; come back with backoff. `str()` says why, for the log."""
