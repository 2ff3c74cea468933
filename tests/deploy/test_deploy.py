"""`make deploy` on a real API server: what it takes and what it refuses, and the operator with exactly those rights.

The Deployment's pods run on paper there. The runner works outside of the cluster in their place: with the Deployment's
arguments and variables, as its ServiceAccount.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.driver import DEPLOYMENT, FREE_PORTS, MEMCACHED, ROOT, RUN, Cluster, Operator, condition, until
from devkit.devcluster import Cluster as Devcluster
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.conftest import lines

NAME, NAMESPACE = "memcached-operator-controller-manager", "memcached-operator-system"
CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")
SAMPLES = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "config" / "samples").glob("*.yaml"))]


class Deployed:
    """The manifests on a cluster, put there by the Makefile."""

    def __init__(self, cluster: Devcluster, overlay: str) -> None:
        self._cluster = cluster
        self._overlay = overlay
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

    def kubeconfig(self, folder: Path) -> Path:
        """Of the operator's ServiceAccount, which has no other credentials than a token."""
        config = json.loads(self.kubectl("config", "view", "--raw", "--flatten", "-o", "json").stdout)
        token = self.kubectl("create", "token", NAME, "-n", NAMESPACE).stdout.strip()
        config["users"][0]["user"] = {"token": token}
        path = folder / "account.kubeconfig"
        path.write_text(json.dumps(config))
        return path


@pytest.fixture(params=["default", "single-namespace"])
def deployed(own_cluster: Devcluster, request: pytest.FixtureRequest) -> Deployed:
    """A cluster of its own: CRDs go as well when it is undeployed."""
    return Deployed(own_cluster, request.param)


@pytest.fixture
def operator(deployed: Deployed, tmp_path: Path) -> Iterator[Operator]:
    container = deployed.container()
    environ = {item["name"]: item.get("value", NAMESPACE) for item in container["env"]}
    # The manager's own flags come first; of two, the last counts. These are what this machine has otherwise than a pod.
    elsewhere = (*FREE_PORTS, "--metrics-secure=false", "--metrics-require-rbac=false", f"--runs-dir={tmp_path / 'runs'}")
    running = Operator(
        [*RUN, *container["args"], *elsewhere, f"--leader-election-namespace={NAMESPACE}", "--log-format=json"],
        folder=ROOT,
        log=tmp_path / "operator.log",
        environ={**environ, "KUBECONFIG": str(deployed.kubeconfig(tmp_path))},
    )
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
        await until(lambda: available(world), "both replicas are available")
        assert deployed.container()["image"] == "example.com/memcached-operator:v1"
        await until(lambda: said(operator, "Watching"), "the operator watches")
        where = NAMESPACE if alone else "default"
        for sample in SAMPLES:
            await world.create(sample, where)
        for sample in SAMPLES:
            gvk, key = GroupVersionKind.of(sample), ObjectKey(where, sample["metadata"]["name"])
            await until(lambda gvk=gvk, key=key: succeeded(world, gvk, key), f"{gvk.kind} is as it shall be")
        # A repair of each dependent, and a change.
        memcached, settings = (ObjectKey(where, sample["metadata"]["name"]) for sample in SAMPLES)
        for gvk, key in ((DEPLOYMENT, memcached), (CONFIG_MAP, settings)):
            old = uid(await world.get(gvk, key))
            await world.delete(gvk, key)
            await until(lambda gvk=gvk, key=key, old=old: is_anew(world, gvk, key, old), f"the {gvk.kind} is there again")
        await world.patch(MEMCACHED, memcached, {"spec": {"size": 1}})
        await until(lambda: has_size(world, memcached, 1), "the Deployment follows")
        if alone:
            await world.create(SAMPLES[0], "default")
            can = ("auth", "can-i", "list", "deployments", f"--as=system:serviceaccount:{NAMESPACE}:{NAME}")
            assert deployed.kubectl(*can, "-n", NAMESPACE).stdout.strip() == "yes"
            assert deployed.kubectl(*can, "-n", "default").stdout.strip() == "no"
        assert operator.stop() == 0
    if alone:
        assert lines(operator, "Running", namespace="default") == []
    assert [line for line in operator.output.splitlines() if "orbidden" in line] == []
    assert lines(operator, "Will be tried again") == []


def test_undeploying_leaves_nothing(deployed: Deployed) -> None:
    parts = deployed.kubectl("get", "networkpolicy,poddisruptionbudget,service", "-n", NAMESPACE, "-o", "name").stdout
    assert len(parts.splitlines()) == 3
    # The CRDs alone, which are there already.
    assert "memcacheds.cache.example.com" in deployed.make("install")
    deployed.make("undeploy")
    left = deployed.kubectl("get", "crds,clusterroles,clusterrolebindings,namespaces", "-o", "name").stdout
    assert [line for line in left.splitlines() if "memcached" in line] == []


async def said(operator: Operator, message: str) -> bool:
    assert operator.process.poll() is None, operator.output
    return bool(lines(operator, message))


async def available(world: Cluster) -> bool:
    found = await world.get(DEPLOYMENT, ObjectKey(NAMESPACE, NAME)) or {}
    return bool(found.get("status", {}).get("availableReplicas") == 2)


async def succeeded(world: Cluster, gvk: GroupVersionKind, key: ObjectKey) -> bool:
    return condition(await world.get(gvk, key), "Successful").get("status") == "True"


async def is_anew(world: Cluster, gvk: GroupVersionKind, key: ObjectKey, old: str) -> bool:
    return uid(await world.get(gvk, key)) not in ("", old)


async def has_size(world: Cluster, key: ObjectKey, size: int) -> bool:
    found = await world.get(DEPLOYMENT, key)
    return bool(found and found["spec"]["replicas"] == size)


def uid(obj: Any) -> str:
    return str(obj["metadata"]["uid"]) if obj else ""
