"""What goes on beside the runs, and ends nothing when it goes wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from runner import manager
from runner.control.reconciler import Reconciler
from runner.executor.artifacts import RunFolders
from runner.kube.client import Unreachable
from runner.kube.discovery import Discovery, Resource
from runner.kube.informer import Informers
from runner.resource.metadata import GroupVersionKind
from tests.control.test_workqueue import watch

SECRET = Resource(GroupVersionKind("", "v1", "Secret"), "secrets", True, frozenset({"list", "watch"}))


@pytest.mark.parametrize("error", [Unreachable("away"), KeyError("odd"), RecursionError("deep")], ids=repr)
async def test_a_related_kind_is_watched_once_its_trouble_is_over(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "_LOOK_AGAIN", 0.001)
    answers: list[Any] = [error, None, SECRET]
    watched: list[Resource] = []

    class Found:
        async def by_kind(self, gvk: GroupVersionKind) -> Resource | None:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return cast(Resource | None, answer)

    class Watched:
        def ensure(self, resource: Resource) -> None:
            watched.append(resource)

    async with asyncio.timeout(60):
        await manager._watch_related(SECRET.gvk, cast(Discovery, Found()), cast(Informers, Watched()))
    assert watched == [SECRET]


async def test_one_folder_that_cannot_be_cleared_up_is_told_and_keeps_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    thing = watch("Thing")
    tried: list[str] = []

    class Clears:
        async def clear_up(self, request: Any) -> None:
            tried.append(request.key.name)
            if request.key.name == "bad":
                raise OSError("no")

    class Folders:
        def left_over(self, kind: tuple[str, ...]) -> list[tuple[str, ...]]:
            return [("default", "bad"), ("default", "good")]

    await manager._clear_up(cast(Reconciler, Clears()), cast(RunFolders, Folders()), [thing])
    assert tried == ["bad", "good"]
    assert [record.getMessage() for record in caplog.records] == ["A folder could not be cleared up"]
