"""The API server goes away and comes back; rights are few; mistakes are told."""

import asyncio
import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.driver import FREE_PORTS, PATIENCE, ROOT, RUN, Cluster, until
from devkit.devcluster import Cluster as Devcluster
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.behaviour.test_dependents import CONFIG_MAP, MAKE_CONFIG_MAP, blue
from tests.behaviour.test_runs import SAY_HELLO, counted, succeeded
from tests.conftest import THING, Project, alive, crd, lines, thing


async def test_an_api_server_that_is_away_for_a_while(own_cluster: Devcluster, tmp_path: Path) -> None:
    project = Project(tmp_path, own_cluster.kubeconfig, "default")
    project.role(MAKE_CONFIG_MAP)
    project.watch()
    one, two = ObjectKey("default", "one"), ObjectKey("default", "two")
    try:
        async with Cluster.connected(own_cluster.kubeconfig) as world:
            await world.install(crd(THING))
            operator = await project.start()
            await world.create(thing(), "default")
            await succeeded(world, one)
            made = await blue(world, one)
            before = _cpu_seconds(operator.process.pid)
            said = len(operator.output.splitlines())
            own_cluster.stop_apiserver()
            # How long it is away is the point of this test, and so no condition to wait for.
            await asyncio.sleep(20)
            assert operator.process.poll() is None, operator.output
            # It waits for it quietly: few words, and little of the processor.
            assert len(operator.output.splitlines()) - said < 50
            assert _cpu_seconds(operator.process.pid) - before < 5
            own_cluster.start_apiserver()
            await world.create(thing("two"), "default")
            await succeeded(world, two)
            await world.patch(THING, one, {"spec": {"size": 2}})
            await counted(operator, "one", 2)
            await world.delete(CONFIG_MAP, one)
            await blue(world, one, other_than=made["metadata"]["uid"])
            assert "Traceback" not in operator.output
    finally:
        for operator in project.operators:
            operator.kill()


def _cpu_seconds(pid: int) -> float:
    """Of the process itself, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_rights_in_one_namespace_are_enough(
    project: Project, world: Cluster, one: ObjectKey, devcluster: Devcluster
) -> None:
    """A ServiceAccount that may do nothing outside, and so cannot watch CRDs."""
    rules = [
        {"apiGroups": ["test.example.com"], "resources": ["things"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["test.example.com"], "resources": ["things/status"], "verbs": ["update"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch", "create", "patch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    ]
    rbac = "rbac.authorization.k8s.io"
    await world.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "runner"}}, one.namespace)
    await world.create(
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": "runner"}, "rules": rules}, one.namespace
    )
    await world.create(
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "runner"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "runner"},
            "subjects": [{"kind": "ServiceAccount", "name": "runner", "namespace": one.namespace}],
        },
        one.namespace,
    )
    account = await world.path(GroupVersionKind("", "v1", "ServiceAccount"), ObjectKey(one.namespace, "runner"))
    token = (await world.client.post(account + "/token", {"spec": {"expirationSeconds": 3600}}))["status"]["token"]
    config = json.loads(devcluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    project.kubeconfig = project.folder / "kubeconfig"
    project.kubeconfig.write_text(json.dumps(config))
    project.role(MAKE_CONFIG_MAP)
    project.watch()
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    made = await blue(world, one)
    await world.delete(CONFIG_MAP, one)
    await blue(world, one, other_than=made["metadata"]["uid"])
    assert "Traceback" not in operator.output
    assert token not in operator.output


def run(project: Project, *flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *FREE_PORTS, f"--runs-dir={project.runs}", *flags],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "KUBECONFIG": str(project.kubeconfig), **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        pytest.param([], {}, "Error: watches.yaml:4: role: thing was not found", id="role"),
        pytest.param(["--watches-file=no.yaml"], {}, "no.yaml: No such file or directory; name the file with", id="no-file"),
        pytest.param(["--reconcile-period=5"], {}, "'5' is no duration; write it as 30s", id="duration"),
        pytest.param(["--ansible-args=--tags 'x"], {}, '--ansible-args "--tags \'x": No closing quotation', id="arguments"),
        pytest.param(["--metrics-bind-address=x"], {}, "--metrics-bind-address 'x' is no address", id="address"),
    ],
)
def test_a_mistake_is_one_clear_error(project: Project, flags: list[str], environ: dict[str, str], expected: str) -> None:
    project.watch()
    result = run(project, *flags, **environ)
    assert result.returncode != 0
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(None, "cannot be used to connect to a cluster", id="missing"),
        pytest.param("nonsense: [", "cannot be used to connect to a cluster", id="no-yaml"),
        pytest.param("apiVersion: v1\nkind: Config\n", "cannot be used to connect to a cluster", id="empty"),
    ],
)
def test_a_kubeconfig_that_will_not_do(project: Project, content: str | None, expected: str) -> None:
    project.role(SAY_HELLO)
    project.watch()
    path = project.folder / "kubeconfig"
    if content is not None:
        path.write_text(content)
    result = run(project, KUBECONFIG=str(path))
    assert result.returncode != 0
    assert f"Error: KUBECONFIG: {expected}" in result.stderr
    assert "Traceback" not in result.stderr


async def test_two_runners_in_one_place(project: Project, world: Cluster) -> None:
    project.role(SAY_HELLO)
    project.watch()
    await project.start()
    result = await asyncio.to_thread(run, project)
    assert result.returncode != 0
    assert "is in use by another runner; name another folder with --runs-dir" in result.stderr
    assert "Traceback" not in result.stderr


async def test_probes_and_metrics(project: Project, world: Cluster, one: ObjectKey) -> None:
    import aiohttp

    project.role(SAY_HELLO)
    project.watch()
    operator = await project.start("--health-probe-bind-address=127.0.0.1:0", "--metrics-bind-address=127.0.0.1:0")
    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    health = lines(operator, "Serving health probes")[0]["address"]
    metrics = lines(operator, "Serving metrics")[0]["address"]

    async def get(address: str, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as answer:
            return answer.status, await answer.text()

    assert await get(health, "/healthz") == (200, "ok")

    async def ready() -> Any:
        return (await get(health, "/readyz"))[0] == 200

    await until(ready, "ready")
    status, text = await get(metrics, "/metrics")
    gvk = "test.example.com/v1, Kind=Thing"
    assert status == 200
    assert f'ansible_operator_reconcile_result{{GVK="{gvk}",result="succeeded"}} 1.0' in text
    assert f'ansible_operator_reconciles_count{{GVK="{gvk}"}} 1.0' in text
    assert 'ansible_operator_build_info{commit="",version="' in text


async def test_a_runner_that_is_killed_leaves_nothing(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(f"- ansible.builtin.shell: echo $$ >> {project.folder}/pid; sleep 3600\n")
    project.watch()
    operator = await project.start()
    await world.create(thing(), one.namespace)

    async def written() -> int:
        with contextlib.suppress(OSError, ValueError):
            return int((project.folder / "pid").read_text())
        return 0

    pid = await until(written, "the role's process runs")
    (left,) = (project.runs / ".run").iterdir()
    assert (left / "kubeconfig").exists()
    operator.process.kill()

    async def gone() -> bool:
        return not alive([pid])

    await until(gone, "the run has ended with its runner")
    project.role("- ansible.builtin.debug:\n")
    await project.start()
    await succeeded(world, one)
    assert not left.exists()
