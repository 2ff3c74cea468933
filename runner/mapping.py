"""From an object that no CR owns to the CRs it concerns: what Go authors write as a handler.MapFunc, said in watches.yaml.

By a label or an annotation of the object, by its name, or by a Jinja expression. A mapper gives keys; that some of them
may belong to no CR is for the caller to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runner.resource.metadata import Object, ObjectKey, annotations_of, labels_of

# From the object, and the CRs there are, to CRs' keys. Raises MappingError.
Mapper = Callable[[Object, Collection[Object]], list[ObjectKey]]

# What an object lacks is nothing, at any depth, and no error.
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=jinja2.ChainableUndefined)


class MappingError(ValueError):
    """An expression that cannot be read, or comes to something that names no CR; `str()` says which and why."""


def by_label(label: str) -> Mapper:
    """The label's value is the name of a CR in the object's namespace."""
    return lambda obj, _: _keys(labels_of(obj).get(label), obj)


def by_annotation(annotation: str) -> Mapper:
    """The annotation's value is `NAME` or `NAMESPACE/NAME`, or a comma list of them."""
    return lambda obj, _: _keys(_listed(annotations_of(obj).get(annotation, "")), obj)


def by_name() -> Mapper:
    """The CR has the object's own name and namespace."""
    return lambda obj, _: [ObjectKey.of(obj)]


def by_expression(text: str) -> Mapper:
    """A Jinja expression over `object` and `crs`, the CRs of the watch as a list.

    It comes to a name (`NAME`, `NAMESPACE/NAME`), a CR, a list of these, or nothing. Raises MappingError if it is none.
    """
    try:
        evaluate = _ENVIRONMENT.compile_expression(text)
    except jinja2.TemplateSyntaxError as error:
        hint = "; write it without {{ }}" if "{{" in text else ""
        raise MappingError(f"{text!r} is no Jinja expression: {error.message}{hint}") from error

    def mapper(obj: Object, crs: Collection[Object]) -> list[ObjectKey]:
        try:
            return _keys(evaluate(object=obj, crs=list(crs)), obj)
        except MappingError:
            raise
        except Exception as error:
            # Whatever a user's expression stumbles over. Its words may quote the object, which may be a Secret.
            raise MappingError(f"{text!r} failed: {type(error).__name__}") from error

    return mapper


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _keys(value: Any, obj: Object) -> list[ObjectKey]:
    if not value:
        return []
    if isinstance(value, str):
        namespace, slash, name = value.rpartition("/")
        return [ObjectKey(namespace if slash else ObjectKey.of(obj).namespace, name)]
    if isinstance(value, Mapping):
        return [ObjectKey.of(value)]
    if isinstance(value, Iterable):
        return [key for item in value for key in _keys(item, obj)]
    raise MappingError(f"expected names or CRs, found one of type {type(value).__name__}")
