"""`rolerunner manifests`: reads the project and writes its files, with contents made by the other modules."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click
import yaml

from devkit.manifests import crd_file, rights, role_file
from devkit.manifests.crd import ArgumentSpecs
from devkit.manifests.markers import YamlFile
from devkit.scaffolding.project import TEMPLATES
from devkit.yaml_nodes import plain
from runner.cli import mistakes
from runner.config import flags, watches
from runner.config.settings import Settings
from runner.config.watches import Watch
from runner.errors import ConfigurationError
from runner.resource.metadata import GroupKind, Object
from runner.resource.parameters import to_snake

# From the project's folder, the first that is there; else the last is made.
_CRD_FOLDERS = (Path("config/crd/bases"), Path("crds"))
ROLE = Path("config/rbac/role.yaml")
LEADER_ELECTION_ROLE = Path("config/rbac/leader_election_role.yaml")


@dataclass(slots=True)
class Manifests:
    """Generated texts by file, and notes for the author. `undecided` are (FILE:LINE, what)."""

    texts: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    undecided: list[tuple[str, str]] = field(default_factory=list)

    def stale(self) -> list[Path]:
        return [path for path, text in self.texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]

    def write(self, paths: Iterable[Path]) -> None:
        """Write the texts of these files. Raises ConfigurationError."""
        try:
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self.texts[path], encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"{error.filename}: cannot be written: {error.strerror}") from error

    def tell(self) -> None:
        for note in self.notes:
            click.echo(note, err=True)
        for at, what in self.undecided:
            click.echo(f"{at}: not decided by the text: {what}", err=True)
        if self.undecided:
            remedy = "# +rolerunner:rbac:groups=apps,resources=deployments,verbs=get;list;watch"
            click.echo(f"Say what these need in a comment directly above each, such as: {remedy}", err=True)


def generate(settings: Settings, environ: Mapping[str, str]) -> Manifests:
    """The manifests of the project in the current folder. Raises ConfigurationError."""
    loaded = watches.load(settings, environ)
    result = Manifests()
    folder = next(filter(Path.is_dir, _CRD_FOLDERS), _CRD_FOLDERS[-1])
    by_kind: dict[GroupKind, list[Watch]] = {}
    for watch in loaded:
        by_kind.setdefault(watch.gvk.group_kind, []).append(watch)
    crds: dict[GroupKind, Object] = _other_crds(folder)
    for kind, of_kind in by_kind.items():
        specs = [one for one in map(ArgumentSpecs.of, of_kind) if one is not None]
        path, existing = crd_file.find(folder, kind) or (None, {})
        if not specs:
            if path is None and "." in kind.group and not kind.group.endswith(".k8s.io"):
                result.notes.append(f"{kind}: no argument specs and no CRD in {folder}; write one of them")
            continue
        text = crd_file.update(path.read_text(encoding="utf-8") if path else "", existing, specs)
        crds[kind] = yaml.safe_load(text)
        path = path or folder / f"{kind.group}_{crds[kind]['spec']['names']['plural']}.yaml"
        result.texts[path] = text
        if crd_file.lets_unknown_pass(crds[kind], specs):
            result.notes.append(
                f"{path}: fields that the argument specs do not name pass (x-kubernetes-preserve-unknown-fields of spec); "
                "take that out once they name all, or say # +rolerunner:preserveUnknownFields above `main:`"
            )

    def options(watch: Watch) -> set[str]:
        """The variables that a CR of this watch sets, as far as its CRD goes."""
        names = _fields(crds.get(watch.gvk.group_kind, {}), watch.gvk.version)
        return {to_snake(name) if watch.snake_case_parameters else name for name in names}

    kinds = rights.Kinds(
        plurals={kind: found["spec"]["names"].get("plural", "") for kind, found in crds.items()},
        cluster_scoped=frozenset(kind for kind, found in crds.items() if found["spec"].get("scope") == "Cluster"),
    )
    needs = rights.needs(loaded, kinds, settings=settings, environ=environ, options=options)
    result.undecided = needs.undecided
    result.texts[ROLE] = role_file.update(ROLE, needs.rights)
    if not LEADER_ELECTION_ROLE.exists():
        result.texts[LEADER_ELECTION_ROLE] = (TEMPLATES / "project" / LEADER_ELECTION_ROLE).read_text(encoding="utf-8")
    return result


def _other_crds(folder: Path) -> dict[GroupKind, Object]:
    """The CRDs in the folder, including those that this command does not generate."""
    found: dict[GroupKind, Object] = {}
    for path in sorted(folder.glob("*.y*ml")):
        for obj in map(plain, YamlFile(path).roots):
            if isinstance(obj, dict) and (kind := crd_file.kind_of(obj)) is not None:
                found[kind] = obj
    return found


def _fields(definition: Object, version: str) -> Iterable[str]:
    for found in (definition.get("spec") or {}).get("versions") or ():
        if found.get("name") == version:
            root = (found.get("schema") or {}).get("openAPIV3Schema") or {}
            return ((root.get("properties") or {}).get("spec") or {}).get("properties") or ()
    return ()


@click.command()
@flags.WATCHES_FILE
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if something is not up to date.")
def manifests(watches_file: Path, check: bool) -> None:
    """Write the CRDs and the operator's RBAC role.

    The CRDs come from the roles' argument specs, the role from their tasks. docs/manifests.md says how.
    """
    with mistakes():
        result = generate(Settings(watches_file=watches_file), os.environ)
        stale = result.stale()
        if not check:
            result.write(stale)
    result.tell()
    for path in stale:
        click.echo(f"{path}: {'not up to date' if check else 'written'}")
    if not stale:
        click.echo("Everything is up to date.")
    elif check:
        raise click.ClickException("the files above do not say what the roles do; run: rolerunner manifests")
