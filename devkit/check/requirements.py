"""Collections that a project asks for (requirements.yml), compared with those that are here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from devkit.check import sources
from devkit.check.findings import Finding, Level
from devkit.yaml_nodes import entry, items, line_of, scalar
from runner.executor.content import Collection

_FILES = tuple(f"{folder}requirements{ending}" for folder in ("", "collections/", "roles/") for ending in (".yml", ".yaml"))
# Repositories that are not called as their collection.
_REPOSITORIES = {"operator-sdk-ansible-util": "operator_sdk.util"}
_NAME = re.compile(r"[a-z_]\w*\.[a-z_]\w*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A collection in requirements.yml; an empty `version` is any."""

    name: str
    version: str
    file: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """Collections by name, and the roles that ansible-galaxy is to install."""

    collections: Mapping[str, Wanted]
    roles: frozenset[str]
    files: tuple[str, ...]


def read(folder: Path, findings: list[Finding]) -> Requirements:
    """The project's requirements; what is wrong with the file is added to `findings`."""
    wanted: dict[str, Wanted] = {}
    roles: set[str] = set()
    files = []
    for path in (folder / name for name in _FILES):
        if not path.exists():
            continue
        found = sources.read(path, folder)
        if isinstance(found, Finding):
            findings.append(found)
            continue
        files.append(found.name)
        for root in found.roots:
            listed = root if isinstance(root, yaml.SequenceNode) else entry(root, "roles")
            roles |= {name for item in items(listed) if (name := scalar(entry(item, "name")) or scalar(item))}
            for item in items(entry(root, "collections")):
                name = _name(scalar(item) or scalar(entry(item, "name")) or scalar(entry(item, "source")) or "")
                if name and name not in wanted:
                    version = scalar(entry(item, "version")) or ""
                    wanted[name] = Wanted(name=name, version=version, file=found.name, line=line_of(item))
    return Requirements(collections=wanted, roles=frozenset(roles), files=tuple(files))


def compare(requirements: Requirements, installed: Mapping[str, Collection]) -> list[Finding]:
    """Findings for collections that are not here, or here in another version than the one that is asked for."""
    return [
        finding for wanted in requirements.collections.values() for finding in _compare(wanted, installed.get(wanted.name))
    ]


def _compare(wanted: Wanted, here: Collection | None) -> Iterable[Finding]:
    install = f"ansible-galaxy collection install -r {wanted.file}"
    if here is None:
        what = f"{wanted.name} {wanted.version}".strip()
        message = f"{what} is not here, so that its plugins are not checked: {install}"
    elif not satisfies(here.version, wanted.version):
        message = (
            f"{wanted.name} {wanted.version} is asked for, and {here.version} is here, with which this was checked; "
            f"{install} gets the other"
        )
    else:
        return
    yield Finding(Level.WARNING, wanted.file, wanted.line, message)


def satisfies(version: str, asked: str) -> bool:
    """True if a version matches what is asked for, or cannot be compared with it, such as a branch."""
    asked = asked.strip().removeprefix("v")
    if asked in ("", "*", "HEAD"):
        return True
    specifiers = asked if re.match(r"[<>=!]", asked) else f"=={asked}"
    try:
        return Version(version) in SpecifierSet(specifiers, prereleases=True)
    except (InvalidVersion, InvalidSpecifier):
        return True


def _name(given: str) -> str:
    """NAMESPACE.NAME; of a repository's or archive's address, the name that it suggests, if any."""
    given = given[:500]
    if "/" not in given and not given.endswith((".git", ".gz")):
        return given.partition(":")[0] if given.count(".") == 1 else ""
    last = re.sub(r"(,.*|\.git.*|#.*)$", "", given.rstrip("/").rpartition("/")[2])
    if last in _REPOSITORIES:
        return _REPOSITORIES[last]
    archive = re.fullmatch(r"([a-z_]\w*?)-(\w+)-v?\d.*\.tar\.gz", last)
    if archive:
        return f"{archive[1]}.{archive[2]}"
    return last if _NAME.fullmatch(last) else ""
