"""Reads that need not go to the server: one object, or a list of them, as an informer's store has it.

Only what is understood to its last parameter is answered here, and only from a store that is current and shows what the
run itself has written. A read of what the store lacks is the server's to answer.

Next on the way: `runner.proxy.server`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from multidict import MultiMapping

from runner.kube.informer import Informer
from runner.proxy.requestinfo import RequestInfo
from runner.proxy.sessions import Session
from runner.resource.metadata import ObjectKey
from runner.watches import Requirement, Selector

# The informer that covers (API version, plural, namespace), if there is one.
Covering = Callable[[str, str, str], Informer | None]

_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL = rf"(?:[a-z0-9](?:[-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_NAME}"
_VALUE = rf"(?:{_NAME})?"
# One requirement of a label selector, up to the comma behind it.
_REQUIREMENT = re.compile(
    rf"\s*(?:(?P<absent>!)\s*(?P<without>{_LABEL})"
    rf"|(?P<key>{_LABEL})(?:\s*(?P<equals>==?|!=)\s*(?P<value>{_VALUE})"
    rf"|\s+(?P<set>in|notin)\s*\((?P<values>\s*{_VALUE}\s*(?:,\s*{_VALUE}\s*)*)\))?)\s*(?:,(?=.)|$)"
)
_FIELD = re.compile(r"metadata\.(name|namespace)==?([-a-z0-9.:]+)")
_PLAIN_JSON = frozenset({"application/json", "application/*", "*/*"})


def from_store(
    info: RequestInfo, query: MultiMapping[str], accept: str | None, *, session: Session, covering: Covering
) -> bytes | None:
    """The JSON that answers a GET, or None if it has to go to the server."""
    if not info.is_resource or info.subresource or not _takes_plain_json(accept) or len(set(query)) < len(query):
        return None
    informer = covering(info.api_version, info.plural, info.namespace)
    if (
        informer is None
        or not informer.fresh
        or informer.resource.gvk in session.blacklist
        or (info.namespace and not informer.resource.namespaced)
        or not session.writes.shown_at(info, informer.version)
    ):
        return None
    asked = {name: value for name, value in query.items() if value}
    if info.name:
        return None if asked else informer.encoded(ObjectKey(info.namespace, info.name))
    return _list(informer, info.namespace, asked)


def _list(informer: Informer, namespace: str, asked: Mapping[str, str]) -> bytes | None:
    labels = label_selector(asked.get("labelSelector", ""))
    fields = field_selector(asked.get("fieldSelector", ""))
    if asked.keys() - {"labelSelector", "fieldSelector"} or labels is None or fields is None or not informer.list_kind:
        return None
    if namespace:
        # Whoever asks for one namespace in another may hear from the server what that means.
        if fields.setdefault("namespace", namespace) != namespace:
            return None
    elif "namespace" in fields and not informer.resource.namespaced:
        return None
    found = [
        key
        for key, obj in informer.store.items()
        if all(getattr(key, name) == value for name, value in fields.items()) and labels.matches(obj)
    ]
    # In the order in which etcd has them.
    items = b",".join(informer.encoded(key) or b"" for key in sorted(found, key=str))
    head = '{"kind":"%s","apiVersion":"%s","metadata":{"resourceVersion":"%s"},"items":['
    return (head % (informer.list_kind, informer.resource.gvk.api_version, informer.version)).encode() + items + b"]}"


def label_selector(text: str) -> Selector | None:
    """A selector in the API's own writing; None if it is not understood here."""
    requirements, position = [], 0
    while position < len(text):
        match = _REQUIREMENT.match(text, position)
        if match is None:
            return None
        requirements.append(_requirement(match))
        position = match.end()
    return Selector(tuple(requirements))


def _requirement(match: re.Match[str]) -> Requirement:
    if match["absent"]:
        return Requirement(match["without"], "DoesNotExist", ())
    if match["equals"]:
        return Requirement(match["key"], "NotIn" if match["equals"] == "!=" else "In", (match["value"],))
    if match["set"]:
        values = tuple(value.strip() for value in match["values"].split(","))
        return Requirement(match["key"], "In" if match["set"] == "in" else "NotIn", values)
    return Requirement(match["key"], "Exists", ())


def field_selector(text: str) -> dict[str, str] | None:
    """`name` and `namespace` that are asked for; None if anything else is."""
    fields: dict[str, str] = {}
    for term in text.split(",") if text else ():
        match = _FIELD.fullmatch(term)
        if match is None or match[1] in fields:
            return None
        fields[match[1]] = match[2]
    return fields


def _takes_plain_json(accept: str | None) -> bool:
    """Whether the first choice is JSON as it is: not a Table, not metadata alone, not protobuf."""
    return not accept or accept.split(",")[0].strip() in _PLAIN_JSON
