"""The state of a shard follows from its Lease and the time."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sharding.leases import SHARDER, Shard, State, is_available, taken_over

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def lease(holder: str | None = "a", *, age: float = 0, duration: int | None = 10) -> dict[str, Any]:
    stamp = (NOW - timedelta(seconds=age)).isoformat().replace("+00:00", "Z")
    spec = {"holderIdentity": holder, "leaseDurationSeconds": duration, "acquireTime": stamp, "renewTime": stamp}
    return {"metadata": {"name": "a"}, "spec": spec}


@pytest.mark.parametrize(
    ("given", "state", "changes"),
    [
        pytest.param(lease(age=2), State.READY, 8, id="renewed"),
        pytest.param(lease(age=10), State.EXPIRED, 10, id="expired"),
        pytest.param(lease(age=20), State.UNCERTAIN, 10, id="expired twice over"),
        pytest.param(lease("", age=2, duration=1), State.DEAD, 59, id="released"),
        pytest.param(lease(None, age=2, duration=1), State.DEAD, 59, id="released as null"),
        pytest.param(lease(SHARDER, duration=20), State.DEAD, 80, id="taken over"),
        pytest.param(lease("b"), State.DEAD, 70, id="another's"),
        pytest.param(lease("", age=61, duration=1), State.ORPHANED, 0, id="released for a minute"),
        pytest.param(lease(duration=None), State.EXPIRED, 15, id="without a duration"),
        pytest.param({"metadata": {"name": "a"}}, State.DEAD, 60, id="without a spec"),
    ],
)
def test_a_shards_state(given: dict[str, Any], state: State, changes: float) -> None:
    shard = Shard.of(given, NOW)
    assert (shard.state, (shard.changes - NOW).total_seconds()) == (state, changes)
    assert is_available(given, NOW) == (state in (State.READY, State.EXPIRED, State.UNCERTAIN))


def test_no_lease_is_no_shard() -> None:
    assert not is_available(None, NOW)


def test_a_lease_that_is_taken_over_is_dead_and_keeps_the_rest() -> None:
    taken = taken_over({**lease(age=20), "kind": "Lease"}, NOW)
    assert Shard.of(taken, NOW).state is State.DEAD
    assert taken["kind"] == "Lease"
    assert taken["spec"] == {
        **{"holderIdentity": SHARDER, "leaseDurationSeconds": 20, "leaseTransitions": 1},
        **{"acquireTime": "2026-06-01T12:00:00.000000Z", "renewTime": "2026-06-01T12:00:00.000000Z"},
    }
