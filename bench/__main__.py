"""The figures: `make bench`, or `python -m bench --crs 100 --operator 'COMMAND' --operator 'ANOTHER'`.

An operator is any command line that takes its cluster from $KUBECONFIG and its namespace from $WATCH_NAMESPACE, writes
ansible-operator's conditions, and watches what its CRs own. Without any, the two executors are compared. Their project is a
role made for the purpose: `--project one`, of one task; `--project ten`, of ten tasks with templates and loops; or the
example operator.

The operators take turns, on one cluster (one of its own, or that of $KUBECONFIG), so that what else happens on the machine
hits all alike. In each round each is started, gets a namespace and CRs of its own, is made warm by a burst that does not
count, is measured, and has ended before the next one starts: one at rest takes neither processor nor memory from who is
measured, and two may have the same ports. Told are medians over the rounds, and how many times the first operator's a
figure is.

Processor time of a reconcile is told for the API server with etcd (of a cluster of the bench's own), for the operator's
process (what the command line starts: give it as `env NAME=VALUE COMMAND` rather than in a shell), and for all processes
below it, those that have ended included. The bench's own is none of these.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import click

from bench import projects
from bench.course import Course
from bench.driver import (
    FREE_PORTS,
    NAMESPACE,
    ROOT,
    RUN,
    Cluster,
    prepare,
    resting,
    running,
    some_cluster,
    tidy_on_sigterm,
)
from bench.figures import Measured, as_json, table
from devkit.devcluster import DevclusterError
from devkit.devcluster.cluster import Cluster as Devcluster
from runner.errors import ConfigurationError
from runner.kube.client import KubeError
from runner.resource.metadata import ObjectKey

# What an operator's environment has of it. Facts are gathered unless it says otherwise.
GATHERING: dict[str, dict[str, str]] = {"with": {}, "without": {"ANSIBLE_GATHERING": "explicit"}}


@contextlib.asynccontextmanager
async def _namespace(world: Cluster, name: str) -> AsyncIterator[None]:
    await prepare(world, name)
    try:
        yield
    finally:
        with contextlib.suppress(KubeError):
            await world.delete(NAMESPACE, ObjectKey("", name))


class Bench:
    """What all operators have in common."""

    def __init__(
        self, kubeconfig: Path, devcluster: Devcluster | None, folder: Path, project: Path, *, crs: int, changes: int
    ):
        self._kubeconfig = kubeconfig
        self._devcluster = devcluster
        self._folder = folder
        self._project = project
        self._crs = crs
        self._changes = changes

    async def measure(
        self, commands: Sequence[str], facts: Sequence[str], *, rounds: int, controllers: bool
    ) -> list[Measured]:
        """`controllers`: whether the cluster's own work meanwhile."""
        cases = [(command, gathering) for gathering in facts for command in commands]
        found: list[list[dict[str, float]]] = [[] for _ in cases]
        async with Cluster.connected(self._kubeconfig) as world, contextlib.AsyncExitStack() as stack:
            names = [f"bench-{os.getpid()}-{number}" for number in range(rounds * len(cases))]
            for name in names:
                await stack.enter_async_context(_namespace(world, name))
            # Also between the rounds: they would take the time of the next one.
            with resting(None if controllers else self._devcluster):
                for number, name in enumerate(names):
                    command, gathering = cases[number % len(cases)]
                    click.echo(f"  round {number // len(cases) + 1}, {gathering} facts: {command}", err=True)
                    found[number % len(cases)].append(await self._round(world, command, gathering, name))
        return [Measured(*case, rounds=figures) for case, figures in zip(cases, found, strict=True)]

    async def _round(self, world: Cluster, command: str, gathering: str, namespace: str) -> dict[str, float]:
        environ = {
            "KUBECONFIG": str(self._kubeconfig),
            "WATCH_NAMESPACE": namespace,
            # Not this checkout's, as the operator may be another one's.
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            **GATHERING[gathering],
        }
        log = self._folder / f"{namespace}.log"
        with running(shlex.split(command), folder=self._project, log=log, environ=environ) as operator:
            course = Course(world, operator, namespace, crs=self._crs, changes=self._changes, devcluster=self._devcluster)
            try:
                await course.run()
            except AssertionError as error:
                last = "\n".join(operator.output.splitlines()[-20:])
                raise AssertionError(f"{command}: {error}\n{last}") from error
        return course.figures


def _own(folder: Path) -> list[str]:
    """The executors, with the same flags otherwise."""
    common = [*RUN, *FREE_PORTS, f"--runs-dir={folder / 'runs'}"]
    return [shlex.join([*common, f"--executor={executor}"]) for executor in ("warm", "subprocess")]


@click.command(help=__doc__)
@click.option("--project", type=click.Choice(["example", "one", "ten"]), default="one", show_default=True)
@click.option("--operator", "commands", multiple=True, help="A command line to run as the operator; may be repeated.")
@click.option("--facts", type=click.Choice(["with", "without", "both"]), default="with", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--crs", type=click.IntRange(1), default=30, show_default=True, help="How many Memcacheds.")
@click.option(
    "--changes", type=click.IntRange(1), default=5, show_default=True, help="How many changes at idle, each round."
)
@click.option(
    "--controllers/--no-controllers",
    default=False,
    show_default=True,
    help="Whether the cluster's own controllers work meanwhile, on the same processors; with $KUBECONFIG they do.",
)
@click.option("--json", "target", type=click.Path(dir_okay=False, path_type=Path), help="Also write the figures here.")
def main(
    project: str,
    commands: tuple[str, ...],
    facts: str,
    rounds: int,
    crs: int,
    changes: int,
    controllers: bool,
    target: Path | None,
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="rolerunner-bench-"))
    operators = list(commands) or _own(folder)
    where = ROOT if project == "example" else projects.write(folder / project, tasks={"one": 1, "ten": 10}[project])
    # The option says it.
    os.environ.pop("ANSIBLE_GATHERING", None)
    tidy_on_sigterm()
    try:
        with contextlib.ExitStack() as stack:
            kubeconfig, own = stack.enter_context(some_cluster())
            bench = Bench(kubeconfig, own, folder, where, crs=crs, changes=changes)
            gathering = list(GATHERING) if facts == "both" else [facts]
            measured = asyncio.run(bench.measure(operators, gathering, rounds=rounds, controllers=controllers))
    except (AssertionError, KubeError, DevclusterError, ConfigurationError, OSError) as error:
        click.echo(f"{click.style('✗', fg='red')} {error}", err=True)
        sys.exit(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    click.echo(table(measured))
    click.echo(f"\nproject {project}, {crs} CRs, medians of {rounds} rounds\n")
    result = {"project": project, "crs": crs, "operators": as_json(measured)}
    click.echo(json.dumps(result))
    if target:
        target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
