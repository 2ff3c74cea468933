from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from devkit.manifests.command import Manifests, generate
from runner.config.settings import Settings

WATCH = """
- {group: test.example.com, version: v1, kind: Thing, role: thing}
"""

Write = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes files into a project, which is the current folder; it has a watch of Thing unless another is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANSIBLE_ROLES_PATH", raising=False)

    def write(files: Mapping[str, str]) -> Path:
        for name, text in {"watches.yaml": WATCH, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        return tmp_path

    return write


def generated() -> Manifests:
    """Of the current folder, and written into it."""
    result = generate(Settings(), {})
    for path, text in result.texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return result
