"""Files that only their owner may read, and who owns a folder that stands below a world-writable one such as /tmp."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def write_private(path: Path | str, text: str | bytes, *, new: bool = False) -> None:
    """Write a file with mode 0600, replacing the content of an existing one; FileExistsError if it is to be `new`."""
    content = text.encode() if isinstance(text, str) else text
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_EXCL if new else os.O_TRUNC), 0o600)
    try:
        _write_all(descriptor, content)
    finally:
        os.close(descriptor)


def update_private(path: Path | str, content: bytes) -> None:
    """As `write_private`, for a file that mostly has this content already: then nothing is written.

    What is truncated before it is written, some file systems bring to the disk at once.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.read(descriptor, len(content) + 1) != content:
            os.lseek(descriptor, 0, os.SEEK_SET)
            _write_all(descriptor, content)
            os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def below_shared(folder: Path) -> list[Path]:
    """The folder and those of its parents that stand in a shared (sticky) folder, where anybody may have made them."""
    return [path for path in (folder, *folder.parents) if path.parent.stat().st_mode & stat.S_ISVTX]


def owners_of(path: Path) -> set[int]:
    """The user ids of a file's owner and, for a symbolic link, of the link's owner."""
    return {path.lstat().st_uid, path.stat().st_uid}
