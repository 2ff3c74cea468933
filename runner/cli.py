"""The `rolerunner` command, which the image also has as `ansible-operator`.

Turns errors into one clear line, and calls what does the work. The flags of `run` are declared in
`runner.config.settings`. Further commands come from the entry points of the group `rolerunner.commands`.

Next on the way: `runner.config.flags`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Iterator
from importlib import metadata

import click

import runner
from runner import logs
from runner.config import flags, settings, watches
from runner.config.options import Values
from runner.config.schema import WATCHES
from runner.config.settings import Settings
from runner.errors import ConfigurationError, RolerunnerError
from runner.executor import environment
from runner.resource.api_status import readable

logger = logging.getLogger(__name__)

# Ansible's own default comes after the operator's folder.
_ROLES_PATH = "./roles:~/.ansible/roles:/usr/share/ansible/roles:/etc/ansible/roles"


class Commands(click.Group):
    """A group of this module's commands and those of the entry points, which are imported when they are called."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*super().list_commands(context), *_entry_points()})

    def get_command(self, context: click.Context, cmd_name: str) -> click.Command | None:
        if (found := super().get_command(context, cmd_name)) is not None:
            return found
        entry_point = _entry_points().get(cmd_name)
        command: click.Command | None = entry_point.load() if entry_point else None
        return command


def _entry_points() -> dict[str, metadata.EntryPoint]:
    """The entry points whose package is installed: `devkit` is in the same distribution, but not in an image."""
    return {
        entry_point.name: entry_point
        for entry_point in metadata.entry_points(group="rolerunner.commands")
        if importlib.util.find_spec(entry_point.module.partition(".")[0])
    }


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Kubernetes operators written in Ansible."""


@main.command()
def version() -> None:
    """Print the versions of the runner and of what it runs with."""
    python = ".".join(map(str, sys.version_info[:3]))
    # Known without importing any of them, which takes a while.
    parts = [f"{name} {metadata.version(name)}" for name in ("ansible-core", "ansible-runner", "kubernetes", "kopf")]
    click.echo(f"rolerunner {runner.__version__}, Python {python}, {', '.join(parts)}")


@main.command()
def schema() -> None:
    """Print the JSON schema of watches.yaml, for editors."""
    click.echo(json.dumps(WATCHES, indent=2))


@main.command()
@flags.declared
def run(values: Values, given: set[str]) -> None:
    """Run the operator of this folder against the current cluster."""
    with mistakes():
        chosen = flags.read(values, given, os.environ)
        # What a run starts with is this process's environment.
        os.environ.pop(settings.DASHBOARD_KEY, None)
        logs.configure(chosen.logging, readable=readable)
        for notice in chosen.notices:
            logger.warning(notice)
        export_to_ansible(chosen)
        loaded = watches.load(chosen, os.environ)
        # Not needed by any other command, and slow to import.
        from runner import manager

        asyncio.run(manager.run(chosen, loaded))


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
    """Turn an error of rolerunner into one line on standard error and exit code 1. Also a decorator."""
    try:
        yield
    except RolerunnerError as error:
        raise click.ClickException(str(error)) from error
    except BaseExceptionGroup as group:
        # Of the manager's tasks; they were started together, but one cause is enough for a reader.
        theirs = group.subgroup(ConfigurationError)
        if theirs is None:
            raise
        raise click.ClickException(str(_first(theirs))) from group


def export_to_ansible(chosen: Settings) -> None:
    """Set the environment variables that Ansible reads in runs; paths absolute, as tasks work in other folders."""
    for name, flag, otherwise in (
        # Unless ansible.cfg has one: with ./roles, where watches.yaml's roles are found as well.
        ("ANSIBLE_ROLES_PATH", chosen.roles_path, "" if "roles_path" in environment.configured() else _ROLES_PATH),
        ("ANSIBLE_COLLECTIONS_PATH", chosen.collections_path, ""),
    ):
        value = flag or os.environ.get(name, "") or otherwise
        if value:
            os.environ[name] = os.pathsep.join(str(path) for path in settings.search_paths(value))

    # Most operators' roles were written before ansible-core 2.19, from which on a condition has to be a boolean.
    if environment.has_tags() and "allow_broken_conditionals" not in environment.configured():
        os.environ.setdefault("ANSIBLE_ALLOW_BROKEN_CONDITIONALS", "true")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
