from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import pytest

from runner.kube import events
from runner.kube.client import ApiClient, KubeError, NotFound, Refused, Unreachable
from runner.kube.events import EventRecorder
from runner.resource.metadata import GroupVersionKind, ObjectKey, Owner

KIND = GroupVersionKind("example.com", "v1", "Thing")
# RFC 1123's, which names of Events must follow.
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def owner(name: str = "a", uid: str = "1") -> Owner:
    return Owner(KIND, ObjectKey("default", name), uid)


class Server:
    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.patched: list[dict[str, Any]] = []
        self.error: KubeError | None = None
        self.now = 0.0
        self.recorder = EventRecorder(cast(ApiClient, self), clock=lambda: self.now)

    async def post(self, path: str, body: Mapping[str, Any]) -> None:
        assert path == "/api/v1/namespaces/default/events"
        self.posted.append(dict(body))

    async def patch(self, path: str, body: Mapping[str, Any]) -> None:
        assert path.endswith("/" + self.posted[-1]["metadata"]["name"])
        if self.error is not None:
            raise self.error
        self.patched.append(dict(body))

    async def warn(self, note: str = "boo", of: Owner | None = None) -> None:
        await self.recorder.warn(of or owner(), reason="RunFailed", note=note)


async def test_the_same_again_is_counted() -> None:
    server = Server()
    for _ in range(3):
        await server.warn()
        server.now += 60
    assert len(server.posted) == 1
    assert [patch["count"] for patch in server.patched] == [2, 3]
    await server.warn("something else")
    await server.warn(of=owner("b", "2"))
    assert len(server.posted) == 3


async def test_after_a_while_it_is_another() -> None:
    server = Server()
    await server.warn()
    server.now += events._WINDOW + 1
    await server.warn()
    assert [posted["count"] for posted in server.posted] == [1, 1]


async def test_one_that_is_gone_meanwhile_is_posted_again() -> None:
    server = Server()
    await server.warn()
    server.error = NotFound(404, "gone")
    await server.warn()
    assert [posted["count"] for posted in server.posted] == [1, 2]


async def test_where_events_may_only_be_made_they_are_counted_in_the_next() -> None:
    server = Server()
    await server.warn()
    server.error = Refused(403, "no right to patch")
    for _ in range(10):
        await server.warn()
    assert len(server.posted) == 1


async def test_an_object_gets_no_more_than_a_reader_can_read() -> None:
    server = Server()
    for number in range(1000):
        await server.warn(f"note {number}")
    assert len(server.posted) == 25
    await server.warn("of another", of=owner("b", "2"))
    assert len(server.posted) == 26
    server.now += events._REFILL
    for number in range(10):
        await server.warn(f"later note {number}")
    assert len(server.posted) == 27


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_MOST", 10)
    server = Server()
    for number in range(100):
        await server.warn(of=owner(f"a{number}", str(number)))
    assert len(server.recorder._posted) == len(server.recorder._allowed) == 10


@pytest.mark.parametrize("name", ["a" * 253, "a" * 199 + "-" + "b" * 50, "a" * 198 + ".-" + "b" * 50, "a.b"])
async def test_a_name_is_one_that_the_server_takes(name: str) -> None:
    server = Server()
    await server.warn(of=owner(name))
    made = server.posted[0]["metadata"]["name"]
    assert SUBDOMAIN.fullmatch(made)
    assert len(made) <= 253


async def test_a_long_note_is_cut_and_one_that_cannot_be_posted_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    await server.warn("x" * 10**6)
    assert len(server.posted[0]["message"]) == 1024
    server.error = Unreachable("away")
    with caplog.at_level("INFO"):
        await server.warn("x" * 10**6)
    assert [record.getMessage() for record in caplog.records] == ["An Event could not be posted"]
