"""Who may lead, and for how long; at last, with everything going wrong that can."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from bench.driver import until
from runner.config.settings import Election
from runner.errors import ConfigurationError
from runner.kube.client import ApiClient, Conflict, KubeError, NotFound, Refused, Unreachable, Unreadable
from runner.kube.lease import (
    DASHBOARD,
    INSTANCE,
    Elector,
    Lost,
    Seen,
    claimed,
    may_take,
    namespace_of,
    released,
    retry_period,
)
from runner.resource.sharding import RING_LABEL, Shard

ELECTION = Election(name="it", namespace="here", lease_duration=15.0, renew_deadline=10.0)
# Not in UTC: what is written has to be.
NOW = datetime(2026, 1, 2, 5, 4, 5, 678, tzinfo=timezone(timedelta(hours=2)))
STAMP = "2026-01-02T03:04:05.000678Z"


async def nothing() -> None:
    pass


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


class Server(ApiClient):
    """Keeps one Lease as an API server does. `before` and `after` are awaited around each write."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.asked: list[str] = []
        self.before: Callable[[], Awaitable[None]] = nothing
        self.after: Callable[[], Awaitable[None]] = nothing
        self._version = 0

    @property
    def spec(self) -> dict[str, Any]:
        assert self.lease is not None
        spec: dict[str, Any] = self.lease["spec"]
        return spec

    async def get(self, path: str, params: Any = None) -> dict[str, Any]:
        assert path == "/apis/coordination.k8s.io/v1/namespaces/here/leases/it"
        self.asked.append("get")
        if self.lease is None:
            raise NotFound(404, "leases it not found")
        return self.lease

    async def post(self, path: str, body: Any) -> dict[str, Any]:
        self.asked.append("post")
        await self.before()
        if self.lease is not None:
            raise Conflict(409, "leases it already exists")
        return await self._store(body)

    async def put(self, path: str, body: Any) -> dict[str, Any]:
        self.asked.append("put")
        await self.before()
        if self.lease is None:
            raise NotFound(404, "leases it not found")
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict(409, "the object has been modified")
        return await self._store(body)

    async def _store(self, body: Any) -> dict[str, Any]:
        self._version += 1
        self.lease = {"metadata": {**body["metadata"], "resourceVersion": str(self._version)}, "spec": dict(body["spec"])}
        stored = self.lease
        await self.after()
        return stored


class Replica(Elector):
    """An elector whose leadership is on record."""

    def __init__(
        self, server: ApiClient, clock: Clock, election: Election = ELECTION, *, shard: Shard | None = None
    ) -> None:
        super().__init__(server, election, shard=shard, hold=self._note, clock=clock)
        self.until = 0.0

    def _note(self, until: float) -> None:
        self.until = until


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.mark.parametrize(
    ("spec", "age", "expected"),
    [
        pytest.param(None, 0.0, True, id="no-lease"),
        pytest.param({"holderIdentity": "me", "leaseDurationSeconds": 15}, 0.0, True, id="mine"),
        pytest.param({"holderIdentity": "", "leaseDurationSeconds": 15}, 0.0, True, id="released"),
        pytest.param({}, 0.0, True, id="empty"),
        pytest.param({"holderIdentity": "other", "leaseDurationSeconds": 15}, 14.9, False, id="held"),
        pytest.param({"holderIdentity": "other", "leaseDurationSeconds": 15}, 15.0, True, id="expired"),
        pytest.param({"holderIdentity": "other", "leaseDurationSeconds": 60}, 15.0, False, id="its-duration-not-ours"),
        pytest.param({"holderIdentity": "other"}, 14.9, False, id="held-without-a-duration"),
        pytest.param({"holderIdentity": "other"}, 15.0, True, id="expired-without-a-duration"),
        # What another's clock says does not count.
        pytest.param({"holderIdentity": "other", "renewTime": "1999-01-01T00:00:00.000000Z"}, 1.0, False, id="old-stamp"),
    ],
)
def test_when_a_lease_may_be_taken(spec: dict[str, Any] | None, age: float, expected: bool) -> None:
    seen = None if spec is None else Seen(spec, 100.0)
    assert may_take(seen, "me", now=100.0 + age, lease_duration=15.0) is expected


@pytest.mark.parametrize(
    ("spec", "acquired", "transitions"),
    [
        pytest.param({}, STAMP, 0, id="new"),
        pytest.param({"holderIdentity": "me", "acquireTime": "then", "leaseTransitions": 4}, "then", 4, id="renewed"),
        pytest.param({"holderIdentity": "other", "acquireTime": "then", "leaseTransitions": 4}, STAMP, 5, id="taken"),
        pytest.param({"holderIdentity": "", "acquireTime": "then"}, STAMP, 1, id="released-before"),
    ],
)
def test_what_is_claimed(spec: dict[str, Any], acquired: str, transitions: int) -> None:
    claim = claimed(spec, "me", now=NOW, lease_duration=3.2)
    expected = {"holderIdentity": "me", "leaseDurationSeconds": 4, "renewTime": STAMP}
    # The API server adds what was left out.
    assert {"acquireTime": acquired, "leaseTransitions": transitions, **expected} == claim


def test_what_is_released() -> None:
    spec = {"holderIdentity": "me", "leaseDurationSeconds": 15, "leaseTransitions": 4, "strategy": "kept"}
    assert released(spec, now=NOW) == {
        "holderIdentity": "",
        "leaseDurationSeconds": 1,
        "leaseTransitions": 4,
        "acquireTime": STAMP,
        "renewTime": STAMP,
        "strategy": "kept",
    }


@pytest.mark.parametrize(("deadline", "period"), [(10.0, 2.0), (60.0, 2.0), (5.0, 1.0)])
def test_how_often_it_is_tried(deadline: float, period: float) -> None:
    assert retry_period(deadline) == period


def test_the_namespace_is_needed_outside_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Election(name="it", namespace="", lease_duration=15.0, renew_deadline=10.0)
    monkeypatch.setenv("POD_NAMESPACE", "")
    with pytest.raises(ConfigurationError, match="--leader-election-namespace"):
        namespace_of(nowhere)
    with pytest.raises(ConfigurationError, match=r"^--controller-ring: outside a pod"):
        namespace_of(nowhere, "--controller-ring")
    monkeypatch.setenv("POD_NAMESPACE", "pods")
    assert namespace_of(nowhere) == "pods"
    assert namespace_of(ELECTION) == "here"


async def test_the_first_leads_and_the_second_does_not(server: Server, clock: Clock) -> None:
    first, second = Replica(server, clock), Replica(server, clock)
    assert await first.step()
    assert not await second.step()
    assert (server.spec["holderIdentity"], server.spec["leaseTransitions"]) == (first.identity, 0)
    assert second.until == 0.0


async def test_leading_is_counted_from_when_the_renewal_was_sent(server: Server, clock: Clock) -> None:
    async def slow() -> None:
        clock.time += 3

    server.before = server.after = slow
    replica = Replica(server, clock)
    assert await replica.step()
    assert replica.until == 100 + ELECTION.renew_deadline
    assert await replica.step()
    assert replica.until == 106 + ELECTION.renew_deadline


async def test_an_answer_that_comes_after_the_deadline_makes_no_leader(server: Server, clock: Clock) -> None:
    async def paused() -> None:
        clock.time += ELECTION.renew_deadline

    server.after = paused
    replica = Replica(server, clock)
    assert not await replica.step()
    assert replica.until == 0.0
    server.after = nothing
    assert await replica.step()
    assert replica.until == 110 + ELECTION.renew_deadline


async def test_a_renewal_is_one_request(server: Server, clock: Clock) -> None:
    replica = Replica(server, clock)
    await replica.step()
    server.asked.clear()
    assert await replica.step()
    assert server.asked == ["put"]


async def test_a_change_by_a_third_party_does_not_end_a_leader(server: Server, clock: Clock) -> None:
    replica = Replica(server, clock)
    await replica.step()
    assert server.lease is not None
    server.lease["metadata"] = {**server.lease["metadata"], "resourceVersion": "elsewhere", "labels": {"a": "b"}}
    assert await replica.step()
    assert server.lease["metadata"]["labels"] == {"a": "b"}


async def test_a_leader_tells_the_others_of_its_dashboard_for_as_long_as_it_leads(server: Server, clock: Clock) -> None:
    first, second, third = Replica(server, clock), Replica(server, clock), Replica(server, clock)
    third.advertise(lambda: "third's")
    assert second.advertised == ""
    said = ""
    first.advertise(lambda: said)
    for said in ("first's", "", "first's, with a new certificate"):
        assert await first.step()
        assert not await second.step()
        assert (first.advertised, second.advertised) == ("", said)
    await first.release()
    assert server.lease is not None
    assert server.lease["metadata"]["annotations"] == {}
    # One that has nothing to say has the Lease say nothing.
    assert await second.step()
    assert (second.advertised, server.lease["metadata"]["annotations"]) == ("", {})
    await second.release()
    assert await third.step()
    await second.step()
    assert second.advertised == "third's"


@pytest.mark.parametrize("annotations", [None, {}, [], "text", 5, {DASHBOARD: None}, {DASHBOARD: 5}, {DASHBOARD: ["x"]}])
async def test_what_others_write_into_the_annotations_ends_no_election(
    server: Server, clock: Clock, annotations: Any
) -> None:
    first, second = Replica(server, clock), Replica(server, clock)
    first.advertise(lambda: "first's")
    await first.step()
    assert server.lease is not None
    server.lease["metadata"] = {**server.lease["metadata"], "annotations": annotations}
    assert not await second.step()
    assert second.advertised == ""
    assert await first.step()
    assert server.lease["metadata"]["annotations"] == {DASHBOARD: "first's"}


async def test_a_shard_tells_nobody_of_its_dashboard(server: Server, clock: Clock) -> None:
    replica = Replica(server, clock, shard=Shard("ring", "it"))
    replica.advertise(lambda: "mine")
    assert await replica.step()
    assert server.lease is not None
    assert set(server.lease["metadata"]["annotations"]) == {INSTANCE}


async def test_a_lease_that_is_not_renewed_is_taken(server: Server, clock: Clock) -> None:
    first, second = Replica(server, clock), Replica(server, clock)
    await first.step()
    assert not await second.step()
    clock.time += 14
    await first.step()
    assert not await second.step()
    clock.time += 14
    assert not await second.step()
    clock.time += 1
    assert await second.step()
    assert (server.spec["holderIdentity"], server.spec["leaseTransitions"]) == (second.identity, 1)


async def test_whoever_comes_late_does_not_take_an_old_stamp_for_an_expired_lease(server: Server, clock: Clock) -> None:
    first, second = Replica(server, clock), Replica(server, clock)
    await first.step()
    clock.time += 1000
    assert not await second.step()
    clock.time += 15
    assert await second.step()


async def test_a_deleted_lease_is_made_again_by_its_holder(server: Server, clock: Clock) -> None:
    first, second = Replica(server, clock), Replica(server, clock)
    await first.step()
    await second.step()
    server.lease = None
    assert not await second.step()
    assert await first.step()
    assert not await second.step()
    server.lease = None
    clock.time += 15
    assert await second.step()
    assert server.spec["leaseTransitions"] == 0


async def test_of_two_that_take_it_at_once_one_leads(server: Server, clock: Clock) -> None:
    first, second = Replica(server, clock), Replica(server, clock)

    async def the_other() -> None:
        server.before = nothing
        assert await second.step()

    server.before = the_other
    assert not await first.step()
    assert server.spec["holderIdentity"] == second.identity


async def test_released_it_is_taken_at_once(server: Server, clock: Clock) -> None:
    first, second = Replica(server, clock), Replica(server, clock)
    await first.step()
    assert not await second.step()
    await first.release()
    assert server.spec["holderIdentity"] == ""
    assert await second.step()
    assert server.spec["leaseTransitions"] == 1
    # Whose it is not any more, has nothing to release.
    await first.release()
    assert server.spec["holderIdentity"] == second.identity


async def test_what_may_have_been_taken_is_released(server: Server, clock: Clock) -> None:
    async def unheard() -> None:
        raise Unreachable("connection reset")

    server.after = unheard
    replica = Replica(server, clock)
    with pytest.raises(Unreachable):
        await replica.step()
    server.after = nothing
    await replica.release()
    assert server.spec["holderIdentity"] == ""


async def test_one_that_never_led_releases_nothing(server: Server, clock: Clock) -> None:
    await Replica(server, clock).release()
    assert server.asked == []


async def test_a_release_that_fails_is_told_and_nothing_else(
    server: Server, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    replica = Replica(server, clock)
    await replica.step()

    async def away() -> None:
        raise Unreachable("connection refused")

    server.before = away
    with caplog.at_level(logging.INFO):
        await replica.release()
    assert [(record.message, record.__dict__["reason"]) for record in caplog.records] == [
        ("The lease could not be released", "connection refused")
    ]


HASTY = Election(name="it", namespace="here", lease_duration=15.0, renew_deadline=0.05)


async def test_a_leader_goes_on_through_trouble_and_ends_when_another_leads(server: Server, clock: Clock) -> None:
    leader = Replica(server, clock, HASTY)
    await leader.acquire()
    troubles: list[Exception] = [Unreachable("no answer"), Conflict(409, "modified"), KubeError("odd")]

    async def trouble() -> None:
        if troubles:
            raise troubles.pop()
        # Time passes for this one alone: it holds on too long, and another takes over.
        server.before = nothing
        other = Replica(server, clock)
        await other.step()
        clock.time += 15
        assert await other.step()

    server.before = trouble
    async with asyncio.timeout(60):
        with pytest.raises(Lost, match=r"held by .+_.+"):
            await leader.keep()
    assert troubles == []
    assert server.spec["leaseTransitions"] == 1


@pytest.mark.parametrize("answer", [{}, {"metadata": []}, {"metadata": {}, "spec": "x"}], ids=str)
async def test_an_answer_that_is_no_lease_is_trouble(answer: dict[str, Any], clock: Clock) -> None:
    class Portal(Server):
        async def get(self, path: str, params: Any = None) -> dict[str, Any]:
            return answer

    with pytest.raises(Unreadable, match="is no Lease"):
        await Replica(Portal(), clock).step()


async def test_a_hanging_request_is_given_up(server: Server, clock: Clock) -> None:
    leader = Replica(server, clock, HASTY)
    await leader.acquire()
    asked = len(server.asked)
    never = asyncio.Event()

    async def hang() -> None:
        await never.wait()

    server.before = hang

    async def tried_thrice() -> bool:
        return server.asked[asked:].count("put") >= 3

    keeping = asyncio.create_task(leader.keep())
    await until(tried_thrice, "it is tried again")
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping


async def test_missing_rights_are_told_once_with_the_remedy_and_waited_for(
    server: Server, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    left = 3

    async def refuse() -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise Refused(403, "leases is forbidden")

    server.before = refuse
    with caplog.at_level(logging.INFO):
        await Replica(server, clock, HASTY).acquire()
    (trouble,) = [record.__dict__ for record in caplog.records if record.levelno == logging.WARNING]
    assert trouble["message"] == "The lease can neither be taken nor renewed for now"
    assert trouble["reason"] == "leases is forbidden"
    assert trouble["remedy"] == "allow get, create and update of leases (coordination.k8s.io) in the namespace here"
    assert left < 0


async def test_whoever_waits_says_for_whom(server: Server, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    first = Replica(server, clock)
    await first.step()
    second = Replica(server, clock, HASTY)

    async def looked_often() -> bool:
        return server.asked.count("get") >= 5

    with caplog.at_level(logging.INFO):
        waiting = asyncio.create_task(second.acquire())
        await until(looked_often, "it waits")
        await first.release()
        await waiting
    assert [record.message for record in caplog.records] == ["Waiting for the lease", "The lease is released", "Leading"]
    assert caplog.records[0].__dict__["holder"] == first.identity


class Storm:
    """Some replicas at one Lease, and chance: pauses, lost requests and answers, restarts, releases.

    Whenever one begins or goes on to lead, it is checked that no other still does.
    """

    TIGHT = Election(name="it", namespace="here", lease_duration=15.0, renew_deadline=14.9)

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.server = Server()
        self.server.before = self.server.after = self.meanwhile
        self.replicas = [self.replica() for _ in range(3)]
        self.busy: set[Replica] = set()
        self.leaders: set[str] = set()

    def replica(self) -> Replica:
        return Replica(self.server, self.clock, self.TIGHT)

    async def meanwhile(self) -> None:
        """What may happen between a request's way and its answer's."""
        for delay in (0.0, self.chance.choice((0.01, 0.5, 3.0, 12.0))):
            self.clock.time += delay
            if self.chance.random() < 0.3:
                await self.turn()
        if self.chance.random() < 0.15:
            raise Unreachable("lost")

    async def turn(self) -> None:
        idle = [replica for replica in self.replicas if replica not in self.busy]
        if not idle:
            return
        replica = self.chance.choice(idle)
        if 0 < replica.until <= self.clock() or self.chance.random() < 0.02:
            # It has ended itself in time, was killed, or was asked to end; another is started instead.
            self.replicas[self.replicas.index(replica)] = self.replica()
            if self.chance.random() < 0.3:
                await replica.release()
            return
        self.busy.add(replica)
        led = replica.until
        try:
            if await replica.step() and replica in self.replicas:
                self.leaders.add(replica.identity)
                others = [other for other in self.replicas if other is not replica]
                assert all(other.until <= self.clock() for other in others)
            elif led and replica.holder not in ("", replica.identity):
                # Lost: it ends at once.
                replica.until = self.clock()
        except KubeError:
            pass
        finally:
            self.busy.discard(replica)


@pytest.mark.parametrize("seed", range(100))
async def test_never_two_at_once(seed: int) -> None:
    storm = Storm(seed)
    for _ in range(300):
        await storm.turn()
        storm.clock.time += storm.chance.choice((0.1, 2.0, 2.0, 5.0))
    assert len(storm.leaders) > 5


def test_the_stamp_is_utc() -> None:
    stamp = claimed({}, "me", now=datetime.now(UTC), lease_duration=1)["renewTime"]
    assert abs(datetime.fromisoformat(stamp) - datetime.now(UTC)) < timedelta(minutes=5)


SHARD = Shard("ring", "it")


async def test_a_shards_lease_has_its_name_and_its_ring(server: Server, clock: Clock) -> None:
    shard = Replica(server, clock, shard=SHARD)
    await shard.acquire()
    assert server.lease is not None
    assert (server.spec["holderIdentity"], server.lease["metadata"]["labels"]) == ("it", {RING_LABEL: "ring"})
    # The sharder notes there what it thinks of the shard.
    server.lease["metadata"]["labels"]["state"] = "ready"
    server.lease["metadata"]["resourceVersion"] = "9"
    assert await shard.step()
    assert server.lease["metadata"]["labels"] == {RING_LABEL: "ring", "state": "ready"}
    await shard.release()
    assert server.spec["holderIdentity"] == ""


async def test_of_two_processes_with_a_shards_name_one_is_the_shard(server: Server, clock: Clock) -> None:
    first, second = Replica(server, clock, shard=SHARD), Replica(server, clock, shard=SHARD)
    await first.acquire()
    assert not await second.step()
    for _ in range(4):
        clock.time += 10
        assert await first.step()
        assert not await second.step()
    clock.time += 15
    assert await second.step()
    with pytest.raises(Lost, match=r"held by it \(.*\)"):
        await first.step()
    # That it ends takes nothing from the other.
    await first.release()
    assert server.spec["holderIdentity"] == "it"


@pytest.mark.parametrize("released", [False, True], ids=["killed", "released: its CRs are just being moved"])
async def test_a_shard_that_is_begun_again_waits_for_the_end_of_its_old_lease(
    server: Server, clock: Clock, released: bool
) -> None:
    old = Replica(server, clock, shard=SHARD)
    await old.acquire()
    if released:
        await old.release()
    again = Replica(server, clock, shard=SHARD)
    assert not await again.step()
    clock.time += 14.9
    assert not await again.step()
    clock.time += 0.1
    assert await again.step()
    assert server.lease is not None
    assert server.lease["metadata"]["annotations"][INSTANCE] == again._instance


@pytest.mark.parametrize("what", ["taken by the sharder", "emptied", "deleted"])
async def test_a_shard_never_takes_its_lease_back(server: Server, clock: Clock, what: str) -> None:
    shard = Replica(server, clock, shard=SHARD)
    await shard.acquire()
    assert server.lease is not None
    if what == "deleted":
        server.lease = None
    else:
        holder = "" if what == "emptied" else "sharder"
        metadata = {**server.lease["metadata"], "resourceVersion": "9"}
        server.lease = {"metadata": metadata, "spec": {**server.spec, "holderIdentity": holder}}
    with pytest.raises(Lost):
        await shard.step()
    # Another process of its name may, when the Lease is free again.
    clock.time += 30
    again = Replica(server, clock, shard=SHARD)
    assert await again.step() is (what == "deleted")
    clock.time += 30
    assert await again.step()
