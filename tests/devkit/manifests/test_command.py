"""The command."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from bench.driver import ROOT
from runner.cli import main
from tests.devkit.manifests.conftest import Write

FILES = {
    "roles/thing/meta/argument_specs.yml": "argument_specs: {main: {options: {size: {type: int}}}}\n",
    "roles/thing/tasks/main.yml": "- k8s: {kind: '{{ x }}', name: a}\n",
}
CRD = "kind: CustomResourceDefinition\nspec: {group: test.example.com, names: {kind: Thing, plural: thingies}}\n"


def manifests(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["manifests", *arguments])


def test_it_writes_what_is_missing_and_says_so(write: Write) -> None:
    folder = write(FILES)
    result = manifests()
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "crds/test.example.com_things.yaml: written",
        "config/rbac/role.yaml: written",
        "config/rbac/leader_election_role.yaml: written",
    ]
    assert result.stderr.splitlines()[0] == "roles/thing/tasks/main.yml:1: not decided by the text: kind: {{ x }}"
    assert (folder / "config/rbac/role.yaml").exists()
    assert "Everything is up to date.\n" in manifests().stdout


def test_check_writes_nothing_and_fails_with_the_remedy(write: Write) -> None:
    folder = write(FILES)
    result = manifests("--check")
    assert (result.exit_code, (folder / "crds").exists()) == (1, False)
    manifests()
    assert manifests("--check").exit_code == 0
    specs = folder / "roles/thing/meta/argument_specs.yml"
    specs.write_text(specs.read_text().replace("int", "str"))
    result = manifests("--check")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["crds/test.example.com_things.yaml: not up to date"]
    assert "run: rolerunner manifests" in result.stderr


def test_a_crd_without_argument_specs_is_left_alone(write: Write) -> None:
    folder = write({"roles/thing/tasks/main.yml": "", "crds/mine.yaml": CRD})
    assert manifests().exit_code == 0
    assert (folder / "crds/mine.yaml").read_text() == CRD
    assert "thingies" in (folder / "config/rbac/role.yaml").read_text()


def test_a_kind_with_neither_is_told(write: Write) -> None:
    write({"roles/thing/tasks/main.yml": ""})
    assert manifests().stderr.splitlines() == [
        "Thing.test.example.com: no argument specs and no CRD in crds; write one of them"
    ]


def test_an_open_spec_of_old_is_told(write: Write) -> None:
    open_spec = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": open_spec}}}
    names = {"kind": "Thing", "plural": "things"}
    spec = {"group": "test.example.com", "names": names, "versions": [{"name": "v1", "schema": schema}]}
    write({**FILES, "crds/a.yaml": yaml.safe_dump({"kind": "CustomResourceDefinition", "spec": spec})})
    assert manifests().stderr.startswith("crds/a.yaml: fields that the argument specs do not name pass")
    specs = "argument_specs:\n  # +rolerunner:preserveUnknownFields\n  main: {options: {size: {type: int}}}\n"
    write({"roles/thing/meta/argument_specs.yml": specs})
    assert "do not name pass" not in manifests().stderr


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"watches.yaml": "[{kind: Thing, role: thing}]", "roles/thing/tasks/main.yml": ""},
            "watches.yaml:1: version: missing",
        ),
        ({"roles/thing/tasks/main.yml": "- ["}, "roles/thing/tasks/main.yml:1: no valid YAML"),
        ({"roles/thing/defaults/main.yml": "a: ["}, "roles/thing/defaults/main.yml"),
        ({"roles/thing/tasks/main.yml": "", "crds/a.yaml": "a: ["}, "crds/a.yaml:1: no valid YAML"),
        ({"crds/a.yaml": CRD.replace("{group", "{versions: [{}], group")}, "crds/a.yaml: spec.versions: each needs a name"),
        ({"roles/thing/tasks/main.yml": "", "crds": ""}, "crds"),
    ],
    ids="watches tasks defaults crds versions no-folder".split(),
)
def test_a_mistake_is_told_without_a_traceback(write: Write, files: dict[str, str], message: str) -> None:
    write({**FILES, **files} if any("crds" in name for name in files) else files)
    result = manifests()
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_odd_tasks_are_survived(write: Write) -> None:
    odd = [
        *("- k8s:", "- k8s: text", "- k8s: [1]", "- k8s: {definition: [1, null]}", "- k8s: {definition: 5}", "- []", "- a"),
        *(
            "- include_tasks: {}",
            "- include_role: {}",
            "- block: 5",
            "- {block: [{k8s: {kind: 3}}]}",
            "- vars: [a]\n  k8s: {}",
        ),
        *("- k8s: {kind: '{{ a b', name: x}", "- k8s: {kind: '{{ 1 + [] }}', name: x}", "- action: {}", "- 5: 6"),
        *(
            "- k8s: {kind: !unsafe '{{ a }}', name: x}",
            "- k8s: {kind: Pod, name: x}\n  loop: {a: b}",
            "- k8s_event: {involvedObject: a}",
        ),
    ]
    for task in odd:
        write({"roles/thing/tasks/main.yml": task + "\n"})
        result = manifests()
        assert result.exit_code == 0, (task, result.output, result.exception)


def test_this_repository_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = manifests("--check")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Everything is up to date.\n", "")
    assert Path("crds/cache.example.com_memcacheds.yaml").exists()
