"""What each patch of ansible-core saves a run, in processor time: `python -m bench.patches`.

Each patch is left out of a worker of its own. Such a worker and one with all patches play the same jobs in turn, a few runs
each, so that other work of the machine hits both alike. There is no cluster: an HTTP server of a few lines answers as an
API server would, and its time does not count. Without a patch that puts the process back, the worker is used all the same.
Printed are lower quartiles, as other work of the machine can only add to a run, and the difference of the medians.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import resource
import signal
import socket
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from bench import projects
from runner.executor.environment import COLLECTIONS, environment
from runner.executor.jobs import Job, JobMessage, Limits
from runner.executor.run_folder import write_inputs
from runner.proxy.sessions import kubeconfigs

# Runs in a row of one worker; the first of them, for which the processor has another one's memory, is left out.
BLOCK = 5
# Runs of each worker before it is measured.
UNCOUNTED = 4
# So many times as slow needs no further measuring.
FAR = 3
RESOURCES = {
    "/api/v1": [{"name": "configmaps", "singularName": "configmap", "kind": "ConfigMap"}],
    "/apis/apps/v1": [{"name": "deployments", "singularName": "deployment", "kind": "Deployment"}],
}
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
GROUP = {"groupVersion": "apps/v1", "version": "v1"}
DISCOVERY: dict[str, Any] = {
    "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "groups": [{"name": "apps", "versions": [GROUP], "preferredVersion": GROUP}]},
    **{
        path: {
            "kind": "APIResourceList",
            "groupVersion": path.removeprefix("/api/").removeprefix("/apis/"),
            "resources": [{**each, "namespaced": True, "verbs": VERBS} for each in resources],
        }
        for path, resources in RESOURCES.items()
    },
}


@dataclass(frozen=True, slots=True)
class Project:
    name: str
    role: Path
    facts: bool


@dataclass(frozen=True, slots=True)
class Saving:
    """Milliseconds of processor time of the runs with a patch, and of those without."""

    with_it: list[float]
    without: list[float]

    def __str__(self) -> str:
        usual, more = (statistics.quantiles(each, n=4)[0] for each in (self.with_it, self.without))
        medians = statistics.median(self.without) - statistics.median(self.with_it)
        return (
            f"with {usual:7.1f} ms, without {more:7.1f} ms: {more - usual:6.2f} ms, {100 * (more - usual) / usual:5.1f} % "
            f"(medians {medians:6.2f} ms)"
        )


class ApiServer(BaseHTTPRequestHandler):
    """Keeps objects of two kinds as they come."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    objects: dict[str, Any] = {}  # noqa: RUF012 - one for all requests

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self._answer(DISCOVERY.get(path) or self.objects.get(path))

    def do_POST(self) -> None:
        found = self._body()
        self.objects[f"{urlsplit(self.path).path}/{found['metadata']['name']}"] = found
        self._answer(found)

    def do_PATCH(self) -> None:
        path = urlsplit(self.path).path
        if path in self.objects:
            self.objects[path] = merged(self.objects[path], self._body())
        self._answer(self.objects.get(path))

    def log_message(self, *_: Any) -> None:
        pass

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, found: Any) -> None:
        text = json.dumps(found or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def merged(value: Any, patch: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(patch, dict):
        return patch
    return {**value, **{name: merged(value.get(name), each) for name, each in patch.items()}}


def forked(work: Callable[[], None]) -> int:
    if pid := os.fork():
        return pid
    try:
        # This process' own, which a worker would run after each job.
        atexit._clear()
        work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


@contextmanager
def api_server() -> Iterator[int]:
    """The port of one that is a process of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), ApiServer) as server:
        pid = forked(server.serve_forever)
        try:
            yield server.server_port
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


class Worker:
    """A process that plays jobs without the patch of this name; "" for one with all patches."""

    def __init__(self, left_out: str, folder: Path, port: int) -> None:
        self.left_out = left_out
        self._folder, self._port, self._count = folder, port, 0
        self._jobs, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._pid = forked(lambda: self._work(theirs))

    def close(self) -> None:
        self._jobs.close()
        os.waitpid(self._pid, 0)

    def play(self, project: Project) -> float:
        """Milliseconds of processor time of one run, its child processes' included."""
        self._count += 1
        ours, theirs = socket.socketpair()
        with ours, ours.makefile("rw", encoding="utf-8") as stream:
            with theirs:
                socket.send_fds(self._jobs, [b'{"again": true}'], [theirs.fileno()])
            stream.write(json.dumps(self._message(project)) + "\n")
            stream.flush()
            events = [json.loads(line) for line in stream]
        failed = [event for event in events if event.get("event") == "runner_on_failed"]
        if events[-1]["done"] or failed or not events:
            raise SystemExit(f"a run without {self.left_out!r} failed: {failed or events[-1:]}")
        self._jobs.recv(1024)
        return 1000 * float(self._jobs.recv(1024))

    def _message(self, project: Project) -> JobMessage:
        ident, name = f"{self._count}", self._folder.name
        kubeconfig = self._folder / "kubeconfig"
        kubeconfig.write_text(kubeconfigs(f"token-{ident}", port=self._port, namespace="bench")[1])  # type: ignore[arg-type]
        job = Job(
            ident=ident,
            folder=self._folder / "run",
            scratch=self._folder / "scratch",
            role=project.role,
            data={"ansible_operator_meta": {"name": name, "namespace": "bench"}, "size": self._count},
            environment={"KUBECONFIG": str(kubeconfig), "K8S_AUTH_KUBECONFIG": str(kubeconfig)},
            verbosity=2,
            secrets=(f"token-{ident}",),
            pool="bench",
        )
        write_inputs(job)
        return {**job.message(), "gather_facts": project.facts}

    def _work(self, server: socket.socket) -> None:
        from runner.executor.patches import registry
        from runner.executor.warm import worker

        self._jobs.close()
        tempfile.tempdir = str(self._folder)
        install, wait = registry.install, worker._next
        registry.install = lambda patches: install([patch for patch in patches if patch.name != self.left_out])
        worker._NEEDED_BY_WORKERS = frozenset()
        warm = worker.LoadedAnsible(Limits())
        warm.warm_up()
        if warm._facts is not None:
            os.waitpid(forked(lambda: warm.gather_facts()), 0)
        put_back = warm._put_back
        warm._put_back = lambda reason: (put_back(reason), ("", ""))[1]  # type: ignore[method-assign]
        gc.collect()
        gc.freeze()
        begun = 0.0

        def waited(server: socket.socket) -> Any:
            nonlocal begun
            if begun:
                server.send(str(processor_time() - begun).encode())
            found = wait(server)
            begun = processor_time()
            return found

        worker._next = waited
        warm.serve(server)


def processor_time() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def names() -> list[str]:
    """Of all patches; found in a process that has none of them."""
    from runner.executor.patches import registry
    from runner.executor.warm import worker

    ours, theirs = socket.socketpair()

    def tell() -> None:
        install = registry.install
        known: list[str] = []

        def noted(patches: Any) -> Any:
            patches = list(patches)
            known.extend(patch.name for patch in patches)
            return install(patches)

        registry.install = noted
        worker.LoadedAnsible(Limits())
        theirs.sendall(json.dumps(known).encode())

    with ours, theirs:
        os.waitpid(forked(tell), 0)
        found: list[str] = json.loads(ours.recv(65536))
        return found


def measured(full: Worker, other: Worker, project: Project, rounds: int) -> Saving:
    saving = Saving([], [])
    for _ in range(rounds):
        for worker, taken in ((full, saving.with_it), (other, saving.without)):
            taken += [worker.play(project) for _ in range(BLOCK)][1:]
    return saving


def prepared(folder: Path, wanted: set[str]) -> list[Project]:
    made = []
    for name, tasks, facts in (("one", 1, False), ("one, facts", 1, True), ("ten", 10, False)):
        if not wanted or name in wanted:
            role = projects.write(folder / name.replace(", ", "-"), tasks=tasks) / "roles" / "memcached"
            made.append(Project(name, role, facts))
    return made


def settled(folder: Path) -> None:
    """As if written long ago: what is younger is parsed each time."""
    for path in folder.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))


@click.command(help=__doc__)
@click.option("--rounds", default=8, show_default=True, help="Turns of each pair of workers.")
@click.option("--patch", "chosen", multiple=True, help="This patch alone (several times: these).")
@click.option("--project", "wanted", multiple=True, help="One of: one; one, facts; ten.")
def main(rounds: int, chosen: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    from runner.executor.warm import forkserver

    os.environ.update(environment())
    sys.path.insert(0, str(COLLECTIONS))
    with tempfile.TemporaryDirectory(prefix="rolerunner-patches-") as made:
        folder = Path(made)
        all_projects = prepared(folder, set(wanted))
        settled(folder)
        with api_server() as port, forkserver.environment_of_a_run(made):
            from ansible.release import __version__

            click.echo(f"ansible-core {__version__}, {rounds} rounds of {BLOCK} runs")
            left_out = chosen or names()

            def worker(name: str, number: int) -> Worker:
                own = folder / f"w{number}"
                own.mkdir()
                return Worker(name, own, port)

            full = worker("", 0)
            for number, name in enumerate(left_out, 1):
                other = worker(name, number)
                for project in all_projects:
                    usual, slow = ([each.play(project) for _ in range(UNCOUNTED)][-2:] for each in (full, other))
                    is_far = min(slow) > FAR * max(usual)
                    saving = Saving(usual, slow) if is_far else measured(full, other, project, rounds)
                    click.echo(f"{name:20} {project.name:12} {saving}")
                other.close()
            full.close()


if __name__ == "__main__":
    main()
