"""What a CR must not be able to do, and what must not be seen."""

import asyncio
import json
from urllib.parse import urlsplit

import aiohttp
import pytest

from bench.driver import Cluster, condition, until
from runner.resource.metadata import GroupVersionKind, ObjectKey
from runner.resource.secret_values import MASK
from tests.behaviour.test_runs import EVENT, counted, failed, succeeded
from tests.conftest import LOOPBACK, Project, lines, listening, paths_below, thing

SECRET = GroupVersionKind("", "v1", "Secret")


async def test_a_crs_strings_are_data_and_its_fields_steer_nothing(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("""
- ansible.builtin.copy:
    dest: "{{ out }}"
    content: "{{ {'text': text, 'nested': _test_example_com_thing.spec.text} | to_json }}"
""")
    out, proof = project.folder / "out.json", project.folder / "proof"
    project.watch(vars={"out": str(out)})
    operator = await project.start()
    attack = f"{{{{ lookup('pipe', 'touch {proof}') }}}}"
    spec = {
        "text": attack,
        "ansibleRemoteTmp": f"$(touch {proof})",
        "ansible_connection": "ssh",
        "ansiblePythonInterpreter": f"/usr/bin/touch {proof}",
        "vault": {"__ansible_vault": "$ANSIBLE_VAULT;1.1;AES256"},
    }
    await world.create(thing("one", **spec), one.namespace)
    await succeeded(world, one)
    assert json.loads(out.read_text()) == {"text": attack, "nested": attack}
    assert not proof.exists()
    # In the order in which the API server keeps them.
    left_out = "spec.ansiblePythonInterpreter, spec.ansibleRemoteTmp, spec.ansible_connection, spec.vault.__ansible_vault"

    async def told() -> list[dict[str, object]]:
        return [item for item in await world.list(EVENT, one.namespace) if item["reason"] == "ReservedVariable"]

    assert left_out in str((await until(told, "an Event tells what was left out"))[0]["note"])
    assert left_out in operator.output


async def test_templates_where_the_watch_allows_them(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("- ansible.builtin.copy:\n    dest: '{{ out }}'\n    content: '{{ text }}'\n")
    out = project.folder / "out"
    project.watch(vars={"out": str(out)}, markUnsafe=False)
    await project.start()
    await world.create(thing(text="{{ 1 + 1 }}"), one.namespace)
    await succeeded(world, one)
    assert out.read_text() == "2"


async def test_secrets_are_seen_nowhere(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("""
- name: A Secret, in a role that forgot no_log
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: Secret
      metadata:
        name: "{{ ansible_operator_meta.name }}"
        namespace: "{{ ansible_operator_meta.namespace }}"
      stringData:
        password: open-sesame-1
- name: Read it back
  kubernetes.core.k8s_info:
    kind: Secret
    namespace: "{{ ansible_operator_meta.namespace }}"
  register: read
- name: Print it
  ansible.builtin.debug:
    msg: "{{ read.resources }} {{ read.resources[0].data.password | b64decode }}"
- name: Fail with it
  ansible.builtin.fail:
    msg: "the password is {{ read.resources[0].data.password | b64decode }}"
  ignore_errors: true
- name: Fail, hidden
  ansible.builtin.command: sh -c 'echo open-sesame-2; exit 1'
  no_log: true
""")
    project.watch()
    operator = await project.start("--ansible-verbosity=3", "--log-level=debug", TOKEN_OF_THE_POD="open-sesame-3")
    await world.create(thing(), one.namespace)
    obj = await until(lambda: failed(world, one), "the hidden failure")
    assert condition(obj, "Failure")["message"] == "the result of task 'Fail, hidden' is hidden by no_log"
    operator.stop()
    assert (await world.get(SECRET, one))["data"]["password"] == "b3Blbi1zZXNhbWUtMQ=="  # type: ignore[index]
    events = await world.list(EVENT, one.namespace)
    files = [path for path in project.runs.rglob("*") if path.is_file()]
    assert any(path.name == "stdout" for path in files)
    seen = {str(path): path.read_text(errors="replace") for path in files}
    seen |= {"log": operator.output, "status": json.dumps(obj), "events": json.dumps(events)}
    for word in ("open-sesame", "b3Blbi1zZXNhbWUt"):
        assert [place for place, text in seen.items() if word in text] == []


@pytest.mark.parametrize("executor", ["warm", "subprocess"])
async def test_a_secrets_values_change_no_decision_and_names_stay_readable(
    project: Project, world: Cluster, one: ObjectKey, executor: str
) -> None:
    project.role(
        """
- kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: Secret
      metadata:
        name: "{{ ansible_operator_meta.name }}"
        namespace: "{{ ansible_operator_meta.namespace }}"
      stringData:
        username: operator
        app: playbook
        host: one-postgres-15
        type: managed
        word: PARENT
        password: localhost
        token: changeme
        random: Tq7wXm2LpZ9vKc4R
- name: Wait for Database to initialize if managed DB
  ansible.builtin.debug:
    msg: "pod one-postgres-15-0 of the operator: operator:changeme@one-postgres-15, Tq7wXm2LpZ9vKc4R"
- operator_sdk.util.requeue_after: {time: 1s}
""".replace("PARENT", project.folder.name)
    )
    project.watch()
    operator = await project.start(f"--executor={executor}")
    await world.create(thing(), one.namespace)
    # By what requeue_after says, and after a run with statistics.
    await counted(operator, "one", 2)
    operator.stop()
    said = lines(operator, "Debug", name="one")[0]
    assert said["task"] == "Wait for Database to initialize if managed DB"
    shown = f"pod one-postgres-15-0 of the operator: operator:{MASK}@one-postgres-15, {MASK}"
    assert shown in said["output"]
    artifacts = {path: path.read_text(errors="replace") for path in project.runs.rglob("artifacts/*/*") if path.is_file()}
    artifacts |= {path: path.read_text() for path in project.runs.rglob("job_events/*.json")}
    printed = next(text for path, text in artifacts.items() if path.name == "stdout")
    assert "Wait for Database to initialize if managed DB" in printed
    assert shown in printed
    assert not any(
        word in text for word in ("Tq7wXm2LpZ9vKc4R", "changeme", "VHE3d1htMkxwWjl2S2M0Ug") for text in artifacts.values()
    )
    # Where the role stands is told as it is, though a Secret has a part of it.
    tasks = str(project.folder / "roles/thing/tasks/main.yml")
    assert any(
        json.loads(text)["event_data"].get("task_path", "").startswith(tasks)
        for path, text in artifacts.items()
        if path.suffix == ".json"
    )


async def test_only_a_run_may_use_the_proxy_and_only_while_it_lasts(
    project: Project, world: Cluster, one: ObjectKey
) -> None:
    project.role("""
- ansible.builtin.copy:
    src: "{{ lookup('ansible.builtin.env', 'KUBECONFIG') }}"
    dest: "{{ out }}"
- ansible.builtin.wait_for:
    path: "{{ gate }}"
    timeout: 170
""")
    out, gate = project.folder / "kubeconfig", project.folder / "gate"
    project.watch(vars={"out": str(out), "gate": str(gate)})
    operator = await project.start()
    await world.create(thing(), one.namespace)

    async def copied() -> bool:
        return out.exists() and out.stat().st_size > 0

    await until(copied, "the run's kubeconfig")
    config = json.loads(out.read_text())
    token = config["users"][0]["user"]["username"]
    port = urlsplit(config["clusters"][0]["cluster"]["server"]).port
    url = f"http://127.0.0.1:{port}/api/v1/namespaces/{one.namespace}/configmaps"

    async def status(**headers: str) -> int:
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            return answer.status

    bearer = {"Authorization": f"Bearer {token}"}
    assert await status() == 401
    assert await status(Authorization="Bearer wrong") == 401
    assert await status(**bearer) == 200
    sockets = await asyncio.to_thread(listening, operator.processes())
    assert {address for address, number in sockets if number == port} == {LOOPBACK}
    gate.touch()
    await counted(operator, "one", 1)
    assert await status(**bearer) == 401
    artifacts = [path for path in paths_below(project.runs) if path.is_file()]
    assert [path for path in artifacts if token in path.read_text(errors="replace")] == []
    assert lines(operator, "Run succeeded", name="one")
