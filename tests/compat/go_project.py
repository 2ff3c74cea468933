"""The Go project's own end-to-end projects, run on rolerunner: `python -m tests.compat.go_project FOLDER`.

FOLDER is a project as operator-framework/ansible-operator-plugins keeps it in testdata/memcached-molecule-operator, or a
checkout of that repository: then its "advanced" project is put together and run as well.

Each project gets a cluster of its own and goes through its own molecule scenario: converge.yml installs its CRDs, RBAC and
manager, and then each of molecule/default/tasks/*_test.yml is run by ansible-playbook as it stands. Differences to what the
Go project does:

- The manager's pod runs on paper, as all pods of the devcluster. rolerunner runs on this machine in its place, with the
  arguments, environment and working directory of that Deployment and image, and as its ServiceAccount.
- Commands in pods are run by programs that stand in for the containers' (`Scenario.stand_ins`), and what a container has
  logged stands in a file.
- `kustomize build` is `kubectl kustomize`. prepare.yml only chooses the image, which nobody pulls.
- Paths of the image are paths of a temporary copy.

The exit code is 0 if no check failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ansible_runner
import click
import yaml

from bench.driver import RUN, Operator, running, tidy_on_sigterm, until
from devkit.devcluster import Cluster as Devcluster
from devkit.devcluster import DevclusterError
from tests.compat import advanced
from tests.conftest import lines

NAMESPACE = "osdk-test"

# What the image has: its folder, its Python, and a file by which a role remembers, which must not outlive the run.
HOME, PYTHON, MARKER = "/opt/ansible", "/usr/local/bin/python3", "/tmp/metricsbumped"

# What the container `sleep` of the "advanced" project is asked to log.
LOGGED = "Running...\n"

# `curl -k` in the manager's pod, whose manager is elsewhere.
CURL = """#!{python}
import ssl, sys, urllib.request
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
name, _, value = sys.argv[sys.argv.index("-H") + 1].partition(": ")
request = urllib.request.Request({url!r}, headers={{name: value}})
with urllib.request.urlopen(request, context=context) as response:
    sys.stdout.write(response.read().decode())
"""

# The manager's own flags come first; of two, the last counts. These are what this machine has otherwise than a pod.
ELSEWHERE = (
    *("--proxy-port=0", "--health-probe-bind-address=127.0.0.1:0", "--metrics-bind-address=127.0.0.1:0"),
    *(f"--leader-election-namespace={NAMESPACE}", "--log-format=json"),
)


@dataclass
class Report:
    """One line a check."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def ok(self, what: str) -> None:
        self.passed += 1
        click.echo(f"{click.style('pass', fg='green')}     {what}")

    def fail(self, what: str, why: str) -> None:
        self.failed += 1
        click.echo(f"{click.style('FAILED', fg='red')}   {what}: {why}")

    def skip(self, what: str, why: str) -> None:
        self.skipped += 1
        click.echo(f"{click.style('skipped', fg='yellow')}  {what} ({why})")

    def close(self) -> int:
        click.echo(f"{self.passed} passed, {self.skipped} skipped, {self.failed} failed")
        return 1 if self.failed else 0


@dataclass
class Scenario:
    """A copy of a project, its cluster, and how its playbooks are run there."""

    project: Path
    scratch: Path
    cluster: Devcluster
    report: Report
    _token: str = field(default="", repr=False)

    @property
    def exec_dir(self) -> Path:
        return self.scratch / "exec"

    @property
    def molecule(self) -> Path:
        return self.project / "molecule" / "default"

    def play(self, playbook: Path, title: str) -> bool:
        """Run a playbook against the cluster; each of its tasks is a check. Whether none failed."""
        failures = self.report.failed

        def handle(event: dict[str, Any]) -> bool:
            data = event.get("event_data") or {}
            what = f"{title}: {data.get('task')}"
            if event["event"] == "runner_on_ok":
                self.report.ok(what)
            elif event["event"] == "runner_on_skipped":
                self.report.skip(what, "its condition does not hold here")
            elif event["event"] in ("runner_on_failed", "runner_on_unreachable") and not data.get("ignore_errors"):
                self.report.fail(what, str(data.get("res", {}).get("msg", "")))
            return False

        folder = self.scratch / "checks" / title
        folder.mkdir(parents=True)
        done = ansible_runner.run(
            private_data_dir=str(folder),
            project_dir=str(self.molecule),
            playbook=str(playbook),
            inventory=f"localhost ansible_connection=local ansible_python_interpreter={sys.executable}",
            extravars={
                "namespace": NAMESPACE,
                "config_dir": str(self.project / "config"),
                "samples_dir": str(self.project / "config" / "samples"),
                "kustomize": str(self._kustomize()),
                "molecule_yml": {"scenario": {"name": "default"}},
            },
            envvars={
                "K8S_AUTH_KUBECONFIG": str(self.cluster.kubeconfig),
                "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            },
            quiet=True,
            event_handler=handle,
            # Without it, ansible-runner would take SIGTERM and SIGINT for its own.
            cancel_callback=lambda: False,
        )
        if done.rc and self.report.failed == failures:
            self.report.fail(title, "ansible-playbook could not run it:\n" + done.stdout.read())
        return self.report.failed == failures

    def check(self, tasks: Path) -> None:
        """One of the files that verify.yml includes, in a play that is otherwise verify.yml's."""
        name = tasks.stem.removesuffix("_test")
        (play,) = yaml.safe_load((self.molecule / "verify.yml").read_text())
        playbook = self.molecule / f"verify_{name}.yml"
        playbook.write_text(yaml.safe_dump([{**play, "tasks": [{"ansible.builtin.import_tasks": f"tasks/{tasks.name}"}]}]))
        self.play(playbook, name)

    def stand_ins(self, metrics_url: str) -> None:
        """What containers answer: `echo` and `bash` as on this machine, `cat` the token, `curl` the operator's metrics."""
        for name in ("bash", "echo"):
            program = shutil.which(name)
            assert program, f"there is no {name} on this machine"
            (self.exec_dir / name).symlink_to(program)
        token = _write(self.scratch / "token", self._token)
        _program(self.exec_dir / "cat", f"#!/bin/sh\nexec /bin/cat {token}\n")
        _program(self.exec_dir / "curl", CURL.format(python=sys.executable, url=metrics_url))
        (self.exec_dir / "logs").mkdir()
        (self.exec_dir / "logs" / "sleep.log").write_text(LOGGED)

    def _kustomize(self) -> Path:
        """kustomize, as far as kubectl is one."""
        text = f'#!/bin/sh\n[ "$1" = build ] && shift && exec {self.cluster.kubectl} kustomize "$@"\n'
        return _program(self.scratch / "kustomize", text)

    def manager(self) -> dict[str, Any]:
        """The manager's pod, as converge.yml made its Deployment."""
        text = self._kubectl("get", "deployments", "--namespace", NAMESPACE, "--output", "json")
        (deployment,) = json.loads(text)["items"]
        spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
        return spec

    def kubeconfig(self, account: str) -> Path:
        """A kubeconfig for the manager's ServiceAccount."""
        self._token = self._kubectl("create", "token", account, "--namespace", NAMESPACE, "--duration", "10h").strip()
        config = json.loads(self.cluster.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": self._token}
        return _write(self.scratch / "kubeconfig", json.dumps(config))

    def _kubectl(self, *arguments: str) -> str:
        command = [str(self.cluster.kubectl), "--kubeconfig", str(self.cluster.kubeconfig), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def run(project: Path, report: Report) -> None:
    """One project, on a cluster of its own."""
    scratch = Path(tempfile.mkdtemp(prefix="rolerunner-compat-"))
    try:
        copy = scratch / "project"
        shutil.copytree(project, copy)
        relocate(copy, {HOME: str(copy), PYTHON: sys.executable, MARKER: str(scratch / "marker")})
        as_in_the_image(copy)
        (scratch / "exec").mkdir()
        with Devcluster.start(exec_dir=scratch / "exec") as cluster:
            scenario = Scenario(copy, scratch, cluster, report)
            if scenario.play(scenario.molecule / "converge.yml", "converge"):
                with operating(scenario) as operator:
                    for tasks in sorted((scenario.molecule / "tasks").glob("*_test.yml")):
                        scenario.check(tasks)
                ended = operator.process.returncode
                if ended or "Traceback" in operator.output:
                    report.fail("operator", f"it ended with exit code {ended}, or with a traceback in its log")
                else:
                    report.ok("operator: no traceback in its log, and exit code 0")
    finally:
        if report.failed or os.environ.get("KEEP"):
            click.echo(f"Kept: {scratch}/operator.log, {scratch}/runs")
        else:
            shutil.rmtree(scratch)


@contextlib.contextmanager
def operating(scenario: Scenario) -> Iterator[Operator]:
    """rolerunner in the manager's place, once it watches."""
    pod = scenario.manager()
    (container,) = pod["containers"]
    environ = {entry["name"]: entry.get("value", NAMESPACE) for entry in container.get("env", ())}
    relocated = {name: value.replace(HOME, str(scenario.project)) for name, value in environ.items()}
    arguments = [argument.replace(HOME, str(scenario.project)) for argument in container["args"]]
    config = scenario.kubeconfig(pod["serviceAccountName"])
    with running(
        [*RUN, *arguments, *ELSEWHERE, f"--runs-dir={scenario.scratch / 'runs'}"],
        folder=scenario.project,
        log=scenario.scratch / "operator.log",
        # As in the image, the home folder is the project's.
        environ={"KUBECONFIG": str(config), "HOME": str(scenario.project), **relocated},
    ) as operator:

        async def watching() -> bool:
            if operator.process.poll() is not None:
                raise AssertionError(f"the operator ended:\n{operator.output[-4000:]}")
            return bool(lines(operator, "Watching"))

        asyncio.run(until(watching, "the operator watches"))
        (serving,) = lines(operator, "Serving metrics")
        scenario.stand_ins(f"https://{serving['address']}/metrics")
        yield operator


def relocate(project: Path, paths: dict[str, str]) -> None:
    """Let the project's files mean this machine's paths where they mean the image's."""
    for path in project.rglob("*"):
        if path.is_file():
            text = path.read_text()
            for old, new in paths.items():
                text = text.replace(old, new)
            path.write_text(text)


def as_in_the_image(project: Path) -> None:
    """The base image's ansible.cfg, unless the project's Dockerfile puts its own in that place."""
    with contextlib.suppress(FileExistsError), open(project / "ansible.cfg", "x") as file:
        file.write(f"[defaults]\nroles_path = {project}/roles\n")


def _write(path: Path, text: str) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
    return path


def _program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o700)
    return path


def projects(folder: Path, scratch: Path) -> Iterator[Path]:
    if (folder / "molecule" / "default").is_dir():
        yield folder
        return
    memcached = folder / "testdata" / "memcached-molecule-operator"
    if not (memcached.is_dir() and (folder / advanced.GENERATOR).is_dir()):
        raise click.UsageError(f"{folder} is neither an operator with molecule/default nor a checkout of the Go project")
    yield memcached
    click.echo(f"adapted  {advanced.ADAPTED}")
    yield advanced.assemble(folder, like=memcached, into=scratch / "advanced-molecule-operator")


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True))
def main(folder: Path) -> None:
    tidy_on_sigterm()
    report = Report()
    with tempfile.TemporaryDirectory() as scratch:
        for project in projects(folder, Path(scratch)):
            click.echo(f"{project.name}:")
            try:
                run(project, report)
            except (DevclusterError, AssertionError) as error:
                report.fail(project.name, str(error))
    sys.exit(report.close())


if __name__ == "__main__":
    main()
