"""Adding an item to a list in a YAML file that is the user's: everything else stays as it stands, comments included.

The file is not written anew from its data. The item's text goes in below the list's last item, and the outcome is read
again to see that it says what was there before, and the item.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from runner.errors import ConfigurationError


def add(text: str, item: str, *, key: str = "", where: Path) -> str:
    """`text` with `item`, which is lines that begin with `- `, in the list under `key`, or in that which the file is.

    Several documents are searched for the key. A list that has an equal item stays as it is; one that is missing is made.
    ConfigurationError, with the item to be added by hand, where that cannot be done.
    """
    what = f"`{key}`" if key else "the file"
    refusal = ConfigurationError(
        f"{where}: {what} is no list with a line for each item, so this is to be added by hand:\n{item}"
    )
    (new,) = yaml.safe_load(item)
    before = documents(text, where) or [None]
    # Where nothing has the key, the last document gets it.
    number = next((n for n, found in enumerate(before) if not key or (isinstance(found, dict) and key in found)), -1)
    whole = before[number] or ({} if key else [])
    items = (whole.get(key) or [] if isinstance(whole, dict) else None) if key else whole
    if not isinstance(items, list):
        raise refusal
    if new in items:
        return text
    wanted = list(before)
    wanted[number] = {**(before[number] or {}), key: [*items, new]} if key else [*items, new]
    nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    after = _inserted(text, item, key, nodes[number] if nodes else None)
    try:
        if list(yaml.safe_load_all(after)) == wanted:
            return after
    except yaml.YAMLError:
        pass
    raise refusal


def documents(text: str, where: Path) -> list[Any]:
    try:
        return list(yaml.safe_load_all(text))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigurationError(f"{where}{line}: cannot be added to: {error.problem}; correct it first") from error


def _inserted(text: str, item: str, key: str, root: yaml.Node | None) -> str:
    found = root
    if key:
        pairs = root.value if isinstance(root, yaml.MappingNode) else []
        found = next((value for name, value in pairs if name.value == key), None)
    if found is None:
        return _spliced(text, len(text), f"{key}:\n{item}" if key else item)
    if isinstance(found, yaml.SequenceNode) and found.value and not found.flow_style:
        column = found.start_mark.column
        position = max(_line_after(text, node.end_mark) for node in _below(found))
        # Comments that are indented belong to the last item.
        for line in text[position:].splitlines(keepends=True):
            stripped = line.lstrip(" ")
            if not stripped.startswith("#") or len(line) - len(stripped) <= column:
                break
            position += len(line)
        return _spliced(text, position, textwrap.indent(item, " " * column))
    # Nothing, or `[]`.
    before, after = text[: found.start_mark.index], text[found.end_mark.index :]
    if key:
        before = before.rstrip(" ")
        return _spliced(before + after, _line_end(before + after, len(before)), item)
    return _spliced(before + after.lstrip(" \r\n"), len(before), item)


def _line_after(text: str, mark: yaml.Mark) -> int:
    # What follows a `|` ends where the next line begins.
    return mark.index if mark.column == 0 else _line_end(text, mark.index)


def _line_end(text: str, position: int) -> int:
    return text.find("\n", position) + 1 or len(text)


def _spliced(text: str, position: int, lines: str) -> str:
    before, newline = text[:position], "\r\n" if "\r\n" in text else "\n"
    if before and not before.endswith("\n"):
        before += newline
    return before + lines.replace("\n", newline) + text[position:]


def _below(node: yaml.Node) -> Iterator[yaml.Node]:
    """What a node holds, without the nodes that hold more: those end where the next one begins, below the comments."""
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    if not parts or getattr(node, "flow_style", False):
        yield node
    for part in parts:
        yield from _below(part)
