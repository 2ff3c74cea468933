"""How what two engines left in a cluster differs, without what has to differ.

Pure functions on decoded objects. Two steps: `normalize` takes from one engine's objects what the cluster made up (uids,
times, addresses, suffixes of names) and which namespace they were in; `compare` then pairs them by kind and name, and
leaves out what the operator itself makes up at random (passwords) and hashes of that.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

Object = Mapping[str, Any]

NAMESPACE = "<namespace>"

# Written by the control plane alone, from other objects that are compared; and what engines say rather than do.
LEFT_OUT = frozenset({"ControllerRevision", "Endpoints", "EndpointSlice", "Event", "IPAddress", "Lease"})

_UID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
# RFC 3339, Python's str(), and date(1).
_TIME = re.compile(
    r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"
    r"|\b[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d (?:[A-Z]{3,4} )?\d{4}\b"
)
# md5 to sha512; a shorter word may mean something.
_HASH = re.compile(r"\b(?:[0-9a-f]{128}|[0-9a-f]{96}|[0-9a-f]{64}|[0-9a-f]{56}|[0-9a-f]{40}|[0-9a-f]{32})\b")
_TOKEN_VOLUME = re.compile(r"\bkube-api-access-[a-z0-9]{5}\b")
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----")

# What kubectl and `apply: true` keep of an object: a copy, a Secret's data included.
_COPY = "kubectl.kubernetes.io/last-applied-configuration"
# Fields with the values of Secrets.
_VALUES = re.compile(
    r"^(metadata\.annotations\.kubectl\.kubernetes\.io/last-applied-configuration(\.|$))?(data|stringData|$)"
)

_METADATA = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")
_HASH_LABELS = ("controller-revision-hash", "pod-template-hash")
_JOB_LABELS = ("batch.kubernetes.io/controller-uid", "controller-uid")

# Shorter words are not taken for generated ones: they stand in other words by chance.
_MIN_GENERATED = 8


class Identity(NamedTuple):
    """An object by what is the same with every engine."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


Snapshot = Mapping[Identity, Any]


@dataclass(frozen=True, slots=True)
class Expected:
    """A difference that an operator is known to make between any two installations. Patterns are those of a shell."""

    object: str
    field: str
    why: str

    def covers(self, identity: Identity, field: str) -> bool:
        return fnmatchcase(f"{identity.kind}/{identity.name}", self.object) and fnmatchcase(field, self.field)


@dataclass(frozen=True, slots=True)
class Difference:
    """`field` is a dotted path, and empty where the whole object is there with one engine only."""

    identity: Identity
    field: str
    left: str
    right: str


def normalize(objects: Iterable[Object], namespace: str) -> dict[Identity, Any]:
    """The objects by identity, without what the cluster made up. Secrets' values are decoded."""
    kept = [obj for obj in objects if obj.get("kind") not in LEFT_OUT]
    words = _made_up_words(kept)
    found: dict[Identity, list[Any]] = {}
    for obj in kept:
        content = _clean(_essence(obj), words, namespace)
        metadata = content.get("metadata") or {}
        identity = Identity(str(content.get("kind")), metadata.get("namespace") or "", metadata.get("name") or "")
        found.setdefault(identity, []).append(content)
    numbered: dict[Identity, Any] = {}
    for identity, contents in found.items():
        # Pods of one Deployment have one name here; in which order does not matter.
        for number, content in enumerate(sorted(contents, key=lambda content: json.dumps(content, sort_keys=True)), 1):
            numbered[identity if number == 1 else identity._replace(name=f"{identity.name} ({number})")] = content
    return numbered


def changed_since(before: Snapshot, after: Snapshot) -> dict[Identity, Any]:
    """Those of the objects afterwards that were not there before, or were otherwise."""
    return {identity: content for identity, content in after.items() if before.get(identity) != content}


def compare(left: Snapshot, right: Snapshot) -> list[Difference]:
    """What is not the same, object by object and field by field. No value of a Secret is shown."""
    left, right = _without_generated(left, right)
    differences = []
    for identity in sorted({*left, *right}):
        if identity not in right:
            differences.append(Difference(identity, "", "there", "not there"))
        elif identity not in left:
            differences.append(Difference(identity, "", "not there", "there"))
        else:
            for field, one, other in _fields(left[identity], right[identity], ()):
                if identity.kind == "Secret" and _VALUES.search(field):
                    one, other = _shape(one), _shape(other)
                    if one == other:
                        continue
                differences.append(Difference(identity, field, one, other))
    return differences


def sort_out(
    differences: Sequence[Difference], expected: Sequence[Expected]
) -> tuple[list[Difference], list[tuple[Difference, Expected]]]:
    """The differences that nobody expects, and those that somebody does, with the reason."""
    unexpected, explained = [], []
    for difference in differences:
        reason = next((rule for rule in expected if rule.covers(difference.identity, difference.field)), None)
        if reason is None:
            unexpected.append(difference)
        else:
            explained.append((difference, reason))
    return unexpected, explained


def report(differences: Sequence[Difference], left: str, right: str) -> str:
    """The differences as text, a paragraph an object."""
    lines: list[str] = []
    width = max(len(left), len(right))
    previous = None
    for difference in differences:
        if difference.identity != previous:
            lines.append(str(difference.identity))
            previous = difference.identity
        if not difference.field:
            lines.append(f"  only with {left if difference.left == 'there' else right}")
            continue
        lines.append(f"  {difference.field}")
        if "\n" in difference.left and "\n" in difference.right:
            changes = difflib.unified_diff(
                difference.left.splitlines(), difference.right.splitlines(), left, right, lineterm="", n=1
            )
            lines += [f"    {line}" for line in changes]
        else:
            lines += [f"    {left:{width}}  {difference.left}", f"    {right:{width}}  {difference.right}"]
    return "\n".join(lines)


def _made_up_words(objects: Sequence[Object]) -> dict[str, str]:
    """Words that the control plane made up, wherever they stand, and what to write instead; longest first."""
    words: dict[str, str] = {}
    for obj in objects:
        metadata = obj.get("metadata") or {}
        labels = metadata.get("labels") or {}
        for label in _HASH_LABELS:
            # A StatefulSet's is its name and the hash.
            if hashed := str(labels.get(label) or "").rpartition("-")[2]:
                words[hashed] = "<hash>"
        prefix, name = str(metadata.get("generateName") or ""), str(metadata.get("name") or "")
        # A StatefulSet's pods have numbers; a random suffix may be of digits alone.
        numbered = any(owner.get("kind") == "StatefulSet" for owner in metadata.get("ownerReferences") or ())
        if prefix and name.startswith(prefix) and not numbered:
            words[name] = f"{prefix}<random>"
        if obj.get("kind") == "Service":
            spec = obj.get("spec") or {}
            words |= {address: "<ip>" for address in spec.get("clusterIPs") or () if address != "None"}
    # A pod's replacement has the hash of its ReplicaSet in it still.
    hashes = {word for word, instead in words.items() if instead == "<hash>"}
    for word, instead in words.items():
        for hashed in hashes:
            if instead.endswith("<random>"):
                words[word] = instead = instead.replace(hashed, "<hash>")
    return dict(sorted(words.items(), key=lambda item: -len(item[0])))


def _essence(obj: Object) -> dict[str, Any]:
    """The object without what the API server and the controllers keep for themselves."""
    essence = json.loads(json.dumps(obj))
    metadata = essence.get("metadata") or {}
    for name in _METADATA:
        metadata.pop(name, None)
    annotations = metadata.get("annotations") or {}
    if _COPY in annotations:
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            annotations[_COPY] = _essence(json.loads(annotations[_COPY]))
    kind, spec, status = essence.get("kind"), essence.get("spec") or {}, essence.get("status") or {}
    for labels in (
        metadata.get("labels"),
        _at(spec, "selector", "matchLabels"),
        _at(spec, "template", "metadata", "labels"),
    ):
        for label in _JOB_LABELS:
            if labels and label in labels:
                labels[label] = "<uid>"
    if kind == "Pod":
        # Where and how it runs is the scheduler's and the node's.
        spec.pop("nodeName", None)
        essence["status"] = {"phase": status.get("phase")}
    elif kind == "Service":
        for name in ("clusterIP", "clusterIPs"):
            if spec.get(name) not in (None, "None", ["None"]):
                spec[name] = "<ip>"
        for port in spec.get("ports") or ():
            if "nodePort" in port:
                port["nodePort"] = "<port>"
    elif kind == "Secret" and isinstance(essence.get("data"), dict):
        essence["data"] = {name: _decoded(value) for name, value in essence["data"].items()}
    elif kind == "Node":
        essence.pop("status", None)
    elif kind == "CustomResourceDefinition":
        status.pop("conditions", None)
    if kind != "Pod" and isinstance(status, dict):
        status.pop("observedGeneration", None)
    _sort(essence)
    return essence


def _sort(essence: dict[str, Any]) -> None:
    """Lists whose order says nothing."""
    metadata, status = essence.get("metadata") or {}, essence.get("status") or {}
    if metadata.get("ownerReferences"):
        metadata["ownerReferences"].sort(key=lambda owner: (owner.get("kind", ""), owner.get("name", "")))
    if metadata.get("finalizers"):
        metadata["finalizers"].sort()
    conditions = status.get("conditions") if isinstance(status, dict) else None
    if isinstance(conditions, list) and all(isinstance(condition, dict) for condition in conditions):
        conditions.sort(key=lambda condition: str(condition.get("type", "")))


def _at(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _clean(value: Any, words: Mapping[str, str], namespace: str) -> Any:
    if isinstance(value, dict):
        return {_clean_text(name, words, namespace): _clean(inner, words, namespace) for name, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner, words, namespace) for inner in value]
    return _clean_text(value, words, namespace) if isinstance(value, str) else value


def _clean_text(text: str, words: Mapping[str, str], namespace: str) -> str:
    for word, instead in words.items():
        text = text.replace(word, instead)
    text = text.replace(namespace, NAMESPACE) if namespace else text
    text = _TOKEN_VOLUME.sub("kube-api-access-<random>", text)
    return _TIME.sub("<time>", _UID.sub("<uid>", text))


def _decoded(value: Any) -> str:
    try:
        return base64.b64decode(str(value), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return f"base64:{value}"


def _without_generated(left: Snapshot, right: Snapshot) -> tuple[Snapshot, Snapshot]:
    """Both, with what is in their Secrets at random replaced by where it comes from, everywhere."""
    lefts: dict[str, str] = {}
    rights: dict[str, str] = {}
    for identity, content in left.items():
        other = right.get(identity)
        if identity.kind != "Secret" or other is None:
            continue
        mine, theirs = content.get("data") or {}, other.get("data") or {}
        for name in mine.keys() & theirs.keys():
            if is_generated(mine[name], theirs[name]):
                # The first Secret that has it gives its name: which that is must not depend on the values.
                place = f"<generated: {identity.name}/{name}>"
                lefts.setdefault(mine[name], place)
                rights.setdefault(theirs[name], place)
    return _replaced(left, lefts), _replaced(right, rights)


def is_generated(one: str, other: str) -> bool:
    """Whether two values look like two throws of the same dice: as long, of the same kind of characters, and unlike."""
    if one == other:
        return False
    if (headers := _PEM.findall(one)) or _PEM.search(other):
        return bool(headers) and headers == _PEM.findall(other)
    if len(one) != len(other) or len(one) < _MIN_GENERATED or re.search(r"\s", one + other):
        return False
    same = sum(a == b for a, b in zip(one, other, strict=True))
    return same < len(one) / 2 and _alphabet(one) == _alphabet(other)


def _alphabet(text: str) -> str:
    """Coarse: a random base64 text may well have neither of its two signs."""
    for name, pattern in (("digits", r"\d+"), ("hex", r"[0-9a-f]+")):
        if re.fullmatch(pattern, text):
            return name
    return "any"


def _replaced(snapshot: Snapshot, words: Mapping[str, str]) -> dict[Identity, Any]:
    ordered = dict(sorted(words.items(), key=lambda item: -len(item[0])))
    return {identity: _clean(content, ordered, "") for identity, content in snapshot.items()}


_ABSENT = object()


def _fields(one: Any, other: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """(dotted path, left, right) of each innermost value that differs."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            yield from _fields(one.get(name, _ABSENT), other.get(name, _ABSENT), (*path, name))
    elif isinstance(one, list) and isinstance(other, list):
        mine, theirs = _by_name(one), _by_name(other)
        yield from _fields(mine, theirs, path)
        if mine.keys() == theirs.keys() and list(mine) != list(theirs):
            yield ".".join((*path, "(order)")), ", ".join(mine), ", ".join(theirs)
    elif one != other and not _differ_by_hash(one, other):
        yield ".".join(path), _text(one), _text(other)


def _by_name(items: list[Any]) -> dict[str, Any]:
    """A list's items by their names, such as containers and variables have them, else by their numbers."""
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if all(isinstance(name, str) for name in names) and len({*names}) == len(names):
        return dict(zip(map(str, names), items, strict=True))
    return {str(number): item for number, item in enumerate(items)}


def _differ_by_hash(one: Any, other: Any) -> bool:
    """Whether two texts are the same but for hashes, which follow from what is generated."""
    return isinstance(one, str) and isinstance(other, str) and _blotted(one) == _blotted(other)


def _blotted(text: str) -> str:
    return _HASH.sub(lambda found: f"<hash of {len(found[0])}>", text)


def _text(value: Any) -> str:
    if value is _ABSENT:
        return "not there"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _shape(value: str) -> str:
    """Of a Secret's value, what may be shown."""
    if value == "not there":
        return value
    if headers := _PEM.findall(value):
        return f"<PEM: {', '.join(headers)}>"
    return f"<{len(value)} characters, {_alphabet(value)}>"
