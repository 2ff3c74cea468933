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
from tests.chaos.world import CONFIG_MAP, GROUP, THING, Failed, logged, marked
from tests.sharding import setup
from tests.sharding.owners import Owners

RING = "chaos"
SHARDS = 4
# Long enough for a machine on which everything happens at once, and too short to wait for.
_LEASE_FLAGS = ("--leader-elect-lease-duration=6s", "--leader-elect-renew-deadline=4s")


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
        self._sharder = setup.start(self.world.kubeconfig, logs, executable=self.world.sharder, name=name)

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
            *_LEASE_FLAGS,
            runs=self.world.folder / f"runs-{name}",
        )
        self.shards[name] = operator
        self.owners.works(name)
        return name

    async def busy(self) -> str:
        """A shard with CRs, while there are runs."""
        await self.world.a_run()
        return self.world.chance.choice([name for name in sorted(self.shards) if self.owners.of(name)])

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
    await killed(ring.the, ring.lose(await ring.busy()))
    await ring.all_owned()
    await ring.add()


async def replace(ring: Ring) -> None:
    """SIGKILL; it is started again under its name, as a StatefulSet has it, and waits for its own Lease."""
    name = await ring.busy()
    await killed(ring.the, ring.lose(name))
    await ring.add(name)


async def scale(ring: Ring) -> None:
    """One more shard, to which CRs are drained; then another ends gracefully, and its CRs are moved."""
    await ring.add()
    await ring.all_owned()
    operator = ring.lose(await ring.busy())
    ring.world.operators.remove(operator)
    operator.process.send_signal(signal.SIGTERM)
    if (code := await _ended(operator)) != 0:
        raise Failed(f"a shard that was asked to end did so with exit code {code}: {operator.log.name}")


async def pause(ring: Ring) -> None:
    """SIGSTOP for all of a shard's processes, as of a machine that hangs, until its CRs are others', and SIGCONT."""
    name = await ring.busy()
    operator = ring.lose(name)
    ring.world.operators.remove(operator)
    mark = ring.world.mark(operator)
    ring.world.paused.add(mark)
    pids = operator.processes()
    try:
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        await ring.all_owned()
        await ring.world.a_run()
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
    await killed(ring.the, ring.lose(await ring.busy()))
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


FAULTS: tuple[Fault, ...] = (kill, scale, pause, replace, unsharded)


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
        async for number in the.rounds(20, short=3):
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
