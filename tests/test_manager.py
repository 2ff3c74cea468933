"""Parts of the composition root that stand on their own. The rest: tests/behaviour."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from runner import manager
from runner.control import Request
from runner.control.handlers import Handlers
from runner.control.reconciler import Reconciler
from runner.errors import ConfigurationError
from runner.executor.run_folder import RunFolders
from runner.resource.metadata import ObjectKey
from tests.control.test_handlers import THING

SOON = 30.0


async def test_a_part_that_fails_is_begun_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(manager, "_FIRST_REST", 0.001)
    begun = 0

    async def part() -> None:
        nonlocal begun
        begun += 1
        if begun < 4:
            raise TypeError("unhashable type: 'list'")

    async with asyncio.timeout(SOON), asyncio.TaskGroup() as tasks:
        tasks.create_task(manager.supervise("a part", part))
    assert begun == 4
    assert [record.__dict__["part"] for record in caplog.records] == ["a part"] * 3


async def test_what_the_user_can_mend_ends_it() -> None:
    async def part() -> None:
        raise ConfigurationError("no such namespace")

    with pytest.raises(ConfigurationError):
        await manager.supervise("a part", part)


async def test_only_crs_that_were_not_listed_are_asked_for_when_folders_are_cleared_up(tmp_path: Path) -> None:
    """After a restart in its pod an operator has a folder for each of its CRs."""

    class Asked:
        def __init__(self) -> None:
            self.names: list[str] = []

        async def clear_up(self, request: Request) -> None:
            self.names.append(request.key.name)

    asked, folders = Asked(), RunFolders(tmp_path)
    gvk = THING.gvk
    names = [f"cr-{number}" for number in range(5)]
    for name in (*names, "gone"):
        env = folders.folder((gvk.group, gvk.version, gvk.kind, "default", name)) / "env"
        env.mkdir(parents=True)
        (env / "extravars").touch()
    handlers = Handlers([THING], lambda request, priority, after: None)
    clearing = asyncio.create_task(manager.clear_up(cast(Reconciler, asked), handlers, folders, THING))
    await asyncio.sleep(0)
    for name in names:
        handlers.primary(THING, None, {"metadata": {"name": name, "namespace": "default", "uid": name, "generation": 1}})
    assert not clearing.done()
    handlers.listed(THING, "", {ObjectKey("default", name) for name in names})
    async with asyncio.timeout(SOON):
        await clearing
    assert asked.names == ["gone"]
    folders.close()


async def test_a_line_that_is_no_order_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Told:
        def __init__(self) -> None:
            self.kinds: list[Any] = []

        def requeue_kinds(self, kinds: list[str]) -> None:
            self.kinds.append(kinds)

    told, stop = Told(), asyncio.Event()
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        heeding = asyncio.create_task(manager.requeue_from_stdin(cast(Handlers, told), stop))
        lines = ["{", '"text"', "[1]", "[" * 50_000, '["a"]']

        def write() -> None:
            with os.fdopen(writing, "w") as file:
                file.write("".join(line + "\n" for line in lines))

        await asyncio.to_thread(write)
        async with asyncio.timeout(SOON):
            await heeding
    assert stop.is_set()
    assert told.kinds == [["a"]]
    assert len(caplog.records) == len(lines) - 1


def test_the_dashboard_is_loaded_only_where_it_is_asked_for() -> None:
    code = "import sys, runner.manager; sys.exit(any(name.startswith('runner.dashboard') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)
