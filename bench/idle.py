"""What an operator costs that has nothing to do: `python -m bench.idle --crs 500 --dependents 3 --seconds 60`.

CRs of a kind of its own, each with as many ConfigMaps, on a cluster of its own or that of $KUBECONFIG; when all are
Successful and nothing runs, the processor time of all the operator's processes is measured, and their memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import time
from pathlib import Path

import click

from bench.driver import (
    FREE_PORTS,
    NAMESPACE,
    RUN,
    Cluster,
    crd,
    create_and_settle,
    one_role_project,
    prepare,
    running,
    some_cluster,
    tidy_on_sigterm,
)
from runner.resource.metadata import GroupVersionKind, ObjectKey

HOLDER = GroupVersionKind("bench.example.com", "v1", "Holder")
PATIENCE = 3600.0
# Seconds: what a run leaves to be done is over by then.
SETTLE = 10.0


def project(folder: Path, dependents: int) -> None:
    """A role that makes so many ConfigMaps in one task, and the watch for it."""
    tasks = [
        {
            "kubernetes.core.k8s": {
                "definition": [
                    {
                        "apiVersion": "v1",
                        "kind": "ConfigMap",
                        "metadata": {
                            "name": f"{{{{ ansible_operator_meta.name }}}}-{number}",
                            "namespace": "{{ ansible_operator_meta.namespace }}",
                        },
                        "data": {"number": str(number)},
                    }
                    for number in range(dependents)
                ]
            }
        }
    ]
    one_role_project(folder, HOLDER, tasks)


async def measure(kubeconfig: Path, folder: Path, *, crs: int, dependents: int, seconds: float) -> dict[str, float]:
    """Processor share of one core in percent, and memory in MB."""
    project(folder, dependents)
    namespace = f"bench-idle-{os.getpid()}"
    async with Cluster.connected(kubeconfig) as world:
        await prepare(world, namespace)
        await world.install(crd(HOLDER))
        command = [*RUN, *FREE_PORTS, f"--runs-dir={folder / 'runs'}"]
        environ = {"KUBECONFIG": str(kubeconfig), "WATCH_NAMESPACE": namespace, "ANSIBLE_GATHERING": "explicit"}
        try:
            with running(command, folder=folder, log=folder / "log", environ=environ) as operator:
                await create_and_settle(world, operator, HOLDER, namespace, crs=crs, patience=PATIENCE)
                await asyncio.sleep(SETTLE)
                begun, used = time.monotonic(), sum(operator.processor_seconds())
                await asyncio.sleep(seconds)
                share = (sum(operator.processor_seconds()) - used) / (time.monotonic() - begun)
                return {"idle_cpu_percent": round(100 * share, 2), **operator.memory()}
        finally:
            await world.delete(NAMESPACE, ObjectKey("", namespace))


@click.command(help=__doc__)
@click.option("--crs", type=click.IntRange(1), default=500, show_default=True)
@click.option("--dependents", type=click.IntRange(0), default=3, show_default=True, help="ConfigMaps for each CR.")
@click.option("--seconds", type=click.FloatRange(1), default=60, show_default=True, help="How long idling is measured.")
def main(crs: int, dependents: int, seconds: float) -> None:
    tidy_on_sigterm()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rolerunner-idle-")))
        kubeconfig, _ = stack.enter_context(some_cluster())
        figures = asyncio.run(measure(kubeconfig, folder, crs=crs, dependents=dependents, seconds=seconds))
    click.echo(json.dumps({"crs": crs, "dependents": dependents, **figures}))


if __name__ == "__main__":
    main()
