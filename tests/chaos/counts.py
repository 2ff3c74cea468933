"""Very many of one thing: failures in a row, edits of one CR, and CRs that are made anew under a run."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import selectors
from pathlib import Path
from typing import Any

import yaml

from bench.driver import until
from runner.config import watches
from runner.config.settings import Settings
from runner.control import Priority, Request, Result, Retry
from runner.control.controller import Controller
from runner.control.workqueue import WorkQueue
from runner.kube.client import KubeError
from runner.resource.metadata import ObjectKey
from tests.chaos.oracle import served
from tests.chaos.scenario import Scenario, scenario
from tests.chaos.world import CONFIG_MAP, THING, Failed, World, cr, is_served

PATIENCE = 300.0
_FAILURES = 2000
_PERIOD = "ansible.sdk.operatorframework.io/reconcile-period"
# MB by which the runner may be larger after thousands of edits.
_GROWTH = 48.0


class _Ahead(selectors.DefaultSelector):
    """Does not wait: the clock is put forward instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout:
            self.now += timeout
        return super().select(0)


class _AheadLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes as fast as it has nothing to do."""

    def __init__(self) -> None:
        self._ahead = _Ahead()
        super().__init__(self._ahead)

    def time(self) -> float:
        return self._ahead.now


@scenario
async def failures(the: Scenario) -> None:
    """A CR fails 2,000 times in a row, by a clock of the test's own; its success then still counts."""
    text = yaml.safe_dump(
        [{"group": "chaos.example.com", "version": "v1", "kind": "Thing", "role": str(the.world.folder / "roles" / "thing")}]
    )
    (watch,) = watches.parse(text, settings=Settings(), environ={})
    tried = await asyncio.to_thread(_fail, Request(watch, ObjectKey("chaos", "one")))
    if tried != _FAILURES + 1:
        raise Failed(f"tried {tried} times")
    the.outcome.rounds = _FAILURES
    the.outcome.crs = 1
    the.outcome.checks += 1


def _fail(request: Request) -> int:
    tried = 0
    queue = WorkQueue(1)

    async def reconcile(_: Request) -> Result:
        nonlocal tried
        tried += 1
        if tried <= _FAILURES:
            raise Retry("as the chaos has it")
        queue.close()
        return Result()

    async def work() -> None:
        queue.add(request, Priority.CHANGE)
        await Controller(queue, reconcile).run()

    loop = _AheadLoop()
    try:
        loop.run_until_complete(work())
    except Exception as error:
        raise Failed(f"after {tried} failures in a row: {error!r}") from error
    finally:
        loop.close()
    return tried


@scenario
async def edits(the: Scenario) -> None:
    """One CR is edited 10,000 times, each time with another mistake of 20 KB in its annotations; memory stays as it is."""
    operator = await the.operator()
    name = the.world.names[-1]
    before = _resident(operator.process.pid)
    count = 1000 if the.short else 10_000
    padding = "z" * 20_000
    for number in range(count):
        value = f"e{number}"
        patch = {"metadata": {"annotations": {_PERIOD: f"{number}{padding}"}}, "spec": {"value": value}}
        await the.world.cluster.patch(THING, the.world.key(name), patch)
        the.world.values[name] = value
    the.outcome.rounds = count
    await the.world.cluster.patch(THING, the.world.key(name), {"metadata": {"annotations": None}})
    await the.recovered(PATIENCE)
    await the.settled(PATIENCE)
    grown = (_resident(operator.process.pid) - before) / (1 << 20)
    the.outcome.notes.append(f"{grown:.0f} MB more")
    if grown > _GROWTH:
        raise Failed(f"the runner has grown by {grown:.0f} MB")
    the.outcome.checks += 1


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise Failed(f"process {pid} is gone")


@scenario
async def recreate(the: Scenario) -> None:
    """A CR is deleted and made anew while it is run; the new one never gets the old one's outcome."""
    await the.operator()
    world = the.world
    async with world.load(), world.cluster.following(THING, world.namespace) as things:
        async for number in the.rounds(20, short=3):
            key = world.key(f"again-{number}")
            old = await world.cluster.create(cr(THING, key.name, value="old", delay=2), world.namespace)
            await until(functools.partial(_noted, the, "begun", old["metadata"]["uid"]), "the old one is run")
            await world.cluster.delete(THING, key)
            new = await world.cluster.create(cr(THING, key.name, value="new", delay=2), world.namespace)
            uid = new["metadata"]["uid"]

            def over(objects: Any, key: ObjectKey = key, uid: str = uid) -> bool:
                found = objects.get(key)
                return bool(found and found["metadata"]["uid"] == uid and is_served(found))

            await things.until(over, "the new one is served", patience=PATIENCE)
            # Its run has noted this before its status could be written.
            if not await _noted(the, "done", uid):
                raise Failed(f"{key.name} has the outcome of the one before it: its own run was not over")
            the.outcome.checks += 1
            await served(world, the.outcome, patience=PATIENCE, names=[world.names[0]])
            # The old one's may still be collected as garbage, and is made again then.
            await until(
                functools.partial(_is_new, world, key), f"the ConfigMap of {key.name} is the new one's", patience=PATIENCE
            )
            with contextlib.suppress(KubeError):
                await world.cluster.delete(THING, key)
    await the.recovered(PATIENCE)
    await the.settled(PATIENCE)


async def _is_new(world: World, key: ObjectKey) -> bool:
    with contextlib.suppress(KubeError, TimeoutError):
        return ((await world.cluster.get(CONFIG_MAP, key)) or {}).get("data") == {"value": "new"}
    return False


async def _noted(the: Scenario, what: str, uid: str) -> bool:
    return any(words[:2] == [what, uid] for words in the.world.journal())
