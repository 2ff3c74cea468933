"""One engine's way through the life of an operator's CR: created, changed, deleted, each until nothing moves any more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.driver import Cluster, Followed, Operator, condition, free_port, until
from runner.kube.client import ApiError, Conflict, KubeError, NotFound
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.compat.operators import image as images
from tests.compat.operators import snapshot
from tests.compat.operators.comparison import Snapshot, changed_since
from tests.compat.operators.description import Description
from tests.compat.operators.image import POD_NAME, POD_NAMESPACE, Image

# The most that is waited for the cluster to come to rest; there are engines whose runs cause runs. Then it is looked at
# when a run has just ended.
_RESTLESS = 120.0

# The most that is waited for another engine on this machine to end.
_BUSY = 600.0

_RUNS = re.compile(r"^ansible_operator_reconciles_count(?:\{[^}]*\})? (\S+)$", re.MULTILINE)

NAMESPACE = GroupVersionKind("", "v1", "Namespace")
ACCOUNT = GroupVersionKind("", "v1", "ServiceAccount")

# Where ansible-operator has its run folders, as GROUP/VERSION/KIND/NAMESPACE/NAME. Some roles read the CR's kind out
# of the inventory's path.
RUNS = Path("/tmp/ansible-operator/runner")

# The name of the manager's pod, which runs on paper.
MANAGER = "manager"


class TrialError(Exception):
    """An engine did not get a CR to where it should be; the message says what it said last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An operator engine as a command line. `python` is what the image's Python is for it."""

    name: str
    executor: str
    command: tuple[str, ...]
    python: str
    # As its image has them, if the operator does not say otherwise; and what counts in any case.
    defaults: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    # Flags that only this engine has.
    flags: tuple[str, ...] = ()
    # Where its run folders are.
    runs: Path = RUNS
    # Where it insists on listening.
    ports: tuple[int, ...] = ()
    # Others on this machine may try the same, with their run folders in the same place.
    unique: str = field(default_factory=lambda: secrets.token_hex(3))

    @property
    def title(self) -> str:
        return f"{self.name} ({self.executor})" if self.executor else self.name

    @property
    def namespace(self) -> str:
        return "-".join(filter(None, ("compat", self.name, self.executor, self.unique)))


@dataclass(slots=True)
class Phase:
    """`seconds` until the CR was Successful, or gone; `runs` until all was at rest, None where no metrics say it."""

    seconds: float
    runs: int | None
    # What the engine has made and changed in its namespace and elsewhere.
    left: Snapshot


@dataclass(slots=True)
class Course:
    """What became of one engine's trial; `phases` has those that were reached."""

    engine: Engine
    phases: dict[str, Phase] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the trials of one operator have in common."""

    world: Cluster
    kubeconfig: Path
    image: Image
    description: Description
    # The environment by which HTTP services are reached: the same for all engines, as roles may hand it on.
    services: Mapping[str, str] = field(default_factory=dict)
    scratch: Path
    timeout: float
    # Seconds between two looks at the cluster, which have to see the same.
    rest: float = 4.0
    # The run folders, and the namespaces.
    keep_runs: bool = False
    keep_namespaces: bool = False
    say: Callable[[str], None]


async def run(engine: Engine, setting: Setting) -> Course:
    """Take the CR through its life with this engine; its namespace and run folders are removed afterwards."""
    course = Course(engine)
    trial = _Trial(engine, setting, course)
    try:
        await trial.prepare()
        async with trial.operating():
            await trial.live()
    except (TrialError, AssertionError, KubeError) as error:
        course.error = str(error)
    finally:
        if not setting.keep_runs:
            for folder in engine.runs.glob(f"*/*/*/{engine.namespace}"):
                shutil.rmtree(folder, ignore_errors=True)
        if not setting.keep_namespaces:
            await trial.clear()
    return course


class _Trial:
    def __init__(self, engine: Engine, setting: Setting, course: Course) -> None:
        self._engine = engine
        self._with = setting
        self._world = setting.world
        self._course = course
        self._namespace = engine.namespace
        self._home = setting.scratch / engine.namespace / "ansible"
        self._log = setting.scratch / engine.namespace / "operator.log"
        self._metrics = free_port()
        self._said: set[str] = set()
        self._runs: int | None = None
        self._gvk = GroupVersionKind.of(setting.image.sample)
        self._key = ObjectKey("", "")

    async def prepare(self) -> None:
        """CRDs, the namespace with what has to be there, and the engine's copy of the image's files."""
        for crd in self._with.image.crds:
            await _install(self._world, crd)
        with contextlib.suppress(Conflict):
            await self._world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self._namespace}})

        async def account() -> Any:
            return await self._world.get(ACCOUNT, ObjectKey(self._namespace, "default"))

        await until(account, f"the namespace {self._namespace} is ready")
        self._home.parent.mkdir(parents=True)
        images.build(self._with.image, self._home, python=self._engine.python, description=self._with.description)
        for obj in self._with.image.objects:
            with contextlib.suppress(Conflict):
                await self._create(obj)
        if self._with.image.labels:
            await self._create(manager(self._with.image.labels))
        namespaced = "/namespaces/" in await self._world.path(self._gvk, namespace=self._namespace)
        self._key = ObjectKey(self._namespace if namespaced else "", self._with.image.sample["metadata"]["name"])

    @contextlib.asynccontextmanager
    async def operating(self) -> AsyncIterator[None]:
        """The engine runs, and is ready; nothing of it is left afterwards."""
        health = free_port()
        scratch = self._home.parent
        temporary = scratch / "tmp"
        temporary.mkdir()
        texts = images.relocations(self._home, self._engine.python) | {
            POD_NAMESPACE: self._namespace,
            POD_NAME: MANAGER,
        }
        given = {**self._engine.defaults, **self._with.image.environment, **self._engine.environment}
        environment = {name: _replaced(value, texts) for name, value in given.items()}
        programs = scratch / "programs"
        programs.mkdir()
        for name, text in self._with.description.programs.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o700)
        path = environment.get("PATH", os.environ["PATH"])
        environment |= self._with.services
        environment |= {
            "KUBECONFIG": str(self._with.kubeconfig),
            "WATCH_NAMESPACE": self._namespace,
            "HOME": str(self._home),
            "TMPDIR": str(temporary),
            # The engine's own Python comes first, as in the image.
            "PATH": os.pathsep.join((str(programs), str(Path(self._engine.python).parent), path)),
        }
        flags = [
            f"--watches-file=./{self._with.image.watches}",
            *(_replaced(flag, texts) for flag in self._with.image.flags),
            f"--health-probe-bind-address=127.0.0.1:{health}",
            f"--metrics-bind-address=127.0.0.1:{self._metrics}",
            *self._engine.flags,
        ]
        await self._unused(self._engine.ports)
        operator = Operator([*self._engine.command, *flags], folder=self._home, log=self._log, environ=environment)
        try:
            await self._ready(operator, health)
            self._operator = operator
            yield
        finally:
            await asyncio.to_thread(_end, operator)
            shutil.rmtree(temporary, ignore_errors=True)

    async def _unused(self, ports: Sequence[int]) -> None:
        """Until nothing on this machine listens on the ports."""

        async def unused() -> bool:
            return all(is_free(port) for port in ports)

        if not await unused():
            self._with.say(f"  waiting for ports that something else listens on: {', '.join(map(str, ports))}")
        await until(unused, f"nothing else listens on {' and '.join(map(str, ports))}", patience=_BUSY, interval=0.5)

    async def _ready(self, operator: Operator, health: int) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:

            async def ready() -> bool:
                self._alive(operator)
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"http://127.0.0.1:{health}/readyz") as response:
                        return response.status == 200
                return False

            await until(ready, f"{self._engine.title} is ready", interval=0.2)

    def _alive(self, operator: Operator) -> None:
        if operator.process.poll() is not None:
            raise TrialError(f"it ended with exit code {operator.process.returncode}: {_last_lines(operator.output)}")

    async def live(self) -> None:
        """Create, change and delete the CR."""
        before = await self._rested(None)
        async with self._world.following(self._gvk, self._key.namespace) as crs:

            def cr() -> Mapping[str, Any] | None:
                return crs.objects.get(self._key)

            begun = time.monotonic()
            await self._create(self._with.image.sample)
            await self._until(crs, lambda: is_successful(cr()), "Successful")
            await self._phase("first", begun, before, cr)
            if self._with.image.change is not None:
                told = result(cr())
                begun = time.monotonic()
                changed = await self._world.patch(self._gvk, self._key, self._with.image.change)
                generation = changed["metadata"]["generation"]
                async with self._counting() as has_run:
                    await self._until(
                        crs,
                        lambda: is_successful(cr()) and (observes(cr(), generation, told) or has_run()),
                        "Successful again",
                    )
                await self._phase("changed", begun, before, cr)
            begun = time.monotonic()
            await self._world.delete(self._gvk, self._key)
            await self._until(crs, lambda: cr() is None, "gone")
            await self._phase("deleted", begun, before, cr)

    async def _until(self, crs: Followed, true: Callable[[], bool], what: str) -> None:
        def attend() -> None:
            self._alive(self._operator)
            failure = condition(crs.objects.get(self._key), "Failure")
            # Some CRDs leave the message out.
            message = failure.get("message") or failure.get("reason") or ""
            if failure.get("status") == "True" and message not in self._said:
                self._said.add(message)
                self._with.say(f"  a run failed: {' '.join(message.split())[:300]}")

        try:
            await crs.until(lambda _: true(), f"the CR is {what}", patience=self._with.timeout, attend=attend)
        except AssertionError as error:
            status = (crs.objects.get(self._key) or {}).get("status")
            raise TrialError(f"{error}; its status: {status}; {_last_lines(self._operator.output)}") from error

    async def _phase(self, name: str, begun: float, before: snapshot.View, cr: Callable[[], Any]) -> None:
        seconds = time.monotonic() - begun
        self._with.say(f"  {name}: {seconds:.1f} s")
        now = await self._rested(cr)
        runs = await self._count()
        fresh = None if runs is None else runs - (self._runs or 0)
        self._runs = runs
        left = {**now.inside, **changed_since(before.outside, now.outside)}
        self._course.phases[name] = Phase(seconds, fresh, left)
        if fresh is not None:
            self._with.say(f"    {fresh} {'run' if fresh == 1 else 'runs'} until all was at rest")

    async def _rested(self, cr: Callable[[], Any] | None) -> snapshot.View:
        """The cluster, when two looks in a row have seen the same, no run is on, and nothing waits to be collected."""
        seen: list[Any] = [None]

        async def rested() -> snapshot.View | None:
            found = await snapshot.objects(self._world.client)
            view = snapshot.view(found, self._namespace)
            told = cr() if cr else None
            now = (view.whole, told and told["metadata"]["resourceVersion"], await self._count() if cr else None)
            is_on = condition(told, "Running").get("reason") == "Running" or snapshot.has_orphans(found, self._namespace)
            same, seen[0] = now == seen[0] and not is_on, now
            return view if same else None

        try:
            return await until(rested, "the cluster is at rest", patience=_RESTLESS, interval=self._with.rest)
        except AssertionError:
            self._with.say(f"  not at rest within {_RESTLESS:.0f} s: compared as it is after the run that is on")

        async def idle() -> bool:
            return cr is None or cr() is None or is_successful(cr())

        await until(idle, "the run that is on ends", patience=self._with.timeout, interval=0.1)
        return snapshot.view(await snapshot.objects(self._world.client), self._namespace)

    async def _count(self) -> int | None:
        """The runs so far, as the engine's metrics tell."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session,
                session.get(f"http://127.0.0.1:{self._metrics}/metrics") as response,
            ):
                return sum(int(float(number)) for number in _RUNS.findall(await response.text()))
        return None

    @contextlib.asynccontextmanager
    async def _counting(self) -> AsyncIterator[Callable[[], bool]]:
        """Tells whether there has been a run since; looked for once a second, for CRs whose status does not tell it."""
        before = now = await self._count()

        async def count() -> None:
            nonlocal now
            while True:
                await asyncio.sleep(1)
                now = await self._count()

        counting = asyncio.create_task(count())
        try:
            yield lambda: before is not None and now is not None and now > before
        finally:
            counting.cancel()
            await asyncio.wait([counting])

    async def _create(self, obj: Mapping[str, Any]) -> None:
        """The object in the trial's namespace, whatever namespace it names."""
        metadata = {name: value for name, value in obj["metadata"].items() if name != "namespace"}
        await self._world.create({**obj, "metadata": metadata}, self._namespace)

    async def clear(self) -> None:
        """The namespace goes, and with it what is in there; a CR that an engine has left its finalizer on, too."""
        with contextlib.suppress(KubeError, AssertionError):
            if (cr := await self._world.get(self._gvk, self._key)) is not None:
                await self._world.delete(self._gvk, self._key)
                if cr["metadata"].get("finalizers"):
                    with contextlib.suppress(NotFound):
                        await self._world.patch(self._gvk, self._key, {"metadata": {"finalizers": None}})
            key = ObjectKey("", self._namespace)
            await self._world.delete(NAMESPACE, key)

            async def gone() -> bool:
                return await self._world.get(NAMESPACE, key) is None

            await until(gone, f"the namespace {self._namespace} is gone", interval=0.5)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def manager(labels: Mapping[str, str]) -> dict[str, Any]:
    """The manager's pod, for roles that look themselves up in the cluster."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": MANAGER, "labels": dict(labels)},
        "spec": {"containers": [{"name": "manager", "image": "controller:latest"}]},
    }


def is_successful(cr: Mapping[str, Any] | None) -> bool:
    """Whether the last run was Successful and none is on."""
    return condition(cr, "Running").get("reason") == "Successful" and condition(cr, "Successful").get("status") == "True"


def observes(cr: Mapping[str, Any] | None, generation: int, before: Mapping[str, Any]) -> bool:
    """Whether the status tells of a run of this generation, or of a later one.

    Engines that write no observedGeneration show it by another result than `before`, when the CR was changed.
    """
    observed = ((cr or {}).get("status") or {}).get("observedGeneration")
    return observed >= generation if isinstance(observed, int) else result(cr) != before


def result(cr: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the status says of the last run: its counts and times."""
    running, successful = condition(cr, "Running"), condition(cr, "Successful")
    return {"result": running.get("ansibleResult"), "since": successful.get("lastTransitionTime")}


async def _install(world: Cluster, crd: Mapping[str, Any]) -> None:
    with contextlib.suppress(Conflict):
        await world.create(crd)
    spec = crd["spec"]
    version = next(version["name"] for version in spec["versions"] if version.get("served"))
    gvk = GroupVersionKind(spec["group"], version, spec["names"]["kind"])

    async def is_served() -> bool:
        with contextlib.suppress(ApiError):
            await world.list(gvk, "")
            return True
        return False

    await until(is_served, f"{gvk} is served")


def _end(operator: Operator) -> None:
    """End it and all that it has started, also what has left its process group."""
    below = operator.processes()[1:]
    try:
        if operator.process.poll() is None:
            with contextlib.suppress(Exception):
                operator.stop()
    finally:
        operator.kill()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                if f"TMPDIR={operator.log.parent}" in _environment(pid):
                    os.kill(pid, signal.SIGKILL)


def _environment(pid: int) -> str:
    """A process's environment: by it the operator's own are known from others that have the number now."""
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


def _replaced(text: str, texts: Mapping[str, str]) -> str:
    for old, new in texts.items():
        text = text.replace(old, new)
    return text


def _last_lines(output: str, count: int = 8) -> str:
    lines: Sequence[str] = output.splitlines()[-count:]
    return "its log ends with:\n" + "\n".join(f"    {line[:400]}" for line in lines)
