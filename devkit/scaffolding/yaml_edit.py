"""Append an item to a list in a YAML file that the user edits; everything else in it stays as it is, comments included.

The file is not dumped again from its data. The item's text is inserted below the list's last item, which is above a scaffold
marker of kubebuilder's (`# +kubebuilder:scaffold:…`) where there is one, and the result is parsed to see that it says what
was there before, and the item.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import yaml

from runner.config import yaml_files
from runner.errors import ConfigurationError


def add(text: str, item: str, *, key: str = "", where: Path) -> str:
    """Add `item`, lines that begin with `- `, to the list under `key`, or to that which the file is.

    Several documents are searched for the key, which may lead into mappings: `spec.resources`. A list that has an equal item
    stays as it is; one that is missing is made if it is at the top. Raises ConfigurationError, with the item to be added by
    hand, where that cannot be done.
    """
    what = f"`{key}`" if key else "the file"
    refusal = ConfigurationError(
        f"{where}: {what} is no list with a line for each item, so this is to be added by hand:\n{item}"
    )
    (new,) = yaml.safe_load(item)
    before = documents(text, where) or [None]
    keys = key.split(".") if key else []
    # Where nothing has the key, the last document gets it.
    number = next((n for n, found in enumerate(before) if not key or (isinstance(found, dict) and keys[0] in found)), -1)
    items = _items(before[number], keys)
    if items is None:
        raise refusal
    if new in items:
        return text
    wanted = list(before)
    wanted[number] = _with_items(before[number], keys, [*items, new])
    nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    after = _inserted(text, item, keys, nodes[number] if nodes else None)
    try:
        if list(yaml.safe_load_all(after)) == wanted:
            return after
    except yaml.YAMLError:
        pass
    raise refusal


def documents(text: str, where: Path) -> list[Any]:
    """The documents of a YAML text. Raises ConfigurationError."""
    try:
        return list(yaml.safe_load_all(text))
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(
            f"{yaml_files.invalid(where, error, what='cannot be added to')}; correct it first"
        ) from error


def _items(value: Any, keys: list[str]) -> list[Any] | None:
    """The list under the keys, empty if there is none yet; None where something else is in the way."""
    for key in keys:
        value = {} if value is None else value
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    items = value or []
    return items if isinstance(items, list) else None


def _with_items(value: Any, keys: list[str], items: list[Any]) -> Any:
    """A copy of the value with this list under the keys."""
    if not keys:
        return items
    value = value or {}
    return {**value, keys[0]: _with_items(value.get(keys[0]), keys[1:], items)}


def _inserted(text: str, item: str, keys: list[str], root: yaml.Node | None) -> str:
    found, indent = root, 0
    for key in keys:
        pairs = found.value if isinstance(found, yaml.MappingNode) else []
        name, found = next(((name, value) for name, value in pairs if name.value == key), (None, None))
        indent = name.start_mark.column if name else 0
    if found is None:
        # Below a mapping that has no such key this is not what is wanted, and refused for it.
        return _spliced(text, len(text), f"{keys[-1]}:\n{item}" if keys else item)
    start, end = found.start_mark.index, found.end_mark.index
    if isinstance(found, yaml.SequenceNode) and found.value and not found.flow_style:
        column = found.start_mark.column
        lines = text[start:end].splitlines(keepends=True)
        while _is_outside(lines[-1], column):
            lines.pop()
        position = start + sum(map(len, lines))
        return _spliced(text, position, textwrap.indent(item, " " * column))
    # Nothing, or `[]`.
    before, after = text[:start], text[end:]
    if keys:
        before = before.rstrip(" ")
        line_end = (before + after).find("\n", len(before)) + 1
        return _spliced(before + after, line_end or len(before + after), textwrap.indent(item, " " * indent))
    return _spliced(before + after.lstrip(" \r\n"), start, item)


def _is_outside(line: str, column: int) -> bool:
    """True for a line between a block list's last item and the next node, where the list's own node ends."""
    stripped = line.strip()
    return not stripped or (stripped.startswith("#") and len(line) - len(line.lstrip(" ")) <= column)


def _spliced(text: str, position: int, lines: str) -> str:
    before, newline = text[:position], "\r\n" if "\r\n" in text else "\n"
    if before and not before.endswith("\n"):
        before += newline
    return before + lines.replace("\n", newline) + text[position:]
