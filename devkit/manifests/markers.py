"""Markers: `# +rolerunner:…` comments in a project's YAML, for what Ansible has no keyword for, as kubebuilder's in Go.

A marker stands in the comment directly above the key that it is about, or behind it on the same line. docs/manifests.md
lists them. The YAML is kept as nodes, which know their lines; errors are `FILE:LINE: what is wrong and what to do`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runner.config import yaml_files
from runner.errors import ConfigurationError

_MARKER = re.compile(r"(?:^|\s)#\s*\+rolerunner:(.*)$")
# Those that take several values by name; the others take one.
_COMPOSITE = ("rbac", "printcolumn", "scale", "version")
_PAIR = re.compile(r"""\s*(\w+)(?:=("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,]*))?\s*(?:,|$)""")


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker, named as `minimum`, `items:pattern` or `printcolumn`; a composite one has `fields`, any other a `text`."""

    name: str
    text: str
    fields: Mapping[str, str]
    at: str

    def number(self) -> int | float:
        value = _scalar(self.text)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"expected a number, found {self.text!r}")
        return value

    def count(self) -> int:
        value = self.number()
        if not isinstance(value, int) or value < 0:
            raise self.error(f"expected a whole number from 0, found {self.text!r}")
        return value

    def flag(self) -> bool:
        return _truth(self, self.text or "true")

    def string(self) -> str:
        """The text, without the quotes that it has where it begins or ends with a blank."""
        if not self.text:
            raise self.error("has no value; write it behind a =")
        return _unquoted(self.text)

    def words(self) -> list[str]:
        """`a;b` as a list."""
        return [word for word in self.string().split(";") if word]

    def field_flag(self, name: str) -> bool:
        return _truth(self, self.fields[name])

    def only(self, *known: str, required: tuple[str, ...] = ()) -> None:
        """Raises ConfigurationError for fields that are none of these, or missing."""
        for name in self.fields.keys() - set(known):
            raise self.error(f"has no {name}; known here: {', '.join(known)}")
        for name in required:
            if not self.fields.get(name):
                raise self.error(f"needs {name}=…")

    def error(self, text: str) -> ConfigurationError:
        return ConfigurationError(f"{self.at}: +rolerunner:{self.name}: {text}")


class YamlFile:
    """A YAML file as nodes, with its markers. Raises ConfigurationError when it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # As a user would name it.
        self.name = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
        self.text = yaml_files.read_text(path, name=self.name)
        try:
            self.roots = [root for root in yaml.compose_all(self.text, Loader=yaml.SafeLoader) if root is not None]
        except yaml.YAMLError as error:
            raise yaml_files.invalid(self.name, error) from error
        self._lines = self.text.splitlines()
        self.unclaimed = {number for number, line in enumerate(self._lines) if _MARKER.search(line)}

    def at(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"

    def markers(self, key: yaml.Node) -> list[Marker]:
        """Claim the markers of a key: in the comment right above its line, or behind it."""
        return [self._claim(number) for number in self.about(key)]

    def about(self, key: yaml.Node) -> list[int]:
        """The lines of a key's markers, which stay unclaimed."""
        first = last = key.start_mark.line
        while first and self._lines[first - 1].lstrip().startswith("#"):
            first -= 1
        return [number for number in range(first, last + 1) if number in self.unclaimed]

    def claim_all(self) -> list[Marker]:
        """Claim the markers that nothing has claimed yet."""
        return [self._claim(number) for number in sorted(self.unclaimed)]

    def _claim(self, number: int) -> Marker:
        self.unclaimed.discard(number)
        found = _MARKER.search(self._lines[number])
        assert found is not None
        return _parse(found[1].strip(), f"{self.name}:{number + 1}")


def _parse(text: str, at: str) -> Marker:
    head, separator, rest = re.match(r"([^:=\s]*)([:=]?)(.*)", text).groups()  # type: ignore[union-attr]
    if head == "items" and separator == ":":
        inner = _parse(rest, at)
        return Marker(f"items:{inner.name}", inner.text, inner.fields, at)
    if head not in _COMPOSITE:
        return Marker(head, rest.strip() if separator == "=" else "", {}, at)
    fields: dict[str, str] = {}
    end = 0
    for found in _PAIR.finditer(rest):
        if found.start() != end or found[0] == "":
            break
        fields[found[1]] = _unquoted(found[2].strip()) if found[2] is not None else "true"
        end = found.end()
    if end != len(rest) or separator != ":" or not fields:
        raise ConfigurationError(f"{at}: +rolerunner:{head}: write it as +rolerunner:{head}:name=value,name=value")
    return Marker(head, "", fields, at)


def _truth(marker: Marker, text: str) -> bool:
    if text not in ("true", "false"):
        raise marker.error(f"expected true or false, found {text!r}")
    return text == "true"


def _unquoted(text: str) -> str:
    return str(_scalar(text)) if text[:1] in ("'", '"') and text[-1:] == text[:1] and len(text) > 1 else text


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
