"""Kubernetes objects of a project: the fields of its kinds, its samples, and the flags in its Deployments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import yaml

from devkit.check import expressions, sources
from devkit.check.dockerfile import Dockerfile
from devkit.check.findings import Finding, Level
from devkit.check.sources import Source
from devkit.yaml_nodes import entry, items, line_of, pairs, scalar, scalars
from runner.resource.parameters import is_reserved, to_snake

_FOLDERS = ("config", "crds", "deploy", "manifests", "helm-charts")
_ENDINGS = (".yml", ".yaml")
_TYPES = {"integer": expressions.NUMBER, "number": expressions.NUMBER, "boolean": expressions.BOOLEAN}
# Versions of bundles of old releases are many, and none of them is what is deployed next.
_MAX_FILES = 500


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a kind's spec, in its CRD."""

    name: str
    type: str
    file: str
    line: int


@dataclass(slots=True)
class ProjectObjects:
    """CRDs' fields by (group, kind), and the files."""

    fields: dict[tuple[str, str], list[Field]] = field(default_factory=dict)
    files: list[Source] = field(default_factory=list)

    def variables(self) -> dict[str, str]:
        """The types of the variables that CRs set, in either spelling; those of which kinds differ are left out."""
        found: dict[str, set[str]] = {}
        for each in (each for fields in self.fields.values() for each in fields):
            for name in {each.name, to_snake(each.name)}:
                found.setdefault(name, set()).add(_TYPES.get(each.type, ""))
        return {name: kind for name, (kind, *others) in found.items() if kind and not others}


def read(folder: Path) -> ProjectObjects:
    """The objects below the usual folders. Files that are no YAML, such as those of charts, are left out."""
    manifests = ProjectObjects()
    paths = [path for name in _FOLDERS for ending in _ENDINGS for path in sorted((folder / name).rglob(f"*{ending}"))]
    for path in paths[:_MAX_FILES]:
        found = sources.read(path, folder) if sources.is_file(path) else None
        if not isinstance(found, Source) or not _is_used(path):
            continue
        manifests.files.append(found)
        for root in found.roots:
            if scalar(entry(root, "kind")) == "CustomResourceDefinition":
                key, fields = _crd(root, found.name)
                manifests.fields.setdefault(key, []).extend(fields)
    return manifests


def compare(
    manifests: ProjectObjects, watched: Mapping[tuple[str, str], bool], dockerfiles: Sequence[Dockerfile]
) -> Iterator[Finding]:
    """Findings for what is stricter here. `watched`: the kinds, and for each whether its CRs' strings may be templates."""
    for key, fields in manifests.fields.items():
        for each in fields if key in watched else ():
            if is_reserved(each.name) or is_reserved(to_snake(each.name)):
                yield Finding(Level.WARNING, each.file, each.line, _reserved(each.name))
    for source in manifests.files:
        for root in source.roots:
            group = (scalar(entry(root, "apiVersion")) or "").rpartition("/")[0]
            key = (group, scalar(entry(root, "kind")) or "")
            if key in watched:
                yield from _sample(root, source.name, templates=watched[key])
            yield from _deployment(root, source.name)
    for dockerfile in dockerfiles:
        for line, arguments in dockerfile.arguments:
            for message in refused(arguments):
                yield Finding(Level.ERROR, dockerfile.file, line, message)


def refused(arguments: Sequence[str]) -> list[str]:
    """The errors of `rolerunner run` for these arguments. Those with a variable in them are not looked at."""
    from runner.cli import run

    chosen = [argument for argument in arguments if "$" not in argument]
    # A flag and its value may be two arguments, of which one has a variable.
    if len(chosen) < len(arguments):
        chosen = [argument for argument in chosen if argument.startswith("--") and "=" in argument]
    try:
        # Whether flags go together is not asked: a kustomization may bring in the others.
        run.make_context("run", list(chosen))
    except click.NoSuchOption as error:
        return [f"{error.option_name}: no flag of rolerunner run; remove it"]
    except click.ClickException as error:
        return [f"{error.format_message().rstrip('.')}; correct or remove it"]
    except click.exceptions.Exit:
        return []
    return []


def _is_used(path: Path) -> bool:
    """True if no kustomization stands next to the file, or one that names it outside of a comment."""
    texts = [sources.text(path.parent / f"kustomization{ending}", path.parent) for ending in _ENDINGS]
    lines = [line.partition("#")[0] for text in texts if isinstance(text, str) for line in text.splitlines()]
    return not lines or path.name.startswith("kustomization") or any(path.name in line for line in lines)


def _crd(root: yaml.Node, file: str) -> tuple[tuple[str, str], list[Field]]:
    group, kind = scalar(entry(root, "spec", "group")) or "", scalar(entry(root, "spec", "names", "kind")) or ""
    schemas = [entry(version, "schema", "openAPIV3Schema") for version in items(entry(root, "spec", "versions"))]
    found = {}
    for schema in schemas:
        for name, key, value in pairs(entry(schema, "properties", "spec", "properties")):
            found[name] = Field(name, scalar(entry(value, "type")) or "", file, line_of(key))
    return (group, kind), list(found.values())


def _sample(root: yaml.Node, file: str, *, templates: bool) -> Iterator[Finding]:
    for name, key, _ in pairs(entry(root, "spec")):
        if is_reserved(name) or is_reserved(to_snake(name)):
            yield Finding(Level.WARNING, file, line_of(key), _reserved(name))
    for node in scalars(entry(root, "spec")) if not templates else ():
        if expressions.is_template(node.value):
            message = "a template in a CR is text here; set markUnsafe: false in its watch if whoever writes CRs is trusted"
            yield Finding(Level.WARNING, file, line_of(node), message)


def _deployment(root: yaml.Node, file: str) -> Iterator[Finding]:
    if scalar(entry(root, "kind")) != "Deployment":
        return
    for container in items(entry(root, "spec", "template", "spec", "containers")):
        command = [text for part in ("command", "args") for item in items(entry(container, part)) if (text := scalar(item))]
        named = [item for part in ("command", "args") for item in items(entry(container, part))]
        image, name = scalar(entry(container, "image")) or "", scalar(entry(container, "name")) or ""
        programs = {word.rpartition("/")[2] for word in command}
        if (
            not programs & {"ansible-operator", "rolerunner"}
            and not re.search(r"manager$", name)
            and "controller:" not in image
        ):
            continue
        arguments = command[command.index("run") + 1 :] if "run" in command else command
        if not arguments or not all(argument.startswith("-") for argument in arguments[:1]):
            continue
        for message in refused(arguments):
            flag = re.search(r"--[\w-]+", message)
            at = next((item for item in named if flag and (scalar(item) or "").startswith(flag[0])), named[0])
            yield Finding(Level.ERROR, file, line_of(at), message)


def _reserved(name: str) -> str:
    return f"spec.{name} would become a variable of Ansible's own, and is not handed over here; set it by vars of the watch"
