"""Reads that are answered from an informer's store: one object, or a list.

Only what is understood to its last parameter is answered here, and only from a store that is current and shows what the
run itself has written. A read of what the store lacks is the server's to answer.

Next on the way: `runner.proxy.forward`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from multidict import MultiMapping

from runner.kube.informer import Informer
from runner.proxy.requestinfo import RequestInfo
from runner.proxy.sessions import Session
from runner.resource.metadata import ObjectKey
from runner.resource.selectors import label_selector

# The informer that covers (API version, plural, namespace), if there is one.
Covering = Callable[[str, str, str], Informer | None]

_FIELD = re.compile(r"metadata\.(name|namespace)==?([-a-z0-9.:]+)")
# Longer lists are the server's: it streams them, and one made here would keep everything else waiting.
_MOST = 500
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
        or not session.writes.covered_at(info, informer.version)
    ):
        return None
    # An empty selector selects all; an empty `watch` is one.
    asked = {name: value for name, value in query.items() if value or name not in ("labelSelector", "fieldSelector")}
    if info.name:
        key = ObjectKey(info.namespace, info.name)
        if asked or key not in informer.store:
            return None
        session.record_read(info, informer.store[key])
        return informer.encoded(key)
    return _list(informer, info.namespace, asked)


def _list(informer: Informer, namespace: str, asked: Mapping[str, str]) -> bytes | None:
    labels = label_selector(asked.get("labelSelector", ""))
    fields = field_selector(asked.get("fieldSelector", ""))
    if asked.keys() - {"labelSelector", "fieldSelector"} or labels is None or fields is None or not informer.list_kind:
        return None
    if namespace:
        # One namespace within another: the meaning of this is left to the API server.
        if fields.setdefault("namespace", namespace) != namespace:
            return None
    elif "namespace" in fields and not informer.resource.namespaced:
        return None

    def is_chosen(key: ObjectKey) -> bool:
        return all(getattr(key, name) == value for name, value in fields.items())

    # A store that was filled by a selector has all objects of a list that is at least as narrow.
    if not set(informer.selector.requirements) <= set(labels.requirements):
        return None
    # Of objects that no CR owns the store has the labels only.
    if any(is_chosen(key) and labels.matches_labels(present) for key, present in informer.others.items()):
        return None
    found = [key for key, obj in informer.store.items() if is_chosen(key) and labels.matches(obj)]
    if len(found) > _MOST:
        return None
    # In the order in which etcd has them.
    items = b",".join(informer.encoded(key) or b"" for key in sorted(found, key=str))
    head = '{"kind":"%s","apiVersion":"%s","metadata":{"resourceVersion":"%s"},"items":['
    return (head % (informer.list_kind, informer.resource.gvk.api_version, informer.version)).encode() + items + b"]}"


def field_selector(text: str) -> dict[str, str] | None:
    """`name` and `namespace` of a field selector; None if it selects by anything else."""
    fields: dict[str, str] = {}
    for term in text.split(",") if text else ():
        match = _FIELD.fullmatch(term)
        if match is None or match[1] in fields:
            return None
        fields[match[1]] = match[2]
    return fields


def _takes_plain_json(accept: str | None) -> bool:
    """True if the client's first choice is plain JSON: not a Table, not metadata alone, not protobuf."""
    return not accept or accept.split(",")[0].strip() in _PLAIN_JSON
