from typing import Any

import pytest

from runner.config.related import Mapper, MappingError, by_annotation, by_expression, by_label, by_name
from runner.resource.metadata import ObjectKey

CRS = [
    {"metadata": {"namespace": "default", "name": "one"}, "spec": {"secret": "key"}},
    {"metadata": {"namespace": "other", "name": "two"}, "spec": {}},
]


def obj(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "key", "namespace": "default", **metadata}}


@pytest.mark.parametrize(
    ("mapper", "metadata", "expected"),
    [
        (by_label("cr"), {"labels": {"cr": "one"}}, ["default/one"]),
        (by_label("cr"), {}, []),
        (by_annotation("cr"), {"annotations": {"cr": "one"}}, ["default/one"]),
        (by_annotation("cr"), {"annotations": {"cr": "other/two, one,"}}, ["default/one"]),
        (by_annotation("cr"), {"namespace": "", "annotations": {"cr": "other/two, one,"}}, ["other/two", "one"]),
        (by_annotation("cr"), {}, []),
        (by_name(), {}, ["default/key"]),
        (by_expression("object.metadata.labels.cr"), {"labels": {"cr": "one"}}, ["default/one"]),
        (by_expression("object.metadata.labels.cr"), {}, []),
        (by_expression("'other/' ~ object.metadata.name"), {}, ["other/key"]),
        (by_expression("crs"), {}, ["default/one", "other/two"]),
        (by_expression("crs | selectattr('spec.secret', 'eq', object.metadata.name)"), {}, ["default/one"]),
        (by_expression("crs | map(attribute='metadata.name')"), {}, ["default/one", "default/two"]),
    ],
)
def test_from_an_object_to_crs(mapper: Mapper, metadata: dict[str, Any], expected: list[str]) -> None:
    assert [str(key) for key in mapper(obj(**metadata), CRS)] == expected


def test_a_cluster_scoped_object_names_crs_without_a_namespace() -> None:
    assert by_label("cr")({"metadata": {"name": "node", "labels": {"cr": "one"}}}, ()) == [ObjectKey("", "one")]


@pytest.mark.parametrize("text", ["object.", "{{ object }}", "one two", "object | no_such_filter"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(MappingError, match="is no Jinja expression"):
        by_expression(text)


@pytest.mark.parametrize("text", ["1 / 0", "range(10 ** 9)", "5"])
def test_what_an_expression_stumbles_over_is_a_mapping_error(text: str) -> None:
    with pytest.raises(MappingError):
        by_expression(text)(obj(), ())


def test_an_expression_reaches_nothing_of_the_runner() -> None:
    assert by_expression("''.__class__.__mro__")(obj(), ()) == []


def test_an_expression_changes_nothing() -> None:
    one = obj()
    with pytest.raises(MappingError):
        by_expression("object.metadata.update({'name': 'x'})")(one, ())
    assert one == obj()


def test_what_an_expression_stumbles_over_quotes_no_object() -> None:
    with pytest.raises(MappingError) as caught:
        by_expression("object.metadata.name | int('x') + object.metadata.secret.more() ")(obj(secret="hunter2"), ())
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "ref",
    [
        pytest.param({"metadata": {"name": ["a"]}}, id="list"),
        pytest.param({"metadata": {"name": {"a": "b"}}}, id="mapping"),
        pytest.param({"metadata": {"name": "a", "namespace": ["b"]}}, id="namespace"),
        pytest.param({"metadata": "a"}, id="metadata"),
        pytest.param({"metadata": {}}, id="no-name"),
        pytest.param({"a": "b"}, id="no-object"),
        pytest.param("x" * 254, id="long"),
        pytest.param("x" * 64 + "/y", id="long-namespace"),
        pytest.param("here/", id="empty"),
        pytest.param(True, id="boolean"),
        pytest.param([["a"], [1.5]], id="number-within"),
        pytest.param([str(number) for number in range(10_001)], id="many"),
    ],
)
def test_what_names_no_cr_is_refused_whatever_its_shape(ref: Any) -> None:
    with pytest.raises(MappingError, match="expected names or CRs"):
        by_expression("object.spec.ref")({**obj(), "spec": {"ref": ref}}, ())


def test_a_list_may_be_of_any_depth() -> None:
    nested: Any = "one"
    for _ in range(9_000):
        nested = [nested]
    assert by_expression("object.spec.ref")({**obj(), "spec": {"ref": nested}}, ()) == [ObjectKey("default", "one")]


def test_a_name_counts_once() -> None:
    many = ",".join(["one"] * 60_000)
    assert by_annotation("cr")(obj(annotations={"cr": many}), ()) == [ObjectKey("default", "one")]
