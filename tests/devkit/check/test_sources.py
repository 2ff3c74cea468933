from __future__ import annotations

import os
from pathlib import Path

import pytest

from devkit.check import sources
from devkit.check.findings import Finding


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "no valid YAML: did not find expected node content"),
        (b"a: 1\n b: 2", "2: no valid YAML: mapping values are not allowed"),
        (b"[" * 200_000, "no valid YAML: exceeded maximum nesting depth"),
        (b"\xff\xfe\x00", "0: not UTF-8 text"),
        (b"a: \x07", "0: no valid YAML: "),
        (b"a: *b", "1: no valid YAML: found undefined alias"),
        (b"#" * (sources.MAX_BYTES + 1), "0: is larger than"),
    ],
    ids=["open", "indent", "deep", "bytes", "control", "alias", "large"],
)
def test_a_file_that_cannot_be_read_is_a_finding(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_bytes(content)
    found = sources.read(tmp_path / "a.yml", tmp_path)
    assert isinstance(found, Finding)
    assert message in f"{found.line}: {found.message}"


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yml")
    assert isinstance(sources.read(tmp_path / "a.yml", tmp_path), Finding)
    assert isinstance(sources.read(tmp_path / ("x" * 5000), tmp_path), Finding)
