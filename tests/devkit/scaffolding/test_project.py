from pathlib import Path
from typing import Any

import pytest
import yaml

from devkit.scaffolding import project
from devkit.scaffolding.naming import Api
from devkit.scaffolding.project import Scaffolded
from runner.config import watches
from runner.config.settings import Settings
from runner.errors import ConfigurationError


def create(folder: Path, kind: str = "Memcached", *, role: bool = True, playbook: bool = False, **flags: Any) -> Scaffolded:
    """As the command does, but for what `manifests` writes."""
    found = project.load(folder)
    given = {"group": "cache", "version": "v1", "plural": "", "namespaced": True, **flags}
    api = Api(domain=found.domain, kind=kind, **given).checked(found.resources)
    return project.create_api(folder, found, api, role=role, playbook=playbook)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "my-operator"
    made.mkdir()
    project.init(made, domain="example.com", name="")
    return made


def test_a_new_project_has_the_tree_that_its_users_know(folder: Path) -> None:
    top = {path.name for path in folder.iterdir()}
    assert top >= {"PROJECT", "Dockerfile", "Makefile", "watches.yaml", "requirements.yml", ".gitignore"}
    assert top >= {"roles", "playbooks", "molecule", "config"}
    assert {path.name for path in (folder / "config").iterdir()} == {
        *(
            "autoscaled",
            "crd",
            "dashboard",
            "default",
            "grafana",
            "manager",
            "network-policy",
            "prometheus",
            "rbac",
            "samples",
            "sharded",
        ),
    }
    assert {path.name for path in (folder / "molecule").iterdir()} == {"default", "cluster"}
    assert yaml.safe_load((folder / "PROJECT").read_text()) == {
        "domain": "example.com",
        "layout": ["ansible.sdk.operatorframework.io/v1"],
        "projectName": "my-operator",
        "resources": [],
        "version": "3",
    }


def test_no_template_leaves_a_trace_and_all_yaml_is_valid(folder: Path) -> None:
    create(folder)
    create(folder, "Backup", role=False, playbook=True)
    create(folder, "Proxy", playbook=True, namespaced=False, plural="proxes")
    for path, text in contents(folder).items():
        assert not {"[[", "]]", "[%"} & set(text.split()), path
        if path.endswith((".yaml", ".yml")):
            list(yaml.safe_load_all(text))


def test_kinds_are_added_to_each_file_that_lists_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(folder)
    create(folder, "Backup", role=False, playbook=True)
    create(folder, "Proxy", playbook=True, namespaced=False, plural="proxes")
    texts = contents(folder)
    listed = {path: yaml.safe_load(texts[f"config/{path}/kustomization.yaml"])["resources"] for path in ("crd", "samples")}
    assert listed["samples"] == ["cache_v1_memcached.yaml", "cache_v1_backup.yaml", "cache_v1_proxy.yaml"]
    assert listed["crd"] == [f"bases/cache.example.com_{plural}.yaml" for plural in ("memcacheds", "backups", "proxes")]
    for path in ("samples", "rbac"):
        for entry in yaml.safe_load(texts[f"config/{path}/kustomization.yaml"])["resources"]:
            assert f"config/{path}/{entry}" in texts
    kinds = [{"group": "cache.example.com", "resource": plural} for plural in ("memcacheds", "backups", "proxes")]
    assert yaml.safe_load(texts["config/sharded/controller_ring.yaml"])["spec"]["resources"] == kinds
    sharder, shard = (yaml.safe_load(texts[f"config/sharded/{who}_role.yaml"])["rules"] for who in ("sharder", "shard"))
    for rules, verbs in ((sharder, ["list", "patch"]), (shard[1:], ["patch"])):
        each = [{"apiGroups": [kind["group"]], "resources": [kind["resource"]], "verbs": verbs} for kind in kinds]
        assert rules == each
    assert {path for path in texts if "argument_specs" in path} == {
        *("roles/memcached/meta/argument_specs.yml", "playbooks/backup.argument_specs.yml"),
        "playbooks/proxy.argument_specs.yml",
    }
    memcached, backup, proxy = yaml.safe_load(texts["PROJECT"])["resources"]
    known = {"domain": "example.com", "group": "cache", "version": "v1"}
    assert memcached == {"api": {"crdVersion": "v1", "namespaced": True}, "kind": "Memcached", **known}
    assert backup == {"api": {"crdVersion": "v1", "namespaced": True}, "kind": "Backup", **known}
    assert proxy == {"api": {"crdVersion": "v1"}, "kind": "Proxy", "plural": "proxes", **known}
    monkeypatch.chdir(folder)
    loaded = watches.load(Settings(), {})
    assert [watch.content.path for watch in loaded] == [
        folder / path for path in ("roles/memcached", "playbooks/backup.yml", "playbooks/proxy.yml")
    ]
    assert yaml.safe_load(texts["playbooks/proxy.yml"])[0]["roles"] == ["proxy"]


def test_what_a_user_has_written_stays(folder: Path) -> None:
    create(folder)
    edits = {
        "watches.yaml": "  # Mine.\n  reconcilePeriod: 1m\n  # timeout: 5m\n",
        "config/crd/kustomization.yaml": "# Mine.\npatches:\n- path: mine.yaml\n",
        "config/samples/kustomization.yaml": "- mine.yaml  # Mine.\n",
        "config/rbac/kustomization.yaml": "- mine.yaml  # Mine.\n",
        "config/sharded/controller_ring.yaml": "    controlledResources: [{group: apps, resource: pods}]  # Mine.\n",
        "config/sharded/sharder_role.yaml": "- {apiGroups: [apps], resources: [pods], verbs: [list]}  # Mine.\n",
        "PROJECT": "# Mine.\n",
        "roles/memcached/tasks/main.yml": "# Mine.\n",
    }
    for path, text in edits.items():
        before = (folder / path).read_text()
        position = before.find("# +kubebuilder")
        (folder / path).write_text(before + text if position < 0 else before[:position] + text + before[position:])
    before = contents(folder)
    create(folder, "Backup")
    for path, text in contents(folder).items():
        if path in before:
            # Nothing but insertions, and these in one place.
            kept = before[path].splitlines()
            lines = text.splitlines()
            head = next((n for n, (old, new) in enumerate(zip(kept, lines, strict=False)) if old != new), len(kept))
            assert lines[:head] + (lines[len(lines) - len(kept) + head :] if head < len(kept) else []) == kept, path
    watch = yaml.safe_load((folder / "watches.yaml").read_text())[0]
    assert watch["reconcilePeriod"] == "1m"


def test_a_file_that_stands_in_the_way_is_not_overwritten_and_nothing_else_is_written(folder: Path) -> None:
    (folder / "config" / "samples" / "cache_v1_memcached.yaml").write_text("mine")
    before = contents(folder)
    with pytest.raises(ConfigurationError, match=r"config/samples/cache_v1_memcached\.yaml: there already, and not over"):
        create(folder)
    assert contents(folder) == before


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_same_kind_twice_is_an_error(folder: Path, version: str) -> None:
    create(folder)
    before = contents(folder)
    with pytest.raises(
        ConfigurationError, match=r"PROJECT: it has the kind Memcached .* already, in v1; .*cache\.example\.com_memcacheds"
    ):
        create(folder, version=version)
    assert contents(folder) == before


def test_a_kind_that_is_watched_already_is_an_error(folder: Path) -> None:
    watch = {"group": "cache.example.com", "version": "v1", "kind": "Memcached", "role": "mine"}
    (folder / "watches.yaml").write_text(yaml.safe_dump([watch]))
    with pytest.raises(ConfigurationError, match=r"watches\.yaml: .* is watched already; remove that watch first"):
        create(folder)


def test_a_role_that_is_there_is_used(folder: Path) -> None:
    (folder / "roles" / "memcached").mkdir()
    with pytest.raises(ConfigurationError, match="roles/memcached is there already; leave out --generate-role"):
        create(folder)
    create(folder, role=False)
    assert yaml.safe_load((folder / "watches.yaml").read_text())[0]["role"] == "memcached"
    # Nothing is known of its fields.
    specs = yaml.safe_load((folder / "roles/memcached/meta/argument_specs.yml").read_text())
    assert "options" not in specs["argument_specs"]["main"]
    with pytest.raises(ConfigurationError, match="nothing for Backup to run: give --generate-role or --generate-playbook"):
        create(folder, "Backup", role=False)


@pytest.mark.parametrize("name", ["argument_specs.yml", "main.yaml"])
def test_argument_specs_that_are_there_are_used(folder: Path, name: str) -> None:
    meta = folder / "roles" / "memcached" / "meta"
    meta.mkdir(parents=True)
    (meta / name).write_text("argument_specs: {main: {options: {}}}")
    create(folder, role=False)
    assert [path.name for path in meta.iterdir()] == [name]


def test_a_project_of_the_operator_sdk_is_added_to(tmp_path: Path) -> None:
    (tmp_path / "PROJECT").write_text(
        "# By the SDK.\ndomain: example.com\nlayout:\n- ansible.sdk.operatorframework.io/v1\n"
        "plugins:\n  scorecard.sdk.operatorframework.io/v2: {}\nprojectName: theirs\nversion: '3'\n"
    )
    (tmp_path / "watches.yaml").write_text("---\n# Theirs.\n# +kubebuilder:scaffold:watch\n")
    create(tmp_path)
    assert [item["kind"] for item in project.load(tmp_path).resources] == ["Memcached"]
    assert yaml.safe_load((tmp_path / "watches.yaml").read_text())[0]["kind"] == "Memcached"
    # What it lacks is made.
    assert yaml.safe_load((tmp_path / "config/crd/kustomization.yaml").read_text())["resources"]


def test_a_new_repositorys_files_may_be_there_and_stay(tmp_path: Path) -> None:
    for name in (".gitignore", "README.md", "LICENSE"):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".git").mkdir()
    scaffolded = project.init(tmp_path, domain="example.com", name="mine")
    assert scaffolded.kept == (Path(".gitignore"),)
    assert (tmp_path / ".gitignore").read_text() == "mine"


@pytest.mark.parametrize(
    ("domain", "name", "present", "message"),
    [
        ("Example.com", "x", "", "--domain 'Example.com': write a domain in lower case"),
        ("example..com", "x", "", "--domain"),
        ("", "x", "", "--domain"),
        ("1.5", "x", "", "--domain '1.5': YAML takes this word"),
        ("d" * 121, "x", "", "--domain"),
        ("sigs.k8s.io", "x", "", "--domain 'sigs.k8s.io': only Kubernetes itself"),
        ("example.com", "My_Operator", "", "--project-name 'My_Operator': give one of a-z"),
        ("example.com", "1up", "", "--project-name '1up'"),
        ("example.com", "x" * 48, "", "at most 47 characters"),
        ("example.com", "", "", "--project-name is not given, and the folder's name is 'the_folder'"),
        ("example.com", "x", "thesis.doc", "is not empty, it has thesis.doc; make the project in a new folder"),
        ("example.com", "x", "PROJECT", "PROJECT: this is a project already; add to it with `rolerunner create api`"),
    ],
    ids=[
        "upper case",
        "two dots",
        "empty",
        "number",
        "far",
        "reserved",
        "name",
        "digit",
        "long",
        "folder",
        "not empty",
        "twice",
    ],
)
def test_where_no_project_can_be_made(tmp_path: Path, domain: str, name: str, present: str, message: str) -> None:
    folder = tmp_path / "the_folder"
    folder.mkdir()
    if present:
        (folder / present).touch()
    with pytest.raises(ConfigurationError, match=message):
        project.init(folder, domain=domain, name=name)
    assert [path.name for path in folder.iterdir()] == ([present] if present else [])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('version: "3"', "version: 2", "version: expected '3', found 2; correct it"),
        ("ansible.sdk", "go.kubebuilder", "layout: expected a list with ansible.sdk"),
        ("domain: example.com", "", "domain: expected a domain, such as example.com, found None"),
        ("resources: []", "resources: {a: b}", "resources: expected a list"),
        ("resources: []", "resources: [text]", "resources: expected a list"),
        ("domain:", "domain: [", "no valid YAML"),
    ],
    ids=["version", "layout", "domain", "mapping", "resources", "no YAML"],
)
def test_a_changed_project_file_is_told(folder: Path, old: str, new: str, message: str) -> None:
    path = folder / "PROJECT"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigurationError, match=rf"PROJECT(:3)?: {message}"):
        create(folder)


def test_without_a_project_there_is_nothing_to_add_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"PROJECT is not there: .* `rolerunner init`"):
        project.load(tmp_path)
