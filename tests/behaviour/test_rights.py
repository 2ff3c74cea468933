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
from devkit.devcluster import Cluster as Devcluster
from devkit.manifests.command import ROLE, generate
from runner.config.settings import Settings
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.conftest import THING, Project, lines, permitted, thing

RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "config/rbac/role.yaml").read_text())["rules"]
RIGHTS = [
    (group, resource, verb)
    for rule in RULES
    for group in rule["apiGroups"]
    for resource in rule["resources"]
    for verb in rule["verbs"]
    # By which an Event that is posted again is counted; without it none of the rest is missed.
    if (resource, verb) != ("events", "patch")
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
    """The project of a folder, with a kubeconfig of a ServiceAccount that has `rules` in its namespace."""

    def __init__(self, devcluster: Devcluster, namespace: str, folder: Path, of: Path) -> None:
        self.project = Project(of, folder / "kubeconfig", namespace)
        self.project.runs, self.project.logs = folder / "runs", folder
        self._kubectl = [str(devcluster.kubectl), "--kubeconfig", str(devcluster.kubeconfig), "--namespace", namespace]
        self._account = f"{namespace}:operator"
        self.kubectl("create", "serviceaccount", "operator")
        config = json.loads(devcluster.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": self.kubectl("create", "token", "operator").strip()}
        self.project.kubeconfig.write_text(json.dumps(config))

    async def allow(self, world: Cluster, rules: list[dict[str, Any]]) -> None:
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "operator"},
            "rules": rules,
        }
        self.kubectl("apply", "-f", "-", text=json.dumps(role))
        self.kubectl("create", "rolebinding", "operator", "--role=operator", f"--serviceaccount={self._account}")
        await permitted(world, f"system:serviceaccount:{self._account}", rules, self.project.namespace)

    def kubectl(self, *arguments: str, text: str = "") -> str:
        return subprocess.run([*self._kubectl, *arguments], input=text, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def restricted(devcluster: Devcluster, namespace: str, tmp_path: Path) -> Iterator[Restricted]:
    made = Restricted(devcluster, namespace, tmp_path, of=ROOT)
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
    await restricted.allow(world, RULES)
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

    async def at_rest() -> bool:
        return len(lines(operator, "Running")) == len(lines(operator, "Run succeeded"))

    # What was made again is there before its run is over.
    await until(at_rest, "all runs are over")
    # From here on one may fail: what the Deployment's own controller does to it causes a run, whose CR may be gone when it
    # writes to it.
    assert lines(operator, "Run failed") == []
    for gvk in (MEMCACHED, SETTINGS):
        await world.delete(gvk, one)

    async def noticed() -> bool:
        return {line["kind"] for line in lines(operator, "The CR is gone", name="one")} == {MEMCACHED.kind, SETTINGS.kind}

    await until(noticed, "both CRs are gone")
    assert refusals(operator) == []


@pytest.mark.parametrize(("group", "resource", "verb"), RIGHTS, ids=["-".join(right) for right in RIGHTS])
async def test_each_right_of_the_examples_role_is_needed(
    restricted: Restricted, world: Cluster, one: ObjectKey, group: str, resource: str, verb: str
) -> None:
    for definition in example_crds():
        await world.install(definition)
    others = [each for each in RIGHTS if each != (group, resource, verb)]
    await restricted.allow(world, [{"apiGroups": [of], "resources": [what], "verbs": [may]} for of, what, may in others])
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
        if (resource, verb) == ("memcachedsettings", "get"):
            # A reconcile for a change begins with what the watch has delivered; one for a dependent reads the CR.
            await world.delete(CONFIG_MAP, one)
        return any(what in line and (name in line or subresource == "finalizers") for line in refusals(operator))

    await until(refused, f"{verb} of {resource} is refused")
    assert not [line for line in refusals(operator) if what not in line]


ALL_MODULES = """
- kubernetes.core.k8s:
    apply: "{{ item == 'applied' }}"
    definition: {apiVersion: v1, kind: ConfigMap, metadata: {name: "{{ item }}", labels: {of: test}}, data: {a: b}}
  loop: [plain, applied, gone]
- kubernetes.core.k8s:
    apply: true
    server_side_apply: {field_manager: test}
    definition: {apiVersion: v1, kind: Secret, metadata: {name: served}, stringData: {a: "{{ ansible_operator_meta.name }}"}}
- kubernetes.core.k8s:
    force: true
    definition: {apiVersion: v1, kind: ServiceAccount, metadata: {name: forced}}
- kubernetes.core.k8s:
    state: patched
    definition: {apiVersion: v1, kind: ServiceAccount, metadata: {name: default, labels: {a: b}}}
- kubernetes.core.k8s: {kind: ConfigMap, name: gone, state: absent, wait: true}
- kubernetes.core.k8s: {kind: ConfigMap, state: absent, label_selectors: [of=test]}
- kubernetes.core.k8s: {api_version: policy/v1, kind: PodDisruptionBudget, state: absent, delete_all: true}
- kubernetes.core.k8s: {definition: {apiVersion: batch/v1, kind: Job, metadata: {generateName: job-}, spec: "{{ job }}"}}
  vars:
    job: {suspend: true, template: {spec: {restartPolicy: Never, containers: [{name: a, image: none}]}}}
- kubernetes.core.k8s: {definition: "{{ lookup('template', 'deployment.yml.j2') | from_yaml }}", wait: true}
- kubernetes.core.k8s_scale: {api_version: apps/v1, kind: Deployment, name: web, replicas: 2, wait_timeout: 60}
- kubernetes.core.k8s_rollback: {api_version: apps/v1, kind: Deployment, name: web}
- kubernetes.core.k8s_json_patch:
    api_version: apps/v1
    kind: Deployment
    name: web
    patch: [{op: add, path: /metadata/annotations/a, value: b}]
- kubernetes.core.k8s_info: {kind: Pod, wait: true, label_selectors: [app=web]}
- kubernetes.core.k8s_service: {name: web, selector: {app: web}, ports: [{port: 80}]}
- ansible.builtin.debug:
    msg: "{{ query('kubernetes.core.k8s', kind='Endpoints', namespace=ansible_operator_meta.namespace) | length }}"
- operator_sdk.util.k8s_event:
    name: told
    message: a
    reason: A
    involvedObject: {apiVersion: v1, kind: ServiceAccount, name: forced}
- operator_sdk.util.k8s_status:
    api_version: "{{ _test_example_com_thing.apiVersion }}"
    kind: "{{ _test_example_com_thing.kind }}"
    name: "{{ ansible_operator_meta.name }}"
    namespace: "{{ ansible_operator_meta.namespace }}"
    status: {told: yes}
"""
WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {of: "{{ ansible_operator_meta.name }}"}}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: none}]}
"""


async def test_the_role_that_tasks_show_is_enough(
    devcluster: Devcluster, world: Cluster, one: ObjectKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    restricted = Restricted(devcluster, one.namespace, tmp_path, of=folder)
    project = restricted.project
    project.role(ALL_MODULES)
    (folder / "roles/thing/templates").mkdir()
    (folder / "roles/thing/templates/deployment.yml.j2").write_text(WEB)
    modules = ("group/kubernetes.core.k8s", "kubernetes.core.k8s_rollback", "kubernetes.core.k8s_json_patch")
    defaults = {name: {"namespace": one.namespace} for name in (*modules, "operator_sdk.util.k8s_event")}
    play = {"hosts": "localhost", "gather_facts": False, "module_defaults": defaults, "roles": ["thing"]}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    project.watch(playbook="play.yml", finalizer={"name": "example.com/clean", "vars": {"cleaning": "yes"}})
    monkeypatch.chdir(folder)
    found = generate(Settings(), {})
    assert found.undecided == []
    await restricted.allow(world, yaml.safe_load(found.texts[ROLE])["rules"])
    operator = await project.start()
    try:
        await world.create(thing(), one.namespace)

        async def is_through() -> bool:
            assert not lines(operator, "Run failed"), operator.output
            return condition(await world.get(THING, one), "Successful").get("status") == "True"

        await until(is_through, "all has been made")
        await world.delete(THING, one)

        async def is_gone() -> bool:
            assert not lines(operator, "Run failed"), operator.output
            return await world.get(THING, one) is None

        await until(is_gone, "all has been changed, and the CR is gone")
        assert refusals(operator) == []
    finally:
        operator.kill()
