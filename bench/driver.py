"""An operator as a process, and the little that is needed to make it work and to look on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from bench.processes import seconds, split, tree
from devkit.devcluster.cluster import Cluster as Devcluster
from runner.executor.processes import die_with_parent
from runner.kube.client import ApiClient, Conflict, KubeError, NotFound
from runner.kube.discovery import Discovery, Resource
from runner.kube.informer import Informer, Notify
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey

ROOT = Path(__file__).parent.parent
MEMCACHED = GroupVersionKind("cache.example.com", "v1alpha1", "Memcached")
NAMESPACE = GroupVersionKind("", "v1", "Namespace")
DEPLOYMENT = GroupVersionKind("apps", "v1", "Deployment")

# What an operator needs beside its own choices: ports that no other one on this machine has.
RUN = (sys.executable, "-m", "runner", "run")
FREE_PORTS = (
    *("--proxy-port=0", "--health-probe-bind-address=0", "--metrics-bind-address=0"),
    "--role-metrics-bind-address=0",
)

# Seconds; for conditions that come true sooner or later, on slow machines much later.
PATIENCE = 180.0
# Seconds and characters of what a process that hangs has to say.
_LAST_WORDS, _TAIL = 10.0, 5000

T = TypeVar("T")


class Operator:
    """A running operator. Its output goes to `log`; it and all that it started ends with `stop` or `kill`.

    With `stay`, it lives on after this process; otherwise it ends with this one, however that comes about.
    """

    def __init__(
        self, command: Sequence[str], *, folder: Path, log: Path, environ: Mapping[str, str], stay: bool = False
    ) -> None:
        self.log = log
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                list(command),
                cwd=folder,
                # For `wait`.
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1", **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=None if stay else partial(die_with_parent, os.getpid(), signal.SIGTERM),
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> int:
        """Ask it to end, and wait; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait for its end; its exit code. AssertionError that says where it stands, if that takes too long."""
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            # For this, Python writes where its threads are, and Go where its goroutines are.
            self.process.send_signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_LAST_WORDS)
            raise AssertionError(f"it did not end within {patience:.0f} s\n{self.output[-_TAIL:]}") from None

    def kill(self) -> None:
        """End it at once, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def processes(self) -> list[int]:
        """It and everything below it."""
        return list(tree(self.process.pid))

    def processor_seconds(self) -> tuple[float, float]:
        """Of its own process, and of all below it, those that ended and were waited for included."""
        return split(self.process.pid, tree(self.process.pid))

    def memory(self, pids: Sequence[int] | None = None) -> dict[str, float]:
        """MB, over these or all its processes: resident (shared pages counted for each), of that what is no file's, and
        proportional (shared pages counted once)."""
        names = {"Rss": "rss_mb", "Anonymous": "anonymous_mb", "Pss": "pss_mb"}
        total = dict.fromkeys(names, 0)
        for pid in self.processes() if pids is None else pids:
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    name, _, rest = line.partition(":")
                    if name in total:
                        total[name] += int(rest.split()[0])
        return {names[name]: round(kilobytes / 1024, 1) for name, kilobytes in total.items()}


@contextlib.contextmanager
def some_cluster() -> Iterator[tuple[Path, Devcluster | None]]:
    """The kubeconfig of $KUBECONFIG's cluster, or that of a cluster made for the purpose, and this one."""
    if given := os.environ.get("KUBECONFIG"):
        yield Path(given), None
    else:
        with Devcluster.start() as own:
            yield own.kubeconfig, own


def free_port() -> int:
    """One on which nothing listens just now, and which nobody is given who takes any that is free."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port
    raise OSError(f"no port is free between {_PORTS.start} and {_PORTS.stop}")


# Below those that the kernel gives to connections, and to who listens on port 0; the devcluster's are above these.
_PORTS = range(10_000, 20_000)
# To this process already: what will listen there may not do so yet.
_given: set[int] = set()


@contextlib.contextmanager
def resting(cluster: Devcluster | None) -> Iterator[None]:
    """The cluster's controllers, scheduler and nodes do nothing meanwhile; only the API server answers. None: as it is.

    For each Deployment that an operator changes they are at work for longer than it, on the same processors.
    """
    pids = [process.pid for process in (tree(cluster.pid) if cluster else {}).values() if process.name in _AT_WORK]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


# As the kernel has them, which cuts them.
_AT_WORK = {"kube-controller", "kube-scheduler", "kwok"}
_SERVING = {"kube-apiserver", "etcd"}


def serving_seconds(cluster: Devcluster | None) -> float | None:
    """Processor time of the cluster's API server and etcd; None for a cluster whose processes are not known."""
    if cluster is None:
        return None
    return seconds(process for process in tree(cluster.pid).values() if process.name in _SERVING)


@contextlib.contextmanager
def running(command: Sequence[str], *, folder: Path, log: Path, environ: Mapping[str, str]) -> Any:
    operator = Operator(command, folder=folder, log=log, environ=environ)
    try:
        yield operator
    finally:
        if operator.process.poll() is None:
            try:
                operator.stop()
            finally:
                operator.kill()


def tidy_on_sigterm() -> None:
    """From here on SIGTERM raises KeyboardInterrupt as Ctrl-C does, so that what was begun is cleaned up."""
    # By way of SIGINT, which asyncio turns into the end of what it runs, wherever that is just then.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


# What is to become true of all the objects of a kind.
Condition = Callable[[Mapping[ObjectKey, Object]], bool]


class Followed:
    """`objects` are as they are now; `news` is set when one of them changes."""

    def __init__(self, objects: Mapping[ObjectKey, Object], news: asyncio.Event) -> None:
        self.objects = objects
        self.news = news

    async def until(
        self,
        true: Condition,
        what: str,
        *,
        patience: float = PATIENCE,
        attend: Callable[[], None] = lambda: None,
    ) -> None:
        """Until it is true of the objects. `attend` is called once a second. AssertionError after `patience` seconds."""
        deadline, attended = time.monotonic() + patience, 0.0
        while not true(self.objects):
            now = time.monotonic()
            if now > deadline:
                raise AssertionError(f"not within {patience:.0f} s: {what}")
            if now - attended > 1:
                attended = now
                attend()
            self.news.clear()
            # Not wait_for(), which until Python 3.12 loses a cancellation that comes together with the news.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self.news.wait()


def _ignore(before: Object | None, after: Object | None) -> None:
    """Nobody wants to know."""


class Cluster:
    """Objects by kind and key, in the cluster of a kubeconfig."""

    def __init__(self, client: ApiClient) -> None:
        self.client = client
        self._discovery = Discovery(client)

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, kubeconfig: Path) -> AsyncIterator[Cluster]:
        client = await ApiClient.connect({"KUBECONFIG": str(kubeconfig)})
        try:
            yield cls(client)
        finally:
            await client.close()

    async def path(self, gvk: GroupVersionKind, key: ObjectKey | None = None, *, namespace: str = "") -> str:
        return (await self._resource(gvk)).path(key, namespace=namespace)

    async def _resource(self, gvk: GroupVersionKind) -> Resource:
        resource = await self._discovery.by_kind(gvk)
        if resource is None:
            raise NotFound(404, f"the cluster has no {gvk}")
        return resource

    @contextlib.asynccontextmanager
    async def following(self, gvk: GroupVersionKind, namespace: str, notify: Notify = _ignore) -> AsyncIterator[Followed]:
        """What there is of a kind, as a watch tells it: asking again and again takes the processor from who is measured.

        `notify` is called with what an object was and is, for each change.
        """
        news = asyncio.Event()

        def changed(before: Object | None, after: Object | None) -> None:
            notify(before, after)
            news.set()

        informer = Informer(self.client, await self._resource(gvk), namespace, changed)
        following = asyncio.create_task(informer.run())
        try:
            try:
                async with asyncio.timeout(PATIENCE):
                    await informer.synced.wait()
            except TimeoutError as error:
                raise AssertionError(f"{gvk} could not be listed within {PATIENCE:.0f} s") from error
            yield Followed(informer.store, news)
        finally:
            following.cancel()
            await asyncio.wait([following])

    async def create(self, obj: Mapping[str, Any], namespace: str = "") -> dict[str, Any]:
        path = await self.path(GroupVersionKind.of(obj), namespace=namespace)
        return await self.client.post(path, obj)

    async def get(self, gvk: GroupVersionKind, key: ObjectKey) -> dict[str, Any] | None:
        with contextlib.suppress(NotFound):
            return await self.client.get(await self.path(gvk, key))
        return None

    async def list(self, gvk: GroupVersionKind, namespace: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.client.get(await self.path(gvk, namespace=namespace)))["items"]
        return items

    async def patch(self, gvk: GroupVersionKind, key: ObjectKey, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self.client.patch(await self.path(gvk, key), body)

    async def delete(self, gvk: GroupVersionKind, key: ObjectKey) -> None:
        with contextlib.suppress(NotFound):
            await self.client.delete(await self.path(gvk, key))

    async def install(self, crd: Mapping[str, Any]) -> GroupVersionKind:
        """Create a CRD, if it is not there, and wait until its kind is served. AssertionError if another is there."""
        spec = crd["spec"]
        try:
            await self.create(crd)
        except Conflict:
            name = ObjectKey("", crd["metadata"]["name"])
            there = await self.get(GroupVersionKind.of(crd), name) or crd
            if [each["schema"] for each in there["spec"]["versions"]] != [each["schema"] for each in spec["versions"]]:
                raise AssertionError(f"there is a CRD {name} with another schema") from None
        gvk = GroupVersionKind(spec["group"], spec["versions"][0]["name"], spec["names"]["kind"])
        path = await self.path(GroupVersionKind.of(crd), ObjectKey("", crd["metadata"]["name"]))

        async def served() -> bool:
            with contextlib.suppress(KubeError):
                # For a while after the end of a CRD of the same name its kind can still be listed, but not created.
                if condition(await self.client.get(path), "Established").get("status") == "True":
                    await self.list(gvk, "")
                    return True
            return False

        await until(served, f"{gvk} is served")
        return gvk


async def until(
    condition: Callable[[], Awaitable[T | None]], what: str, *, patience: float = PATIENCE, interval: float = 0.05
) -> T:
    """What the condition gives as soon as it is true. AssertionError if that takes longer than `patience` seconds."""
    deadline = time.monotonic() + patience
    while not (value := await condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience:.0f} s: {what}")
        await asyncio.sleep(interval)
    return value


def condition(obj: Mapping[str, Any] | None, kind: str) -> Mapping[str, Any]:
    """A condition of an object's status; empty if it has none of this type."""
    conditions = ((obj or {}).get("status") or {}).get("conditions") or ()
    return next((item for item in conditions if item.get("type") == kind), {})


def is_done(obj: Mapping[str, Any]) -> bool:
    """Whether the operator has run for this very state of a CR, successfully, and waits for the next."""
    observed = (obj.get("status") or {}).get("observedGeneration")
    return observed == obj["metadata"]["generation"] and condition(obj, "Running").get("reason") == "Successful"


def crd(gvk: GroupVersionKind, *, scope: str = "Namespaced") -> dict[str, Any]:
    """A CRD that lets everything pass."""
    plural = gvk.kind.lower() + "s"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{gvk.group}"},
        "spec": {
            "group": gvk.group,
            "scope": scope,
            "names": {"kind": gvk.kind, "plural": plural, "singular": gvk.kind.lower()},
            "versions": [
                {
                    "name": gvk.version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": anything, "status": anything}}},
                }
            ],
        },
    }


def one_role_project(folder: Path, gvk: GroupVersionKind, tasks: list[dict[str, Any]]) -> None:
    """A role of these tasks, called as the kind is, and the watch for it."""
    role = gvk.kind.lower()
    path = folder / "roles" / role / "tasks" / "main.yml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(tasks))
    watch = {"group": gvk.group, "version": gvk.version, "kind": gvk.kind, "role": role}
    (folder / "watches.yaml").write_text(yaml.safe_dump([watch]))


async def create_and_settle(
    world: Cluster, operator: Operator, gvk: GroupVersionKind, namespace: str, *, crs: int, patience: float
) -> None:
    """Create so many CRs, and wait until the operator is done with all of them. AssertionError if it ends."""
    for number in range(crs):
        cr = {"apiVersion": gvk.api_version, "kind": gvk.kind, "metadata": {"name": f"{gvk.kind[0].lower()}{number}"}}
        await world.create(cr, namespace)

    async def settled() -> bool:
        if operator.process.poll() is not None:
            raise AssertionError(f"the operator ended\n{operator.output[-2000:]}")
        found = await world.list(gvk, namespace)
        done = [one for one in found if condition(one, "Running").get("reason") == "Successful"]
        click.echo(f"\r  {len(done)} of {crs} done", nl=False, err=True)
        return len(done) == crs

    await until(settled, "all CRs are Successful", patience=patience, interval=2)
    click.echo(err=True)


def example_crds() -> list[dict[str, Any]]:
    """The CRDs of the example operator."""
    return [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]


async def prepare(world: Cluster, namespace: str) -> None:
    """The example operator's kinds are served, and the namespace is there and ready for use."""
    for crd in example_crds():
        await world.install(crd)
    await world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})

    async def account() -> Any:
        return await world.get(GroupVersionKind("", "v1", "ServiceAccount"), ObjectKey(namespace, "default"))

    await until(account, "the namespace is ready")


def memcached(name: str, size: int) -> dict[str, Any]:
    return {
        "apiVersion": MEMCACHED.api_version,
        "kind": MEMCACHED.kind,
        "metadata": {"name": name},
        "spec": {"size": size},
    }
