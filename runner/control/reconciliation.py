"""A reconcile of a CR: the values that its steps share, and access to the CR for all of them.

Next on the way: `runner.control.run`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from time import monotonic, time

from runner import metrics
from runner.config.watches import Watch
from runner.control import Request, Retry
from runner.control.plan import Plan
from runner.control.records import ReconcileRecord, new_ident
from runner.json_codec import encode
from runner.kube.backoff import Backoff
from runner.kube.client import ApiClient, Conflict, NotFound
from runner.kube.discovery import Resource
from runner.resource import parameters
from runner.resource.metadata import Object, Owner
from runner.resource.sharding import Shard

# How often a write is tried against others' writes before it is left to the queue's backoff; seconds before the second
# try, doubled for each further one.
_WRITE_TRIES = 6
_WRITE_PAUSE = 0.05
# Bytes of a CR as JSON, or characters of an event's text, from which work on the whole of it is done in a thread: the
# event loop has the Lease to renew meanwhile.
BIG = 64 * 1024


class Phases:
    """Measures how long the parts of a reconcile take, for the metrics and the reconcile's record."""

    def __init__(self, record: ReconcileRecord) -> None:
        self._record = record
        # By the clock as well, by which requests are found in their phase: a phase begins where the last one ended.
        self._since, self._begun = monotonic(), time()

    def finish(self, name: str) -> None:
        now, at = monotonic(), time()
        metrics.phase(name, now - self._since)
        self._record.finish_phase(name, self._begun, at)
        self._since, self._begun = now, at


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """A reconcile of a CR, from its start to its end."""

    request: Request
    # The request's watch, with the settings that the CR's annotations change.
    watch: Watch
    resource: Resource
    # The CR; another one may have taken its name since.
    owner: Owner
    # The CR is being deleted, and the run is its finalizer's.
    finalizing: bool = False
    # Work on the whole CR is to be done in a thread.
    is_big: bool = False
    # Collects what a dry run would change; None where the run is a real one.
    plan: Plan | None = None
    # The shard that this process is.
    shard: Shard | None = None
    record: ReconcileRecord
    phases: Phases
    # Of its run.
    ident: str = field(default_factory=new_ident)
    # The uids of the objects that the run has written.
    written: set[str] = field(default_factory=set)
    # Hashes of the warnings that there was cause for.
    warnings: set[int] = field(default_factory=set)

    @property
    def path(self) -> str:
        """The CR's path in the API."""
        return self.resource.path(self.request.key)

    def sized(self, obj: Object) -> Reconciliation:
        """The same with `is_big` set. Raises Unusable for a CR that is too large or too deeply nested to be run."""
        parameters.check_size(obj)
        return replace(self, is_big=len(encode(obj, default=str)) > BIG)


async def read(client: ApiClient, reconciliation: Reconciliation) -> Object | None:
    """The CR as it is now; None if it is gone, also if another has taken its name. Raises Retry if it left the shard."""
    try:
        obj = await client.get(reconciliation.path)
    except NotFound as error:
        if not is_cr_not_found(error, reconciliation.request):
            raise Retry(str(error)) from error
        return None
    if obj["metadata"].get("uid") != reconciliation.owner.uid:
        return None
    if reconciliation.shard and not reconciliation.shard.selector.matches(obj):
        # Nothing more is written on it here.
        raise Retry("it is another shard's now")
    return obj


def is_cr_not_found(error: NotFound, request: Request) -> bool:
    """True if it is the CR that was not found, and not its path: a proxy, or a server that is starting, says that."""
    return f'"{request.key.name}" not found' in str(error)


async def retry_on_conflict(
    client: ApiClient,
    reconciliation: Reconciliation,
    obj: Object,
    write: Callable[[Object], Awaitable[Object | None]],
    *,
    what: str,
) -> Object | None:
    """`write` the CR, which is read again after each Conflict; None if it is gone. Raises Retry if there are too many.

    A write has to carry the CR's uid and resourceVersion, so that a write to another CR of its name is a Conflict.
    """
    # With jitter, as others may be trying at the same intervals.
    backoff = Backoff(_WRITE_PAUSE, jitter=0.5)
    for _ in range(_WRITE_TRIES):
        try:
            return await write(obj)
        except Conflict:
            await backoff.pause()
            again = await read(client, reconciliation)
            if again is None:
                return None
            obj = again
    raise Retry(f"{what} written by others at the same time, again and again")
