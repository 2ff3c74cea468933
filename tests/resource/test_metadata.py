import pytest

from runner.resource.metadata import (
    GroupKind,
    GroupVersionKind,
    ObjectKey,
    Owner,
    is_owned,
    own,
    owners,
    parse_duration,
)

CR = Owner(GroupVersionKind("cache.example.com", "v1alpha1", "Memcached"), ObjectKey("default", "sample"), "uid-1")
CLUSTER_CR = Owner(GroupVersionKind("cache.example.com", "v1alpha1", "Fleet"), ObjectKey("", "main"), "uid-2")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("30s", 30), ("1h5m", 3900), ("1.5h", 5400), ("300ms", 0.3), (".5s", 0.5), ("-2m", -120), ("+1m1s", 61)],
)
def test_go_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "1h 5m", "1d", "5m3", "-", "1..5s"])
def test_what_is_no_duration_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(ValueError, match="write it as"):
        parse_duration(text)


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
