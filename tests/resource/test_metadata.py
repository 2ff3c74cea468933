import json
from time import process_time
from typing import Any

import pytest

from runner.resource.metadata import (
    PRIMARY_RESOURCE,
    PRIMARY_RESOURCE_TYPE,
    GroupKind,
    GroupVersionKind,
    ObjectKey,
    Owner,
    annotations_of,
    finalizers,
    is_assigned_with,
    is_deleting,
    is_owned,
    labels_of,
    own,
    owners,
    parse_duration,
    quoted,
)

CR = Owner(GroupVersionKind("cache.example.com", "v1alpha1", "Memcached"), ObjectKey("default", "sample"), "uid-1")
CLUSTER_CR = Owner(GroupVersionKind("cache.example.com", "v1alpha1", "Fleet"), ObjectKey("", "main"), "uid-2")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("30s", 30), ("1h5m", 3900), ("1.5h", 5400), ("300ms", 0.3), (".5s", 0.5), ("-2m", -120), ("+1m1s", 61)],
)
def test_go_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "1h 5m", "1d", "5m3", "-", "1..5s", "-+1s", "٣s", "9999999h"])
def test_what_is_no_duration_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(ValueError, match="write it as"):
        parse_duration(text)


LONG = 256 * 1024
# What an expression might read again and again.
PUMPS = ["1", "1.", ".", "1m", "ms", " ", "-", "٣", "1h1", "a/", "/", "a."]


@pytest.mark.parametrize("pump", PUMPS)
def test_a_duration_of_any_length_is_refused_at_once_and_shortly(pump: str) -> None:
    before = process_time()
    with pytest.raises(ValueError, match="write it as") as caught:
        parse_duration(pump * (LONG // len(pump)))
    assert process_time() - before < 5
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("pump", PUMPS)
def test_marks_of_any_length_are_read_at_once(pump: str) -> None:
    text = pump * (LONG // len(pump))
    obj = {"metadata": {"annotations": {PRIMARY_RESOURCE: text, PRIMARY_RESOURCE_TYPE: text}}}
    before = process_time()
    for _ in range(10):
        list(owners(obj))
        assert not is_owned(obj, CR)
    assert process_time() - before < 5


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a", "'a'"), ("a\nb", r"'a\nb'"), ("a" * 64, f"'{'a' * 64}'"), ("a" * 65, f"'{'a' * 63}'…"), (5, "5"), (None, "None")],
)
def test_what_somebody_else_wrote_is_quoted_shortly(value: object, expected: str) -> None:
    assert quoted(value) == expected


def test_large_and_deep_values_are_quoted_shortly() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep, deep]
    for value in (deep, {str(number): "x" * 1000 for number in range(1000)}, 16**10_000, b"x" * 10_000, "\0" * 10_000):
        assert len(quoted(value)) < 1000
    while deep:
        deep = deep.pop()


@pytest.mark.parametrize("odd", [None, "text", 5, ["a"], {"a": ["b"]}, [None], [["a"]], [{"name": ["a"]}], True])
def test_an_object_may_have_anything_anywhere(odd: Any) -> None:
    names = ("name", "namespace", "annotations", "labels", "ownerReferences")
    marks = {"annotations": {PRIMARY_RESOURCE: odd, PRIMARY_RESOURCE_TYPE: odd}}
    for metadata in (odd, dict.fromkeys(names, odd), marks):
        obj = {"metadata": metadata, "apiVersion": odd, "kind": odd}
        hash((ObjectKey.of(obj), GroupVersionKind.of(obj), *owners(obj)))
        assert not is_owned(obj, CR)
        is_deleting(obj)
        json.dumps([annotations_of(obj), labels_of(obj), finalizers(obj)])


def test_a_new_object_in_the_owners_namespace_gets_a_reference() -> None:
    obj: dict[str, object] = {"metadata": {"name": "x", "ownerReferences": [{"uid": "other"}]}}
    assert own(obj, CR, namespace="default")
    assert obj["metadata"] == {"name": "x", "ownerReferences": [{"uid": "other"}, CR.reference()]}
    assert is_owned(obj, CR)
    assert "controller" not in CR.reference()


def test_a_role_s_own_reference_is_left_alone() -> None:
    references = [{**CR.reference(), "controller": True}]
    obj = {"metadata": {"name": "x", "ownerReferences": references}}
    assert not own(obj, CR, namespace="default")
    assert obj["metadata"]["ownerReferences"] == references


@pytest.mark.parametrize(
    ("owner", "references", "expected"),
    [
        (CR, [], True),
        (CR, [{"uid": "other"}], True),
        (CR, [{"uid": "other", "controller": True}], False),
        (CR, [{"uid": "other", "controller": False}], True),
        # The sharder looks for an owner in the object's own namespace.
        (CLUSTER_CR, [], False),
    ],
    ids=[
        "nobody's",
        "another's",
        "another's, which is its controller",
        "another's, which is none",
        "of a cluster-scoped CR",
    ],
)
def test_an_owner_becomes_the_controller_if_there_is_no_other(
    owner: Owner, references: list[dict[str, object]], expected: bool
) -> None:
    obj: dict[str, Any] = {"metadata": {"name": "x", "namespace": "default", "ownerReferences": references}}
    assert own(obj, owner, namespace="default", controller=True)
    assert obj["metadata"]["ownerReferences"][-1] == {**owner.reference(), **({"controller": True} if expected else {})}
    assert is_assigned_with(obj, owner) is expected


@pytest.mark.parametrize("namespace", ["elsewhere", ""])
def test_out_of_an_owners_reach_annotations_are_set(namespace: str) -> None:
    obj: dict[str, object] = {"metadata": {"name": "x", "annotations": {"a": "b"}}}
    assert own(obj, CR, namespace=namespace)
    assert obj["metadata"] == {
        "name": "x",
        "annotations": {
            "a": "b",
            "operator-sdk/primary-resource": "default/sample",
            "operator-sdk/primary-resource-type": "Memcached.cache.example.com",
        },
    }
    assert is_owned(obj, CR)
    assert not own(obj, CR, namespace=namespace)
    assert list(owners(obj)) == [(GroupKind("cache.example.com", "Memcached"), ObjectKey("default", "sample"))]


def test_a_cluster_scoped_owner_reaches_everywhere() -> None:
    obj: dict[str, object] = {"metadata": {"name": "x", "namespace": "any"}}
    assert own(obj, CLUSTER_CR, namespace="any")
    assert list(owners(obj)) == [(GroupKind("cache.example.com", "Fleet"), ObjectKey("any", "main"))]


def test_the_gvk_is_written_as_go_writes_it() -> None:
    assert str(CR.gvk) == "cache.example.com/v1alpha1, Kind=Memcached"
