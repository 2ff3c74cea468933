"""YAML files with objects in them. What is wrong with one is told with the file, the line or document, and the key."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from runner.errors import ConfigurationError


class Document(NamedTuple):
    """An object that has a kind and a name. `where` it stands: the file, and the document if there are several."""

    where: str
    content: dict[str, Any]


def read(name: str) -> list[Document]:
    """The objects in a file (`-`: standard input), but for kustomize's own. Raises ConfigurationError."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        found = [content for content in yaml.safe_load_all(text) if content is not None]
    except OSError as error:
        raise ConfigurationError(f"{name}: {error.strerror}; name a file with an object in it") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{name}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{name}:{line}: no valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"{name}: no valid YAML: {error}") from error
    documents = []
    for number, content in enumerate(found, 1):
        where = f"{name}, document {number}" if len(found) > 1 else name
        if not isinstance(content, dict):
            raise ConfigurationError(f"{where}: expected an object with apiVersion, kind and metadata, found {content!r}")
        if content.get("kind") != "Kustomization":
            _check(where, content)
            documents.append(Document(where, content))
    return documents


def _check(where: str, content: dict[str, Any]) -> None:
    metadata = content.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    for key, value in (
        *(("apiVersion", content.get("apiVersion")), ("kind", content.get("kind"))),
        *(("metadata.name", metadata.get("name")), ("metadata.namespace", metadata.get("namespace", "-"))),
    ):
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{where}: {key}: expected text, found {value!r}")
