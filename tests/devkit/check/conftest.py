"""Small operators' projects, written by each test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from devkit.check import project
from devkit.check.findings import Finding
from devkit.check.project import ProjectFiles

Write = Callable[[Mapping[str, str]], Path]

WATCHES = "- {group: example.com, version: v1, kind: Thing, role: thing}\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes files below the current folder, which has a watches.yaml for the role `thing` already."""
    monkeypatch.chdir(tmp_path)
    for name in ("ANSIBLE_ROLES_PATH", "ANSIBLE_COLLECTIONS_PATH", "ANSIBLE_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def write(files: Mapping[str, str]) -> Path:
        for name, text in {"watches.yaml": WATCHES, "roles/thing/tasks/main.yml": "", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


def loaded(folder: Path, **variables: str) -> ProjectFiles:
    """The project in the current folder, as far as text goes."""
    return project.load(folder, project.watches_files(folder, None), {}, variables=variables)


def told(findings: list[Finding]) -> list[str]:
    """LEVEL FILE:LINE: MESSAGE of each finding."""
    return [f"{each.level.label} {each.file}:{each.line}: {each.message}" for each in sorted(set(findings))]
