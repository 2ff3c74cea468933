"""JSON by orjson means what it means by json."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from runner.json_codec import decode, encode

DEEP = 100_000


def refusal(read: Callable[[bytes], Any], text: bytes) -> str:
    try:
        read(text)
    except ValueError as error:
        return str(error)
    return ""


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b'{"a": [1, -2.5, true, null, "\xc3\xa9"], "a": 2}', id="plain"),
        pytest.param(b"[18446744073709551615, 18446744073709551616, -9223372036854775809]", id="integers over 64 bits"),
        pytest.param(b"[" + b"9" * 400 + b"]", id="a very large integer"),
        pytest.param(b"[-0, -0.0, 1E+2, 1e-400, 0.1234567890123456789, 12345678901234567890.5]", id="floats"),
        pytest.param(rb'{"\ud800": "\udfff", "a": "\ud83d\ude00"}', id="lone surrogates, escaped"),
        pytest.param(b'"\xed\xa0\x80"', id="lone surrogates, as bytes"),
        pytest.param(b"\xef\xbb\xbf{}", id="a byte order mark"),
        pytest.param('{"a": "é"}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b' \t\r\n{"a": "\\u0000"} \n', id="spaces and escapes"),
        pytest.param(nested(255), id="more levels than orjson writes"),
    ],
)
@pytest.mark.parametrize("shallow", [False, True])
def test_a_text_has_the_value_that_json_gives_it(text: bytes, shallow: bool) -> None:
    value = decode(text, shallow=shallow)

    assert repr(value) == repr(json.loads(text))


@pytest.mark.parametrize("text", [b"", b"{", b"[1,]", b"01", b'"\x00"', b"'a'", b"[1] 2", b"\xa0[]", b"\xff"])
def test_what_is_no_json_is_refused_in_jsons_words(text: bytes) -> None:
    assert refusal(json.loads, text) == refusal(decode, text) != ""


@pytest.mark.parametrize("text", [b"NaN", b"[Infinity]", b"-Infinity", b"1e400", b'{"a": -1e999}'])
def test_numbers_that_json_has_not_are_taken_only_where_one_asks_for_them(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"no JSON|out of range"):
        decode(text)

    assert repr(decode(text, strict=False)) == repr(json.loads(text))


def test_a_text_that_nests_too_deep_is_refused_as_json_refuses_it() -> None:
    with pytest.raises(RecursionError):
        decode(nested(DEEP))


def random_value(random_: random.Random, levels: int = 4) -> Any:
    match random_.randrange(8 if levels else 6):
        case 0:
            return random_.choice([None, True, False])
        case 1:
            return random_.randint(-(2 ** random_.randrange(80)), 2 ** random_.randrange(80))
        case 2:
            return random_.uniform(-1, 1) * 10.0 ** random_.randint(-320, 308)
        case 3 | 4 | 5:
            return "".join(chr(random_.choice([9, 34, 47, 92, 127, 233, 0x2028, 0xD800, 0x1F600])) for _ in range(3))
        case 6:
            return [random_value(random_, levels - 1) for _ in range(random_.randrange(4))]
        case _:
            return {str(random_value(random_, 0)): random_value(random_, levels - 1) for _ in range(random_.randrange(4))}


def test_any_value_comes_back_as_it_was() -> None:
    random_ = random.Random(7)
    for _ in range(2000):
        value = random_value(random_)
        text = encode(value)
        assert repr(json.loads(text)) == repr(value)
        assert repr(decode(text)) == repr(value)
        assert repr(decode(json.dumps(value).encode())) == repr(value)


def test_values_that_json_knows_in_another_form_are_left_to_default() -> None:
    day = datetime(2026, 1, 2)

    assert encode([day], default=str) == b'["2026-01-02 00:00:00"]'
    with pytest.raises(TypeError):
        encode([day])


def test_keys_that_are_no_text_are_written_as_json_writes_them() -> None:
    assert encode({2: "a", None: "b", True: "c"}) == b'{"2":"a","null":"b","true":"c"}'


def test_the_order_of_keys_can_be_left_out_of_it() -> None:
    large = 2**70

    assert encode({"b": 1, "a": {"d": 2, "c": 3}}, sort_keys=True) == b'{"a":{"c":3,"d":2},"b":1}'
    assert encode({"b": large, "a": 1}, sort_keys=True) == encode({"a": 1, "b": large}, sort_keys=True)


def test_no_number_that_json_has_not_is_written() -> None:
    assert encode([math.nan, math.inf]) == b"[null,null]"


def test_what_cannot_be_written_at_all_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        encode(circle)
    with pytest.raises(TypeError):
        encode({"a": {1}})
