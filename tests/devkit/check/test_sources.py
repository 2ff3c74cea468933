"""YAML files as nodes, whatever stands in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from devkit.check import sources
from devkit.check.findings import Finding
from devkit.check.sources import Source

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


def read(folder: Path, text: str) -> Source:
    (folder / "a.yml").write_text(text)
    found = sources.read(folder / "a.yml", folder)
    assert isinstance(found, Source)
    return found


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


def test_tags_do_nothing_and_their_text_is_no_template(tmp_path: Path) -> None:
    (root,) = read(tmp_path, "- !!python/object/apply:os.system [exit]\n- !unsafe '{{ a }}'\n- '{{ b }}'\n").roots
    assert [node.value for node in sources.scalars(root)] == ["exit", "{{ b }}"]


@pytest.mark.parametrize("text", [LAUGHS, "&a [*a, x, *a]", "&a {b: *a, c: x}"], ids=["laughs", "itself", "mapping"])
def test_aliases_are_looked_at_once(text: str, tmp_path: Path) -> None:
    (root,) = read(tmp_path, text).roots
    assert sum(node.value == "x" for node in sources.scalars(root)) <= 2


def test_merge_keys_bring_entries_and_own_ones_win(tmp_path: Path) -> None:
    (root,) = read(tmp_path, "base: &b {a: 1, b: 2}\nboth:\n  <<: [*b, {c: 3}]\n  a: 9\nself: &s\n  <<: *s\n  a: 1\n").roots
    assert {name: value.value for name, _, value in sources.pairs(sources.entry(root, "both"))} == {
        "a": "9",
        "b": "2",
        "c": "3",
    }
    assert [name for name, *_ in sources.pairs(sources.entry(root, "self"))] == ["a"]


def test_what_is_no_mapping_has_no_entries() -> None:
    assert sources.pairs(None) == []
    assert sources.pairs(yaml.compose("[a]")) == []
    assert sources.entry(yaml.compose("{a: {b: c}}"), "a", "b", "c") is None
