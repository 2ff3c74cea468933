from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runner.dashboard import access, dry_runs
from tests.control.test_workqueue import SOON
from tests.dashboard.stage import KEY, Stage

if TYPE_CHECKING:
    from playwright.async_api import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, no namespace is left out of a page, and no dry run is given up."""
    monkeypatch.setattr(access, "_PATIENCE", SOON)
    monkeypatch.setattr(dry_runs, "_PATIENCE", SOON)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Callers have tokens."""
    async with Stage.serving(tmp_path) as made:
        made.show()
        yield made


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Stage]:
    """Callers have dev's key."""
    async with Stage.serving(tmp_path / "local", key=KEY) as made:
        made.show()
        yield made


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    # Tests without a browser need no package of one.
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        # Root's processes have no sandbox.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        made = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield made
        await made.close()
