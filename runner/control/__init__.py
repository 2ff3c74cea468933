"""The controller: from an event to a CR's status.

Here belong the event handlers (`handlers`, `own_writes`), the work queue (`workqueue`), the workers (`controller`), the
decisions of a reconcile (`reconciler`), the run that it asks for (`run`), and what it writes on the CR (`status`). How the
cluster is accessed does not (`kube`), nor how Ansible is run (`executor`).

Next on the way: `runner.control.handlers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum

from runner.config.watches import Watch
from runner.errors import RolerunnerError
from runner.resource.metadata import ObjectKey


@dataclass(frozen=True, slots=True)
class Request:
    """Names the CR to reconcile, and its watch. What is to be done is decided by the reconcile."""

    watch: Watch
    key: ObjectKey

    @property
    def fields(self) -> dict[str, str]:
        """The fields of every log line about this CR."""
        return {"kind": self.watch.gvk.kind, "namespace": self.key.namespace, "cr": self.key.name}


class Priority(IntEnum):
    """The reason for a reconcile; the lower value goes first."""

    CHANGE = 0
    DEPENDENT = 1
    RETRY = 2
    PERIODIC = 3


class RequeueReason(StrEnum):
    """The reason for which a CR comes again by itself."""

    PERIOD = "period"
    # The role has asked for it.
    REQUEUE_AFTER = "requeue_after"
    # It was deleted during its run.
    DELETION = "deletion"
    # The last reconcile failed.
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Result:
    """A reconcile's result: requeue after so many seconds; None or 0: only by an event."""

    requeue_after: float | None = None
    # Only the period is spread by jitter; all else has the priority of a retry.
    reason: RequeueReason = RequeueReason.PERIOD


class Taken(Enum):
    """What makes an event of a CR none of its reconciles' concern."""

    DRAINING = "the CR is being let go"
    OLD = "it is from before the CR was let go, or stayed"


class Retry(RolerunnerError):
    """A reconcile that failed, or whose run did: requeue with backoff. `str()` says why, for the log."""
