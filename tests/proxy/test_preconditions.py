"""Whose doing a version is: over random interleavings of runs, other writers and watches, with the proxy as it is.

The API server is a model of one kind's objects: versions, conditions, writes that change nothing, finalizers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from runner.control import Request
from runner.control.handlers import dependent_changed
from runner.control.own_writes import OwnWrites, VersionChange
from runner.kube.client import ApiClient, Conflict, NotFound
from runner.kube.informer import Informer
from runner.proxy.preconditions import JSON_PATCH, Answer, Write, send
from runner.proxy.server import ProxyServer
from runner.proxy.sessions import Session, Sessions
from runner.resource.metadata import Object, ObjectKey
from tests.control.test_workqueue import watch
from tests.proxy.test_server import CONFIG_MAP, CONFIG_MAPS, OWNER, REFERENCE, Known

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
NAMES = ("a", "b")
CR = Request(watch("Thing"), ObjectKey("here", "one"))


@pytest.mark.parametrize(
    ("write", "demanded", "at"),
    [
        (Write("PATCH", MERGE, "", {"data": 1}), "", {"data": 1, "metadata": {"resourceVersion": "7"}}),
        (Write("PATCH", APPLY, "", {"metadata": {"name": "x"}}), "", {"metadata": {"name": "x", "resourceVersion": "7"}}),
        (Write("PATCH", STRATEGIC, "scale", {"spec": 1}), "", {"spec": 1, "metadata": {"resourceVersion": "7"}}),
        (Write("PUT", "application/json", "", {"metadata": {"resourceVersion": "5"}}), "5", ...),
        (Write("PUT", "application/json", "", {"metadata": {"resourceVersion": "0"}}), "", ...),
        (
            Write("PATCH", JSON_PATCH, "", [{"op": "add"}]),
            "",
            [{"op": "test", "path": "/metadata/resourceVersion", "value": "7"}, {"op": "add"}],
        ),
        (
            Write("DELETE", "application/json", "", {"preconditions": {"uid": "u"}}),
            "",
            {"preconditions": {"uid": "u", "resourceVersion": "7"}},
        ),
        (Write("DELETE", "application/json", "", {"preconditions": {"resourceVersion": "5"}}), "5", ...),
        (Write("DELETE", "application/json", "", None), "", None),
        (Write("PATCH", APPLY, "", None), "", None),
        (Write("PATCH", MERGE, "", []), "", None),
        (Write("PATCH", MERGE, "", {"metadata": "odd"}), "", None),
        (Write("PATCH", MERGE, "", {"metadata": {"resourceVersion": 5}}), "", ...),
        (Write("PATCH", MERGE, "eviction", {}), "", None),
    ],
    ids=[
        "merge",
        "apply",
        "scale",
        "update with a version",
        "update with none",
        "JSON patch",
        "deletion",
        "deletion with a version",
        "deletion without a body",
        "apply in YAML",
        "a list that is no JSON patch",
        "odd metadata",
        "odd version",
        "another subresource",
    ],
)
def test_a_write_is_made_on_condition(write: Write, demanded: str, at: Any) -> None:
    assert write.demanded == demanded
    if at is not ...:
        assert write.at("7") == at


@pytest.mark.parametrize(
    ("known", "versions", "statuses", "asked", "before"),
    [
        ("5", [], [200], ["5"], "5"),
        ("", [], [201], [None], ""),
        ("", [], [200], [None], None),
        ("5", ["6"], [409, 200], ["5", "6"], "6"),
        # It is refused whatever its version.
        ("5", ["5"], [409], ["5"], "5"),
        ("5", ["6", "6"], [422, 422], ["5", "6"], "6"),
        # Gone meanwhile: an apply makes it anew.
        ("5", [""], [409, 201], ["5", None], ""),
        ("5", ["6", "7", "8"], [409, 409, 409, 200], ["5", "6", "7", None], None),
        ("5", [], [403], ["5"], "5"),
    ],
    ids=["known", "created", "unknown", "moved on", "conflict", "invalid", "gone", "moves on all the time", "forbidden"],
)
async def test_a_condition_that_fails_is_no_answer_to_the_run(
    known: str, versions: list[str], statuses: list[int], asked: list[str | None], before: str | None
) -> None:
    sent: list[str | None] = []

    async def ask(body: Any) -> Answer:
        sent.append(None if body is None else body["metadata"]["resourceVersion"])
        return Answer(statuses[len(sent) - 1], None, {}, b"")

    async def current() -> str:
        return versions.pop(0)

    async def shown() -> str:
        return known

    answer, of = await send(Write("PATCH", MERGE, "", {}), known=shown, current=current, ask=ask)
    assert (answer.status, of) == (statuses[-1], before)
    assert sent == asked
    assert versions == []


class Reply:
    def __init__(self, status: int, content: Object) -> None:
        self.status, self.reason = status, None
        self.headers = CIMultiDictProxy(CIMultiDict({"Content-Type": "application/json"}))
        self.content = StreamReader(BaseProtocol(asyncio.get_running_loop()), 2**16)
        self.content.feed_data(json.dumps(content).encode())
        self.content.feed_eof()

    async def read(self) -> bytes:
        return await self.content.read()


class Model(ApiClient):
    """The API server, and the client of it. Each request waits for a random time before it is heeded, and after."""

    def __init__(self, random: random.Random) -> None:
        self.server = "http://model"
        self.session = self  # type: ignore[assignment]
        self.random = random
        self.clock = itertools.count(1)
        self.now = 0
        self.objects: dict[str, dict[str, Any]] = {}
        # (version, before, after) of each change.
        self.changes: list[tuple[int, Object | None, Object | None]] = []

    async def pause(self) -> None:
        for _ in range(self.random.choice((0, 0, 1, 2, 5, 9))):
            await asyncio.sleep(0)

    @asynccontextmanager
    async def request(self, method: str, url: URL, *, data: bytes | None, headers: Any, **_: Any) -> AsyncIterator[Reply]:
        await self.pause()
        reply = Reply(*self.done(method, url.path.rpartition("/")[2], headers.get("Content-Type", ""), data))
        await self.pause()
        yield reply

    async def get(self, path: str, params: Any = None) -> dict[str, Any]:
        await self.pause()
        found = deepcopy(self.objects.get(path.rpartition("/")[2]))
        await self.pause()
        if found is None:
            raise NotFound(404, "gone")
        return found

    async def patch(self, path: str, body: Any, params: Any = None) -> dict[str, Any]:
        await self.pause()
        status, obj = self.done("PATCH", path.rpartition("/")[2], MERGE, json.dumps(body).encode())
        await self.pause()
        if status >= 400:
            raise (Conflict if status == 409 else NotFound)(status, "refused")
        return obj

    def done(self, method: str, name: str, kind: str, data: bytes | None) -> tuple[int, dict[str, Any]]:
        """The answer to a request that has come."""
        refused = {"kind": "Status", "metadata": {}}
        sent = json.loads(data) if data else {}
        if method == "POST":
            name = sent["metadata"]["name"]
            return (409, refused) if name in self.objects else (201, self.put(name, sent))
        before = self.objects.get(name)
        if method == "GET":
            return (200, deepcopy(before)) if before else (404, refused)
        if before is None:
            demanded = (sent.get("metadata") or {}).get("resourceVersion") if isinstance(sent, dict) else None
            if kind == APPLY or method == "PUT":
                return (409, refused) if demanded else (201, self.put(name, sent))
            return 404, refused
        version = before["metadata"]["resourceVersion"]
        if kind == JSON_PATCH:
            fields: dict[str, Any] = {}
            for step in sent:
                if step["op"] == "test" and step["value"] != version:
                    return 422, refused
                if step["op"] == "add":
                    fields[step["path"].rpartition("/")[2]] = step["value"]
            sent = {"data": fields}
        place = "preconditions" if method == "DELETE" else "metadata"
        if (sent.get(place) or {}).get("resourceVersion", version) != version:
            return 409, refused
        if method == "DELETE":
            return 200, self.delete(name)
        return 200, self.put(name, sent)

    def put(self, name: str, sent: Any) -> dict[str, Any]:
        before = self.objects.get(name)
        obj = deepcopy(before) or {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "here"}}
        if before is None:
            self.now = next(self.clock)
            obj["metadata"]["uid"] = f"uid-{name}-{self.now}"
            # As the proxy sees to it; here others have done so as well.
            obj["metadata"]["ownerReferences"] = [REFERENCE]
            if self.random.random() < 0.3:
                obj["metadata"]["finalizers"] = ["example.com/wait"]
        obj["data"] = {**obj.get("data", {}), **(sent.get("data") or {})}
        if obj != before:
            self.store(name, obj)
        return deepcopy(self.objects[name])

    def delete(self, name: str) -> dict[str, Any]:
        before = self.objects[name]
        if not before["metadata"].get("finalizers"):
            self.store(name, None)
            return {"kind": "Status", "metadata": {}, "details": {"uid": before["metadata"]["uid"]}}
        if "deletionTimestamp" not in before["metadata"]:
            self.store(name, {**before, "metadata": {**before["metadata"], "deletionTimestamp": "2030-01-01T00:00:00Z"}})
        return deepcopy(self.objects[name])

    def store(self, name: str, obj: dict[str, Any] | None) -> None:
        before = self.objects.pop(name, None)
        self.now = next(self.clock)
        if obj is not None:
            obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.now)}}
            self.objects[name] = obj
        self.changes.append((self.now, before, obj))


class World:
    """A CR, its runs through the real proxy, other writers, and a watch that is late and at times loses what was between."""

    def __init__(self, seed: int, *, others: bool) -> None:
        self.random = random.Random(seed)
        self.model = Model(self.random)
        self.others = others
        self.informer = Informer(self.model, CONFIG_MAP, "", self.told)
        self.informer.list_kind = "ConfigMapList"
        self.informer.version = "0"
        self.own_writes = OwnWrites(lambda request, change: self.due.set())
        self.due = asyncio.Event()
        # The clock at the beginning of each run, and at each change that others have made.
        self.begun: list[int] = []
        self.foreign: list[int] = []
        self.sessions = Sessions()

        def covering(*_: str) -> Informer:
            return self.informer

        self.proxy = ProxyServer(self.model, Known(self.model), self.sessions, covering=covering, port=0)

    def told(self, before: Object | None, after: Object | None) -> None:
        if dependent_changed(before, after) and not self.own_writes.consume(CR, VersionChange.between(before, after)):
            self.due.set()

    async def watch(self) -> None:
        seen = 0
        while True:
            await self.model.pause()
            # Mostly one by one; after a gap a list tells only what is there now.
            until = len(self.model.changes) if self.random.random() < 0.1 else seen + 1
            if seen == len(self.model.changes):
                await asyncio.sleep(0)
                continue
            latest: dict[tuple[str, str], Object | None] = {}
            for version, before, after in self.model.changes[seen:until]:
                self.informer.version = str(version)
                metadata = (after or before or {})["metadata"]
                latest[metadata["name"], metadata["uid"]] = after
            seen = until
            for (name, _), obj in latest.items():
                self.informer.fresh = self.random.random() < 0.7
                self.put(ObjectKey("here", name), obj)
            self.caught_up = seen

    def put(self, key: ObjectKey, obj: Object | None) -> None:
        before = self.informer.store.pop(key, None)
        self.informer._encoded.pop(key, None)
        if obj is not None:
            self.informer.store[key] = obj
        self.told(before, obj)

    async def disturb(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            for _ in range(self.random.randint(0, 60)):
                await asyncio.sleep(0)
            name = self.random.choice(NAMES)
            count = len(self.model.changes)
            if name not in self.model.objects:
                continue
            if self.random.random() < 0.2:
                self.model.delete(name)
            else:
                self.model.put(name, {"data": {self.random.choice("xy"): self.random.choice("123")}})
            if len(self.model.changes) > count:
                self.foreign.append(self.model.now)

    async def call(self, token: str, method: str, name: str, body: Any, kind: str = "application/json") -> None:
        path = f"{CONFIG_MAPS}/{name}" if name else CONFIG_MAPS
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
        payload = StreamReader(BaseProtocol(asyncio.get_running_loop()), 2**16)
        payload.feed_data(data or b"")
        payload.feed_eof()
        request = make_mocked_request(method, path, headers=headers, payload=payload)
        response = await self.proxy._handle(request)
        assert response.status in (200, 201, 404, 409), getattr(response, "text", "")

    def steps(self) -> Iterator[tuple[str, str, Any, str]]:
        for _ in range(self.random.randint(1, 6)):
            name, field, value = self.random.choice(NAMES), self.random.choice("xy"), self.random.choice("12")
            whole = {"metadata": {"name": name}, "data": {field: value}}
            yield from self.random.choice(
                [
                    [("GET", name, None, "")],
                    [("PATCH", name, whole, APPLY)],
                    [("PATCH", name, whole, APPLY)],
                    [("PATCH", name, {"data": {field: value}}, MERGE)],
                    [("GET", name, None, ""), ("PATCH", name, {"data": {field: value}}, STRATEGIC)],
                    [("PATCH", name, [{"op": "add", "path": f"/data/{field}", "value": value}], JSON_PATCH)],
                    [("PUT", name, whole, "application/json")],
                    [("POST", "", whole, "application/json")],
                    # Without a body it is in doubt who has marked an object as on its way out.
                    [("DELETE", name, None if self.others else {}, "application/json")],
                ]
            )

    async def run(self) -> None:
        self.begun.append(self.model.now)
        plan = list(self.steps()) if len(self.begun) < 4 else []
        with self.own_writes.of_run(CR) as on_write:
            session = Session(owner=OWNER, inject_owner=True, on_dependent=lambda *_: None, on_write=on_write)
            with self.sessions.opened(session) as token:
                # A run that races with itself may well have another look.
                if self.others and self.random.random() < 0.3:
                    await asyncio.gather(*(self.call(token, *step) for step in plan))
                else:
                    for step in plan:
                        await self.call(token, *step)
                await self.model.pause()

    async def live(self) -> None:
        for name in NAMES:
            if self.random.random() < 0.7:
                self.put(ObjectKey("here", name), self.model.put(name, {"data": {"x": "1"}}))
        self.model.changes.clear()
        self.caught_up = 0
        self.due.set()
        watching = asyncio.create_task(self.watch())
        disturbing = asyncio.create_task(self.disturb()) if self.others else None
        try:
            for _ in range(50):
                # The watch has told all, and nothing is to be done: it is over.
                while not self.due.is_set():
                    if (disturbing is None or disturbing.done()) and self.caught_up == len(self.model.changes):
                        break
                    await asyncio.sleep(0)
                if not self.due.is_set():
                    return
                self.due.clear()
                await self.run()
            raise AssertionError("one run after the other, for ever")
        finally:
            watching.cancel()
            if disturbing is not None:
                await disturbing


def test_no_change_of_others_is_taken_for_an_own_write() -> None:
    changes = 0
    for seed in range(300):
        world = World(seed, others=True)
        asyncio.run(world.live())
        changes += len(world.foreign)
        # Whatever others did, a run has begun since.
        assert max(world.foreign, default=0) <= world.begun[-1], f"seed {seed}"
    # Not one of them is a trial of nothing.
    assert changes > 200


def test_own_writes_alone_cause_no_run() -> None:
    for seed in range(200):
        world = World(seed, others=False)
        asyncio.run(world.live())
        assert len(world.begun) == 1, f"seed {seed}"
