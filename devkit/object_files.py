"""Kubernetes objects in YAML files. Errors name the file, its line or document, and the key."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from runner.config import yaml_files
from runner.errors import ConfigurationError
from runner.resource.metadata import Object


class FileObject(NamedTuple):
    """A Kubernetes object with a kind and a name. `where` is its file, and the document if the file has several."""

    where: str
    content: dict[str, Any]


def read(name: str) -> list[FileObject]:
    """The objects in a file (`-`: standard input), without kustomize's own. Raises ConfigurationError."""
    remedy = "; name a file with an object in it"
    text = sys.stdin.read() if name == "-" else yaml_files.read_text(Path(name), remedy=remedy)
    try:
        found = [content for content in yaml.safe_load_all(text) if content is not None]
    except (yaml.YAMLError, ValueError) as error:
        raise yaml_files.invalid(name, error) from error
    objects = []
    for number, content in enumerate(found, 1):
        where = f"{name}, document {number}" if len(found) > 1 else name
        if not isinstance(content, dict):
            raise ConfigurationError(f"{where}: expected an object with apiVersion, kind and metadata, found {content!r}")
        if content.get("kind") != "Kustomization":
            _check(where, content)
            objects.append(FileObject(where, content))
    return objects


def _check(where: str, content: Object) -> None:
    metadata = content.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    for key, value in (
        ("apiVersion", content.get("apiVersion")),
        ("kind", content.get("kind")),
        ("metadata.name", metadata.get("name")),
        ("metadata.namespace", metadata.get("namespace", "-")),
    ):
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{where}: {key}: expected text, found {value!r}")
