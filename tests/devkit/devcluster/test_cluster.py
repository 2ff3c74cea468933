import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devkit.devcluster import Cluster, DevclusterError, cluster
from tests.conftest import LOOPBACK, alive, listening
from tests.devkit.devcluster.test_binaries import environ_with_path

PATIENCE = 120

# A process that has a cluster, says so, and waits for its end.
HOLDER = """
import sys
from devkit.devcluster import Cluster
cluster = Cluster.start()
print(cluster.dir, cluster._process.pid, flush=True)
sys.stdin.read()
"""


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.05)


def kubectl(of: Cluster | cluster.RunningCluster, *arguments: str, kubeconfig: Path | None = None) -> str:
    command = [str(of.kubectl), "--kubeconfig", str(kubeconfig or of.kubeconfig), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout


def apply(of: Cluster, namespace: str, folder: Path, *objects: dict[str, Any]) -> None:
    (folder / "objects.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    kubectl(of, "-n", namespace, "apply", "-f", str(folder / "objects.json"))


def below(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # One may end meanwhile.
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    return children.get(root, [])


@pytest.fixture
def holder() -> Iterator[tuple[subprocess.Popen[str], Path, list[int]]]:
    """A process with a cluster of its own, the cluster's folder, and its processes, the supervisor first."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ_with_path()
    ) as process:
        assert process.stdout is not None
        folder, supervisor = process.stdout.readline().split()
        pids = [int(supervisor), *below(int(supervisor))]
        assert len(pids) == 7
        yield process, Path(folder), pids
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_whatever_ends_its_parent_a_cluster_leaves_nothing(
    holder: tuple[subprocess.Popen[str], Path, list[int]], number: signal.Signals
) -> None:
    process, folder, pids = holder
    process.send_signal(number)
    process.wait(PATIENCE)
    until(lambda: not alive(pids) and not folder.exists(), "processes and folder are gone")


def test_a_killed_supervisor_takes_its_processes_with_it(holder: tuple[subprocess.Popen[str], Path, list[int]]) -> None:
    process, folder, pids = holder
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: not alive(pids), "processes are gone")
    # What it left is recognised as stale, and nothing of it is in the way.
    assert cluster.find_running(folder) is None
    with Cluster.start(folder) as again:
        assert "node-0" in kubectl(again, "get", "nodes")
    assert not folder.exists()
    assert process.stdin is not None
    process.stdin.close()


def test_a_component_that_ends_is_told_with_its_last_words(holder: tuple[subprocess.Popen[str], Path, list[int]]) -> None:
    _, folder, pids = holder
    etcd = next(pid for pid in pids if "etcd" in Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0])
    os.kill(etcd, signal.SIGKILL)
    until(lambda: not alive(pids), "all of it is taken down")
    until(lambda: not folder.exists(), "the folder is gone")


def test_it_listens_on_loopback_only(devcluster: Cluster) -> None:
    sockets = listening(below(devcluster._process.pid))
    assert len(sockets) >= 3
    assert {address for address, _ in sockets} == {LOOPBACK}


def test_deployments_become_available_and_owned_objects_go(devcluster: Cluster, namespace: str) -> None:
    kubectl(devcluster, "-n", namespace, "create", "deployment", "web", "--image=x", "--replicas=3")
    kubectl(devcluster, "-n", namespace, "wait", "deployment/web", "--for=condition=Available", f"--timeout={PATIENCE}s")
    assert kubectl(devcluster, "-n", namespace, "get", "pods", "-o", "name").count("pod/") == 3
    kubectl(devcluster, "-n", namespace, "delete", "deployment", "web")
    until(lambda: not kubectl(devcluster, "-n", namespace, "get", "pods", "-o", "name"), "the pods are gone")


def test_init_containers_are_passed_and_jobs_complete(devcluster: Cluster, namespace: str, tmp_path: Path) -> None:
    inits = [{"name": "before", "image": "x"}, {"name": "sidecar", "image": "x", "restartPolicy": "Always"}]
    spec = {"initContainers": inits, "containers": [{"name": "main", "image": "x"}]}
    job = {"completions": 3, "template": {"spec": {**spec, "restartPolicy": "OnFailure"}}}
    apply(
        devcluster,
        namespace,
        tmp_path,
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": job},
    )
    wait = ("-n", namespace, "wait", f"--timeout={PATIENCE}s")
    kubectl(devcluster, *wait, "pod/pod", "--for=condition=Ready")
    kubectl(devcluster, *wait, "job/job", "--for=condition=Complete")
    assert kubectl(devcluster, "-n", namespace, "get", "job/job", "-o", "jsonpath={.status.succeeded}") == "3"


def test_a_token_of_a_service_account_has_its_rights_and_no_others(
    devcluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    kubectl(devcluster, "-n", namespace, "create", "serviceaccount", "reader")
    kubectl(devcluster, "-n", namespace, "create", "role", "reader", "--verb=list", "--resource=configmaps")
    account = f"--serviceaccount={namespace}:reader"
    kubectl(devcluster, "-n", namespace, "create", "rolebinding", "reader", "--role=reader", account)
    config = json.loads(devcluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": kubectl(devcluster, "-n", namespace, "create", "token", "reader").strip()}
    own = tmp_path / "kubeconfig"
    own.write_text(json.dumps(config))

    def may() -> bool:
        # The API server has to hear of the right, and the controller manager of the namespace.
        with contextlib.suppress(subprocess.CalledProcessError):
            return "kube-root-ca.crt" in kubectl(devcluster, "-n", namespace, "get", "configmaps", kubeconfig=own)
        return False

    until(may, "its right counts")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        kubectl(devcluster, "-n", namespace, "get", "secrets", kubeconfig=own)
    assert "Forbidden" in refused.value.stderr


def test_a_stopped_api_server_comes_back_with_its_data() -> None:
    with Cluster.start() as one:
        kubectl(one, "create", "configmap", "kept")
        one.stop_apiserver()
        with pytest.raises(subprocess.CalledProcessError):
            kubectl(one, "get", "configmaps", "--request-timeout=5s")
        one.start_apiserver()
        assert "kept" in kubectl(one, "get", "configmaps")


def test_up_status_env_and_down_side_by_side(tmp_path: Path, devcluster: Cluster) -> None:
    """By the commands, as a person types them, beside another cluster."""
    environ = environ_with_path(XDG_STATE_HOME=str(tmp_path), XDG_CACHE_HOME=str(_cache_home(devcluster)))

    def rolerunner(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "runner", "devcluster", *arguments, "--name", "mine"]
        return subprocess.run(
            command, capture_output=True, text=True, env=environ, timeout=PATIENCE, check=False, cwd=tmp_path
        )

    folder = tmp_path / "rolerunner" / "devcluster" / "mine"
    assert rolerunner("status").returncode == 1
    result = rolerunner("env")
    assert result.returncode == 1
    assert "start it with: rolerunner devcluster up --dir" in result.stderr
    try:
        assert f"Running. Its kubeconfig: {folder}/kubeconfig" in rolerunner("up").stdout
        assert (folder / "kubeconfig").stat().st_mode & 0o077 == 0
        assert rolerunner("up").stdout.startswith("Already running")
        assert rolerunner("status").returncode == 0
        exports = rolerunner("env").stdout
        shell = subprocess.run(
            ["sh", "-c", f"{exports}\nkubectl get nodes"],
            capture_output=True,
            text=True,
            env=environ_with_path(),
            timeout=PATIENCE,
            check=True,
        )
        assert "node-0" in shell.stdout
        running = cluster.find_running(folder)
        assert running is not None
        pids = [running.pid, *below(running.pid)]
    finally:
        assert rolerunner("down").returncode == 0
    until(lambda: not alive(pids), "the processes have ended")
    assert not folder.exists()
    assert rolerunner("down").stdout == "Was not running.\n"


def _cache_home(of: Cluster) -> Path:
    return of.kubectl.parent.parent.parent if "rolerunner" in of.kubectl.parts else Path.home() / ".cache"


def test_a_folder_with_something_else_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(DevclusterError, match="holds something else than a development cluster"):
        Cluster.start(tmp_path)
    assert (tmp_path / "precious").read_text() == "x"


def test_without_trustme_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DevclusterError, match=r"pip install 'rolerunner\[devkit\]'$"):
        Cluster.start()
