"""`rolerunner devcluster up | down | status | env`."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from devkit.devcluster import cluster
from devkit.devcluster.errors import DevclusterError
from runner.cli import mistakes


def _where(command: Callable[..., None]) -> Callable[..., None]:
    """--name and --dir, handed over as the cluster's `folder`; its errors in one line."""

    @click.option("--name", default="default", show_default=True, help="Several clusters may run side by side.")
    @click.option("--dir", "folder", type=click.Path(path_type=Path), help="Keep its files here instead.")
    @functools.wraps(command)
    def wrapped(name: str, folder: Path | None, **options: Any) -> None:
        with mistakes():
            command(folder.absolute() if folder else cluster.state_dir(name), **options)

    return wrapped


@click.group()
def devcluster() -> None:
    """A real control plane on this machine, with nodes that run pods on paper."""


@devcluster.command()
@_where
@click.option(
    "--exec-dir",
    type=click.Path(path_type=Path),
    help="Programs that stand in for those of containers: PSQL there is what `kubectl exec POD -- PSQL` runs.",
)
def up(folder: Path, exec_dir: Path | None) -> None:
    """Start a cluster in the background, and wait until it is ready."""
    already = cluster.find_running(folder) is not None
    running = cluster.up(folder, lambda text: click.echo(text, err=True), exec_dir=exec_dir)
    click.echo(f"{'Already running' if already else 'Running'}. Its kubeconfig: {running.kubeconfig}")
    click.echo("To use it in this shell, with its kubectl: " + f'eval "$({_command("env", folder)})"')


@devcluster.command()
@_where
def down(folder: Path) -> None:
    """End a cluster and remove its files."""
    click.echo("Ended." if cluster.down(folder) else "Was not running.")


@devcluster.command()
@_where
def status(folder: Path) -> None:
    """Say whether a cluster runs; the exit code is 1 if not."""
    running = cluster.find_running(folder)
    if running is None:
        click.echo("Not running.")
        raise SystemExit(1)
    click.echo(f"Running as process {running.pid}. Its kubeconfig: {running.kubeconfig}")


@devcluster.command()
@_where
def env(folder: Path) -> None:
    """Print what makes a shell use the cluster: eval "$(rolerunner devcluster env)"."""
    running = cluster.find_running(folder)
    if running is None:
        raise DevclusterError(f"no cluster runs in {folder}; start it with: {_command('up', folder)}")
    click.echo(f"export KUBECONFIG={shlex.quote(str(running.kubeconfig))}")
    click.echo(f'export PATH={shlex.quote(str(running.kubectl.parent))}:"$PATH"')


def _command(name: str, folder: Path) -> str:
    if folder == cluster.state_dir("default"):
        return f"rolerunner devcluster {name}"
    return f"rolerunner devcluster {name} --dir {shlex.quote(str(folder))}"
