"""The folders of the runs, in ansible-runner's layout: one a CR, bounded, owner-only, and gone when the CR is.

ROOT/GROUP/VERSION/KIND/NAMESPACE/NAME/   env/ inventory/ project/   the inputs of the latest run
                                          artifacts/IDENT/           what a run left
                                          artifacts/latest           a link to the last one
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

ARTIFACTS = "artifacts"


class ArtifactsError(Exception):
    """The root of the run folders cannot be used; `str()` says why and what to do."""


class RunFolders:
    """The folders below one root, each found by its parts (group, version, kind, namespace, name)."""

    def __init__(self, root: Path) -> None:
        """Take the root, for this process alone. Raises ArtifactsError."""
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if root.stat().st_uid != os.geteuid():
                # In a world-writable /tmp somebody else may have been there first.
                raise ArtifactsError(f"{root} belongs to another user; name another folder with --runs-dir")
            root.chmod(0o700)
            self._lock = open(root / ".lock", "w")  # noqa: SIM115 - held as long as the process lives
        except OSError as error:
            raise ArtifactsError(f"{root}: {error.strerror}; name another folder with --runs-dir") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ArtifactsError(f"{root} is in use by another runner; name another folder with --runs-dir") from error
        self.root = root

    def folder(self, parts: Sequence[str]) -> Path:
        """Where the runs of one CR are kept; empty parts (no group, no namespace) are left out."""
        return self.root.joinpath(*filter(None, parts))

    def remove(self, parts: Sequence[str]) -> None:
        folder = self.folder(parts)
        shutil.rmtree(folder, ignore_errors=True)
        for parent in folder.parents:
            if parent == self.root:
                break
            with contextlib.suppress(OSError):
                parent.rmdir()

    def left_over(self, kind_parts: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """(namespace, name) or (name,) of each CR of a kind that has a folder here, perhaps from an earlier process."""
        base = self.folder(kind_parts)
        for inner in base.glob(f"*/{ARTIFACTS}"):
            yield (inner.parent.name,)
        for inner in base.glob(f"*/*/{ARTIFACTS}"):
            if inner.parent.parent.name != ARTIFACTS:
                yield (inner.parent.parent.name, inner.parent.name)

    def close(self) -> None:
        self._lock.close()


def write_private(path: Path, text: str) -> None:
    """Write a file that is its owner's alone, in the place of what may stand there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def settle(folder: Path, ident: str, keep: int | None) -> None:
    """After a run: keep what it left, and no more than `keep` runs' (0: all); None: nothing of it."""
    if keep is None:
        shutil.rmtree(folder / ARTIFACTS / ident, ignore_errors=True)
        return
    link_latest(folder, ident)
    rotate(folder, keep)


def link_latest(folder: Path, ident: str) -> None:
    """Point `artifacts/latest` at this run; never without a link in between."""
    latest = folder / ARTIFACTS / "latest"
    fresh = latest.with_name(f".latest-{ident}")
    try:
        fresh.symlink_to(ident)
        fresh.replace(latest)
    except OSError as error:
        logger.warning("The link to the latest artifacts could not be set", extra={"path": str(latest), "error": str(error)})


def rotate(folder: Path, keep: int) -> None:
    """Remove the oldest runs' artifacts beyond `keep`; 0 keeps all."""
    if keep <= 0:
        return
    runs = [path for path in (folder / ARTIFACTS).iterdir() if path.is_dir() and not path.is_symlink()]
    runs.sort(key=lambda path: path.stat().st_mtime)
    for path in runs[:-keep]:
        shutil.rmtree(path, ignore_errors=True)
