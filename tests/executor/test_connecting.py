"""The run's own kubeconfig is read once in a run, and others each time."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.executor.connecting import Connections
from runner.executor.orders import environment


class World:
    """A kubernetes.core that notes down what it is asked, and a Kubernetes client with a default."""

    def __init__(self, own: Path) -> None:
        self.default: Any = "that of an earlier one"
        self.asked: list[dict[str, Any]] = []
        self.defaults: list[Any] = []
        connections = Connections(self._create, self._set_default)
        connections.own = str(own)
        self.create = connections.create

    def _create(self, auth: dict[str, Any]) -> object:
        self.asked.append(dict(auth))
        self.defaults.append(self.default)
        self.default = object()
        return self.default

    def _set_default(self, default: Any) -> None:
        self.default = default


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    path.write_text("{}")
    return path


@pytest.fixture
def world(own: Path) -> World:
    return World(own)


def test_the_same_is_read_once(world: World, own: Path) -> None:
    auth = {"kubeconfig": str(own), "verify_ssl": None}
    assert world.create(auth) is world.create(dict(auth))
    assert len(world.asked) == 1


def test_what_differs_is_read_again(world: World, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auth = {"kubeconfig": str(own)}
    world.create(auth)
    world.create({**auth, "context": "other"})
    world.create(auth)
    monkeypatch.setenv("HTTPS_PROXY", "http://elsewhere")
    world.create(auth)
    own.write_text("{ }")
    os.utime(own, ns=(1, 1))
    world.create(auth)
    assert len(world.asked) == 5


def test_none_begins_with_what_an_earlier_one_has_left(world: World, own: Path) -> None:
    world.create({"kubeconfig": str(own)})
    world.create({"kubeconfig": str(own), "host": "https://elsewhere", "api_key": "x"})
    assert world.defaults == [None, None]


def test_what_is_read_once_is_the_default_as_if_it_had_been_read_again(world: World, own: Path) -> None:
    created = [world.create({"kubeconfig": path}) for path in (str(own), "/elsewhere", str(own), str(own))]
    assert world.default is created[-1]


@pytest.mark.parametrize("kubeconfig", [None, "/elsewhere", {"clusters": []}], ids=str)
def test_others_are_read_each_time(world: World, kubeconfig: Any) -> None:
    for _ in range(2):
        world.create({"kubeconfig": kubeconfig})
    assert len(world.asked) == 2


def test_one_that_a_task_has_put_into_the_environment_is_not_the_runs_own(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_text("{}")
    monkeypatch.setenv("K8S_AUTH_KUBECONFIG", str(other))
    for _ in range(2):
        world.create({"kubeconfig": str(other)})
    assert len(world.asked) == 2


WITHOUT = """
from runner.executor import connecting

def unknown():
    raise LookupError("another kubernetes.core")

connecting.check = unknown
from runner.executor.jobs import Limits
from runner.executor.worker import Warm

warm = Warm(Limits())
print(sorted(warm.inline), warm.left_out)
"""


def test_modules_of_which_one_could_reach_anothers_cluster_are_not_called_in_the_process() -> None:
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT], env={**os.environ, **environment()}, check=True, capture_output=True, text=True
    )
    assert told.stdout.strip() == "[] {'connections': 'another kubernetes.core'}"


def test_one_api_is_imported_without_all_others() -> None:
    """The client's deprecated package has them all; kubernetes.core's k8s_exec asks it for one."""
    program = (
        "import sys; from runner.executor.connecting import shorten_imports; shorten_imports(); "
        "from kubernetes.client.apis import core_v1_api; from kubernetes.client.api import CoreV1Api; "
        "assert core_v1_api.CoreV1Api is CoreV1Api; print('kubernetes.client.api.apps_v1_api' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
