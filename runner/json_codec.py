"""JSON with the semantics of `json`, by orjson where the result is the same.

What orjson refuses, or would take for something else, goes json's way: integers of more than 64 bits, lone surrogates, other
encodings than UTF-8, keys that are no text, and what nests deep.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import orjson

# An object of JSON, and one that is only read; the types within are checked where they are read.
JsonObject = dict[str, Any]
JsonMapping = Mapping[str, Any]

# orjson reads an integer of more than 64 bits as a float: a text with so many digits in a row may have one. Found in time
# in proportion to the text's length, whatever it holds.
_DIGITS, _AS_ZEROS = b"0" * 19, bytes.maketrans(b"123456789", b"000000000")
# Levels that json reads from wherever it is called; orjson takes some more, and with fewer brackets a text has no more.
_MOST_BRACKETS = 800
# Else orjson would write both in a form of its own, and not leave them to `default`.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def decode(text: bytes, *, shallow: bool = False, strict: bool = True) -> Any:
    """The value of a JSON text. Raises ValueError, and RecursionError where it nests too deep.

    `shallow`: it is known to have fewer than 1,000 levels. What is no JSON but what Python makes of such numbers (NaN,
    Infinity, 1e999) is refused, unless not `strict`.
    """
    is_plain = _DIGITS not in text.translate(_AS_ZEROS)
    if is_plain and (shallow or text.count(b"{") + text.count(b"[") <= _MOST_BRACKETS):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            # json may take it, or says what is wrong in the words that everybody knows.
            pass
    return json.loads(text, parse_constant=_refuse, parse_float=_finite) if strict else json.loads(text)


def encode(value: object, *, default: Callable[[Any], object] | None = None, sort_keys: bool = False) -> bytes:
    """A value as JSON, without spaces. `default` is json's. Raises TypeError, ValueError or RecursionError.

    NaN and infinity, which JSON has not, become null.
    """
    try:
        return orjson.dumps(value, default, _OPTIONS | (orjson.OPT_SORT_KEYS if sort_keys else 0))
    except TypeError:
        return json.dumps(value, default=default, sort_keys=sort_keys, separators=(",", ":")).encode()


def mapping(value: object) -> JsonMapping:
    """The value if it is a mapping, else an empty one, as an object within an object may have any value there."""
    # Asked hundreds of times for each reconcile; an abstract class takes its time to say.
    if isinstance(value, dict):
        return value
    return value if value and isinstance(value, Mapping) else {}


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is out of range")
    return number
