"""Files that only their owner may read."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from runner.private_files import below_shared, owners_of, update_private, write_private


def test_a_private_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_private(path, "longer than what follows")
    write_private(path, "é")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("é", 0o600)
    with pytest.raises(FileExistsError):
        write_private(path, "", new=True)


def test_an_update_writes_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (b"one", b"one and more", b"one", b""):
        update_private(path, content)
        assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (content, 0o600)
    before = path.stat().st_mtime_ns
    update_private(path, b"")
    assert path.stat().st_mtime_ns == before


def test_a_folder_below_a_shared_one(tmp_path: Path) -> None:
    shared, inner = tmp_path / "shared", tmp_path / "shared/own/inner"
    inner.mkdir(parents=True)
    shared.chmod(0o1777)
    assert shared / "own" in below_shared(inner)
    assert inner not in below_shared(inner)
    (tmp_path / "link").symlink_to(inner)
    assert owners_of(tmp_path / "link") == {inner.stat().st_uid}
