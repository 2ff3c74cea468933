"""The parts of `rolerunner dev` that need no cluster. The whole of it is in tests/behaviour/test_inner_loop.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from devkit.dev.session import Files, affected_kinds
from runner.config.watches import Content, Finalizer, Watch
from tests.control.test_workqueue import watch


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_files_that_come_go_and_are_written(tmp_path: Path) -> None:
    one, two = write(tmp_path / "roles" / "a" / "one.yml", "1"), write(tmp_path / "two.yml", "2")
    files, roots = Files(), [tmp_path / "roles", two, tmp_path / "missing"]
    files.changed(roots)
    assert files.changed(roots) == set()
    one.write_text("11")
    assert files.changed(roots) == {one}
    for noise in (".one.yml.swp", "one.yml~", ".git/index", "__pycache__/x.pyc", "4913"):
        write(tmp_path / "roles" / noise)
    three = write(tmp_path / "roles" / "three.yml")
    two.unlink()
    assert files.changed(roots) == {two, three}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Watch]:
    """Alpha: a role; Beta: a role that depends on common; Gamma: a playbook that includes beta's; Delta: one that may
    include any; Omega: its finalizer's playbook."""
    monkeypatch.chdir(tmp_path)
    roles, playbooks = tmp_path / "roles", tmp_path / "playbooks"
    write(roles / "alpha" / "tasks" / "main.yml", "- debug:")
    write(roles / "beta" / "meta" / "main.yml", "dependencies: [common]")
    write(roles / "common" / "tasks" / "main.yml", "# not-alpha")
    write(playbooks / "gamma.yml", "- hosts: localhost\n  roles: [beta]\n")
    write(playbooks / "delta.yml", "- tasks:\n    - include_role:\n        name: '{{ which }}'\n")
    write(playbooks / "omega.yml", "- hosts: localhost\n")

    def content(kind: str, **path: Path) -> Watch:
        return replace(watch(kind), content=Content(**path))

    return [
        content("Alpha", role=roles / "alpha"),
        content("Beta", role=roles / "beta"),
        content("Gamma", playbook=playbooks / "gamma.yml"),
        content("Delta", playbook=playbooks / "delta.yml"),
        replace(
            content("Omega", role=roles / "alpha"),
            finalizer=Finalizer(name="x", content=Content(playbook=playbooks / "omega.yml")),
        ),
    ]


@pytest.mark.parametrize(
    ("edited", "kinds"),
    [
        ("roles/alpha/tasks/main.yml", "Alpha Delta Omega"),
        ("roles/alpha/templates/new.j2", "Alpha Delta Omega"),
        ("roles/beta/tasks/main.yml", "Beta Gamma Delta"),
        ("roles/common/tasks/main.yml", "Beta Gamma Delta"),
        ("roles/common/files/key", "Beta Gamma Delta"),
        ("playbooks/gamma.yml", "Gamma"),
        ("playbooks/omega.yml", "Omega"),
        ("playbooks/tasks/shared.yml", "Gamma Delta Omega"),
        ("README.md", ""),
    ],
)
def test_whom_an_edit_concerns(edited: str, kinds: str, project: list[Watch]) -> None:
    found = {kind.rpartition("=")[2] for kind in affected_kinds(project, Path.cwd() / edited)}
    assert found == set(kinds.split())
