"""Mappers from an object that no CR owns to CRs, as controller-runtime's handler.MapFunc, declared in watches.yaml.

They map by a label or an annotation of the object, by its name, or by a Jinja expression. A mapper gives keys, of which
some may be no CR's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runner.errors import RolerunnerError
from runner.resource.metadata import Object, ObjectKey, annotations_of, labels_of

# From the object, and the CRs there are, to CRs' keys. Raises MappingError.
Mapper = Callable[[Object, Collection[Object]], list[ObjectKey]]

# CRs that an object may name: a tenant's annotation has room for 100,000.
_MOST = 10_000
# The API server's limits.
_LONGEST_NAMESPACE, _LONGEST_NAME = 63, 253

# A field that an object lacks is undefined, at any depth, and no error.
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=jinja2.ChainableUndefined)


class MappingError(RolerunnerError, ValueError):
    """An expression that cannot be parsed, or whose value names no CR; `str()` says which and why."""


def by_label(label: str) -> Mapper:
    """Map to the CR in the object's namespace that the label's value names."""
    return lambda obj, _: _keys(labels_of(obj).get(label), obj)


def by_annotation(annotation: str) -> Mapper:
    """Map to the CRs that the annotation's value names: `NAME`, or a comma list of them, in the object's own namespace.

    An object without a namespace may also name `NAMESPACE/NAME`; one in a namespace cannot cause runs in another.
    """

    def mapper(obj: Object, _: Collection[Object]) -> list[ObjectKey]:
        own = ObjectKey.of(obj).namespace
        keys = _keys(_listed(annotations_of(obj).get(annotation, "")), obj)
        return [key for key in keys if not own or key.namespace == own]

    return mapper


def by_name() -> Mapper:
    """Map to the CR with the object's own name and namespace."""
    return lambda obj, _: [ObjectKey.of(obj)]


def by_expression(text: str) -> Mapper:
    """Map to the value of a Jinja expression over `object` and `crs`, the list of the watch's CRs.

    The value is a name (`NAME`, `NAMESPACE/NAME`), a CR, a list of these, or empty. Raises MappingError if the text is no
    expression.
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


def _keys(value: object, obj: Object) -> list[ObjectKey]:
    """The keys of the CRs that a value names, each once. Raises MappingError."""
    keys: dict[ObjectKey, None] = {}
    for key in _each_key(value, ObjectKey.of(obj).namespace):
        keys[key] = None
        if len(keys) > _MOST:
            raise MappingError(f"expected names or CRs, found more than {_MOST} of them")
    return list(keys)


def _each_key(value: object, namespace: str) -> Iterator[ObjectKey]:
    """The key of each name and CR in a value, which may be a nested list, in their order."""
    left = [value]
    while left:
        one = left.pop()
        if not one:
            continue
        if isinstance(one, str):
            place, slash, name = one.rpartition("/")
            yield _key(place if slash else namespace, name)
        elif isinstance(one, Mapping):
            metadata = one.get("metadata")
            if not isinstance(metadata, Mapping):
                raise MappingError("expected names or CRs, found a mapping without metadata")
            yield _key(metadata.get("namespace") or "", metadata.get("name"))
        elif isinstance(one, Iterable):
            left += reversed(list(itertools.islice(one, _MOST + 1)))
        else:
            raise MappingError(f"expected names or CRs, found one of type {type(one).__name__}")


def _key(namespace: object, name: object) -> ObjectKey:
    if not isinstance(namespace, str) or not isinstance(name, str):
        raise MappingError("expected names or CRs, found a CR whose name is no text")
    if not 0 < len(name) <= _LONGEST_NAME or len(namespace) > _LONGEST_NAMESPACE:
        raise MappingError(f"expected names or CRs, found a name of {len(name)} characters")
    return ObjectKey(namespace, name)
