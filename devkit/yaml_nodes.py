"""Reading YAML nodes, which know their lines, unlike the data that they stand for.

No tag of a file ever does anything; each node is looked at once, however many aliases lead to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from runner.config.argument_specs import Loader

_MERGE = "tag:yaml.org,2002:merge"
# Of a mapping; a merge of more is no task and no object, and would be gone through for each place that has it.
_MAX_MERGED = 200
# Their text is not a template.
_OPAQUE = frozenset({"!unsafe", "!vault", "!vault-encrypted"})


def line_of(node: yaml.Node) -> int:
    """The line on which a node begins, from 1."""
    return int(node.start_mark.line) + 1


def pairs(node: yaml.Node | None) -> list[tuple[str, yaml.Node, yaml.Node]]:
    """(name, key, value) of a mapping's entries, and of those that its merge keys bring; its own win and go first."""
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
                if key.tag != _MERGE and isinstance(key, yaml.ScalarNode) and (here is node or key.value not in found):
                    found[key.value] = (str(key.value), key, value)
        if len(seen) > _MAX_MERGED:
            break
    return list(found.values())


def entry(node: yaml.Node | None, *path: str) -> yaml.Node | None:
    """The value below these keys, one after the other."""
    for name in path:
        node = next((value for key, _, value in pairs(node) if key == name), None)
    return node


def items(node: yaml.Node | None) -> list[yaml.Node]:
    """The nodes of a list; nothing for any other node."""
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


def plain(node: yaml.Node | None) -> Any:
    """The node as plain Python."""
    if node is None:
        return None
    loader = Loader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()
