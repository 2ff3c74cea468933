"""The figures: `make bench`, or `python -m bench --crs 100 --operator 'COMMAND' --operator 'ANOTHER'`.

Each operator in turn works for the same number of Memcacheds in a namespace of its own, on one cluster (one of its own, or
that of $KUBECONFIG). It is any command line that takes its cluster from $KUBECONFIG and its namespace from
$WATCH_NAMESPACE; it is ready when a first Memcached has got its Deployment. Without any, the two executors are compared.

Their project is the example operator, or a role made for the purpose: `--project one`, of one task; `--project ten`, of ten
tasks with templates and loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bench import projects
from bench.driver import (
    DEPLOYMENT,
    FREE_PORTS,
    MEMCACHED,
    NAMESPACE,
    ROOT,
    RUN,
    Cluster,
    Condition,
    Followed,
    Operator,
    condition,
    memcached,
    prepare,
    resting,
    running,
    some_cluster,
    tidy_on_sigterm,
    until,
)
from runner.devcluster import DevclusterError
from runner.devcluster.cluster import Cluster as Devcluster
from runner.kube.client import KubeError
from runner.resource.metadata import Object, ObjectKey
from runner.settings import ConfigurationError

# Seconds for a whole phase: a slow engine takes more than a second a run.
PATIENCE = 3600.0
# Seconds without any news after which an operator counts as idle.
QUIET = 1.0
# What is measured, in the order of the table: the key in the JSON, and the heading.
FIGURES = {
    "create_to_successful_per_s": "create → Successful, per second",
    "change_at_idle_p50_s": "one change at idle → Deployment, p50, s",
    "change_at_idle_p95_s": "one change at idle → Deployment, p95, s",
    "burst_per_s": "burst of spec changes → Deployments, per second",
    "recreated_per_s": "Deployments deleted → recreated, per second",
    "idle_rss_mb": "memory at idle, resident, MB",
    "idle_pss_mb": "memory at idle, shared pages counted once, MB",
    "busy_rss_mb": "memory while all are created (most seen), resident, MB",
    "busy_pss_mb": "memory while all are created (most seen), shared pages counted once, MB",
}


class Course:
    """One operator's way through the phases. `figures` fills up, by the keys of FIGURES."""

    def __init__(self, world: Cluster, operator: Operator, namespace: str, *, crs: int, changes: int) -> None:
        self.figures: dict[str, float] = {}
        self._world = world
        self._operator = operator
        self._namespace = namespace
        self._keys = [ObjectKey(namespace, f"bench-{number}") for number in range(crs)]
        self._changes = changes

    async def run(self) -> None:
        for phase in (self._ready, self._create, self._change, self._burst, self._recreate):
            await phase()
            await self._idle()
        for name, value in self._operator.memory().items():
            self.figures[f"idle_{name}"] = value

    async def _ready(self) -> None:
        await self._world.create(memcached("probe", 1), self._namespace)
        async with self._world.following(DEPLOYMENT, self._namespace) as there:
            probe = ObjectKey(self._namespace, "probe")
            await self._until(there, lambda objects: probe in objects, "the operator is ready")

    async def _create(self) -> None:
        def successful(objects: Mapping[ObjectKey, Object]) -> bool:
            return all(condition(objects.get(key), "Successful").get("status") == "True" for key in self._keys)

        async with self._world.following(MEMCACHED, self._namespace) as there:
            with self._rate("create_to_successful_per_s"):
                await _all(self._world.create(memcached(key.name, 1), self._namespace) for key in self._keys)
                await self._until(there, successful, "all are Successful", look=True)

    async def _change(self) -> None:
        times = []
        async with self._world.following(DEPLOYMENT, self._namespace) as there:
            for number in range(self._changes):
                key, size = self._keys[number % len(self._keys)], 2 + number % 2
                begun = time.monotonic()
                await self._resize(key, size)
                await self._until(there, _sized([key], size), f"{key} is changed")
                times.append(time.monotonic() - begun)
                await self._idle()
        self.figures["change_at_idle_p50_s"] = round(statistics.median(times), 3)
        self.figures["change_at_idle_p95_s"] = round(statistics.quantiles(times, n=20, method="inclusive")[-1], 3)

    async def _burst(self) -> None:
        async with self._world.following(DEPLOYMENT, self._namespace) as there:
            with self._rate("burst_per_s"):
                await _all(self._resize(key, 4) for key in self._keys)
                await self._until(there, _sized(self._keys, 4), "all are changed")

    async def _recreate(self) -> None:
        async with self._world.following(DEPLOYMENT, self._namespace) as there:
            old = {obj["metadata"]["uid"] for obj in there.objects.values()}

            def back(objects: Mapping[ObjectKey, Object]) -> bool:
                return all(key in objects and objects[key]["metadata"]["uid"] not in old for key in self._keys)

            with self._rate("recreated_per_s"):
                await _all(self._world.delete(DEPLOYMENT, key) for key in self._keys)
                await self._until(there, back, "all Deployments are back")

    async def _resize(self, key: ObjectKey, size: int) -> None:
        await self._world.patch(MEMCACHED, key, {"spec": {"size": size}})

    @contextlib.contextmanager
    def _rate(self, figure: str) -> Any:
        begun = time.monotonic()
        yield
        self.figures[figure] = round(len(self._keys) / (time.monotonic() - begun), 2)

    async def _until(self, there: Followed, true: Condition, what: str, *, look: bool = False) -> None:
        """`look`: at every process and its memory meanwhile, which takes processor time from who is measured."""

        def attend() -> None:
            if self._operator.process.poll() is not None:
                raise AssertionError(f"the operator ended with exit code {self._operator.process.returncode}")
            if look:
                for name, value in self._operator.memory().items():
                    self.figures[f"busy_{name}"] = max(value, self.figures.get(f"busy_{name}", 0))

        await there.until(true, what, patience=PATIENCE, attend=attend)

    async def _idle(self) -> None:
        """Until no Memcached is being worked on and none has changed for a while."""
        seen: list[str] = []
        since = time.monotonic()

        async def quiet() -> bool:
            nonlocal seen, since
            found = await self._world.list(MEMCACHED, self._namespace)
            now = [one["metadata"]["resourceVersion"] for one in found]
            waiting = all(condition(one, "Running").get("reason") == "Successful" for one in found)
            if now != seen or not waiting:
                seen, since = now, time.monotonic()
            return time.monotonic() - since > QUIET

        await until(quiet, "the operator is idle", patience=PATIENCE)


def _sized(keys: Sequence[ObjectKey], size: int) -> Condition:
    return lambda objects: all(key in objects and objects[key]["spec"]["replicas"] == size for key in keys)


async def _all(calls: Iterable[Awaitable[Any]]) -> None:
    """All of the calls, no more than 20 at a time."""
    limit = asyncio.Semaphore(20)

    async def one(call: Awaitable[Any]) -> None:
        async with limit:
            await call

    await asyncio.gather(*(one(call) for call in calls))


@contextlib.asynccontextmanager
async def _namespace(world: Cluster, name: str) -> AsyncIterator[None]:
    await prepare(world, name)
    try:
        yield
    finally:
        with contextlib.suppress(KubeError):
            await world.delete(NAMESPACE, ObjectKey("", name))


async def measure(
    kubeconfig: Path,
    commands: list[str],
    folder: Path,
    *,
    project: Path = ROOT,
    crs: int,
    changes: int,
    rests: Devcluster | None = None,
) -> list[dict[str, Any]]:
    """The figures of each command, in their order: {"operator": COMMAND, "crs": N, FIGURE: NUMBER, …}.

    `rests`: the cluster whose controllers are to do nothing meanwhile.
    """
    results = []
    async with Cluster.connected(kubeconfig) as world:
        for number, command in enumerate(commands):
            namespace = f"bench-{os.getpid()}-{number}"
            log = folder / f"operator-{number}.log"
            environ = {"KUBECONFIG": str(kubeconfig), "WATCH_NAMESPACE": namespace}
            click.echo(f"  {command}", err=True)
            async with _namespace(world, namespace):
                with (
                    resting(rests),
                    running(shlex.split(command), folder=project, log=log, environ=environ) as operator,
                ):
                    course = Course(world, operator, namespace, crs=crs, changes=changes)
                    try:
                        await course.run()
                    except AssertionError as error:
                        last = "\n".join(operator.output.splitlines()[-20:])
                        raise AssertionError(f"{command}: {error}\n{last}") from error
            results.append({"operator": command, "crs": crs, **course.figures})
    return results


def table(results: list[dict[str, Any]]) -> str:
    """One row a figure, one column an operator; with two or more operators, how the first compares with the last."""
    width = max(map(len, FIGURES.values()))
    lines = [f"[{number}] {result['operator']}   ({result['crs']} CRs)" for number, result in enumerate(results, 1)]
    lines += ["", " " * width + "".join(f"{f'[{number}]':>12}" for number in range(1, len(results) + 1))]
    for key, heading in FIGURES.items():
        row = f"{heading:<{width}}" + "".join(f"{result[key]:>12}" for result in results)
        if len(results) > 1:
            row += f"   [1]/[{len(results)}] = {results[0][key] / results[-1][key]:.2f}"
        lines.append(row)
    return "\n".join(lines)


def _own(folder: Path) -> list[str]:
    """The executors, with the same flags otherwise."""
    common = [*RUN, *FREE_PORTS, f"--runs-dir={folder / 'runs'}"]
    return [shlex.join([*common, f"--executor={executor}"]) for executor in ("warm", "subprocess")]


@click.command(help=__doc__)
@click.option("--project", type=click.Choice(["example", "one", "ten"]), default="example", show_default=True)
@click.option("--operator", "commands", multiple=True, help="A command line to run as the operator; may be repeated.")
@click.option("--crs", type=click.IntRange(1), default=30, show_default=True, help="How many Memcacheds.")
@click.option("--changes", type=click.IntRange(2), default=20, show_default=True, help="How many changes at idle.")
@click.option(
    "--controllers/--no-controllers",
    default=False,
    show_default=True,
    help="Whether the cluster's own controllers work meanwhile, on the same processors; with $KUBECONFIG they do.",
)
@click.option("--json", "target", type=click.Path(dir_okay=False, path_type=Path), help="Also write the figures here.")
def main(project: str, commands: tuple[str, ...], crs: int, changes: int, controllers: bool, target: Path | None) -> None:
    folder = Path(tempfile.mkdtemp(prefix="rolerunner-bench-"))
    operators = list(commands) or _own(folder)
    where = ROOT if project == "example" else projects.write(folder / project, tasks={"one": 1, "ten": 10}[project])
    tidy_on_sigterm()
    try:
        with contextlib.ExitStack() as stack:
            kubeconfig, own = stack.enter_context(some_cluster())
            rests = None if controllers else own
            measuring = measure(kubeconfig, operators, folder, project=where, crs=crs, changes=changes, rests=rests)
            results = asyncio.run(measuring)
    except (AssertionError, KubeError, DevclusterError, ConfigurationError, OSError) as error:
        click.echo(f"{click.style('✗', fg='red')} {error}", err=True)
        sys.exit(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    click.echo(table(results))
    click.echo()
    click.echo(json.dumps(results))
    if target:
        target.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
