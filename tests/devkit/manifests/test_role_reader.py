"""Where tasks are found, and what of them the text alone does not tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from devkit.manifests.command import ROLE
from tests.devkit.manifests.conftest import Write, generated
from tests.devkit.manifests.test_rights import TASKS, rights

FILES = {
    TASKS: """
        - vars: {what: Secret}
          module_defaults: {group/kubernetes.core.k8s: {api_version: v1}}
          block:
            - k8s: {kind: "{{ what }}", name: a, state: absent}
            - include_tasks: more.yml
          rescue:
            - k8s: {kind: "{{ in_vars }}", name: a, state: absent}
          always:
            - k8s: {kind: "{{ in_defaults }}", name: a, state: absent}
        - include_tasks: "{{ item }}.yml"
          loop: [one, two]
        - import_role: {name: helper, tasks_from: other}
        - k8s: {state: absent, kind: "{{ each.kind }}", api_version: "{{ each.group }}/v1", name: a}
          loop: "{{ kinds }}"
          loop_control: {loop_var: each}
        - k8s: {definition: "{{ lookup('template', item) | from_yaml }}", state: absent}
          loop: [a.yml.j2, b.yml.j2]
        - k8s: {template: [c.yml.j2], state: absent}
        - k8s: {src: d.yml, state: absent}
        - k8s: {src: "{{ role_path }}/files/d.yml", state: absent}
    """,
    "roles/thing/tasks/more.yml": "- k8s: {kind: '{{ what }}Backup', name: a, state: absent}\n- include_tasks: more.yml\n",
    "roles/thing/tasks/one.yml": "- k8s: {kind: One, name: a, state: absent}\n",
    "roles/thing/tasks/two.yml": "- k8s: {kind: Two, name: a, state: absent}\n",
    "roles/thing/handlers/main.yml": "- k8s: {kind: Handler, name: a, state: absent}\n",
    "roles/thing/vars/main.yml": "in_vars: InVars\nkinds: [{kind: Deployment, group: apps}, {kind: Job, group: batch}]\n",
    "roles/thing/defaults/main.yml": "in_defaults: InDefaults\n",
    "roles/thing/meta/main.yml": "dependencies: [base]\n",
    "roles/base/tasks/main.yml": "- k8s: {kind: Base, name: a, state: absent}\n",
    "roles/helper/tasks/other.yml": "- k8s: {kind: Helper, name: a, state: absent}\n",
    "roles/helper/tasks/main.yml": "- k8s: {kind: NotThis, name: a, state: absent}\n",
    "roles/thing/templates/a.yml.j2": "{# kind: No #}\napiVersion: apps/v1  # why\nkind: StatefulSet\nspec:\n  kind: no\n",
    "roles/thing/templates/b.yml.j2": "{% for x in y %}\n---\nkind: '{{ in_vars }}'\napiVersion: x.io/v1\n{% endfor %}\n",
    "roles/thing/templates/c.yml.j2": "---\nkind: Service\napiVersion: v1\n---\nkind: Endpoints\napiVersion: v1\n",
    "roles/thing/files/d.yml": "kind: Lease\napiVersion: coordination.k8s.io/v1\n",
}


def test_tasks_are_found_wherever_they_are(write: Write) -> None:
    write(FILES)
    found, undecided = rights()
    assert undecided == []
    assert set(found.values()) == {"delete get"}
    assert set(found) == {
        *(" secrets", " secretbackups", " invars", " indefaults", " ones", " twos", " handlers", " bases", " helpers"),
        *(" services", " endpoints", "apps deployments", "batch jobs", "apps statefulsets", "x.io invars"),
        "coordination.k8s.io leases",
    }


def test_a_playbook_and_a_finalizer_of_its_own(write: Write) -> None:
    write(
        {
            "watches.yaml": """
                - group: test.example.com
                  version: v1
                  kind: Thing
                  playbook: playbooks/thing.yml
                  vars: {kind: Secret}
                  finalizer: {name: example.com/clean, role: clean, vars: {kind: ConfigMap}}
            """,
            "playbooks/thing.yml": """
                - import_playbook: other.yml
                - hosts: localhost
                  vars: {kind: Never, own: Service}
                  module_defaults: {kubernetes.core.k8s: {state: absent, name: a}}
                  pre_tasks: [{k8s: {kind: "{{ kind }}"}}]
                  roles: [{role: used, vars: {given: Endpoints}}]
                  handlers: [{k8s: {kind: "{{ own }}"}}]
            """,
            "playbooks/other.yml": "- hosts: localhost\n  tasks: [{k8s_info: {kind: Node, name: a}}]\n",
            "roles/used/tasks/main.yml": "- k8s: {kind: '{{ given }}'}\n",
            "roles/clean/tasks/main.yml": "- k8s: {kind: '{{ kind }}', name: a, state: absent}\n",
        }
    )
    found, undecided = rights()
    assert undecided == []
    assert found == {
        **{" secrets": "delete get", " nodes": "get", " services": "delete get", " endpoints": "delete get"},
        **{" configmaps": "delete get", "test.example.com things": "get list patch watch"},
    }


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("k8s: {kind: '{{ x }}', name: a}", "1 kind: {{ x }}"),
        ("k8s: {kind: '{{ size }}', name: a}", "1 kind: {{ size }}"),
        ("k8s: {kind: Pod, api_version: '{{ x }}', name: a}", "1 apiVersion: {{ x }}"),
        ("k8s: {definition: '{{ x | combine(y) }}'}", "1 which objects this is about: {{ x | combine(y) }}"),
        ("k8s: {src: /nowhere.yml}", "1 which objects this is about: /nowhere.yml was not found"),
        ("k8s: {template: '{{ x }}.j2'}", "1 which objects this is about: {{ x }}.j2"),
        (
            'k8s: {definition: "{% include x %}\\nkind: {{ y }}\\n---\\n  {{ z }}\\n"}',
            "1 kind: {{ y }} + 1 which objects this template has",
        ),
        ("include_tasks: '{{ x }}.yml'", "1 which file this is: {{ x }}.yml"),
        ("include_role: {name: '{{ x }}'}", "1 which role this is: {{ x }}"),
        ("include_role: {name: thing, tasks_from: '{{ x }}'}", "1 which role this is: {{ x }}"),
        ("include_role: {name: elsewhere}", "1 role elsewhere was not found; what it does is not known"),
        ("kubernetes.core.helm: {name: a}", "1 what helm does"),
        ("shell: kubectl get pods", "1 what kubectl does"),
        ("mine: {}", "1 what mine does"),
        ("debug: {msg: \"{{ lookup('k8s', kind=x) }}\"}", "1 kind: {{ … }}"),
    ],
    ids=(
        "kind option version filter file template text tasks role role-tasks missing-role helm kubectl library lookup"
    ).split(),
)
def test_what_the_text_does_not_tell_is_listed_or_declared(write: Write, task: str, what: str) -> None:
    specs = "argument_specs: {main: {options: {size: {type: str}}}}\n"
    files = {
        "roles/thing/meta/argument_specs.yml": specs,
        "roles/thing/library/mine.py": "",
        "roles/thing/defaults/main.yml": "size: a\n",
    }
    write({**files, TASKS: f"- {task}\n"})
    assert rights() == ({}, what.split(" + "))
    marker = "# +rolerunner:rbac:groups=apps;core,resources=deployments;pods/log,verbs=get;list,resourceNames=a"
    write({**files, TASKS: f"{marker}\n- {task}\n"})
    assert rights() == (
        {f"{group} {resource} a": "get list" for group in ("apps", "") for resource in ("deployments", "pods/log")},
        [],
    )


def test_reading_is_deterministic(write: Write) -> None:
    write(FILES)
    generated()
    first = Path(ROLE).read_text()
    Path(ROLE).unlink()
    generated()
    assert Path(ROLE).read_text() == first
