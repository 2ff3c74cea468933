import contextlib
import os
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from devkit.devcluster import Cluster, DevclusterError, cluster
from tests.conftest import alive
from tests.devkit.devcluster.test_binaries import environ_with_path
from tests.devkit.devcluster.test_cluster import PATIENCE, apply, kubectl, until

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "pod"},
    "spec": {"containers": [{"name": "main", "image": "x"}, {"name": "other", "image": "x"}]},
}


class Pod:
    """A pod that runs, and kubectl to step into it."""

    def __init__(self, devcluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = devcluster, namespace

    def command(self, *arguments: str) -> list[str]:
        kubeconfig = f"--kubeconfig={self.cluster.kubeconfig}"
        return [str(self.cluster.kubectl), kubeconfig, f"--namespace={self.namespace}", *arguments]

    def kubectl(self, *arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={**os.environ, **environ},
        )

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.kubectl("exec", "pod", "--container=main", "--", *command)

    def terminal(self, *arguments: str) -> str:
        """What kubectl shows on a terminal."""
        near, far = os.openpty()
        with subprocess.Popen(self.command(*arguments), stdin=far, stdout=far, stderr=far):
            os.close(far)
            shown = b""
            # The end of a terminal is an error.
            with contextlib.suppress(OSError):
                while data := os.read(near, 4096):
                    shown += data
        os.close(near)
        return shown.decode()


@pytest.fixture
def pod(devcluster: Cluster, namespace: str, tmp_path: Path) -> Pod:
    apply(devcluster, namespace, tmp_path, POD)
    kubectl(devcluster, "-n", namespace, "wait", "pod/pod", "--for=condition=Ready", f"--timeout={PATIENCE}s")
    return Pod(devcluster, namespace)


@pytest.fixture
def exec_dir(devcluster_exec_dir: Path) -> Iterator[Path]:
    """The stand-ins of one test."""
    yield devcluster_exec_dir
    for path in devcluster_exec_dir.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def linked(folder: Path, name: str) -> None:
    """A program of this machine as a stand-in."""
    (folder / name).symlink_to(shutil.which(name) or "not-on-this-machine")


@pytest.mark.parametrize("command", ["psql", "/usr/lib/postgresql/bin/psql"])
def test_a_stand_in_answers(pod: Pod, exec_dir: Path, command: str) -> None:
    script(
        exec_dir / "psql",
        'echo "$POD_NAMESPACE $POD_NAME $CONTAINER_NAME"; for each; do echo "<$each>"; done; echo wrong >&2; exit 3',
    )
    done = pod.exec(command, "-c", "select 1")
    assert done.stdout.splitlines() == [f"{pod.namespace} pod main", "<-c>", "<select 1>"]
    assert done.stderr.splitlines()[0] == "wrong"
    assert done.returncode == 3


def test_a_command_may_be_long(pod: Pod, exec_dir: Path) -> None:
    script(exec_dir / "length", "echo ${#1}")
    assert pod.exec("length", "x" * 100_000).stdout == "100000\n"


def test_standard_input_and_its_end_reach_it(pod: Pod, exec_dir: Path) -> None:
    linked(exec_dir, "cat")
    text = "line\n" * 100_000
    done = pod.kubectl("exec", "-i", "pod", "--", "cat", stdin=text)
    assert done.stdout == text
    assert done.returncode == 0


def test_a_container_is_chosen_and_its_files_stay(pod: Pod, exec_dir: Path) -> None:
    script(exec_dir / "put", 'echo "$1" > kept')
    linked(exec_dir, "cat")
    assert pod.kubectl("exec", "pod", "--container=other", "--", "put", "text").returncode == 0
    assert pod.exec("cat", "kept").stdout == "text\n"


def test_a_command_without_a_stand_in_is_not_found(pod: Pod, exec_dir: Path, tmp_path: Path) -> None:
    for touch in ("touch", shutil.which("touch") or "", "../touch", f"{exec_dir}/../../bin/touch"):
        done = pod.exec(touch, str(tmp_path / "made"))
        assert done.returncode == 127
        assert f"""executable file not found: --exec-dir {exec_dir} has no program 'touch'""" in done.stderr
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("command", ["", ".", "..", "logs", "/"])
def test_what_names_no_program_is_not_found(pod: Pod, exec_dir: Path, command: str) -> None:
    (exec_dir / "logs").mkdir()
    done = pod.exec(command)
    assert done.returncode == 127
    assert "executable file not found" in done.stderr


def test_a_shell_finds_stand_ins_alone(pod: Pod, exec_dir: Path, tmp_path: Path) -> None:
    linked(exec_dir, "sh")
    script(exec_dir / "psql", 'echo "psql $1"')
    done = pod.exec("sh", "-c", f"touch {tmp_path}/made; echo $?; psql here")
    assert done.stdout == "127\npsql here\n"
    assert not (tmp_path / "made").exists()


def test_a_script_finds_the_programs_of_the_machine_as_well(pod: Pod, exec_dir: Path) -> None:
    script(exec_dir / "psql", "sed s/1/one/; date")
    script(exec_dir / "date", "echo never")
    assert pod.kubectl("exec", "-i", "pod", "--", "psql", stdin="1\n").stdout == "one\nnever\n"


def test_what_cannot_be_started_says_so(pod: Pod, exec_dir: Path) -> None:
    (exec_dir / "forgotten").write_text("#!/bin/sh\n")
    (exec_dir / "broken").write_text("#!/not/there\n")
    (exec_dir / "broken").chmod(0o755)
    for name, reason in ("forgotten", "is not executable"), ("broken", "No such file or directory"):
        done = pod.exec(name)
        assert done.returncode == 126
        assert reason in done.stderr


def test_there_are_no_terminals(pod: Pod, exec_dir: Path) -> None:
    linked(exec_dir, "true")
    # kubectl asks for one only where it has one itself.
    done = pod.terminal("exec", "-it", "pod", "--", "true")
    assert "have no terminals: leave out --tty (-t)" in done


def test_a_command_that_is_killed_has_a_shells_exit_code(pod: Pod, exec_dir: Path) -> None:
    script(exec_dir / "die", "kill -TERM $$")
    assert pod.exec("die").returncode == 143


def test_a_command_ends_with_its_client(pod: Pod, exec_dir: Path) -> None:
    script(exec_dir / "long", "echo $$; sleep 3600")
    with subprocess.Popen(pod.command("exec", "pod", "--", "long"), stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        pid = int(client.stdout.readline())
        assert alive([pid])
        client.kill()
    until(lambda: not alive([pid]), "the command is gone")


def test_a_log_is_a_line_or_a_file(pod: Pod, exec_dir: Path) -> None:
    logs = ("logs", "pod", "--container=main")
    assert pod.kubectl(*logs).stdout == "Container main runs on paper and logs nothing; logs/main.log in --exec-dir would\n"
    (exec_dir / "logs").mkdir()
    (exec_dir / "logs" / "main.log").write_text("one\ntwo\nthree\n")
    assert pod.kubectl(*logs).stdout == "one\ntwo\nthree\n"
    assert pod.kubectl(*logs, "--follow", "--tail=2").stdout == "two\nthree\n"
    assert pod.kubectl(*logs, "--tail=0").stdout == ""
    assert pod.kubectl(*logs, "--limit-bytes=5").stdout == "one\nt"
    assert 'previous terminated container "main" in pod "pod" not found' in pod.kubectl(*logs, "--previous").stderr
    attached = pod.kubectl("attach", "pod", "--container=main")
    assert attached.stdout == "one\ntwo\nthree\n"
    assert attached.returncode == 0


def test_what_a_devcluster_has_not_is_told(pod: Pod, exec_dir: Path) -> None:
    linked(exec_dir, "true")
    forwarded = pod.kubectl("port-forward", "pod/pod", ":80")
    assert forwarded.returncode == 1
    assert "nothing listens on their ports" in forwarded.stderr
    spdy = pod.kubectl("exec", "pod", "--", "true", KUBECTL_REMOTE_COMMAND_WEBSOCKETS="false")
    assert spdy.returncode == 1
    assert "speaks the WebSocket protocol only" in spdy.stderr


def test_strangers_are_not_served(pod: Pod) -> None:
    port = kubectl(pod.cluster, "get", "nodes", "-o", "jsonpath={.items[0].status.daemonEndpoints.kubeletEndpoint.Port}")
    context = ssl.create_default_context(cafile=pod.cluster.dir / "pki" / "ca.crt")
    with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
        urllib.request.urlopen(f"https://127.0.0.1:{port}/containerLogs/default/pod/main", context=context)


def test_without_stand_ins_the_error_says_how_to_have_them(own_cluster: Cluster, tmp_path: Path) -> None:
    apply(own_cluster, "default", tmp_path, POD)
    kubectl(own_cluster, "wait", "pod/pod", "--for=condition=Ready", f"--timeout={PATIENCE}s")
    pod = Pod(own_cluster, "default")
    done = pod.exec("sh", "-c", "exit 0")
    assert done.returncode == 127
    assert "Start the cluster with --exec-dir DIR, a folder with a program 'sh'" in done.stderr
    # A cluster that runs takes a folder over.
    script(tmp_path / "exec" / "sh", 'echo "$2"')
    cluster.link_exec_dir(own_cluster.dir, tmp_path / "exec")
    assert pod.exec("sh", "-c", "exit 0").stdout == "exit 0\n"


def test_stand_ins_are_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DevclusterError, match="is not a folder"):
        Cluster.start(exec_dir=tmp_path / "missing")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "runner",
            "devcluster",
            "up",
            "--exec-dir",
            str(tmp_path / "missing"),
            "--dir",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        env=environ_with_path(),
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {tmp_path}/missing is not a folder")
