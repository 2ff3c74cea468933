"""New CRs, and how long each of them waits."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from bench.driver import is_done
from bench.large.subject import Figures
from bench.large.world import PAIR, World, pair

# Seconds between two new CRs.
_PAUSE = 2.0
_LABEL = "bench.example.com/probe"


@dataclass(slots=True)
class Probes:
    """New CRs, created one after the other while `creating`; the seconds that each took until it was Successful."""

    world: World
    seconds: list[float] = field(default_factory=list)
    _done: dict[str, float] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def creating(self) -> AsyncIterator[list[float]]:
        """Yields the list to which the seconds of each new CR are added."""
        self.seconds = []
        tasks = [asyncio.create_task(part) for part in (self._watch(), self._create())]
        try:
            yield self.seconds
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _create(self) -> None:
        for number in self._numbers:
            name, begun = f"new-{number}", time.monotonic()
            await self.world.cluster.create(pair(name, **{_LABEL: "true"}), self.world.namespaces[0])
            while name not in self._done:
                self._news.clear()
                await self._news.wait()
            self.seconds.append(self._done[name] - begun)
            await asyncio.sleep(_PAUSE)

    async def _watch(self) -> None:
        """A watch of these CRs alone: one of all would take the processor from who is measured."""
        client, path = self.world.cluster.client, await self.world.cluster.path(PAIR, namespace=self.world.namespaces[0])
        params = {"labelSelector": _LABEL, "timeoutSeconds": "300"}
        while True:
            # Without a version the server begins with those that are there.
            async for event in client.watch(path, params):
                obj = event["object"]
                if event["type"] != "BOOKMARK" and is_done(obj):
                    self._done.setdefault(obj["metadata"]["name"], time.monotonic())
                    self._news.set()


def served(seconds: list[float]) -> Figures:
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {
        "count": len(ordered),
        "median_s": round(statistics.median(ordered), 2),
        "p95_s": round(ordered[int(0.95 * (len(ordered) - 1))], 2),
        "longest_s": round(ordered[-1], 2),
    }
