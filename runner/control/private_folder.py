"""The folder that a run has for itself: its kubeconfigs and its temporary files. It is removed when the run is over.

Next on the way: `runner.executor.jobs`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from runner.private_files import write_private

# Kubeconfigs for clients written in Go and in Python (see `proxy.sessions.kubeconfigs`); temporary files.
_FOR_GO, _FOR_PYTHON, SCRATCH = "kubeconfig", "kubeconfig-python", "tmp"
# Bytes of a kubeconfig from which a run has put something else in its place.
_BIG = 64 * 1024


@contextlib.asynccontextmanager
async def private_folder(parent: Path) -> AsyncIterator[Path]:
    """A new folder for the runner's own user alone, for the length of the block. Raises OSError."""
    folder = _create(parent)
    try:
        yield folder
    finally:
        if not _remove_at_once(folder):
            # How much a run has left there is up to it; a thread finishes this also when this is cancelled.
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def write_kubeconfigs(folder: Path, for_go: str, for_python: str) -> dict[str, str]:
    """Write a run's kubeconfigs; the environment variables by which its clients find them. Raises OSError."""
    write_private(folder / _FOR_GO, for_go, new=True)
    write_private(folder / _FOR_PYTHON, for_python, new=True)
    return {
        "KUBECONFIG": str(folder / _FOR_GO),
        "K8S_AUTH_KUBECONFIG": str(folder / _FOR_PYTHON),
        # kubectl names its cache by the server's URL, which has the token in it.
        "KUBECACHEDIR": str(folder / "cache"),
    }


def _create(parent: Path) -> Path:
    folder = parent / f"run-{uuid.uuid4().hex[:8]}"
    try:
        os.mkdir(folder, 0o700)
    except FileNotFoundError:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.mkdir(folder, 0o700)
    return folder


def _remove_at_once(folder: Path) -> bool:
    """Remove the folder if the run has left nothing there besides its own inputs; False if it has."""
    path = str(folder)
    try:
        for name in (_FOR_GO, _FOR_PYTHON):
            if os.lstat(f"{path}/{name}").st_size > _BIG:
                return False
            os.unlink(f"{path}/{name}")
        os.rmdir(f"{path}/{SCRATCH}")
        os.rmdir(path)
    except OSError:
        return False
    return True
