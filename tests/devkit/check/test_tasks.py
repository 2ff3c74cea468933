"""What one file names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from devkit.check.expressions import BOOLEAN, NUMBER, TEXT
from devkit.check.sources import Source
from devkit.check.tasks import Reading, TaskReader, text_fields
from tests.devkit.check.conftest import told


def tasks(text: str, **variables: str) -> Reading:
    reading = Reading()
    TaskReader(reading, variables=variables).tasks(source(text))
    return reading


def playbook(text: str) -> Reading:
    reading = Reading()
    TaskReader(reading).playbook(source(text))
    return reading


def source(text: str) -> Source:
    return Source(name="a.yml", path=Path("a.yml"), roots=tuple(yaml.compose_all(text)))


def uses(reading: Reading) -> list[str]:
    return [f"{use.kind} {use.name} {use.location.line}" for use in reading.uses]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- debug:\n    msg: '{{ a | b }}'\n", ["filter b 2"]),
        ("- copy:\n    content: |\n      one\n      {{ a | b }}\n", ["filter b 4"]),
        ("- command: echo\n  with_items: '{{ a | b }}'\n", ["lookup items 2", "filter b 2"]),
        ("- block:\n  - debug:\n      msg: '{{ a | b }}'\n  when: a is c\n", ["test c 4", "filter b 3"]),
        ("- debug:\n    var: a | b\n", ["filter b 2"]),
        ("- assert:\n    that: [a is b, 'c | d']\n", ["test b 2", "filter d 2"]),
        ("- action: one a=b\n- local_action: {module: two}\n- action: '{{ three }}'\n", ["module one 1", "module two 2"]),
        ("- debug: {}\n  until: a is b\n  loop_control: {break_when: c is d}\n", ["test b 2", "test d 3"]),
        ("- debug: {msg: !unsafe '{{ a | b }}'}\n", []),
        ("- set_fact:\n    a: \"{{ lookup('b') }}\"\n", ["lookup b 2"]),
        ("a: 1\n", []),
        ("- text\n- [list]\n- 3\n", []),
    ],
    ids=[
        *("filter", "literal", "with", "block", "debug", "assert", "action", "loop", "unsafe", "lookup", "mapping", "odd"),
    ],
)
def test_plugins_and_their_lines(text: str, expected: list[str]) -> None:
    assert sorted(uses(tasks(text))) == sorted(expected)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("include_tasks: a.yml", ("tasks", "a.yml", "")),
        ("ansible.builtin.import_tasks: a.yml b=c", ("tasks", "a.yml", "")),
        ("include_tasks: {file: a.yml}", ("tasks", "a.yml", "")),
        ("include_tasks: '{{ a b }}.yml'", ("tasks", "{{ a b }}.yml", "")),
        ("include_role: {name: a, tasks_from: b}", ("role", "a", "b")),
        ("import_role: name=a tasks_from=b", ("role", "a", "b")),
        ("include_role: {}\n  args: {name: a}", ("role", "a", "")),
    ],
    ids=["free", "arguments", "file", "template", "role", "words", "args"],
)
def test_includes(task: str, expected: tuple[str, str, str]) -> None:
    (include,) = tasks(f"- {task}\n").includes
    assert (include.kind, include.name, include.tasks_from) == expected


def test_a_playbook_names_roles_playbooks_and_collections() -> None:
    reading = playbook(
        """
        - import_playbook: other.yml
        - hosts: localhost
          collections: [a.b]
          roles:
          - one
          - {role: two, when: a is c}
          - {src: https://example.com/three}
          pre_tasks:
          - thing: {}
          handlers:
          - block:
            - other: {}
              collections: [c.d]
        """
    )
    assert [(include.kind, include.name) for include in reading.includes] == [
        *(("playbook", "other.yml"), ("role", "one"), ("role", "two")),
    ]
    found = {name: keys.location.collections for keys in reading.keys if keys.kind == "task" for name, _ in keys.names}
    assert (found["thing"], found["other"]) == (("a.b",), ("c.d",))
    assert uses(reading) == ["test c 7"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("when: a | length", ({NUMBER}, "")),
        ("when: [a is b]", ({BOOLEAN}, "")),
        ("failed_when: \"{{ a | default('') }}\"", ({TEXT}, "whole")),
        ("until: a == '{{ b }}'", ({BOOLEAN}, "quoted")),
        ("changed_when: a == {{ b }}", (set(), "mixed")),
        ("when: '{{ a }} and {{ b }}'", (set(), "mixed")),
        ("when: '{% if a %}true{% endif %}'", (set(), "mixed")),
        ("when: 1", ({NUMBER}, "")),
    ],
    ids=["number", "boolean", "whole", "quoted", "braces", "two", "statement", "constant"],
)
def test_conditions(condition: str, expected: tuple[set[str], str]) -> None:
    (found,) = tasks(f"- debug:\n  {condition}\n").conditions
    assert (set(found.types), found.embedded) == expected


def test_conditions_that_are_booleans_or_nothing_are_none() -> None:
    assert tasks("- debug:\n  when: true\n- debug:\n  when:\n- debug:\n  failed_when: no\n").conditions == []


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ("{kind: ConfigMap, data: {a: '{{ x | int }}', b: '{{ x }}', c: 'n{{ x | int }}'}}", [("data.a", True)]),
        ("{kind: ConfigMap, data: {a: '{{ size }}'}}", [("data.a", False)]),
        ("{kind: Secret, stringData: {a: '{{ x + 1 }}'}, data: {b: '{{ x + 1 }}'}}", [("stringData.a", False)]),
        (
            "{kind: Thing, metadata: {labels: {a: '{{ x | bool }}'}}, spec: {replicas: '{{ x | int }}'}}",
            [("metadata.labels.a", True)],
        ),
        (
            "{kind: Deployment, spec: {template: {spec: {containers: [{env: [{name: A, value: '{{ x | int }}'}]}]}}}}",
            [("spec.template.spec.containers[].env[].value", True)],
        ),
        ("{kind: Thing, spec: {env: [{name: A, value: '{{ x | int }}'}]}}", []),
        ("{kind: ConfigMap, data: {a: '{{ x | int | string }}', b: \"{{ x | int }}\\n\"}}", []),
        ("[{kind: ConfigMap, data: {a: '{{ x | int }}'}}]", [("data.a", True)]),
        ("&a {kind: ConfigMap, data: *a}", []),
    ],
    ids=["config-map", "default", "secret", "labels", "env", "other-kind", "text", "list", "itself"],
)
def test_fields_that_are_text(definition: str, expected: list[tuple[str, bool]]) -> None:
    found = tasks(f"- kubernetes.core.k8s:\n    definition: {definition}\n", size=NUMBER).fields
    assert [(field.path, field.certain) for field in found] == expected


def test_text_fields_ends_for_an_object_in_itself() -> None:
    assert list(text_fields(yaml.compose("&a {spec: [*a, {labels: {b: c}}]}")))


def test_what_jinja_does_not_take_is_a_warning_with_its_line() -> None:
    reading = tasks("- copy:\n    content: |\n      a\n      {{ .Values.b }}\n- debug:\n  when: a ==\n")
    first, second = told(reading.findings)
    assert first == "warning a.yml:4: no template that Jinja takes: unexpected '.'"
    assert second.startswith("warning a.yml:6: no condition that Jinja takes: ")


def test_many_aliases_of_one_task_are_one() -> None:
    text = "- &a\n  debug: {msg: '{{ a | b }}'}\n  when: c | length\n" + "- *a\n" * 2000 + "- &d {block: [*a, *d]}\n"
    reading = tasks(text)
    assert uses(reading).count("filter b 2") == 1
    assert len(reading.conditions) == 1
