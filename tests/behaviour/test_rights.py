"""The example operator with the rights of its own config/rbac/role.yaml: enough for all it does, and none too many."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.driver import DEPLOYMENT, MEMCACHED, ROOT, Cluster, Operator, condition, example_crds, until
from runner.devcluster import Cluster as Devcluster
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.conftest import Project, lines

RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "config/rbac/role.yaml").read_text())["rules"]
RIGHTS = [
    (group, resource, verb)
    for rule in RULES
    for group in rule["apiGroups"]
    for resource in rule["resources"]
    for verb in rule["verbs"]
]
SETTINGS = GroupVersionKind("cache.example.com", "v1alpha1", "MemcachedSettings")
CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")
# Gives an Event on the CR.
BAD_PERIOD = {"ansible.sdk.operatorframework.io/reconcile-period": "soon"}
# What kopf would like to know of the whole cluster, and does without.
NOT_NEEDED = ("customresourcedefinitions", "namespaces")


LABELS = {"app": "memcached", "memcached_cr": "one"}
EXISTING: dict[tuple[str, str], dict[str, Any]] = {
    ("configmaps", "patch"): {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}},
    ("deployments", "patch"): {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "one"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "memcached", "image": "none"}]}},
        },
    },
}


class Restricted:
    """The example operator's project, with a kubeconfig of a ServiceAccount that has `rules` in its namespace."""

    def __init__(self, devcluster: Devcluster, namespace: str, folder: Path) -> None:
        self.project = Project(ROOT, folder / "kubeconfig", namespace)
        self.project.runs, self.project.logs = folder / "runs", folder
        self._kubectl = [str(devcluster.kubectl), "--kubeconfig", str(devcluster.kubeconfig), "--namespace", namespace]
        self._account = f"{namespace}:operator"
        self.kubectl("create", "serviceaccount", "operator")
        config = json.loads(devcluster.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": self.kubectl("create", "token", "operator").strip()}
        self.project.kubeconfig.write_text(json.dumps(config))

    def allow(self, rules: list[dict[str, Any]]) -> None:
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "operator"},
            "rules": rules,
        }
        self.kubectl("apply", "-f", "-", text=json.dumps(role))
        self.kubectl("create", "rolebinding", "operator", "--role=operator", f"--serviceaccount={self._account}")

    def kubectl(self, *arguments: str, text: str = "") -> str:
        return subprocess.run([*self._kubectl, *arguments], input=text, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def restricted(devcluster: Devcluster, namespace: str, tmp_path: Path) -> Iterator[Restricted]:
    made = Restricted(devcluster, namespace, tmp_path)
    yield made
    for operator in made.project.operators:
        operator.kill()


def refusals(operator: Operator) -> list[str]:
    found = [line for line in operator.output.splitlines() if "forbidden" in line.lower()]
    return [line for line in found if not any(f'cannot list resource \\"{name}' in line for name in NOT_NEEDED)]


def cr(gvk: GroupVersionKind, **spec: Any) -> dict[str, Any]:
    metadata = {"name": "one", "annotations": BAD_PERIOD}
    return {"apiVersion": gvk.api_version, "kind": gvk.kind, "metadata": metadata, "spec": spec}


async def test_the_examples_role_is_enough(restricted: Restricted, world: Cluster, one: ObjectKey) -> None:
    for definition in example_crds():
        await world.install(definition)
    restricted.allow(RULES)
    operator = await restricted.project.start()
    await world.create(cr(MEMCACHED, size=1), one.namespace)
    await world.create(cr(SETTINGS, options={"m": "64"}), one.namespace)

    async def has_nodes(count: int) -> bool:
        obj = await world.get(MEMCACHED, one)
        return len(((obj or {}).get("status") or {}).get("nodes") or ()) == count

    async def settled(gvk: GroupVersionKind) -> bool:
        return condition(await world.get(gvk, one), "Successful").get("status") == "True"

    async def comes_back(gvk: GroupVersionKind) -> bool:
        found = await world.get(gvk, one)
        return found is not None and found["metadata"]["uid"] != uid

    await until(lambda: has_nodes(1), "the pod is known")
    await world.patch(MEMCACHED, one, {"spec": {"size": 2}})
    await until(lambda: has_nodes(2), "both pods are known")
    for gvk, owner in ((DEPLOYMENT, MEMCACHED), (CONFIG_MAP, SETTINGS)):
        await until(lambda owner=owner: settled(owner), f"{owner} is settled")
        uid = (await until(lambda gvk=gvk: world.get(gvk, one), f"{gvk} is there"))["metadata"]["uid"]
        await world.delete(gvk, one)
        await until(lambda gvk=gvk: comes_back(gvk), f"{gvk} is made again")
    for gvk in (MEMCACHED, SETTINGS):
        await world.delete(gvk, one)

    async def noticed() -> bool:
        return len(lines(operator, "The CR is gone", name="one")) == 2

    await until(noticed, "both CRs are gone")
    assert refusals(operator) == []
    assert lines(operator, "Run failed") == []


@pytest.mark.parametrize(("group", "resource", "verb"), RIGHTS, ids=["-".join(right) for right in RIGHTS])
async def test_each_right_of_the_examples_role_is_needed(
    restricted: Restricted, world: Cluster, one: ObjectKey, group: str, resource: str, verb: str
) -> None:
    for definition in example_crds():
        await world.install(definition)
    others = [each for each in RIGHTS if each != (group, resource, verb)]
    restricted.allow([{"apiGroups": [of], "resources": [what], "verbs": [may]} for of, what, may in others])
    if (resource, verb) in EXISTING:
        # What is there already is changed by the first run.
        await world.create(EXISTING[resource, verb], one.namespace)
    await world.create(cr(MEMCACHED, size=1), one.namespace)
    await world.create(cr(SETTINGS, options={"m": "64"}), one.namespace)
    operator = await restricted.project.start(wait=False)
    name, _, subresource = resource.partition("/")
    # A missing right to finalizers shows as the refusal of what would block them.
    what = "blockOwnerDeletion" if subresource == "finalizers" else f"cannot {verb} resource"

    async def refused() -> bool:
        assert operator.process.poll() is None, operator.output
        return any(what in line and (name in line or subresource == "finalizers") for line in refusals(operator))

    await until(refused, f"{verb} of {resource} is refused")
    assert not [line for line in refusals(operator) if what not in line]
