"""What watches.yaml leads to."""

from __future__ import annotations

from pathlib import Path

import pytest

from devkit.check import project
from tests.devkit.check.conftest import WATCHES, Write, loaded, told


def used(folder: Path) -> set[str]:
    return {use.name for use in loaded(folder).reading.uses}


def test_roles_are_followed_by_name(write: Write) -> None:
    folder = write(
        {
            "roles/thing/tasks/main.yml": "- include_tasks: more/a.yml\n- include_role: {name: other, tasks_from: b}\n",
            "roles/thing/tasks/more/a.yml": "- import_tasks: c.yml\n- debug: {msg: '{{ x | from_a }}'}\n",
            "roles/thing/tasks/more/c.yml": "- debug: {msg: '{{ x | from_c }}'}\n",
            "roles/thing/defaults/main.yml": "a: '{{ x | from_defaults }}'\n",
            "roles/thing/templates/a.j2": "{{ x | from_template }}\n",
            "roles/thing/handlers/main.yml": "- debug: {msg: '{{ x | from_handler }}'}\n",
            "roles/thing/meta/main.yml": "dependencies: [needed]\n",
            "roles/other/tasks/b.yml": "- debug: {msg: '{{ x | from_b }}'}\n",
            "roles/needed/tasks/main.yml": "- debug: {msg: '{{ x | from_needed }}'}\n",
            "roles/nobody/tasks/main.yml": "- debug: {msg: '{{ x | from_nobody }}'}\n",
        }
    )
    names = "a c defaults template handler b needed"
    assert used(folder) == {f"from_{name}" for name in names.split()}
    found = loaded(folder)
    assert found.reading.findings == []
    assert found.reached >= {"roles/thing/tasks/more/c.yml", "roles/other/tasks/b.yml"}


def test_playbooks_and_finalizers_are_followed(write: Write) -> None:
    folder = write(
        {
            "watches.yaml": "- {version: v1, kind: A, playbook: playbooks/a.yml, finalizer: {name: a/b, role: thing}}\n",
            "playbooks/a.yml": "- import_playbook: b.yml\n- hosts: localhost\n  tasks: [{include_tasks: c.yml}]\n",
            "playbooks/b.yml": "- hosts: localhost\n  roles: [other]\n",
            "playbooks/c.yml": "- debug: {msg: '{{ x | from_c }}'}\n",
            "roles/other/tasks/main.yml": "- debug: {msg: '{{ x | from_other }}'}\n",
            "roles/thing/tasks/main.yml": "- debug: {msg: '{{ x | from_thing }}'}\n",
        }
    )
    assert used(folder) == {"from_c", "from_other", "from_thing"}
    assert loaded(folder).reading.findings == []


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("include_tasks: gone.yml", "tasks file gone.yml was not found"),
        ("include_role: {name: thing, tasks_from: gone}", "role thing has no tasks file gone"),
    ],
    ids=["tasks", "tasks-from"],
)
def test_what_is_not_found_is_an_error_where_it_is_used(task: str, message: str, write: Write) -> None:
    folder = write({"roles/thing/tasks/main.yml": f"\n- {task}\n", "roles/thing/tasks/unused.yml": f"- {task}\n"})
    error, warning = told(loaded(folder).reading.findings)
    assert error.startswith(f"error roles/thing/tasks/main.yml:2: {message}")
    assert warning.startswith(f"warning roles/thing/tasks/unused.yml:1: {message}")


def test_a_templated_role_may_be_each_that_fits(write: Write) -> None:
    folder = write(
        {
            "roles/thing/tasks/main.yml": "- include_role: {name: '{{ a }}/deploy'}\n- include_tasks: '{{ b }}.yml'\n",
            "roles/v1/deploy/tasks/main.yml": "- debug: {msg: '{{ x | from_one }}'}\n",
            "roles/v2/deploy/tasks/main.yml": "- debug: {msg: '{{ x | from_two }}'}\n",
            "roles/v2/remove/tasks/main.yml": "- debug: {msg: '{{ x | from_three }}'}\n",
        }
    )
    assert used(folder) == {"from_one", "from_two"}
    assert [place.line for place in loaded(folder).templated] == [1, 2]


def test_a_template_among_the_tasks_is_no_mistake(write: Write) -> None:
    folder = write({"roles/thing/tasks/objects.yml": "{% for a in b %}\n- {{ a | c }}\n{% endfor %}\n"})
    assert used(folder) == {"c"}
    assert loaded(folder).reading.findings == []


def test_everything_that_the_operator_refuses_is_told_with_its_line(write: Write) -> None:
    text = f"{WATCHES}- group: b\n  version: v1\n  kind: B\n  role: gone\n  managestatus: no\n"
    first, second = told(loaded(write({"watches.yaml": text})).reading.findings)
    assert first.startswith("error watches.yaml:5: role: gone was not found")
    assert second.startswith("error watches.yaml:6: managestatus: unknown key")


def test_a_role_of_a_collection_that_is_asked_for_need_not_be_here(write: Write) -> None:
    folder = write({"watches.yaml": "- {version: v1, kind: A, role: my.own.thing}\n"})
    files = project.watches_files(folder, None)
    for wanted, level in ((["my.own"], "warning"), ([], "error")):
        (finding,) = told(project.load(folder, files, {}, variables={}, wanted=wanted).reading.findings)
        assert finding.startswith(f"{level} watches.yaml:1: role: my.own.thing was not found")


def test_the_images_paths_are_the_projects(write: Write) -> None:
    watches = (
        "- {version: v1, kind: A, role: /opt/ansible/roles/thing}\n- {version: v1, kind: B, playbook: '${HOME}/b.yml'}\n"
    )
    found = loaded(
        write(
            {
                "watches.yaml": watches,
                "b.yml": "- hosts: localhost\n  tasks: [{include_tasks: /opt/ansible/c.yml}]\n",
                "c.yml": "- debug: {msg: '{{ x | from_c }}'}\n",
            }
        )
    )
    assert found.reading.findings == []
    assert {use.name for use in found.reading.uses} == {"from_c"}


def test_roles_of_collections_and_roundabout_names(write: Write) -> None:
    role = "- include_role: {name: my.own.thing}\n- include_role: {name: ../roles/other}\n"
    folder = write(
        {
            "roles/thing/tasks/main.yml": role + "- include_role: {name: my.own.thing, tasks_from: gone}\n",
            "roles/other/tasks/main.yml": "- debug: {msg: '{{ x | from_other }}'}\n",
            "else/ansible_collections/my/own/roles/thing/tasks/main.yml": "- debug: {msg: '{{ x | not_its_own }}'}\n",
        }
    )
    found = project.load(folder, project.watches_files(folder, None), {"ANSIBLE_COLLECTIONS_PATH": "else"}, variables={})
    assert {use.name for use in found.reading.uses} == {"from_other"}
    (finding,) = told(found.reading.findings)
    assert "main.yml:3: role my.own.thing has no tasks file gone" in finding


def test_several_watches_files(write: Write) -> None:
    folder = write({"watches-a.yaml": WATCHES, "watches-b.yaml": "[]"})
    assert [path.name for path in project.watches_files(folder, None)] == ["watches.yaml"]
    (folder / "watches.yaml").unlink()
    assert [path.name for path in project.watches_files(folder, None)] == ["watches-a.yaml", "watches-b.yaml"]
    assert project.watches_files(folder, Path("watches-b.yaml")) == [folder / "watches-b.yaml"]
    for path in folder.glob("watches*"):
        path.unlink()
    (finding,) = told(loaded(folder).reading.findings)
    assert finding == "error watches.yaml:0: is no file that can be read; name the file with --watches-file"


def test_plugins_of_its_own(write: Write) -> None:
    code = "class FilterModule:\n    def filters(self):\n        return {'one': str, **dict(two=str)}\n"
    folder = write(
        {
            "roles/thing/library/my_module.py": "",
            "roles/thing/filter_plugins/mine.py": code,
            "roles/thing/filter_plugins/broken.py": "((((",
            "roles/thing/lookup_plugins/my_lookup.py": "",
        }
    )
    own = loaded(folder).own
    assert own["module"] == {"my_module"}
    assert own["filter"] >= {"one", "two"}
    assert own["lookup"] == {"my_lookup"}


def test_the_types_of_defaults_are_known(write: Write) -> None:
    task = "- k8s:\n    definition: {kind: ConfigMap, data: {a: '{{ size }}', b: '{{ name }}', c: '{{ count }}'}}\n"
    folder = write({"roles/thing/defaults/main.yml": "size: 3\nname: '3'\n", "roles/thing/tasks/main.yml": task})
    assert [field.path for field in loaded(folder, count="a number").reading.fields] == ["data.a", "data.c"]
