"""The files of a role's or a playbook's argument specs, and a role's own variables.

No more than the files: what the specs mean for a kind is in `scaffolding.crd`, for a run in `executor.arguments`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from runner.config import yaml_files

_ENDINGS = ("yml", "yaml")


class Loader(yaml.SafeLoader):
    """A YAML loader that reads a value with one of Ansible's tags (!vault, !unsafe) as text."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: getattr(node, "value", None))


def find(*, role: Path | None, playbook: Path | None) -> Path | None:
    """The file of the argument specs: in a role's meta folder, or `NAME.argument_specs.yml` next to `NAME.yml`."""
    if playbook:
        places = [f"{playbook.with_suffix('')}.argument_specs.{ending}" for ending in _ENDINGS]
    elif role:
        places = [f"{role}/meta/{name}.{ending}" for name in ("argument_specs", "main") for ending in _ENDINGS]
    else:
        places = []
    return next(map(Path, filter(_is_file, places)), None)


def _is_file(path: str) -> bool:
    """True for a file; raises OSError if that cannot be found out."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def own_variables(role: Path | None) -> dict[str, Any]:
    """The variables of a role's defaults and vars, of which the latter win. Raises ConfigurationError."""
    found: dict[str, Any] = {}
    for path in (*files(role, "defaults"), *files(role, "vars")):
        content = read(path)
        found |= content if isinstance(content, dict) else {}
    return found


def files(role: Path | None, folder: str) -> Iterator[Path]:
    """The files of a role's `defaults`, `vars`, `tasks` …: main.yml, or those in a folder `main`."""
    if role is None:
        return
    main = role / folder / "main"
    found = next(filter(Path.is_file, (main.with_suffix(f".{ending}") for ending in _ENDINGS)), None)
    if found:
        yield found
    elif main.is_dir():
        yield from sorted(path for path in main.rglob("*") if path.suffix.removeprefix(".") in _ENDINGS)


def read(path: Path) -> Any:
    """A YAML file as plain Python. Raises ConfigurationError."""
    text = yaml_files.read_text(path)
    try:
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise yaml_files.invalid(path, error) from error
