"""A cluster, an operator project of two kinds, and the load on it.

`Thing` makes one ConfigMap of its name and value. `Trouble` hangs, fails or eats memory, as its spec says. The role itself
proves that no CR is run twice at once: each run locks a file of its CR's uid, and the kernel releases it with the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from bench.driver import RUN, Cluster, Operator, condition, crd, until
from devkit.devcluster import Cluster as Devcluster
from runner.kube.client import KubeError
from runner.resource.metadata import GroupVersionKind, ObjectKey

GROUP = "chaos.example.com"
THING = GroupVersionKind(GROUP, "v1", "Thing")
TROUBLE = GroupVersionKind(GROUP, "v1", "Trouble")
RELATED = GroupVersionKind(GROUP, "v1", "Related")
CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")
LEASE_FLAGS = ("--leader-elect-lease-duration=15s", "--leader-elect-renew-deadline=10s")

# The label of those CRs that have to be served.
GOOD = "chaos.example.com/cr=good"

# Marks every process of a scenario's operators, in its environment.
MARK = "ROLERUNNER_CHAOS"

ROLE_THING = """
- name: The ConfigMap
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata:
        name: "{{ ansible_operator_meta.name }}"
        namespace: "{{ ansible_operator_meta.namespace }}"
      data:
        value: "{{ value | string }}"
  when: query('guard', _chaos_example_com_thing.metadata.uid, delay | default(0)) | length > 0
"""
ROLE_TROUBLE = """
- name: Say that it is run
  ansible.builtin.debug:
    msg: "{{ mode }}"
  when: query('guard', _chaos_example_com_trouble.metadata.uid, 0) | length > 0
- name: Hang
  ansible.builtin.command: sleep 86400
  when: mode == 'hang'
- name: Fail
  ansible.builtin.fail:
    msg: As the spec says
  when: mode == 'fail'
- name: Eat memory
  ansible.builtin.debug:
    msg: "{{ query('eat', uid) }}"
  vars:
    uid: "{{ _chaos_example_com_trouble.metadata.uid }}"
  when: mode == 'eat'
"""
GUARD = '''
import fcntl
import os
import time

from ansible.plugins.lookup import LookupBase

_HELD = {}


def note(*words):
    """One line of the journal; a write to a file that was opened with O_APPEND is one piece."""
    journal = os.open(os.environ["CHAOS_FOLDER"] + "/journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(journal, (" ".join(map(str, words)) + "\\n").encode())
    finally:
        os.close(journal)


def holder(inode):
    """The mark of the run that has a file's lock, which the kernel knows, whatever else that run has come to."""
    with open("/proc/locks") as locks:
        held = [line.split() for line in locks if " FLOCK " in line and " -> " not in line]
    for words in held:
        if words[5].rpartition(":")[2] == str(inode):
            try:
                with open("/proc/" + words[4] + "/environ") as environ:
                    variables = dict(each.partition("=")[::2] for each in environ.read().split(chr(0)))
                return variables["ROLERUNNER_CHAOS"]
            except (OSError, KeyError):
                # It has just ended.
                break
    return "nobody-any-more"


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        uid, delay = str(terms[0]), float(terms[1])
        if (os.getpid(), uid) not in _HELD:
            lock = os.open(os.environ["CHAOS_FOLDER"] + "/locks/" + uid, os.O_WRONLY | os.O_CREAT, 0o600)
            # Not inherited by programs that the run starts; a fork that plays the task has it like the run itself.
            _HELD[os.getpid(), uid] = lock
            who = (uid, os.getpid(), os.environ["ROLERUNNER_CHAOS"])
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Beside whose run.
                note("twice", *who, holder(os.fstat(lock).st_ino))
            note("begun", *who)
            time.sleep(delay)
            note("done", *who)
        return [uid]
'''
EAT = """
import os
import time

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        # Whoever limits this process lets it go on.
        folder = os.environ["CHAOS_FOLDER"]
        if os.path.exists(f"{folder}/eat-{terms[0]}"):
            # A run was ended for it; this one is tried again after that, and nobody limits it.
            raise AnsibleLookupError("once is enough")
        with open(f"{folder}/eater-{terms[0]}", "w") as file:
            file.write(str(os.getpid()))
        while not os.path.exists(f"{folder}/eat-{terms[0]}"):
            time.sleep(0.05)
        eaten = []
        for _ in range(64):
            eaten.append(bytearray(os.urandom(1)) * (16 << 20))
        # Nothing stopped it after a gigabyte.
        time.sleep(86400)
        return []
"""


class Failed(AssertionError):
    """What a scenario found to be wrong."""


def free_form_crd(gvk: GroupVersionKind) -> dict[str, Any]:
    """A CRD that lets any JSON pass as spec and status, as operator-sdk's nearly does."""
    made = crd(gvk)
    for version in made["spec"]["versions"]:
        version["schema"] = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return made


def cr(gvk: GroupVersionKind, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": gvk.api_version, "kind": gvk.kind, "metadata": {"name": name}, "spec": spec}


def is_served(obj: Mapping[str, Any]) -> bool:
    """Whether a CR's status says that its present generation was run, successfully."""
    status = obj.get("status")
    observed = status.get("observedGeneration") if isinstance(status, Mapping) else None
    return observed == obj["metadata"]["generation"] and condition(obj, "Successful").get("status") == "True"


@dataclass(frozen=True, slots=True)
class AtRest:
    """What an operator holds while it has nothing to do."""

    descriptors: int
    processes: int
    temporary: frozenset[str]


class World:
    """The cluster, the project's folder, and the operators that run in it."""

    def __init__(self, devcluster: Devcluster, cluster: Cluster, folder: Path, *, crs: int, chance: random.Random) -> None:
        self.devcluster = devcluster
        self.cluster = cluster
        self.folder = folder
        self.chance = chance
        self.namespace = "chaos"
        # The first is edited only to see when that takes effect.
        self.names = [f"thing-{number}" for number in range(crs)]
        # By name; what its spec says now.
        self.values: dict[str, str] = {}
        self.operators: list[Operator] = []
        self.kubeconfig = devcluster.kubeconfig
        # The executable of the sharder, and its CRD, where the stand-in is not to do.
        self.sharder: Path | None = None
        self.sharder_crds: Path | None = None
        # Marks of operators that were paused: their runs are there, but can do nothing.
        self.paused: set[str] = set()
        # The longest that an operator's health probe took to be answered, in seconds.
        self.slowest = 0.0
        self._started = 0
        self._edits = 0

    async def prepare(self) -> None:
        """The kinds are served, the project is written, and the CRs are there."""
        for gvk in (THING, TROUBLE, RELATED):
            await self.cluster.install(free_form_crd(gvk))
        await self.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        self._write_project()
        for name in self.names:
            self.values[name] = "0"
            good = cr(THING, name, value="0")
            good["metadata"]["labels"] = dict([GOOD.split("=")])
            await self.cluster.create(good, self.namespace)

    def _write_project(self) -> None:
        for name, tasks in (("thing", ROLE_THING), ("trouble", ROLE_TROUBLE)):
            role = self.folder / "roles" / name
            (role / "tasks").mkdir(parents=True)
            (role / "lookup_plugins").mkdir()
            (role / "tasks" / "main.yml").write_text(tasks)
            (role / "lookup_plugins" / "guard.py").write_text(GUARD)
            (role / "lookup_plugins" / "eat.py").write_text(EAT)
        for name in ("locks", "logs"):
            (self.folder / name).mkdir()
        (self.folder / "journal").touch()
        related = {
            "group": RELATED.group,
            "version": RELATED.version,
            "kind": RELATED.kind,
            "byExpression": "crs | selectattr('metadata.name', 'eq', 'thing-0') | list + [object.spec.ref]",
        }
        watches = [
            {"group": GROUP, "version": "v1", "kind": "Thing", "role": "thing", "watchRelatedResources": [related]},
            {"group": GROUP, "version": "v1", "kind": "Trouble", "role": "trouble"},
        ]
        (self.folder / "watches.yaml").write_text(yaml.safe_dump(watches, sort_keys=False))

    def key(self, name: str) -> ObjectKey:
        return ObjectKey(self.namespace, name)

    # Operators.

    async def start(
        self, *flags: str, kubeconfig: Path | None = None, runs: Path | None = None, wait: bool = True
    ) -> Operator:
        """One more operator on the project. Its temporary files are below a folder of its own."""
        self._started += 1
        number = self._started
        home = self.folder / "homes" / str(number)
        home.mkdir(parents=True)
        operator = Operator(
            [
                *RUN,
                *("--proxy-port=0", "--role-metrics-bind-address=0", "--log-format=json", "--ansible-verbosity=0"),
                *("--health-probe-bind-address=127.0.0.1:0", "--metrics-bind-address=127.0.0.1:0"),
                f"--runs-dir={runs or self.folder / 'runs'}",
                *flags,
            ],
            folder=self.folder,
            log=self.folder / "logs" / f"operator-{number}.log",
            environ={
                **{"KUBECONFIG": str(kubeconfig or self.kubeconfig), "WATCH_NAMESPACE": self.namespace},
                **{"ANSIBLE_GATHERING": "explicit", "HOME": str(home)},
                # Not TMPDIR, which is a user's choice where runs have their temporary files. An empty one counts as none.
                **{"TMPDIR": "", "TEMP": str(home)},
                **{MARK: f"{self.folder.name}-{number}", "CHAOS_FOLDER": str(self.folder)},
            },
        )
        self.operators.append(operator)
        if wait:
            await self.said(operator, "Watching")
        return operator

    async def said(self, operator: Operator, message: str) -> dict[str, Any]:
        """The first of the operator's log lines with this message."""

        async def found() -> dict[str, Any] | None:
            if operator.process.poll() is not None:
                raise Failed(f"the operator ended by itself (exit code {operator.process.returncode}): {operator.log}")
            return next(iter(logged(operator, message)), None)

        return await until(found, f"the operator says {message!r} ({operator.log})", interval=0.2)

    def mark(self, operator: Operator) -> str:
        return f"{self.folder.name}-{operator.log.stem.removeprefix('operator-')}"

    def home(self, operator: Operator) -> Path:
        return self.folder / "homes" / operator.log.stem.removeprefix("operator-")

    async def end(self, operator: Operator) -> None:
        """Kill an operator outright, with whatever is left of it."""
        for pid in [operator.process.pid, *marked(self.mark(operator))]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        operator.process.wait()
        if operator in self.operators:
            self.operators.remove(operator)

    async def end_all(self) -> None:
        for operator in list(self.operators):
            await self.end(operator)
        for pid in marked(self.folder.name + "-"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def clear(self) -> None:
        """Remove what a scenario has made beside the good CRs, so that it is not the next one's trouble."""
        client = self.cluster.client
        for gvk in (TROUBLE, RELATED, THING):
            path = await self.cluster.path(gvk, namespace=self.namespace)
            params = {"labelSelector": "!" + GOOD.partition("=")[0]}
            # The answer lists what may be nested deeper than Python reads.
            async with client.session.delete(client.server + path, params=params) as answer:
                await answer.read()

    # The journal of runs.

    def journal(self) -> list[list[str]]:
        """[what, uid, pid, mark] of each note that runs made, in order; of "twice" also the mark of the other run."""
        return [line.split() for line in (self.folder / "journal").read_text().splitlines()]

    async def a_run(self, *, patience: float = 120) -> int:
        """The process of a run that is under way."""
        size = len(self.journal())

        async def found() -> int | None:
            for what, _, pid, *_ in reversed(self.journal()[max(0, size - 5) :]):
                if what == "begun" and Path(f"/proc/{pid}").exists():
                    return int(pid)
            return None

        return await until(found, "a run is under way", patience=patience, interval=0.002)

    # Changes.

    async def edit(self, name: str) -> None:
        """Give a Thing a new value."""
        self._edits += 1
        value = str(self._edits)
        # Noted first: a request whose answer is lost may have been carried out, and the oracle asks the CR itself.
        await self.cluster.patch(THING, self.key(name), {"spec": {"value": value}})
        self.values[name] = value

    @contextlib.asynccontextmanager
    async def load(self, *, edits: float = 2.0, foreign: float = 1.0) -> AsyncIterator[None]:
        """So many edits of CRs and foreign changes of dependents a second; errors of the API server are waited out."""

        async def driver(a_second: float, change: Callable[[str], Any]) -> None:
            while True:
                await asyncio.sleep(self.chance.uniform(0.5, 1.5) / a_second)
                with contextlib.suppress(KubeError, TimeoutError):
                    await change(self.chance.choice(self.names[1:]))

        drivers = [asyncio.create_task(driver(edits, self.edit)), asyncio.create_task(driver(foreign, self._interfere))]
        try:
            yield
        finally:
            for task in drivers:
                task.cancel()
            await asyncio.wait(drivers)
            for task in drivers:
                if not task.cancelled() and (error := task.exception()):
                    raise error

    async def _interfere(self, name: str) -> None:
        match self.chance.randrange(3):
            case 0:
                await self.cluster.delete(CONFIG_MAP, self.key(name))
            case 1:
                await self.cluster.patch(CONFIG_MAP, self.key(name), {"data": {"value": "foreign"}})
            case _:
                await self.cluster.patch(CONFIG_MAP, self.key(name), {"data": {"value": None}})

    # Looks.

    @contextlib.asynccontextmanager
    async def probing(self) -> AsyncIterator[None]:
        """Ask each operator's health probe again and again: how long it takes is how long the event loop was held up."""

        async def probe() -> None:
            async with aiohttp.ClientSession() as session:
                while True:
                    await asyncio.sleep(0.2)
                    for operator in list(self.operators):
                        lines = logged(operator, "Serving health probes", last=False)
                        if lines and operator.process.poll() is None:
                            begun = time.monotonic()
                            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                                url = f"http://{lines[0]['address']}/healthz"
                                async with session.get(url, timeout=aiohttp.ClientTimeout(total=60)) as answer:
                                    await answer.read()
                            if operator.process.poll() is None and operator in self.operators:
                                self.slowest = max(self.slowest, time.monotonic() - begun)

        probing = asyncio.create_task(probe())
        try:
            yield
        finally:
            probing.cancel()
            await asyncio.wait([probing])

    def at_rest(self) -> AtRest:
        descriptors = processes = 0
        temporary: set[str] = set()
        for operator in self.operators:
            processes += len(operator.processes())
            # Those of forks come and go.
            for pid in filter(None, (operator.process.pid, fork_server(operator))):
                with contextlib.suppress(OSError):
                    descriptors += len(os.listdir(f"/proc/{pid}/fd"))
            temporary |= temporary_files(self.home(operator))
        return AtRest(descriptors, processes, frozenset(temporary))


def temporary_files(home: Path) -> set[str]:
    """What runs leave behind: the folders and files directly in the temporary folder, and Ansible's below the home."""
    places = (home, home / ".ansible" / "tmp")
    return {
        str(path.relative_to(home))
        for place in places
        if place.is_dir()
        for path in place.iterdir()
        if path.name != ".ansible"
    }


def logged(operator: Operator, message: str, *, last: bool = True) -> list[dict[str, Any]]:
    """The operator's log lines with this message; with last=False only those of its first 64 KB."""
    with open(operator.log, errors="replace") as log:
        text = log.read() if last else log.read(64 * 1024)
    return records(text, message)


def records(text: str, message: str) -> list[dict[str, Any]]:
    found = []
    for line in text.splitlines():
        if line.startswith("{") and message in line:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if record.get("msg") == message:
                    found.append(record)
    return found


def marked(mark: str) -> list[int]:
    """Live processes whose environment has this mark (or one that begins so, if it ends with a dash)."""
    wanted = re.compile(rb"(?:^|\0)" + f"{MARK}={re.escape(mark)}".encode() + (rb"" if mark.endswith("-") else rb"(?:\0|$)"))
    return list(_alive_with(wanted))


def _alive_with(wanted: re.Pattern[bytes]) -> Iterable[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted.search((entry / "environ").read_bytes()):
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    if state not in "ZX":
                        yield int(entry.name)


def command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return "?"


def fork_server(operator: Operator) -> int | None:
    """The process that forks for runs: its forks have sessions of their own, what guards it, if anything, has the same."""
    named = [pid for pid in operator.processes()[1:] if "forkserver" in command(pid)]
    found = next((pid for pid in named if parent(pid) == operator.process.pid), None)
    while below := next((pid for pid in named if parent(pid) == found and session(pid) == session(found or 0)), None):
        found = below
    return found


def session(pid: int) -> int:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return 0


def parent(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


@dataclass(slots=True)
class Outcome:
    """What a scenario did and found, a row of the table. `recovery` is the longest, in seconds."""

    rounds: int = 0
    crs: int = 0
    checks: int = 0
    recovery: float = 0.0
    lag: float = 0.0
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
