"""`rolerunner plan` and the annotation: what a CR would change is told, and nothing is written."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from typing import Any

import pytest
import yaml

from bench.driver import ROOT, Cluster, condition, until
from devkit.devcluster import Cluster as Devcluster
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.conftest import THING, Project, lines, thing

CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")
SECRET = GroupVersionKind("", "v1", "Secret")
EVENT = GroupVersionKind("", "v1", "Event")

CONFIG = """
- name: The settings are there
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: "{{ ansible_operator_meta.name }}", namespace: "{{ ansible_operator_meta.namespace }}"}
      data: {size: "{{ size }}"}
"""
# Each of them would write, or look as if it only read, whatever check mode says.
DISOBEDIENT = """
- name: A command
  ansible.builtin.command: kubectl create configmap by-skipped-command
- name: A command that is run all the same
  ansible.builtin.command: kubectl create configmap by-command
  check_mode: false
  ignore_errors: true
- name: Server and token
  ansible.builtin.set_fact:
    namespace: "{{ ansible_operator_meta.namespace }}"
    server: "{{ (lookup('file', lookup('env', 'KUBECONFIG')) | from_json).clusters[0].cluster.server }}"
- name: A call of the API
  ansible.builtin.uri:
    url: "{{ server }}/api/v1/namespaces/{{ namespace }}/configmaps"
    method: POST
    body_format: json
    body: {apiVersion: v1, kind: ConfigMap, metadata: {name: by-uri}}
    status_code: 201
  check_mode: false
  ignore_errors: true
- name: A deletion with options that say nothing of a dry run
  ansible.builtin.uri:
    url: "{{ server }}/api/v1/namespaces/{{ namespace }}/configmaps/kept?dryRun=All"
    method: DELETE
    body_format: json
    body: {apiVersion: v1, kind: DeleteOptions}
  check_mode: false
  ignore_errors: true
- name: A module that sends no dry run
  kubernetes.core.k8s:
    state: present
    definition: {apiVersion: v1, kind: ConfigMap, metadata: {name: by-module, namespace: "{{ namespace }}"}}
  check_mode: false
  ignore_errors: true
"""


async def plan(project: Project, *arguments: str, told: str = "") -> tuple[int, str, str]:
    """The exit code and both outputs of `rolerunner plan`; `told` is its standard input."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runner", "plan", "--namespace", project.namespace, *arguments),
        cwd=project.folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KUBECONFIG": str(project.kubeconfig),
            "ANSIBLE_GATHERING": "explicit",
        },
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(told.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


async def names(world: Cluster, gvk: GroupVersionKind, namespace: str) -> set[str]:
    return {obj["metadata"]["name"] for obj in await world.list(gvk, namespace)} - {"kube-root-ca.crt"}


async def test_what_is_created_changed_and_deleted_is_told_and_not_done(
    world: Cluster, project: Project, one: ObjectKey
) -> None:
    project.role(
        CONFIG
        + """
- name: What is old is gone
  kubernetes.core.k8s:
    {api_version: v1, kind: ConfigMap, name: old, namespace: "{{ ansible_operator_meta.namespace }}", state: absent}
"""
    )
    project.watch()
    cr = yaml.safe_dump(thing(size="3"))

    code, out, err = await plan(project, "-f", "-", told=cr)
    assert (code, err) == (2, "")
    assert f"Thing {one}: 1 to create, 0 to change, 0 to delete" in out
    assert f"+ create ConfigMap {one}" in out
    assert "+  size: '3'" in out
    assert await names(world, CONFIG_MAP, one.namespace) == set()
    assert await world.get(THING, one) is None

    await world.create(config_map("one", size="3", more="4"), one.namespace)
    await world.create(config_map("old"), one.namespace)
    await world.create(thing(size="5"), one.namespace)
    code, out, err = await plan(project, "-f", "-", told=yaml.safe_dump(thing(size="6")))
    assert (code, err) == (2, "")
    assert "0 to create, 1 to change, 1 to delete" in out
    assert f"~ change ConfigMap {one}" in out
    assert "-  size: '3'" in out
    assert "+  size: '6'" in out
    assert f"- delete ConfigMap {one.namespace}/old" in out
    found = await world.get(CONFIG_MAP, one)
    assert found is not None
    assert found["data"] == {"size": "3", "more": "4"}
    assert await names(world, CONFIG_MAP, one.namespace) == {"one", "old"}
    unchanged = await world.get(THING, one)
    assert unchanged is not None
    assert unchanged["spec"] == {"size": "5"}
    assert "status" not in unchanged

    await world.delete(CONFIG_MAP, ObjectKey(one.namespace, "old"))
    code, out, err = await plan(project, "-f", "-", told=cr)
    assert (code, err) == (0, "")
    assert "0 to create, 0 to change, 0 to delete" in out


@pytest.fixture(autouse=True)
def _kubectl(devcluster: Devcluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roles find it."""
    monkeypatch.setenv("PATH", f"{devcluster.kubectl.parent}:{os.environ['PATH']}")


async def test_nothing_is_written_by_what_heeds_no_check_mode(world: Cluster, project: Project, one: ObjectKey) -> None:
    project.role(DISOBEDIENT)
    project.watch()
    await world.create(config_map("kept"), one.namespace)
    code, out, err = await plan(project, "-f", "-", told=yaml.safe_dump(thing()))
    assert code == 2, out + err
    assert await names(world, CONFIG_MAP, one.namespace) == {"kept"}
    path = f"/api/v1/namespaces/{one.namespace}/configmaps"
    assert out.count(f"? refused, as no dry run: POST {path}\n") == 3
    assert f"? refused, as no dry run: DELETE {path}/kept" in out
    assert "? task 'A command' (roles/thing/tasks/main.yml:2) is not predicted: Command would have run" in out


async def test_secrets_are_masked_wherever_they_turn_up(world: Cluster, project: Project, one: ObjectKey) -> None:
    project.role(
        """
- name: The password is there
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: Secret
      metadata: {name: one, namespace: "{{ ansible_operator_meta.namespace }}"}
      stringData: {password: "{{ password }}", user: somebody}
- name: The password is there once more
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: one, namespace: "{{ ansible_operator_meta.namespace }}"}
      data: {url: "http://somebody:{{ password }}@host"}
"""
    )
    project.watch()
    old, new = "the-old-password", "the-new-password"
    cr = yaml.safe_dump(thing(password=new))

    def assert_hidden(text: str) -> None:
        for secret in (old, new):
            assert secret not in text
            assert base64.b64encode(secret.encode()).decode() not in text

    code, out, err = await plan(project, "-f", "-", told=cr)
    assert (code, err) == (2, "")
    assert "+  password: '********'" in out
    assert "http://somebody:********@host" in out
    assert_hidden(out)

    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "one"},
        "stringData": {"password": old, "user": "somebody"},
    }
    await world.create(secret, one.namespace)
    code, out, err = await plan(project, "-f", "-", "--output=json", told=cr)
    assert (code, err) == (2, "")
    changes = json.loads(out)["plans"][0]["changes"]
    assert [(change["action"], change["kind"]) for change in changes] == [("change", "Secret"), ("create", "ConfigMap")]
    diff = changes[0]["diff"]
    assert "-  password: '********'\n+  password: '******** (another value)'\n" in diff
    assert "user" in diff
    assert_hidden(out)


async def test_a_failure_that_only_a_plan_has_is_told_as_such(world: Cluster, project: Project, one: ObjectKey) -> None:
    place = f"{one.namespace}-more"
    project.role(
        f"""
- name: A namespace
  kubernetes.core.k8s: {{api_version: v1, kind: Namespace, name: {place}}}
- name: Something in it
  kubernetes.core.k8s: {{api_version: v1, kind: ConfigMap, name: one, namespace: {place}}}
"""
    )
    project.watch()
    code, out, _ = await plan(project, "-f", "-", told=yaml.safe_dump(thing()))
    assert code == 1
    assert f"+ create Namespace {place}" in out
    assert "! task 'Something in it' (roles/thing/tasks/main.yml:4) failed: " in out
    assert f"(Namespace {place} would be there by then)" in out
    assert "What would come after this is not known." in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: x}}",
            "-: kind: no watch for /v1, Kind=Pod in watches.yaml; it has test",
        ),
        ("{apiVersion: v1, kind: Pod}", "-: metadata.name: expected text, found None"),
        ("a: [", "-:1: no valid YAML: "),
        ("- 1", "-: expected an object with apiVersion, kind and metadata, found [1]"),
        ("", "-: there is no CR in it"),
        (
            yaml.safe_dump_all([thing(), {**thing(), "kind": "Other"}]),
            "-, document 2: kind: no watch for test.example.com/v1, Kind=Other",
        ),
        (yaml.safe_dump({**thing(), "spec": 5}), "-: the cluster would not take this: "),
    ],
    ids=["no watch", "no name", "no yaml", "no mapping", "nothing", "second document", "invalid"],
)
async def test_a_mistake_gets_a_sentence(text: str, message: str, world: Cluster, project: Project) -> None:
    project.role("[]")
    project.watch()
    code, out, err = await plan(project, "-f", "-", told=text)
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: {message}")
    assert err.count("\n") == 1


async def test_several_crs_and_what_the_role_reads_of_its_own(world: Cluster, project: Project, one: ObjectKey) -> None:
    project.role(
        CONFIG
        + """
- name: The CR is as planned
  kubernetes.core.k8s_info: {api_version: test.example.com/v1, kind: Thing, name: "{{ ansible_operator_meta.name }}",
    namespace: "{{ ansible_operator_meta.namespace }}"}
  register: found
  failed_when: found.resources[0].spec.size != size
- name: Its status
  operator_sdk.util.k8s_status: {api_version: test.example.com/v1, kind: Thing, name: "{{ ansible_operator_meta.name }}",
    namespace: "{{ ansible_operator_meta.namespace }}", status: {size: "{{ size }}"}}
"""
    )
    project.watch()
    (project.folder / "cr.yaml").write_text(yaml.safe_dump_all([thing("one", size="1"), thing("two", size="2")]))
    code, out, err = await plan(project, "-f", "cr.yaml")
    assert (code, err) == (2, "")
    assert out.count("1 to create, 0 to change, 0 to delete") == 2
    assert "?" not in out


async def test_the_annotation_makes_a_cr_s_runs_dry_until_it_goes(world: Cluster, project: Project, one: ObjectKey) -> None:
    project.role(CONFIG)
    project.watch(finalizer={"name": "test.example.com/clean", "vars": {"going": True}}, allowAnnotations=["dry-run"])
    operator = await project.start()
    annotated = thing(size="3")
    annotated["metadata"]["annotations"] = {"rolerunner.io/dry-run": "true"}
    await world.create(annotated, one.namespace)

    async def planned() -> list[dict[str, Any]]:
        return [event for event in await world.list(EVENT, one.namespace) if event["reason"] == "Plan"]

    async def told() -> Any:
        return condition(await world.get(THING, one), "Running").get("reason") == "DryRun"

    (event,) = await until(planned, "the Event is there")
    assert event["message"] == f"1 to create, 0 to change, 0 to delete\n+ ConfigMap {one}"
    await until(told, "the conditions say so")
    found = await world.get(THING, one)
    assert found is not None
    assert condition(found, "Running")["status"] == "False"
    assert condition(found, "Successful") == {}
    assert "finalizers" not in found["metadata"]
    assert await names(world, CONFIG_MAP, one.namespace) == set()
    assert lines(operator, "Plan", name="one")

    await world.patch(THING, one, {"metadata": {"annotations": {"rolerunner.io/dry-run": None}}})

    async def done() -> Any:
        return condition(await world.get(THING, one), "Successful").get("status") == "True"

    await until(done, "it is run for real")
    assert await names(world, CONFIG_MAP, one.namespace) == {"one"}
    assert len(await planned()) == 1

    await world.patch(THING, one, {"metadata": {"annotations": {"rolerunner.io/dry-run": "true"}, "finalizers": []}})


async def test_a_cr_that_breaks_its_argument_specs_is_not_run_in_a_plan_either(world: Cluster, project: Project) -> None:
    project.role(CONFIG)
    meta = project.folder / "roles" / "thing" / "meta"
    meta.mkdir()
    (meta / "argument_specs.yml").write_text("argument_specs: {main: {options: {size: {type: int}}}}")
    project.watch()
    code, out, err = await plan(project, "-f", "-", told=yaml.safe_dump(thing(size="many")))
    assert (code, err) == (1, "")
    assert "\n! " in out
    assert "size" in out


async def test_other_ways_to_write_an_object(world: Cluster, project: Project, one: ObjectKey) -> None:
    project.role(
        """
- name: Applied by the client
  kubernetes.core.k8s: {apply: true, definition: "{{ item }}"}
  loop: "{{ maps }}"
- name: Applied by the server
  kubernetes.core.k8s: {apply: true, server_side_apply: {field_manager: test}, definition: "{{ maps[2] }}"}
- name: By label
  kubernetes.core.k8s: {api_version: v1, kind: ConfigMap, namespace: "{{ maps[0].metadata.namespace }}",
    label_selectors: [old=yes], state: absent}
- name: All of a kind
  ansible.builtin.command: kubectl delete configmaps --all --dry-run=server
  check_mode: false
  changed_when: false
- name: A scale that is reckoned by the module
  kubernetes.core.k8s_scale: {api_version: apps/v1, kind: Deployment, name: web, replicas: 3,
    namespace: "{{ maps[0].metadata.namespace }}"}
"""
    )
    meta = {"namespace": one.namespace}
    maps = [{**config_map(name, a="1"), "metadata": {"name": name, **meta}} for name in ("first", "there", "third")]
    project.watch(vars={"maps": maps})
    await world.create(config_map("there", a="0"), one.namespace)
    old = config_map("old")
    old["metadata"]["labels"] = {"old": "yes"}
    await world.create(old, one.namespace)
    labels = {"app": "web"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "web"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod}
    await world.create(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}, one.namespace
    )

    code, out, err = await plan(project, "-f", "-", told=yaml.safe_dump(thing()))
    assert (code, err) == (2, ""), out
    for line in ("+ create ConfigMap {}/first", "~ change ConfigMap {}/there", "+ create ConfigMap {}/third"):
        assert out.count(line.format(one.namespace) + "\n") >= 1, out
    assert out.count(f"- delete ConfigMap {one.namespace}/old\n") == 2, out
    assert f"- delete ConfigMap {one.namespace}/there\n" in out
    assert "task 'A scale that is reckoned by the module' (roles/thing/tasks/main.yml:14) is not predicted: it would" in out
    assert "refused" not in out
    assert "last-applied" not in out
    assert await names(world, CONFIG_MAP, one.namespace) == {"there", "old"}
