"""How deep JSON is, and what is left of a list or an event with something too deep in it."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest

from runner.kube.nesting import DEEPEST, METADATA_ONLY, exceeds, parse


def nested(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


def deep(name: str, depth: int) -> bytes:
    metadata = b'{"name":"%s","labels":{"a":"{\\"\\\\"},"managedFields":[{"fieldsV1":%s}],"uid":"u"}' % (
        name.encode(),
        nested(depth),
    )
    return b'{"apiVersion":"v1", "kind": "X","spec": {"metadata": %s}, "metadata": %s}' % (nested(depth - 2), metadata)


@pytest.mark.parametrize(
    ("content", "deepest", "expected"),
    [
        pytest.param(b"1", 0, False, id="scalar"),
        pytest.param(b"{}", 0, True, id="one"),
        pytest.param(b"[[],[],[{}]]", 3, False, id="as-deep"),
        pytest.param(b"[[],[],[{}]]", 2, True, id="deeper"),
        pytest.param(rb'["[[[[", "\"[[[[", "\\", "]"]', 1, False, id="brackets-in-strings"),
        pytest.param(rb'["\\\"[[[[\\", ["\\"]]', 1, True, id="escaped-backslashes"),
        pytest.param(nested(9_999), 200, True, id="as-the-server-takes"),
    ],
)
def test_depth(content: bytes, deepest: int, expected: bool) -> None:
    assert exceeds(content, deepest) is expected


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@pytest.mark.parametrize("seed", range(20))
def test_depth_is_that_of_the_parsed_value(seed: int) -> None:
    chance = random.Random(seed)

    def some(left: int) -> Any:
        text = "".join(chance.choice('{}[]"\\,:aé\n') for _ in range(5))
        match chance.randrange(4) if left else 3:
            case 0:
                return [some(left - 1) for _ in range(chance.randrange(4))]
            case 1 | 2:
                return {text + str(number): some(left - 1) for number in range(chance.randrange(4))}
            case _:
                return text

    value = [some(9) for _ in range(10)]
    content = json.dumps(value, ensure_ascii=False).encode()
    assert [exceeds(content, limit) for limit in range(12)] == [depth_of(value) > limit for limit in range(12)]


@pytest.mark.parametrize("depth", [DEEPEST + 1, 1_100, 9_990])
def test_a_list_keeps_what_is_not_too_deep(depth: int) -> None:
    content = b'{"kind":"XList","metadata":{"resourceVersion":"7"},"items":[%s,%s,%s]}' % (
        *(deep("good", DEEPEST - 4), deep("bad", depth)),
        deep("better", 20),
    )
    page = parse(content)
    assert page["metadata"] == {"resourceVersion": "7"}
    assert [(item["metadata"]["name"], "spec" in item) for item in page["items"]] == [
        ("good", True),
        ("bad", False),
        ("better", True),
    ]
    assert page["items"][1] == {
        "apiVersion": "v1",
        "kind": "X",
        "metadata": {"name": "bad", "labels": {"a": '{"\\'}, "uid": "u"},
        METADATA_ONLY: True,
    }


def test_an_event_of_a_too_deep_object_says_which() -> None:
    event = parse(b'{"type":"ADDED","object":%s}\n' % deep("bad", 9_990))
    assert event["type"] == "ADDED"
    assert event["object"]["metadata"]["name"] == "bad"
    assert METADATA_ONLY in event["object"]


def test_another_value_that_is_too_deep_is_an_error() -> None:
    with pytest.raises(RecursionError):
        parse(nested(9_999))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"[" * 3_000_000, id="brackets"),
        pytest.param(b'{"items":[' + b'"\\' * 1_500_000, id="quotes"),
        pytest.param(b'{"items":[' + b"{}," * 1_000_000 + nested(300), id="wide"),
    ],
)
def test_the_time_grows_with_the_length_alone(content: bytes) -> None:
    begun = time.process_time()
    with pytest.raises((ValueError, RecursionError)):
        parse(content)
    # Where it grows with the square it takes days.
    assert time.process_time() - begun < 60
