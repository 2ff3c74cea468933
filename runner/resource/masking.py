"""Masking of Secrets in the events of a run, and so in logs, statuses, Events and artifacts.

Ansible hides what a task marks `no_log`. Roles forget to: a task that creates or reads a Secret has its data in its
arguments and in its result, in structured form and again in the text that Ansible prints.

A run's own process masks each event, as the last thing that happens to it there: no unmasked event reaches the
runner's process, and the artifacts, which that process writes, are masked by the same code. So that what the runner
decides by is what happened, masking goes by the event's structure:

- Ansible's own words, identifiers, paths of files and numbers (`_OWN`) are masked only where they hold a given secret: that
  is random, and nothing is decided by it. What the runner reads from a result (`plain_results`) is never masked.
- Inside a Secret (`data`, `stringData`, patches and differences of them) every value is masked, whatever it is.
- In any other text a Secret's value is masked if it can be a secret. Its key says so (`password`, `tls.key`), or it looks
  like one (`secrets_of`); `host: awx-demo-postgres-15`, `type: managed` and `username: operator` are names.
- A value that looks like a name or a word, and is a secret by its key, is masked as a whole word only: `changeme` in
  `user:changeme@host` and `redis/changeme`, not in `changeme-operator` nor in a file's path. Other values are masked
  wherever they stand.
- A name that is known (of the CR, its namespace, the role, an object in the event) is not masked, and names of tasks,
  objects and files are only masked where they hold a value that looks like no name.
- Of a file in a Secret (a certificate, a settings.py) the whole text is masked, and of its parts the values whose keys say
  that they are secret and what looks random; not each of its lines, most of which stand in many files.

Values of fewer than 6 characters are masked in Secrets only: in a text they are part of too many other words.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, islice
from typing import Any

import yaml

from runner.json_codec import JsonMapping, JsonObject
from runner.resource.secret_values import (
    MASK,
    MASKED_BOOLEAN,
    MASKED_NUMBER,
    SECRET_FIELDS,
    SEGMENT,
    SHORTEST,
    decoded,
    encoded,
    is_plain,
    is_value,
    pairs,
    secrets_of,
    spellings,
)

# Arguments of a module that define an object whose kind and name are arguments of their own.
_DEFINITIONS = ("definition", "resource_definition")
_SECRET_IN_YAML = re.compile(r"kind:\s{0,8}['\"]?Secret\b")

# Keys of an event and of its data whose values are Ansible's or ansible-runner's own.
_OWN = frozenset({
    *("event", "uuid", "parent_uuid", "runner_ident", "created", "start", "end"),
    *("playbook", "playbook_uuid", "play_uuid", "task_uuid", "task_path", "task_action", "resolved_action"),
    *("role", "resolved_role", "host", "remote_addr", "event_loop"),
})  # fmt: skip
# Keys, in events and in what they hold, whose values are names.
_NAMES = frozenset({
    *("play", "task", "handler", "pattern", "play_pattern", "included_file"),
    *("kind", "apiVersion", "api_version", "name", "namespace", "generateName", "path", "src", "dest"),
})  # fmt: skip

# Words that messages are made of, and decisions: none of them is given away by being readable.
_WORDS = frozenset({
    *("ansible", "playbook", "localhost", "kubernetes", "changed", "failed", "failure", "skipped", "skipping", "ignored"),
    *("rescued", "unreachable", "censored", "check mode", "default", "password", "secret", "undefined"),
})  # fmt: skip

# What a text is made of, for values that are masked as whole words: colours and escapes, which are none, and words.
_WORD = re.compile(r"\x1b\[[0-9;]*m|\\+(?:u[0-9a-fA-F]{4}|[nrt])?|[\w./-]+")
_WORDLIKE = re.compile(r"\w(?:[\w./-]*\w)?")
# Where a role's or Ansible's code stands; what may be in a name's stead under a name's key.
_FILE = re.compile(r"/[^/].*\.(?:ya?ml|py|j2|json|conf|cfg|ini|sh|txt)\.?")
_NO_NAME = re.compile(r"[\s:@=]")

# How many texts are looked for one after the other; how long the parts are that more of them are filed under, and how much
# of a text's beginning and end is looked at for one.
_FEW, _PART, _FILED = 20, 4, 12
_MOST_NAMES, _MOST_OBJECTS, _MOST_SEGMENTS, _LONGEST_TITLE = 10_000, 20, 8, 1024
# Of one value: its whole text is the first of them, what its keys call secret comes before what only looks random.
_MOST_PARTS = 1000

# Where an object in JSON begins, or one in JSON in JSON.
_OBJECT = re.compile(r'"\{\\"|\{\s{0,80}"')


class Masker:
    """Masks the events of one run, and remembers for them which Secrets it has seen.

    `secrets` are masked everywhere, `names` stay readable. `plain_results` says by action which key of its result is never
    masked, because something is decided by it.
    """

    def __init__(
        self, secrets: Iterable[str] = (), names: Iterable[str] = (), plain_results: Mapping[str, str] | None = None
    ) -> None:
        self._plain_results = plain_results or {}
        self._given = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        self._given_in_json = [json.dumps(secret)[1:-1] for secret in self._given]
        # What the event is called that is being masked: its task, its play, their places.
        self._titles: set[str] = set()
        self._names = {*_WORDS, *filter(None, names)}
        self._seen: set[tuple[str, str, bool]] = set()
        # What is masked wherever it stands, what as a whole word, and both as they stand in JSON.
        self._anywhere, self._words, self._in_json = _Texts(), set[str](), _Texts()
        # Of how many segments the longest of the words are.
        self._most_segments = 1
        # `key: value` of all that Secrets hold, for texts that show one: the value, and the pair without it.
        self._pairs: dict[str, tuple[str, str]] = {}
        self._pair_texts = _Texts()

    def mask(self, value: object) -> Any:
        """A copy of the JSON value without any Secret's data."""
        self._learn(value)
        return self._cover(value)

    def mask_json(self, text: str) -> str:
        """Mask an event in JSON. Most have nothing to be masked, which is found without parsing them."""
        if "Secret" not in text and not self._holds_any(text):
            return text
        event = json.loads(text)
        # What is printed shows what is in the data.
        self._learn({name: value for name, value in event.items() if name != "stdout"})
        masked = self._cover_event(event)
        return text if masked == event else json.dumps(masked)

    def _holds_any(self, text: str) -> bool:
        return any(secret in text for secret in self._given_in_json) or any(True for _ in self._in_json.found(text))

    def _learn(self, value: object) -> None:
        """Remember the data of Secrets in this value, and the names of objects in it."""
        # All are kept, so that none has another's address. YAML's aliases make one object stand in many places.
        seen: dict[int, object] = {}
        left = [value]
        while left:
            found = left.pop()
            if isinstance(found, str):
                left += _objects_in(found)
            elif isinstance(found, (dict, list)) and id(found) not in seen:
                seen[id(found)] = found
                left += found.values() if isinstance(found, dict) else found
                if isinstance(found, dict):
                    self._learn_names(found)
                    for key, entry, is_encoded in _entries(found):
                        self._remember(key, entry, is_encoded=is_encoded)

    def _learn_names(self, obj: JsonMapping) -> None:
        # An object's name and kind may be arguments of a module.
        metadata = obj.get("metadata", obj if "kind" in obj else None)
        if not isinstance(metadata, dict):
            return
        labels = metadata.get("labels")
        names = [metadata.get(part) for part in ("name", "namespace", "generateName")]
        for name in [*names, *(labels.values() if isinstance(labels, dict) else ())]:
            if isinstance(name, str) and name and len(self._names) < _MOST_NAMES:
                self._names.add(name)

    def _remember(self, key: str, value: str, *, is_encoded: bool) -> None:
        if (key, value, is_encoded) in self._seen:
            return
        self._seen.add((key, value, is_encoded))
        text = decoded(value) if is_encoded else value
        # What cannot be decoded is of bytes.
        secrets = [value] if text is None else list(islice(secrets_of(key, text), _MOST_PARTS))
        for secret in secrets:
            for spelling in (secret, encoded(secret), decoded(secret)):
                self._add(spelling or "")
        if text is not None and text.strip() in secrets:
            # With the white space around it, another base64.
            self._add(value)
            self._add(encoded(text))
        if text is not None and (text.strip() not in secrets or len(text.strip()) < SHORTEST):
            for shown in {value, text, encoded(text)}:
                for pair, masked in pairs(key, shown):
                    self._pairs[pair] = shown, masked
                    self._pair_texts.add(pair)

    def _add(self, secret: str) -> None:
        secret = secret.strip()
        if len(secret) < SHORTEST or secret in _WORDS:
            return
        if is_plain(secret) and _WORDLIKE.fullmatch(secret):
            self._words.add(secret)
            self._most_segments = min(max(self._most_segments, len(SEGMENT.findall(secret))), _MOST_SEGMENTS)
            self._in_json.add(json.dumps(secret)[1:-1])
            return
        for spelling in spellings(secret):
            self._anywhere.add(spelling)
            self._in_json.add(json.dumps(spelling)[1:-1])

    def _cover_event(self, event: JsonMapping) -> JsonObject:
        data = event.get("event_data")
        if not isinstance(data, dict):
            return self._cover_parts(event)
        titles = [value for name, value in data.items() if name in _NAMES or name in _OWN]
        self._titles = {title[:_LONGEST_TITLE] for title in titles if isinstance(title, str) and len(title) >= SHORTEST}
        covered = self._cover_parts(data)
        result, plain = data.get("res"), self._plain_results.get(str(data.get("task_action")))
        if plain and isinstance(result, dict) and plain in result:
            covered["res"][plain] = result[plain]
        return {**self._cover_parts({**event, "event_data": None}), "event_data": covered}

    def _cover_parts(self, parts: JsonMapping) -> JsonObject:
        return {name: self._cover_part(name, value) for name, value in parts.items()}

    def _cover_part(self, name: str, value: object) -> Any:
        if name in _OWN:
            return self._without_given(value) if isinstance(value, str) else value
        # The event's own task and play are titles, of any words.
        return self._cover_text(value, True) if name in _NAMES and isinstance(value, str) else self._cover(value)

    def _cover(self, value: object, is_name: bool = False) -> Any:
        """A masked copy. `is_name`: by its key the value is a name, or a list of them, if it looks like one."""
        if isinstance(value, str):
            return self._cover_text(value, is_name and not _NO_NAME.search(value))
        if isinstance(value, list):
            return [self._cover(item, is_name) for item in value]
        if not isinstance(value, dict):
            return value
        covered = {name: self._cover(item, name in _NAMES) for name, item in value.items()}
        if isinstance(metadata := value.get("metadata"), dict):
            covered["metadata"] = {name: self._cover(item, name != "annotations") for name, item in metadata.items()}
        return {**covered, **_covered_fields(value, covered)}

    def _cover_text(self, text: str, is_name: bool) -> str:
        text = self._without_given(text)
        if "Secret" in text and not is_name:
            for pair in self._pair_texts.found(text):
                value, masked = self._pairs[pair]
                if value not in self._names:
                    text = text.replace(pair, masked)
        # The longest first: one secret may be part of another.
        for secret in sorted(self._anywhere.found(text), key=len, reverse=True):
            text = self._without(text, secret)
        return text if is_name or not self._words else self._without_words(text)

    def _without(self, text: str, secret: str) -> str:
        """The text without the secret, but for names that it is, or is a part of."""
        names = sorted((name for name in self._names if secret in name and name in text), key=len, reverse=True)
        if not names:
            return text.replace(secret, MASK)
        parts = re.split(f"({'|'.join(map(re.escape, names))})", text)
        # Every second is one of the names.
        return "".join(part if number % 2 else part.replace(secret, MASK) for number, part in enumerate(parts))

    def _without_given(self, text: str) -> str:
        for secret in self._given:
            text = text.replace(secret, MASK)
        return text

    def _without_words(self, text: str) -> str:
        titles = _Spans(text, self._titles)

        def without(found: re.Match[str]) -> str:
            word, done = found[0], 0
            kept: list[str] = []
            for start, end in self._secrets_in(word):
                if titles.hold(found.start() + start, found.start() + end):
                    continue
                if start >= done:
                    kept += word[done:start], MASK
                done = max(done, end)
            return "".join([*kept, word[done:]])

        return _WORD.sub(without, text)

    def _secrets_in(self, word: str) -> list[tuple[int, int]]:
        """Find the secrets in a word: as all of it, as an option's value (`-pPASSWORD`), between its separators."""
        whole = word.strip("./-")
        if whole in self._names:
            return []
        start = word.index(whole)
        end = start + len(whole)
        wholes = {(start, end), (2 if word.startswith("-") else start, end)}
        segments = [segment.span() for segment in SEGMENT.finditer(word)]
        parts = {
            (first, last)
            for number, (first, _) in enumerate(segments)
            for _, last in segments[number : number + self._most_segments]
        }
        found = [span for span in wholes | parts if (part := word[slice(*span)]) in self._words and part not in self._names]
        is_file = bool(found) and len(word) <= _LONGEST_TITLE and bool(_FILE.fullmatch(word))
        return sorted(span for span in found if span in wholes or (not is_file and _stands_alone(word, *span)))


class _Spans:
    """The spans of a text that are the event's task or play, or their places."""

    def __init__(self, text: str, titles: Iterable[str]) -> None:
        spans = sorted(found.span() for title in titles for found in re.finditer(re.escape(title), text))
        self._starts = [start for start, _ in spans]
        # How far what begins until there reaches.
        self._ends = list(accumulate((end for _, end in spans), max))

    def hold(self, start: int, end: int) -> bool:
        before = bisect_right(self._starts, start)
        return before > 0 and self._ends[before - 1] >= end


class _Texts:
    """A set of texts to find in other texts, with an index by a part of each that few of the others have.

    Only those are compared whose part is there, however much alike they begin.
    """

    def __init__(self) -> None:
        self._all: set[str] = set()
        self._by_part: dict[str, list[str]] = {}

    def add(self, text: str) -> None:
        if text not in self._all:
            self._all.add(text)
            part = min(_parts(text[:_FILED]) | _parts(text[-_FILED:]), key=lambda part: len(self._by_part.get(part, ())))
            self._by_part.setdefault(part, []).append(text)

    def found(self, text: str) -> Iterator[str]:
        if len(self._all) <= _FEW:
            return (one for one in self._all if one in text)
        parts = self._by_part.keys() & _parts(text)
        return (one for part in parts for one in self._by_part[part] if one in text)


def _parts(text: str) -> set[str]:
    return {text[at : at + _PART] for at in range(max(len(text) - _PART, 0) + 1)}


def _stands_alone(word: str, start: int, end: int) -> bool:
    """True if a part of a word stands alone: in a path, a URL or a domain; in any name if it is not of letters only."""
    separators = "/." if word[start:end].isalpha() else "/._-"
    sides = word[start - 1 : start] if start else "", word[end : end + 1]
    return all(side in separators for side in sides)


def _is_secret(obj: object) -> bool:
    return isinstance(obj, dict) and obj.get("kind") == "Secret"


def _secret_fields(obj: object) -> Iterator[tuple[str, JsonObject]]:
    for field in SECRET_FIELDS:
        if isinstance(obj, dict) and isinstance(obj.get(field), dict):
            yield field, obj[field]


def _sides(obj: JsonMapping) -> JsonObject:
    """A Secret `before` and `after`, where a module returns the difference with its result."""
    difference = obj.get("diff")
    told = isinstance(difference, dict) and _is_secret(obj.get("result"))
    return {side: part for side, part in difference.items() if isinstance(part, dict)} if told else {}  # type: ignore[union-attr]


def _definitions(obj: JsonMapping) -> JsonObject:
    """The definitions of a Secret that have no kind of their own, since it is another argument."""
    parts = {name: obj.get(name) for name in _DEFINITIONS if _is_secret(obj)}
    return {name: part for name, part in parts.items() if isinstance(part, dict) and not part.get("kind")}


def _patched(operation: object) -> str:
    """The key of the entry that an operation of a Secret's JSON patch writes; empty if it writes none."""
    path = operation.get("path") if isinstance(operation, dict) else None
    parts = path.split("/") if isinstance(path, str) else []
    return parts[-1] if len(parts) == 3 and parts[1] in SECRET_FIELDS else ""


def _entries(obj: JsonMapping) -> Iterator[tuple[str, str, bool]]:
    """(key, value, whether it is encoded) of what is a Secret's in this object."""
    for part in ([obj] if _is_secret(obj) else []) + [*_sides(obj).values(), *_definitions(obj).values()]:
        for field, entries in _secret_fields(part):
            yield from ((str(key), str(value), field == "data") for key, value in entries.items() if is_value(value))
    patch = obj.get("patch")
    for operation in patch if _is_secret(obj) and isinstance(patch, list) else ():
        if (key := _patched(operation)) and is_value(operation.get("value")):
            yield key, str(operation["value"]), operation["path"].startswith("/data/")


def _covered_fields(obj: JsonMapping, covered: JsonMapping) -> JsonObject:
    """Those of an object's fields in which a Secret's entries stand, with all of them masked."""
    fields: JsonObject = {}
    if _is_secret(obj):
        fields = _masked_fields(obj)
        fields |= {name: {**covered[name], **_masked_fields(part)} for name, part in _definitions(obj).items()}
        if isinstance(patch := obj.get("patch"), list):
            fields["patch"] = [
                {**rest, "value": _masked(operation.get("value"))} if _patched(operation) else rest
                for operation, rest in zip(patch, covered["patch"], strict=True)
            ]
    if sides := _sides(obj):
        shown = covered["diff"]
        fields["diff"] = {**shown, **{side: {**shown[side], **_masked_fields(part)} for side, part in sides.items()}}
    return fields


def _masked_fields(obj: object) -> JsonObject:
    return {field: {key: _masked(value) for key, value in entries.items()} for field, entries in _secret_fields(obj)}


def _masked(value: object) -> str:
    if isinstance(value, bool):
        return MASKED_BOOLEAN
    return MASKED_NUMBER if isinstance(value, (int, float)) else MASK


def _objects_in(text: str) -> list[object]:
    """The objects in a text that has a Secret: a definition as a template makes it, kubectl's output, a server's answer."""
    if "Secret" not in text or "ata" not in text:
        return []
    try:
        # All of it is text for this loader: no tags, no merging.
        documents = yaml.load_all(text, Loader=yaml.CBaseLoader) if _SECRET_IN_YAML.search(text) else ()
        return [*documents, *_json_in(text)]
    except (ValueError, RecursionError, yaml.YAMLError):
        return list(_json_in(text))


def _json_in(text: str) -> Iterator[object]:
    """The JSON objects in a text, also those that are quoted there as JSON."""
    decoder, at = json.JSONDecoder(), 0
    for _ in range(_MOST_OBJECTS):
        found = _OBJECT.search(text, at)
        if found is None:
            return
        try:
            value, at = decoder.raw_decode(text, found.start())
            yield value
        except (ValueError, RecursionError):
            at = found.end()
