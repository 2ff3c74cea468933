from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.control import reconciliation, status
from runner.executor.run_folder import RunFolders
from tests.control.stage import GUARDED, Stage
from tests.control.test_workqueue import SOON


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolders]:
    monkeypatch.setattr(reconciliation, "_WRITE_PAUSE", 0.0)
    # A run is not announced because the machine is busy.
    monkeypatch.setattr(status, "_ANNOUNCE_AFTER", SOON)
    with contextlib.closing(RunFolders(tmp_path / "runs")) as made:
        yield made


@pytest.fixture
def stage(folders: RunFolders) -> Stage:
    return Stage(folders)


@pytest.fixture
def guarded(folders: RunFolders) -> Stage:
    made = Stage(folders, GUARDED)
    metadata = {**made.cr["metadata"], "finalizers": ["example.com/clean"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    made.server.obj = {**made.cr, "metadata": metadata}
    return made
