from typing import Any

import pytest

from runner.mapping import Mapper, MappingError, by_annotation, by_expression, by_label, by_name
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
        (by_annotation("cr"), {"annotations": {"cr": "other/two, one,"}}, ["other/two", "default/one"]),
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
