"""A project's YAML files as nodes, which know their lines.

Nothing is constructed, so that a tag never does anything; each node is looked at once, however many aliases lead to it; and
a file that cannot be read is a finding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from devkit.check.findings import Finding, Level
from runner.config import yaml_files

# Larger files are data.
MAX_BYTES = 2_000_000
# libyaml's has a limit of its own for nested lists, and is faster.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "tag:yaml.org,2002:merge"
# Of a mapping; a merge of more is no task and no object, and would be gone through for each place that has it.
_MAX_MERGED = 200
# Their text is not a template.
_OPAQUE = frozenset({"!unsafe", "!vault", "!vault-encrypted"})


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


def line_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def pairs(node: yaml.Node | None) -> list[tuple[str, yaml.Node, yaml.Node]]:
    """(name, key, value) of a mapping's entries, with what merge keys bring, but for endless ones; its own go first."""
    if not isinstance(node, yaml.MappingNode):
        return []
    found: dict[str, tuple[str, yaml.Node, yaml.Node]] = {}
    waiting: list[yaml.Node] = [node]
    seen: set[int] = set()
    while waiting:
        here = waiting.pop(0)
        if id(here) in seen:
            continue
        seen.add(id(here))
        if isinstance(here, yaml.SequenceNode):
            waiting += here.value
        elif isinstance(here, yaml.MappingNode):
            waiting += [value for key, value in here.value if key.tag == _MERGE]
            for key, value in here.value if here is node else here.value[:_MAX_MERGED]:
                if key.tag != _MERGE and isinstance(key, yaml.ScalarNode):
                    found.setdefault(str(key.value), (str(key.value), key, value))
        if len(seen) > _MAX_MERGED:
            break
    return list(found.values())


def entry(node: yaml.Node | None, *path: str) -> yaml.Node | None:
    """The value below these keys, one after the other."""
    for name in path:
        node = next((value for key, _, value in pairs(node) if key == name), None)
    return node


def items(node: yaml.Node | None) -> list[yaml.Node]:
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def scalar(node: yaml.Node | None) -> str | None:
    """A scalar's text; None for anything else, and for nothing."""
    if isinstance(node, yaml.ScalarNode) and node.tag not in ("tag:yaml.org,2002:null", *_OPAQUE):
        return str(node.value)
    return None


def scalars(node: yaml.Node | None, seen: set[int] | None = None) -> Iterator[yaml.ScalarNode]:
    """Iterate over the scalars inside that may be templates, in the file's order, without those that were `seen`."""
    waiting: list[yaml.Node | None] = [node]
    seen = set() if seen is None else seen
    while waiting:
        here = waiting.pop()
        if here is None or id(here) in seen:
            continue
        seen.add(id(here))
        if isinstance(here, yaml.ScalarNode):
            if here.tag not in _OPAQUE:
                yield here
        elif isinstance(here, yaml.MappingNode):
            waiting.extend(each for pair in reversed(here.value) for each in reversed(pair))
        elif isinstance(here, yaml.SequenceNode):
            waiting.extend(reversed(here.value))
