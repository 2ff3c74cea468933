"""Sessions of the proxy's clients: each run has one, with a token of its own, which names its CR and ends with the run.

Next on the way: `runner.proxy.requestinfo`.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NewType

from runner.json_codec import encode
from runner.kube.discovery import Resource
from runner.proxy.dry_run import DryRun
from runner.proxy.requestinfo import RequestInfo
from runner.resource.metadata import GroupVersionKind, Object, Owner, split_api_version

Token = NewType("Token", str)

# Before the token in a path; nothing of the API server's begins so.
_PREFIX = "/run/"

# Called with each object that the run's CR is seen to own.
OnDependent = Callable[[Resource, Object], None]


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request of a run. `path` has no query; `begun` is in seconds since the epoch; `status` is 0 if it got no answer.

    `from_store`: an informer's store answered it, and not the API server. `traceparent`: its span, where there are traces.
    """

    method: str
    path: str
    status: int
    from_store: bool
    begun: float
    seconds: float
    traceparent: str = ""


# Called for each write of the run with the object's uid, and the resourceVersions that it had (empty: it was created; None:
# not known, so that it may not have been changed at all) and has now (empty: it was deleted).
OnWrite = Callable[[str, str | None, str], None]


class Writes:
    """The resourceVersions up to which a run has written, by kind and namespace: it must not read anything older.

    Versions of one kind's objects are compared as numbers, which Kubernetes promises from 1.35 on and which held before.
    """

    def __init__(self) -> None:
        # By group, plural and namespace, as all versions of a group show the same objects. None: not known how far.
        self._versions: dict[tuple[str, str, str], int | None] = {}

    def add(self, info: RequestInfo, version: str | None) -> None:
        """Record the resourceVersion that a write gave, or None where that cannot be known."""
        key = _key(info)
        before = self._versions.get(key, 0)
        number = int(version) if version and version.isdecimal() else None
        self._versions[key] = None if before is None or number is None else max(before, number)

    def covered_at(self, info: RequestInfo, version: str) -> bool:
        """True if a store at `version` has all that was written to the kind and namespace of `info`."""
        if not self._versions:
            return True
        group, plural, namespace = _key(info)
        return all(
            wanted is not None and version.isdecimal() and wanted <= int(version)
            for (*kind, place), wanted in self._versions.items()
            if kind == [group, plural] and namespace in ("", place)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A run as a client of the proxy.

    `inject_owner`: add the owner to what it creates. `blacklist`: kinds that are read from the API server alone.
    """

    owner: Owner
    inject_owner: bool
    on_dependent: OnDependent
    on_write: OnWrite = lambda uid, before, version: None
    # Called for each request when it has been answered.
    on_request: Callable[[ApiRequest], None] = lambda request: None
    # Makes the traceparent that a request is sent on with, where there are traces.
    new_traceparent: Callable[[], str] = lambda: ""
    blacklist: frozenset[GroupVersionKind] = frozenset()
    # Set if the run is a dry run.
    dry_run: DryRun | None = field(default=None, compare=False)
    writes: Writes = field(default_factory=Writes, compare=False)
    # The latest version of each object that the run has been shown, by group, plural, namespace and name.
    _versions: dict[tuple[str, str, str, str], str] = field(default_factory=dict, compare=False)
    # Those that it was shown without managedFields.
    _slim: set[tuple[str, str, str, str]] = field(default_factory=set, compare=False)

    def known_version(self, info: RequestInfo) -> str:
        """The version of an object that the run has last read or written; empty if there is none."""
        return self._versions.get((*_key(info), info.name), "")

    def was_slim(self, info: RequestInfo) -> bool:
        """True if the run was last shown an object without its managedFields, which the informers' stores do not have."""
        return (*_key(info), info.name) in self._slim

    def record_shown(self, info: RequestInfo, *, slim: bool) -> None:
        """Record that the run was shown an object, without its managedFields or as the API server has it."""
        (self._slim.add if slim else self._slim.discard)((*_key(info), info.name))

    def record_read(self, info: RequestInfo, obj: Object) -> None:
        # Other representations, such as a table, have no uid.
        if _uid(obj):
            self._versions[*_key(info), info.name] = obj.get("metadata", {}).get("resourceVersion", "")

    def record_write(self, info: RequestInfo, obj: Object, *, before: str | None) -> None:
        """Record the answer to a write: the object, or a part of it such as its scale.

        `before` is the version to which it was a write, as for `on_write`. A write that changes nothing leaves the version
        as it was; who made that one is another question.
        """
        uid, version = _uid(obj), obj.get("metadata", {}).get("resourceVersion", "")
        if uid and version and before != version:
            self.on_write(uid, before, version)
        self.record_read(info, obj)

    def record_deletion(self, info: RequestInfo, answer: Object, *, before: str | None) -> None:
        """Record the answer to a deletion: the object if it is terminating, else a status that names it."""
        uid = _uid(answer) or (answer.get("details") or {}).get("uid", "")
        if uid:
            self.on_write(uid, before, "")
            self.record_write(info, answer, before=before)


class Sessions:
    """The open sessions, by token."""

    def __init__(self) -> None:
        self._open: dict[Token, Session] = {}

    @contextmanager
    def opened(self, session: Session) -> Iterator[Token]:
        token = Token(secrets.token_urlsafe(24))
        self._open[token] = session
        try:
            yield token
        finally:
            del self._open[token]

    def of(self, target: str, *authorizations: str | None) -> tuple[Session | None, str]:
        """The session that a request names, and the path and query for the API server.

        It is named by the beginning of the path, as in a kubeconfig's URL, or else by one of the authorizations:
        `Bearer TOKEN`, or `Basic` with the token as the user's name.
        """
        if target.startswith(_PREFIX):
            token, _, rest = target.removeprefix(_PREFIX).partition("/")
            return self._open.get(Token(token)), "/" + rest
        tokens = (_token(authorization or "") for authorization in authorizations)
        return next((self._open[token] for token in tokens if token in self._open), None), target


def _token(authorization: str) -> Token:
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            credentials = base64.b64decode(credentials, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            credentials = ""
    return Token(credentials.strip())


def _uid(obj: Object) -> str:
    return str(obj.get("metadata", {}).get("uid", ""))


def _key(info: RequestInfo) -> tuple[str, str, str]:
    return split_api_version(info.api_version)[0], info.plural, info.namespace


def kubeconfigs(token: Token, *, port: int, namespace: str) -> tuple[str, str]:
    """Two kubeconfigs for one run, in JSON (which is YAML): for Go's clients (kubectl, helm), and for Python's. Each works
    for the other kind as well.

    Go's leave out a user's credentials where the server has no TLS: their token is part of the URL's path. Python's send a
    user's credentials, and name a cache by the URL, which is the same for all runs; from theirs, Go's take the token as
    credentials for an HTTP proxy, which this proxy is then as well.
    """
    server = f"http://127.0.0.1:{port}"
    return (
        _kubeconfig({"server": server + _PREFIX + token}, token, namespace),
        _kubeconfig({"server": server, "proxy-url": f"http://{token}:unused@127.0.0.1:{port}"}, token, namespace),
    )


def _kubeconfig(cluster: dict[str, str], token: Token, namespace: str) -> str:
    context = {"cluster": "proxy", "user": "run", **({"namespace": namespace} if namespace else {})}
    return encode(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": cluster}],
            "users": [{"name": "run", "user": {"username": token, "password": "unused"}}],
            "contexts": [{"name": "run", "context": context}],
            "current-context": "run",
            "preferences": {},
        }
    ).decode()


def basic_authorization(token: Token) -> str:
    """The token as clients with the second kubeconfig send it, without `Basic `."""
    return base64.b64encode(f"{token}:unused".encode()).decode()
