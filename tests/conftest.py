"""What the tests of behaviour stand on: a project of their own, an operator run on it, and a look at the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import pytest
import yaml

from bench.driver import FREE_PORTS, PATIENCE, RUN, Cluster, Operator, crd, until
from devkit.devcluster import Cluster as Devcluster
from runner.resource.metadata import GroupVersionKind, ObjectKey

__all__ = [
    *("LOOPBACK", "THING", "Project", "alive", "crd", "lines", "listening", "paths_below", "permitted", "port_of"),
    *("replace_file", "tcp_sockets", "thing"),
]

# 127.0.0.1, as /proc/net/tcp shows it.
LOOPBACK = "0100007F"
# In the environment of every process that this session of tests has started, however far down: whose they are.
SESSION = "ROLERUNNER_TEST_SESSION"
# Seconds in which what has been ended may still end.
_GRACE = 30.0
# Where an operator keeps its runs unless it is told otherwise, and what kubernetes.core keeps of a cluster where it is used
# outside of a run: that stays.
_KEPT = ("ansible-operator", "k8srcp-")
# Of its own work, in seconds; what another process takes from it does not count.
_LONGEST_LAG = 1.0
# Seconds after which a test that goes on says what it waits for: longer than a condition's patience, and long before its end
# by pytest-timeout, for which nobody may wait. What threads do says pytest (`faulthandler_timeout`).
_SAYS_AFTER = 240.0
_STDERR = pytest.StashKey[TextIO]()
THING = GroupVersionKind("test.example.com", "v1", "Thing")


def thing(name: str = "one", gvk: GroupVersionKind = THING, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": gvk.api_version, "kind": gvk.kind, "metadata": {"name": name}, "spec": spec}


class Project:
    """A folder with a watches.yaml, and the operators that were started in it."""

    def __init__(self, folder: Path, kubeconfig: Path, namespace: str) -> None:
        self.folder = folder
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        # A short path, as it is in an image: there is room for sockets in a run's folder for temporary files.
        self.runs = Path(tempfile.gettempdir()) / "ansible-operator" / uuid.uuid4().hex[:8]
        self.logs = folder
        self.operators: list[Operator] = []
        self._watches: list[dict[str, Any]] = []

    def role(self, tasks: str, *, name: str = "thing") -> None:
        """Write a role's tasks; a later call replaces them."""
        path = self.folder / "roles" / name / "tasks" / "main.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, tasks)

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


def replace_file(path: Path, text: str) -> None:
    """Write a file as editors do: who reads it meanwhile finds the old text or the new one, and nothing in between."""
    # `rolerunner dev` takes no notice of such a name.
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_text(text)
    fresh.replace(path)


def paths_below(folder: Path) -> list[Path]:
    """All folders and files below a folder, some of which may go meanwhile: `Path.rglob` would raise an error for that."""
    return [Path(parent, name) for parent, folders, names in os.walk(folder) for name in (*folders, *names)]


async def permitted(world: Cluster, user: str, rules: Sequence[Mapping[str, Any]], namespace: str) -> None:
    """Wait until a user has the rights of the rules: the API server takes note of new roles and bindings somewhat later."""
    rule = rules[0]
    resource, _, subresource = rule["resources"][0].partition("/")
    attributes = {
        **{"namespace": namespace, "verb": rule["verbs"][0], "group": rule["apiGroups"][0]},
        **{"resource": resource, "subresource": subresource},
    }
    review = {
        **{"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"},
        "spec": {"user": user, "resourceAttributes": attributes},
    }

    async def is_allowed() -> bool:
        answer = await world.client.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    await until(is_allowed, f"{user} has the rights")


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that still run; one that only waits to be taken note of does not."""
    running = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                running.append(pid)
    return running


def of_session(name: str) -> list[int]:
    """Live processes whose environment says that they belong to this session of tests."""
    return alive([pid for pid, session in _sessions() if session == name])


def _sessions() -> Iterator[tuple[int, str]]:
    """(pid, session) of each process that belongs to one."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                for variable in (entry / "environ").read_bytes().split(b"\0"):
                    if variable.startswith(SESSION.encode() + b"="):
                        yield int(entry.name), variable.partition(b"=")[2].decode()


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def _none_after_a_while(left: Callable[[], Sequence[Any]]) -> Sequence[Any]:
    """What is still left after a while; none as soon as there is none."""
    deadline = time.monotonic() + _GRACE
    while (found := left()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _is_probe(path: Path) -> bool:
    """Whether a Python that was killed while it looked for a temporary folder left this (tempfile._get_default_tempdir)."""
    try:
        return len(path.name) == 8 and path.is_file() and path.read_bytes() in (b"", b"blat")
    except FileNotFoundError:
        return False


def held_up(log: Path) -> list[str]:
    """Lines of an operator's log that say that its event loop was held up by its own work for a second or more."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("{") and "The event loop was held up" in line:
            # The last line of one that was killed may be cut off.
            with contextlib.suppress(ValueError):
                if float(json.loads(line).get("busy", 0)) >= _LONGEST_LAG:
                    found.append(line)
    return found


def tcp_sockets() -> list[list[str]]:
    """The columns of /proc/net/tcp and tcp6, a row for each socket: see proc_net_tcp in the kernel's documentation."""
    return [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]


def listening(pids: list[int]) -> list[tuple[str, int]]:
    """(address in hex, port) of each TCP socket on which one of the processes listens."""
    inodes = set()
    for pid in pids:
        # A descriptor may be closed meanwhile, and a process end.
        with contextlib.suppress(OSError):
            for link in list(Path(f"/proc/{pid}/fd").iterdir()):
                with contextlib.suppress(OSError):
                    inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = [row[1].split(":") for row in tcp_sockets() if row[3] == "0A" and row[9] in inodes]
    return [(address, int(port, 16)) for address, port in found]


def port_of(process: subprocess.Popen[bytes]) -> int:
    """The port on which a process listens that was told to choose one: what a test chooses may be another's by then."""
    deadline = time.monotonic() + PATIENCE
    while not (found := listening([process.pid])):
        assert process.poll() is None, f"it has ended: {process.args!r}"
        assert time.monotonic() < deadline, f"it does not listen: {process.args!r}"
        time.sleep(0.05)
    return found[0][1]


def lines(operator: Operator, message: str, **fields: str) -> list[dict[str, Any]]:
    """The operator's log lines with this message and these fields."""
    records = []
    # The last line may be half written.
    for line in operator.output.split("\n")[:-1]:
        if line.startswith("{"):
            record = json.loads(line)
            if record["msg"] == message and all(record.get(key) == value for key, value in fields.items()):
                records.append(record)
    return records


def tell_tasks(what: str, file: TextIO) -> None:
    """Write what the tasks of all running event loops wait for. To be called in a thread."""
    print(f"\n{what} goes on. Its tasks:", file=file)
    for loop in [obj for obj in gc.get_objects() if issubclass(type(obj), asyncio.AbstractEventLoop)]:
        for task in asyncio.all_tasks(loop) if loop.is_running() else ():
            print(task.get_name(), file=file)
            waiting: Any = task.get_coro()
            while frame := getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None):
                print(f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}", file=file)
                waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
            print(f"  {waiting}", file=file, flush=True)


def pytest_configure(config: pytest.Config) -> None:
    # What pytest does not capture; it has not yet begun to.
    config.stash[_STDERR] = os.fdopen(os.dup(2), "w")


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_STDERR].close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    saying = threading.Timer(_SAYS_AFTER, tell_tasks, (item.nodeid, item.config.stash[_STDERR]))
    saying.daemon = True
    saying.start()
    try:
        return (yield)
    finally:
        saying.cancel()


@pytest.fixture(scope="session", autouse=True)
def _heed_ctrl_c() -> None:
    """A shell's background job ignores Ctrl-C, and so would the processes that the tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The session ends with the processes and temporary files that it began with."""
    # pytest's own folder stays where it is.
    tmp_path_factory.getbasetemp()
    session = uuid.uuid4().hex
    # A short name: sockets are made below it. Not shared, so that whatever is there in the end is this session's.
    temporary = Path(tempfile.mkdtemp(prefix="rr-"))
    ansible = Path("~/.ansible/tmp").expanduser()
    before = set(ansible.glob("ansible-local-*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SESSION, session)
        # Not TMPDIR, which is a user's choice where runs have their temporary files, and of which they take no other.
        patch.delenv("TMPDIR", raising=False)
        patch.setenv("TEMP", str(temporary))
        patch.setattr(tempfile, "tempdir", None)
        yield

    def files() -> list[str]:
        found = [path for path in temporary.iterdir() if not path.name.startswith(_KEPT) and not _is_probe(path)]
        # Other sessions at the same time have the same folder there, and nothing says whose is whose.
        if not any(True for _ in _sessions()):
            found += set(ansible.glob("ansible-local-*")) - before
        return sorted(map(str, found))

    processes = [f"{pid} {_command(pid)[:200]}" for pid in _none_after_a_while(lambda: of_session(session))]
    left = _none_after_a_while(files)
    shutil.rmtree(temporary, ignore_errors=True)
    assert not processes, "processes outlive the tests:\n" + "\n".join(processes)
    assert not left, "temporary files outlive the tests:\n" + "\n".join(left)


@pytest.fixture(scope="session")
def devcluster_exec_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests put programs that stand in for those of containers; a name is one test's."""
    return tmp_path_factory.mktemp("exec")


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for a run's temporary files, as the runner has one for each; sockets are made in it, so its path is short."""
    with tempfile.TemporaryDirectory(prefix="rr-") as folder:
        yield Path(folder)


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
    lags = [line for operator in made.operators for line in held_up(operator.log)]
    assert not lags, "an event loop was held up by its own work:\n" + "\n".join(lags)


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
