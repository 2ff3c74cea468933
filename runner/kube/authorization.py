"""Authentication and authorization of clients by TokenReview and SubjectAccessReview, with a cache of the answers.

The rights that this takes and the times for which answers are cached are those of controller-runtime's filter for /metrics.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Generic, TypeVar

from runner.json_codec import JsonMapping
from runner.kube.client import ApiClient, Unreadable

# Seconds.
_KNOWN, _ALLOWED, _DENIED = 60.0, 300.0, 30.0
# A right to objects that was taken back ends within a minute.
_ALLOWED_RESOURCE = 60.0
# Rights that are asked about at once.
_AT_ONCE = 32
# Answers that are cached; made-up tokens must not fill the memory.
_KEPT = 20_000

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class User:
    """The user of a token. `attributes` are those by which a SubjectAccessReview identifies a user."""

    name: str
    attributes: JsonMapping = field(hash=False)


class Access:
    """Asks the API server for reviews. Its methods raise KubeError if there is no answer or the runner lacks the rights."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        # By the token's hash: the tokens themselves are not kept.
        self._users: _Answers[User | None] = _Answers()
        self._decisions: _Answers[bool] = _Answers()
        self._asking = asyncio.Semaphore(_AT_ONCE)

    def known(self, token: str) -> User | None:
        """The user of a token that has been found valid of late; None if nothing is known without asking."""
        return self._users.get(_digest(token))[1]

    async def user(self, token: str) -> User | None:
        """The user of a token; None if it is not valid."""
        key = _digest(token)
        known, found = self._users.get(key)
        if not known:
            found = await self._review(token)
            self._users.keep(key, found, seconds=_KNOWN)
        return found

    async def allows(self, user: User, *, verb: str, path: str) -> bool:
        """True if the user may do `verb` (lower case) to a path that is no resource."""
        attributes = {"nonResourceAttributes": {"path": path, "verb": verb}}
        return await self._allows(user, attributes, allowed_for=_ALLOWED)

    async def allows_resource(self, user: User, **attributes: str) -> bool:
        """True if the user may do this to objects: `verb`, `group`, `version`, `resource` (the plural), `namespace` (empty:
        in all, or of none) and `name` (empty: any)."""
        return await self._allows(user, {"resourceAttributes": attributes}, allowed_for=_ALLOWED_RESOURCE)

    async def _allows(self, user: User, attributes: JsonMapping, *, allowed_for: float) -> bool:
        spec = {**user.attributes, **attributes}
        key = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
        known, allowed = self._decisions.get(key)
        if not known or allowed is None:
            body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
            async with self._asking:
                answer = await self._client.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
            allowed = _mapping(answer, "status").get("allowed") is True
            self._decisions.keep(key, allowed, seconds=allowed_for if allowed else _DENIED)
        return allowed

    async def _review(self, token: str) -> User | None:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        answer = await self._client.post("/apis/authentication.k8s.io/v1/tokenreviews", body)
        status = _mapping(answer, "status")
        if status.get("authenticated") is not True:
            return None
        # The user's name is called otherwise in each of the two.
        user = dict(_mapping(status, "user"))
        name = user.pop("username", "")
        return User(name, {"user": name, **user})


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _mapping(answer: JsonMapping, name: str) -> JsonMapping:
    """A part of a review's answer. Raises Unreadable."""
    value = answer.get(name)
    if not isinstance(value, Mapping):
        raise Unreadable(f"the answer to a review has no {name}")
    return value


class _Answers(Generic[V]):
    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, V]] = {}

    def get(self, key: str) -> tuple[bool, V | None]:
        """(True, the answer) if there is one that has not expired, else (False, None)."""
        until, answer = self._kept.get(key, (0.0, None))
        return (True, answer) if monotonic() < until else (False, None)

    def keep(self, key: str, answer: V, *, seconds: float) -> None:
        self._kept.pop(key, None)
        while len(self._kept) >= _KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (monotonic() + seconds, answer)
