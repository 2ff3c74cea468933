from __future__ import annotations

from pathlib import Path

import pytest

from devkit.object_files import read
from runner.errors import ConfigurationError

HEAD = "apiVersion: v1\nkind: Thing\n"


def test_objects_and_where_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(f"{HEAD}metadata: {{name: one}}\n---\n---\n{HEAD}metadata: {{name: two}}\n")
    Path("b.yaml").write_text(f"{HEAD}metadata: {{name: three}}\n")
    assert [(at, obj["metadata"]["name"]) for at, obj in read("a.yaml")] == [
        ("a.yaml, document 1", "one"),
        ("a.yaml, document 2", "two"),
    ]
    assert [at for at, _ in read("b.yaml")] == ["b.yaml"]


def test_kustomize_s_own_files_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "k.yaml"
    path.write_text("{apiVersion: kustomize.config.k8s.io/v1beta1, kind: Kustomization, resources: [a.yaml]}")
    assert read(str(path)) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cr.yaml: No such file or directory; name a file"),
        (b"\xff", "cr.yaml: not UTF-8 text"),
        (b"a: 1\nb: [", "cr.yaml:2: no valid YAML"),
        (b"a: 2026-13-45", "cr.yaml: no valid YAML"),
        (b"- 1", "cr.yaml: expected an object with apiVersion, kind and metadata, found [1]"),
        (b"kind: Thing", "cr.yaml: apiVersion: expected text, found None"),
        (b"{apiVersion: v1, kind: Thing, metadata: 5}", "cr.yaml: metadata.name: expected text, found None"),
        (b"{apiVersion: v1, kind: Thing, metadata: {name: 1}}", "cr.yaml: metadata.name: expected text, found 1"),
        (b"{apiVersion: v1, kind: Thing, metadata: {name: a, namespace: 1}}", "cr.yaml: metadata.namespace: expected text"),
    ],
    ids=["missing", "bytes", "yaml", "no date", "list", "no version", "no metadata", "number", "namespace"],
)
def test_a_mistake_names_file_and_key(
    content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("cr.yaml").write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        read("cr.yaml")
    assert str(raised.value).startswith(message)
