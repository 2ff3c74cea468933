"""A project's YAML files as nodes (`devkit.yaml_nodes`); a file that cannot be read is a finding."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from devkit.check.findings import Finding, Level
from runner.config import yaml_files

# Larger files are data.
MAX_BYTES = 2_000_000
# libyaml's has a limit of its own for nested lists, and is faster.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file that could be read: `name` is its path relative to the project, `roots` are its documents."""

    name: str
    path: Path
    roots: tuple[yaml.Node, ...]


def is_file(path: Path) -> bool:
    """True for an existing file; False, not an error, for a name that no file can have."""
    return os.path.isfile(path)


def is_folder(path: Path) -> bool:
    """True for an existing folder, as `is_file`."""
    return os.path.isdir(path)


def relative(path: Path, folder: Path) -> str:
    """A path for messages: relative to the project's folder, if it is below it."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def text(path: Path, folder: Path) -> str | Finding:
    """A text file's content, or what is wrong with the file."""
    name = relative(path, folder)
    try:
        if not is_file(path):
            return Finding(Level.ERROR, name, 0, "is no file that can be read")
        if path.stat().st_size > MAX_BYTES:
            return Finding(Level.WARNING, name, 0, f"is larger than {MAX_BYTES:,} bytes and was not looked into")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        return Finding(Level.ERROR, name, 0, f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        return Finding(Level.ERROR, name, 0, f"not UTF-8 text ({error.reason} at byte {error.start})")


def read(path: Path, folder: Path) -> Source | Finding:
    """A YAML file's documents, or what is wrong with the file."""
    name, content = relative(path, folder), text(path, folder)
    if isinstance(content, Finding):
        return content
    try:
        roots = tuple(root for root in yaml.compose_all(content, Loader=_Loader) if root is not None)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line, reason = yaml_files.problem(error)
        return Finding(Level.ERROR, name, line, f"no valid YAML: {reason}; correct it")
    return Source(name=name, path=path, roots=roots)
