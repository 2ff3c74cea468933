"""The `rolerunner` command. Declares flags, turns a user's mistakes into one clear line, and calls what does the work."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import runner
from runner import logs, settings, watches
from runner.devcluster.commands import devcluster
from runner.resource.metadata import parse_duration
from runner.settings import ConfigurationError, Settings


class Duration(click.ParamType[float]):
    """A Go duration; its value is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = value if isinstance(value, float) else parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds <= 0:
            self.fail(f"{value!r} is not above zero", param, ctx)
        return seconds


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Kubernetes operators written in Ansible."""


main.add_command(devcluster)


@main.command()
def version() -> None:
    """Print the versions of the runner and of what it runs with."""
    # Known without importing any of them, which takes a while.
    from importlib.metadata import version as installed

    python = ".".join(map(str, sys.version_info[:3]))
    parts = [f"{name} {installed(name)}" for name in ("ansible-core", "ansible-runner", "kubernetes", "kopf")]
    click.echo(f"rolerunner {runner.__version__}, Python {python}, {', '.join(parts)}")


@main.command()
@click.option(
    "--watches-file",
    default=settings.DEFAULT_WATCHES_FILE,
    show_default=True,
    type=click.Path(path_type=Path),
    help="The file that maps kinds to roles and playbooks.",
)
@click.option(
    "--reconcile-period",
    type=Duration(),
    default=settings.DEFAULT_RECONCILE_PERIOD,
    show_default=True,
    help="How often each CR is run anew, where neither its watch nor the CR says otherwise.",
)
@click.option(
    "--max-concurrent-reconciles",
    type=click.IntRange(min=1),
    help="Runs at once for each kind.  [default: number of processors]",
)
@click.option(
    "--max-concurrent-runs",
    type=click.IntRange(min=1),
    help="Runs at once over all kinds.  [default: as many as the kind with the highest limit]",
)
@click.option(
    "--ansible-verbosity",
    type=click.IntRange(0, settings.MAX_VERBOSITY),
    default=settings.DEFAULT_VERBOSITY,
    show_default=True,
    help="How many times -v for ansible-playbook.",
)
@click.option("--ansible-roles-path", default="", help="Where roles are looked for; overrides ANSIBLE_ROLES_PATH.")
@click.option(
    "--ansible-collections-path",
    default="",
    help="Where collections are looked for; overrides ANSIBLE_COLLECTIONS_PATH.",
)
@click.option("--ansible-args", default="", help="Further arguments for ansible-playbook.")
@click.option(
    "--executor",
    type=click.Choice(settings.EXECUTORS),
    default=settings.DEFAULT_EXECUTOR,
    show_default=True,
    help="How Ansible is run.",
)
@click.option(
    "--inject-owner-ref",
    type=bool,
    default=True,
    show_default=True,
    help="Make each CR the owner of what its role creates.",
)
@click.option(
    "--health-probe-bind-address",
    default=settings.DEFAULT_HEALTH_ADDRESS,
    show_default=True,
    help="Where /healthz and /readyz are served; 0 for nowhere.",
)
@click.option(
    "--metrics-bind-address",
    default=settings.DEFAULT_METRICS_ADDRESS,
    show_default=True,
    help="Where /metrics is served; 0 for nowhere.",
)
@click.option(
    "--proxy-port",
    type=click.IntRange(0, 65535),
    default=settings.DEFAULT_PROXY_PORT,
    show_default=True,
    help="The loopback port through which roles reach the API server; 0 for a free one.",
)
@click.option(
    "--graceful-shutdown-timeout",
    type=Duration(),
    default=settings.DEFAULT_GRACE,
    show_default=True,
    help="How long runs may go on after SIGTERM.",
)
@click.option(
    "--runs-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=settings.DEFAULT_RUNS_DIR,
    show_default=True,
    help="Where inputs and artifacts of the runs are kept, a folder for each CR.",
)
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True)
@click.option(
    "--log-format",
    type=click.Choice(logs.FORMATS),
    default="auto",
    show_default=True,
    help="auto: console on a terminal, JSON lines elsewhere.",
)
def run(**flags: Any) -> None:
    """Run the operator of this folder against the current cluster."""
    try:
        chosen = _settings(flags, os.environ)
        logs.configure(level=chosen.log_level, format=chosen.log_format)
        _hand_down(chosen)
        loaded = watches.load(chosen, os.environ)
        # Not needed by any other command, and slow to import.
        from runner import manager

        asyncio.run(manager.run(chosen, loaded))
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error
    except BaseExceptionGroup as group:
        # Of the manager's tasks; they were started together, but one cause is enough for a reader.
        mistakes = group.subgroup(ConfigurationError)
        if mistakes is None:
            raise
        raise click.ClickException(str(_first(mistakes))) from group


def _settings(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """The flags' values and the environment, checked. Raises ConfigurationError."""
    try:
        shlex.split(flags["ansible_args"])
    except ValueError as error:
        raise ConfigurationError(f"--ansible-args {flags['ansible_args']!r}: {error}") from error
    return Settings(
        watches_file=flags["watches_file"],
        namespaces=settings.watched_namespaces(environ),
        reconcile_period=flags["reconcile_period"],
        shutdown_grace=flags["graceful_shutdown_timeout"],
        max_concurrent_reconciles=flags["max_concurrent_reconciles"] or settings.default_concurrency(),
        max_concurrent_runs=flags["max_concurrent_runs"] or 0,
        executor=flags["executor"],
        verbosity=flags["ansible_verbosity"],
        ansible_args=flags["ansible_args"],
        roles_path=flags["ansible_roles_path"],
        collections_path=flags["ansible_collections_path"],
        inject_owner_ref=flags["inject_owner_ref"],
        proxy_port=flags["proxy_port"],
        health_address=settings.parse_address(flags["health_probe_bind_address"], flag="--health-probe-bind-address"),
        metrics_address=settings.parse_address(flags["metrics_bind_address"], flag="--metrics-bind-address"),
        runs_dir=flags["runs_dir"].absolute(),
        log_level=flags["log_level"],
        log_format=flags["log_format"],
    )


def _hand_down(chosen: Settings) -> None:
    """Ansible reads its paths from the environment that the runs inherit. They have a working directory of their own, so
    relative paths are made absolute here, where they were meant."""
    for name, flag in (
        ("ANSIBLE_ROLES_PATH", chosen.roles_path),
        ("ANSIBLE_COLLECTIONS_PATH", chosen.collections_path),
    ):
        value = flag or os.environ.get(name, "")
        if value:
            os.environ[name] = os.pathsep.join(str(path) for path in settings.search_paths(value))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
