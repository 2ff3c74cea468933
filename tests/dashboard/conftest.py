from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runner.dashboard import access
from tests.control.test_workqueue import SOON
from tests.dashboard.stage import KEY, Stage


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, no namespace is left out of a page."""
    monkeypatch.setattr(access, "_PATIENCE", SOON)


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
