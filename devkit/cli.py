"""The commands `rolerunner init`, `create api`, `plan` and `dev`.

Those of `manifests`, `devcluster` and `check` are in their own packages. `runner.cli` finds all of them by their entry
points.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import click

from devkit.manifests.command import ROLE, generate
from devkit.scaffolding import project
from devkit.scaffolding.naming import Api
from runner import logs
from runner.cli import export_to_ansible, mistakes
from runner.config import flags, watches
from runner.config.settings import Settings
from runner.errors import ConfigurationError
from runner.resource.api_status import readable


@click.command()
@click.option("--domain", required=True, help="The end of the kinds' API groups, such as example.com.")
@click.option("--project-name", default="", help="What the operator is called.  [default: the folder's name]")
# As operator-sdk's users write it.
@click.option("--plugins", type=click.Choice(("ansible", "ansible/v1")), hidden=True, expose_value=False)
@mistakes()
def init(domain: str, project_name: str) -> None:
    """Make an operator's project in this folder."""
    scaffolded = project.init(Path(), domain=domain, name=project_name)
    click.echo(f"Made {', '.join(dict.fromkeys(path.parts[0] for path in scaffolded.created))}.")
    if scaffolded.kept:
        click.echo(f"Kept {', '.join(map(str, scaffolded.kept))}.")
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
@mistakes()
def api(
    group: str, version: str, kind: str, plural: str, namespaced: bool, generate_role: bool, generate_playbook: bool
) -> None:
    """Add a kind: its CRD, sample, rights, watch, and what it runs."""
    folder = Path()
    found = project.load(folder)
    given = Api(domain=found.domain, group=group, version=version, kind=kind, plural=plural, namespaced=namespaced)
    chosen = given.checked(found.resources)
    scaffolded = project.create_api(folder, found, chosen, role=generate_role, playbook=generate_playbook)
    try:
        result = generate(Settings(), os.environ)
        # Other kinds' CRDs are left to `rolerunner manifests`: their author may be in the middle of something.
        missing = [path for path in result.stale() if not path.exists()]
        changed = [path for path in result.stale() if path == ROLE and path not in missing]
        result.write((*missing, *changed))
    except ConfigurationError as error:
        remedy = "the kind is added, but for its CRD and rights; correct this, and run: rolerunner manifests"
        raise ConfigurationError(f"{error} ({remedy})") from error
    for what, paths in (("made", (*scaffolded.created, *missing)), ("added to", (*scaffolded.updated, *changed))):
        for path in paths:
            click.echo(f"{what:<9}{path}")
    result.tell()


@click.command()
@click.option("-f", "--filename", "files", multiple=True, required=True, help="A file with CRs; - for standard input.")
@click.option("-n", "--namespace", default="", help="Of CRs that name none.  [default: the current context's]")
@flags.WATCHES_FILE
@click.option("--output", type=click.Choice(("text", "json")), default="text", show_default=True)
def plan(files: tuple[str, ...], namespace: str, watches_file: Path, output: str) -> None:
    """Say what CRs would change, and change nothing.

    Their roles and playbooks are run in check mode against the current cluster. The exit code is 0 if nothing would change,
    2 if something would, and 1 if that cannot be told.
    """
    from devkit import plan as planning

    with mistakes():
        chosen = Settings(watches_file=watches_file, verbosity=0)
        logs.configure(logs.Options(level="warning", format="console"), readable=readable)
        export_to_ansible(chosen)
        loaded = watches.load(chosen, os.environ)
        written = planning.read(files, loaded, watches_file=watches_file)
        plans = asyncio.run(planning.plan(chosen, written, namespace=namespace))
    if output == "json":
        click.echo(json.dumps({"plans": [each.as_dict() for each in plans]}, indent=2))
    else:
        click.echo("\n\n".join(each.text() for each in plans))
    sys.exit(1 if any(each.failure for each in plans) else 2 if any(each.would_change for each in plans) else 0)


@click.command()
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
    with mistakes():
        from devkit.dev import session as developing

        if exec_dir and not own:
            raise click.UsageError("--exec-dir is for a development cluster: give --devcluster as well")
        chosen = Settings(watches_file=watches_file)
        export_to_ansible(chosen)
        developing.dev(chosen, devcluster=own, exec_dir=exec_dir, yes=yes, namespace=namespace, flags=run_flags)
