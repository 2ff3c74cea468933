"""The run's own kubeconfig is read once in a run, and others each time."""

import os
from pathlib import Path
from typing import Any

import pytest

from runner.executor.connecting import create_configuration


class Original:
    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(self, auth: dict[str, Any]) -> object:
        self.asked.append(dict(auth))
        return object()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kubeconfig"
    path.write_text("{}")
    monkeypatch.setenv("K8S_AUTH_KUBECONFIG", str(path))
    return path


def test_the_same_is_read_once(own: Path) -> None:
    original = Original()
    create = create_configuration(original)
    assert create({"kubeconfig": str(own), "verify_ssl": None}) is create({"kubeconfig": str(own), "verify_ssl": None})
    assert len(original.asked) == 1


def test_what_differs_is_read_again(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Original()
    create = create_configuration(original)
    auth = {"kubeconfig": str(own)}
    create(auth)
    create({**auth, "context": "other"})
    create(auth)
    monkeypatch.setenv("HTTPS_PROXY", "http://elsewhere")
    create(auth)
    own.write_text("{ }")
    os.utime(own, ns=(1, 1))
    create(auth)
    assert len(original.asked) == 5


@pytest.mark.parametrize("kubeconfig", [None, "/elsewhere", {"clusters": []}], ids=str)
def test_others_are_read_each_time(own: Path, kubeconfig: Any) -> None:
    original = Original()
    create = create_configuration(original)
    for _ in range(2):
        create({"kubeconfig": kubeconfig})
    assert len(original.asked) == 2


def test_outside_a_run(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("K8S_AUTH_KUBECONFIG")
    original = Original()
    create = create_configuration(original)
    for _ in range(2):
        create({"kubeconfig": str(own)})
    assert len(original.asked) == 2
