from __future__ import annotations

from pathlib import Path

import pytest

from devkit.manifests.markers import Marker, YamlFile
from devkit.yaml_nodes import pairs
from runner.errors import ConfigurationError


def read(tmp_path: Path, text: str) -> dict[str, list[Marker]]:
    (tmp_path / "file.yml").write_text(text)
    document = YamlFile(tmp_path / "file.yml")
    return {name: document.markers(key) for name, key, _ in pairs(document.roots[0])}


def test_a_marker_is_about_what_it_stands_above_or_behind(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "# +rolerunner:minimum=1\n# words\n#+rolerunner:nullable\na: 1\nb: 2  # +rolerunner:maximum=3\n"
        "# +rolerunner:name=x\n\nc: '# no comment'\n",
    )
    assert [marker.name for marker in found["a"]] == ["minimum", "nullable"]
    assert [marker.name for marker in found["b"]] == ["maximum"]
    assert found["c"] == []


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("pattern=^[a-z]: #,=$", "pattern", "^[a-z]: #,=$"),
        ("pattern=' quoted '", "pattern", " quoted "),
        ("items:pattern=^a:b$", "items:pattern", "^a:b$"),
        ("shortNames=a;b", "shortNames", "a;b"),
    ],
    ids=["as-it-stands", "quoted", "of-items", "words"],
)
def test_a_value_is_the_rest_of_the_line(tmp_path: Path, text: str, name: str, expected: str) -> None:
    (marker,) = read(tmp_path, f"a: 1  # +rolerunner:{text}\n")["a"]
    assert (marker.name, marker.string()) == (name, expected)


def test_a_composite_has_fields(tmp_path: Path) -> None:
    text = '# +rolerunner:printcolumn:name=A,jsonPath=\'.a[?(@.b=="c,d")]\', description="x, y",flag\na: 1\n'
    (marker,) = read(tmp_path, text)["a"]
    assert marker.fields == {"name": "A", "jsonPath": '.a[?(@.b=="c,d")]', "description": "x, y", "flag": "true"}


@pytest.mark.parametrize(
    "text", ["rbac", "rbac=groups", "scale:", "scale:a=b,,c"], ids=["bare", "a-value", "empty", "broken"]
)
def test_a_broken_composite_is_told_with_its_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"file\.yml:1: \+rolerunner:\w+: write it as"):
        read(tmp_path, f"# +rolerunner:{text}\na: 1\n")


def test_broken_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"file\.yml:3: no valid YAML"):
        read(tmp_path, "a: 1\nb: [\n")
