"""Shards that come and go, are killed and paused, while CRs are edited: each CR has one shard, and is run by no other.

With --sharder the sharder itself assigns the CRs, otherwise the stand-in of `tests.sharding`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from bench.driver import Operator, until
from runner.kube.lease import LEASE
from runner.resource.metadata import Object, ObjectKey, labels_of
from tests.chaos import oracle
from tests.chaos.kills import PATIENCE, killed
from tests.chaos.scenario import Scenario, scenario
from tests.chaos.world import CONFIG_MAP, GROUP, LEASE_FLAGS, THING, Failed, logged, marked
from tests.sharding import SYNC_PERIOD, setup
from tests.sharding.owners import Owners

RING = "chaos"
SHARDS = 4
_RUNS_OF_A_SHARD = 2
# Seconds for which a run goes on in which its shard is harmed, and one that is on when a shard comes.
_DELAY, _LONG_DELAY = 3, 10


class Ring:
    """The shards, the sharder, and what is known of the CRs by watching them."""

    def __init__(self, the: Scenario) -> None:
        self.the = the
        self.world = the.world
        self.owners = Owners(RING)
        self.shards: dict[str, Operator] = {}
        self._names = (f"shard-{number}" for number in itertools.count())
        self._sharder: Operator | None = None
        self._sharders = 0
        # By ConfigMap, the latest value that it has ever had, and those that came after a later one.
        self._latest: dict[str, int] = {}
        self._stale: list[str] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, the: Scenario) -> AsyncIterator[Ring]:
        """A ring with as many shards as there are to be, all at work."""
        ring, world = cls(the), the.world
        kinds = {f"things.{GROUP}": ("configmaps",), f"troubles.{GROUP}": ()}
        await setup.install(world.cluster, RING, kinds, crds=world.sharder_crds)
        things = world.cluster.following(THING, world.namespace, ring._thing_changed)
        maps = world.cluster.following(CONFIG_MAP, world.namespace, ring._map_changed)
        try:
            async with things, maps:
                ring.start_sharder()
                await setup.ready(world.cluster, RING)
                for _ in range(SHARDS):
                    await ring.add()
                await ring.all_owned()
                yield ring
        finally:
            if ring._sharder is not None:
                ring._sharder.kill()
            await setup.uninstall(world.cluster, RING)
            for lease in await world.cluster.list(LEASE, world.namespace):
                await world.cluster.delete(LEASE, ObjectKey.of(lease))

    def _thing_changed(self, before: Object | None, after: Object | None) -> None:
        name = (after or before or {})["metadata"]["name"]
        if name in self.world.names:
            self.owners.saw(name, None if after is None else labels_of(after))

    def _map_changed(self, before: Object | None, after: Object | None) -> None:
        """Values of a CR only grow: an earlier one is written by a run that should not be there any more."""
        value = ((after or {}).get("data") or {}).get("value", "")
        if after is not None and value.isdecimal():
            name = after["metadata"]["name"]
            latest = self._latest.get(name, 0)
            if int(value) < latest:
                self._stale.append(f"the ConfigMap of {name} went from {latest} to {value}")
            self._latest[name] = max(latest, int(value))

    def start_sharder(self) -> None:
        self._sharders += 1
        logs, name = self.world.folder / "logs", f"sharder-{self._sharders}"
        self._sharder = setup.start(
            self.world.kubeconfig, logs, executable=self.world.sharder, sync_period=SYNC_PERIOD, name=name
        )

    def kill_sharder(self) -> None:
        assert self._sharder is not None
        self._sharder.kill()

    async def add(self, name: str = "") -> str:
        """Start one more shard, or one again; it is at work."""
        name = name or next(self._names)
        operator = await self.world.start(
            f"--controller-ring={RING}",
            f"--shard-name={name}",
            f"--leader-election-namespace={self.world.namespace}",
            *LEASE_FLAGS,
            runs=self.world.folder / f"runs-{name}",
        )
        self.shards[name] = operator
        self.owners.works(name)
        return name

    async def busy(self) -> tuple[str, str]:
        """A shard in the midst of a run, and the uid of the CR, which was changed since."""
        world = self.world
        name = world.chance.choice([name for name in sorted(self.shards) if self.owners.of(name)])
        cr = world.chance.choice(sorted(self.owners.of(name)))
        size = len(world.journal())
        uid = await self._delay(cr, _DELAY)
        await self.begun(uid, size)
        await self._delay(cr, None)
        return name, uid

    @contextlib.asynccontextmanager
    async def long_runs(self) -> AsyncIterator[None]:
        """In each shard there are runs, longer than it takes another to come: some of their CRs are to be let go then."""
        size = len(self.world.journal())
        names = [name for shard in self.shards for name in sorted(self.owners.of(shard))[-_RUNS_OF_A_SHARD:]]
        changed = [await self._delay(name, _LONG_DELAY) for name in names]

        async def begun() -> bool:
            return len({words[1] for words in self.world.journal()[size:] if words[0] == "begun"} & set(changed)) >= SHARDS

        await until(begun, "long runs have begun", patience=PATIENCE)
        yield
        for name in names:
            await self._delay(name, None)

    async def _delay(self, name: str, seconds: float | None) -> str:
        """Change a CR so that its runs last so much longer; its uid."""
        obj = await self.world.cluster.patch(THING, self.world.key(name), {"spec": {"delay": seconds}})
        return str(obj["metadata"]["uid"])

    async def begun(self, uid: str, since: int) -> None:
        """Wait for a run of a CR, noted after so many notes of the journal."""

        async def found() -> bool:
            return any(words[:2] == ["begun", uid] for words in self.world.journal()[since:])

        await until(found, f"a run of {uid} has begun", patience=PATIENCE)

    def lose(self, name: str) -> Operator:
        """A shard that nobody counts on any more."""
        self.owners.ends(name)
        return self.shards.pop(name)

    async def all_owned(self) -> None:
        """Await that each CR has a shard that works."""

        async def owned() -> bool:
            self.the.alive()
            return not self.owners.unowned

        await until(owned, f"all CRs have a shard; {len(self.owners.unowned)} have none", patience=PATIENCE)

    def unharmed(self) -> None:
        """Raises Failed."""
        if self._stale:
            raise Failed(f"{len(self._stale)} values of runs that should not have been, such as {self._stale[0]}")
        oracle.unharmed(self.world, self.the.outcome)


# What happens in a round. Each leaves as many shards as there were, in the end.
Fault = Callable[[Ring], Awaitable[None]]


async def kill(ring: Ring) -> None:
    """SIGKILL; another takes its place under another name, as a Deployment has it."""
    name, _ = await ring.busy()
    await killed(ring.the, ring.lose(name))
    await ring.all_owned()
    await ring.add()


async def replace(ring: Ring) -> None:
    """SIGKILL; it is started again under its name, as a StatefulSet has it, and waits for its own Lease."""
    name, _ = await ring.busy()
    await killed(ring.the, ring.lose(name))
    await ring.add(name)


async def scale(ring: Ring) -> None:
    """One more shard, to which CRs are drained; then another ends gracefully, and its CRs are moved."""
    async with ring.long_runs():
        await ring.add()
    await ring.all_owned()
    name, _ = await ring.busy()
    operator = ring.lose(name)
    ring.world.operators.remove(operator)
    operator.process.send_signal(signal.SIGTERM)
    if (code := await _ended(operator)) != 0:
        raise Failed(f"a shard that was asked to end did so with exit code {code}: {operator.log.name}")


async def pause(ring: Ring) -> None:
    """SIGSTOP for all of a shard's processes, as of a machine that hangs, until others have run its CRs, and SIGCONT."""
    name, uid = await ring.busy()
    operator = ring.lose(name)
    ring.world.operators.remove(operator)
    mark = ring.world.mark(operator)
    ring.world.paused.add(mark)
    pids = operator.processes()
    try:
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        size = len(ring.world.journal())
        await ring.all_owned()
        await ring.begun(uid, size)
    finally:
        # Its runs first: what they ask for must not be done any more.
        for pid in reversed(pids):
            _signal(pid, signal.SIGCONT)
    if (code := await _ended(operator)) != 1 or not logged(operator, "The shard's lease is lost"):
        raise Failed(f"a shard that has lost its lease ended with exit code {code}: {operator.log.name}")

    async def gone() -> bool:
        return not marked(mark)

    await until(gone, "nothing of the paused shard is left")
    await ring.add()


async def unsharded(ring: Ring) -> None:
    """SIGKILL for the sharder, and one for a shard while there is none."""
    ring.kill_sharder()
    name, _ = await ring.busy()
    await killed(ring.the, ring.lose(name))
    await ring.the.some_time(6)
    ring.start_sharder()
    await ring.all_owned()
    await ring.add()


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def _ended(operator: Operator) -> int:
    async def code() -> tuple[int] | None:
        polled = operator.process.poll()
        return None if polled is None else (polled,)

    return (await until(code, "the shard has ended"))[0]


FAULTS: tuple[Fault, ...] = (scale, pause, kill, replace, unsharded)


@dataclass(slots=True)
class Times:
    """Of the rounds of a fault: seconds that each CR had no shard, and until all edits were served, by round."""

    unowned: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        unowned = f"{len(self.unowned)} times a CR without a shard, for {_range(self.unowned)}"
        return f"{len(self.served)} rounds, {unowned}; all served after {_range(self.served)}"


def _range(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} s (median) to {max(seconds):.1f} s" if seconds else "0 s"


@scenario
async def shards(the: Scenario) -> None:
    """Four shards of a ring: one is killed, replaced, paused, added or ended, with and without a sharder."""
    times: dict[str, Times] = {}
    async with Ring.running(the) as ring:
        async for number in the.rounds(20, short=2):
            fault = FAULTS[number % len(FAULTS)]
            found = times.setdefault(fault.__name__, Times())
            before, begun = len(ring.owners.gaps), time.monotonic()
            async with the.load():
                await fault(ring)
                await ring.all_owned()
            await oracle.served(the.world, the.outcome, patience=PATIENCE)
            found.unowned += ring.owners.gaps[before:]
            found.served.append(time.monotonic() - begun)
            the.outcome.recovery = max(the.outcome.recovery, *found.unowned, 0.0)
            the.alive()
            ring.unharmed()
        await the.settled(PATIENCE)
    the.outcome.notes += [f"{name}: {each}" for name, each in times.items()]
