"""Whether anything grows: `python -m bench.soak --reconciles 10000` changes CRs so often, and looks every so many.

After the first 500 reconciles neither memory, nor descriptors, processes, run folders or temporary files should become
more. On a cluster of its own or that of $KUBECONFIG. The exit code is 1 if something has grown.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

import click

from bench.driver import (
    FREE_PORTS,
    NAMESPACE,
    RUN,
    Cluster,
    Operator,
    crd,
    is_done,
    prepare,
    running,
    some_cluster,
    tidy_on_sigterm,
    until,
)
from bench.idle import HOLDER, project
from runner.resource.metadata import ObjectKey

PATIENCE = 3600.0
CRS = 20
# What memory may vary by from one look to another, in MB and as a share: allocators keep what they once had.
TOLERANCE_MB, TOLERANCE = 8.0, 0.06
# The processes when nothing has been on for a while: the runner, a guard, the fork server, and one worker of the watch.
AT_REST = 4


def look(operator: Operator, temporary: Path, runs: Path) -> dict[str, float]:
    processes = operator.processes()
    descriptors = 0
    for pid in processes:
        with contextlib.suppress(OSError):
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
    memory = operator.memory()
    # Becomes more when another process that has the same files open ends, and with the age of the worker at rest.
    del memory["pss_mb"]
    return {
        **memory,
        "descriptors": descriptors,
        "processes": len(processes),
        "temporary_files": sum(1 for _ in temporary.rglob("*")),
        "run_files": sum(1 for _ in runs.rglob("*")),
    }


def grown(first: dict[str, float], last: dict[str, float]) -> list[str]:
    """What is more than it was, beyond what varies."""
    found = []
    for name, before in first.items():
        allowed = max(TOLERANCE_MB, before * TOLERANCE) if name.endswith("_mb") else 2
        if last[name] > before + allowed:
            found.append(f"{name}: {before} → {last[name]}")
    return found


async def measure(kubeconfig: Path, folder: Path, *, reconciles: int, every: int) -> list[dict[str, float]]:
    project(folder, dependents=2)
    namespace = f"bench-soak-{os.getpid()}"
    temporary, runs = folder / "tmp", folder / "runs"
    temporary.mkdir()
    environ = {
        **{"KUBECONFIG": str(kubeconfig), "WATCH_NAMESPACE": namespace, "ANSIBLE_GATHERING": "explicit"},
        **{"TMPDIR": str(temporary), "HOME": str(temporary)},
    }
    looks: list[dict[str, float]] = []
    async with Cluster.connected(kubeconfig) as world:
        await prepare(world, namespace)
        await world.install(crd(HOLDER))
        keys = [ObjectKey(namespace, f"h{number}") for number in range(CRS)]
        try:
            with running(
                [*RUN, *FREE_PORTS, f"--runs-dir={runs}"], folder=folder, log=folder / "log", environ=environ
            ) as operator:
                for key in keys:
                    await world.create(
                        {"apiVersion": HOLDER.api_version, "kind": HOLDER.kind, "metadata": {"name": key.name}}, namespace
                    )
                for change in range(reconciles // CRS + 1):

                    async def done() -> bool:
                        return all(map(is_done, await world.list(HOLDER, namespace)))

                    async def at_rest() -> bool:
                        return len(operator.processes()) == AT_REST

                    if change:
                        for key in keys:
                            await world.patch(HOLDER, key, {"spec": {"change": change}})
                    await until(done, f"change {change} is over", patience=PATIENCE, interval=0.2)
                    count = (change + 1) * CRS
                    if count % every < CRS:
                        await until(at_rest, "one worker waits for the next run", patience=PATIENCE)
                        looks.append({"reconciles": count, **look(operator, temporary, runs)})
                        click.echo(json.dumps(looks[-1]), err=True)
        finally:
            await world.delete(NAMESPACE, ObjectKey("", namespace))
    return looks


@click.command(help=__doc__)
@click.option("--reconciles", type=click.IntRange(1000), default=10_000, show_default=True)
@click.option("--every", type=click.IntRange(100), default=1000, show_default=True, help="Reconciles from look to look.")
def main(reconciles: int, every: int) -> None:
    tidy_on_sigterm()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rolerunner-soak-")))
        kubeconfig, _ = stack.enter_context(some_cluster())
        looks = asyncio.run(measure(kubeconfig, folder, reconciles=reconciles, every=every))
    first = next(one for one in looks if one["reconciles"] >= 500)
    first, last = ({name: value for name, value in one.items() if name != "reconciles"} for one in (first, looks[-1]))
    more = grown(first, last)
    click.echo("\n".join(more) or "Nothing has grown.")
    sys.exit(1 if more else 0)


if __name__ == "__main__":
    main()
