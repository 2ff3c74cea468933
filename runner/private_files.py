"""Whose a folder is where others could have made it: below a world-writable one such as /tmp."""

from __future__ import annotations

import stat
from pathlib import Path


def below_shared(folder: Path) -> list[Path]:
    """The folder and those above it that stand in a shared (sticky) one, in which anybody may have made them first."""
    return [path for path in (folder, *folder.parents) if path.parent.stat().st_mode & stat.S_ISVTX]


def owners_of(path: Path) -> set[int]:
    """The user ids of a file's owner and, if it is a link, of the link's."""
    return {path.lstat().st_uid, path.stat().st_uid}
