from typing import Any

import pytest

from runner.resource.comparison import changed_fields, content, declared, differ, in_place_of_generation, manifest


def obj(**parts: Any) -> dict[str, Any]:
    metadata = {"name": "one", "resourceVersion": "5", "managedFields": [{}], **parts.pop("metadata", {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **parts}


def test_the_content_is_without_what_changes_with_every_write() -> None:
    assert content(obj(status={"ready": True})) == {**obj(status={"ready": True}), "metadata": {"name": "one"}}


@pytest.mark.parametrize(
    ("parts", "metadata"),
    [
        ({"status": {"ready": True}}, {}),
        ({}, {"annotations": {"deployment.kubernetes.io/revision": "2"}}),
    ],
    ids=["status", "a controller's annotation"],
)
def test_what_kubernetes_keeps_for_itself_is_not_declared(parts: dict[str, Any], metadata: dict[str, Any]) -> None:
    assert declared(obj(**parts, metadata=metadata)) == declared(obj())


def test_a_claims_binding_is_not_declared() -> None:
    claim = {**obj(spec={"size": 1}), "kind": "PersistentVolumeClaim"}
    assert declared({**claim, "spec": {"size": 1, "volumeName": "x"}}) == declared(claim)
    assert declared({**claim, "spec": {"size": 2}}) != declared(claim)


def test_kind_and_finalizers_count_for_no_generation() -> None:
    listed = {name: value for name, value in obj(metadata={"finalizers": ["x"]}).items() if name in ("metadata",)}
    assert in_place_of_generation(listed) == in_place_of_generation(obj())


def test_a_manifest_is_without_the_servers_metadata() -> None:
    copy = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    full = obj(data={"a": "1"}, status={}, metadata={"uid": "x", "generation": 1, "annotations": copy})
    assert manifest(full) == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "1"}}


def test_what_nests_too_deep_to_be_compared_differs() -> None:
    def deep() -> list[Any]:
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]
        return value

    assert differ(deep(), deep())
    assert not differ({"a": 1}, {"a": 1})


def test_changed_fields_are_named_two_levels_deep() -> None:
    before, after = {"data": {"a": {"b": 1}}, "gone": 1}, {"data": {"a": {"b": 2}}, "metadata": {"labels": {}}}
    assert list(changed_fields(before, after)) == ["data.a", "gone", "metadata"]
