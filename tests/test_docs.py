"""The documentation against the code: its examples work, and what it names exists.

`make docs` builds the site and checks its links; docs/tutorial.md has a test of its own, in `tests/tutorial`.
"""

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

from bench.driver import DEPLOYMENT, MEMCACHED, ROOT, Cluster, condition, example_crds, memcached, until
from devkit.devcluster import Cluster as Devcluster
from devkit.manifests.command import generate
from runner.cli import main
from runner.config import watches
from runner.config.settings import Settings
from runner.resource.metadata import ObjectKey
from tests import reference
from tests.conftest import Project
from tests.test_cli import OWN_FLAGS, PEERS_FLAGS

PATHS = [*(ROOT / "docs").glob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
PAGES = {path.name: path.read_text() for path in sorted(PATHS)}
PAGE = PAGES["from-go.md"]
# Pages that say where in the code something is.
OF_THE_CODE = ("architecture.md", "how-to-extend.md", "CONTRIBUTING.md")
MAKEFILES = (ROOT / "Makefile", ROOT / "devkit/scaffolding/templates/project/Makefile")
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


def test_the_tables_of_flags_and_keys_are_those_of_the_declarations() -> None:
    assert reference.filled(PAGES["reference.md"]) == PAGES["reference.md"], "write them: python -m tests.reference"


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


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = ROOT if (ROOT / page).exists() else ROOT / "docs"
    for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", PAGES[page]):
        path = (folder / target) if target else folder / page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


async def test_the_example_of_the_readme(project: Project, world: Cluster, one: ObjectKey) -> None:
    for path, text in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", PAGES["README.md"], re.MULTILINE | re.DOTALL):
        (project.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (project.folder / path).write_text(text)
    for crd in example_crds():
        await world.install(crd)
    await project.start()
    await world.create(memcached("one", 3), one.namespace)

    async def deployment(replicas: int, other_than: str = "") -> dict[str, Any]:
        async def there() -> dict[str, Any] | None:
            found = await world.get(DEPLOYMENT, one)
            good = found and found["metadata"]["uid"] != other_than and found["spec"]["replicas"] == replicas
            return found if good else None

        return await until(there, f"a Deployment of {replicas}")

    async def succeeded() -> bool:
        return condition(await world.get(MEMCACHED, one), "Successful").get("status") == "True"

    await deployment(3)
    await until(succeeded, "the status says so")
    await world.patch(MEMCACHED, one, {"spec": {"size": 2}})
    await deployment(2)
    await world.patch(DEPLOYMENT, one, {"spec": {"replicas": 5}})
    made = await deployment(2)
    await world.delete(DEPLOYMENT, one)
    await deployment(2, other_than=made["metadata"]["uid"])
    await world.delete(MEMCACHED, one)

    async def gone() -> bool:
        return await world.get(DEPLOYMENT, one) is None

    await until(gone, "the Deployment is deleted with its CR")


def code(page: str) -> list[str]:
    """What a page has in code spans."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("page", PAGES)
def test_files_and_modules_exist(page: str) -> None:
    missing = []
    for word in code(page):
        if re.fullmatch(r"(runner|devkit|tests|bench|docs|\.ci)/[\w./-]+", word):
            if not (ROOT / word).exists():
                missing.append(word)
        elif re.fullmatch(r"(runner|devkit)(\.\w+)+", word):
            module, _, name = word.rpartition(".")
            path, whole = ROOT / module.replace(".", "/"), ROOT / word.replace(".", "/")
            source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
            if not whole.is_dir() and not whole.with_suffix(".py").exists() and not defines(source, name):
                missing.append(word)
    assert missing == []


def defines(source: Path, name: str) -> bool:
    """A module or the code of a package defines the name, in whatever scope."""
    return source.exists() and bool(re.search(rf"^ *(class|def|async def) {name}\b|^{name}\b", source.read_text(), re.M))


@pytest.mark.parametrize("page", OF_THE_CODE)
def test_names_of_the_code_exist(page: str) -> None:
    """Each row or sentence that names a file and then, in parentheses, what to look for there: `a/b.py` (`Name`, `name`)."""
    missing = []
    for path, names in re.findall(r"`([\w/]+\.py)` \(((?:`\w+`(?:, | and )?)+)\)", PAGES[page]):
        missing += [f"{path}: {name}" for name in re.findall(r"`(\w+)`", names) if not defines(ROOT / path, name)]
    assert missing == []


def test_the_architecture_names_each_module_of_the_engine() -> None:
    named = {word.rstrip("/") for word in code("architecture.md")}
    paths = [path.relative_to(ROOT) for path in (ROOT / "runner").rglob("*.py") if not path.name.startswith("__")]
    modules = [path for path in paths if "ansible_collections" not in path.parts]
    assert [str(path) for path in modules if not named & {str(path), str(path.parent)}] == []


def test_the_architectures_diagram_names_modules() -> None:
    names = re.findall(r'class="name"[^>]*>(\w+(?:/\w+)?)<', (ROOT / "docs" / "architecture.svg").read_text())
    assert len(names) > 5
    assert [name for name in names if not list((ROOT / "runner").glob(f"{name}*"))] == []


@pytest.mark.parametrize("page", PAGES)
def test_what_is_made_can_be_made(page: str) -> None:
    targets = {name for path in MAKEFILES for name in re.findall(r"^([a-z-]+):", path.read_text(), re.MULTILINE)}
    sh = re.findall(r"^```sh\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)
    lines = [*code(page), *(line for block in sh for line in block.splitlines())]
    named = {match[1] for line in lines if (match := re.match(r"make ([a-z-]+)(?![\w=])", line))}
    assert named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_are_named_exist(page: str) -> None:
    missing = []
    for file, name in re.findall(r"`((?:\w+/)*test_\w+\.py)(?:::(\w+))?`", PAGES[page]):
        path = ROOT / "tests" / file.removeprefix("tests/")
        if not path.exists() or (name and f"def {name}(" not in path.read_text()):
            missing.append(f"{file}::{name}")
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_words(page: str) -> None:
    """Plain technical English; what has a name in Kubernetes or Ansible is called by it."""
    private = r"\b(anew|heed\w*|beside|whoever|lessons?|echoes|rehearsals?|hatch|surroundings|a turn|its turn|is told of)\b"
    # The help texts of flags are what users know.
    text = re.sub(r"^\| `--.*$", "", PAGES[page], flags=re.MULTILINE) if page == "reference.md" else PAGES[page]
    assert re.findall(rf"(?i).*{private}.*", text) == []
