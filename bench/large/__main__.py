"""What many CRs cost that do not change: `python -m bench.large --crs 1000 --crs 3000 --crs 10000`.

CRs of a kind of its own, each with a ConfigMap and a Service, on a cluster of its own or that of $KUBECONFIG. An
operator makes one of them; the others are copied from it, with their dependents and status, as an earlier operator
would have left them. Then the operator is started again, all CRs are found by listing, and nothing has to be changed.
Measured are the start, the pass over all CRs that follows it, a minute at idle, and a part of the next pass, which the
reconcile period causes; and how long a new CR takes, which is created every few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from pathlib import Path

import click

from bench.driver import RUN, Cluster, crd, free_port, resting, running, some_cluster, tidy_on_sigterm
from bench.large.course import SETTLE, Course, server_counters
from bench.large.subject import Figures, Subject
from bench.large.table import table
from bench.large.world import PAIR, World, project
from devkit.devcluster.cluster import Cluster as Devcluster

# CRs a second; a slow machine does as many.
_SLOWEST = 15


async def measure(
    kubeconfig: Path,
    own: Devcluster | None,
    folder: Path,
    *,
    crs: int,
    idle: float,
    window: float,
    sample: float | None = None,
) -> Figures:
    """The figures of one size."""
    # The first pass and the minute at idle are over by then, even on a slow machine.
    period = 1.2 * (crs / _SLOWEST + idle + 2 * SETTLE)
    project(folder, period)
    health, metrics = free_port(), free_port()
    command = [*RUN, "--proxy-port=0", "--role-metrics-bind-address=0", f"--runs-dir={folder / 'runs'}"]
    command += [f"--health-probe-bind-address=127.0.0.1:{health}", f"--metrics-bind-address=127.0.0.1:{metrics}"]
    environ = {"KUBECONFIG": str(kubeconfig), "WATCH_NAMESPACE": "", "ANSIBLE_GATHERING": "explicit"}
    async with Cluster.connected(kubeconfig) as cluster:
        await cluster.install(crd(PAIR))
        world = World(cluster, folder, crs)
        try:
            with resting(own):
                await world.make(command, environ)
                before, counters = await world.completions(), await server_counters(world)
                begun = time.monotonic()
                with running(command, folder=folder, log=folder / "log", environ=environ) as operator:
                    subject = Subject(operator, f"http://127.0.0.1:{metrics}/metrics", f"http://127.0.0.1:{health}/readyz")
                    course = Course(world, subject, idle=idle, window=window, sample=sample, begun=begun)
                    return await course.run(before, counters)
        finally:
            await world.remove()


@click.command(help=__doc__)
@click.option(
    "--crs", "sizes", multiple=True, type=click.IntRange(10), default=[1000], show_default=True, help="May be repeated."
)
@click.option(
    "--idle", type=click.FloatRange(1), default=60, show_default=True, help="Seconds for which idling is measured."
)
@click.option("--window", type=click.FloatRange(1), default=60, show_default=True, help="Seconds of the periodic pass.")
@click.option("--sample", type=click.FloatRange(1), help="End after so many seconds of the first pass.")
def main(sizes: tuple[int, ...], idle: float, window: float, sample: float | None) -> None:
    tidy_on_sigterm()
    results = []
    for crs in sizes:
        # A cluster for each: etcd and the API server keep what was there.
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rolerunner-large-")))
            kubeconfig, own = stack.enter_context(some_cluster())
            try:
                results.append(
                    asyncio.run(measure(kubeconfig, own, folder, crs=crs, idle=idle, window=window, sample=sample))
                )
            except AssertionError as error:
                log = folder / "log"
                last = "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.exists() else ""
                raise click.ClickException(f"{error}\n{last}") from error
        click.echo(json.dumps(results[-1]))
    click.echo(table(results))


if __name__ == "__main__":
    main()
