"""The way of a simulation: shards come and go, CRs are edited, and figures are taken.

Next on the way: `bench.scale.shards`, and `bench.scale.journal`, where the figures are computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.driver import Cluster, Followed, is_done, serving_seconds, until
from bench.scale import journal
from bench.scale.journal import Entry, Gap, Ownership, Reader, RunEvent
from bench.scale.shard import JOURNAL
from bench.scale.shards import KIND, Shards
from devkit.devcluster.cluster import Cluster as Devcluster
from runner.resource.metadata import Object, ObjectKey, labels_of
from runner.resource.sharding import Shard
from tests.sharding import setup

PATIENCE = 3600.0
# At once, when CRs are created or edited.
_CONNECTIONS = 8
# Seconds between two looks.
_INTERVAL = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """All CRs were edited at once. Shares are of the mean; cores are processor seconds a second; memory is a shard's."""

    shards: int
    per_second: float
    shares: list[float]
    shards_cores: float
    api_cores: float | None
    shard_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A shard went or came, and CRs were moved for it.

    `seconds` are from the first that lost its owner to the last that got another. Of the CRs' own seconds,
    these are the least, the median and the most; to the next run they are counted from when the owner was lost.
    """

    name: str
    shards: int
    moved: int
    ideal: float
    seconds: float
    without_owner: tuple[float, float, float]
    next_run: tuple[float, float, float]
    runs_cut: int


class Course:
    """A simulation on a cluster that has a sharder, the kind and the ring already."""

    def __init__(
        self,
        world: Cluster,
        devcluster: Devcluster | None,
        shards: Shards,
        folder: Path,
        *,
        namespace: str,
        ring: str,
        crs: int,
        edits: float,
        quiet: float,
    ) -> None:
        """`edits`: a second, while shards come and go. `quiet`: seconds without a move after which there is none to come."""
        self.bursts: list[Burst] = []
        self.events: list[Event] = []
        self._world = world
        self._devcluster = devcluster
        self._shards = shards
        (folder / JOURNAL).touch()
        self._journal = Reader(folder / JOURNAL)
        self._ring = ring
        self._labels = Shard(ring, "")
        self._keys = [ObjectKey(namespace, f"cr-{number}") for number in range(crs)]
        self._edits = edits
        self._quiet = quiet
        self._change = itertools.count()
        self._ownerships: list[Ownership] = []
        self._followed: Followed
        # The last entry of each CR.
        self._last: dict[str, Entry] = {}

    async def run(self, numbers: Iterable[int], events_at: int) -> None:
        """A burst with each number of shards, the most first, and with `events_at` of them one that goes or comes."""
        async with self._world.following(KIND, self._keys[0].namespace, self._changed) as self._followed:
            steps = sorted(set(numbers), reverse=True)
            for _ in range(steps[0]):
                self._shards.add()
            await self._ready()
            await self._at_once(self._create)
            await self._until(self._settled, "all CRs have run")
            for number in steps:
                while len(self._shards.working) > number:
                    self._shards.end()
                await self._moved()
                await self._burst()
                if number == events_at:
                    await self._come_and_go()

    def overlaps(self) -> int:
        return journal.count(self._journal.entries, RunEvent.OVERLAP)

    async def _come_and_go(self) -> None:
        for name, act in (
            ("SIGKILL", self._shards.kill),
            ("one more", self._shards.add),
            ("SIGTERM", self._shards.end),
            ("one more", self._shards.add),
        ):
            await self._event(name, act)

    async def _burst(self) -> None:
        begun = time.monotonic()
        used, served = self._shards.processor_seconds(), serving_seconds(self._devcluster)
        await self._at_once(self._edit)
        await self._until(self._settled, "all CRs have run")
        seconds = time.monotonic() - begun
        after = serving_seconds(self._devcluster)
        self.bursts.append(
            Burst(
                shards=len(self._shards.working),
                per_second=journal.rate(self._journal.entries, begun),
                shares=journal.shares(self._owners(), self._shards.working),
                shards_cores=(self._shards.processor_seconds() - used) / seconds,
                api_cores=None if served is None or after is None else (after - served) / seconds,
                shard_mb=self._shards.memory(),
            )
        )

    async def _event(self, name: str, act: Callable[[], str]) -> None:
        """`act` has one shard go or come while CRs are edited."""
        before, number, begun = self._owners(), len(self._shards.working), time.monotonic()
        shard = act()
        is_added = shard in self._shards.working
        editing = asyncio.create_task(self._keep_editing())
        try:
            await self._ready()
            ready = time.monotonic()
            await self._until(lambda: self._is_quiet(ready), "all CRs have a shard")
        finally:
            editing.cancel()
            await asyncio.wait([editing])
        await self._moved()
        after = self._owners()
        moved = journal.moved(before, after)
        gaps = journal.gaps(self._ownerships, begun, () if is_added else (shard,))
        # Those that were moved without being seen without an owner would be here as well.
        gaps = {cr: gaps.get(cr, Gap(begun, begun, 0.0)) for cr in moved}
        runs = journal.next_runs(self._journal.entries, {cr: gap.lost for cr, gap in gaps.items()}, after)
        self.events.append(
            Event(
                name=name,
                shards=number,
                moved=len(moved),
                ideal=len(self._keys) / max(number, len(self._shards.working)),
                seconds=max((gap.regained for gap in gaps.values()), default=0.0)
                - min((gap.lost for gap in gaps.values()), default=0.0),
                without_owner=journal.spread([gap.seconds for gap in gaps.values()]),
                next_run=journal.spread(list(runs.values())),
                runs_cut=journal.count(journal.since(self._journal.entries, begun), RunEvent.CUT),
            )
        )

    async def _ready(self) -> None:
        """Await that the sharder knows all shards that work."""
        await setup.ready(self._world, self._ring, shards=len(self._shards.working))

    async def _moved(self) -> None:
        """Await that all CRs have a shard that works, and that it has run them."""
        since = time.monotonic()
        await self._until(lambda: self._is_quiet(since) and self._settled(), "all CRs have a shard, and have run")
        await self._shards.ended()

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        async def checked() -> bool:
            self._shards.check()
            self._last.update({entry.cr: entry for entry in self._journal.update() if entry.event is not RunEvent.OVERLAP})
            return condition()

        await until(checked, what, patience=PATIENCE, interval=_INTERVAL)

    def _is_quiet(self, since: float) -> bool:
        """True if each CR has a shard that works, and that has not changed for a while, nor before `since`."""
        last = max(self._ownerships[-1].at if self._ownerships else 0.0, since)
        owners = self._owners()
        are_kept = len(owners) == len(self._keys) and self._shards.working.keys() >= set(owners.values())
        return are_kept and not self._draining() and time.monotonic() - last > self._quiet

    def _settled(self) -> bool:
        """True if the last run of each CR was its shard's, has ended, and was of the CR as it is."""
        owners, objects = self._owners(), self._followed.objects
        if len(owners) != len(self._keys) or not all(map(is_done, objects.values())):
            return False
        last = [self._last.get(cr) for cr in owners]
        return all(entry and entry.event is RunEvent.END and entry.shard == owners[entry.cr] for entry in last)

    def _owners(self) -> dict[str, str]:
        found = {key.name: labels_of(obj).get(self._labels.label, "") for key, obj in self._followed.objects.items()}
        return {cr: shard for cr, shard in found.items() if shard}

    def _draining(self) -> Collection[str]:
        return [key.name for key, obj in self._followed.objects.items() if self._labels.is_draining(obj)]

    def _changed(self, before: Object | None, after: Object | None) -> None:
        if after is not None:
            shard, draining = labels_of(after).get(self._labels.label, ""), self._labels.is_draining(after)
            was = before and (labels_of(before).get(self._labels.label, ""), self._labels.is_draining(before))
            if was != (shard, draining):
                name = after["metadata"]["name"]
                self._ownerships.append(Ownership(time.monotonic(), name, shard, draining))

    async def _at_once(self, act: Callable[[ObjectKey], Awaitable[Any]]) -> None:
        """All CRs, over a few connections."""
        keys = iter(self._keys)

        async def some() -> None:
            for key in keys:
                await act(key)

        await asyncio.gather(*(some() for _ in range(_CONNECTIONS)))

    async def _create(self, key: ObjectKey) -> None:
        metadata = {"name": key.name}
        await self._world.create({"apiVersion": KIND.api_version, "kind": KIND.kind, "metadata": metadata}, key.namespace)

    async def _edit(self, key: ObjectKey) -> None:
        await self._world.patch(KIND, key, {"spec": {"change": next(self._change)}})

    async def _keep_editing(self) -> None:
        """Edit one CR after the other, until cancelled."""
        with contextlib.suppress(asyncio.CancelledError):
            for key in itertools.cycle(self._keys):
                await self._edit(key)
                await asyncio.sleep(1 / self._edits)
