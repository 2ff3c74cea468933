"""What is measured, one after the other: the start, the pass that follows it, a time at idle, and the next pass."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import click

from bench.driver import until
from bench.large.counters import lists, requests
from bench.large.probes import Probes, served
from bench.large.subject import Figures, Sample, Subject, used
from bench.large.world import World

# Seconds for which all is waited for; between two samples of the operator; until what a pass leaves to be done is over.
_PATIENCE, _INTERVAL, SETTLE = 3600.0, 1.0, 10.0


@dataclass(slots=True)
class Course:
    """The phases that are measured, in the order of `run`."""

    world: World
    subject: Subject
    idle: float
    window: float
    # Seconds of the first pass that are measured; None: all of it, and what follows.
    sample: float | None
    begun: float
    probes: Probes = field(init=False)
    figures: Figures = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.probes = Probes(self.world)
        self.figures |= {"crs": self.world.crs, "sample_s": self.sample}

    async def run(self, before: Mapping[str, str], counters: str) -> Figures:
        """`before`: when the CRs were last run; `counters`: the API server's metrics before the operator was started."""
        await until(self.subject.is_ready, "the operator is ready", patience=_PATIENCE)
        self.figures["ready_s"] = round(time.monotonic() - self.begun, 2)
        first = Sample(self.begun, 0, 0, 0, 0, 0, 0, {})
        async with self.probes.creating() as seconds:
            listed = await self._listed()
            self.figures["start"] = {
                **used(first, listed),
                **self.subject.memory(),
                "requests": requests(counters, after := await server_counters(self.world)),
                "lists": lists(counters, after),
            }
            last = await self._passed(before) if self.sample is None else await self._sampled(self.sample)
        self.figures["start"]["first_new_cr_s"] = round(self.figures["ready_s"] + seconds[0], 2) if seconds else None
        self.figures["pass"] = {**used(listed, last), **self.subject.memory(), "new_crs": served(seconds)}
        self.figures["pass"]["requests"] = requests(after, await server_counters(self.world))
        if self.sample is None:
            self.figures["pass"]["all_s"] = round(last.at - self.begun, 1)
            click.echo(json.dumps(self.figures), err=True)
            await self._idle()
            await self._periodic()
        return self.figures

    async def _sampled(self, seconds: float) -> Sample:
        await asyncio.sleep(seconds)
        return await self.subject.sample()

    async def _listed(self) -> Sample:
        """When all CRs have been found. Raises AssertionError if they are not."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            sample = await self.subject.sample()
            # Each of them was put on the queue for later when it was found, and again when it had been reconciled.
            if sample.delayed - sample.reconciles >= self.world.crs:
                return sample
            assert time.monotonic() < deadline, "not all CRs are found"
            await asyncio.sleep(_INTERVAL / 2)

    async def _passed(self, before: Mapping[str, str]) -> Sample:
        """When all CRs have been reconciled. Raises AssertionError if one of them was not."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            sample = await self.subject.sample()
            click.echo(f"\r  {sample.reconciles:.0f} reconciles, {sample.waiting:.0f} wait", nl=False, err=True)
            if sample.reconciles >= self.world.crs and not sample.waiting:
                break
            assert time.monotonic() < deadline, "the pass takes too long"
            await asyncio.sleep(_INTERVAL)
        click.echo(err=True)
        after = await self.world.completions()
        left = [uid for uid, completion in before.items() if after.get(uid) == completion]
        # One may be in its last moments.
        assert len(left) <= sample.active, f"{len(left)} CRs were not reconciled"
        return sample

    async def _idle(self) -> None:
        await asyncio.sleep(SETTLE)
        before = await self.subject.sample()
        await asyncio.sleep(self.idle)
        self.figures["idle"] = {**used(before, await self.subject.sample()), **self.subject.memory()}

    async def _periodic(self) -> None:
        """A part of the pass that the reconcile period causes."""
        begun = (await self.subject.sample()).reconciles

        async def going_on() -> bool:
            return (await self.subject.sample()).reconciles >= begun + 0.05 * self.world.crs

        await until(going_on, "the next pass has begun", patience=_PATIENCE, interval=_INTERVAL)
        before, counters = await self.subject.sample(), await server_counters(self.world)
        async with self.probes.creating() as seconds:
            await asyncio.sleep(self.window)
        after = await self.subject.sample()
        self.figures["periodic"] = {
            **used(before, after),
            **self.subject.memory(),
            "new_crs": served(seconds),
            "requests": requests(counters, await server_counters(self.world)),
        }


async def server_counters(world: World) -> str:
    """The metrics of the API server."""
    client = world.cluster.client
    async with client.session.get(f"{client.server}/metrics") as answer:
        return await answer.text()
