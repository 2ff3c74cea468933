"""The Lease that a process holds while it works: taken, renewed, lost, released. One of several replicas leads by it, and a
shard is in its ring by one of its own.

The rules are those of client-go's leaderelection. The official client's `kubernetes.aio.leaderelection` is not used, as it
ends on a network error, lets a hanging request outlive the deadline, counts by the wall clock and never releases.

Why there are never two leaders: a replica takes a Lease only after it saw no change of it for as long as the Lease says, by
its own clock; the leader has ended its work `renew_deadline` after it *sent* its last successful renewal, which no one can
have seen sooner; and of two writes at once, the API server refuses the one that was not made from the latest state.

The leader's Lease has one more thing to say, in an annotation: where its dashboard is (`runner.dashboard.leader`).

A shard's Lease has the shard's name, and that has to be the holder's as well. An annotation says which process of that name
holds it: there may be two, as when a pod is replaced whose node cannot be reached. A shard whose Lease was taken by the
sharder, emptied or deleted has lost it, since its CRs are moved then.

`runner.leadership` ends the process that loses.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn

from runner.config.settings import Election
from runner.errors import ConfigurationError, RolerunnerError
from runner.json_codec import JsonMapping
from runner.kube import events
from runner.kube.client import ApiClient, Conflict, KubeError, NotFound, Refused, Unreadable, in_cluster_namespace
from runner.logs import Once
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey, Owner, annotations_of
from runner.resource.sharding import RING_LABEL, Shard

logger = logging.getLogger(__name__)

LEASE = GroupVersionKind("coordination.k8s.io", "v1", "Lease")

# On a shard's Lease: the process that holds it, of those that have the shard's name.
INSTANCE = "rolerunner.io/instance"
# On a leader's: what its dashboard says to the replicas that wait.
DASHBOARD = "rolerunner.io/dashboard"

# Seconds between two attempts, or, where the deadline is short, this share of it. client-go's default.
_RETRY_PERIOD, _RETRY_SHARE = 2.0, 0.2

# A Lease's `spec`.
Spec = JsonMapping


class Lost(RolerunnerError):
    """The Lease is not this process's any more; `str()` says why."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The spec of the Lease, and when this process first saw it so, by its monotonic clock.

    `instance`: the process among those with the holder's identity, if there may be several.
    """

    spec: Spec
    at: float
    instance: str = ""

    @property
    def holder(self) -> str:
        return holder(self.spec.get("holderIdentity") or "", self.instance)


def holder(identity: str, instance: str = "") -> str:
    """A holder's name for comparison, and for the log."""
    return f"{identity} ({instance})" if identity and instance else identity


def may_take(seen: Seen | None, identity: str, *, now: float, lease_duration: float, waits: bool = False) -> bool:
    """True if the holder `identity` may take the Lease; `lease_duration` counts where the Lease names none.

    With `waits`, one that was released has to be waited out as well.

    A Lease that was deleted is still its last holder's until it would have expired: that holder may not know yet.
    """
    if seen is None or seen.holder == identity:
        return True
    if not seen.holder:
        return not waits or now - seen.at >= lease_duration
    return now - seen.at >= (seen.spec.get("leaseDurationSeconds") or lease_duration)


def claimed(spec: Spec, identity: str, *, now: datetime, lease_duration: float) -> Spec:
    """The spec by which `identity` takes or renews the Lease that says `spec` (empty for a new one)."""
    stamp = _micro_time(now)
    # Whole seconds are all that a Lease can say. Rounded up, the others wait too long rather than too short.
    claim = {**spec, "holderIdentity": identity, "leaseDurationSeconds": math.ceil(lease_duration), "renewTime": stamp}
    if spec.get("holderIdentity") == identity:
        return claim
    transitions = (spec.get("leaseTransitions") or 0) + 1 if spec else 0
    return {**claim, "acquireTime": stamp, "leaseTransitions": transitions}


def released(spec: Spec, *, now: datetime) -> Spec:
    """The spec that lets the next one take the Lease at once."""
    stamp = _micro_time(now)
    return {**spec, "holderIdentity": "", "leaseDurationSeconds": 1, "acquireTime": stamp, "renewTime": stamp}


def retry_period(renew_deadline: float) -> float:
    return min(_RETRY_PERIOD, renew_deadline * _RETRY_SHARE)


def namespace_of(election: Election, flag: str = "--leader-elect") -> str:
    """The namespace of the Lease, which `flag` asks for. Raises ConfigurationError."""
    namespace = election.namespace or in_cluster_namespace()
    if not namespace:
        raise ConfigurationError(
            f"{flag}: outside a pod the Lease's namespace is not known; name it with --leader-election-namespace"
        )
    return namespace


class Elector:
    """A candidate for the Lease: acquires, renews and releases it.

    Each time the Lease is taken or renewed, `hold` is called with the time (of `clock`) at which this process must have
    stopped its work unless `hold` is called again. Seeing to that is the caller's part.
    """

    def __init__(
        self,
        client: ApiClient,
        election: Election,
        *,
        shard: Shard | None = None,
        hold: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`shard`: whose Lease it is; None for the leader's. Raises ConfigurationError."""
        self.identity = shard.name if shard else f"{socket.gethostname()}_{uuid.uuid4()}"
        self._shard = shard
        self._instance = str(uuid.uuid4()) if shard else ""
        self._self = holder(self.identity, self._instance)
        # Since it was first acquired.
        self._acquired = False
        self.name = election.name
        self.namespace = namespace_of(election, "--controller-ring" if shard else "--leader-elect")
        self._client = client
        self._election = election
        self._hold = hold
        self._clock = clock
        self._collection = f"/apis/{LEASE.api_version}/namespaces/{self.namespace}/leases"
        self._path = f"{self._collection}/{self.name}"
        self._seen: Seen | None = None
        # Of the Lease as last read or written, None where there is none; stale after a failed write.
        self._metadata: JsonMapping | None = None
        self._stale = True
        # Whether a Lease may stand that names this process.
        self._may_hold = False
        self._trouble = Once(limit=1)
        self._advertises: Callable[[], str] = lambda: ""

    def advertise(self, text: Callable[[], str]) -> None:
        """Have the leader's Lease say this of its dashboard whenever it is taken or renewed; empty for nothing."""
        self._advertises = text

    async def acquire(self) -> None:
        """Wait until this process holds the Lease."""
        told = ""
        while not await self._attempt():
            if self.holder != told:
                told = self.holder
                logger.info("Waiting for the lease", extra={**self.fields, "holder": told})
            await self._pause()
        self._acquired = True
        if self._shard:
            logger.info("In the ring", extra={**self.fields, "ring": self._shard.ring, "shard": self._shard.name})
        else:
            logger.info("Leading", extra={**self.fields, "identity": self.identity})

    async def announce(self) -> None:
        """Post the Event that client-go posts of a new leader, or one of a new shard."""
        assert self._metadata is not None
        owner = Owner(LEASE, ObjectKey(self.namespace, self.name), self._metadata.get("uid", ""))
        action, reason, note = "Lead", "LeaderElection", f"{self.identity} became leader"
        if self._shard:
            action, reason, note = "Join", "ControllerRing", f"{self.identity} is a shard of {self._shard.ring}"
        await events.post(self._client, owner, type="Normal", action=action, reason=reason, note=note)

    async def keep(self) -> NoReturn:
        """Renew until cancelled. Raises Lost when another has it; failing to renew is for the caller of `hold` to notice."""
        while True:
            await self._pause()
            if not await self._attempt() and self.holder not in ("", self._self):
                raise Lost(f"the lease is held by {self.holder}")

    async def release(self) -> None:
        """Release the Lease, so that another may work at once. Should this fail, the Lease expires."""
        if not self._may_hold:
            return
        try:
            async with asyncio.timeout(self._election.renew_deadline / 2):
                # What is known may be older than a renewal that was cut short.
                await self._look()
                if self._seen and self._metadata and self.holder == self._self:
                    await self._write(released(self._seen.spec, now=datetime.now(UTC)))
                    logger.info("The lease is released", extra=self.fields)
        except (KubeError, TimeoutError) as error:
            logger.info("The lease could not be released", extra={**self.fields, "reason": _reason(error)})

    @property
    def holder(self) -> str:
        """The holder as last seen; empty if there is none."""
        return self._seen.holder if self._seen else ""

    @property
    def advertised(self) -> str:
        """What the Lease says of the dashboard of its holder; empty if that is nobody, or this process."""
        if self._metadata is None or self.holder in ("", self._self):
            return ""
        text = annotations_of({"metadata": self._metadata}).get(DASHBOARD)
        return text if isinstance(text, str) else ""

    @property
    def fields(self) -> dict[str, str]:
        return {"lease": f"{self.namespace}/{self.name}"}

    async def _pause(self) -> None:
        await asyncio.sleep(retry_period(self._election.renew_deadline))

    async def _attempt(self) -> bool:
        """Take or renew the Lease if that is allowed; True if this process holds it then. A problem is logged once. Raises
        Lost."""
        try:
            async with asyncio.timeout(self._election.renew_deadline / 2):
                leads = await self.step()
        except (KubeError, TimeoutError) as error:
            self._log_trouble(error)
            return False
        self._trouble.reset()
        return leads

    async def step(self) -> bool:
        """As `_attempt`, but raises KubeError."""
        if not self._stale:
            # The leader's usual case is a single request: nothing has happened since the last.
            try:
                return await self._claim()
            except (Conflict, NotFound):
                pass
        await self._look()
        if self._shard and self._acquired and (self._metadata is None or self.holder != self._self):
            # Its CRs have been moved to other shards, or are just being moved.
            raise Lost(
                f"the lease is held by {self.holder}" if self._metadata and self.holder else "the lease was taken away"
            )
        lease_duration = self._election.lease_duration
        # The CRs of a shard that released its Lease are just being moved, and not drained.
        waits = self._shard is not None and self._metadata is not None
        if not may_take(self._seen, self._self, now=self._clock(), lease_duration=lease_duration, waits=waits):
            return False
        try:
            return await self._claim()
        except Conflict:
            # Another was faster.
            return False

    async def _look(self) -> None:
        try:
            self._take_in(await self._client.get(self._path))
        except NotFound:
            # What was seen stays as it is: see may_take.
            self._metadata = None

    async def _claim(self) -> bool:
        self._stale, self._may_hold = True, True
        spec = claimed(
            self._seen.spec if self._seen and self._metadata else {},
            self.identity,
            now=datetime.now(UTC),
            lease_duration=self._election.lease_duration,
        )
        until = self._clock() + self._election.renew_deadline
        await self._write(spec)
        if self._clock() >= until:
            # This process was held up so long that there is nothing left to begin on.
            return False
        self._hold(until)
        self._stale = False
        return True

    async def _write(self, spec: Spec) -> None:
        lease = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "spec": spec}
        # Those of a Lease that is there have the resourceVersion: the API server refuses this if it has changed since.
        metadata = {"name": self.name, **(self._metadata or {})}
        if self._shard:
            for field, name, value in (
                ("labels", RING_LABEL, self._shard.ring),
                ("annotations", INSTANCE, self._instance),
            ):
                metadata[field] = {**(metadata.get(field) or {}), name: value}
        else:
            # Nothing is left of what an earlier leader had it say.
            known = annotations_of({"metadata": metadata})
            annotations = {name: value for name, value in known.items() if name != DASHBOARD}
            if spec["holderIdentity"] and (text := self._advertises()):
                annotations[DASHBOARD] = text
            metadata["annotations"] = annotations
        if self._metadata is None:
            self._take_in(await self._client.post(self._collection, {**lease, "metadata": metadata}))
        else:
            self._take_in(await self._client.put(self._path, {**lease, "metadata": metadata}))

    def _take_in(self, lease: Object) -> None:
        metadata, spec = lease.get("metadata"), lease.get("spec") or {}
        if not isinstance(metadata, Mapping) or not isinstance(spec, Mapping):
            # Of something between here and the API server.
            raise Unreadable("the answer is no Lease")
        self._metadata = metadata
        # Whoever takes the Lease from a shard leaves its annotation there.
        is_shard = self._shard is not None and spec.get("holderIdentity") == self._shard.name
        instance = annotations_of(lease).get(INSTANCE, "") if is_shard else ""
        if self._seen is None or (self._seen.spec, self._seen.instance) != (spec, instance):
            self._seen = Seen(spec, self._clock(), instance)

    def _log_trouble(self, error: Exception) -> None:
        reason = _reason(error)
        if not self._trouble.is_new(reason):
            return
        extra = {**self.fields, "reason": reason}
        if isinstance(error, Refused):
            remedy = f"allow get, create and update of leases (coordination.k8s.io) in the namespace {self.namespace}"
            extra["remedy"] = remedy
        logger.warning("The lease can neither be taken nor renewed for now", extra=extra)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _micro_time(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
