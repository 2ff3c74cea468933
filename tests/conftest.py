"""What the tests of behaviour stand on: a project of their own, an operator run on it, and a look at the cluster."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.driver import FREE_PORTS, RUN, Cluster, Operator, crd, until
from runner.devcluster import Cluster as Devcluster
from runner.resource.metadata import GroupVersionKind, ObjectKey

__all__ = ["LOOPBACK", "THING", "Project", "alive", "crd", "lines", "listening", "tcp_sockets", "thing"]

# 127.0.0.1, as /proc/net/tcp shows it.
LOOPBACK = "0100007F"
THING = GroupVersionKind("test.example.com", "v1", "Thing")


def thing(name: str = "one", gvk: GroupVersionKind = THING, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": gvk.api_version, "kind": gvk.kind, "metadata": {"name": name}, "spec": spec}


class Project:
    """A folder with a watches.yaml, and the operators that were started in it."""

    def __init__(self, folder: Path, kubeconfig: Path, namespace: str) -> None:
        self.folder = folder
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self.runs = folder / "runs"
        self.logs = folder
        self.operators: list[Operator] = []
        self._watches: list[dict[str, Any]] = []

    def role(self, tasks: str, *, name: str = "thing") -> None:
        """Write a role's tasks; a later call replaces them."""
        path = self.folder / "roles" / name / "tasks" / "main.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tasks)

    def watch(self, gvk: GroupVersionKind = THING, **keys: Any) -> None:
        content = {} if "playbook" in keys else {"role": "thing"}
        watch = {"group": gvk.group, "version": gvk.version, "kind": gvk.kind, **content, **keys}
        self._watches.append(watch)
        (self.folder / "watches.yaml").write_text(yaml.safe_dump(self._watches, sort_keys=False))

    async def start(self, *flags: str, wait: bool = True, **environ: str) -> Operator:
        """An operator in this folder, for this namespace unless WATCH_NAMESPACE says otherwise; it watches already."""
        operator = Operator(
            [*RUN, *FREE_PORTS, "--log-format=json", "--ansible-verbosity=0", f"--runs-dir={self.runs}", *flags],
            folder=self.folder,
            log=self.logs / f"operator-{len(self.operators)}.log",
            environ={
                "KUBECONFIG": str(self.kubeconfig),
                "WATCH_NAMESPACE": self.namespace,
                # Facts are no part of what most of these tests are about.
                "ANSIBLE_GATHERING": "explicit",
                **environ,
            },
        )
        self.operators.append(operator)

        async def watching() -> bool:
            assert operator.process.poll() is None, operator.output
            return bool(lines(operator, "Watching"))

        if wait:
            await until(watching, "the operator watches")
        return operator


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that still run; one that only waits to be taken note of does not."""
    running = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                running.append(pid)
    return running


def tcp_sockets() -> list[list[str]]:
    """The columns of /proc/net/tcp and tcp6, a row for each socket: see proc_net_tcp in the kernel's documentation."""
    return [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]


def listening(pids: list[int]) -> list[tuple[str, int]]:
    """(address in hex, port) of each TCP socket on which one of the processes listens."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            # A descriptor may be closed meanwhile.
            with contextlib.suppress(OSError):
                inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = [row[1].split(":") for row in tcp_sockets() if row[3] == "0A" and row[9] in inodes]
    return [(address, int(port, 16)) for address, port in found]


def lines(operator: Operator, message: str, **fields: str) -> list[dict[str, Any]]:
    """The operator's log lines with this message and these fields."""
    records = []
    for line in operator.output.splitlines():
        if line.startswith("{"):
            record = json.loads(line)
            if record["msg"] == message and all(record.get(key) == value for key, value in fields.items()):
                records.append(record)
    return records


@pytest.fixture(scope="session", autouse=True)
def _heed_ctrl_c() -> None:
    """A shell's background job ignores Ctrl-C, and so would the processes that the tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def devcluster_exec_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests put programs that stand in for those of containers; a name is one test's."""
    return tmp_path_factory.mktemp("exec")


@pytest.fixture
def own_cluster() -> Iterator[Devcluster]:
    """A cluster whose API server may be taken away without harm to other tests."""
    with Devcluster.start() as cluster:
        yield cluster


@pytest.fixture
def project(tmp_path: Path, devcluster: Devcluster, namespace: str) -> Iterator[Project]:
    made = Project(tmp_path, devcluster.kubeconfig, namespace)
    yield made
    for operator in made.operators:
        operator.kill()


@pytest.fixture
async def world(devcluster: Devcluster) -> AsyncIterator[Cluster]:
    """The devcluster, with the kind Thing."""
    async with Cluster.connected(devcluster.kubeconfig) as cluster:
        await cluster.install(crd(THING))
        yield cluster


@pytest.fixture
def one(namespace: str) -> ObjectKey:
    """Where the test's usual Thing stands."""
    return ObjectKey(namespace, "one")
