"""What docs/from-go.md and docs/from-ansible-operator.md show is taken by the code as they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from bench.driver import ROOT
from devkit.devcluster import Cluster as Devcluster
from devkit.manifests.command import generate
from runner.cli import main
from runner.config import watches
from runner.config.settings import Settings
from tests.test_cli import OWN_FLAGS, PEERS_FLAGS

PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
PAGE = PAGES["from-go.md"]
WATCH = "[{group: cache.example.com, version: v1alpha1, kind: Memcached, role: memcached}]"


def snippets(kind: str) -> list[str]:
    found = re.findall(rf"^```yaml\n# {kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found, kind
    return found


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a file of a project, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANSIBLE_ROLES_PATH", raising=False)
    (tmp_path / "roles" / "memcached_cleanup").mkdir(parents=True)

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("watches.yaml", WATCH)
    write("roles/memcached/tasks/main.yml", "")
    return write


def test_all_its_snippets_are_looked_at() -> None:
    kinds = ("watches.yaml", "tasks", "argument specs")
    assert sum(len(snippets(kind)) for kind in kinds) == PAGE.count("```yaml")


@pytest.mark.parametrize("text", snippets("watches.yaml"))
def test_watches(text: str, write: Callable[[str, str], None]) -> None:
    (watch,) = watches.parse(text, settings=Settings(), environ={})
    assert watch.related or watch.finalizer


@pytest.mark.parametrize("text", snippets("argument specs"))
def test_argument_specs(text: str, write: Callable[[str, str], None]) -> None:
    write("roles/memcached/meta/argument_specs.yml", text)
    result = generate(Settings(), {})
    crd = yaml.safe_load(result.texts[Path("crds/cache.example.com_memcacheds.yaml")])
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert "secretName" in spec["properties"]
    assert (result.notes, result.undecided) == ([], [])


@pytest.mark.parametrize("text", snippets("tasks"))
def test_tasks(text: str, write: Callable[[str, str], None]) -> None:
    write("roles/memcached/tasks/main.yml", text)
    # The modules are known, and what they do is decided by the text.
    assert generate(Settings(), {}).undecided == []
    for task in yaml.safe_load(text):
        (module,) = [name for name in task if name.count(".") == 2]
        assert task[module].keys() <= options(module), module


def options(module: str) -> set[str]:
    """The names of a module's options, by its documentation."""
    command = [str(Path(sys.executable).with_name("ansible-doc")), "--type=module", "--json", module]
    environ = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "runner" / "collections")}
    found = json.loads(subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout)
    return {name for key, option in found[module]["doc"]["options"].items() for name in (key, *option.get("aliases", ()))}


def test_python(devcluster: Devcluster, namespace: str) -> None:
    (text,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(text, names)
    names["test_a_namespace_is_there"](devcluster, namespace)


@pytest.mark.parametrize("page", ["from-go.md", "from-ansible-operator.md"])
def test_names(page: str) -> None:
    words = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL))
    flags = {
        flag for word in words for flag in re.findall(r"(?<!\S)--[a-z][-a-z]+", word) if not word.startswith("rolerunner")
    }
    assert flags <= PEERS_FLAGS | OWN_FLAGS
    commands = {match[1] for word in words if (match := re.match(r"rolerunner (\w+)", word))}
    assert commands <= set(main.list_commands(click.Context(main)))
    keys = {match[1] for word in words if (match := re.fullmatch(r"([a-z]+[A-Z]\w+)(: \w+)?", word))}
    assert keys <= set(watches.WATCH.names) | {"byName", "byAnnotation", "matchLabels", "matchExpressions", "secretName"}


@pytest.mark.parametrize("page", ["tutorial.md", "from-go.md", "from-ansible-operator.md", "molecule.md"])
def test_links_lead_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", PAGES[page]):
        path = (ROOT / "docs" / target) if target else ROOT / "docs" / page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
