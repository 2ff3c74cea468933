"""The tools that roles call, through the proxy: kubectl, plain HTTP, and connections into pods."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from bench.driver import DEPLOYMENT, PATIENCE, Cluster, until
from devkit.devcluster import Cluster as Devcluster
from devkit.devcluster import supervisor
from runner.executor.processes import die_with_parent
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.behaviour.test_dependents import CONFIG_MAP, blue
from tests.behaviour.test_runs import counted, succeeded
from tests.conftest import THING, Project, lines, port_of, thing

NODE = GroupVersionKind("", "v1", "Node")
POD = GroupVersionKind("", "v1", "Pod")
STAGES = Path(supervisor.__file__).with_name("stages.yaml")


@contextlib.contextmanager
def kubelet(devcluster: Devcluster, node: str, folder: Path) -> Iterator[int]:
    """The port of a node's kwok, which runs commands on this machine, has a log of one line, and echoes what it is sent."""
    log = folder / "pod.log"
    log.write_text('{"log":"logged\\n","stream":"stdout","time":"2030-01-01T00:00:00Z"}\n')
    rules = {
        "ClusterExec": {"execs": [{"local": {}}]},
        "ClusterLogs": {"logs": [{"logsFile": str(log)}]},
        "ClusterPortForward": {"forwards": [{"command": ["cat"]}]},
    }
    documents = [
        {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": kind, "metadata": {"name": "all"}, "spec": spec}
        for kind, spec in rules.items()
    ]
    config = folder / "kwok.yaml"
    config.write_text(STAGES.read_text() + "---\n" + yaml.safe_dump_all(documents))
    with open(folder / "kwok.log", "wb") as output:
        process = subprocess.Popen(
            [
                str(devcluster.kubectl.with_name("kwok")),
                f"--kubeconfig={devcluster.kubeconfig}",
                f"--manage-single-node={node}",
                f"--config={config}",
                "--server-address=127.0.0.1:0",
                # What the API server trusts.
                f"--tls-cert-file={devcluster.dir}/pki/server.crt",
                f"--tls-private-key-file={devcluster.dir}/pki/server.key",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
    try:
        yield port_of(process)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def pod(devcluster: Devcluster, world: Cluster, namespace: str, tmp_path: Path) -> AsyncIterator[ObjectKey]:
    """A pod that one can step into."""
    node = f"node-{namespace}"
    with kubelet(devcluster, node, tmp_path) as port:
        await world.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }
        await world.client.patch(await world.path(NODE, ObjectKey("", node)) + "/status", {"status": status})
        container = {"name": "main", "image": "none"}
        spec = {"nodeName": node, "containers": [container], "tolerations": [{"operator": "Exists"}]}
        key = ObjectKey(namespace, "pod")
        await world.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": key.name}, "spec": spec}, namespace)

        async def running() -> bool:
            found = await world.get(POD, key)
            return ((found or {}).get("status") or {}).get("phase") == "Running"

        await until(running, "the pod runs")
        yield key
        await world.delete(NODE, ObjectKey("", node))


async def test_steps_into_pods(project: Project, world: Cluster, pod: ObjectKey, one: ObjectKey) -> None:
    project.role("""
- name: Run in it, by websocket
  ansible.builtin.shell: echo 'in and out' | {{ kubectl }} exec -i pod -- head -n1
  register: websocket
- name: Run in it, by SPDY
  ansible.builtin.shell: echo 'in and out' | KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false {{ kubectl }} exec -i pod -- head -n1
  register: spdy
- name: Run what fails in it
  ansible.builtin.command: "{{ kubectl }} exec pod -- sh -c 'echo wrong >&2; exit 7'"
  register: failing
  failed_when: failing.rc == 0
- name: By the module
  kubernetes.core.k8s_exec:
    namespace: "{{ ansible_operator_meta.namespace }}"
    pod: pod
    command: echo module
  register: module
- name: Its log
  ansible.builtin.command: "{{ kubectl }} logs pod"
  register: log
- name: A port of it
  ansible.builtin.shell: |
    {{ kubectl }} port-forward --address=127.0.0.1 pod/pod :80 > {{ echo }}.port &
    trap "kill $!" EXIT
    python3 {{ echo }}
  register: forwarded
- ansible.builtin.copy:
    dest: "{{ out }}"
    content: "{{ {'websocket': websocket.stdout, 'spdy': spdy.stdout, 'failing': failing.stderr, 'module': module.stdout,
                  'log': log.stdout, 'forwarded': forwarded.stdout_lines[-1]} | to_json }}"
""")
    out, echo = project.folder / "out.json", project.folder / "echo.py"
    echo.write_text(f"""
import re, socket, time
deadline = time.monotonic() + {PATIENCE}
while not (port := re.match("Forwarding from 127.0.0.1:([0-9]+) ", open("{echo}.port").read())):
    assert time.monotonic() < deadline
    time.sleep(0.1)
connection = socket.create_connection(("127.0.0.1", int(port[1])))
connection.sendall(b"there and back")
print(connection.makefile().read(len("there and back")))
""")
    kubectl = f"kubectl --namespace={one.namespace}"
    project.watch(vars={"out": str(out), "kubectl": kubectl, "echo": str(echo)})
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await counted(operator, "one", 1)
    said = json.loads(out.read_text())
    assert "wrong" in said.pop("failing")
    assert said.pop("module").strip() == "module"
    assert said == {"websocket": "in and out", "spdy": "in and out", "log": "logged", "forwarded": "there and back"}


async def test_a_role_runs_commands_in_pods_and_reads_their_logs(
    project: Project, world: Cluster, devcluster_exec_dir: Path, one: ObjectKey
) -> None:
    """By the modules, in a pod of the devcluster, with a program that stands in for the container's."""
    stand_in = devcluster_exec_dir / "pg_isready"
    stand_in.write_text('#!/bin/sh\necho "$POD_NAME takes connections for $2"\necho slow >&2\nexit 4\n')
    stand_in.chmod(0o755)
    (devcluster_exec_dir / "logs").mkdir(exist_ok=True)
    (devcluster_exec_dir / "logs" / "postgres.log").write_text("starting\nready for connections\n")
    project.role("""
- name: A database
  kubernetes.core.k8s:
    wait: true
    definition:
      apiVersion: v1
      kind: Pod
      metadata: {name: db, namespace: "{{ ansible_operator_meta.namespace }}"}
      spec: {containers: [{name: postgres, image: postgres}]}
- name: Ask it
  kubernetes.core.k8s_exec:
    namespace: "{{ ansible_operator_meta.namespace }}"
    pod: db
    command: pg_isready --user "some one"
  register: asked
  failed_when: false
- name: Ask for what is not there
  kubernetes.core.k8s_exec:
    namespace: "{{ ansible_operator_meta.namespace }}"
    pod: db
    command: /usr/bin/id
  register: missing
  failed_when: false
- name: Ask at length
  kubernetes.core.k8s_exec:
    namespace: "{{ ansible_operator_meta.namespace }}"
    pod: db
    command: "pg_isready --user {{ 'x' * 30000 }}"
  register: long
  failed_when: false
- name: Its log
  kubernetes.core.k8s_log:
    namespace: "{{ ansible_operator_meta.namespace }}"
    name: db
  register: log
- ansible.builtin.copy:
    dest: "{{ out }}"
    content: "{{ {'asked': [asked.rc, asked.stdout, asked.stderr], 'missing': missing.rc, 'why': missing.stderr,
                  'long': long.stdout | default('') | length, 'log': log.log_lines} | to_json }}"
""")
    out = project.folder / "out.json"
    project.watch(vars={"out": str(out)})
    await project.start()
    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    said = json.loads(out.read_text())
    assert said["asked"] == [4, "db takes connections for some one\n", "slow\n"]
    assert said["missing"] == 127
    assert said["long"] > 30000
    assert "has no program 'id' that stands in for it" in said["why"]
    assert said["log"] == ["starting", "ready for connections", ""]


@pytest.mark.parametrize("name", ["KUBECONFIG", "K8S_AUTH_KUBECONFIG"])
async def test_each_kubeconfig_serves_gos_clients_and_pythons(
    project: Project, world: Cluster, pod: ObjectKey, one: ObjectKey, name: str
) -> None:
    project.role("""
- vars:
    kubeconfig: "{{ lookup('ansible.builtin.env', name) }}"
    place: "{{ ansible_operator_meta.namespace }}"
  block:
    - ansible.builtin.shell: |
        set -eux
        unset KUBECONFIG K8S_AUTH_KUBECONFIG
        k="kubectl --kubeconfig={{ kubeconfig }}"
        $k get pods
        $k get configmap typed || $k create configmap typed --from-literal=color=blue
        $k exec pod -- echo by websocket
        KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false $k exec pod -- echo by SPDY
      register: kubectl
    - kubernetes.core.k8s:
        kubeconfig: "{{ kubeconfig }}"
        definition:
          {apiVersion: v1, kind: ConfigMap, metadata: {name: one, namespace: "{{ place }}"}, data: {color: blue}}
    - kubernetes.core.k8s_info: {kubeconfig: "{{ kubeconfig }}", kind: Pod, namespace: "{{ place }}"}
      register: pods
    - kubernetes.core.k8s_exec:
        {kubeconfig: "{{ kubeconfig }}", namespace: "{{ place }}", pod: pod, command: echo by the module}
      register: module
    - ansible.builtin.assert:
        that:
          - kubectl.stdout_lines[-2:] == ["by websocket", "by SPDY"]
          - pods.resources | length == 1
          - module.stdout == "by the module\\n"
""")
    project.watch(vars={"name": name})
    operator = await project.start()
    cr = await world.create(thing(), one.namespace)
    await counted(operator, "one", 1)
    for made in ("one", "typed"):
        owned = await blue(world, ObjectKey(one.namespace, made))
        assert [reference["uid"] for reference in owned["metadata"]["ownerReferences"]] == [cr["metadata"]["uid"]]


async def test_kubectl(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("""
- ansible.builtin.shell: |
    set -eux
    k="kubectl --namespace={{ ansible_operator_meta.namespace }}"
    $k version
    $k api-resources --output=name | grep deployments.apps
    $k explain deployment.spec.replicas
    $k apply --filename={{ manifests }}/applied.yaml
    $k apply --server-side --filename={{ manifests }}/server-side.yaml
    $k get configmap created || $k create --filename={{ manifests }}/created.yaml
    $k get configmaps
    test "$($k get configmap applied --output=jsonpath={.data.color})" = blue
    test "$($k get configmaps --selector=which=server --output=name)" = configmap/server-side
    $k wait --for=jsonpath={.data.color}=blue configmap/server-side --timeout=60s
    $k label configmap created seen=yes --overwrite
    test "$($k get configmap created --output=jsonpath={.metadata.labels.seen})" = yes
    # Sent as protobuf.
    $k create configmap passing
    test "$($k get configmap passing --output=jsonpath={.metadata.ownerReferences[*].name})" = one
    $k delete configmap passing
    if $k get configmap passing; then exit 1; fi
    $k get configmap typed || $k create configmap typed --from-literal=color=blue
    # As another user, who may do nothing.
    if $k get configmap applied --as=nobody; then exit 1; fi
    if $k get configmap applied --as=nobody 2>&1 | grep -v 'User "nobody" cannot get'; then exit 1; fi
""")
    for name, label in (("applied", "client"), ("server-side", "server"), ("created", "nobody")):
        metadata = {"name": name, "labels": {"which": label}}
        made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"color": "blue"}}
        (project.folder / f"{name}.yaml").write_text(yaml.safe_dump(made))
    project.watch(vars={"manifests": str(project.folder)})
    operator = await project.start()
    cr = await world.create(thing(), one.namespace)
    await counted(operator, "one", 1)
    owners: dict[str, object] = {}
    # Applied again, an object keeps its owner.
    for count in (1, 2):
        await counted(operator, "one", count)
        for name in ("applied", "server-side", "created", "typed"):
            owners[name] = (await blue(world, ObjectKey(one.namespace, name)))["metadata"]["ownerReferences"]
        reference = {"apiVersion": "test.example.com/v1", "kind": "Thing", "name": "one", "uid": cr["metadata"]["uid"]}
        assert owners == {name: [reference] for name in owners}
        if count == 1:
            await world.delete(CONFIG_MAP, ObjectKey(one.namespace, "typed"))


@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside others"])
async def test_each_way_to_write_tells_own_changes_from_others(
    project: Project, world: Cluster, one: ObjectKey, others: bool
) -> None:
    """The API server takes each for a write on condition; what others do meanwhile gives another run, and nothing else."""
    (project.folder / "deployment.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "web"},
                "spec": {
                    "replicas": 1,
                    "paused": True,
                    "selector": {"matchLabels": {"app": "web"}},
                    "template": {
                        "metadata": {"labels": {"app": "web"}},
                        "spec": {"containers": [{"name": "main", "image": "none"}]},
                    },
                },
            }
        )
    )
    project.role("""
- ansible.builtin.shell: |
    set -eux
    k="kubectl --namespace={{ ansible_operator_meta.namespace }}"
    if $k get deployment web; then exit 0; fi
    $k apply --server-side --filename={{ manifest }}
    $k apply --server-side --filename={{ manifest }}
    $k annotate deployment web way=annotate
    $k patch deployment web --type=json --patch='[{"op": "add", "path": "/metadata/labels", "value": {"way": "json"}}]'
    $k patch deployment web --type=merge --patch='{"spec": {"minReadySeconds": 1}}'
    $k patch deployment web --type=strategic --patch='{"spec": {"minReadySeconds": 2}}'
    $k patch deployment web --type=strategic --patch='{"spec": {"minReadySeconds": 2}}'
    $k patch deployment web --subresource=scale --type=merge --patch='{"spec": {"replicas": 2}}'
    $k scale deployment web --replicas=3
    $k set image deployment web main=other
    # It may stay until its own ReplicaSets are gone, and is not there again then.
    $k create configmap passing
    $k patch configmap passing --patch='{"metadata": {"finalizers": ["example.com/wait"]}}'
    $k delete configmap passing --wait=false
    $k patch configmap passing --patch='{"metadata": {"finalizers": []}}'
    {% if others %}
    touch {{ manifest }}.written
    until test -e {{ manifest }}.disturbed; do sleep 0.1; done
    $k scale deployment web --replicas=7
    {% endif %}
""")
    manifest = project.folder / "deployment.yaml"
    project.watch(vars={"manifest": str(manifest), "others": others}, reconcilePeriod="0")
    operator = await project.start()
    await world.create(thing(), one.namespace)
    if others:

        async def written() -> bool:
            return manifest.with_name("deployment.yaml.written").exists()

        await until(written, "the run has written")
        await world.patch(DEPLOYMENT, ObjectKey(one.namespace, "web"), {"spec": {"replicas": 7}})
        manifest.with_name("deployment.yaml.disturbed").touch()
    await succeeded(world, one)
    await counted(operator, "one", 2 if others else 1)
    # Another object's change is told after all of those: it is the last to cause a run.
    await world.patch(DEPLOYMENT, ObjectKey(one.namespace, "web"), {"spec": {"replicas": 4}})
    await counted(operator, "one", 3 if others else 2)
    assert len(lines(operator, "Run succeeded", name="one")) == (3 if others else 2)


async def test_an_update_keeps_the_owner(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("""
- kubernetes.core.k8s:
    force: true
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: "{{ ansible_operator_meta.name }}", namespace: "{{ ansible_operator_meta.namespace }}"}
      data: {color: blue, size: "{{ size }}"}
""")
    project.watch(vars={"size": "1"})
    operator = await project.start()
    cr = await world.create(thing(size="1"), one.namespace)
    await counted(operator, "one", 1)
    await world.patch(THING, one, {"spec": {"size": "2"}})
    await counted(operator, "one", 2)
    await world.patch(CONFIG_MAP, one, {"data": {"color": "red"}})
    await counted(operator, "one", 3)
    made = await blue(world, one)
    assert [reference["uid"] for reference in made["metadata"]["ownerReferences"]] == [cr["metadata"]["uid"]]


@pytest.mark.skipif(shutil.which("helm") is None, reason="there is no helm on this machine")
async def test_helm(project: Project, world: Cluster, one: ObjectKey) -> None:
    create = ["helm", "create", str(project.folder / "chart")]
    await asyncio.to_thread(subprocess.run, create, check=True, capture_output=True)
    project.role("""
- ansible.builtin.shell: |
    set -eux
    h="helm --namespace={{ ansible_operator_meta.namespace }}"
    $h upgrade --install release {{ chart }} --set replicaCount=2
    $h list --output=json | grep '"deployed"'
    $h get manifest release | grep 'kind: Deployment'
""")
    project.watch(vars={"chart": str(project.folder / "chart")})
    operator = await project.start()
    cr = await world.create(thing(), one.namespace)
    await counted(operator, "one", 1)
    made = await world.get(DEPLOYMENT, ObjectKey(one.namespace, "release-chart"))
    assert made is not None
    assert made["spec"]["replicas"] == 2
    assert [reference["uid"] for reference in made["metadata"]["ownerReferences"]] == [cr["metadata"]["uid"]]


@pytest.mark.parametrize("executor", ["warm", "subprocess"])
async def test_a_clusters_http_proxy_is_not_asked(project: Project, world: Cluster, one: ObjectKey, executor: str) -> None:
    """It is given to operators by OLM, say, and others than OLM may forget what it is not for."""
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one", "namespace": one.namespace}}
    project.role(
        yaml.safe_dump(
            [
                {"kubernetes.core.k8s": {"definition": config_map}},
                {"ansible.builtin.uri": {"url": "http://203.0.113.1/"}, "register": "answer", "ignore_errors": True},
                {"ansible.builtin.assert": {"that": "'Connection refused' in answer.msg"}},
            ]
        )
    )
    project.watch()
    # Where nothing listens, and nobody without root's rights may.
    nobody = "http://127.0.0.1:1"
    proxies = {name: nobody for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
    await project.start(f"--executor={executor}", **proxies, NO_PROXY=".svc", no_proxy="")
    await world.create(thing(), one.namespace)
    await succeeded(world, one)


async def test_plain_http(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("""
- ansible.builtin.set_fact:
    config: "{{ lookup('ansible.builtin.file', lookup('ansible.builtin.env', 'KUBECONFIG')) | from_yaml }}"
- ansible.builtin.set_fact:
    server: "{{ config.clusters[0].cluster.server }}"
    token: "{{ config.users[0].user.username }}"
- name: By the URL alone
  ansible.builtin.uri:
    url: "{{ server }}/version"
- name: By the URL's host and a header
  ansible.builtin.uri:
    url: "http://{{ server | urlsplit('netloc') }}/apis"
    headers:
      Authorization: "Bearer {{ token }}"
- name: By a user's name, sent when asked for
  ansible.builtin.uri:
    url: "http://{{ server | urlsplit('netloc') }}/openapi/v3"
    url_username: "{{ token }}"
    url_password: unused
- name: Create
  ansible.builtin.uri:
    url: "{{ server }}/api/v1/namespaces/{{ ansible_operator_meta.namespace }}/configmaps"
    method: POST
    body_format: json
    body:
      metadata:
        name: one
      data:
        color: blue
    status_code: [201, 409]
- name: Read until the store has it
  ansible.builtin.uri:
    url: "{{ server }}/api/v1/namespaces/{{ ansible_operator_meta.namespace }}/configmaps/one"
  register: read
  until: read.x_cache | default('') == 'HIT'
  retries: 100
  delay: 0.2
- ansible.builtin.copy:
    dest: "{{ out }}"
    content: "{{ read.json | to_json }}"
""")
    out = project.folder / "out.json"
    project.watch(vars={"out": str(out)})
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await counted(operator, "one", 1)
    made = await blue(world, one)
    del made["metadata"]["managedFields"]
    assert json.loads(out.read_text()) == made
    assert made["metadata"]["ownerReferences"][0]["name"] == "one"
