"""`rolerunner check` on whole projects, with the ansible-core that is here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.driver import ROOT
from runner.cli import main
from tests.devkit.check.conftest import WATCHES, Write

OUTSIDE = ("ANSIBLE_ROLES_PATH", "ANSIBLE_COLLECTIONS_PATH", "ANSIBLE_CONFIG")


def check(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["check", *arguments])
    # A traceback would be another exception.
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def test_the_example_operator_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OUTSIDE:
        monkeypatch.delenv(name, raising=False)
    before = Path.cwd()
    result = check(str(ROOT))
    assert result.exit_code == 0, result.output
    assert "nothing was found that keeps this operator from running" in result.output.splitlines()[-1]
    assert Path.cwd() == before


def test_mistakes_are_told_with_file_and_line(write: Write) -> None:
    folder = write(
        {
            "watches.yaml": WATCHES.replace("}", ",\n  managestatus: false}"),
            "roles/thing/tasks/main.yml": "- debgu: {}\n- k8s_status: {}\n  collections: [operator_sdk.util]\n"
            "- include: a.yml\n- debug: {msg: \"{{ a | nope }}{{ lookup('env', 'A') | b64encode is match('a') }}\"}\n",
            "Dockerfile": "FROM rolerunner\nCOPY roles/ .\nENTRYPOINT ansible-operator run --ansible-log-events=xyz\n",
        }
    )
    result = check(str(folder))
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert [line.removeprefix(f"{folder}/").partition(": error: ")[0] for line in lines if ": error: " in line] == [
        *("Dockerfile:3", "roles/thing/tasks/main.yml:1", "roles/thing/tasks/main.yml:4", "roles/thing/tasks/main.yml:5"),
        "watches.yaml:2",
    ]
    assert lines[0].startswith("Compared with ansible-core 2.")
    assert lines[-1] == "5 errors: this operator would not run here"


def test_json(write: Write) -> None:
    write({"roles/thing/tasks/main.yml": "- debgu: {}\n"})
    result = check("--output=json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert found["runs"] is False
    assert [(each["level"], each["file"], each["line"]) for each in found["findings"]] == [
        ("error", "roles/thing/tasks/main.yml", 1)
    ]


def test_an_ansible_cfg_of_the_project_counts(write: Write) -> None:
    files = {
        "roles/thing/tasks/main.yml": "- my_module: {msg: '{{ a | mine }}'}\n- include_role: {name: elsewhere}\n",
        "ansible.cfg": "[defaults]\nlibrary = plugins/modules\nfilter_plugins = plugins/filters\nroles_path = more\n",
        "plugins/modules/my_module.py": "",
        "plugins/filters/a.py": "class FilterModule:\n    def filters(self):\n        return {'mine': str}\n",
        "more/elsewhere/tasks/main.yml": "",
    }
    result = check(str(write(files)))
    assert result.exit_code == 0, result.output


def test_a_collection_of_the_projects_own(write: Write) -> None:
    files = {
        "roles/thing/tasks/main.yml": "- my.own.thing: {}\n- my.own.gone: {}\n",
        "collections/ansible_collections/my/own/plugins/modules/thing.py": "",
        "collections/ansible_collections/my/own/galaxy.yml": "version: 1.2.3\n",
    }
    result = check(str(write(files)))
    (line,) = [line for line in result.output.splitlines() if ": error: " in line]
    assert "main.yml:2: error: module my.own.gone is not in my.own 1.2.3" in line


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("watches.yaml", "- !!python/object/apply:os.system ['touch pwned']\n"),
        ("watches.yaml", "- {version: v1, kind: A, role: !!python/name:os.system ''}\n"),
        ("watches.yaml", "[" * 100_000),
        ("watches.yaml", "[" * 900 + "]" * 900),
        ("watches.yaml", "- &a [*a]\n"),
        ("watches.yaml", "- {version: v1, kind: A, role: " + "x" * 5000 + "}\n"),
        ("watches.yaml", '- {version: v1, kind: A, playbook: "a\\0b"}\n'),
        ("watches.yaml", "{a: 1}\n"),
        ("watches.yaml", "- 2026-13-45\n"),
        (
            "roles/thing/tasks/main.yml",
            "- {: }\n- ? [a, b]\n  : c\n- &a {block: [*a], when: [*a]}\n- !!python/object/apply:os.system [a]\n",
        ),
        (
            "roles/thing/tasks/main.yml",
            '- "\\ud800\\e[2J": {}\n- include_role: {name: "a\\0b"}\n- include_tasks: "' + "x" * 5000 + '"\n',
        ),
        ("roles/thing/tasks/main.yml", "- " * 900 + "debug"),
        ("roles/thing/tasks/main.yml", "- {block: " * 300 + "[]" + "}" * 300),
        (
            "roles/thing/tasks/main.yml",
            "- include_role: {name: '{{ a }}{{ b }}/../[*'}\n- include_role: {name: '{{ a }}'}\n- debgu: a\n",
        ),
        (
            "roles/thing/tasks/main.yml",
            "- debug: {msg: '{{ " + "(" * 5000 + " }}'}\n- debug: {msg: '{{ 9" + "9" * 10_000 + " }}'}\n",
        ),
        ("roles/thing/tasks/main.yml", "- include_tasks: main.yml\n- include_role: {name: thing}\n- import_playbook: 3\n"),
        ("roles/thing/tasks/main.yml", "x: &a {<<: *a}\n"),
        ("roles/thing/meta/main.yml", "dependencies: [[], {role: [a]}, 3, gone]\ncollections: {a: b}\n"),
        ("roles/thing/defaults/main.yml", "- [\n"),
        ("requirements.yml", "collections: {a: b}\nroles: [[]]\n- x\n"),
        (
            "requirements.yml",
            "collections: [{name: a.b, version: [1]}, {name: [a]}, {name: c.d, version: '>=='}, '///', 'http://[']\n",
        ),
        ("Dockerfile", "FROM\nRUN\n\\\nENTRYPOINT [\nRUN pip install -r ../../../etc/passwd 'x\nCOPY\n# roles\n"),
        (
            "config/a.yaml",
            "kind: Deployment\n"
            "spec: {template: {spec: {containers: [3, {name: manager, args: 3}, {name: manager, args: [[], '--x=\"']}]}}}\n",
        ),
        ("config/a.yaml", "kind: CustomResourceDefinition\nspec: {versions: 3, names: [], group: {}}\n"),
        ("ansible.cfg", "[defaults\nx"),
        ("ansible.cfg", "[defaults]\nforks = many\nroles_path = \x00\n"),
        ("json.py", "raise SystemExit(3)"),
        ("ansible/__init__.py", "raise SystemExit(3)"),
    ],
    ids=[
        *(
            "tag",
            "name",
            "deep",
            "nested",
            "itself",
            "long",
            "nul",
            "mapping",
            "date",
            "keys",
            "names",
            "lists",
            "blocks",
            "globs",
        ),
        *("jinja", "circle", "merge", "meta", "defaults", "requirements", "versions", "dockerfile", "deployment", "crd"),
        *("cfg", "values", "json", "ansible"),
    ],
)
def test_whatever_stands_in_the_files(name: str, text: str, write: Write) -> None:
    folder = write({name: text})
    result = check(str(folder))
    assert result.exit_code in (0, 1)
    assert (
        result.output.splitlines()[-1].startswith(("Error: ", "Nothing found"))
        or "operator" in result.output.splitlines()[-1]
    )
    assert not (folder / "pwned").exists()
    # Nothing of the project is imported in the place of a library.
    if name.endswith(".py"):
        assert result.exit_code == 0, result.output


def test_what_is_no_file(write: Write) -> None:
    folder = write({})
    (folder / "watches.yaml").unlink()
    os.mkfifo(folder / "watches.yaml")
    (folder / "roles/thing/tasks/loop.yml").symlink_to("loop.yml")
    (folder / "roles/thing/templates").symlink_to("..")
    assert "watches.yaml: error: is no file that can be read" in check(str(folder)).output


def test_a_folder_that_is_not_there() -> None:
    result = check("nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.output
