"""What has to be true after every fault: all CRs served, all dependents right, no run twice at once, nothing left over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable

from runner.kube.client import KubeError
from runner.resource.metadata import Object
from tests.chaos.world import (
    CONFIG_MAP,
    GOOD,
    MARK,
    THING,
    AtRest,
    Failed,
    Outcome,
    World,
    command,
    is_served,
    logged,
    marked,
)

__all__ = ["MARK", "nothing_more", "served", "unharmed"]

# Descriptors that come and go with kept connections and workers.
_SLACK = 12
# Processes of an operator at rest: the runner, a guard, the fork server, and as many workers as runs at once.
_AT_REST = 5
# An event loop that was held up so long by its own work, in seconds, is a fault; by the machine, it is not.
_LONGEST_LAG = 1.0
# As seen from outside, on a machine that is busy with much else.
_LONGEST_ANSWER = 10.0


async def served(world: World, outcome: Outcome, *, patience: float, names: Iterable[str] | None = None) -> float:
    """Await that every good CR is served and its dependent right; the seconds that took. Raises Failed."""
    wanted = set(world.names if names is None else names)
    begun = time.monotonic()

    async def wrong() -> list[str]:
        with contextlib.suppress(KubeError, TimeoutError):
            # Of the others there may be some that cannot even be read here.
            path = await world.cluster.path(THING, namespace=world.namespace)
            things = (await world.cluster.client.get(path, {"labelSelector": GOOD}))["items"]
            maps = await world.cluster.list(CONFIG_MAP, world.namespace)
            return _wrong(wanted, things, maps)
        return ["the API server does not answer"]

    await _until_none(world, wrong, "not right", patience=patience, interval=0.25)
    took = time.monotonic() - begun
    outcome.crs = max(outcome.crs, len(wanted))
    outcome.checks += 2 * len(wanted)
    return took


def _wrong(wanted: set[str], things: list[dict[str, object]], maps: list[dict[str, object]]) -> list[str]:
    data = {_name(each): each.get("data") or {} for each in maps}
    found = []
    missing = set(wanted)
    for thing in things:
        name = _name(thing)
        if name in wanted:
            missing.discard(name)
            value = thing["spec"]["value"]  # type: ignore[index]
            if not is_served(thing):
                found.append(f"{name} has generation {thing['metadata']['generation']} and {_short(thing.get('status'))}")  # type: ignore[index]
            elif data.get(name) != {"value": value}:
                found.append(f"{name} says {value} and its ConfigMap {data.get(name)}")
    return found + [f"{name} is gone" for name in missing]


def _name(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def _short(status: object) -> str:
    text = repr(status)
    return text if len(text) < 300 else text[:300] + "…"


def alive(world: World) -> None:
    """Raises Failed if an operator has ended that nobody has ended."""
    for operator in world.operators:
        if operator.process.poll() is not None:
            raise Failed(f"the operator ended by itself (exit code {operator.process.returncode}): {operator.log.name}")


async def nothing_more(world: World, outcome: Outcome, before: AtRest | None, *, patience: float = 120) -> AtRest:
    """Await that the operators hold no more processes, descriptors and temporary files than before. Raises Failed."""
    now = world.at_rest()

    async def more() -> list[str]:
        nonlocal now
        now = world.at_rest()
        return _more(world, now, before)

    await _until_none(world, more, "left over", patience=patience)
    outcome.checks += 4
    return now


async def _until_none(
    world: World, found: Callable[[], Awaitable[list[str]]], what: str, *, patience: float, interval: float = 0.5
) -> None:
    """Await that nothing is found any more. Raises Failed, also if an operator ends."""
    deadline = time.monotonic() + patience
    while wrong := await found():
        alive(world)
        if time.monotonic() > deadline:
            raise Failed(f"{len(wrong)} {what} after {patience:.0f} s: {'; '.join(wrong[:3])}")
        await asyncio.sleep(interval)


async def rest(world: World, *, patience: float = 120, calm: float = 3.0) -> AtRest:
    """What the operators hold when that has not changed for a while. Raises Failed."""
    begun = since = time.monotonic()
    known = world.at_rest()
    while time.monotonic() - since < calm:
        await asyncio.sleep(0.25)
        alive(world)
        now = world.at_rest()
        if now != known:
            known, since = now, time.monotonic()
        if since - begun > patience:
            raise Failed(f"the operators do not come to rest within {patience:.0f} s")
    return known


def _more(world: World, now: AtRest, before: AtRest | None) -> list[str]:
    wrong = []
    trees = {pid for operator in world.operators for pid in operator.processes()}
    if strays := [pid for pid in marked(f"{world.folder.name}-") if pid not in trees]:
        wrong.append(f"{len(strays)} orphans, such as {strays[0]} ({command(strays[0])[:100]})")
    if now.processes > _AT_REST * len(world.operators):
        wrong.append(f"{now.processes} processes of {len(world.operators)} operators")
    if before is not None:
        if now.descriptors > before.descriptors + _SLACK:
            wrong.append(f"{now.descriptors} descriptors after {before.descriptors}")
        # Names differ with each run; of a worker there may be one.
        if len(now.temporary) > len(before.temporary) + 1:
            more = sorted(now.temporary - before.temporary)
            wrong.append(f"{len(more)} temporary files, such as {more[0]}")
    return wrong


def unharmed(world: World, outcome: Outcome) -> None:
    """No run was on twice at once, and no event loop was held up by its own work. Raises Failed."""
    twice = [words for words in world.journal() if words[0] == "twice" and words[-1] not in world.paused]
    if twice:
        raise Failed(f"{len(twice)} runs of a CR beside another one of it, such as {twice[0]}")
    outcome.checks += 1
    for operator in world.operators:
        for line in logged(operator, "The event loop was held up"):
            outcome.lag = max(outcome.lag, float(line.get("seconds", 0)))
            if float(line.get("busy", 0)) >= _LONGEST_LAG:
                raise Failed(f"the event loop was busy for {line['busy']} s: {operator.log.name}")
    outcome.lag = max(outcome.lag, world.slowest)
    if world.slowest > _LONGEST_ANSWER:
        raise Failed(f"a health probe was answered after {world.slowest:.1f} s")
    outcome.checks += 1
