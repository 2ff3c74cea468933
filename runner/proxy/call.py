"""The requests of runs, and helpers to read requests and answers that are passed on.

Next on the way: `runner.proxy.cached_reads`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from runner.json_codec import JsonObject, decode
from runner.proxy.requestinfo import RequestInfo, parse
from runner.proxy.sessions import Session
from runner.resource.metadata import Object, is_deleting

# Headers of this connection only (RFC 9110, 7.6.1), or ours to set. `Host` names the proxy.
_HOP_HEADERS = frozenset(
    """
    connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade host
    """.split()
)
# Of a request: the run's credentials, and what is settled between the run and this proxy.
REQUEST_ONLY = frozenset({"authorization", "content-length", "expect"})
# The API server asks whether the runner may do so.
_IMPERSONATION = "impersonate-"
# A server-side apply, which creates what is not there.
_APPLY = "application/apply-patch+yaml"
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# What Kubernetes calls connecting, whatever the method: it writes nothing that could be read.
_CONNECTS = frozenset({"attach", "exec", "portforward", "proxy"})
_OLD_WATCH = re.compile(r"/(api|apis/[^/]+)/[^/]+/watch/")


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a run. `target`: the path and query for the API server; `writes`: whether it changes what may be read.

    `traceparent`: a header for the API server, unless the run sends one itself; empty without traces.
    """

    request: web.BaseRequest
    session: Session
    target: str
    traceparent: str = ""
    info: RequestInfo = field(init=False)
    writes: bool = field(init=False)

    def __post_init__(self) -> None:
        info = parse(self.path)
        writes = info.is_resource and not _connects(info)
        writes = writes and self.request.method in _WRITES and "dryRun" not in self.request.query
        object.__setattr__(self, "info", info)
        object.__setattr__(self, "writes", writes)

    @property
    def method(self) -> str:
        return self.request.method

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def headers(self, drop: Set[str] = REQUEST_ONLY) -> CIMultiDict[str]:
        """The headers for the API server, without `drop` (lower case)."""
        headers = forwarded(self.request.headers, drop=drop)
        if self.traceparent:
            headers.setdefault("traceparent", self.traceparent)
        return headers

    @property
    def impersonates(self) -> bool:
        return any(name.lower().startswith(_IMPERSONATION) for name in self.request.headers)

    @property
    def upgrades(self) -> bool:
        return "Upgrade" in self.request.headers

    @property
    def connects(self) -> bool:
        """True if it connects into a pod or service, in whatever spelling: the path is read as the API server reads it."""
        return _connects(parse(unquote(self.path))) or self.upgrades

    @property
    def reads_one(self) -> bool:
        info = self.info
        return self.method == "GET" and bool(info.name) and not info.subresource and not self.is_endless

    @property
    def is_endless(self) -> bool:
        """True if the answer may be silent for any time: a watch, a log that is followed, a connection into a pod."""
        follows = any(_is_true(self.request.query.get(name)) for name in ("watch", "follow"))
        return follows or _connects(self.info) or self.upgrades or _OLD_WATCH.match(self.path) is not None

    @property
    def creates(self) -> bool:
        return self.method == "POST" and not self.info.name

    @property
    def replaces(self) -> bool:
        """True if it writes a whole object, or creates it: what an apply or an update leaves out is removed."""
        is_full = self.method == "PUT" or (self.method == "PATCH" and self.request.content_type == _APPLY)
        return bool(self.info.name) and is_full


def _connects(info: RequestInfo) -> bool:
    return info.subresource.partition("/")[0] in _CONNECTS


def _is_true(value: str | None) -> bool:
    """The value of a query parameter as the API server reads it."""
    return value is not None and value.lower() not in ("false", "0")


def forwarded(headers: CIMultiDictProxy[str], *, drop: Set[str] = frozenset()) -> CIMultiDict[str]:
    """The headers that are passed on, without those of the connection and without `drop` (lower case)."""
    dropped = _HOP_HEADERS | drop
    return CIMultiDict([(name, value) for name, value in headers.items() if name.lower() not in dropped])


def accept_uncompressed(headers: CIMultiDict[str]) -> None:
    if "Accept-Encoding" in headers:
        headers["Accept-Encoding"] = "identity"


def accept_json(headers: CIMultiDict[str]) -> None:
    """Ask for JSON if the client takes it at all, though it may like protobuf better."""
    types = [kind.strip() for value in headers.getall("Accept", []) for kind in value.split(",")]
    if acceptable := [kind for kind in types if kind.partition(";")[0].strip() in ("application/json", "*/*")]:
        headers["Accept"] = ",".join(acceptable)


def is_json(status: int, headers: Mapping[str, str]) -> bool:
    """True for the answer of a success in plain JSON."""
    is_json_type = headers.get("Content-Type", "").partition(";")[0].strip().lower() == "application/json"
    return 200 <= status < 300 and is_json_type and "Content-Encoding" not in headers


def decoded(content: bytes) -> Any:
    """The JSON value of a body; None if it is none. The largest body takes a fraction of a second."""
    try:
        return decode(content)
    except (ValueError, RecursionError):
        return None


def object_in(content: bytes) -> JsonObject | None:
    """The object that a body is in JSON; None if it is none, or one that the API server would refuse."""
    obj = decoded(content)
    metadata = obj.get("metadata", {}) if isinstance(obj, dict) else None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("annotations") or {}, dict):
        return None
    references = metadata.get("ownerReferences") or []
    if not isinstance(references, list) or not all(isinstance(reference, dict) for reference in references):
        return None
    return dict(obj)


def version_of(obj: Object | None) -> str | None:
    """The resourceVersion that a write gave; None if there is none to go by."""
    # An update that took the last finalizer off has deleted the object, at a version that is not in the answer.
    return None if obj is None or is_deleting(obj) else obj.get("metadata", {}).get("resourceVersion")


def is_dry_run_deletion(body: bytes | None) -> bool:
    """True if a deletion's options ask for a dry run, as kubectl's do; the API server then ignores the query."""
    options = decoded(body or b"")
    return isinstance(options, dict) and bool(options.get("dryRun"))
