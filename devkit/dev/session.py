"""`rolerunner dev`: runs the operator of this folder on a cluster while its files are edited.

CRDs and samples are applied, the operator is a child process whose log the view shows, and files are polled several times a
second. The kinds that an edit may affect are requeued: the operator reads them from its standard input, a pipe that nobody
else has, and whose end is the operator's end. Only a changed watches.yaml restarts the operator.

Next on the way: `devkit.dev.view`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from devkit import object_files
from devkit.dev.view import View, shown
from devkit.devcluster import Cluster, cluster
from runner.config import watches
from runner.config.settings import DASHBOARD_KEY, Settings
from runner.config.watches import Watch
from runner.errors import ConfigurationError
from runner.kube.client import ApiClient, KubeError, NotFound, current_context
from runner.kube.discovery import Discovery, Resource
from runner.logs import RunnerEvent
from runner.resource.metadata import GroupVersionKind, ObjectKey

# The first that is there.
CRD_FOLDERS = (Path("config/crd/bases"), Path("crds"))
SAMPLES = Path("config/samples")
CRD = "CustomResourceDefinition"
_MANAGER = "rolerunner-dev"
# Seconds: between two looks at the files; for a CRD to be served; for the operator to end.
_LOOK, _SERVED, _END = 0.25, 60.0, 15.0
_LONGEST_LINE = 64 * 1024 * 1024
_UNSEEN = re.compile(r"^\.|~$|\.(?:swp|swx|tmp|pyc)$|^__pycache__$|^4913$")
# A role whose name only a run knows.
_ANY_ROLE = re.compile(r"_role:(?:[^\n]*\n){0,3}?[^\n]*\bname:\s*[\"']?\{\{")
# Nobody asks for its health, and nobody wants to wait for its end.
_QUIET = (
    *("--proxy-port=0", "--health-probe-bind-address=0", "--metrics-bind-address=0"),
    *("--ansible-verbosity=0", "--graceful-shutdown-timeout=2s"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """The cluster to work on: its environment for programs and its name for people. `given`: it stays when dev ends."""

    environ: Mapping[str, str]
    name: str
    given: bool


@contextlib.contextmanager
def chosen_cluster(
    environ: Mapping[str, str], *, devcluster: bool, yes: bool, exec_dir: Path | None = None
) -> Iterator[Target]:
    """The kubeconfig's cluster, once the user agrees; without a kubeconfig the development cluster, started if need be."""
    folder = cluster.state_dir("default")
    running = cluster.find_running(folder)
    known = Path(environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    if not devcluster and (environ.get("KUBECONFIG") or known.exists()) and not (running and known == running.kubeconfig):
        context, server = current_context(environ).name, asyncio.run(_server(environ))
        if not yes:
            if not sys.stdin.isatty():
                raise ConfigurationError(
                    f"dev would work on context {context!r} ({server}), and there is no terminal to ask; "
                    "give --yes to go on, or --devcluster for a cluster of its own"
                )
            question = f"CRDs, samples and an operator on context {context!r} ({server})?"
            click.confirm(question, abort=True)
        yield Target(environ, f"context {context}", True)
    elif running:
        cluster.link_exec_dir(folder, exec_dir)
        yield Target({**environ, "KUBECONFIG": str(running.kubeconfig)}, "the development cluster", True)
    else:
        with Cluster.start(folder, exec_dir=exec_dir, report=lambda text: click.echo(text, err=True)) as ours:
            yield Target({**environ, "KUBECONFIG": str(ours.kubeconfig)}, "a development cluster", False)


async def _server(environ: Mapping[str, str]) -> str:
    client = await ApiClient.connect(environ)
    await client.close()
    return client.server


class Files:
    """Polls files below some roots, without those that editors and version control leave there."""

    def __init__(self) -> None:
        self._states: dict[Path, tuple[int, ...]] = {}

    def changed(self, roots: Iterable[Path]) -> set[Path]:
        """The files that came, went or were written since the last call."""
        before, self._states = self._states, dict(_states(roots))
        return {path for path in before.keys() | self._states.keys() if before.get(path) != self._states.get(path)}


def _states(roots: Iterable[Path]) -> Iterator[tuple[Path, tuple[int, ...]]]:
    for root in roots:
        for path in [root] if root.is_file() else _below(root):
            # It may go while it is looked at.
            with contextlib.suppress(OSError):
                found = path.stat()
                yield path, (found.st_mtime_ns, found.st_size, found.st_ino)


def _below(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        # A virtual environment has no roles, but thousands of files.
        folders[:] = [name for name in folders if not _UNSEEN.search(name) and "pyvenv.cfg" not in names]
        yield from (Path(folder, name) for name in names if not _UNSEEN.search(name))


def affected_kinds(watched: Sequence[Watch], path: Path) -> set[str]:
    """The kinds whose runs an edit of this file may change: those of each watch whose role or playbook it belongs to, or
    whose role may include the one that it belongs to."""
    playbooks = {content.playbook for watch in watched for content in _contents(watch)}
    roles = {role.name: role for watch in watched for folder in _role_folders(watch) for role in folder.glob("*")}
    kinds = set()
    for watch in watched:
        for content in _contents(watch):
            is_neighbour = content.playbook and path.is_relative_to(content.playbook.parent) and path not in playbooks
            inside = any(path.is_relative_to(place) for place in _used(content, roles))
            if inside or (is_neighbour and not any(path.is_relative_to(role.parent) for role in roles.values())):
                kinds.add(str(watch.gvk))
    return kinds


def _contents(watch: Watch) -> list[watches.Content]:
    contents = (watch.content, watch.finalizer.content if watch.finalizer else None)
    return [content for content in contents if content and content.path]


def _role_folders(watch: Watch) -> set[Path]:
    return {Path.cwd() / "roles", *(content.role.parent for content in _contents(watch) if content.role)}


def _used(content: watches.Content, roles: Mapping[str, Path]) -> set[Path]:
    """The role or playbook, and the roles that it may include: those named anywhere in it, or in one of these."""
    assert content.path is not None
    used, todo = {content.path}, [content.path]
    while todo:
        place = todo.pop()
        files = [place] if place.is_file() else [path for path in _below(place) if path.suffix in (".yml", ".yaml")]
        text = "\n".join(path.read_text(errors="replace") for path in files if path.exists())
        for name, role in roles.items():
            named = re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) or _ANY_ROLE.search(text)
            if role not in used and named:
                used.add(role)
                todo.append(role)
    return used


@dataclass(slots=True, kw_only=True)
class Session:
    """A session of `rolerunner dev`. `flags` are passed on to `rolerunner run`."""

    target: Target
    settings: Settings
    watched: Sequence[Watch]
    view: View
    namespace: str
    flags: Sequence[str] = ()
    _client: ApiClient = field(init=False)
    _discovery: Discovery = field(init=False)
    _operator: asyncio.subprocess.Process | None = None
    _reading: asyncio.Task[None] | None = None
    _watching: asyncio.Event = field(default_factory=asyncio.Event)
    # Of the dashboard: both stay, so that an open page is good for the next operator as well. The first port is a free one.
    _key: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)
    _port: str = "0"
    # watches.yaml cannot be used as it is.
    _mistaken: bool = False

    async def run(self) -> None:
        """Run until SIGINT or SIGTERM. Raises RolerunnerError if it cannot begin."""
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        self._client = await ApiClient.connect(self.target.environ)
        self._discovery = Discovery(self._client)
        with tempfile.TemporaryDirectory(prefix="rolerunner-dev-") as runs, contextlib.suppress(asyncio.CancelledError):
            try:
                # Is there a cluster at all?
                await self._client.get("/version")
                await self._edit_loop(Path(runs))
            finally:
                self.view.close()
                await self._client.close()
                await self._end()

    async def _edit_loop(self, runs: Path) -> None:
        files = Files()
        files.changed(self._roots())
        for path in _manifests(crd_folder()):
            await self._apply(path)
        await self._start(runs)
        waiting = asyncio.create_task(self._watching.wait())
        assert self._reading is not None
        await asyncio.wait({waiting, self._reading}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for path in _manifests(SAMPLES):
            await self._apply(path)
        edited: set[Path] = set()
        while True:
            await asyncio.sleep(_LOOK)
            self.view.draw()
            more = files.changed(self._roots())
            edited |= more
            # A checkout or an editor may be in the middle of it.
            if edited and not more:
                await self._react(edited, runs)
                edited.clear()

    def _roots(self) -> set[Path]:
        here = Path.cwd()
        roots = {here / self.settings.watches_file, here / "roles", here / "playbooks", here / crd_folder(), here / SAMPLES}
        for watch in self.watched:
            roots |= _role_folders(watch) | {content.playbook.parent for content in _contents(watch) if content.playbook}
        # Not what is below another one as well.
        return {root for root in roots if not any(other in root.parents for other in roots)}

    async def _react(self, edited: set[Path], runs: Path) -> None:
        here = Path.cwd()
        self.view.repeat_errors()
        names = ", ".join(sorted(map(shown, edited)))
        for path in sorted(edited):
            if path.parent in (here / crd_folder(), here / SAMPLES) and path.exists():
                await self._apply(path)
        is_dead = self._reading is None or self._reading.done()
        if here / self.settings.watches_file in edited or self._mistaken or is_dead:
            try:
                self.watched = watches.load(self.settings, os.environ)
            except watches.WatchesError as error:
                more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
                self.view.say(f"{error.problems[0]}{more}; what was there before stays in use", bad=True)
                self._mistaken = True
            else:
                self._mistaken = False
                self.view.say(f"{names}: the operator starts again")
                await self._end()
                await self._start(runs)
                return
        kinds = sorted({kind for path in edited for kind in affected_kinds(self.watched, path)})
        if kinds and self._operator and self._operator.stdin:
            self.view.say(f"{names}: runs again: {', '.join(kinds)}")
            self._operator.stdin.write(json.dumps(kinds).encode() + b"\n")

    async def _start(self, runs: Path) -> None:
        self._watching.clear()
        self.view.clear()
        command = [sys.executable, "-m", "runner", "run", "--requeue-from-stdin", "--log-format=json", *_QUIET]
        command += [f"--dashboard-bind-address=127.0.0.1:{self._port}", f"--runs-dir={runs}"]
        command += [f"--watches-file={self.settings.watches_file}", *self.flags]
        # Should it be another's meanwhile, the next one is free again.
        self._port = "0"
        self._operator = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            # Ctrl-C is for this process, which tells it.
            start_new_session=True,
            env={**self.target.environ, DASHBOARD_KEY: self._key},
        )
        self._reading = asyncio.create_task(self._read(self._operator))

    async def _read(self, operator: asyncio.subprocess.Process) -> None:
        assert operator.stderr is not None
        async for line in operator.stderr:
            text = line.decode(errors="replace").rstrip()
            try:
                record = json.loads(text)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                # A mistake's one sentence.
                self.view.say(text, bad=True)
                continue
            if record.get("event") == RunnerEvent.WATCHING:
                spaces = record["namespaces"]
                where = "all namespaces" if spaces == "all" else f"namespace {spaces}"
                self.view.say(f"watching {record['kinds']} in {where}, on {self.target.name}")
                self._watching.set()
            if record.get("event") == RunnerEvent.DASHBOARD:
                self._port = record["address"].rpartition(":")[2]
                self._show_link(f"http://{record['address']}/?key={self._key}")
            self.view.handle(record)
        code = await operator.wait()
        if operator is self._operator:
            self.view.say(f"the operator ended with exit code {code}; it is started again with the next edit", bad=True)

    def _show_link(self, link: str) -> None:
        # The next operator has the same one.
        if link != self.view.link:
            self.view.link = link
            self.view.say(f"dashboard: {link}")

    async def _end(self) -> None:
        """End the operator's process; at once if this is cancelled."""
        operator, self._operator = self._operator, None
        if operator is None or self._reading is None:
            return
        try:
            with contextlib.suppress(ProcessLookupError):
                operator.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END):
                    await asyncio.shield(self._reading)
        finally:
            if operator.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    operator.kill()
                await self._reading

    async def _apply(self, path: Path) -> None:
        """Apply each object of a file, and say what is wrong with it."""
        try:
            for where, obj in object_files.read(shown(path)):
                try:
                    await self._apply_object(obj)
                    self.view.say(f"applied {where}: {obj['kind']} {obj['metadata']['name']}")
                except (KubeError, TimeoutError) as error:
                    self.view.say(f"{where}: {error or 'not served in time'}", bad=True)
        except ConfigurationError as error:
            self.view.say(str(error), bad=True)

    async def _apply_object(self, obj: dict[str, Any]) -> None:
        gvk, key = GroupVersionKind.of(obj), ObjectKey.of(obj)
        resource = await self._discovery.by_kind(gvk)
        if resource is None:
            raise NotFound(404, f"kind: the cluster has no {gvk}")
        key = ObjectKey(key.namespace or self.namespace, key.name)
        await self._client.apply(resource.path(key), obj, manager=_MANAGER)
        if gvk.kind == CRD:
            async with asyncio.timeout(_SERVED):
                await self._established(resource, key)
                for version in obj["spec"]["versions"]:
                    self._discovery.forget(GroupVersionKind(obj["spec"]["group"], version["name"], ""))

    async def _established(self, resource: Resource, key: ObjectKey) -> None:
        while True:
            found = await self._client.get(resource.path(key))
            conditions = (found.get("status") or {}).get("conditions") or ()
            if any(one["type"] == "Established" and one["status"] == "True" for one in conditions):
                return
            await asyncio.sleep(_LOOK)


def _manifests(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.y*ml"))


def crd_folder() -> Path:
    return next((folder for folder in CRD_FOLDERS if folder.is_dir()), CRD_FOLDERS[-1])


def dev(
    settings: Settings,
    *,
    devcluster: bool,
    exec_dir: Path | None = None,
    yes: bool,
    namespace: str,
    flags: Sequence[str],
) -> None:
    """Run a session until it is ended. Raises RolerunnerError if it cannot begin."""
    watched = watches.load(settings, os.environ)
    environ = {**os.environ, **({"WATCH_NAMESPACE": namespace} if namespace else {})}
    package = str(Path(__file__).parent.parent.parent)
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environ.get("PYTHONPATH"))))
    with chosen_cluster(environ, devcluster=devcluster, yes=yes, exec_dir=exec_dir) as target:
        view = View(sys.stdout, title=f"rolerunner dev on {target.name}")
        asyncio.run(
            Session(
                target=target,
                settings=settings,
                watched=watched,
                view=view,
                namespace=namespace or current_context(target.environ).namespace or "default",
                flags=flags,
            ).run()
        )
        folders = " ".join(f"-f {folder}" for folder in (SAMPLES, crd_folder()) if folder.is_dir())
        stays = f"CRDs and samples stay on {target.name}; remove them with: kubectl delete {folders}"
        click.echo(f"Ended. {stays if folders else ''}" if target.given else "Ended, and the cluster with it.")
