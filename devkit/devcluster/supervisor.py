"""The parent of a cluster's processes: `python -m devkit.devcluster.supervisor DIR [--detached]`.

It starts them in order, watches over them, and takes them all with it when it ends, however that comes about. Bound (the
default), it ends when its standard input does, and removes DIR; so a cluster lives no longer than the process that holds
the other end. Detached, it lives until SIGTERM. It is told `stop NAME` and `start NAME` on standard input, and answers
each with one JSON line on standard output, the first of which says `ready` or `error`.

DIR holds `binaries.json`, `lock` (held while this lives), `pki/`, `etcd/`, `logs/`, `kubeconfig`, and of the kubelet `exec`,
a link to the folder of stand-ins, and `pods/`, where they run.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from devkit.devcluster import pki
from devkit.devcluster.errors import DevclusterError
from runner.executor.processes import die_with_parent
from runner.private_files import write_private
from runner.resource.metadata import Object

# Seconds.
_START_TIMEOUT = 180
_POLL = 0.05
# Below the range from which the kernel gives ports to clients, so that the API server finds its own again after a stop.
_PORTS = range(20000, 32000)
_SERVICES, _SERVICE_ADDRESS = "10.96.0.0/16", "10.96.0.1"
NODE = "node-0"
# Who makes the volumes: `volumes`.
PROVISIONER = "devcluster.rolerunner.io/paper"
_STORAGE_CLASS = {
    "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": PROVISIONER,
    "reclaimPolicy": "Delete",
    "volumeBindingMode": "Immediate",
}


@dataclass(slots=True)
class Supervisor:
    """The processes of a cluster, their ports, and how each is started."""

    folder: Path
    binaries: dict[str, str]
    etcd_port: int = 0
    peer_port: int = 0
    api_port: int = 0
    kubelet_port: int = 0
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        """Start all processes, and wait until the API answers and the node is Ready. Raises DevclusterError."""
        self.etcd_port, self.peer_port, self.api_port, self.kubelet_port = _free_ports(4)
        pki.write(self.folder / "pki", service_address=_SERVICE_ADDRESS)
        for name in ("etcd", "logs"):
            (self.folder / name).mkdir(mode=0o700)
        write_private(self.folder / "components.kubeconfig", self._kubeconfig())
        self.launch("etcd")
        self._await("etcd", lambda: _accepts(self.etcd_port))
        self.launch("kube-apiserver")
        self.launch("kubelet")
        self._await("kube-apiserver", self._is_ready)
        self.launch("kube-controller-manager")
        self.launch("kube-scheduler")
        self.launch("kwok")
        self._request("POST", "/api/v1/nodes", self._node())
        self._request("POST", "/apis/storage.k8s.io/v1/storageclasses", _STORAGE_CLASS)
        self._await("kwok", self._node_is_ready)
        self._await("kubelet", lambda: _accepts(self.kubelet_port))
        self._await("kube-controller-manager", self._has_default_account)
        # Only now: whoever finds this file finds a cluster that answers.
        write_private(self.folder / "kubeconfig", self._kubeconfig())

    def launch(self, name: str) -> None:
        """Start a process, which is killed when this one ends."""
        with open(self.folder / "logs" / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                self._command(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                # A Ctrl-C in the terminal is for the command there; these are ended in order.
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )

    def halt(self, name: str) -> None:
        """Kill a process, and wait for its end."""
        # Outright, as a crash would: asked politely, the API server first sees its watches out, for ten seconds and more.
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """End all processes at once: nothing of this cluster is to be kept."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
        self.processes.clear()

    def command(self, line: str) -> None:
        """Carry out `stop NAME` or `start NAME`. Raises DevclusterError."""
        match line.split():
            case ["stop", name] if name in self.processes:
                self.halt(name)
            case ["start", name] if name in self.binaries and name not in self.processes:
                self.launch(name)
                if name == "kube-apiserver":
                    self._await(name, self._is_ready)
                elif name == "etcd":
                    self._await(name, lambda: _accepts(self.etcd_port))
            case _:
                raise DevclusterError(f"not understood: {line}")

    def check(self) -> None:
        """Raises DevclusterError if a process has ended by itself."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise DevclusterError(f"{name} ended (exit code {process.returncode}); its last words:\n{self._tail(name)}")

    def _tail(self, name: str) -> str:
        with contextlib.suppress(OSError):
            text = (self.folder / "logs" / f"{name}.log").read_text(errors="replace")
            return "\n".join(f"  {line}" for line in text.splitlines()[-10:])
        return ""

    def _await(self, name: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise DevclusterError(f"{name} was not ready within {_START_TIMEOUT} s; its last words:\n{self._tail(name)}")
            time.sleep(_POLL)

    def _is_ready(self) -> bool:
        try:
            return bool(self._request("GET", "/readyz") == "ok")
        except (OSError, http.client.HTTPException):
            return False

    def _node(self) -> Object:
        """The node as its kubelet registers it; kwok makes it Ready."""
        return {
            "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": self.kubelet_port}},
                "declaredFeatures": ["ExtendWebSocketsToKubelet"],
            },
        }

    def _node_is_ready(self) -> bool:
        node = self._request("GET", f"/api/v1/nodes/{NODE}")
        conditions = node.get("status", {}).get("conditions", ())
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    def _has_default_account(self) -> bool:
        account = self._request("GET", "/api/v1/namespaces/default/serviceaccounts/default")
        return bool(account.get("kind") == "ServiceAccount")

    def _request(self, method: str, path: str, body: Object | None = None) -> Any:
        """The answer's JSON (or text), whatever its status. Raises OSError when there is none."""
        context = pki.client_context(self.folder / "pki")
        connection = http.client.HTTPSConnection("127.0.0.1", self.api_port, context=context, timeout=10)
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            text = connection.getresponse().read().decode()
        return json.loads(text) if text.startswith("{") else text

    def _pki(self, name: str) -> str:
        return str(self.folder / "pki" / name)

    def _kubeconfig(self) -> str:
        cluster = {"server": f"https://127.0.0.1:{self.api_port}", "certificate-authority": self._pki("ca.crt")}
        user = {"client-certificate": self._pki("admin.crt"), "client-key": self._pki("admin.key")}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "devcluster", "cluster": cluster}],
            "users": [{"name": "admin", "user": user}],
            "contexts": [{"name": "devcluster", "context": {"cluster": "devcluster", "user": "admin"}}],
            "current-context": "devcluster",
        }
        return json.dumps(config, indent=2)

    def _command(self, name: str) -> list[str]:
        config = str(self.folder / "components.kubeconfig")
        match name:
            case "kubelet":
                return [sys.executable, "-m", "devkit.devcluster.kubelet", str(self.folder), str(self.kubelet_port)]
            case "etcd":
                arguments = self._etcd()
            case "kube-apiserver":
                arguments = self._apiserver()
            case "kube-controller-manager":
                arguments = [
                    f"--kubeconfig={config}",
                    "--secure-port=0",
                    "--leader-elect=false",
                    f"--service-account-private-key-file={self._pki('service-account.key')}",
                    f"--root-ca-file={self._pki('ca.crt')}",
                    "--kube-api-qps=1000",
                    "--kube-api-burst=2000",
                    "--profiling=false",
                ]
            case "kube-scheduler":
                # Its limits can only be set in a file.
                text = {
                    "apiVersion": "kubescheduler.config.k8s.io/v1",
                    "kind": "KubeSchedulerConfiguration",
                    "clientConnection": {"kubeconfig": config, "qps": 1000, "burst": 2000},
                    "leaderElection": {"leaderElect": False},
                }
                write_private(self.folder / "scheduler.json", json.dumps(text))
                arguments = [f"--config={self.folder / 'scheduler.json'}", "--secure-port=0"]
            case _:
                stages = Path(__file__).with_name("stages.yaml")
                arguments = [f"--kubeconfig={config}", "--manage-all-nodes", f"--config={stages}"]
                arguments.append("--node-lease-duration-seconds=40")
        return [self.binaries[name], *arguments]

    def _etcd(self) -> list[str]:
        clients, peers = (f"https://127.0.0.1:{port}" for port in (self.etcd_port, self.peer_port))
        files = [("cert", "server.crt"), ("key", "server.key"), ("trusted-ca", "ca.crt")]
        tls = [*(f"{flag}-file={self._pki(name)}" for flag, name in files), "client-cert-auth"]
        return [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            *(f"--{prefix}{flag}" for prefix in ("", "peer-") for flag in tls),
            # Its data does not outlive it.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _apiserver(self) -> list[str]:
        ca, certificate, key = self._pki("ca.crt"), self._pki("server.crt"), self._pki("server.key")
        account = self._pki("service-account.key")
        return [
            f"--etcd-servers=https://127.0.0.1:{self.etcd_port}",
            f"--etcd-cafile={ca}",
            f"--etcd-certfile={certificate}",
            f"--etcd-keyfile={key}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            # A loopback address cannot be the endpoint of the service `kubernetes`.
            "--endpoint-reconciler-type=none",
            f"--secure-port={self.api_port}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={ca}",
            f"--kubelet-certificate-authority={ca}",
            f"--kubelet-client-certificate={certificate}",
            f"--kubelet-client-key={key}",
            "--authorization-mode=RBAC",
            "--anonymous-auth=false",
            # As OpenShift has it: who holds up an owner's deletion needs the right to.
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={account}",
            f"--service-account-signing-key-file={account}",
            f"--service-cluster-ip-range={_SERVICES}",
            "--allow-privileged",
            "--profiling=false",
        ]


def main(arguments: list[str]) -> int:
    """Run the supervisor; its exit code."""
    folder, detached = Path(arguments[0]), "--detached" in arguments
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.write(str(os.getpid()))
        lock.flush()
        supervisor = Supervisor(folder, json.loads((folder / "binaries.json").read_text()))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _leave)
        try:
            supervisor.start()
            _say({"ready": True})
            _watch(supervisor, None if detached else sys.stdin)
        except DevclusterError as error:
            _say({"error": str(error)})
            return 1
        except (SystemExit, BrokenPipeError):
            # Asked to end, or nobody is left to be told anything.
            return 0
        finally:
            supervisor.stop()
            if not detached:
                shutil.rmtree(folder, ignore_errors=True)
    return 0


def _watch(supervisor: Supervisor, commands: TextIO | None) -> None:
    """Carry out commands until their end. Raises DevclusterError if a process ends by itself."""
    while True:
        readable, _, _ = select.select([commands] if commands else [], [], [], 0.2)
        for stream in readable:
            line = stream.readline()
            if not line:
                return
            supervisor.command(line)
            _say({"done": line.strip()})
        supervisor.check()


def _say(answer: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _leave(*_: object) -> None:
    raise SystemExit


def _free_ports(count: int) -> list[int]:
    ports: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise DevclusterError(f"no {count} ports are free between {_PORTS.start} and {_PORTS.stop}")


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
