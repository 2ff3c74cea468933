"""Messages of API Status objects: refusals of the API server as sentences, with a remedy for values of a wrong type.

From ansible-core 2.19 on a template that yields a number stays one, which the API server refuses where it wants text. Its
own message names the field only sometimes, the task's definition the rest.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping

import yaml

from runner.json_codec import JsonMapping
from runner.resource.secret_values import BOOLEAN, MASKED_BOOLEAN, MASKED_NUMBER, NUMBER

# A value that the server repeats may be the whole object.
_LONGEST_VALUE = 200
# A string that does not end is a match too, up to the text's end: so nothing is looked at from each of its quotes again.
_QUOTED = re.compile(r'"(?:[^"\\]+|\\.?)*("?)', re.DOTALL)
# How the Kubernetes client for Python shows an answer: its bytes, and what it says before it.
_BYTES = re.compile(r"""(?<!\w)(?:b'\{(?:[^'\\]|\\.)*'|b"\{(?:[^"\\]|\\.)*")""", re.DOTALL)
_BEFORE_BODY = re.compile(r"\(\d{3}\)\s{0,2}Reason: [^\n]{0,200}\n(?:HTTP response headers: [^\n]*\n)?HTTP response body: $")
_STATUS = re.compile(r"""\{\s{0,8}(?:"kind"\s{0,8}:\s{0,8}"Status"|'kind': 'Status')""")
_IN_PYTHON = re.compile(r"""'(?:[^'\\]+|\\.?)*'?|"(?:[^"\\]+|\\.?)*"?|[{}]""", re.DOTALL)

# The server's words for a value of another type than text. A field's place, and what it got.
_GO_FIELD = re.compile(r"cannot unmarshal (number|bool)[\w.+-]* into Go struct field \w+\.(\S+) of type string")
_SCHEMA = re.compile(r'(?<!\S)(\S{1,300}): Invalid value: "(integer|number|boolean)": \S+ in body must be of type string')
# Possessive, as each place in a path may also begin one.
_TYPED = re.compile(
    r"\s\.((?:(?:[^\s\[:]|:(?=\S))++|\[[^\]\n]{0,300}+\]){1,50}+)"
    r": expected string, got &value\.valueUnstructured\{Value:([^}]{0,100})\}"
)
_UNNAMED = re.compile(r"cannot convert (int64|float64|bool) to string")
_REFUSALS = (_GO_FIELD, _SCHEMA, _TYPED, _UNNAMED)
# As masked in a Secret.
_TYPE_OF_MASKED = {MASKED_NUMBER: NUMBER, MASKED_BOOLEAN: BOOLEAN}

_TYPES = {"number": NUMBER, "integer": NUMBER, "int64": NUMBER, "float64": NUMBER, "bool": BOOLEAN, "boolean": BOOLEAN}
_MOST_STATUSES = 20
# What of a message and of a definition is looked at, and how many fields a message names.
_LONGEST_TEXT, _LONGEST_PATH, _MOST_VALUES, _MOST_FIELDS = 64 * 1024, 1000, 10_000, 10


def sentence(status: JsonMapping) -> str:
    """A Status object as `Reason: message`, on one line where the server's message is."""
    message = _QUOTED.sub(
        lambda found: '"…"' if found[1] and len(found[0]) > _LONGEST_VALUE else found[0], str(status.get("message") or "")
    )
    reason = str(status.get("reason") or "")
    return ": ".join(filter(None, (reason, message.strip()))) or f"HTTP {status.get('code', '')}".strip()


def readable(text: str) -> str:
    """The text with each Status object near its beginning, as JSON or as Python shows it, as a sentence."""
    if "Status" not in text:
        return text
    text, rest = text[:_LONGEST_TEXT], text[_LONGEST_TEXT:]
    text = _BYTES.sub(_decoded, text)
    shown: list[str] = []
    at = 0
    for _ in range(_MOST_STATUSES):
        found = _STATUS.search(text, at)
        if found is None:
            break
        status, end = _object(text, found.start())
        shown.append(text[at : found.start()] if status is None else _BEFORE_BODY.sub("", text[at : found.start()]))
        shown.append(text[found.start() : end] if status is None else sentence(status))
        at = end
    return "".join([*shown, text[at:], rest]).strip() if shown else text + rest


def remedy(message: str, definitions: Iterable[object] = ()) -> str:
    """A remedy for a refusal because of a number or a boolean where text has to be; empty for any other.

    `definitions` is what was sent, as objects, their YAML, or the operations of a JSON patch.
    """
    message = message[:_LONGEST_TEXT]
    if "string" not in message or not any(pattern.search(message) for pattern in _REFUSALS):
        return ""
    objects = _objects(definitions)
    fields = list(dict.fromkeys(_refused(message, list(_values(objects)))))
    if not fields:
        return ""
    named = [f"{path} ({type_})".strip() for path, type_ in fields[:_MOST_FIELDS]]
    more = f" and {len(fields) - _MOST_FIELDS} more" if len(fields) > _MOST_FIELDS else ""
    kind = objects[0].get("kind") if len(objects) == 1 else None
    of = f"{kind} " if kind and isinstance(kind, str) else ""
    return (
        f"{of}{', '.join(named)}{more} must be text: quote a literal, and end a template with `| string` "
        "(`{{ … | string }}`), as ansible-core from 2.19 on leaves numbers and booleans what they are"
    )


def _refused(message: str, values: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """(field, what it got), as the message says it or else as the values that were sent do."""
    fields = _distinct(_GO_FIELD, message)
    places = [_place(path) for path, _ in values] if fields else []
    for word, field in fields:
        type_ = _TYPES[word]
        sent = [
            (path, known)
            for (path, known), place in zip(values, places, strict=True)
            if known == type_ and _is_at(place, field)
        ]
        yield from sent or [(field, type_)]
    for found in _SCHEMA.finditer(message):
        yield found[1].lstrip("["), _TYPES[found[2]]
    for found in _TYPED.finditer(message):
        yield found[1], BOOLEAN if found[2] in ("true", "false") else NUMBER
    for (word,) in _distinct(_UNNAMED, message):
        # Which of them it is, nobody says.
        type_ = _TYPES[word]
        yield from [(path, known) for path, known in values if known == type_] or [("a field", type_)]


def _distinct(pattern: re.Pattern[str], message: str) -> list[tuple[str, ...]]:
    """The distinct matches. For each of them all values are looked at."""
    return list(dict.fromkeys(found.groups() for found in pattern.finditer(message)))[:_MOST_FIELDS]


def _place(path: str) -> str:
    """A value's path as Go says it: without its place in lists."""
    return "." + re.sub(r"\[\d+\]", "", path)


def _is_at(place: str, field: str) -> bool:
    """True if Go names a value's place so; of a map it leaves out the key."""
    return place.endswith("." + field) or place.rpartition(".")[0].endswith("." + field)


def _objects(definitions: Iterable[object]) -> list[JsonMapping]:
    """The objects in what was sent, each once: YAML's aliases make much of little."""
    objects: list[JsonMapping] = []
    left, room = list(definitions)[::-1], _LONGEST_TEXT
    # Also keeps them, so that no two have the same id.
    seen: dict[int, object] = {}
    while left:
        item = left.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, str) and len(item) <= room:
            room -= len(item)
            left += reversed(list(_documents(item)))
        elif isinstance(item, list):
            left += reversed(item)
        elif isinstance(item, Mapping):
            objects.append(item)
    return objects


def _documents(text: str) -> Iterator[object]:
    try:
        for document in yaml.load_all(text, Loader=_Loader):
            if not isinstance(document, str):
                yield document
    except Exception:  # PyYAML raises what it stumbles over: KeyError of `!!bool x`, IndexError of `!!int ''`.
        return


class _Loader(yaml.CSafeLoader):
    """Leaves merge keys to fail, as these too make much of little."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        pass


def _values(objects: list[JsonMapping]) -> Iterator[tuple[str, str]]:
    """(path, what it is) of each number and boolean in objects, or of those that a JSON patch writes."""
    left: list[tuple[str, object]] = [_written(obj) for obj in reversed(objects)]
    seen: set[int] = set()
    for _ in range(_MOST_VALUES):
        if not left:
            return
        path, value = left.pop()
        if isinstance(value, (Mapping, list)):
            # Every value within has its path, so a long one would be there many times.
            if id(value) not in seen and len(path) <= _LONGEST_PATH:
                seen.add(id(value))
                before = f"{path}." if path else ""
                inner = (
                    [(f"{before}{key}", item) for key, item in value.items()]
                    if isinstance(value, Mapping)
                    else [(f"{path}[{number}]", item) for number, item in enumerate(value)]
                )
                left += reversed(inner)
        elif isinstance(value, bool):
            yield path, BOOLEAN
        elif isinstance(value, (int, float)):
            yield path, NUMBER
        elif isinstance(value, str) and (type_ := _TYPE_OF_MASKED.get(value)):
            yield path, type_


def _written(obj: JsonMapping) -> tuple[str, object]:
    """An operation's path and value; any other object as it is."""
    if isinstance(obj.get("path"), str) and "value" in obj:
        return obj["path"].strip("/").replace("/", "."), obj["value"]
    return "", obj


def _object(text: str, start: int) -> tuple[JsonMapping | None, int]:
    """The Status object that begins here, if it can be read, and where what begins here ends."""
    try:
        if text.startswith("{'", start):
            end = _end_in_python(text, start)
            status = ast.literal_eval(text[start:end])
        else:
            status, end = json.JSONDecoder().raw_decode(text, start)
    except Exception:  # Of foreign text parsers raise more than they document: here TypeError for a key that is a list.
        return None, start + 1
    return (status, end) if isinstance(status, Mapping) else (None, start + 1)


def _end_in_python(text: str, start: int) -> int:
    depth = 0
    for found in _IN_PYTHON.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    return start + 1


def _decoded(found: re.Match[str]) -> str:
    if "Status" in found[0]:
        try:
            return str(ast.literal_eval(found[0]).decode())
        except Exception:  # As above.
            pass
    return found[0]
