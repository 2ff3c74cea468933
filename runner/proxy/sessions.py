"""Who may call the proxy: each run has a session with a token of its own, which names its CR and ends with the run."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NewType

from runner.kube.discovery import Resource
from runner.resource.metadata import Owner

Token = NewType("Token", str)

# Told of each kind of which the run's CR is seen to own an object.
OnDependent = Callable[[Resource], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """On whose behalf a run calls. `inject_owner`: mark what it creates as the owner's."""

    owner: Owner
    inject_owner: bool
    on_dependent: OnDependent


class Sessions:
    """The sessions that are open now."""

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

    def by_authorization(self, header: str | None) -> Session | None:
        """The session of an Authorization header: `Bearer TOKEN`, or `Basic` with the token as the user's name."""
        scheme, _, credentials = (header or "").partition(" ")
        if scheme.lower() == "basic":
            try:
                credentials = base64.b64decode(credentials, validate=True).decode().partition(":")[0]
            except (binascii.Error, UnicodeDecodeError):
                return None
        return self._open.get(Token(credentials.strip()))


def kubeconfig(token: Token, *, port: int, namespace: str) -> str:
    """A kubeconfig for one run, as YAML (which JSON is).

    The token stands there twice: Go's clients leave out a user's credentials where the server has no TLS, but send those
    of its URL; the Python client does the opposite.
    """
    context = {"cluster": "proxy", "user": "run", **({"namespace": namespace} if namespace else {})}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": f"http://{token}@localhost:{port}"}}],
            "users": [{"name": "run", "user": {"username": token, "password": "unused"}}],
            "contexts": [{"name": "run", "context": context}],
            "current-context": "run",
            "preferences": {},
        }
    )
