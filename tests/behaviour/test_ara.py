"""ARA, the recorder of runs, works by configuration alone: its list has each run once, whole, and of its own CR."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.driver import Cluster, Operator, condition, until
from runner.resource.metadata import ObjectKey
from tests.behaviour.test_runs import counted
from tests.conftest import THING, Project, lines, port_of, thing

TASKS = """
- name: Who
  ansible.builtin.debug: {msg: "{{ ansible_operator_meta.name }} {{ round }}"}
- name: Loop
  ansible.builtin.debug: {msg: "{{ item }}"}
  loop: [1, 2]
- name: Hidden
  ansible.builtin.debug: {msg: "{{ password }}"}
  no_log: true
- name: The cluster
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: "{{ ansible_operator_meta.name }}", namespace: "{{ ansible_operator_meta.namespace }}"}
      data: {round: "{{ round | string }}"}
- name: Fail
  ansible.builtin.fail: {msg: boo}
  when: round == 2
"""
ROUNDS = (1, 2, 3)


@dataclass
class Ara:
    """An API server, or the folder of the database that the offline client has; `environ`: what an operator needs for it."""

    url: str
    environ: dict[str, str]

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}", timeout=60) as answer:
            return json.load(answer)

    def all(self, kind: str, **query: object) -> list[dict[str, Any]]:
        given = "&".join(f"{name}={value}" for name, value in query.items())
        found = self.get(f"{kind}?limit=1000&{given}")
        return [self.get(f"{kind}/{each['id']}") for each in found["results"]]


@pytest.fixture
def ara(tmp_path: Path) -> Iterator[Ara]:
    folder = tmp_path / "ara"
    folder.mkdir()
    environ = {**os.environ, "ARA_BASE_DIR": str(folder)}
    command = [sys.executable, "-m", "ara.server"]
    subprocess.run([*command, "migrate"], check=True, capture_output=True, env=environ)
    plugins = subprocess.run(
        [sys.executable, "-m", "ara.setup.callback_plugins"], check=True, capture_output=True, text=True
    )
    with open(tmp_path / "ara.log", "wb") as log:
        server = subprocess.Popen(
            [*command, "runserver", "--noreload", "127.0.0.1:0"], env=environ, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield Ara(
            f"http://127.0.0.1:{port_of(server)}",
            {"ANSIBLE_CALLBACK_PLUGINS": plugins.stdout.strip(), "ARA_BASE_DIR": str(folder)},
        )
    finally:
        server.kill()
        server.wait()


async def is_up(ara: Ara) -> None:
    async def answers() -> bool:
        with contextlib.suppress(OSError):
            return bool(ara.get(""))
        return False

    await until(answers, "ARA's server answers")


async def play(project: Project, world: Cluster, namespace: str, **environ: str) -> Operator:
    """Two CRs, each with a run for each round, all of which are over when this returns."""
    project.role(TASKS)
    project.watch()
    executor = environ.pop("executor")
    operator = await project.start(
        f"--executor={executor}", "--max-concurrent-runs=1", "--ansible-args=--diff", "--log-level=debug", **environ
    )
    for number in ROUNDS:
        for name in ("one", "two"):
            key = ObjectKey(namespace, name)
            given: dict[str, Any] = {"round": number, "password": f"secret of {name}"}
            if number == 1:
                await world.create(thing(name, **given), namespace)
            else:
                await world.patch(THING, key, {"spec": given})
            if number == 2:
                await counted(operator, name, 1, "Run failed")
                # It is tried again with backoff until its spec changes.
                continue
            await counted(operator, name, 1 if number == 1 else 2)
    assert condition(await world.get(THING, ObjectKey(namespace, "one")), "Failure").get("status") != "True"
    assert operator.stop() == 0
    return operator


def of_cr(playbook: Mapping[str, Any]) -> str:
    """The name of the CR, by the path of the play, as `ara playbook list` shows it."""
    return Path(playbook["path"]).parts[-3]


def check(ara: Ara, operator: Operator, namespace: str) -> None:
    """All that ARA has of the runs, against what the operator said of them."""
    playbooks = ara.all("playbooks")
    for name in ("one", "two"):
        own = sorted((each for each in playbooks if of_cr(each) == name), key=lambda each: each["id"])
        ended = [line for line in lines(operator, "Run succeeded", name=name) + lines(operator, "Run failed", name=name)]
        ended.sort(key=lambda line: line["ts"])
        told = ["completed" if line["msg"] == "Run succeeded" else "failed" for line in ended]
        assert [each["status"] for each in own] == told
        assert {"completed", "failed"} == set(told)
        for playbook in own:
            assert playbook["path"].endswith(f"test.example.com/v1/Thing/{namespace}/{name}/project/main.json")
            assert playbook["arguments"]["diff"] is True
            tasks = {each["id"]: each for each in ara.all("tasks", playbook=playbook["id"])}
            results = {
                tasks[each["task"]["id"]]["name"].removeprefix("thing : "): each
                for each in ara.all("results", playbook=playbook["id"])
            }
            assert set(results) == {"Who", "Loop", "Hidden", "The cluster", "Fail"}
            has_failed = playbook["status"] == "failed"
            assert results["Fail"]["status"] == ("failed" if has_failed else "skipped")
            who, number = results["Who"]["content"]["msg"].split()
            assert (who, int(number) == 2) == (name, has_failed)
            assert [item["item"] for item in results["Loop"]["content"]["results"]] == [1, 2]
            assert "censored" in results["Hidden"]["content"]
            made = results["The cluster"]["content"]["result"]
            assert (made["metadata"]["name"], made["data"]) == (name, {"round": number})
            (host,) = ara.all("hosts", playbook=playbook["id"])
            assert (host["ok"], host["failed"], host["skipped"]) == (4, int(has_failed), int(not has_failed))
            files = ara.all("files", playbook=playbook["id"])
            assert {"main.json", "main.yml"} == {Path(each["path"]).name for each in files}
    assert len(playbooks) == sum(len(lines(operator, text)) for text in ("Run succeeded", "Run failed"))


@pytest.mark.parametrize("executor", ["warm", "subprocess"])
async def test_its_server_has_each_run(project: Project, world: Cluster, namespace: str, ara: Ara, executor: str) -> None:
    await is_up(ara)
    environ = {**ara.environ, "ARA_API_CLIENT": "http", "ARA_API_SERVER": ara.url}
    operator = await play(project, world, namespace, executor=executor, **environ)
    check(ara, operator, namespace)
    # What the role did not hide is there; the CR's own fields and the run's token are not.
    database = (Path(ara.environ["ARA_BASE_DIR"]) / "ansible.sqlite").read_bytes()
    assert b"secret of" not in database
    if executor == "warm":
        runs = lines(operator, "A worker has played a run")
        assert [line["retired"] for line in runs] == [""] * len(runs)
        assert max(line["number"] for line in runs) == len(runs)


async def test_the_offline_client_has_each_run(project: Project, world: Cluster, namespace: str, ara: Ara) -> None:
    await is_up(ara)
    operator = await play(project, world, namespace, executor="warm", **ara.environ, ARA_API_CLIENT="offline")
    check(ara, operator, namespace)
    # The client has a server of its own, in a thread.
    assert {line["retired"] for line in lines(operator, "A worker has played a run")} == {"thread"}
    (told,) = lines(operator, "A run has left something in its worker, which is not used again")
    assert told["reason"] == "thread"
