"""What `rolerunner plan` makes of a file. What a plan says is in tests/behaviour/test_dry_runs.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.plan import _merge_patch, read
from runner.settings import ConfigurationError
from tests.control.test_workqueue import watch

THING = watch("Thing")
FILE = Path("watches.yaml")


@pytest.mark.parametrize(
    ("last", "new", "patch"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1, "b": 1}, {"a": 1}, {"a": 1, "b": None}),
        ({"spec": {"a": 1, "b": {"c": 1}}}, {"spec": {"b": {}}}, {"spec": {"a": None, "b": {"c": None}}}),
        ({"spec": 1}, {"spec": {"a": 1}}, {"spec": {"a": 1}}),
        ({"list": [1, 2]}, {"list": [2]}, {"list": [2]}),
    ],
    ids=["never applied", "taken out", "nested", "another type", "list"],
)
def test_what_was_taken_out_of_a_file_goes(last: dict[str, Any], new: dict[str, Any], patch: dict[str, Any]) -> None:
    assert _merge_patch(last, new) == patch


def test_the_crs_of_several_files(tmp_path: Path) -> None:
    gvk = THING.gvk
    head = f"apiVersion: {gvk.api_version}\nkind: {gvk.kind}\n"
    (tmp_path / "a.yaml").write_text(f"{head}metadata: {{name: one}}\n---\n---\n{head}metadata: {{name: two}}\n")
    (tmp_path / "b.yaml").write_text(f"{head}metadata: {{name: three}}\n")
    found = read([str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")], [THING], watches_file=FILE)
    assert [cr.content["metadata"]["name"] for cr in found] == ["one", "two", "three"]
    assert [cr.where.removeprefix(f"{tmp_path}/") for cr in found] == ["a.yaml, document 1", "a.yaml, document 2", "b.yaml"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cr.yaml: No such file or directory; name a file"),
        (b"\xff", "cr.yaml: not UTF-8 text"),
        (b"a: 1\nb: [", "cr.yaml:2: no valid YAML"),
        (b"a: 2026-13-45", "cr.yaml: no valid YAML"),
        (b"kind: Thing", "cr.yaml: apiVersion: expected text, found None"),
        (b"{apiVersion: v1, kind: Thing, metadata: {name: 1}}", "cr.yaml: metadata.name: expected text, found 1"),
    ],
    ids=["missing", "bytes", "yaml", "no date", "no version", "number"],
)
def test_a_mistake_names_the_file(
    content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("cr.yaml").write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        read(["cr.yaml"], [THING], watches_file=FILE)
    assert str(raised.value).startswith(message)
