"""Shards of a ring, simulated: `python -m bench.scale --shards 1 --shards 4 --shards 16 --crs 640`.

A shard is the operator, with its Lease, watches, work queue and status, in a process of its own; but a run waits instead of
playing a role, so that two processors suffice for many of them. The sharder is the stand-in of `tests.sharding`, or with
`--sharder` that of kubernetes-controller-sharding. On a cluster of its own, whose controllers rest, or that of $KUBECONFIG.

With each number of shards, the most first, all CRs are edited at once. With one of these numbers, while CRs are edited, a
shard is then killed, one is added, one is ended, and one is added. A run holds a lock on its CR: whenever a CR is run by two
at once, that is counted, and the exit code is 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bench.driver import NAMESPACE, Cluster, crd, resting, some_cluster, tidy_on_sigterm
from bench.scale.course import Burst, Course, Event
from bench.scale.shards import KIND, Options, Shards
from devkit.devcluster.cluster import Cluster as Devcluster
from runner.resource.metadata import ObjectKey
from tests.sharding import setup

_MAIN_KIND = f"{KIND.kind.lower()}s.{KIND.group}"


async def simulate(
    kubeconfig: Path,
    devcluster: Devcluster | None,
    folder: Path,
    *,
    sharder: Path | None = None,
    crds: Path | None = None,
    crs: int,
    numbers: Sequence[int],
    events_at: int,
    options: Options,
    edits: float,
    quiet: float,
) -> Course:
    """The course with its figures. `sharder`, `crds`: the sharder's own program and CRD, if it is not the stand-in."""
    namespace = ring = f"bench-scale-{os.getpid()}"
    async with contextlib.AsyncExitStack() as stack:
        world = await stack.enter_async_context(Cluster.connected(kubeconfig))
        await world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        stack.push_async_callback(world.delete, NAMESPACE, ObjectKey("", namespace))
        await world.install(crd(KIND))
        stack.push_async_callback(setup.uninstall, world, ring)
        await setup.install(world, ring, {_MAIN_KIND: ()}, crds=crds)
        shards = Shards(kubeconfig, folder, namespace, ring, options)
        stack.callback(setup.start(kubeconfig, folder, executable=sharder).kill)
        stack.callback(shards.kill_all)
        course = Course(
            world,
            devcluster,
            shards,
            folder,
            namespace=namespace,
            ring=ring,
            crs=crs,
            edits=edits,
            quiet=quiet,
        )
        stack.enter_context(resting(devcluster))
        await course.run(numbers, events_at)
    return course


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---:" for _ in heads], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bursts_table(bursts: Sequence[Burst]) -> str:
    """In Markdown, the fewest shards first; what is relative is so to them."""
    ordered = sorted(bursts, key=lambda burst: burst.shards)
    one = ordered[0].per_second / ordered[0].shards
    rows = [
        (
            str(burst.shards),
            f"{burst.per_second:.1f}",
            f"{burst.per_second / one:.2f}",
            f"{100 * burst.per_second / one / burst.shards:.0f} %",
            f"{burst.shares[0]:.2f} to {burst.shares[-1]:.2f}",
            f"{100 / burst.shares[-1]:.0f} %",
            f"{burst.shards_cores:.2f}",
            "–" if burst.api_cores is None else f"{burst.api_cores:.2f}",
            f"{burst.shard_mb:.0f}",
        )
        for burst in ordered
    ]
    heads = (
        *("shards", "reconciles a second", "times one shard", "efficiency", "CRs of a shard, of the mean"),
        *("at most, so balanced", "cores, shards", "cores, API server and etcd", "MB a shard"),
    )
    return _markdown(heads, rows)


def events_table(events: Sequence[Event]) -> str:
    """In Markdown."""
    rows = [
        (
            f"{event.name}, {event.shards} before",
            f"{event.moved} ({event.ideal:.0f})",
            f"{event.seconds:.1f}",
            " / ".join(f"{seconds:.1f}" for seconds in event.without_owner),
            " / ".join(f"{seconds:.1f}" for seconds in event.next_run),
            str(event.runs_cut),
        )
        for event in events
    ]
    heads = (
        "event",
        "CRs moved (ideal)",
        "seconds for all",
        "seconds without an owner",
        "seconds to the next run",
        "runs cut",
    )
    return _markdown(heads, rows)


def as_json(course: Course) -> Mapping[str, Any]:
    return {
        "bursts": [asdict(burst) for burst in course.bursts],
        "events": [asdict(event) for event in course.events],
        "overlaps": course.overlaps(),
    }


@click.command(help=__doc__)
@click.option("--shards", "numbers", type=click.IntRange(1), multiple=True, default=(1, 2, 4, 8, 16), show_default=True)
@click.option("--events-at", type=click.IntRange(2), default=4, show_default=True, help="How many shards there are then.")
@click.option("--crs", type=click.IntRange(1), default=640, show_default=True)
@click.option("--run-seconds", type=click.FloatRange(0), default=1.0, show_default=True, help="How long a run waits.")
@click.option("--at-once", type=click.IntRange(1), default=4, show_default=True, help="Runs of a shard at once.")
@click.option("--lease-duration", type=click.FloatRange(1), default=15.0, show_default=True)
@click.option("--renew-deadline", type=click.FloatRange(0.5), default=10.0, show_default=True)
@click.option("--edits", type=click.FloatRange(0.1), default=4.0, show_default=True, help="A second, during the events.")
@click.option(
    "--quiet", type=click.FloatRange(0), default=8.0, show_default=True, help="No move is to come after so many s."
)
@click.option("--sharder", type=click.Path(exists=True, path_type=Path), help="The sharder's program.")
@click.option("--sharder-crds", "crds", type=click.Path(exists=True, path_type=Path), help="File or folder of its CRD.")
def main(
    numbers: tuple[int, ...],
    events_at: int,
    crs: int,
    run_seconds: float,
    at_once: int,
    lease_duration: float,
    renew_deadline: float,
    edits: float,
    quiet: float,
    sharder: Path | None,
    crds: Path | None,
) -> None:
    tidy_on_sigterm()
    options = Options(run_seconds=run_seconds, at_once=at_once, lease_duration=lease_duration, renew_deadline=renew_deadline)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rolerunner-scale-")))
        kubeconfig, devcluster = stack.enter_context(some_cluster())
        course = asyncio.run(
            simulate(
                kubeconfig,
                devcluster,
                folder,
                sharder=sharder,
                crds=crds,
                crs=crs,
                numbers=numbers,
                events_at=events_at,
                options=options,
                edits=edits,
                quiet=quiet,
            )
        )
    click.echo(f"{bursts_table(course.bursts)}\n\n{events_table(course.events)}\n")
    click.echo(json.dumps(as_json(course)))
    if overlaps := course.overlaps():
        click.echo(f"{overlaps} times a CR was run by two at once", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
