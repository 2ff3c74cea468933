"""What runs out: the disk, descriptors, and a run's memory."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import resource
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from bench.driver import condition, until
from runner.kube.client import KubeError
from runner.resource.metadata import GroupVersionKind
from tests.chaos.scenario import Scenario, scenario
from tests.chaos.world import THING, TROUBLE, cr, fork_server

PATIENCE = 300.0
_DISK = "24m"
# Of a run that eats; its own size and some of what it is about to take.
_MEMORY = 200 << 20
_CGROUP = Path("/sys/fs/cgroup/memory")


@scenario
async def disk_full(the: Scenario) -> None:
    """The folder of the runs is full for a while; the CRs say so, and are served when there is room."""
    runs = the.world.folder / "small"
    runs.mkdir(exist_ok=True)
    with _small_disk(runs) as mounted:
        if not mounted:
            the.outcome.notes.append("not tried: this user may not mount a small disk")
            return
        operator = await the.operator(runs=runs / "runs")
        async for _ in the.rounds(20):
            async with the.load():
                await the.world.a_run()
                filler = runs / "filler"
                name = the.world.names[0]

                async def full(filler: Path = filler, name: str = name) -> None:
                    # Artifacts that are let go make room again.
                    _fill(filler)
                    await the.world.edit(name)

                try:
                    await _says(the, THING, name, "Failure", again=full)
                finally:
                    filler.unlink()
                await the.recovered(PATIENCE)
                the.alive(operator)
        await the.settled(PATIENCE)
        await the.world.end(operator)


def _fill(path: Path) -> None:
    """Write until there is no room."""
    with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode
    try:
        yield made == 0
    finally:
        if made == 0:
            # Whatever still has a file there.
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@scenario
async def descriptors(the: Scenario) -> None:
    """The runner, and then its fork server, may open no more descriptors for a while."""
    operator = await the.operator()
    async with the.load():
        async for _ in the.rounds(20):
            # Looked for when it is its turn: the one that there was before may have been replaced.
            for find in (lambda: operator.process.pid, lambda: fork_server(operator)):
                pid, limits = await until(functools.partial(_narrowed, find, the.world.chance), "it may open no more")
                await the.some_time(10)
                # It may have ended, and been replaced.
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
                the.alive(operator)
                await the.recovered(PATIENCE)
    await the.settled(PATIENCE)


async def _narrowed(find: Callable[[], int | None], chance: random.Random) -> tuple[int, tuple[int, int]] | None:
    """The process, which may open hardly any more descriptors from now on, and its limits before; None if it is gone."""
    pid = find()
    if pid is None:
        return None
    try:
        used = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + chance.randrange(1, 4), limits[1]))
    except (OSError, ValueError):
        return None
    return pid, limits


@scenario
async def memory(the: Scenario) -> None:
    """A run that takes more memory than it may is killed for it; that is its CR's failure and nobody else's."""
    operator = await the.operator()
    async for number in the.rounds(20):
        name = f"eater-{number}"
        made = await the.world.cluster.create(cr(TROUBLE, name, mode="eat"), the.world.namespace)
        uid = made["metadata"]["uid"]
        eater, go = the.world.folder / f"eater-{uid}", the.world.folder / f"eat-{uid}"
        async with the.load():

            async def begun(eater: Path = eater) -> int | None:
                return int(eater.read_text()) if eater.exists() and eater.stat().st_size else None

            pid = await until(begun, "the run that eats has begun")
            with _limited(pid) as by:
                go.touch()
                if not by:
                    os.kill(pid, signal.SIGKILL)
                await _says(the, TROUBLE, name, "Failure")
            note = f"limited by {by}" if by else "killed as the kernel would"
            if note not in the.outcome.notes:
                the.outcome.notes.append(note)
            await the.world.cluster.patch(TROUBLE, the.world.key(name), {"spec": {"mode": "fine"}})
            await _says(the, TROUBLE, name, "Successful")
            await the.world.cluster.delete(TROUBLE, the.world.key(name))
            await the.recovered(PATIENCE)
            the.alive(operator)
    await the.settled(PATIENCE)


@contextlib.contextmanager
def _limited(pid: int) -> Iterator[str]:
    """A control group of its own with a limit; "" where there can be none."""
    group = _CGROUP / f"rolerunner-chaos-{pid}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(_MEMORY))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield ""
        return
    try:
        yield "a control group"
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                os.kill(int(left), signal.SIGKILL)
        with contextlib.suppress(OSError):
            group.rmdir()


async def _says(
    the: Scenario, gvk: GroupVersionKind, name: str, kind: str, *, again: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Await that a CR's condition of this type is True; `again` is what should make it so, each time that it is not."""

    async def said() -> Any:
        the.alive()
        with contextlib.suppress(KubeError, TimeoutError):
            if again is not None:
                await again()
            return condition(await the.world.cluster.get(gvk, the.world.key(name)), kind).get("status") == "True"
        return False

    await until(said, f"{gvk.kind} {name} says {kind}", interval=1.0 if again else 0.1, patience=120)
    the.outcome.checks += 1
