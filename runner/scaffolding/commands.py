"""`rolerunner init` and `rolerunner create api`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from runner.scaffolding import manifests, project
from runner.scaffolding.api import Api
from runner.settings import ConfigurationError, Settings


def _plainly(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose mistakes are told in one line."""

    @functools.wraps(command)
    def wrapped(**options: Any) -> None:
        try:
            command(**options)
        except ConfigurationError as error:
            raise click.ClickException(str(error)) from error

    return wrapped


@click.command()
@click.option("--domain", required=True, help="The end of the kinds' API groups, such as example.com.")
@click.option("--project-name", default="", help="What the operator is called.  [default: the folder's name]")
# What who comes from operator-sdk is used to write.
@click.option("--plugins", type=click.Choice(("ansible", "ansible/v1")), hidden=True, expose_value=False)
@_plainly
def init(domain: str, project_name: str) -> None:
    """Make an operator's project in this folder."""
    written = project.init(Path(), domain=domain, name=project_name)
    click.echo(f"Made {', '.join(dict.fromkeys(path.parts[0] for path in written.made))}.")
    if written.kept:
        click.echo(f"Kept {', '.join(map(str, written.kept))}.")
    click.echo("Next: rolerunner create api --group cache --version v1alpha1 --kind Memcached --generate-role")


@click.group()
def create() -> None:
    """Add to the project of this folder."""


@create.command()
@click.option("--group", required=True, help="The API group without the domain, such as cache.")
@click.option("--version", required=True, help="The API version, such as v1alpha1.")
@click.option("--kind", required=True, help="The kind in CamelCase, such as Memcached.")
@click.option("--plural", default="", help="The kind's plural in lower case, where it is irregular.")
@click.option(
    "--namespaced",
    is_flag=False,
    flag_value="true",
    type=bool,
    default=True,
    show_default=True,
    metavar="[=BOOLEAN]",
    help="Whether its objects live in namespaces.",
)
@click.option("--generate-role", is_flag=True, help="Make a role for it.")
@click.option(
    "--generate-playbook", is_flag=True, help="Make a playbook for it; with --generate-role, one that plays the role."
)
@_plainly
def api(
    group: str, version: str, kind: str, plural: str, namespaced: bool, generate_role: bool, generate_playbook: bool
) -> None:
    """Add a kind: its CRD, sample, rights, watch, and what it runs."""
    folder = Path()
    found = project.load(folder)
    chosen = Api.checked(
        domain=found.domain,
        group=group,
        version=version,
        kind=kind,
        plural=plural,
        namespaced=namespaced,
        others=list(found.resources),
    )
    written = project.create_api(folder, found, chosen, role=generate_role, playbook=generate_playbook)
    try:
        result = manifests.generate(Settings(), os.environ)
        # Other kinds' CRDs are left to `rolerunner manifests`: their author may be in the middle of something.
        missing = [path for path in result.stale() if not path.exists()]
        changed = [path for path in result.stale() if path == manifests.ROLE and path not in missing]
        result.write((*missing, *changed))
    except ConfigurationError as error:
        remedy = "the kind is added, but for its CRD and rights; correct this, and run: rolerunner manifests"
        raise ConfigurationError(f"{error} ({remedy})") from error
    for what, paths in (("made", (*written.made, *missing)), ("added to", (*written.added_to, *changed))):
        for path in paths:
            click.echo(f"{what:<9}{path}")
    result.tell()
