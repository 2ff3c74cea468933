"""A project as it was made, without an edit, on a real API server."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bench.driver import DEPLOYMENT, FREE_PORTS, PATIENCE, ROOT, RUN, Cluster, Operator, condition, until
from devkit.devcluster import Cluster as Devcluster
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.conftest import lines, permitted

NAME = "scaffolded"
SYSTEM = f"{NAME}-system"
KINDS = {
    "Cache": ("--generate-role",),
    "Backup": ("--generate-playbook",),
    "Region": ("--generate-role", "--generate-playbook", "--namespaced=false"),
}


def rolerunner(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "runner", *arguments]
    subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rolerunner(tmp_path, "init", "--domain", "example.org", "--project-name", NAME)
    for kind, flags in KINDS.items():
        rolerunner(tmp_path, "create", "api", "--group", "shop", "--version", "v1", "--kind", kind, *flags)
    return tmp_path


class Kubectl:
    def __init__(self, cluster: Devcluster) -> None:
        self._command = [str(cluster.kubectl), "--kubeconfig", str(cluster.kubeconfig)]

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        # A field that the API server does not know, and the like.
        assert "Warning" not in done.stderr, done.stderr
        return done.stdout


@pytest.fixture
def environ(devcluster: Devcluster) -> dict[str, str]:
    """A user's shell, with the cluster and all programs."""
    path = os.pathsep.join((str(Path(sys.executable).parent), str(devcluster.kubectl.parent), os.environ["PATH"]))
    return {**os.environ, "PATH": path, "KUBECONFIG": str(devcluster.kubeconfig), "PYTHONPATH": str(ROOT)}


def done(command: str, folder: Path, environ: dict[str, str]) -> str:
    result = subprocess.run(shlex.split(command), cwd=folder, env=environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr
    assert "Warning:" not in result.stderr, result.stderr
    return result.stdout


@pytest.fixture
def deployed(folder: Path, environ: dict[str, str]) -> Iterator[str]:
    """The image it was deployed with."""
    done("make deploy IMG=images.example.org/scaffolded:1", folder, environ)
    yield "images.example.org/scaffolded:1"
    done("make undeploy", folder, environ)


async def test_it_runs_as_it_stands_with_the_rights_that_it_has(
    folder: Path, deployed: str, devcluster: Devcluster, namespace: str
) -> None:
    kubectl = Kubectl(devcluster)
    kubectl("wait", "--for=condition=Established", f"--timeout={PATIENCE:.0f}s", "-f", str(folder / "config/crd/bases"))
    (deployment,) = json.loads(kubectl("get", "deployments", "-n", SYSTEM, "-o", "json"))["items"]

    config = json.loads(devcluster.kubeconfig.read_text())
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    token = kubectl("create", "token", account, "-n", SYSTEM)
    config["users"][0]["user"] = {"token": token.strip()}
    kubeconfig = folder.with_name("kubeconfig")
    kubeconfig.write_text(json.dumps(config))
    async with Cluster.connected(devcluster.kubeconfig) as world:
        # Each takes effect by itself. What the operator asks for sooner is refused.
        for role, where in (("role", namespace), ("leader_election_role", SYSTEM), ("metrics_auth_role", "")):
            rules = yaml.safe_load((folder / "config" / "rbac" / f"{role}.yaml").read_text())["rules"]
            await permitted(world, f"system:serviceaccount:{SYSTEM}:{account}", rules, where)

    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == deployed
    arguments = [*container["args"], *FREE_PORTS, f"--leader-election-namespace={SYSTEM}", "--log-format=json"]
    operator = Operator(
        [*RUN, *arguments, f"--runs-dir={folder.with_name('runs')}"],
        folder=folder,
        log=folder.with_name("operator.log"),
        environ={"KUBECONFIG": str(kubeconfig), "ANSIBLE_GATHERING": "explicit"},
    )
    try:
        kubectl("apply", "-n", namespace, "-k", str(folder / "config/samples"))
        async with Cluster.connected(devcluster.kubeconfig) as world:
            # The pods, which run on paper here, are ones that restricted Pod Security admits.
            key = ObjectKey(SYSTEM, f"{NAME}-controller-manager")

            async def replicas_are_ready() -> bool:
                found = await world.get(DEPLOYMENT, key)
                return bool(found) and found["status"].get("readyReplicas") == 2

            await until(replicas_are_ready, "both replicas are ready")
            for kind in KINDS:
                gvk = GroupVersionKind("shop.example.org", "v1", kind)
                sample = ObjectKey("" if kind == "Region" else namespace, f"{kind.lower()}-sample")

                async def is_successful(gvk: GroupVersionKind = gvk, sample: ObjectKey = sample) -> bool:
                    assert operator.process.poll() is None, operator.output
                    return condition(await world.get(gvk, sample), "Successful").get("status") == "True"

                try:
                    await until(is_successful, f"{kind} is successful")
                except AssertionError as error:
                    raise AssertionError(operator.output[-8000:]) from error
        assert operator.stop() == 0
    finally:
        operator.kill()
    assert not [line for line in operator.output.splitlines() if "orbidden" in line]
    assert lines(operator, "Run failed") == []


def test_its_manifests_are_up_to_date(folder: Path, environ: dict[str, str]) -> None:
    assert "Everything is up to date." in done("make manifests", folder, environ)


def test_its_own_checks_pass_as_they_stand(folder: Path, environ: dict[str, str]) -> None:
    done("make molecule", folder, environ)


@pytest.mark.parametrize("overlay", ["sharded", "autoscaled"])
def test_its_overlays_of_shards_have_each_kind(overlay: str, folder: Path, devcluster: Devcluster) -> None:
    # tests/deploy deploys those of the example, which are equal but for the kinds.
    built = list(yaml.safe_load_all(Kubectl(devcluster)("kustomize", str(folder / "config" / overlay))))
    objects = {(obj["kind"], obj["metadata"]["name"].removeprefix(f"{NAME}-")): obj for obj in built}
    ours = yaml.safe_load_all(Kubectl(devcluster)("kustomize", str(ROOT / "config" / overlay)))
    theirs = {(obj["kind"], obj["metadata"]["name"].removeprefix("memcached-operator-")): obj for obj in ours}
    own = {key for key in theirs if any(part in key[1] for part in ("controller-manager", "shard"))}
    assert own <= set(objects)
    for key in (("Deployment", "controller-manager"), ("PodDisruptionBudget", "controller-manager")):
        assert objects[key]["spec"].get("replicas") == theirs[key]["spec"].get("replicas")
        for field in ("strategy", "minReadySeconds", "maxUnavailable", "minAvailable"):
            assert objects[key]["spec"].get(field) == theirs[key]["spec"].get(field)
    args = objects["Deployment", "controller-manager"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[:2] == [f"--controller-ring={NAME}", "--shard-name=$(POD_NAME)"]
    resources = objects["ControllerRing", NAME]["spec"]["resources"]
    assert resources == [{"group": "shop.example.org", "resource": f"{kind.lower()}s"} for kind in KINDS]


def test_the_monitor_is_well_formed(folder: Path, devcluster: Devcluster) -> None:
    # The devcluster has no Prometheus operator, whose kind it is.
    found = {
        obj["kind"]: obj for obj in yaml.safe_load_all(Kubectl(devcluster)("kustomize", str(folder / "config/prometheus")))
    }
    assert set(found) == {"ServiceMonitor", "PrometheusRule"}
    monitor = found["ServiceMonitor"]
    service = yaml.safe_load((folder / "config/default/metrics_service.yaml").read_text())
    assert monitor["spec"]["selector"]["matchLabels"]["control-plane"] == service["metadata"]["labels"]["control-plane"]
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


@pytest.mark.parametrize("name", [NAME, "memcached-operator"])
def test_the_alerts_are_for_the_job_that_the_deployed_operator_has(name: str, folder: Path, devcluster: Devcluster) -> None:
    whole = folder
    if name != NAME:
        whole = folder / "example"
        for part in ("config", "crds"):
            shutil.copytree(ROOT / part, whole / part)
    default = whole / "config" / "default" / "kustomization.yaml"
    # As docs/monitoring.md says.
    text, changes = re.subn(r"# ?(- \.\./prometheus)", r"\1", default.read_text())
    assert changes == 1
    default.write_text(text)
    built = list(yaml.safe_load_all(Kubectl(devcluster)("kustomize", str(default.parent))))
    (service,) = (obj for obj in built if obj["kind"] == "Service")
    (rule,) = (obj for obj in built if obj["kind"] == "PrometheusRule")
    assert rule["metadata"]["namespace"] == service["metadata"]["namespace"]
    jobs = set(re.findall(r'job="([^"]+)"', json.dumps(rule["spec"]).replace('\\"', '"')))
    # By default a ServiceMonitor makes the Service's name the job.
    assert jobs == {service["metadata"]["name"]}


@pytest.mark.parametrize("overlay", ["default", "sharded"])
@pytest.mark.parametrize("name", [NAME, "memcached-operator"])
def test_the_dashboard_is_there_when_it_is_uncommented(
    name: str, overlay: str, folder: Path, devcluster: Devcluster, namespace: str
) -> None:
    whole, kubectl = folder, Kubectl(devcluster)
    if name != NAME:
        whole = folder / "example"
        for part in ("config", "crds"):
            shutil.copytree(ROOT / part, whole / part)
    default = whole / "config" / "default" / "kustomization.yaml"
    built = whole / "config" / overlay
    assert "dashboard" not in kubectl("kustomize", str(built))
    # As docs/dashboard.md says.
    text, changes = re.subn(r"(?m)^# ?(components:|( *)- \.\./dashboard)$", r"\1", default.read_text())
    assert changes == 2
    default.write_text(text)
    objects = [obj for obj in yaml.safe_load_all(kubectl("kustomize", str(built))) if "system" in str(obj["metadata"])]
    (deployment,) = (obj for obj in objects if obj["kind"] == "Deployment")
    (service,) = (obj for obj in objects if obj["kind"] == "Service" and "dashboard" in obj["metadata"]["name"])
    (policy,) = (obj for obj in objects if obj["kind"] == "NetworkPolicy" and "dashboard" in obj["metadata"]["name"])
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert "--dashboard-bind-address=:8444" in container["args"]
    (port,) = (each for each in container["ports"] if each["name"] == service["spec"]["ports"][0]["targetPort"])
    assert policy["spec"]["ingress"][0]["ports"][0]["port"] == port["containerPort"] == 8444
    # What one replica passes on to the other.
    (own,) = (each["podSelector"] for each in policy["spec"]["ingress"][0]["from"] if "podSelector" in each)
    assert {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}} in container["env"]
    for labels in (service["spec"]["selector"], policy["spec"]["podSelector"]["matchLabels"], own["matchLabels"]):
        assert labels.items() <= template["metadata"]["labels"].items()
    for obj in (service, policy, deployment):
        obj["metadata"]["namespace"] = namespace
        path = folder / "one.json"
        path.write_text(json.dumps(obj))
        kubectl("create", "--dry-run=server", "--validate=strict", "-f", str(path))
