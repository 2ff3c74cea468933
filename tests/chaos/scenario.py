"""A scenario: a coroutine function that does harm and checks; `run` gives it what it needs and its row of the table."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.driver import Operator, until
from runner.kube.client import KubeError
from tests.chaos import oracle
from tests.chaos.world import AtRest, Failed, Outcome, World

Body = Callable[["Scenario"], Awaitable[None]]

# By name, in the order of the table.
SCENARIOS: dict[str, Body] = {}


def scenario(body: Body) -> Body:
    """Register a scenario by its function's name."""
    SCENARIOS[body.__name__.replace("_", "-")] = body
    return body


@dataclass(slots=True)
class Scenario:
    """What a scenario has at hand. `short`: as few rounds and objects as show anything; `budget`: seconds for its rounds."""

    world: World
    name: str
    short: bool
    budget: float
    outcome: Outcome = field(default_factory=Outcome)
    started: int = 0
    _before: AtRest | None = None

    async def operator(self, **options: Any) -> Operator:
        """The operator, started on the project; the first time also what it holds when all CRs are served."""
        operator = await self.world.start(**options)
        if self._before is None:
            await oracle.served(self.world, Outcome(), patience=300)
            self._before = await oracle.rest(self.world)
        return operator

    def load(self) -> AbstractAsyncContextManager[None]:
        return self.world.load()

    async def rounds(self, most: int, *, short: int = 1) -> AsyncIterator[int]:
        """0, 1, … `most` times, as long as there is time; at least once."""
        begun = time.monotonic()
        for number in range(short if self.short else most):
            if number and time.monotonic() - begun > self.budget:
                return
            yield number
            self.outcome.rounds += 1

    async def some_time(self, longest: float) -> None:
        """Faults last, and come apart from each other, as chance has it."""
        await asyncio.sleep(self.world.chance.uniform(0, longest))

    async def recovered(self, patience: float) -> None:
        """After a fault: edit a CR, and await that it is served, its dependent too. That is how long the recovery took."""
        begun = time.monotonic()
        name = self.world.names[0]

        async def edited() -> bool:
            with contextlib.suppress(KubeError, TimeoutError):
                await self.world.edit(name)
                return True
            return False

        await until(edited, "the API server takes an edit", patience=patience, interval=0.1)
        await oracle.served(self.world, self.outcome, patience=patience, names=[name])
        self.outcome.recovery = max(self.outcome.recovery, time.monotonic() - begun)

    def alive(self, *_: Operator) -> None:
        oracle.alive(self.world)

    async def settled(self, patience: float) -> None:
        """All that has to be true afterwards. Raises Failed."""
        await oracle.served(self.world, self.outcome, patience=patience)
        await oracle.nothing_more(self.world, self.outcome, self._before)
        oracle.unharmed(self.world, self.outcome)


async def run(world: World, name: str, *, short: bool, budget: float) -> Outcome:
    """Run a scenario; whatever comes of it, its operators are ended and nothing of it is left for the next."""
    the = Scenario(world, name, short, budget)
    world.slowest = 0.0
    (world.folder / "journal").write_text("")
    try:
        async with world.probing():
            await SCENARIOS[name](the)
    except (Failed, AssertionError) as error:
        the.outcome.failures.append(str(error))
    except Exception:
        the.outcome.failures.append(traceback.format_exc())
    finally:
        logs = [operator.log for operator in world.operators]
        await world.end_all()
        await world.clear()
        the.outcome.lag = max(the.outcome.lag, world.slowest)
        _keep(the.outcome, logs, name)
    return the.outcome


def _keep(outcome: Outcome, logs: list[Path], name: str) -> None:
    """The logs of a scenario that failed get its name."""
    if outcome.failures:
        for log in logs:
            with contextlib.suppress(OSError):
                log.rename(log.with_name(f"{name}-{log.name}"))
