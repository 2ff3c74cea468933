"""How the cost of a reconcile grows with CRs, tasks and dependents, and what it is made of: `python -m bench.growth`.

The warm executor on projects of `bench.projects`, on a cluster of its own, whose controllers rest, or that of
$KUBECONFIG. For each size all CRs are changed at once; what counts is the time until all Deployments are as wanted,
the processor time of all the operator's processes, and its own account of a reconcile's parts
(`rolerunner_phase_seconds`). `--plot FILE.svg` draws them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from prometheus_client.parser import text_string_to_metric_families

from bench import projects
from bench.driver import (
    DEPLOYMENT,
    MEMCACHED,
    NAMESPACE,
    RUN,
    Cluster,
    free_port,
    is_done,
    memcached,
    prepare,
    resting,
    running,
    some_cluster,
    tidy_on_sigterm,
)
from devkit.devcluster.cluster import Cluster as Devcluster
from runner.resource.metadata import Object, ObjectKey

PATIENCE = 3600.0
# The parts of a reconcile, in the order in which it happens.
PHASES = ("queue", "read", "start", "tasks", "end", "status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    crs: int
    tasks: int = 1
    dependents: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one size. Milliseconds are means over the burst's reconciles; memory is PSS in MB, at idle after it."""

    size: Size
    per_second: float
    processor_ms: float
    phases_ms: dict[str, float]
    idle_mb: float


SWEEPS: dict[str, list[Size]] = {
    "crs": [Size(crs=number) for number in (10, 100, 1000)],
    "crs, ten tasks": [Size(crs=number, tasks=10) for number in (10, 100, 1000)],
    "tasks": [Size(crs=20, tasks=number) for number in (1, 5, 10, 20)],
    "dependents": [Size(crs=20, dependents=number) for number in (1, 10, 50)],
}


def _phases(port: int) -> dict[str, tuple[float, float]]:
    """(seconds, how many) by phase, since the operator's start."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    found: dict[str, list[float]] = {}
    names = {"rolerunner_phase_seconds": "phase", "workqueue_queue_duration_seconds": None}
    for family in text_string_to_metric_families(text):
        if family.name in names:
            for sample in family.samples:
                phase = sample.labels.get("phase", "queue")
                sums = found.setdefault(phase, [0.0, 0.0])
                sums[0] += sample.value if sample.name.endswith("_sum") else 0
                sums[1] += sample.value if sample.name.endswith("_count") else 0
    return {phase: (sums[0], sums[1]) for phase, sums in found.items()}


def _means(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, float]:
    means = {}
    for phase, (seconds, count) in after.items():
        seconds_before, count_before = before.get(phase, (0.0, 0.0))
        means[phase] = 1000 * (seconds - seconds_before) / max(1.0, count - count_before)
    return {phase: round(means.get(phase, 0.0), 2) for phase in PHASES}


async def measure(world: Cluster, cluster: Devcluster | None, kubeconfig: Path, folder: Path, size: Size) -> Cost:
    namespace = f"bench-{os.getpid()}-{size.crs}-{size.tasks}-{size.dependents}"
    project = projects.write(folder / namespace, tasks=size.tasks, dependents=size.dependents)
    port = free_port()
    command = [*RUN, "--proxy-port=0", "--health-probe-bind-address=0", "--role-metrics-bind-address=0"]
    command += [f"--metrics-bind-address=127.0.0.1:{port}", f"--runs-dir={project / 'runs'}"]
    environ = {"KUBECONFIG": str(kubeconfig), "WATCH_NAMESPACE": namespace, "ANSIBLE_GATHERING": "explicit"}
    keys = [ObjectKey(namespace, f"m-{number}") for number in range(size.crs)]
    await prepare(world, namespace)

    def idle(objects: Mapping[ObjectKey, Object]) -> bool:
        return all(key in objects and is_done(objects[key]) for key in keys)

    def resized(objects: Mapping[ObjectKey, Object]) -> bool:
        return all(key in objects and objects[key]["spec"]["replicas"] == 0 for key in keys)

    try:
        with resting(cluster), running(command, folder=project, log=folder / "log", environ=environ) as operator:
            async with world.following(MEMCACHED, namespace) as crs, world.following(DEPLOYMENT, namespace) as deployments:
                for key in keys:
                    await world.create(memcached(key.name, 1), namespace)
                await crs.until(idle, f"{size.crs} CRs are made", patience=PATIENCE)
                before, used = _phases(port), sum(operator.processor_seconds())
                begun = time.monotonic()
                for key in keys:
                    await world.patch(MEMCACHED, key, {"spec": {"size": 0}})
                await deployments.until(resized, "all Deployments are changed", patience=PATIENCE)
                seconds = time.monotonic() - begun
                await crs.until(idle, "all CRs are done", patience=PATIENCE)
            return Cost(
                size=size,
                per_second=round(size.crs / seconds, 2),
                processor_ms=round(1000 * (sum(operator.processor_seconds()) - used) / size.crs, 1),
                phases_ms=_means(before, _phases(port)),
                idle_mb=operator.memory()["pss_mb"],
            )
    finally:
        await world.delete(NAMESPACE, ObjectKey("", namespace))


def table(costs: Iterable[Cost]) -> str:
    """In Markdown."""
    heads = ("CRs", "tasks", "dependents", "per second", "processor, ms", *(f"{phase}, ms" for phase in PHASES), "idle, MB")
    rows = [heads, tuple("---:" for _ in heads)]
    for cost in costs:
        size = cost.size
        figures = (size.crs, size.tasks, size.dependents, cost.per_second, cost.processor_ms, *cost.phases_ms.values())
        rows.append((*map(str, figures), str(cost.idle_mb)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def plot(found: dict[str, list[Cost]], path: Path) -> None:
    """The parts of a reconcile, without its waiting, for each size of each sweep."""
    # Not needed for anything else: `pip install -e '.[bench]'`.
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(4 * len(found), 4), layout="constrained", sharey=True)
    for axis, (name, costs) in zip(axes, found.items(), strict=True):
        labels = [str(_varied(name, cost.size)) for cost in costs]
        bottom = [0.0] * len(costs)
        for phase in PHASES[1:]:
            heights = [cost.phases_ms[phase] for cost in costs]
            axis.bar(labels, heights, bottom=bottom, label=phase)
            bottom = [low + high for low, high in zip(bottom, heights, strict=True)]
        axis.set_xlabel(name)
    axes[0].set_ylabel("ms a reconcile, two at a time")
    axes[-1].legend()
    figure.savefig(path)


def _varied(sweep: str, size: Size) -> int:
    return {"tasks": size.tasks, "dependents": size.dependents}.get(sweep, size.crs)


async def _all(
    cluster: Devcluster | None, kubeconfig: Path, folder: Path, sweeps: Sequence[str], most: int
) -> dict[str, list[Cost]]:
    found: dict[str, list[Cost]] = {}
    async with Cluster.connected(kubeconfig) as world:
        for name in sweeps:
            for size in SWEEPS[name]:
                if size.crs <= most:
                    click.echo(f"  {size}", err=True)
                    found.setdefault(name, []).append(await measure(world, cluster, kubeconfig, folder, size))
    return found


@click.command(help=__doc__)
@click.option("--sweep", "sweeps", multiple=True, type=click.Choice(list(SWEEPS)), help="Only this; may be repeated.")
@click.option("--most", type=int, default=1000, show_default=True, help="Leave out sizes of more CRs.")
@click.option("--plot", "drawing", type=click.Path(dir_okay=False, path_type=Path), help="Draw the phases, as SVG or PNG.")
def main(sweeps: tuple[str, ...], most: int, drawing: Path | None) -> None:
    tidy_on_sigterm()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rolerunner-growth-")))
        kubeconfig, cluster = stack.enter_context(some_cluster())
        found = asyncio.run(_all(cluster, kubeconfig, folder, sweeps or list(SWEEPS), most))
    costs: list[Any] = [cost for some in found.values() for cost in some]
    click.echo(table(costs))
    click.echo(json.dumps([asdict(cost) for cost in costs]))
    if drawing:
        plot(found, drawing)


if __name__ == "__main__":
    main()
