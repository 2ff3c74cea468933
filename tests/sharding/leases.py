"""The state of a shard, as its Lease tells it.

Next on the way: `tests.sharding.hash_ring`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from runner.resource.metadata import Object

# The identity by which the sharder takes the Lease of a shard that does not renew it.
SHARDER = "shardlease-controller"
# Of a Lease that does not say when it was renewed, and for how long.
_DEFAULT_DURATION = timedelta(seconds=15)
# How long the Lease of a dead shard is kept after it expired.
_KEPT = timedelta(minutes=1)


class State(enum.Enum):
    """A shard is `available` until its Lease was released, or taken by the sharder, which an uncertain one is."""

    READY = "ready"
    EXPIRED = "expired"
    UNCERTAIN = "uncertain"
    DEAD = "dead"
    ORPHANED = "orphaned"

    @property
    def is_available(self) -> bool:
        return self in (State.READY, State.EXPIRED, State.UNCERTAIN)


@dataclass(frozen=True, slots=True)
class Times:
    """When the state of a shard changes, if nobody writes its Lease."""

    duration: timedelta
    expires: datetime

    @classmethod
    def of(cls, lease: Object, now: datetime) -> Times:
        spec = lease.get("spec") or {}
        renewed, seconds = spec.get("renewTime"), spec.get("leaseDurationSeconds")
        if not renewed or not seconds or not spec.get("acquireTime"):
            return cls(_DEFAULT_DURATION, now)
        duration = timedelta(seconds=seconds)
        return cls(duration, datetime.fromisoformat(renewed) + duration)

    @property
    def uncertain(self) -> datetime:
        return self.expires + self.duration

    @property
    def orphaned(self) -> datetime:
        return self.expires + _KEPT


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard at a moment. `changes`: when its state is another unless its Lease is written."""

    name: str
    state: State
    changes: datetime

    @classmethod
    def of(cls, lease: Object, now: datetime) -> Shard:
        name, times = lease["metadata"]["name"], Times.of(lease, now)
        if (lease.get("spec") or {}).get("holderIdentity") != name:
            is_orphaned = now >= times.orphaned
            return cls(name, State.ORPHANED if is_orphaned else State.DEAD, times.orphaned)
        if now >= times.uncertain:
            # What follows is the sharder's to do.
            return cls(name, State.UNCERTAIN, now + times.duration)
        if now >= times.expires:
            return cls(name, State.EXPIRED, times.uncertain)
        return cls(name, State.READY, times.expires)


def is_available(lease: Object | None, now: datetime) -> bool:
    return lease is not None and Shard.of(lease, now).state.is_available


def taken_over(lease: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The Lease of an uncertain shard as the sharder's: whoever held it can renew it no more."""
    spec = lease.get("spec") or {}
    stamp = now.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    taken = {
        "holderIdentity": SHARDER,
        "leaseDurationSeconds": 2 * round(Times.of(lease, now).duration.total_seconds()),
        "acquireTime": stamp,
        "renewTime": stamp,
        "leaseTransitions": (spec.get("leaseTransitions") or 0) + 1,
    }
    return {**lease, "spec": {**spec, **taken}}
