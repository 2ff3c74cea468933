from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest

from runner.json_codec import JsonObject
from runner.kube.client import Expired
from runner.kube.early_watch import EarlyWatch
from runner.resource.metadata import Object, ObjectKey


class Server:
    """Its watch brings these events, an Exception among them as such, and then waits."""

    def __init__(self, *events: JsonObject | Exception) -> None:
        self.events = events
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.taken = asyncio.Event()
        self.is_closed = False

    async def watch(self, path: str, params: Mapping[str, str]) -> AsyncGenerator[JsonObject, None]:
        self.asked.append((path, params))
        try:
            for event in self.events:
                if isinstance(event, Exception):
                    raise event
                yield event
            self.taken.set()
            await asyncio.Event().wait()
        finally:
            self.is_closed = True
            self.taken.set()


def event(kind: Any, name: str, version: Any) -> JsonObject:
    return {"type": kind, "object": {"metadata": {"name": name, "namespace": "here", "resourceVersion": version}}}


async def followed(server: Server, selector: str = "", refused: str = "") -> tuple[EarlyWatch, list[str]]:
    """What a watch from 5 on has delivered when it has come to the end, and was stopped; all but `refused` can be."""
    delivered: list[str] = []

    def deliver(kind: str, obj: Object) -> bool:
        name = obj["metadata"]["name"]
        if name == refused:
            return False
        delivered.append(f"{kind} {name}")
        return True

    watch = EarlyWatch(server.watch, "/things", "5", selector, deliver)
    await server.taken.wait()
    await asyncio.gather(watch.stop(), return_exceptions=True)
    assert server.is_closed
    return watch, delivered


async def test_it_says_what_it_has_told_of_and_how_far_it_has_come() -> None:
    server = Server(
        event("ADDED", "a", "6"), event("MODIFIED", "b", "7"), event("DELETED", "a", "8"), event("BOOKMARK", "", "9")
    )
    watch, delivered = await followed(server, "part=a")
    assert delivered == ["ADDED a", "MODIFIED b", "DELETED a"]
    assert watch.seen == {ObjectKey("here", "a"): False, ObjectKey("here", "b"): True}
    assert watch.version == "9"
    [(path, params)] = server.asked
    assert (path, params["resourceVersion"], params["labelSelector"]) == ("/things", "5", "part=a")


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(event("ADDED", "refused", "7"), id="cannot be delivered"),
        pytest.param(event("OTHER", "x", "7"), id="type"),
        pytest.param(event(["ADDED"], "x", "7"), id="type is no text"),
        pytest.param(event("ADDED", "x", 7), id="version is no text"),
        pytest.param(event("BOOKMARK", "x", ""), id="no version"),
        pytest.param({"type": "ADDED", "object": {"metadata": []}}, id="metadata"),
        pytest.param(Expired(410, "too old"), id="gone"),
    ],
)
async def test_it_ends_at_what_it_cannot_deliver(odd: JsonObject | Exception, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(event("ADDED", "a", "6"), odd, event("ADDED", "b", "8"))
    watch, delivered = await followed(server, refused="refused")
    assert (delivered, watch.version) == (["ADDED a"], "6")
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_one_that_has_not_begun_can_be_stopped() -> None:
    server = Server()
    watch = EarlyWatch(server.watch, "/things", "5", "", lambda kind, obj: True)
    await asyncio.gather(watch.stop(), return_exceptions=True)
    assert not server.asked
