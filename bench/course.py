"""An operator's way through one round of the bench: it starts, is made warm, and is measured at idle and in bursts."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from typing import Any

from bench.driver import (
    DEPLOYMENT,
    MEMCACHED,
    Cluster,
    Condition,
    Followed,
    Operator,
    condition,
    memcached,
    serving_seconds,
    until,
)
from bench.figures import of_burst
from devkit.devcluster.cluster import Cluster as Devcluster
from runner.resource.metadata import Object, ObjectKey

# Seconds for a whole phase: a slow engine takes more than a second a run.
PATIENCE = 3600.0
# Seconds without any news after which an operator counts as at rest.
QUIET = 0.5


class Course:
    """Its phases, in the order of `run`. `figures` fills up, by the names of `bench.figures.FIGURES`.

    A reconcile is over when its CR's status has another `ansibleResult.completion`. Processor time is counted until the
    operator is at rest, so that what a burst leaves to be done is a part of it: CRs that are reconciled once more because
    their Deployments have changed, and processes that are made ready for the next run. The API server's has in it what the
    server takes when nobody asks, which weighs the more the slower an operator is.
    """

    def __init__(
        self, world: Cluster, operator: Operator, namespace: str, *, crs: int, changes: int, devcluster: Devcluster | None
    ) -> None:
        self.figures: dict[str, float] = {}
        self._world = world
        self._operator = operator
        self._namespace = namespace
        self._keys = [ObjectKey(namespace, f"bench-{number}") for number in range(crs)]
        self._changes = changes
        self._devcluster = devcluster
        # Reconciles that are over, by CR, since the phase began.
        self._over: Counter[ObjectKey] = Counter()
        self._news = 0.0

    async def run(self) -> None:
        async with (
            self._world.following(MEMCACHED, self._namespace, self._changed) as crs,
            self._world.following(DEPLOYMENT, self._namespace) as deployments,
        ):
            await self._create(crs, deployments)
            await self._change(crs, deployments)
            async with self._burst(crs, "burst"):
                await _all(self._resize(key, 4) for key in self._keys)
                await self._until(deployments, self._sized(self._keys, 4), "all are changed")
            async with self._burst(crs, "pass"):
                # Each CR is reconciled for its Deployment's sake, which is as it should be.
                touched = {"metadata": {"annotations": {"bench.example.com/touched": "true"}}}
                await _all(self._world.patch(DEPLOYMENT, key, touched) for key in self._keys)
                await self._until(crs, lambda _: self._over.keys() >= set(self._keys), "all are looked at")
        self.figures["idle_pss_mb"] = self._operator.memory()["pss_mb"]

    async def _create(self, crs: Followed, deployments: Followed) -> None:
        """It is ready when a first CR has got its Deployment. The burst after that makes it warm."""
        probe = ObjectKey(self._namespace, "probe")
        await self._world.create(memcached(probe.name, 1), self._namespace)
        await self._until(deployments, lambda objects: probe in objects, "the operator is ready")
        await self._rest(crs)

        def successful(objects: Mapping[ObjectKey, Object]) -> bool:
            return all(condition(objects.get(key), "Successful").get("status") == "True" for key in self._keys)

        with self._rate("first_burst_per_s"):
            await _all(self._world.create(memcached(key.name, 1), self._namespace) for key in self._keys)
            await self._until(crs, successful, "all are Successful", look=True)
        await self._rest(crs)

    async def _change(self, crs: Followed, deployments: Followed) -> None:
        times = []
        for number in range(self._changes):
            key, size = self._keys[number % len(self._keys)], 2 + number // len(self._keys) % 2
            begun = time.monotonic()
            await self._resize(key, size)
            await self._until(deployments, self._sized([key], size), f"{key} is changed")
            times.append(time.monotonic() - begun)
            await self._rest(crs)
        self.figures["change_at_idle_s"] = statistics.median(times)

    @contextlib.asynccontextmanager
    async def _burst(self, crs: Followed, phase: str) -> AsyncIterator[None]:
        """How many a second until what it encloses is over, and what a reconcile takes until the operator is at rest."""
        self._over.clear()
        before = self._cpu()
        with self._rate(f"{phase}_per_s"):
            yield
        await self._rest(crs)
        used = {group: seconds - before[group] for group, seconds in self._cpu().items()}
        self.figures |= of_burst(phase, used, reconciles=self._over.total(), crs=len(self._keys))

    def _cpu(self) -> dict[str, float]:
        """Seconds by process group, of `bench.figures.GROUPS`."""
        runner, runs = self._operator.processor_seconds()
        serving = serving_seconds(self._devcluster)
        return {"runner": runner, "runs": runs} | ({} if serving is None else {"api": serving})

    def _changed(self, before: Object | None, after: Object | None) -> None:
        self._news = time.monotonic()
        if after is not None and _completion(after) not in ("", _completion(before)):
            self._over[ObjectKey.of(after)] += 1

    async def _resize(self, key: ObjectKey, size: int) -> None:
        await self._world.patch(MEMCACHED, key, {"spec": {"size": size}})

    @staticmethod
    def _sized(keys: Iterable[ObjectKey], size: int) -> Condition:
        return lambda objects: all(key in objects and objects[key]["spec"]["replicas"] == size for key in keys)

    @contextlib.contextmanager
    def _rate(self, figure: str) -> Any:
        begun = time.monotonic()
        yield
        self.figures[figure] = len(self._keys) / (time.monotonic() - begun)

    async def _until(self, there: Followed, true: Condition, what: str, *, look: bool = False) -> None:
        """`look`: at every process and its memory meanwhile, which takes processor time from who is measured."""

        def attend() -> None:
            self._check()
            if look:
                most = self.figures.get("busy_pss_mb", 0.0)
                self.figures["busy_pss_mb"] = max(most, self._operator.memory()["pss_mb"])

        await there.until(true, what, patience=PATIENCE, attend=attend)

    async def _rest(self, crs: Followed) -> None:
        """Until no CR is being reconciled, and none has changed for a while."""
        self._news = time.monotonic()

        async def rests() -> bool:
            self._check()
            waiting = all(condition(one, "Running").get("reason") == "Successful" for one in crs.objects.values())
            return waiting and time.monotonic() - self._news > QUIET

        await until(rests, "the operator is at rest", patience=PATIENCE)

    def _check(self) -> None:
        if self._operator.process.poll() is not None:
            raise AssertionError(f"the operator ended with exit code {self._operator.process.returncode}")


def _completion(obj: Object | None) -> str:
    result = condition(obj, "Running").get("ansibleResult") or {}
    return str(result.get("completion") or "")


async def _all(calls: Iterable[Awaitable[Any]]) -> None:
    """All of the calls, no more than 20 at a time."""
    limit = asyncio.Semaphore(20)

    async def one(call: Awaitable[Any]) -> None:
        async with limit:
            await call

    await asyncio.gather(*(one(call) for call in calls))
