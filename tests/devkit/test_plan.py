"""What `rolerunner plan` makes of a file. What a plan says is in tests/behaviour/test_dry_runs.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from devkit.plan import _merge_patch, read
from runner.errors import ConfigurationError
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
    text = f"apiVersion: {THING.gvk.api_version}\nkind: {THING.gvk.kind}\nmetadata: {{name: %s}}\n"
    for name in ("one", "two"):
        (tmp_path / name).write_text(text % name)
    found = read([str(tmp_path / "one"), str(tmp_path / "two")], [THING], watches_file=FILE)
    assert [cr.content["metadata"]["name"] for cr in found] == ["one", "two"]
    with pytest.raises(ConfigurationError, match=r"kind: no watch for .*; it has "):
        read([str(tmp_path / "one")], [watch("Other")], watches_file=FILE)
