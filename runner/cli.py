"""The `rolerunner` command, which the image also has as `ansible-operator`.

Turns a user's mistakes into one clear line, and calls what does the work. The flags of `run` are in `runner.flags`. Further
commands come from the entry points of the group `rolerunner.commands`.
"""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import click

import runner
from runner import flags, logs, settings, watches
from runner.devcluster.commands import devcluster
from runner.executor import orders
from runner.scaffolding.commands import create, init
from runner.scaffolding.manifests import manifests
from runner.schema import WATCHES
from runner.settings import ConfigurationError, Settings

logger = logging.getLogger(__name__)

# Ansible's own default comes after the operator's folder.
_ROLES_PATH = "./roles:~/.ansible/roles:/usr/share/ansible/roles:/etc/ansible/roles"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Kubernetes operators written in Ansible."""


for command in (init, create, manifests, devcluster):
    main.add_command(command)
for entry_point in metadata.entry_points(group="rolerunner.commands"):
    # The package is the same distribution's, and an image may leave it out.
    if importlib.util.find_spec(entry_point.module.partition(".")[0]):
        main.add_command(entry_point.load(), entry_point.name)


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
def run(values: Mapping[str, Any], given: set[str]) -> None:
    """Run the operator of this folder against the current cluster."""
    with _mistakes():
        chosen = flags.read(values, given, os.environ)
        logs.configure(chosen.logging)
        for notice in chosen.notices:
            logger.warning(notice)
        _hand_down(chosen)
        loaded = watches.load(chosen, os.environ)
        # Not needed by any other command, and slow to import.
        from runner import manager

        asyncio.run(manager.run(chosen, loaded))


@main.command()
@click.option("-f", "--filename", "files", multiple=True, required=True, help="A file with CRs; - for standard input.")
@click.option("-n", "--namespace", default="", help="Of CRs that name none.  [default: the current context's]")
@flags.WATCHES_FILE
@click.option("--output", type=click.Choice(("text", "json")), default="text", show_default=True)
def plan(files: tuple[str, ...], namespace: str, watches_file: Path, output: str) -> None:
    """Say what CRs would change, and change nothing.

    Their roles and playbooks are run in check mode against the current cluster. The exit code is 0 if nothing would change,
    2 if something would, and 1 if that cannot be told.
    """
    from runner import plan as planning

    with _mistakes():
        chosen = Settings(watches_file=watches_file, verbosity=0)
        logs.configure(logs.Options(level="warning", format="console"))
        _hand_down(chosen)
        loaded = watches.load(chosen, os.environ)
        written = planning.read(files, loaded, watches_file=watches_file)
        plans = asyncio.run(planning.plan(chosen, written, namespace=namespace))
    if output == "json":
        click.echo(json.dumps({"plans": [each.as_dict() for each in plans]}, indent=2))
    else:
        click.echo("\n\n".join(each.text() for each in plans))
    sys.exit(1 if any(each.failure for each in plans) else 2 if any(each.would_change for each in plans) else 0)


@main.command()
@click.option("--devcluster", "own", is_flag=True, help="Work on the development cluster, whatever KUBECONFIG says.")
@click.option("--exec-dir", type=click.Path(path_type=Path), help="As for `devcluster up`; it goes with --devcluster.")
@click.option("-y", "--yes", is_flag=True, help="Work on the current context's cluster without asking.")
@click.option("-n", "--namespace", default="", help="Watch this one only, and put samples there that name none.")
@flags.WATCHES_FILE
@click.argument("run_flags", nargs=-1, type=click.UNPROCESSED)
def dev(own: bool, exec_dir: Path | None, yes: bool, namespace: str, watches_file: Path, run_flags: tuple[str, ...]) -> None:
    """Run the operator while you edit it: apply CRDs and samples, and run again what an edit concerns.

    Behind -- further flags of `rolerunner run` may follow.
    """
    from runner import dev as developing

    with _mistakes():
        if exec_dir and not own:
            raise click.UsageError("--exec-dir is for a development cluster: give --devcluster as well")
        chosen = Settings(watches_file=watches_file)
        _hand_down(chosen)
        developing.dev(chosen, devcluster=own, exec_dir=exec_dir, yes=yes, namespace=namespace, flags=run_flags)


@contextlib.contextmanager
def _mistakes() -> Iterator[None]:
    """What the user can mend becomes one line."""
    from runner.kube.client import KubeError

    try:
        yield
    except (ConfigurationError, KubeError) as error:
        raise click.ClickException(str(error)) from error
    except BaseExceptionGroup as group:
        # Of the manager's tasks; they were started together, but one cause is enough for a reader.
        mistakes = group.subgroup(ConfigurationError)
        if mistakes is None:
            raise
        raise click.ClickException(str(_first(mistakes))) from group


def _hand_down(chosen: Settings) -> None:
    """Ansible reads its paths from the environment that the runs inherit; absolute ones, as tasks work in other folders."""
    for name, flag, otherwise in (
        ("ANSIBLE_ROLES_PATH", chosen.roles_path, _default_roles_path()),
        ("ANSIBLE_COLLECTIONS_PATH", chosen.collections_path, ""),
    ):
        value = flag or os.environ.get(name, "") or otherwise
        if value:
            os.environ[name] = os.pathsep.join(str(path) for path in settings.search_paths(value))

    # Most operators' roles were written before ansible-core 2.19, from which on a condition has to be a boolean.
    if orders.has_tags() and not _is_set("allow_broken_conditionals"):
        os.environ.setdefault("ANSIBLE_ALLOW_BROKEN_CONDITIONALS", "true")


def _default_roles_path() -> str:
    """Playbooks find the roles in ./roles, as the roles of watches.yaml are, unless an ansible.cfg has other plans."""
    return "" if _is_set("roles_path") else _ROLES_PATH


def _is_set(option: str) -> bool:
    """Whether the ansible.cfg that Ansible will read has this option among its defaults."""
    # Ansible takes the first that is there.
    places = (os.environ.get("ANSIBLE_CONFIG", ""), "./ansible.cfg", "~/.ansible.cfg", "/etc/ansible/ansible.cfg")
    for path in filter(Path.is_file, (Path(place).expanduser() for place in places)):
        found = configparser.RawConfigParser(strict=False)
        # What is wrong with the file is for Ansible to say.
        with contextlib.suppress(configparser.Error, UnicodeDecodeError, OSError):
            found.read(path)
        return found.has_option("defaults", option)
    return False


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
