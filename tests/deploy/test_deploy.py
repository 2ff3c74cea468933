"""`make deploy` on a real API server: what it takes and what it refuses, and the operator with exactly those rights.

The Deployment's pods run on paper there. The runner works outside of the cluster in their place: with the Deployment's
arguments and variables, as its ServiceAccount. Where replicas share custom resources, so does a stand-in for the sharder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.driver import DEPLOYMENT, FREE_PORTS, MEMCACHED, PATIENCE, ROOT, RUN, Cluster, Operator, condition, until
from devkit.devcluster import Cluster as Devcluster
from runner.resource.metadata import GroupVersionKind, ObjectKey
from runner.resource.sharding import Shard
from tests.conftest import lines
from tests.sharding import SYNC_PERIOD, setup
from tests.sharding.manifests import ring_crd

NAME, NAMESPACE = "memcached-operator-controller-manager", "memcached-operator-system"
MEMCACHEDS = "memcacheds.cache.example.com"
CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")
RING = "memcached-operator"
# What the log has of a run that did not go well.
FAILURES = ("Task failed", "The run came to nothing", "Will be tried again")
# Of each account one right of each role that it has.
RIGHTS = {
    NAME: (("create", "leases.coordination.k8s.io"), ("watch", "deployments.apps"), ("watch", MEMCACHEDS)),
    "sharder": (("patch", "mutatingwebhookconfigurations.admissionregistration.k8s.io"), ("list", MEMCACHEDS)),
}
# Of the sharder: what its own installation grants it, and nothing about the kinds of a ring.
SHARDER = """
- {apiGroups: [""], resources: [namespaces], verbs: [get, list, watch]}
- {apiGroups: [admissionregistration.k8s.io], resources: [mutatingwebhookconfigurations], verbs: [create, patch]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [delete, get, list, patch, update, watch]}
- {apiGroups: [sharding.timebertt.dev], resources: [controllerrings], verbs: [get, list, watch]}
- {apiGroups: [sharding.timebertt.dev], resources: [controllerrings/status], verbs: [patch, update]}
"""
SAMPLES = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "config" / "samples").glob("*.yaml"))]


class Deployed:
    """The manifests on a cluster, put there by the Makefile."""

    def __init__(self, cluster: Devcluster, overlay: str) -> None:
        self._cluster = cluster
        self._overlay = overlay
        if overlay in ("sharded", "autoscaled"):
            # Of the sharder's installation.
            self.kubectl("apply", "-f", "-", given=json.dumps(ring_crd()))
            self.kubectl("wait", "--for=condition=Established", f"crd/{ring_crd()['metadata']['name']}", "--timeout=30s")
        self.said = self.make("deploy", "IMG=example.com/memcached-operator:v1")

    def make(self, *arguments: str) -> str:
        """What it says, warnings of the API server included."""
        command = ["make", f"OVERLAY={self._overlay}", f"KUBECTL={self._cluster.kubectl}", *arguments]
        environ = {**os.environ, "KUBECONFIG": str(self._cluster.kubeconfig)}
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def kubectl(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(self._cluster.kubectl), "--kubeconfig", str(self._cluster.kubeconfig), *arguments]
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False)

    def container(self) -> dict[str, Any]:
        found = json.loads(self.kubectl("get", "deployment", NAME, "-n", NAMESPACE, "-o", "json").stdout)
        container: dict[str, Any] = found["spec"]["template"]["spec"]["containers"][0]
        return container

    def kubeconfig(self, folder: Path, account: str = NAME, namespace: str = NAMESPACE) -> Path:
        """Of the operator's ServiceAccount, or another, which has no other credentials than a token.

        The API server knows its rights: it watches those that it keeps, and refuses what it does not know of yet.
        """
        rights = list(RIGHTS[account])
        if account == NAME and self._overlay == "sharded":
            rights.append(("get", f"controllerrings.sharding.timebertt.dev/{RING}"))
        deadline = time.monotonic() + PATIENCE
        for right in rights:
            can = ("auth", "can-i", *right, f"--as=system:serviceaccount:{namespace}:{account}", "-n", namespace)
            while self.kubectl(*can).stdout.strip() != "yes":
                assert time.monotonic() < deadline, f"{account} may not {' '.join(right)}"
                time.sleep(0.1)
        config = json.loads(self.kubectl("config", "view", "--raw", "-o", "json").stdout)
        token = self.kubectl("create", "token", account, "-n", namespace).stdout.strip()
        config["users"][0]["user"] = {"token": token}
        path = folder / f"{account}.kubeconfig"
        path.write_text(json.dumps(config))
        return path


@pytest.fixture(params=["default", "single-namespace"])
def deployed(own_cluster: Devcluster, request: pytest.FixtureRequest) -> Deployed:
    """A cluster of its own: CRDs go as well when it is undeployed."""
    return Deployed(own_cluster, request.param)


@pytest.fixture
def start(deployed: Deployed, tmp_path: Path) -> Iterator[Callable[..., Operator]]:
    """Starts the operator as the pod of this name does."""
    running: list[Operator] = []

    def start(pod: str = "pod") -> Operator:
        container = deployed.container()
        of_pod = {"metadata.name": pod, "metadata.namespace": NAMESPACE}
        environ = {
            item["name"]: item["value"] if "value" in item else of_pod[item["valueFrom"]["fieldRef"]["fieldPath"]]
            for item in container["env"]
        }
        arguments = [re.sub(r"\$\((\w+)\)", lambda match: environ[match[1]], text) for text in container["args"]]
        # The manager's own flags come first; of two, the last counts. These are what this machine has otherwise than a pod.
        elsewhere = (*FREE_PORTS, "--metrics-secure=false", "--metrics-require-rbac=false", f"--runs-dir={tmp_path / pod}")
        operator = Operator(
            [*RUN, *arguments, *elsewhere, f"--leader-election-namespace={NAMESPACE}", "--log-format=json"],
            folder=ROOT,
            log=tmp_path / f"{pod}.log",
            environ={**environ, "KUBECONFIG": str(deployed.kubeconfig(tmp_path))},
        )
        running.append(operator)
        return operator

    yield start
    for operator in running:
        operator.kill()


@pytest.fixture
def operator(start: Callable[..., Operator]) -> Operator:
    return start()


@pytest.fixture
def sharder(deployed: Deployed, tmp_path: Path) -> Iterator[Operator]:
    """The stand-in, with the rights that the sharder's installation and the overlay grant, and no others."""
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "sharder"}}
    deployed.kubectl("apply", "-f", "-", given=json.dumps({**role, "rules": yaml.safe_load(SHARDER)}))
    for command in (
        ("namespace", "sharding-system"),
        ("serviceaccount", "sharder", "-n", "sharding-system"),
        ("clusterrolebinding", "sharder", "--clusterrole=sharder", "--serviceaccount=sharding-system:sharder"),
    ):
        assert deployed.kubectl("create", *command).returncode == 0
    running = setup.start(deployed.kubeconfig(tmp_path, "sharder", "sharding-system"), tmp_path, sync_period=SYNC_PERIOD)
    yield running
    running.kill()


async def test_the_operator_works_with_what_is_deployed(
    deployed: Deployed, operator: Operator, own_cluster: Devcluster, request: pytest.FixtureRequest
) -> None:
    alone = request.node.callspec.params["deployed"] == "single-namespace"
    # Restricted Pod Security: neither the Deployment nor its pods are more than that, and others are refused.
    assert "Warning" not in deployed.said
    assert "violates PodSecurity" in deployed.kubectl("run", "shell", "-n", NAMESPACE, "--image=example.com/shell").stderr
    async with Cluster.connected(own_cluster.kubeconfig) as world:
        await until(lambda: available(world, 2), "both replicas are available")
        assert deployed.container()["image"] == "example.com/memcached-operator:v1"
        await until(lambda: said(operator, "Watching"), "the operator watches")
        where = NAMESPACE if alone else "default"
        for sample in SAMPLES:
            await world.create(sample, where)
        for sample in SAMPLES:
            gvk, key = GroupVersionKind.of(sample), ObjectKey(where, sample["metadata"]["name"])
            await until(lambda gvk=gvk, key=key: succeeded(world, gvk, key), f"{gvk.kind} is as it shall be")

        async def at_rest() -> bool:
            assert [line for message in FAILURES for line in lines(operator, message)] == []
            return len(lines(operator, "Running")) == len(lines(operator, "Run succeeded"))

        await until(at_rest, "all runs are over")
        # A repair of each dependent, and a change.
        memcached, settings = (ObjectKey(where, sample["metadata"]["name"]) for sample in SAMPLES)
        for gvk, key in ((DEPLOYMENT, memcached), (CONFIG_MAP, settings)):
            old = uid(await world.get(gvk, key))
            await world.delete(gvk, key)
            await until(lambda gvk=gvk, key=key, old=old: is_anew(world, gvk, key, old), f"the {gvk.kind} is there again")
        if alone:
            await world.create(SAMPLES[0], "default")
        # It comes after what the other namespace's CR would have caused.
        await world.patch(MEMCACHED, memcached, {"spec": {"size": 1}})
        await until(lambda: has_size(world, memcached, 1), "the Deployment follows")
        if alone:
            can = ("auth", "can-i", "list", "deployments", f"--as=system:serviceaccount:{NAMESPACE}:{NAME}")
            assert deployed.kubectl(*can, "-n", NAMESPACE).stdout.strip() == "yes"
            assert deployed.kubectl(*can, "-n", "default").stdout.strip() == "no"
        assert operator.stop() == 0
    if alone:
        assert lines(operator, "Running", namespace="default") == []
    assert [line for line in operator.output.splitlines() if "orbidden" in line] == []
    # Until the first deletion nothing failed. A run that is on while what it writes is deleted here does not find it;
    # whatever the Deployment's controller writes causes one.
    failed = [line for line in lines(operator, "Task failed") if "not found" not in line["error"]]
    assert failed + lines(operator, "The run came to nothing") == []
    assert [line for line in lines(operator, "Will be tried again") if line["reason"] != "the run failed"] == []


@pytest.mark.parametrize("deployed", ["sharded"], indirect=True)
async def test_replicas_share_the_custom_resources_with_what_is_deployed(
    deployed: Deployed, start: Callable[..., Operator], sharder: Operator, own_cluster: Devcluster
) -> None:
    assert "Warning" not in deployed.said
    shards = {name: Shard(RING, name) for name in ("shard-a", "shard-b")}
    keys = [ObjectKey("default", f"memcached-{number}") for number in range(8)]
    async with Cluster.connected(own_cluster.kubeconfig) as world:
        await until(lambda: available(world, 3), "all replicas are available")
        first = start("shard-a")
        await until(lambda: said(first, "Watching"), "the first shard watches")
        await setup.ready(world, RING, shards=1)
        for key in keys:
            await world.create({**SAMPLES[0], "metadata": {"name": key.name}}, key.namespace)
        await world.create(SAMPLES[1], "default")

        async def shard_of(key: ObjectKey) -> str:
            """The shard that has a CR, and is not asked to let it go."""
            obj = await world.get(MEMCACHED, key) or {}
            has = (name for name, shard in shards.items() if shard.selector.matches(obj) and not shard.is_draining(obj))
            return next(has, "")

        async def are_shared(names: set[str]) -> bool:
            return {await shard_of(key) for key in keys} == names

        async def have_size(size: int) -> bool:
            return all([await has_size(world, key, size) for key in keys])

        settings = ObjectKey("default", SAMPLES[1]["metadata"]["name"])
        await until(lambda: succeeded(world, GroupVersionKind.of(SAMPLES[1]), settings), "the settings are as they shall be")
        await until(lambda: have_size(SAMPLES[0]["spec"]["size"]), "all have their Deployments")
        # A second shard gets its share from the first, which lets it go.
        second = start("shard-b")
        await until(lambda: are_shared({"shard-a", "shard-b"}), "both have a share")
        for key in keys:
            await world.patch(MEMCACHED, key, {"spec": {"size": 2}})
        await until(lambda: have_size(2), "all Deployments follow")
        # What the first had is the second's when it ends.
        assert first.stop() == 0
        await until(lambda: are_shared({"shard-b"}), "the second has all")
        for key in keys:
            await world.patch(MEMCACHED, key, {"spec": {"size": 1}})
        await until(lambda: have_size(1), "all Deployments follow the second shard")
        assert second.stop() == 0
    for process in (first, second, sharder):
        assert [line for line in process.output.splitlines() if "orbidden" in line] == []
    for shard in (first, second):
        assert lines(shard, "Running") != []
        assert lines(shard, "Will be tried again") == []


def test_what_is_shared_is_what_is_watched() -> None:
    """The ring, and the rights on its kinds, against watches.yaml and the operator's own role."""
    files = ("sharded/controller_ring", "sharded/shard_role", "sharded/sharder_role", "rbac/role")
    ring, shard, sharder, role = (yaml.safe_load((ROOT / "config" / f"{file}.yaml").read_text()) for file in files)
    resources = ring["spec"]["resources"]
    main = {(each["group"], each["resource"]) for each in resources}
    controlled = {(each["group"], each["resource"]) for main in resources for each in main["controlledResources"]}
    watched = granted(role, "watch")
    assert main | controlled == watched
    assert {group for group, _ in main} == {watch["group"] for watch in yaml.safe_load((ROOT / "watches.yaml").read_text())}
    assert granted(shard, "patch") == main
    assert granted(sharder, "list") == granted(sharder, "patch") == watched


@pytest.mark.parametrize(("part", "selector"), [("a", "shard=a"), ("rest", "shard notin (a)")])
def test_a_part_of_the_custom_resources_has_an_operator_of_its_own(
    part: str, selector: str, tmp_path: Path, devcluster: Devcluster
) -> None:
    """The overlay that docs/sharding.md shows."""
    page = (ROOT / "docs" / "sharding.md").read_text()
    shown = re.findall(r"```yaml\n(# config/shard-a/.*?)```", page, re.DOTALL)[0].replace("shard=a", selector)
    for folder in ("config", "crds"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    overlay = tmp_path / "config" / f"shard-{part}"
    overlay.mkdir()
    named = {
        "namePrefix: a-": f"namePrefix: {part}-",
        "instance: a}": f"instance: {part}}}",
        "id=memcached-a}": f"id=memcached-{part}}}",
    }
    for old, new in named.items():
        assert shown.count(old) == 1
        shown = shown.replace(old, new)
    (overlay / "kustomization.yaml").write_text(shown)
    done = subprocess.run([str(devcluster.kubectl), "kustomize", str(overlay)], capture_output=True, text=True, check=True)
    made = [obj for obj in yaml.safe_load_all(done.stdout) if obj["kind"] not in ("Namespace", "CustomResourceDefinition")]
    assert all(obj["metadata"]["name"].startswith(f"{part}-") for obj in made)
    (deployment,) = (obj for obj in made if obj["kind"] == "Deployment")
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {"--leader-elect", f"--leader-election-id=memcached-{part}", f"--watch-label-selector={selector}"} <= set(
        arguments
    )
    assert "--leader-election-id=memcached-operator" not in arguments
    # What selects pods selects those of this part alone.
    (service,) = (obj for obj in made if obj["kind"] == "Service")
    selectors = [deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]]
    assert [each["app.kubernetes.io/instance"] for each in selectors] == [part, part]


def granted(role: Any, verb: str) -> set[tuple[str, str]]:
    """The groups and resources on which a role grants a verb."""
    rules = [rule for rule in role["rules"] if verb in rule["verbs"]]
    return {(group, resource) for rule in rules for group in rule["apiGroups"] for resource in rule["resources"]}


@pytest.mark.parametrize("deployed", ["default", "single-namespace", "sharded", "autoscaled"], indirect=True)
def test_undeploying_leaves_nothing(deployed: Deployed) -> None:
    parts = deployed.kubectl("get", "networkpolicy,poddisruptionbudget,service", "-n", NAMESPACE, "-o", "name").stdout
    assert len(parts.splitlines()) == 3
    # The CRDs alone, which are there already.
    assert "memcacheds.cache.example.com" in deployed.make("install")
    deployed.make("undeploy")
    left = deployed.kubectl("get", "crds,clusterroles,clusterrolebindings,namespaces", "-o", "name").stdout
    assert [line for line in left.splitlines() if "memcached" in line] == []
    assert deployed.kubectl("get", "controllerrings", "-o", "name").stdout == ""


async def said(operator: Operator, message: str) -> bool:
    assert operator.process.poll() is None, operator.output
    return bool(lines(operator, message))


async def available(world: Cluster, replicas: int) -> bool:
    found = await world.get(DEPLOYMENT, ObjectKey(NAMESPACE, NAME)) or {}
    return bool(found.get("status", {}).get("availableReplicas") == replicas)


async def succeeded(world: Cluster, gvk: GroupVersionKind, key: ObjectKey) -> bool:
    return condition(await world.get(gvk, key), "Successful").get("status") == "True"


async def is_anew(world: Cluster, gvk: GroupVersionKind, key: ObjectKey, old: str) -> bool:
    return uid(await world.get(gvk, key)) not in ("", old)


async def has_size(world: Cluster, key: ObjectKey, size: int) -> bool:
    found = await world.get(DEPLOYMENT, key)
    return bool(found and found["spec"]["replicas"] == size)


def uid(obj: Any) -> str:
    return str(obj["metadata"]["uid"]) if obj else ""
