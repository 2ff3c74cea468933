"""Preconditions of writes: the object's resourceVersion, so that the change is certain to be the run's own.

A write that changes nothing answers with the version that is there, which may be somebody else's. So a write that names no
version is sent with the one that is known, and with the one that is there now if that has moved on. The run notices
nothing of it: what is refused for such a condition is asked again.

Next on the way: `runner.control.own_writes`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from multidict import CIMultiDictProxy

JSON_PATCH = "application/json-patch+json"
# Others may take a version for something else, or ignore it.
_SUBRESOURCES = frozenset({"", "scale", "status"})
# As which a condition may be refused: of a deletion or an update, of a test in a JSON patch, of an apply to what is gone.
_REFUSALS = frozenset({404, 409, 422})
# Objects that others write all the time are written without a condition in the end.
_TRIES = 3


class Answer(NamedTuple):
    """The API server's answer to a write."""

    status: int
    reason: str | None
    headers: CIMultiDictProxy[str]
    content: bytes


class Write(NamedTuple):
    """A PUT, PATCH or DELETE of one object. `sent`: the decoded body, None if it is not JSON."""

    method: str
    content_type: str
    subresource: str
    sent: object

    @property
    def demanded(self) -> str:
        """The version that the run itself demands; empty if it demands none."""
        place = self.sent.get(self._place) if isinstance(self.sent, dict) else None
        version = place.get("resourceVersion") if isinstance(place, dict) else None
        return version if isinstance(version, str) and version != "0" else ""

    def at(self, version: str) -> object:
        """The body that is refused unless the object is at this version; None if there is no such body."""
        if self.subresource not in _SUBRESOURCES:
            return None
        if isinstance(self.sent, list) and self.content_type == JSON_PATCH:
            return [{"op": "test", "path": "/metadata/resourceVersion", "value": version}, *self.sent]
        if not isinstance(self.sent, dict) or not isinstance(self.sent.get(self._place) or {}, dict):
            return None
        return {**self.sent, self._place: {**(self.sent.get(self._place) or {}), "resourceVersion": version}}

    @property
    def _place(self) -> str:
        return "preconditions" if self.method == "DELETE" else "metadata"


async def send(
    write: Write,
    *,
    known: Callable[[], Awaitable[str]],
    current: Callable[[], Awaitable[str]],
    ask: Callable[[object], Awaitable[Answer]],
) -> tuple[Answer, str | None]:
    """The answer to a write, and the version that it was a write to: empty if it has created the object, None if unknown.

    `known` gives the object's version as far as it is known, `current` asks for it; empty: there is none. `ask` sends a
    body, None for the one that the run has sent.
    """
    if write.demanded:
        return _created(await ask(None), write.demanded)
    version = await known()
    for _ in range(_TRIES):
        body = write.at(version) if version else None
        if body is None:
            break
        answer = await ask(body)
        if answer.status not in _REFUSALS:
            return _created(answer, version)
        now = await current()
        if now == version:
            # It is refused for another reason, and would be without the condition.
            return answer, version
        version = now
    return _created(await ask(None), None)


def _created(answer: Answer, version: str | None) -> tuple[Answer, str | None]:
    return answer, "" if answer.status == 201 else version
