"""`rolerunner check`: read a project, ask ansible-core, compare, and print."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from devkit.check.findings import Finding, Level, Report
from runner.cli import mistakes
from runner.errors import ConfigurationError

_TEMPLATED = "the name is a template: of what it may stand for, only roles of this project were read"


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
@click.option(
    "--watches-file",
    type=click.Path(path_type=Path),
    help="In the folder.  [default: watches.yaml, or else all watches*.yaml]",
)
@click.option("--output", type=click.Choice(("text", "json")), default="text", show_default=True)
def check(folder: Path, watches_file: Path | None, output: str) -> None:
    """Say whether an operator's project would run here.

    Reads its watches.yaml, roles, playbooks, requirements.yml, Dockerfile and manifests, and lists what is refused, not
    found, or otherwise than with ansible-operator. It is compared with the ansible-core, collections and Python packages
    that are here. Nothing of it is run. The exit code is 1 if there are errors.
    """
    with mistakes():
        try:
            report = examine(folder, watches_file, os.environ)
        except OSError as error:
            raise ConfigurationError(str(error)) from error
    click.echo(json.dumps(report.as_dict(), indent=2) if output == "json" else report.text())
    sys.exit(1 if report.fails else 0)


def examine(folder: Path, watches_file: Path | None, environ: Mapping[str, str]) -> Report:
    """Check the project in a folder. Raises ConfigurationError where ansible-core cannot be asked."""
    # Not needed by any other command.
    from devkit.check import dockerfile, manifests, packages, plugins, project, requirements, templating
    from runner.executor import content

    root = folder.resolve()
    findings: list[Finding] = []
    # Roles and playbooks are looked for from the current folder on.
    with contextlib.chdir(root):
        objects = manifests.read(root)
        files = project.watches_files(root, watches_file)
        wanted = requirements.read(root, findings)
        found = project.load(root, files, environ, variables=objects.variables(), wanted=wanted.collections)
        dockerfiles = dockerfile.read(root, findings)
        here = content.ask(plugins.queries(found), folder=root, environ=environ)
    findings += found.reading.findings
    findings += requirements.compare(wanted, here.collections)
    findings += plugins.compare(found, here, wanted)
    findings += packages.compare(plugins.resolved(found, here), dockerfiles, here.minor)
    findings += templating.compare(found.reading, here.minor)
    findings += manifests.compare(objects, found.watched, dockerfiles)
    for each in dockerfiles:
        findings += dockerfile.compare(each, here.minor)
    findings += [Finding(Level.NOTE, location.file, location.line, _TEMPLATED) for location in found.templated]
    python = ".".join(map(str, sys.version_info[:2]))
    context = f"Compared with ansible-core {here.core}, Python {python} and {len(here.collections)} collections."
    return Report(folder=str(folder), context=context, findings=tuple(findings))
