"""Declaration of a key of watches.yaml: its name, which values it takes, what it is for, and its default.

`runner.config.watches` declares the keys, most of them as fields of its dataclasses, and reads the file by them. The JSON
schema (`runner.config.schema`) and the table in docs/reference.md are made of the same declarations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_type_hints

from runner.json_codec import JsonMapping
from runner.resource.metadata import parse_duration, quoted

T = TypeVar("T")

Schema = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Value(Generic[T]):
    """A type of plain value. `convert` takes what YAML makes of one, and raises ValueError with what was expected."""

    name: str
    schema: Schema
    convert: Callable[[object], T]
    # As JSON has it.
    show: Callable[[T], object] = lambda value: value


@dataclass(frozen=True, slots=True)
class Structure:
    """A mapping with these keys and no others. `rules`: what its JSON schema says about several keys together."""

    keys: tuple[Key[Any], ...]
    rules: Schema = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [key.name for key in self.keys]


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of mappings."""

    items: Structure


@dataclass(frozen=True, slots=True)
class Key(Generic[T]):
    name: str
    type: Value[T] | Structure | ListOf
    help: str = ""
    # None: there is none, or none that could be shown.
    default: T | None = None
    required: bool = False

    @property
    def shown_default(self) -> object:
        return self.type.show(self.default) if isinstance(self.type, Value) and self.default is not None else None


def keys_of(declaring: type) -> dict[str, Key[Any]]:
    """The keys with which a dataclass's fields are annotated, by the fields' names, with the fields' defaults."""
    hints = get_type_hints(declaring, include_extras=True)
    found = {}
    for field in dataclasses.fields(declaring):
        for key in getattr(hints[field.name], "__metadata__", ()):
            default = None if field.default is dataclasses.MISSING else field.default
            found[field.name] = dataclasses.replace(key, default=default)
    return found


def _checked(expected: str, fits: Callable[[Any], bool], *, remedy: str = "") -> Callable[[object], Any]:
    """A conversion that gives a value as it is, or raises ValueError if it does not fit."""

    def convert(value: object) -> object:
        if not fits(value):
            raise ValueError(f"expected {expected}, found {quoted(value)}{remedy}")
        return value

    return convert


def _duration(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError(f"expected a duration such as 30s or 1h5m, found {quoted(value)}; put it in quotes, with its unit")
    seconds = parse_duration(value)
    if seconds < 0:
        raise ValueError(f"expected a duration from 0, found {quoted(value)}")
    return seconds


def _are_texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


_FILLED: Schema = {"type": "string", "minLength": 1}
_IN_QUOTES = "; put numbers and true/false in quotes"

TEXT: Value[str] = Value(
    "text", {"type": "string"}, _checked("text", lambda value: isinstance(value, str), remedy="; put it in quotes")
)
# The reader checks that it is filled, with a message of its own.
NAME: Value[str] = Value("text", _FILLED, TEXT.convert)
FILLED_TEXT: Value[str] = Value("text", _FILLED, _checked("text", lambda value: isinstance(value, str) and value != ""))
TEXTS: Value[list[str]] = Value(
    "list of texts",
    {"type": "array", "items": {"type": "string"}},
    _checked("a list of texts", lambda value: isinstance(value, list) and _are_texts(value), remedy=_IN_QUOTES),
)
TEXT_BY_NAME: Value[dict[str, str]] = Value(
    "texts by name",
    {"type": "object", "additionalProperties": {"type": "string"}},
    _checked(
        "text by name",
        lambda value: isinstance(value, dict) and _are_texts([*value, *value.values()]),
        remedy=_IN_QUOTES,
    ),
)
BOOLEAN: Value[bool] = Value(
    "true or false", {"type": "boolean"}, _checked("true or false", lambda value: isinstance(value, bool))
)
COUNT: Value[int] = Value(
    "whole number",
    {"type": "integer", "minimum": 0},
    _checked("a whole number from 0", lambda value: type(value) is int and value >= 0),
)
VARIABLES: Value[JsonMapping] = Value(
    "variables by name",
    {"type": "object"},
    _checked("variables by name", lambda value: isinstance(value, dict) and _are_texts(value)),
)
DURATION = Value(
    "duration",
    {
        "type": "string",
        "pattern": r"^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$",
        "examples": ["30s", "5m", "1h30m"],
    },
    _duration,
)


def some_of(names: tuple[str, ...]) -> Value[frozenset[str]]:
    """A list of some of these names."""

    def convert(value: object) -> frozenset[str]:
        if not isinstance(value, list) or not all(name in names for name in value):
            raise ValueError(f"expected a list of some of {', '.join(names)}; found {quoted(value)}")
        return frozenset(value)

    schema = {"type": "array", "items": {"enum": list(names)}}
    return Value("list of names", schema, convert, lambda chosen: [name for name in names if name in chosen])
