"""What many CRs cost that do not change: `python -m bench.large --crs 1000 --crs 3000 --crs 10000`.

CRs of a kind of its own, each with a ConfigMap and a Service, on a cluster of its own or that of $KUBECONFIG. An
operator makes one of them; the others are copied from it, with their dependents and status, as an earlier operator
would have left them. Then the operator is started again, all CRs are found by listing, and nothing has to be changed.
Measured are the start, the pass over all CRs that follows it, a minute at idle, and a part of the next pass, which the
reconcile period causes; and how long a new CR takes, which is created every few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import json
import re
import statistics
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import yaml

from bench.driver import (
    NAMESPACE,
    RUN,
    Cluster,
    Operator,
    condition,
    crd,
    free_port,
    is_done,
    one_role_project,
    resting,
    running,
    some_cluster,
    tidy_on_sigterm,
    until,
)
from devkit.devcluster.cluster import Cluster as Devcluster
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey

PAIR = GroupVersionKind("bench.example.com", "v1", "Pair")
DEPENDENTS = (GroupVersionKind("", "v1", "ConfigMap"), GroupVersionKind("", "v1", "Service"))
PATIENCE = 3600.0
# At once, when the CRs are copied; CRs in one namespace; items on a page of a list.
_CONNECTIONS, _IN_NAMESPACE, _PAGE = 50, 100, 500
# Seconds between two looks at the operator, and two new CRs; until what a pass leaves to be done is over.
_LOOK, _PROBE, _SETTLE = 1.0, 2.0, 10.0
_PROBES = "bench.example.com/probe"
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

# The value of each series of a metric, by its labels.
Series = dict[frozenset[tuple[str, str]], float]
Figures = dict[str, Any]


def project(folder: Path, period: float) -> None:
    """A role that makes a ConfigMap and a Service in one task, and the watch for it."""
    metadata = {"name": "{{ ansible_operator_meta.name }}", "namespace": "{{ ansible_operator_meta.namespace }}"}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"size": "{{ size }}"}}
    spec = {"clusterIP": "None", "ports": [{"name": "http", "port": 80}], "selector": {"app": metadata["name"]}}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    one_role_project(folder, PAIR, [{"kubernetes.core.k8s": {"definition": [config_map, service]}}])
    watches = yaml.safe_load((folder / "watches.yaml").read_text())
    (folder / "watches.yaml").write_text(yaml.safe_dump([{**watches[0], "reconcilePeriod": f"{period:.0f}s"}]))


def pair(name: str, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": PAIR.api_version, "kind": PAIR.kind, "metadata": metadata, "spec": {"size": "3"}}


@dataclass(slots=True)
class World:
    """The namespaces of the bench, and the CRs in them."""

    cluster: Cluster
    folder: Path
    crs: int
    namespaces: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.namespaces = [f"large-{self.crs}-{number}" for number in range(self.crs // _IN_NAMESPACE + 1)]

    async def make(self, command: list[str], environ: Mapping[str, str]) -> None:
        """Have one CR made by an operator, and copy it and what it owns."""
        for name in self.namespaces:
            await self.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        key = ObjectKey(self.namespaces[0], "p0")
        await self.cluster.create(pair(key.name), key.namespace)

        async def made_by_operator() -> bool:
            return is_done(await self.cluster.get(PAIR, key) or {})

        with running(command, folder=self.folder, log=self.folder / "log", environ=environ):
            await until(made_by_operator, "the first CR is made", interval=0.5)
        made = [await self.cluster.get(gvk, key) for gvk in (PAIR, *DEPENDENTS)]
        cr, *dependents = [obj for obj in made if obj is not None]
        assert len(dependents) == len(DEPENDENTS), "the role has not made its dependents"
        # Numbers are taken one by one, by so many connections at once.
        numbers = iter(range(1, self.crs))
        await asyncio.gather(*(self._copy(cr, dependents, numbers) for _ in range(_CONNECTIONS)))
        click.echo(err=True)

    async def _copy(self, cr: Object, dependents: Iterable[Object], numbers: Iterator[int]) -> None:
        for number in numbers:
            namespace = self.namespaces[number // _IN_NAMESPACE]
            key = ObjectKey(namespace, f"p{number}")
            made = await self.cluster.create(pair(key.name), namespace)
            path = await self.cluster.path(PAIR, key)
            await self.cluster.client.patch(f"{path}/status", {"status": cr["status"]})
            for dependent in dependents:
                obj = renamed(dependent, key, made["metadata"]["uid"])
                await self.cluster.create({"apiVersion": "v1", **obj}, namespace)
            if number % 100 == 0:
                click.echo(f"\r  {number} of {self.crs} CRs", nl=False, err=True)

    async def pages(self) -> AsyncIterator[list[dict[str, Any]]]:
        """All CRs, page by page."""
        path, token = await self.cluster.path(PAIR), ""
        while True:
            page = await self.cluster.client.get(path, {"limit": str(_PAGE), **({"continue": token} if token else {})})
            yield page["items"]
            token = page["metadata"].get("continue") or ""
            if not token:
                return

    async def completions(self) -> dict[str, str]:
        """When each CR was last run, by its uid."""
        found = {}
        async for page in self.pages():
            for cr in page:
                result = condition(cr, "Running").get("ansibleResult") or {}
                found[cr["metadata"]["uid"]] = result.get("completion", "")
        return found

    async def remove(self) -> None:
        for name in self.namespaces:
            await self.cluster.delete(NAMESPACE, ObjectKey("", name))


def renamed(obj: Object, key: ObjectKey, uid: str) -> dict[str, Any]:
    """A copy of a dependent, for the CR of this key and uid."""
    copied: dict[str, Any] = copy.deepcopy(dict(obj))
    metadata = copied["metadata"]
    owners = [{**owner, "name": key.name, "uid": uid} for owner in metadata["ownerReferences"]]
    copied["metadata"] = {"name": key.name, "ownerReferences": owners}
    for kept in ("labels", "annotations"):
        if kept in metadata:
            copied["metadata"][kept] = metadata[kept]
    if "selector" in copied.get("spec", {}):
        copied["spec"]["selector"] = {"app": key.name}
    return copied


def series(text: str, name: str) -> Series:
    """The series of one metric in the Prometheus text format. A parser of all of it takes seconds for an API server's."""
    return {
        frozenset(_LABEL.findall(match[2] or "")): float(match[3]) for match in _SAMPLE.finditer(text) if match[1] == name
    }


def more(before: Series, after: Series) -> Series:
    found = {labels: value - before.get(labels, 0.0) for labels, value in after.items()}
    return {labels: value for labels, value in found.items() if value}


@dataclass(slots=True)
class Look:
    """The counters of an operator at one moment."""

    at: float
    runner_cpu: float
    runs_cpu: float
    reconciles: float
    delayed: float
    waiting: float
    active: float
    lags: Series


@dataclass(slots=True)
class Subject:
    """The operator that is measured."""

    operator: Operator
    metrics: str
    ready: str

    async def is_ready(self) -> bool:
        assert self.operator.process.poll() is None, self.operator.output[-2000:]
        with contextlib.suppress(OSError):
            return bool(await asyncio.to_thread(_read, self.ready))
        return False

    async def look(self) -> Look:
        assert self.operator.process.poll() is None, self.operator.output[-2000:]
        text = await asyncio.to_thread(_read, self.metrics)
        runner, runs = self.operator.processor_seconds()
        total: Callable[[str], float] = lambda name: sum(series(text, name).values())  # noqa: E731
        return Look(
            at=time.monotonic(),
            runner_cpu=runner,
            runs_cpu=runs,
            reconciles=total("controller_runtime_reconcile_total"),
            delayed=total("workqueue_retries_total"),
            waiting=total("workqueue_depth"),
            active=total("controller_runtime_active_workers"),
            lags=series(text, "rolerunner_event_loop_lag_seconds_bucket"),
        )

    def memory(self) -> Figures:
        """Anonymous memory, in MB."""
        pid = self.operator.process.pid
        return {
            "runner_mb": self.operator.memory([pid])["anonymous_mb"],
            "all_mb": self.operator.memory()["anonymous_mb"],
        }


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


def used(before: Look, after: Look) -> Figures:
    """Between two looks: seconds, reconciles, processor time, and how late the event loop was."""
    runner, runs = after.runner_cpu - before.runner_cpu, after.runs_cpu - before.runs_cpu
    reconciles, seconds = after.reconciles - before.reconciles, after.at - before.at
    figures: Figures = {
        "seconds": round(seconds, 1),
        "reconciles": int(reconciles),
        "runner_cpu_s": round(runner, 2),
        "runs_cpu_s": round(abs(runs), 2),
        "lag": lag(more(before.lags, after.lags)),
    }
    if reconciles:
        figures |= {
            "per_second": round(reconciles / seconds, 1),
            "runner_ms_each": round(1000 * runner / reconciles, 1),
            "runs_ms_each": round(1000 * runs / reconciles, 1),
        }
    return figures


def lag(buckets: Series) -> Figures:
    """The bounds, in seconds, below which 99 % and all of the event loop's delays were."""
    counts = sorted((float(dict(labels)["le"]), count) for labels, count in buckets.items())
    if not counts:
        return {}
    most = counts[-1][1]
    found = {name: next(bound for bound, count in counts if count >= share * most) for name, share in _SHARES.items()}
    return {name: bound if bound != float("inf") else "more" for name, bound in found.items()}


_SHARES = {"p99_below_s": 0.99, "all_below_s": 1.0}


@dataclass(slots=True)
class Probes:
    """New CRs, created one after the other while `creating`; the seconds that each took until it was Successful."""

    world: World
    seconds: list[float] = field(default_factory=list)
    _done: dict[str, float] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def creating(self) -> AsyncIterator[list[float]]:
        """Yields the list to which the seconds of each new CR are added."""
        self.seconds = []
        tasks = [asyncio.create_task(part) for part in (self._watch(), self._create())]
        try:
            yield self.seconds
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _create(self) -> None:
        for number in self._numbers:
            name, begun = f"new-{number}", time.monotonic()
            await self.world.cluster.create(pair(name, **{_PROBES: "true"}), self.world.namespaces[0])
            while name not in self._done:
                self._news.clear()
                await self._news.wait()
            self.seconds.append(self._done[name] - begun)
            await asyncio.sleep(_PROBE)

    async def _watch(self) -> None:
        """A watch of these CRs alone: one of all would take the processor from who is measured."""
        client, path = self.world.cluster.client, await self.world.cluster.path(PAIR, namespace=self.world.namespaces[0])
        params = {"labelSelector": _PROBES, "timeoutSeconds": "300"}
        while True:
            # Without a version the server begins with those that are there.
            async for event in client.watch(path, params):
                obj = event["object"]
                if event["type"] != "BOOKMARK" and is_done(obj):
                    self._done.setdefault(obj["metadata"]["name"], time.monotonic())
                    self._news.set()


def served(seconds: list[float]) -> Figures:
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {
        "count": len(ordered),
        "median_s": round(statistics.median(ordered), 2),
        "p95_s": round(ordered[int(0.95 * (len(ordered) - 1))], 2),
        "longest_s": round(ordered[-1], 2),
    }


async def server_counters(world: World) -> str:
    """The metrics of the API server."""
    client = world.cluster.client
    async with client.session.get(f"{client.server}/metrics") as answer:
        return await answer.text()


def requests(before: str, after: str) -> dict[str, int]:
    """How many requests the API server has answered, by verb and resource."""
    found: Counter[str] = Counter()
    name = "apiserver_request_total"
    for labels, count in more(series(before, name), series(after, name)).items():
        given = dict(labels)
        if given.get("resource") and given.get("verb") != "CONNECT":
            subresource = f"/{given['subresource']}" if given.get("subresource") else ""
            found[f"{given['verb']} {given['resource']}{subresource}"] += int(count)
    return dict(found.most_common())


def lists(before: str, after: str) -> dict[str, dict[str, int]]:
    """Lists by resource: how many the API server's watch cache has answered, and how many etcd had to."""
    names = {"watch_cache": "apiserver_cache_list_total", "etcd": "apiserver_storage_list_total"}
    found: dict[str, dict[str, int]] = {}
    for by, name in names.items():
        for labels, count in more(series(before, name), series(after, name)).items():
            given = dict(labels)
            resource = given.get("resource") or given.get("resource_prefix", "").strip("/").rpartition("/")[2]
            by_server = found.setdefault(resource, {})
            by_server[by] = by_server.get(by, 0) + int(count)
    return found


@dataclass(slots=True)
class Course:
    """The phases that are measured, in the order of `run`."""

    world: World
    subject: Subject
    idle: float
    window: float
    # Seconds of the first pass that are measured; None: all of it, and what follows.
    sample: float | None
    begun: float
    probes: Probes = field(init=False)
    figures: Figures = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.probes = Probes(self.world)
        self.figures["crs"] = self.world.crs

    async def run(self, before: Mapping[str, str], counters: str) -> Figures:
        """`before`: when the CRs were last run; `counters`: the API server's metrics before the operator was started."""
        await until(self.subject.is_ready, "the operator is ready", patience=PATIENCE)
        self.figures["ready_s"] = round(time.monotonic() - self.begun, 2)
        first = Look(self.begun, 0, 0, 0, 0, 0, 0, {})
        async with self.probes.creating() as seconds:
            listed = await self._listed()
            self.figures["start"] = {
                **used(first, listed),
                **self.subject.memory(),
                "requests": requests(counters, after := await server_counters(self.world)),
                "lists": lists(counters, after),
            }
            last = await self._passed(before) if self.sample is None else await self._sampled(self.sample)
        self.figures["start"]["first_new_cr_s"] = round(self.figures["ready_s"] + seconds[0], 2)
        self.figures["pass"] = {**used(listed, last), **self.subject.memory(), "new_crs": served(seconds)}
        self.figures["pass"]["requests"] = requests(after, await server_counters(self.world))
        if self.sample is None:
            self.figures["pass"]["all_s"] = round(last.at - self.begun, 1)
            click.echo(json.dumps(self.figures), err=True)
            await self._idle()
            await self._periodic()
        return self.figures

    async def _sampled(self, seconds: float) -> Look:
        await asyncio.sleep(seconds)
        return await self.subject.look()

    async def _listed(self) -> Look:
        """When all CRs have been found."""
        while True:
            look = await self.subject.look()
            # Each of them was put on the queue for later when it was found, and again when it had been reconciled.
            if look.delayed - look.reconciles >= self.world.crs:
                return look
            await asyncio.sleep(_LOOK / 2)

    async def _passed(self, before: Mapping[str, str]) -> Look:
        """When all CRs have been reconciled. Raises AssertionError if one of them was not."""
        deadline = time.monotonic() + PATIENCE
        while True:
            look = await self.subject.look()
            click.echo(f"\r  {look.reconciles:.0f} reconciles, {look.waiting:.0f} wait", nl=False, err=True)
            if look.reconciles >= self.world.crs and not look.waiting:
                break
            assert time.monotonic() < deadline, "the pass takes too long"
            await asyncio.sleep(_LOOK)
        click.echo(err=True)
        after = await self.world.completions()
        left = [uid for uid, completion in before.items() if after.get(uid) == completion]
        # One may be in its last moments.
        assert len(left) <= look.active, f"{len(left)} CRs were not reconciled"
        return look

    async def _idle(self) -> None:
        await asyncio.sleep(_SETTLE)
        before = await self.subject.look()
        await asyncio.sleep(self.idle)
        self.figures["idle"] = {**used(before, await self.subject.look()), **self.subject.memory()}

    async def _periodic(self) -> None:
        """A part of the pass that the reconcile period causes."""
        begun = (await self.subject.look()).reconciles

        async def going_on() -> bool:
            return (await self.subject.look()).reconciles >= begun + 0.05 * self.world.crs

        await until(going_on, "the next pass has begun", patience=PATIENCE, interval=_LOOK)
        before, counters = await self.subject.look(), await server_counters(self.world)
        async with self.probes.creating() as seconds:
            await asyncio.sleep(self.window)
        after = await self.subject.look()
        self.figures["periodic"] = {
            **used(before, after),
            **self.subject.memory(),
            "new_crs": served(seconds),
            "requests": requests(counters, await server_counters(self.world)),
        }


async def measure(
    kubeconfig: Path,
    own: Devcluster | None,
    folder: Path,
    *,
    crs: int,
    idle: float,
    window: float,
    sample: float | None = None,
) -> Figures:
    """The figures of one size."""
    # The first pass and the minute at idle are over by then, if there are ten reconciles a second.
    period = 1.2 * (crs / 10 + idle + 2 * _SETTLE)
    project(folder, period)
    health, metrics = free_port(), free_port()
    command = [*RUN, "--proxy-port=0", "--role-metrics-bind-address=0", f"--runs-dir={folder / 'runs'}"]
    command += [f"--health-probe-bind-address=127.0.0.1:{health}", f"--metrics-bind-address=127.0.0.1:{metrics}"]
    environ = {"KUBECONFIG": str(kubeconfig), "WATCH_NAMESPACE": "", "ANSIBLE_GATHERING": "explicit"}
    async with Cluster.connected(kubeconfig) as cluster:
        await cluster.install(crd(PAIR))
        world = World(cluster, folder, crs)
        try:
            with resting(own):
                await world.make(command, environ)
                before, counters = await world.completions(), await server_counters(world)
                begun = time.monotonic()
                with running(command, folder=folder, log=folder / "log", environ=environ) as operator:
                    subject = Subject(operator, f"http://127.0.0.1:{metrics}/metrics", f"http://127.0.0.1:{health}/readyz")
                    course = Course(world, subject, idle=idle, window=window, sample=sample, begun=begun)
                    return await course.run(before, counters)
        finally:
            await world.remove()


# By heading, where the figure is.
_ROWS: tuple[tuple[str, Callable[[Figures], object]], ...] = (
    ("ready, after the start of the process, s", lambda figures: figures["ready_s"]),
    ("all CRs are found, s", lambda figures: figures["start"]["seconds"]),
    ("… until then: processor time of the runner, s", lambda figures: figures["start"]["runner_cpu_s"]),
    ("… requests to the API server", lambda figures: sum(figures["start"]["requests"].values())),
    ("… event loop late, at most, s", lambda figures: figures["start"]["lag"].get("all_below_s", "-")),
    ("first new CR is served, after the start of the process, s", lambda figures: figures["start"]["first_new_cr_s"]),
    ("all CRs are reconciled, s", lambda figures: figures["pass"]["all_s"]),
    ("pass after the start, CRs per second", lambda figures: figures["pass"]["per_second"]),
    ("… processor time each, the runner's own, ms", lambda figures: figures["pass"]["runner_ms_each"]),
    ("… processor time each, runs, ms", lambda figures: figures["pass"]["runs_ms_each"]),
    ("… a new CR meanwhile: median, longest, s", lambda figures: _new(figures["pass"])),
    ("… event loop late, 99 % below, s", lambda figures: figures["pass"]["lag"].get("p99_below_s", "-")),
    (
        "anonymous memory of the runner when all CRs are found; after the pass, MB",
        lambda figures: _memory(figures, "runner_mb"),
    ),
    ("anonymous memory of all processes, MB", lambda figures: _memory(figures, "all_mb")),
    ("idle: processor time of all processes, s per minute", lambda figures: _idle_cpu(figures["idle"])),
    ("periodic pass, CRs per second", lambda figures: figures["periodic"]["per_second"]),
    ("… processor time each, the runner's own, ms", lambda figures: figures["periodic"]["runner_ms_each"]),
    ("… a new CR meanwhile: median, longest, s", lambda figures: _new(figures["periodic"])),
)


def _new(phase: Figures) -> str:
    new = phase["new_crs"]
    return f"{new['median_s']}, {new['longest_s']}" if new else "-"


def _memory(figures: Figures, name: str) -> str:
    return f"{figures['start'][name]}; {figures['idle' if 'idle' in figures else 'pass'][name]}"


def _idle_cpu(idle: Figures) -> object:
    return round(60 * (idle["runner_cpu_s"] + idle["runs_cpu_s"]) / idle["seconds"], 2)


def _cell(figure: Callable[[Figures], object], figures: Figures) -> str:
    try:
        return str(figure(figures))
    except KeyError:
        # It was not measured.
        return "-"


def table(results: list[Figures]) -> str:
    """In Markdown, with a column for each size."""
    rows = [["CRs", *(f"{figures['crs']:,}" for figures in results)], ["---", *("---:" for _ in results)]]
    rows += [[heading, *(_cell(figure, figures) for figures in results)] for heading, figure in _ROWS]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


@click.command(help=__doc__)
@click.option(
    "--crs", "sizes", multiple=True, type=click.IntRange(10), default=[1000], show_default=True, help="May be repeated."
)
@click.option(
    "--idle", type=click.FloatRange(1), default=60, show_default=True, help="Seconds for which idling is measured."
)
@click.option("--window", type=click.FloatRange(1), default=60, show_default=True, help="Seconds of the periodic pass.")
@click.option("--sample", type=click.FloatRange(1), help="End after so many seconds of the first pass.")
def main(sizes: tuple[int, ...], idle: float, window: float, sample: float | None) -> None:
    tidy_on_sigterm()
    results = []
    for crs in sizes:
        # A cluster for each: etcd and the API server keep what was there.
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rolerunner-large-")))
            kubeconfig, own = stack.enter_context(some_cluster())
            try:
                results.append(
                    asyncio.run(measure(kubeconfig, own, folder, crs=crs, idle=idle, window=window, sample=sample))
                )
            except AssertionError as error:
                log = folder / "log"
                last = "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.exists() else ""
                raise click.ClickException(f"{error}\n{last}") from error
        click.echo(json.dumps(results[-1]))
    click.echo(table(results))


if __name__ == "__main__":
    main()
