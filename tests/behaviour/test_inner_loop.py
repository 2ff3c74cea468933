"""`rolerunner dev`: an edit takes effect, and runs again what it concerns and nothing else."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pexpect
import pytest
import yaml

from bench.driver import FREE_PORTS, PATIENCE, ROOT, RUN, Cluster, Operator, condition, crd, until
from devkit.devcluster import Cluster as Devcluster
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.conftest import THING, Project, alive, replace_file, thing

CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")
OTHER = GroupVersionKind("test.example.com", "v1", "Loner")
PLAYED = GroupVersionKind("test.example.com", "v1", "Played")
DEV = (sys.executable, "-m", "runner", "dev")
FLAGS = ("--", "--role-metrics-bind-address=0")


def config(text: str) -> str:
    return f"""
- name: The text is there
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata: {{name: "{{{{ ansible_operator_meta.name }}}}", namespace: "{{{{ ansible_operator_meta.namespace }}}}"}}
      data: {{text: {text}}}
"""


def fill(project: Project) -> None:
    """Things by a role, Playeds by a playbook that has the same role in it, Loners by a role of their own."""
    project.role(config("first"))
    project.role("[]", name="loner")
    project.watch()
    project.watch(OTHER, role="loner")
    (project.folder / "playbooks").mkdir()
    (project.folder / "playbooks" / "played.yml").write_text("- hosts: localhost\n  gather_facts: false\n  roles: [thing]\n")
    project.watch(PLAYED, playbook="playbooks/played.yml")
    (project.folder / "crds").mkdir()
    samples = project.folder / "config" / "samples"
    samples.mkdir(parents=True)
    for gvk in (THING, OTHER, PLAYED):
        (project.folder / "crds" / f"{gvk.kind}.yaml").write_text(yaml.safe_dump(crd(gvk)))
        (samples / f"{gvk.kind}.yaml").write_text(yaml.safe_dump(thing(gvk.kind.lower(), gvk)))


@pytest.fixture
async def session(world: Cluster, project: Project) -> AsyncIterator[Operator]:
    fill(project)
    # As a process with a log: what `rolerunner dev` says.
    dev = Operator(
        [*DEV, "--yes", f"--namespace={project.namespace}", *FLAGS],
        folder=project.folder,
        log=project.folder / "dev.log",
        environ={
            "KUBECONFIG": str(project.kubeconfig),
            "ANSIBLE_GATHERING": "explicit",
            "PYTHONUNBUFFERED": "1",
            # One that is killed leaves its run folders.
            "TMPDIR": str(project.folder),
        },
    )
    yield dev
    dev.kill()


def said(session: Operator, text: str) -> int:
    return session.output.count(text)


async def heard(session: Operator, text: str, times: int = 1) -> None:
    async def there() -> bool:
        assert session.process.poll() is None, session.output
        return said(session, text) >= times

    try:
        await until(there, text)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{session.output}") from None


async def test_edits(session: Operator, world: Cluster, project: Project) -> None:
    namespace = project.namespace
    for gvk in (THING, OTHER, PLAYED):
        await heard(session, f"{gvk.kind} {namespace}/{gvk.kind.lower()}: ok in ")
    assert said(session, "applied crds/Thing.yaml: CustomResourceDefinition things.test.example.com") == 1
    assert said(session, "applied config/samples/Thing.yaml: Thing thing") == 1

    async def has(gvk: GroupVersionKind, text: str) -> bool:
        found = await world.get(CONFIG_MAP, ObjectKey(namespace, gvk.kind.lower()))
        return bool((found or {}).get("data", {}).get("text") == text)

    def runs(gvk: GroupVersionKind) -> int:
        return said(session, f"{gvk.kind} {namespace}/{gvk.kind.lower()}: running")

    before = {gvk: runs(gvk) for gvk in (THING, OTHER, PLAYED)}
    project.role(config("second"))
    await heard(session, f"roles/thing/tasks/main.yml: runs again: {PLAYED}, {THING}\n")
    for gvk in (THING, PLAYED):
        await heard(session, f"{gvk.kind} {namespace}/{gvk.kind.lower()}: ok in ", times=2)
        await until(lambda gvk=gvk: has(gvk, "second"), "the edited role was run")
    assert runs(OTHER) == before[OTHER] == 1

    project.role("- name: Broken\n  ansible.builtin.fail: {msg: this one}\n", name="loner")
    await heard(session, f"Loner {namespace}/loner: task 'Broken' failed, roles/loner/tasks/main.yml:1\n    this one\n")
    project.role("- name: Broken\n  ansible.builtin.fail: [\n", name="loner")
    await heard(session, f"{project.folder}/roles/loner/tasks/main.yml:3")
    project.role("[]", name="loner")
    await heard(session, f"Loner {namespace}/loner: ok in ", times=2)

    watches = project.folder / "watches.yaml"
    good = watches.read_text()
    replace_file(watches, good + "  rle: thing\n")
    await heard(session, "watches.yaml:13: rle: unknown key; known here: ")
    await heard(session, "; what was there before stays in use\n")
    assert said(session, "; what was there before stays in use\n") == 1
    project.role(config("third"))
    await heard(session, f"Thing {namespace}/thing: ok in ", times=3)
    await until(lambda: has(THING, "third"), "the edited role was run")
    assert said(session, "watching ") == 1
    replace_file(watches, good)
    await heard(session, "watches.yaml: the operator starts again\n")
    await heard(session, "watching ", times=2)

    path = project.folder / "crds" / "Thing.yaml"
    changed = crd(THING)
    changed["spec"]["names"]["shortNames"] = ["thg"]
    replace_file(path, yaml.safe_dump(changed))
    await heard(session, "applied crds/Thing.yaml", times=2)
    definition = await world.get(
        GroupVersionKind("apiextensions.k8s.io", "v1", "CustomResourceDefinition"), ObjectKey("", "things.test.example.com")
    )
    assert definition is not None
    assert definition["spec"]["names"]["shortNames"] == ["thg"]
    replace_file(path, "a: [\n")
    await heard(session, "crds/Thing.yaml:2: no valid YAML: ")

    pids = session.processes()
    assert len(pids) > 2
    session.process.send_signal(signal.SIGINT)
    assert session.wait() == 0, session.output
    assert alive(pids) == []
    assert session.output.rstrip().endswith("remove them with: kubectl delete -f config/samples -f crds")
    sample = await world.get(THING, ObjectKey(namespace, "thing"))
    assert condition(sample, "Running") != {}


async def test_the_operator_ends_with_a_dev_that_is_killed(session: Operator, project: Project) -> None:
    await heard(session, "watching ")
    pids = session.processes()
    session.process.kill()

    async def gone() -> bool:
        return alive(pids) == []

    await until(gone, "no process is left")


def terminal(project: Project, *arguments: str, **environ: str) -> Any:
    return pexpect.spawn(
        DEV[0],
        [*DEV[1:], *arguments],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ANSIBLE_GATHERING": "explicit", "TERM": "xterm", **environ},
        dimensions=(24, 100),
        encoding="utf-8",
        timeout=PATIENCE,
    )


def test_it_asks_before_it_works_on_a_given_cluster(project: Project) -> None:
    fill(project)
    dev = terminal(project, KUBECONFIG=str(project.kubeconfig))
    dev.expect(r"CRDs, samples and an operator on context '\S+' \(https://127.0.0.1:\d+\)\? \[y/N\]")
    dev.sendline("n")
    dev.expect("Aborted!")
    dev.expect(pexpect.EOF)
    assert dev.wait() == 1
    dev.close()


async def test_without_a_terminal_it_wants_a_yes(world: Cluster, project: Project, devcluster: Devcluster) -> None:
    fill(project)
    dev = Operator(
        list(DEV), folder=project.folder, log=project.folder / "dev.log", environ={"KUBECONFIG": str(devcluster.kubeconfig)}
    )
    assert dev.wait() == 1
    assert dev.output.startswith("Error: dev would work on context ")
    assert "https://127.0.0.1:" in dev.output
    assert "give --yes to go on" in dev.output


def test_on_a_terminal_there_is_a_table_and_the_cluster_ends_with_it(project: Project, tmp_path: Path) -> None:
    fill(project)
    state, stand_ins = tmp_path / "state", tmp_path / "stand-ins"
    stand_ins.mkdir()
    dev = terminal(project, "--devcluster", "--exec-dir", str(stand_ins), *FLAGS, XDG_STATE_HOME=str(state))
    dev.expect("watching Thing, Loner, Played in all namespaces, on a development cluster")
    dev.expect(r"rolerunner dev on a development cluster: 3 ok\. Ctrl-C ends it\.")
    dev.expect(r"Dashboard: http://127\.0\.0\.1:\d+/\?key=")
    dev.expect(r"✓.*Thing default/thing +ok \d, changed 1, failed 0 +\d+\.\d s  \d\d:\d\d:\d\d")
    project.role("- name: Broken\n  ansible.builtin.fail: {msg: this one}\n", name="loner")
    dev.expect("task 'Broken' failed, roles/loner/tasks/main.yml:1")
    dev.expect("this one")
    dev.expect(r"✗.*Loner default/loner +in task 'Broken'")
    assert (state / "rolerunner" / "devcluster" / "default" / "exec").resolve() == stand_ins
    dev.sendintr()
    dev.expect("Ended, and the cluster with it.")
    dev.expect(pexpect.EOF)
    assert dev.wait() == 0
    dev.close()
    assert not (state / "rolerunner" / "devcluster" / "default").exists()


async def test_the_dashboard_stays_open_when_the_operator_is_restarted(session: Operator, project: Project) -> None:
    await heard(session, "watching ")
    (link,) = re.findall(r"dashboard: (http://127\.0\.0\.1:[0-9]+/\?key=\S+)", session.output)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(link) as answer:
            assert (answer.status, answer.url.path_qs) == (200, "/")
        with (project.folder / "watches.yaml").open("a") as file:
            file.write("# edited\n")
        await heard(session, "the operator starts again")
        await heard(session, "watching ", times=2)
        async with browser.get(answer.url) as answer:
            assert answer.status == 200
    # It is the same one, and need not be said again.
    assert said(session, "dashboard: ") == 1


async def test_an_operator_that_cannot_watch_yet_ends_with_its_standard_input(project: Project, tmp_path: Path) -> None:
    """As when `rolerunner dev` is killed and its cluster ends with it."""
    project.role("[]")
    project.watch()
    kubeconfig = tmp_path / "nowhere"
    cluster = {"name": "nowhere", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "nowhere", "context": {"cluster": "nowhere", "user": "nobody"}}
    user = {"name": "nobody", "user": {}}
    config = {"clusters": [cluster], "contexts": [context], "users": [user], "current-context": "nowhere"}
    kubeconfig.write_text(yaml.safe_dump(config))
    operator = await asyncio.create_subprocess_exec(
        *(*RUN, *FREE_PORTS, "--requeue-from-stdin", f"--runs-dir={tmp_path / 'runs'}"),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=project.folder,
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
    )
    _, output = await asyncio.wait_for(operator.communicate(b'["no kind"]\n'), PATIENCE)
    assert operator.returncode == 0, output.decode()
