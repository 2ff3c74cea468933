"""What a CR says is data: no string of it is ever run as a template or an expression, whatever a role does with it."""

import os
import subprocess as subprocesses
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runner.executor import cold
from runner.executor.environment import PACKAGE, has_tags
from runner.executor.jobs import Execute, Job, JobEvent, fold
from runner.executor.warm.executor import WarmExecutor
from runner.resource import parameters
from runner.resource.metadata import GroupVersionKind

GVK = GroupVersionKind("test.example.com", "v1", "Thing")

# Each task uses what an earlier one has made of the CR's strings, since what comes of a template may be one again.
TASKS = """
- name: Made of a value
  ansible.builtin.set_fact:
    plain: "{{ attack }}"
    amid: "x {{ attack }} y"
    listed: "{{ [attack, nested.list[0]] }}"
    joined: "{{ nested.list | join(' ') }}"
    upper: "{{ attack | upper | lower }}"
    deep: "{{ nested.mapping.inner.text }}"
    again: "{{ attack | to_json | from_json }}"
    yaml: "{{ nested | to_nice_yaml | from_yaml }}"
    merged: "{{ nested | combine({'more': attack}) }}"
    chosen: "{{ attack if attack else '' }}"
    parts: "{{ attack.split(' ') }}"
- name: Made of a key
  ansible.builtin.set_fact:
    key: "{{ numbers.keys() | first }}"
    amid_key: "x {{ numbers.keys() | first }} y"
    keys: "{{ numbers.keys() | join(',') }}"
    key_items: "{{ numbers | dict2items }}"
    whole: "{{ numbers }}"
    combined: "{{ numbers | combine({'b': 2}) }}"
    whole_text: "{{ numbers | string }}"
    deep_key: "{{ nested.numbers.keys() | join(' ') }}"
- name: Made by other ways to a variable
  ansible.builtin.set_fact:
    by_vars: "v {{ vars['attack'] }}"
    by_vars_key: "{{ vars['numbers'].keys() | join }}"
    by_hostvars: "h {{ hostvars['localhost']['attack'] }}"
    by_hostvars_list: "{{ hostvars.localhost.nested.list | join(',') }}"
    by_hostvars_key: "{{ hostvars.localhost.numbers.keys() | join(',') }}"
    by_lookup: "l {{ lookup('vars', 'attack') }}"
    by_query: "{{ query('vars', 'nested')[0].list | join }}"
    by_dict: "{{ lookup('dict', numbers) | string }}"
    by_template: "{{ lookup('template', 'text.j2') }}"
    by_object: "{{ _test_example_com_thing.spec.attack }} {{ _test_example_com_thing_spec.numbers.keys() | join }}"
- name: Used
  ansible.builtin.debug:
    msg:
      - "{{ plain }} {{ amid }} {{ listed }} {{ joined }} {{ upper }} {{ deep }} {{ again }} {{ yaml }} {{ merged }}"
      - "{{ chosen }} {{ parts }} {{ key }} {{ amid_key }} {{ keys }} {{ key_items }} {{ whole }} {{ combined }}"
      - "{{ whole_text }} {{ deep_key }} {{ by_vars }} {{ by_vars_key }} {{ by_hostvars }} {{ by_hostvars_list }}"
      - "{{ by_hostvars_key }} {{ by_lookup }} {{ by_query }} {{ by_dict }} {{ by_template }} {{ by_object }}"
- name: Used once more, as facts of the host
  ansible.builtin.debug:
    msg: "{{ hostvars.localhost }}"
- name: In a loop
  ansible.builtin.set_fact: {"looped_{{ index }}": "l {{ item }}"}
  loop: "{{ nested.list + [amid, key, keys, by_hostvars, by_hostvars_key] }}"
  loop_control: {index_var: index, label: "{{ item }}"}
- name: In a loop over keys
  ansible.builtin.set_fact: {"keyed_{{ index }}": "{{ item.key }}"}
  loop: "{{ numbers | dict2items }}"
  loop_control: {index_var: index}
- name: In the older kind of loop
  ansible.builtin.set_fact: {with_dict: "d {{ item.key }}"}
  with_dict: "{{ numbers }}"
- name: Looped values
  ansible.builtin.debug: {msg: "{{ looped_0 }} {{ looped_1 }} {{ looped_2 }} {{ looped_5 }} {{ keyed_0 }} {{ with_dict }}"}
- name: "Named {{ amid }} {{ keys }}"
  ansible.builtin.debug: {msg: "{{ given }} {{ given_key }}"}
  vars: {given: "{{ attack }}", given_key: "{{ keys }}"}
- name: As a condition
  ansible.builtin.debug: {msg: "{{ attack }}"}
  when: "{{ item }}"
  loop: ["{{ expression }}", "{{ expressions.keys() | first }}", "{{ attack }}", "{{ key }}"]
  ignore_errors: true
- name: As a condition by name
  ansible.builtin.debug: {msg: yes}
  when: expression
  ignore_errors: true
- name: As a condition by a fact
  ansible.builtin.assert: {that: ["{{ keyed_expression }}"]}
  vars: {keyed_expression: "{{ expressions.keys() | join }}"}
  ignore_errors: true
- name: A file
  ansible.builtin.template: {src: text.j2, dest: "{{ out }}/text", mode: "0600"}
- name: A file that is read
  ansible.builtin.set_fact: {read: "{{ lookup('file', out ~ '/text') }}"}
- name: What was read
  ansible.builtin.debug: {msg: "{{ read }}"}
- name: A command
  ansible.builtin.command: {argv: [echo, "{{ attack }}", "{{ keys }}"]}
  register: echoed
- name: What it said
  ansible.builtin.debug: {msg: "{{ echoed.stdout }} {{ echoed.cmd }}"}
- name: At last
  ansible.builtin.debug: {msg: "{{ [plain, amid, key, keys, by_hostvars, deep] }}"}
"""
TEMPLATE = """
{% macro shout(text) %}{{ text }} {{ numbers.keys() | join }}{% endmacro %}
{% for name, value in numbers.items() %}{{ name }}{% endfor %} {{ attack }} {{ shout(attack) }}
{% set ns = namespace(text=nested.list) %}{{ ns.text | join }}
"""


@pytest.fixture(params=["warm", "subprocess"])
async def execute(request: pytest.FixtureRequest) -> AsyncIterator[Execute]:
    if request.param == "subprocess":
        yield cold.execute
        return
    async with WarmExecutor() as warm:
        yield warm.execute


def job(folder: Path, spec: dict[str, Any], *, mark_unsafe: bool = True) -> Job:
    metadata = {"name": "one", "namespace": "default"}
    obj = {"apiVersion": GVK.api_version, "kind": GVK.kind, "metadata": metadata, "spec": spec}
    built = parameters.build(gvk=GVK, obj=obj, watch_vars={"out": str(folder)}, snake_case=False, mark_unsafe=mark_unsafe)
    role = folder / "roles" / "thing"
    for name, text in {"tasks/main.yml": TASKS, "templates/text.j2": TEMPLATE}.items():
        (role / name).parent.mkdir(parents=True, exist_ok=True)
        (role / name).write_text(text)
    places = {"folder": folder / "run", "scratch": folder / "tmp"}
    return Job(ident="it", **places, role=role, data=built.data, extra_vars=built.extra_vars)


def attacks(folder: Path) -> dict[str, Any]:
    """A spec of which every string and key makes a file when it is run."""
    expression = f"lookup('pipe', 'touch {folder}/touched')"
    template = f"{{{{ {expression} }}}}"
    return {
        "attack": template,
        "numbers": {template: 1},
        "expression": expression,
        "expressions": {expression: 1},
        "nested": {
            "list": [template, f"{{% set x = {expression} %}}"],
            "mapping": {"inner": {"text": template}},
            "numbers": {template: 1},
        },
    }


async def played(execute: Execute, job: Job) -> list[JobEvent]:
    return [event async for event in execute(job)]


async def test_no_string_of_a_cr_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, execute: Execute) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANSIBLE_GATHERING", "explicit")
    spec = attacks(tmp_path)
    events = await played(execute, job(tmp_path, spec))
    assert not (tmp_path / "touched").exists()
    assert fold(events).succeeded, [event.printed for event in events if event.event == "runner_on_failed"]
    said = next(event.result["msg"] for event in events if event.task == "At last" and event.event == "runner_on_ok")
    template = spec["attack"]
    assert said == [template, f"x {template} y", template, template, f"h {template}", template]


async def test_those_of_a_watch_that_says_so_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, execute: Execute
) -> None:
    """By this it is seen that the strings above would be run, were they no data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANSIBLE_GATHERING", "explicit")
    await played(execute, job(tmp_path, attacks(tmp_path), mark_unsafe=False))
    assert (tmp_path / "touched").exists()


@pytest.mark.skipif(has_tags(), reason="from ansible-core 2.19 on there is no such plugin")
def test_where_ansible_core_is_not_as_known_nothing_is_run(tmp_path: Path) -> None:
    """A plugin that merely raises is passed over by Ansible."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    source = PACKAGE / "runner" / "executor" / "callback_plugins" / "rolerunner_data.py"
    (plugins / source.name).write_text(
        source.read_text().replace("_ = AnsibleContext._is_unsafe", "_ = AnsibleContext._no_such")
    )
    (tmp_path / "play.yml").write_text("[{hosts: localhost, gather_facts: false, tasks: [{debug: {msg: it is run}}]}]")
    found = subprocesses.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "play.yml"],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_CALLBACK_PLUGINS": str(plugins)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode != 0
    assert "could be run as templates" in " ".join(found.stderr.split())
    assert "it is run" not in found.stdout
