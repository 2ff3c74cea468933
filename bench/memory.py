"""What an operator keeps of a cluster that is not its own: `python -m bench.memory --secrets 20000 --size 20000 --crs 100`.

CRs whose role makes one Secret each, first alone, then beside so many Secrets of others in a namespace of theirs, on a
cluster of its own or that of $KUBECONFIG. Each time the memory of the runner's process is told, the most and when all is
settled, and that of all its processes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import click

from bench.driver import (
    FREE_PORTS,
    NAMESPACE,
    RUN,
    Cluster,
    Operator,
    crd,
    create_and_settle,
    one_role_project,
    prepare,
    running,
    some_cluster,
    tidy_on_sigterm,
)
from runner.kube.client import Conflict
from runner.resource.metadata import GroupVersionKind, ObjectKey

KEEPER = GroupVersionKind("bench.example.com", "v1", "Keeper")
PATIENCE = 3600.0
# Seconds: what a list leaves to be done is over by then.
SETTLE = 20.0
# At once, when Secrets are created.
_CONNECTIONS = 16


def project(folder: Path) -> None:
    """A role that makes one Secret, and the watch for it."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "{{ ansible_operator_meta.name }}", "namespace": "{{ ansible_operator_meta.namespace }}"},
        "stringData": {"key": "value"},
    }
    one_role_project(folder, KEEPER, [{"kubernetes.core.k8s": {"definition": secret}}])


async def fill(world: Cluster, namespace: str, *, secrets: int, size: int) -> None:
    """Create so many Secrets of so many bytes."""
    with contextlib.suppress(Conflict):
        await world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    numbers = iter(range(secrets))

    async def create() -> None:
        for number in numbers:
            data = {"data": base64.b64encode(os.urandom(size)).decode()}
            metadata = {"name": f"foreign-{number}", "labels": {"app": "foreign", "number": str(number)}}
            await world.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}, namespace)
            if number % 1000 == 0:
                click.echo(f"\r  {number} of {secrets} Secrets", nl=False, err=True)

    await asyncio.gather(*(create() for _ in range(_CONNECTIONS)))
    click.echo(err=True)


def memory(operator: Operator) -> dict[str, float]:
    """MB: of the runner's own process, as it is and at its most; of all its processes, shared pages counted once."""
    kilobytes: dict[str, float] = {}
    for file in ("status", "smaps_rollup"):
        for line in Path(f"/proc/{operator.process.pid}/{file}").read_text().splitlines():
            name, _, rest = line.partition(":")
            kilobytes[name] = float(rest.split()[0]) if rest.strip().endswith("kB") else 0
    figures = {"rss_mb": "VmRSS", "pss_mb": "Pss", "peak_rss_mb": "VmHWM"}
    return {
        **{name: round(kilobytes[field] / 1024, 1) for name, field in figures.items()},
        "all_pss_mb": operator.memory()["pss_mb"],
    }


async def measure(world: Cluster, kubeconfig: Path, folder: Path, *, crs: int) -> dict[str, float]:
    """The memory of an operator that has made one Secret for each of so many CRs, in the whole cluster."""
    namespace = f"bench-memory-{os.getpid()}-{folder.name}"
    project(folder)
    await prepare(world, namespace)
    await world.install(crd(KEEPER))
    command = [*RUN, *FREE_PORTS, f"--runs-dir={folder / 'runs'}"]
    environ = {"KUBECONFIG": str(kubeconfig), "WATCH_NAMESPACE": "", "ANSIBLE_GATHERING": "explicit"}
    try:
        with running(command, folder=folder, log=folder / "log", environ=environ) as operator:
            await create_and_settle(world, operator, KEEPER, namespace, crs=crs, patience=PATIENCE)
            await asyncio.sleep(SETTLE)
            return memory(operator)
    finally:
        await world.delete(NAMESPACE, ObjectKey("", namespace))


async def compare(kubeconfig: Path, folder: Path, *, secrets: int, size: int, crs: int) -> list[dict[str, Any]]:
    """Without others' Secrets, and with them."""
    results: list[dict[str, Any]] = []
    foreign = f"bench-foreign-{os.getpid()}"
    async with Cluster.connected(kubeconfig) as world:
        try:
            for count, place in zip((0, secrets), itertools.count()):
                if count:
                    await fill(world, foreign, secrets=count, size=size)
                own = folder / f"m{place}"
                own.mkdir()
                results.append({"secrets": count, **await measure(world, kubeconfig, own, crs=crs)})
                click.echo(f"  {results[-1]}", err=True)
        finally:
            await world.delete(NAMESPACE, ObjectKey("", foreign))
    return results


@click.command(help=__doc__)
@click.option("--secrets", type=click.IntRange(0), default=20_000, show_default=True, help="Others' Secrets.")
@click.option("--size", type=click.IntRange(1), default=20_000, show_default=True, help="Bytes of each.")
@click.option("--crs", type=click.IntRange(1), default=100, show_default=True)
def main(secrets: int, size: int, crs: int) -> None:
    tidy_on_sigterm()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rolerunner-memory-")))
        kubeconfig, _ = stack.enter_context(some_cluster())
        results = asyncio.run(compare(kubeconfig, folder, secrets=secrets, size=size, crs=crs))
    without, beside = results
    more = {name: round(beside[name] - without[name], 1) for name in without if name.endswith("_mb")}
    click.echo(json.dumps({"crs": crs, "size": size, "without": without, "beside": beside, "more": more}))


if __name__ == "__main__":
    main()
