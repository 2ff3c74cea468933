"""A CR's life beyond its runs: deletion at any time, kinds of the core group, operators side by side."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.driver import Cluster, condition, until
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.behaviour.test_runs import SAY_HELLO, counted, failed, succeeded
from tests.conftest import THING, Project, lines, paths_below, thing

SECRET = GroupVersionKind("", "v1", "Secret")

WAIT_FOR_FILE = """
- name: Wait
  ansible.builtin.wait_for: {path: "{{ file }}", timeout: 300}
"""


async def gone(world: Cluster, key: ObjectKey) -> None:
    async def is_gone() -> bool:
        return await world.get(THING, key) is None

    await until(is_gone, f"{key} is gone")


def made(path: Path) -> Any:
    async def exists() -> bool:
        return path.exists()

    return until(exists, f"{path} is there")


@pytest.mark.parametrize("guarded", [False, True], ids=["without-finalizer", "with-finalizer"])
async def test_a_cr_deleted_during_its_run(project: Project, world: Cluster, one: ObjectKey, guarded: bool) -> None:
    started, go_on, cleaned = (project.folder / name for name in ("started", "go-on", "cleaned"))
    project.role(f"- ansible.builtin.file: {{path: {started}, state: touch}}\n" + WAIT_FOR_FILE)
    project.role(f"- ansible.builtin.file: {{path: {cleaned}, state: touch}}\n", name="clean")
    finalizer = {"finalizer": {"name": "example.com/clean", "role": "clean"}} if guarded else {}
    project.watch(vars={"file": str(go_on)}, **finalizer)
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await made(started)
    await world.delete(THING, one)
    go_on.touch()
    await counted(operator, "one", 1)
    await gone(world, one)
    assert cleaned.exists() is guarded
    await counted(operator, "one", 1, "The CR is gone")
    assert not [path for path in paths_below(project.runs) if path.name == "one" and path.is_dir()]
    assert lines(operator, "Run failed") == []


async def test_a_finalizer_that_fails_keeps_the_cr(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SAY_HELLO)
    project.role("- ansible.builtin.fail: {msg: not yet}\n", name="clean")
    project.watch(finalizer={"name": "example.com/clean", "role": "clean"})
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    await world.delete(THING, one)
    obj = await until(lambda: failed(world, one), "the status tells the failure")
    assert condition(obj, "Failure")["message"] == "not yet"
    assert obj["metadata"]["finalizers"] == ["example.com/clean"]  # type: ignore[index]
    await counted(operator, "one", 2, "Run failed")
    project.role(SAY_HELLO, name="clean")
    await gone(world, one)


async def test_without_a_finalizer_of_the_watch_a_deletion_is_left_alone(
    project: Project, world: Cluster, one: ObjectKey
) -> None:
    project.role(SAY_HELLO)
    project.watch()
    operator = await project.start()
    others = thing()
    others["metadata"]["finalizers"] = ["example.com/somebody-elses"]
    await world.create(others, one.namespace)
    obj = await succeeded(world, one)
    assert obj["metadata"]["finalizers"] == ["example.com/somebody-elses"]  # type: ignore[index]
    await world.delete(THING, one)
    # Its reconcile is over before the other's begins.
    await world.create(thing("two"), one.namespace)
    await counted(operator, "two", 1)
    assert len(lines(operator, "Running", name="one")) == 1
    await world.patch(THING, one, {"metadata": {"finalizers": []}})
    await gone(world, one)


async def test_a_kind_of_the_core_group(project: Project, world: Cluster, one: ObjectKey) -> None:
    """A Secret has neither a spec, a status nor a generation."""
    project.role("""
- ansible.builtin.copy:
    dest: "{{ out }}"
    content: "{{ __secret.data.a | b64decode }} {{ ansible_operator_meta.name }} {{ __secret_spec | default('none') }}"
""")
    out = project.folder / "out"
    labels = {"watched": "yes"}
    project.watch(SECRET, manageStatus=False, vars={"out": str(out)}, selector={"matchLabels": labels})
    operator = await project.start()
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "one", "labels": labels}, "stringData": {"a": "1"}}
    await world.create(secret, one.namespace)
    await counted(operator, "one", 1)
    assert out.read_text().startswith("1 one ")
    await world.patch(SECRET, one, {"stringData": {"a": "2"}})
    await counted(operator, "one", 2)
    assert out.read_text().startswith("2 one ")
    assert [line for line in lines(operator, "Run failed") if line] == []


async def test_two_operators_in_one_cluster(
    project: Project, world: Cluster, one: ObjectKey, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each has its own kinds' CRs, by selector here; neither runs the other's."""
    project.role(SAY_HELLO)
    project.watch(selector={"matchLabels": {"of": "first"}})
    other = Project(tmp_path_factory.mktemp("other"), project.kubeconfig, project.namespace)
    other.role(SAY_HELLO)
    other.watch(selector={"matchLabels": {"of": "second"}})
    first = await project.start()
    try:
        second = await other.start()
        for name in ("first", "second"):
            obj = thing(name)
            obj["metadata"]["labels"] = {"of": name}
            await world.create(obj, one.namespace)
        for operator, name in ((first, "first"), (second, "second")):
            await counted(operator, name, 1)
            await world.patch(THING, ObjectKey(one.namespace, name), {"spec": {"size": 1}})
        # The second run comes after what the other operator would have made of the CR's creation.
        for operator, name in ((first, "first"), (second, "second")):
            await counted(operator, name, 2)
        assert lines(first, "Running", name="second") + lines(second, "Running", name="first") == []
    finally:
        for operator in other.operators:
            operator.kill()


async def test_a_host_that_cannot_be_reached(project: Project, world: Cluster, one: ObjectKey) -> None:
    play = [
        {"hosts": "localhost", "tasks": [{"ansible.builtin.add_host": {"name": "away", "ansible_connection": "ssh"}}]},
        {
            "hosts": "away",
            "gather_facts": False,
            "vars": {"ansible_host": "127.0.0.1", "ansible_port": 1},
            "tasks": [{"ansible.builtin.ping": {}}],
        },
    ]
    (project.folder / "play.yml").write_text(yaml.safe_dump(play))
    project.watch(playbook="play.yml")
    await project.start()
    await world.create(thing(), one.namespace)
    obj = await until(lambda: failed(world, one), "the status tells the failure")
    # Its words are ssh's, or tell that there is none here; localhost itself had no failure.
    assert condition(obj, "Failure")["message"]
    assert condition(obj, "Failure")["ansibleResult"]["failures"] == 0
