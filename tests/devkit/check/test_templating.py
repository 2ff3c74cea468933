"""What ansible-core's templating refuses from 2.19 on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from devkit.check import templating
from devkit.check.sources import Source
from devkit.check.tasks import Reading, TaskReader
from tests.devkit.check.conftest import told


def compared(text: str, core: tuple[int, int]) -> list[str]:
    reading = Reading()
    TaskReader(reading).tasks(Source(name="a.yml", path=Path("a.yml"), roots=tuple(yaml.compose_all(text))))
    return told(templating.compare(reading, core))


@pytest.mark.parametrize(
    ("task", "old", "new"),
    [
        (
            "debug:\n  when: a | length",
            "note a.yml:2: a condition that may come to a number: refused from ansible-core 2.19",
            "warning",
        ),
        ("debug:\n  when: a | default('')", "note a.yml:2: a condition that may come to text", "warning"),
        ("debug:\n  when: a | d({})", "note a.yml:2: a condition that may come to a mapping", "warning"),
        ("debug:\n  when: '{{ a }}'", "note a.yml:2: {{ }} around a condition is refused from ansible-core 2.23 on", "note"),
        ("debug:\n  when: a == '{{ b }}'", "note a.yml:2: {{ }} within the quotes of a condition", "note"),
        (
            "debug:\n  when: a == {{ b }}",
            "note a.yml:2: a condition with {{ }} or {% %} around a part of it is refused",
            "error",
        ),
        (
            "k8s:\n    definition: {kind: ConfigMap, data: {a: '{{ b | int }}'}}",
            "note a.yml:2: data.a comes to a number from ansible-core 2.19 on, where the API server takes text only",
            "error",
        ),
        (
            "k8s:\n    definition: {kind: ConfigMap, data: {a: '{{ b + 1 }}'}}",
            "note a.yml:2: data.a may come to a number from ansible-core 2.19 on",
            "warning",
        ),
        (
            "set_fact: {step: '{{ step | int + 1 }}'}\n- debug: {msg: \"{{ step + '. ' + text }}\"}",
            "note a.yml:2: a number is added to text, as its variable is no text from ansible-core 2.19 on",
            "warning",
        ),
    ],
    ids=["number", "text", "mapping", "whole", "quoted", "mixed", "certain", "perhaps", "sum"],
)
def test_a_note_before_and_a_finding_from_then_on(task: str, old: str, new: str) -> None:
    (before,) = compared(f"- {task}\n", (2, 18))
    assert before.startswith(old)
    (after,) = compared(f"- {task}\n", (2, 19))
    assert after.startswith(f"{new} a.yml:2: ")


@pytest.mark.parametrize(
    "task",
    [
        *("debug:\n  when: a", "debug:\n  when: a | length > 0 and b is defined", "debug:\n  when: a | bool"),
        "debug:\n  when: lookup('vars', 'a')",
        "debug:\n  when: a | default(false)",
        "k8s:\n    definition: {kind: ConfigMap, data: {a: '{{ b }}', c: '{{ b | int | string }}'}}",
        "set_fact: {step: '{{ step | int + 1 }}'}\n- set_fact: {step: one}\n- debug: {msg: \"{{ step + '. ' }}\"}",
        "debug: {msg: \"{{ a + '. ' }}\"}",
    ],
    ids=["name", "comparison", "bool", "unknown", "default", "string", "both", "sum"],
)
def test_what_text_cannot_tell_is_no_finding(task: str) -> None:
    assert compared(f"- {task}\n", (2, 19)) == []
