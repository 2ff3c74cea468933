"""A development cluster as a Python value: start it, use its kubeconfig, stop it.

Two lifetimes: bound to this process, for tests and demos (`Cluster.start`), or detached, for a person at a terminal
(`up`, `find_running`, `down`). Either way the cluster itself is a `devkit.devcluster.supervisor` process.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from devkit.devcluster import binaries
from devkit.devcluster.binaries import Report
from devkit.devcluster.errors import DevclusterError

__all__ = ["Cluster", "DevclusterError", "RunningCluster", "down", "find_running", "link_exec_dir", "state_dir", "up"]

# Seconds. The supervisor gives up sooner, and says why.
_START_TIMEOUT = 600
_DOWN_TIMEOUT = 60


class Cluster:
    """A cluster that ends when this process does, however that happens. Not to be shared between threads."""

    def __init__(self, folder: Path, process: subprocess.Popen[str], kubectl: Path) -> None:
        self.dir = folder
        self.kubeconfig = folder / "kubeconfig"
        self.kubectl = kubectl
        self._process = process

    @classmethod
    def start(cls, folder: Path | None = None, *, exec_dir: Path | None = None, report: Report | None = None) -> Self:
        """A new cluster in `folder` (a fresh temporary one), which answers and has a Ready node.

        `exec_dir`: the programs that stand in for those of containers (`kubelet`). Raises DevclusterError.
        """
        _check_exec_dir(exec_dir)
        _check_installed()
        found = binaries.find(report or _to_stderr)
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="devcluster-"))
        else:
            _clear_stale(folder)
            folder.mkdir(mode=0o700, parents=True)
        process = _supervise(folder, found, exec_dir, detached=False)
        cluster = cls(folder, process, found["kubectl"])
        try:
            cluster._expect("ready")
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @property
    def pid(self) -> int:
        """The process id of the supervisor, whose children are the programs."""
        return self._process.pid

    def stop(self) -> None:
        """End it and remove what it wrote. Does nothing a second time."""
        if self._process.stdin and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def stop_program(self, name: str) -> None:
        """Kill one of the cluster's programs (`etcd`, `kube-apiserver` …). Raises DevclusterError."""
        self._command(f"stop {name}")

    def start_program(self, name: str) -> None:
        """Bring it back, on the same port, and wait until it answers. Raises DevclusterError."""
        self._command(f"start {name}")

    def stop_apiserver(self) -> None:
        """Take the API server away; etcd keeps the data. Raises DevclusterError."""
        self.stop_program("kube-apiserver")

    def start_apiserver(self) -> None:
        """Bring it back, on the same port, and wait until it answers. Raises DevclusterError."""
        self.start_program("kube-apiserver")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _command(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        self._expect("done")

    def _expect(self, answer: str) -> None:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], _START_TIMEOUT)
        line = self._process.stdout.readline() if readable else ""
        said = json.loads(line) if line else {"error": "the cluster's supervisor ended without a word"}
        if answer not in said:
            raise DevclusterError(said.get("error", f"unexpected answer: {said}"))


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """A detached cluster, as seen from any process."""

    dir: Path
    pid: int

    @property
    def kubeconfig(self) -> Path:
        return self.dir / "kubeconfig"

    @property
    def kubectl(self) -> Path:
        found: dict[str, str] = json.loads((self.dir / "binaries.json").read_text())
        return Path(found["kubectl"])


def state_dir(name: str) -> Path:
    """The folder for the files of a detached cluster of this name."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "rolerunner" / "devcluster" / name


def up(folder: Path, report: Report, *, exec_dir: Path | None = None) -> RunningCluster:
    """The cluster in `folder`, started if it does not run yet. Raises DevclusterError.

    `exec_dir`: as with `Cluster.start`; a cluster that runs already takes it over.
    """
    _check_exec_dir(exec_dir)
    running = find_running(folder)
    if running is not None:
        link_exec_dir(folder, exec_dir)
        return running
    _check_installed()
    found = binaries.find(report)
    _clear_stale(folder)
    folder.mkdir(mode=0o700, parents=True)
    report("starting etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kwok …")
    with _supervise(folder, found, exec_dir, detached=True) as process:
        try:
            Cluster(folder, process, found["kubectl"])._expect("ready")
        except BaseException:
            process.terminate()
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        running = find_running(folder)
        # It goes on without this process: neither waited for nor missed.
        process.returncode = 0
    if running is None:
        raise DevclusterError(f"the cluster in {folder} ended as soon as it had started")
    return running


def down(folder: Path) -> bool:
    """End the cluster in `folder`, and remove the folder; False if none was running. Raises DevclusterError."""
    pid = _supervisor(folder)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _DOWN_TIMEOUT
        while _supervisor(folder) is not None:
            if time.monotonic() > deadline:
                raise DevclusterError(f"the cluster in {folder} (process {pid}) does not end")
            time.sleep(0.05)
    _clear_stale(folder)
    return pid is not None


def find_running(folder: Path) -> RunningCluster | None:
    """The detached cluster in `folder`, if it lives and has been ready."""
    pid = _supervisor(folder)
    return RunningCluster(folder, pid) if pid is not None and (folder / "kubeconfig").exists() else None


def _supervisor(folder: Path) -> int | None:
    """The supervisor's process id, if one runs for `folder`: it holds a lock, which no crash leaves behind."""
    try:
        with open(folder / "lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = lock.read()
                return int(text) if text else None
    except FileNotFoundError:
        return None
    return None


def _clear_stale(folder: Path) -> None:
    """Remove the files of a cluster that has ended. Raises DevclusterError rather than remove anything else."""
    if not folder.exists():
        return
    if _supervisor(folder) is not None:
        raise DevclusterError(f"a cluster in {folder} is being started or ended; try again when that is over")
    if any(folder.iterdir()) and not (folder / "binaries.json").exists():
        raise DevclusterError(f"{folder} holds something else than a development cluster; name another folder with --dir")
    shutil.rmtree(folder)


def link_exec_dir(folder: Path, exec_dir: Path | None) -> None:
    """Give the cluster in `folder` the stand-in programs of `exec_dir`, running or not. Raises DevclusterError."""
    _check_exec_dir(exec_dir)
    if exec_dir is not None:
        (folder / "exec").unlink(missing_ok=True)
        (folder / "exec").symlink_to(exec_dir.absolute())


def _check_installed() -> None:
    if importlib.util.find_spec("trustme") is None:
        raise DevclusterError("a development cluster needs the package trustme: pip install 'rolerunner[devkit]'")


def _check_exec_dir(exec_dir: Path | None) -> None:
    if exec_dir is not None and not exec_dir.is_dir():
        raise DevclusterError(f"{exec_dir} is not a folder, and so holds no programs that stand in for those of containers")


def _supervise(folder: Path, found: dict[str, Path], exec_dir: Path | None, *, detached: bool) -> subprocess.Popen[str]:
    (folder / "binaries.json").write_text(json.dumps({name: str(path) for name, path in found.items()}))
    link_exec_dir(folder, exec_dir)
    package = str(Path(__file__).parent.parent.parent)
    with open(folder / "supervisor.log", "w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "devkit.devcluster.supervisor", str(folder), *(["--detached"] if detached else [])],
            stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))},
        )


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"devcluster: {text}\n")
    sys.stderr.flush()
