"""Of several replicas one works; the next takes over when it goes, however it goes."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp

from bench.driver import Cluster, Operator, condition, until
from devkit.devcluster import Cluster as Devcluster
from runner.kube.lease import LEASE
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.behaviour.test_resilience import run
from tests.behaviour.test_runs import EVENT, commands, counted, succeeded
from tests.conftest import THING, Project, alive, crd, lines, listening, tcp_sockets, thing

CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")

# Short, for those tests in which somebody has to wait until a Lease expires; but a process that is held up for some seconds,
# as happens on a shared machine, still renews it in time.
SHORT_SECONDS = 10
SHORT = (f"--leader-elect-lease-duration={SHORT_SECONDS}s", "--leader-elect-renew-deadline=8s")
# Longer than any test: what happens nevertheless has not waited for it.
LONG = ("--leader-elect-lease-duration=2h", "--leader-elect-renew-deadline=1h")

SAY_WHO = """
- name: Say who runs
  ansible.builtin.debug:
    msg: "{{ lookup('ansible.builtin.env', 'REPLICA') }}"
"""
SLEEP = "- ansible.builtin.command: sleep 600\n"
# Each replica goes on only when it is let, by a file of its name. Its write is a single request, with none before it that
# would have to be answered.
WAIT_THEN_WRITE = """
- ansible.builtin.wait_for:
    path: "{{ folder }}/go-{{ replica }}"
    sleep: 1
    timeout: 500
- ansible.builtin.uri:
    url: "{{ config.clusters[0].cluster.server }}/api/v1/namespaces/{{ ansible_operator_meta.namespace }}/configmaps/{{
      ansible_operator_meta.name }}?fieldManager=role&force=true"
    method: PATCH
    headers:
      Content-Type: application/apply-patch+yaml
    body_format: json
    body:
      apiVersion: v1
      kind: ConfigMap
      metadata:
        name: "{{ ansible_operator_meta.name }}"
      data:
        by: "{{ replica }}"
    status_code: [200, 201]
  vars:
    config: "{{ lookup('ansible.builtin.file', lookup('ansible.builtin.env', 'KUBECONFIG')) | from_yaml }}"
"""


async def replica(project: Project, name: str, *flags: str) -> Operator:
    """One of several in the project's folder; not waited for."""
    return await project.start(
        "--leader-elect",
        "--leader-election-id=it",
        f"--leader-election-namespace={project.namespace}",
        "--health-probe-bind-address=127.0.0.1:0",
        "--metrics-bind-address=127.0.0.1:0",
        f"--runs-dir={project.runs / name}",
        *flags,
        wait=False,
        REPLICA=name,
    )


async def said(operator: Operator, message: str) -> dict[str, Any]:
    async def found() -> dict[str, Any] | None:
        assert operator.process.poll() is None, operator.output
        return next(iter(lines(operator, message)), None)

    return await until(found, f"the operator says {message!r}")


async def ended(operator: Operator) -> int:
    async def code() -> tuple[int] | None:
        polled = operator.process.poll()
        return None if polled is None else (polled,)

    return (await until(code, "the operator has ended"))[0]


async def sleeping(operator: Operator) -> list[int]:
    """The processes of an operator that runs SLEEP, itself excluded."""

    async def found() -> bool:
        return any("sleep\x00600" in command for command in commands(operator))

    await until(found, "the run is under way")
    return [pid for pid in operator.processes() if pid != operator.process.pid]


async def lease(world: Cluster, namespace: str) -> dict[str, Any]:
    found = await world.get(LEASE, ObjectKey(namespace, "it"))
    assert found is not None
    spec: dict[str, Any] = found["spec"]
    return spec


async def expire(world: Cluster, namespace: str, name: str = "it") -> None:
    """Have a Lease expire whose holder was killed, so that nobody has to wait for that."""
    await world.patch(LEASE, ObjectKey(namespace, name), {"spec": {"leaseDurationSeconds": 1}})


async def all_ended(processes: list[int]) -> None:
    async def none() -> bool:
        return not alive(processes)

    await until(none, "the processes have ended")


async def get(operator: Operator, server: str, path: str) -> tuple[int, str]:
    address = (await said(operator, f"Serving {server}"))["address"]
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as answer:
        return answer.status, await answer.text()


async def test_one_works_and_the_next_takes_over_as_soon_as_it_is_asked_to_end(
    project: Project, world: Cluster, one: ObjectKey
) -> None:
    project.role(SAY_WHO)
    project.watch()
    first = await replica(project, "first", *LONG)
    identity = (await said(first, "Leading"))["identity"]
    await said(first, "Watching")
    second = await replica(project, "second", *LONG)
    waiting = await said(second, "Waiting for the lease")
    assert waiting["holder"] == identity == (await lease(world, one.namespace))["holderIdentity"]
    assert waiting["lease"] == f"{one.namespace}/it"

    # Both are ready, or a rolling update would hang; one leads.
    for operator, leads in ((first, 1.0), (second, 0.0)):
        assert await get(operator, "health probes", "/healthz") == (200, "ok")
        assert await get(operator, "health probes", "/readyz") == (200, "ok")
        status, text = await get(operator, "metrics", "/metrics")
        assert status == 200
        assert f'leader_election_master_status{{name="it"}} {leads}' in text
        assert f"\nrolerunner_watching {leads}\n" in text

    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    assert lines(second, "Running") == lines(second, "Watching") == []

    assert await asyncio.to_thread(first.stop) == 0
    assert lines(first, "The lease is released")
    await said(second, "Watching")
    await world.create(thing("two"), one.namespace)
    await counted(second, "two", 1)

    async def announced() -> bool:
        notes = [event["note"] for event in await world.list(EVENT, one.namespace) if event["regarding"]["kind"] == "Lease"]
        return f"{identity} became leader" in notes and len(notes) == 2

    await until(announced, "each leader has posted an Event on the Lease")
    spec = await lease(world, one.namespace)
    assert spec["holderIdentity"] == (await said(second, "Leading"))["identity"]
    assert (spec["leaseTransitions"], spec["leaseDurationSeconds"]) == (1, 7200)
    assert "Traceback" not in first.output + second.output


async def test_one_that_waits_ends_when_it_is_asked_to(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SAY_WHO)
    project.watch()
    first = await replica(project, "first", *LONG)
    holder = (await said(first, "Leading"))["identity"]
    second = await replica(project, "second", *LONG)
    await said(second, "Waiting for the lease")
    assert await asyncio.to_thread(second.stop) == 0
    assert (await lease(world, one.namespace))["holderIdentity"] == holder
    assert "Traceback" not in second.output


async def test_after_a_crash_the_next_one_does_the_work_anew(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SLEEP)
    project.watch()
    first = await replica(project, "first", *LONG)
    await said(first, "Watching")
    second = await replica(project, "second", *LONG)
    await said(second, "Waiting for the lease")
    await world.create(thing(), one.namespace)
    processes = await sleeping(first)
    project.role(SAY_WHO)
    first.process.kill()
    first.process.wait()
    await all_ended(processes)
    assert lines(second, "Leading") == []
    await expire(world, one.namespace)
    await said(second, "Leading")
    await succeeded(world, one)
    assert (await lease(world, one.namespace))["leaseTransitions"] == 1


async def test_a_leader_that_was_paused_writes_nothing_more(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(WAIT_THEN_WRITE)
    project.watch(vars={"folder": str(project.folder), "replica": "{{ lookup('ansible.builtin.env', 'REPLICA') }}"})
    first = await replica(project, "first", *SHORT)
    await said(first, "Watching")
    await world.create(thing(), one.namespace)

    async def under_way() -> bool:
        return any("wait_for" in command for command in commands(first))

    await until(under_way, "the first one's run waits")
    second = await replica(project, "second", *LONG)
    await said(second, "Waiting for the lease")
    processes = first.processes()
    ports = {port for _, port in listening([first.process.pid])}

    os.kill(first.process.pid, signal.SIGSTOP)
    await said(second, "Leading")
    (project.folder / "go-second").touch()
    before = await succeeded(world, one)
    # Meanwhile the first one's run goes on, as it was not paused, and asks the API server for something by way of it.
    (project.folder / "go-first").touch()

    async def asked() -> bool:
        return pending(ports)

    await until(asked, "the first one's run waits for an answer")
    os.kill(first.process.pid, signal.SIGCONT)
    assert await ended(first) == 1

    (line,) = lines(first, "Leader election lost")
    assert line["level"] == "error"
    assert "Traceback" not in first.output
    await all_ended(processes)
    made = await world.get(CONFIG_MAP, one)
    assert made is not None
    assert made["data"] == {"by": "second"}
    assert await world.get(THING, one) == before
    assert (await lease(world, one.namespace))["holderIdentity"] == lines(second, "Leading")[0]["identity"]


def pending(ports: set[int]) -> bool:
    """Whether somebody has sent something to one of the ports, and it has not been read."""
    for _, local, _, state, queues, *_ in tcp_sockets():
        if state == "01" and int(local.split(":")[1], 16) in ports and int(queues.split(":")[1], 16):
            return True
    return False


async def test_a_leader_whose_lease_another_has_ends_at_once(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SLEEP)
    project.watch()
    operator = await replica(project, "first", *LONG)
    await said(operator, "Watching")
    await world.create(thing(), one.namespace)
    processes = await sleeping(operator)

    async def announced() -> bool:
        return condition(await world.get(THING, one), "Running").get("reason") == "Running"

    await until(announced, "the CR says that it is being run")
    await world.patch(LEASE, ObjectKey(one.namespace, "it"), {"spec": {"holderIdentity": "somebody"}})
    assert await ended(operator) == 1
    (line,) = lines(operator, "Leader election lost")
    assert line["reason"] == "the lease is held by somebody"
    await all_ended(processes)
    assert (await lease(world, one.namespace))["holderIdentity"] == "somebody"
    # It had no right any more to say how its run ended.
    assert await announced()


async def test_a_leader_that_cannot_renew_ends_with_its_runs(own_cluster: Devcluster, tmp_path: Path) -> None:
    project = Project(tmp_path, own_cluster.kubeconfig, "default")
    project.role(SLEEP)
    project.watch()
    try:
        async with Cluster.connected(own_cluster.kubeconfig) as world:
            await world.install(crd(THING))
            operator = await replica(project, "first", *SHORT)
            await said(operator, "Watching")
            await world.create(thing(), "default")
            processes = await sleeping(operator)
            own_cluster.stop_apiserver()
            assert await ended(operator) == 1
            assert [line["reason"] for line in lines(operator, "Leader election lost")] == [
                "the lease could not be renewed in time"
            ]
            assert "Traceback" not in operator.output
            await all_ended(processes)
    finally:
        for started in project.operators:
            started.kill()


async def test_an_api_server_that_is_away_for_less_than_the_deadline_ends_nobody(
    own_cluster: Devcluster, tmp_path: Path
) -> None:
    project = Project(tmp_path, own_cluster.kubeconfig, "default")
    project.role(SAY_WHO)
    project.watch()
    try:
        async with Cluster.connected(own_cluster.kubeconfig) as world:
            await world.install(crd(THING))
            operator = await replica(project, "first", *LONG)
            await said(operator, "Watching")
            own_cluster.stop_apiserver()
            await said(operator, "The lease can neither be taken nor renewed for now")
            own_cluster.start_apiserver()
            before = (await lease(world, "default"))["renewTime"]

            async def renewed() -> bool:
                return bool((await lease(world, "default"))["renewTime"] != before)

            await until(renewed, "the lease is renewed again")
            await world.create(thing(), "default")
            await succeeded(world, ObjectKey("default", "one"))
            assert operator.stop() == 0
    finally:
        for started in project.operators:
            started.kill()


async def test_rights_that_come_late_are_waited_for(
    project: Project, world: Cluster, one: ObjectKey, devcluster: Devcluster
) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "runner"}}
    await world.create(account, one.namespace)
    path = await world.path(GroupVersionKind("", "v1", "ServiceAccount"), ObjectKey(one.namespace, "runner"))
    token = (await world.client.post(path + "/token", {"spec": {"expirationSeconds": 3600}}))["status"]["token"]
    config = json.loads(devcluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    project.kubeconfig = project.folder / "kubeconfig"
    project.kubeconfig.write_text(json.dumps(config))
    project.role(SAY_WHO)
    project.watch()
    operator = await replica(project, "first")
    line = await said(operator, "The lease can neither be taken nor renewed for now")
    assert line["remedy"].startswith("allow get, create and update of leases (coordination.k8s.io) in the namespace test-")
    rbac = "rbac.authorization.k8s.io"
    rule = {"apiGroups": [LEASE.group], "resources": ["leases"], "verbs": ["get", "create", "update"]}
    role = {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": "runner"}, "rules": [rule]}
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "runner"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "runner"},
        "subjects": [{"kind": "ServiceAccount", "name": "runner", "namespace": one.namespace}],
    }
    await world.create(role, one.namespace)
    await world.create(binding, one.namespace)
    await said(operator, "Leading")
    assert token not in operator.output


async def test_outside_a_pod_the_namespace_has_to_be_named(project: Project, world: Cluster) -> None:
    project.role(SAY_WHO)
    project.watch()
    result = await asyncio.to_thread(run, project, "--leader-elect", "--leader-election-id=it", POD_NAMESPACE="")
    assert result.returncode == 1
    assert "name it with --leader-election-namespace" in result.stderr
    assert "Traceback" not in result.stderr
