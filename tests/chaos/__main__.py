"""`python -m tests.chaos`: every fault on a cluster of its own, and one table of what came of it.

The exit code is 1 if anything was not as it has to be; then the operators' logs are kept. With --short about five minutes,
with fewer CRs and rounds; scenarios that wait for time limits of minutes, or resemble others, are left to the long form.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

from bench.driver import Cluster, tidy_on_sigterm
from devkit.devcluster import Cluster as Devcluster
from tests.chaos import counts, exhaustion, kills, partitions, shards, tenants
from tests.chaos.scenario import SCENARIOS, run
from tests.chaos.world import Outcome, World

__all__ = ["counts", "exhaustion", "kills", "partitions", "shards", "tenants"]

_HEADER = ("scenario", "rounds", "CRs", "checks", "recovery s", "lag s", "result")


def table(outcomes: dict[str, Outcome]) -> str:
    """Markdown, so that it can be put into docs/reliability.md as it is."""
    rows = [_HEADER, tuple("-" * len(title) for title in _HEADER)]
    for name, each in outcomes.items():
        result = "FAILED" if each.failures else "ok"
        rows.append(
            (name, str(each.rounds), str(each.crs), str(each.checks), f"{each.recovery:.1f}", f"{each.lag:.2f}", result)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return "\n".join(
        "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


async def every(
    folder: Path,
    devcluster: Devcluster,
    outcomes: dict[str, Outcome],
    *,
    seed: int,
    minutes: float,
    short: bool,
    sharder: Path | None = None,
    sharder_crds: Path | None = None,
) -> None:
    """Run the scenarios that are named there, and put there what came of each."""
    names = list(outcomes)
    ends = time.monotonic() + minutes * 60
    async with Cluster.connected(devcluster.kubeconfig) as cluster:
        world = World(devcluster, cluster, folder, crs=20 if short else 200, chance=random.Random(seed))
        world.sharder, world.sharder_crds = sharder, sharder_crds
        await world.prepare()
        try:
            for number, name in enumerate(names):
                # What one leaves over of its share is the others'.
                budget = max(0.0, ends - time.monotonic()) / (len(names) - number)
                world.chance.seed(f"{seed} {name}")
                begun = time.monotonic()
                click.echo(f"{name} …", err=True)
                outcomes[name] = outcome = await run(world, name, short=short, budget=budget)
                said = "; ".join(outcome.failures) or ", ".join(["ok", *outcome.notes])
                click.echo(f"{name}: {said} ({time.monotonic() - begun:.0f} s)", err=True)
        finally:
            await world.end_all()


@click.command(help=__doc__)
@click.option("--seed", type=int, default=1, show_default=True, help="All that is left to chance comes from it.")
@click.option(
    "--minutes", type=float, default=60.0, show_default=True, help="How long rounds are repeated, up to 20 times each."
)
@click.option("--only", default="", help=f"These alone, by commas: {', '.join(SCENARIOS)}.")
@click.option("--skip", default="", help="All but these.")
@click.option("--short", is_flag=True, help="Few rounds and CRs.")
@click.option("--sharder", type=Path, help="The executable of the sharder, for the scenario shards: not the stand-in.")
@click.option("--sharder-crds", type=Path, help="The sharder's CustomResourceDefinition, or the folder that it is in.")
@click.option("--keep", is_flag=True, help="Keep the folder with the logs, whatever comes out.")
def main(seed: int, minutes: float, only: str, skip: str, short: bool, keep: bool, **sharder: Path | None) -> None:
    tidy_on_sigterm()
    names = only.split(",") if only else [name for name in SCENARIOS if not (short and name in LONG_ONLY)]
    names = [name for name in names if name not in skip.split(",")]
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise click.UsageError(f"there is no {unknown[0]}; there are {', '.join(SCENARIOS)}")
    folder = Path(tempfile.mkdtemp(prefix="rolerunner-chaos-"))
    outcomes = {name: Outcome(failures=["not run to its end"]) for name in names}
    failed = True
    try:
        with Devcluster.start() as devcluster:
            asyncio.run(every(folder, devcluster, outcomes, seed=seed, minutes=minutes, short=short, **sharder))
        failed = any(outcome.failures for outcome in outcomes.values())
    finally:
        # Also of what was interrupted.
        click.echo(f"seed {seed}\n\n{table(outcomes)}")
        for name, outcome in outcomes.items():
            for failure in outcome.failures:
                click.echo(f"\n{name}: {failure}")
        if failed or keep:
            with contextlib.suppress(OSError):
                shutil.rmtree(folder / "homes", ignore_errors=True)
            click.echo(f"\nThe operators' logs are in {folder / 'logs'}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)


# They wait for limits of minutes, or go the way of another one.
LONG_ONLY = {"silent", "http-500", "http-504", "delay"}

if __name__ == "__main__":
    main()
