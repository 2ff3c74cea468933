"""A YAML file as nodes, which know their lines, and what is wrong with them: `FILE:LINE: KEY: what is wrong and what to do`.

Nothing in here knows watches.yaml, but for what such a file may be made of: values that JSON has as well, and no more of
them than can be read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import yaml

from runner.config.keys import Key, Structure, Value
from runner.resource.metadata import cut, quoted

# YAML's aliases make much of little, and what is read is read recursively.
_MOST_NODES, DEEPEST, _LONGEST_NUMBER = 100_000, 100, 1000
_LONGEST_PROBLEM = 2000

D = TypeVar("D")
T = TypeVar("T")

Fields = dict[str, yaml.Node]


def one_line(text: str) -> str:
    """A problem as the one short line that a user gets."""
    return cut(" ".join(text.split()), _LONGEST_PROBLEM)


class Nodes:
    """Reads the nodes of a file by the keys that are declared, and collects what is wrong in `problems`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.problems: list[str] = []

    def problem(self, node: yaml.Node, key: str, text: str) -> None:
        self.problems.append(one_line(f"{self._file}:{node.start_mark.line + 1}: {key}: {text}"))

    def check(self, root: yaml.Node | None) -> None:
        """Find values, anywhere in the file, that JSON does not have or that would take too long to read."""
        # Nodes with their keys, one for each alias.
        level: list[tuple[yaml.Node, str]] = [(root, "watches")] if root is not None else []
        seen: set[int] = set()
        left, depth = _MOST_NODES, 0
        while level:
            depth += 1
            following: list[tuple[yaml.Node, str]] = []
            for node, key in level:
                if id(node) not in seen and (wrong := _no_json(node)):
                    self.problem(node, key, wrong)
                seen.add(id(node))
                left -= 1 if isinstance(node, yaml.ScalarNode) else len(node.value) + 1
                if left < 0 or depth > DEEPEST:
                    why = f"nested more than {DEEPEST} levels deep" if left >= 0 else "too large, its aliases counted"
                    self.problem(node, key, f"{why}; make it smaller, with no alias to what it is in")
                    return
                if isinstance(node, yaml.SequenceNode):
                    following += [(item, key) for item in node.value]
                elif isinstance(node, yaml.MappingNode):
                    for name, value in node.value:
                        if name.tag in (_TEXT, _MERGE):
                            following.append((value, name.value))
                        elif id(name) not in seen:
                            seen.add(id(name))
                            self.problem(name, _name(name), "a key has to be text; put it in quotes")
            level = following

    def items(self, fields: Fields, key: str) -> list[yaml.Node]:
        """The nodes of a list, which may be absent."""
        node = fields.get(key)
        if node is None or is_null(node):
            return []
        if not isinstance(node, yaml.SequenceNode):
            self.problem(node, key, "expected a list")
            return []
        return list(node.value)

    def mapping(self, node: yaml.Node, key: str, structure: Structure) -> Fields | None:
        """A mapping's nodes by key; unknown and repeated keys are problems."""
        if not isinstance(node, yaml.MappingNode):
            self.problem(node, key, f"expected keys and values, found {_found(node)}")
            return None
        fields: Fields = {}
        known = set(structure.names)
        for name_node, value in self._pairs(node):
            name = str(name_node.value)
            if name not in known:
                self.problem(name_node, name, f"unknown key; known here: {', '.join(sorted(known))}")
            elif name in fields:
                self.problem(name_node, name, "stands twice; keep one")
            else:
                fields[name] = value
        return fields

    def _pairs(self, node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
        """A mapping's keys and values, with those of merge keys (`<<: *defaults`) that it does not have itself."""
        own = [(name, value) for name, value in node.value if name.tag != _MERGE]
        names = {name.value for name, _ in own}
        for merge, value in node.value:
            for source in (value.value if isinstance(value, yaml.SequenceNode) else [value]) if merge.tag == _MERGE else ():
                if not isinstance(source, yaml.MappingNode):
                    self.problem(merge, "<<", "expected keys and values, or a list of such")
                    continue
                merged = [(name, item) for name, item in self._pairs(source) if name.value not in names]
                names |= {name.value for name, _ in merged}
                own += merged
        return own

    def take(self, fields: Fields, key: Key[T], default: D) -> T | D:
        """The value of a key; `default` where it is absent, null or a problem."""
        node = fields.get(key.name)
        if node is None or is_null(node):
            return default
        assert isinstance(key.type, Value)
        try:
            return key.type.convert(_value(node))
        except ValueError as error:
            self.problem(node, key.name, str(error))
        except Exception as error:  # An expression's parser, too, raises what it stumbles over.
            self.problem(node, key.name, f"cannot be used: {type(error).__name__}: {error}")
        return default


_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
# Tags of what JSON has as well, by the kind of node.
_IN_JSON: Mapping[type[yaml.Node], frozenset[str]] = {
    yaml.ScalarNode: frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")),
    yaml.SequenceNode: frozenset({"tag:yaml.org,2002:seq"}),
    yaml.MappingNode: frozenset({"tag:yaml.org,2002:map"}),
}


def _no_json(node: yaml.Node) -> str:
    """The reason why JSON does not have this node's own value, whatever is in it; empty if it does."""
    if node.tag not in _IN_JSON[type(node)]:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        return f"a value of the type {quoted(tag)} cannot be handed on; write text, in quotes"
    if node.tag.endswith(("int", "float")) and len(node.value) > _LONGEST_NUMBER:
        return "a number of too many digits"
    if node.tag.endswith("float"):
        try:
            value = _value(node)
            if not (isinstance(value, float) and math.isfinite(value)):
                return f"the number {node.value} is none of JSON's; put it in quotes if text is meant"
        except ValueError as error:
            return str(error)
    return ""


def _found(node: yaml.Node) -> str:
    try:
        return quoted(_value(node))
    except ValueError:
        return f"what {quoted(node.tag)} would be"


def _name(node: yaml.Node) -> str:
    return node.value if isinstance(node, yaml.ScalarNode) else "key"


def _value(node: yaml.Node) -> object:
    """A node's value as plain Python, with the safe types only."""
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_object(node, deep=True)
    except Exception as error:  # As above.
        raise ValueError(f"cannot be read: {error or type(error).__name__}") from error
    finally:
        loader.dispose()
    return value


def is_null(node: yaml.Node) -> bool:
    return node.tag == "tag:yaml.org,2002:null"


def is_empty(node: yaml.Node) -> bool:
    return is_null(node) or node.value == ""
