"""YAML files that a user writes: reading their text, and errors that name the file and the line."""

from __future__ import annotations

from pathlib import Path

import yaml

from runner.errors import ConfigurationError


def read_text(path: Path, *, name: str = "", remedy: str = "") -> str:
    """A file's text. Raises ConfigurationError, which calls the file `name` and adds `remedy` if it cannot be opened."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{name or path}: {error.strerror}{remedy}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{name or path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def problem(error: yaml.YAMLError | ValueError | RecursionError) -> tuple[int, str]:
    """(line, reason) of an error that PyYAML raised, in one line of text; line 0 where it names none."""
    if isinstance(error, RecursionError):
        return 0, "nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return mark.line + 1 if mark else 0, error.problem or error.context or "unknown error"
    return 0, " ".join(str(error).split())


def invalid(
    file: Path | str, error: yaml.YAMLError | ValueError | RecursionError, *, what: str = "no valid YAML"
) -> ConfigurationError:
    """The error to raise for one of PyYAML's: `FILE:LINE: WHAT: reason`."""
    line, reason = problem(error)
    return ConfigurationError(f"{file}:{line}: {what}: {reason}" if line else f"{file}: {what}: {reason}")
