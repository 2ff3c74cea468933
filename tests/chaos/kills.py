"""What is killed while there is work: runs, the fork server, the runner, the leader, etcd and the API server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from bench.driver import Operator, until
from tests.chaos.scenario import Scenario, scenario
from tests.chaos.world import LEASE_FLAGS, TROUBLE, Failed, command, cr, fork_server, logged, marked, parent

# Seconds until all is well again: the watchdog's patience, a lease, and a run of each CR, on a busy machine.
PATIENCE = 300.0


@scenario
async def child(the: Scenario) -> None:
    """SIGKILL for a run's process."""
    operator = await the.operator()
    async with the.load():
        async for _ in the.rounds(20):
            for _ in range(3):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(await the.world.a_run(), signal.SIGKILL)
            await the.recovered(PATIENCE)
            the.alive(operator)
    await the.settled(PATIENCE)


@scenario
async def forkserver(the: Scenario) -> None:
    """SIGKILL for the process that forks for runs, and every other time for the runner's own child above it."""
    operator = await the.operator()
    async with the.load():
        async for number in the.rounds(20, short=2):
            await the.world.a_run()
            await until(lambda number=number: _one_killed(operator, above=number % 2 == 1), "one is killed", interval=0.02)
            await the.recovered(PATIENCE)
            the.alive(operator)
            await the.some_time(1)
    await the.settled(PATIENCE)


async def _one_killed(operator: Operator, *, above: bool) -> bool:
    """Kill the fork server, or the runner's own child above it; False if it has just ended by itself."""
    victim = await _fork_server(operator)
    while above and parent(victim) not in (operator.process.pid, 0):
        victim = parent(victim)
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
        return True
    return False


@scenario
async def forkserver_stop(the: Scenario) -> None:
    """SIGSTOP for the process that forks for runs: it is there, and does nothing."""
    operator = await the.operator()
    async for _ in the.rounds(20):
        async with the.load():
            await the.world.a_run()
            os.kill(await _fork_server(operator), signal.SIGSTOP)
            await the.recovered(PATIENCE)
    await the.settled(PATIENCE)


@scenario
async def runner(the: Scenario) -> None:
    """SIGKILL for the runner, which is started again."""
    operator = await the.operator()
    async with the.load():
        async for _ in the.rounds(20):
            await the.world.a_run()
            await killed(the, operator)
            operator = await the.operator()
            await the.recovered(PATIENCE)
            await the.some_time(2)
    await the.settled(PATIENCE)


@scenario
async def orphans(the: Scenario) -> None:
    """SIGKILL for the runner while its fork server is stopped and a run hangs: the run must not go on without it."""
    operator = await the.operator()
    async for number in the.rounds(20):
        name = f"hang-{number}"
        await the.world.cluster.create(cr(TROUBLE, name, mode="hang"), the.world.namespace)
        obj = await the.world.cluster.get(TROUBLE, the.world.key(name))
        assert obj is not None
        uid = obj["metadata"]["uid"]

        async def begun(uid: str = uid) -> bool:
            return any(words[:2] == ["done", uid] for words in the.world.journal())

        await until(begun, "the hanging run has begun")
        os.kill(await _fork_server(operator), signal.SIGSTOP)
        await killed(the, operator)
        await the.world.cluster.delete(TROUBLE, the.world.key(name))
        operator = await the.operator()
        await the.recovered(PATIENCE)
    await the.settled(PATIENCE)


@scenario
async def leader(the: Scenario) -> None:
    """SIGKILL for the leader of two runners; the other goes on, and a new one waits to lead."""
    flags = (
        "--leader-elect",
        "--leader-election-id=chaos",
        f"--leader-election-namespace={the.world.namespace}",
        *LEASE_FLAGS,
    )

    async def replica() -> Operator:
        the.started += 1
        return await the.world.start(*flags, runs=the.world.folder / f"runs-{the.started}", wait=False)

    async def leading(among: list[Operator]) -> Operator:
        async def found() -> Operator | None:
            the.alive(*among)
            return next((each for each in among if logged(each, "Watching")), None)

        return await until(found, "one of the two leads", interval=0.2)

    first = await replica()
    await leading([first])
    replicas = [first, await replica()]
    async with the.load():
        async for _ in the.rounds(20):
            chief = await leading(replicas)
            await the.world.a_run()
            await killed(the, chief)
            replicas = [each for each in replicas if each is not chief] + [await replica()]
            await the.recovered(PATIENCE)
            await leading(replicas)
    await the.settled(PATIENCE)


@scenario
async def etcd(the: Scenario) -> None:
    """SIGKILL for etcd, which is started again after a while."""
    await _without(the, "etcd")


@scenario
async def apiserver(the: Scenario) -> None:
    """SIGKILL for the API server, which is started again after a while."""
    await _without(the, "kube-apiserver")


async def _without(the: Scenario, program: str) -> None:
    operator = await the.operator()
    async with the.load():
        async for _ in the.rounds(20):
            await the.world.a_run()
            the.world.devcluster.stop_program(program)
            try:
                await the.some_time(6)
            finally:
                await asyncio.to_thread(the.world.devcluster.start_program, program)
            await the.recovered(PATIENCE)
            the.alive(operator)
    await the.settled(PATIENCE)


async def _fork_server(operator: Operator) -> int:
    async def found() -> int | None:
        return fork_server(operator)

    return await until(found, "there is a fork server", interval=0.02)


async def killed(the: Scenario, operator: Operator) -> None:
    """Kill the runner's own process, and await that nothing of it is left."""
    mark = the.world.mark(operator)
    operator.process.kill()
    operator.process.wait()
    the.world.operators.remove(operator)

    async def gone() -> bool:
        return not marked(mark)

    try:
        await until(gone, "nothing of the runner is left", patience=30)
    except AssertionError as error:
        left = marked(mark)
        told = [f"{pid} ({command(pid)[:100]})" for pid in left]
        await the.world.end(operator)
        raise Failed(f"{len(left)} processes of a runner outlive it: {'; '.join(told)}") from error
    the.outcome.checks += 1
