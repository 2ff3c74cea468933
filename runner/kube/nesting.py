"""Nesting depth of JSON: measured without a parser; objects that nest too deep are cut out of lists and events.

The API server takes 10,000 levels; Python's parser takes about 1,000 before 3.12 and a few thousand after it, and whatever
compares or encodes what was parsed takes fewer. One such object must not cost the list or the watch that it is in.

Next on the way: `runner.kube.client`.
"""

from __future__ import annotations

import json
import re
from typing import Any

from runner.json_codec import decode

# Levels within one object. What people write has some 30.
DEEPEST = 200
# A list's or an event's own levels, above those of an object.
_AROUND = 2
# A key of the object that stands for one which nests deeper: it has its kind and its metadata, and nothing else.
METADATA_ONLY = "rolerunner.io/metadata-only"

_OTHERS = bytes(set(range(256)) - set(b'"[]{}'))
_AS_ONE_KIND = bytes.maketrans(b"[]", b"{}")
# A string that does not end goes to the end of the text, so that none is looked at twice.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[{}\[\],:]', re.DOTALL)


def exceeds(content: bytes, deepest: int = DEEPEST) -> bool:
    """True if JSON has more levels than that. It takes time in proportion to the text's length, and few Python steps."""
    if content.count(b"{") + content.count(b"[") <= deepest:
        return False
    content = content.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _OTHERS)
    # Between an even number of quotes is what is in no string.
    brackets = b"".join(content.split(b'"')[::2]).translate(_AS_ONE_KIND)
    for _ in range(deepest):
        if not brackets:
            return False
        # The innermost level.
        brackets = brackets.replace(b"{}", b"")
    return bool(brackets)


def parse(content: bytes) -> Any:
    """The value of JSON, with METADATA_ONLY objects in place of those of a list or an event that nest too deep.

    Raises ValueError, and RecursionError where the value as a whole nests too deep.
    """
    if exceeds(content, DEEPEST + _AROUND):
        return decode(_cut(content))
    return decode(content, shallow=True)


def _cut(content: bytes) -> bytes:
    """The JSON with each object that nests too deep, in `items` or as `object`, replaced by a METADATA_ONLY object."""
    parts: list[bytes] = []
    kept = begin = depth = deepest = 0
    outer: int | None = None
    key = b""
    for found in _TOKEN.finditer(content):
        token = found[0]
        if token in (b"{", b"["):
            if outer is None and token == b"{" and (key, depth) in ((b'"items"', 2), (b'"object"', 1)):
                outer, begin, deepest = depth, found.start(), depth
            depth += 1
            deepest = max(deepest, depth)
        elif token in (b"}", b"]"):
            depth -= 1
            if depth == outer:
                if deepest - outer > DEEPEST:
                    parts += [content[kept:begin], _metadata_only(content[begin : found.end()])]
                    kept = found.end()
                outer = None
        elif depth == 1 and token[:1] == b'"':
            key = token
    return b"".join((*parts, content[kept:]))


def _metadata_only(content: bytes) -> bytes:
    fields = _members(content)
    # managedFields are as deep as the object.
    metadata = {key: value for key, value in _members(fields.get(b'"metadata"', b"{}")).items() if not exceeds(value, 10)}
    kept = {key: value for key, value in fields.items() if key in (b'"apiVersion"', b'"kind"')}
    return _joined({**kept, b'"metadata"': _joined(metadata), json.dumps(METADATA_ONLY).encode(): b"true"})


def _members(content: bytes) -> dict[bytes, bytes]:
    """The keys and values of an object, as bytes of the text."""
    members: dict[bytes, bytes] = {}
    key, begin, depth = b"", -1, 0
    for found in _TOKEN.finditer(content):
        token = found[0]
        if token in (b"}", b"]"):
            depth -= 1
        if (depth, token) in ((1, b","), (0, b"}")) and begin >= 0:
            members[key], begin = content[begin : found.start()], -1
        elif depth == 1 and token == b":":
            begin = found.end()
        elif depth == 1 and begin < 0 and token[:1] == b'"':
            key = token
        if token in (b"{", b"["):
            depth += 1
    return members


def _joined(members: dict[bytes, bytes]) -> bytes:
    return b"{" + b",".join(key + b":" + value for key, value in members.items()) + b"}"
