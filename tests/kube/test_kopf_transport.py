"""What kopf is given to read, by a stub of an API server."""

from __future__ import annotations

import asyncio
import json
import logging
import pkgutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from bench.driver import until
from runner.config.watches import Watch
from runner.kube.kopf_transport import NAMESPACE, KopfTransport
from runner.kube.primaries import watch_primaries
from runner.resource.metadata import GroupVersionKind
from runner.resource.selectors import EVERYTHING, Requirement, Selector
from tests.conftest import THING
from tests.kube.test_client import served
from tests.kube.test_primaries import watch_of

NOT_READY = json.dumps(
    {"kind": "Status", "message": "storage is (re)initializing", "reason": "TooManyRequests", "code": 429}
)


class Answer:
    """What the middleware looks at of an answer."""

    def __init__(self, status: int, text: str = "") -> None:
        self.status = status
        self._text = text

    async def text(self, **_: object) -> str:
        return self._text


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (
            [Answer(429, NOT_READY)],
            [("DEBUG", "HTTP 429: TooManyRequests: storage is (re)initializing"), ("DEBUG", "")],
        ),
        ([Answer(503, "away"), Answer(429, NOT_READY)], [("WARNING", "HTTP 503: away"), ("INFO", "")]),
        (
            [Answer(429, NOT_READY), Answer(429, "Too many requests")],
            [
                ("DEBUG", "HTTP 429: TooManyRequests: storage is (re)initializing"),
                ("WARNING", "HTTP 429: Too many requests"),
                ("INFO", ""),
            ],
        ),
        ([Answer(404, "gone")], [("INFO", "HTTP 404: gone"), ("INFO", "")]),
        ([Answer(400, "no")], [("WARNING", "HTTP 400: no"), ("INFO", "")]),
    ],
    ids=["not ready", "away", "too busy", "not served", "refused"],
)
async def test_what_is_waited_for_is_said_once_in_a_sentence(
    answers: list[Answer], said: list[tuple[str, str]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.kube.kopf_transport.FIRST_DELAY", 0.0)
    caplog.set_level("DEBUG", "runner.kube.kopf_transport")
    left = [*answers, Answer(200)]

    async def answer(request: aiohttp.ClientRequest) -> aiohttp.ClientResponse:
        return left.pop(0)  # type: ignore[return-value]

    request = aiohttp.ClientRequest.__new__(aiohttp.ClientRequest)
    request.url = URL("https://server/apis/test.example.com/v1/things")
    response = await KopfTransport([watch_of(THING)])(request, answer)
    assert response.status == 200
    assert [(line.levelname, getattr(line, "reason", "")) for line in caplog.records] == said


@pytest.mark.parametrize("path", ["/api/v1/namespaces", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"])
async def test_what_kopf_can_do_without_is_not_waited_for(path: str) -> None:
    async def answer(request: aiohttp.ClientRequest) -> aiohttp.ClientResponse:
        return Answer(403)  # type: ignore[return-value]

    request = aiohttp.ClientRequest.__new__(aiohttp.ClientRequest)
    request.url = URL(f"https://server{path}")
    assert (await KopfTransport([watch_of(THING)])(request, answer)).status == 403


NESTED = b'{"a":' * 5_000 + b"{}" + b"}" * 5_000
OTHER = GroupVersionKind("test.example.com", "v1", "Other")


class Stub:
    """An API server of two kinds. `lists` and `events` are its answers, by plural, in turn; the last one again and again."""

    def __init__(self) -> None:
        self.lists: dict[str, list[bytes]] = {"things": [self.listing()], "others": [self.listing(kind="OtherList")]}
        # A watch's content; None: silent.
        self.events: dict[str, list[bytes | None]] = {"things": [None], "others": [None]}
        self.asked: list[str] = []
        # The label selectors of the requests for CRs.
        self.selectors: set[tuple[str, str]] = set()
        self.scans = 0
        self.ended = asyncio.Event()

    @staticmethod
    def item(name: str, spec: bytes = b"{}", uid: str = "") -> bytes:
        metadata = {"name": name, "namespace": "here", "uid": uid or f"uid-{name}", "generation": 1, "resourceVersion": "4"}
        return b'{"metadata":%s,"spec":%s}' % (json.dumps(metadata).encode(), spec)

    @staticmethod
    def listing(*items: bytes, kind: str = "ThingList", more: str = "") -> bytes:
        head = {"resourceVersion": "5", "continue": more}
        return b'{"apiVersion":"test.example.com/v1","kind":"%s","metadata":%s,"items":[%s]}' % (
            *(kind.encode(), json.dumps(head).encode()),
            b",".join(items),
        )

    @staticmethod
    def event(kind: str, obj: bytes) -> bytes:
        return b'{"type":"%s","object":%s}\n' % (kind.encode(), obj)

    async def handler(self, request: web.Request) -> web.StreamResponse:
        def entry(kind: str, namespaced: bool = True) -> dict[str, Any]:
            names = {"name": kind.lower() + "s", "singularName": kind.lower(), "kind": kind}
            return {**names, "namespaced": namespaced, "verbs": ["get", {}, "list", "watch"]}

        entries = {"/api/v1": [entry("Namespace", False)], "/apis/test.example.com/v1": [entry("Thing"), entry("Other")]}
        version = {"groupVersion": "test.example.com/v1", "version": "v1"}
        if request.path == "/apis":
            self.scans += 1
        answers: dict[str, Any] = {
            "/api": {"versions": ["v1"]},
            "/apis": {"groups": [{"name": "test.example.com", "versions": [version], "preferredVersion": version}]},
            **{path: {"kind": "APIResourceList", "resources": found} for path, found in entries.items()},
        }
        if request.path in answers:
            return web.json_response(answers[request.path])
        plural = request.path.rpartition("/")[2]
        is_watch = "watch" in request.query
        self.asked.append(f"{'watch' if is_watch else 'list'} {plural}")
        self.selectors.add((self.asked[-1], request.query.get("labelSelector", "")))
        left: list[Any] = (self.events if is_watch else self.lists)[plural]
        content = left.pop(0) if len(left) > 1 else left[0]
        if not is_watch:
            return web.Response(body=content, content_type="application/json")
        response = web.StreamResponse()
        await response.prepare(request)
        if content is None:
            await self.ended.wait()
        else:
            await response.write(content)
        return response


class Following:
    """The primaries of a stub, as they are told."""

    def __init__(self, selector: Selector = EVERYTHING) -> None:
        """`selector`: of things."""
        self.selector = selector
        self.told: list[str] = []
        # How often kopf was started.
        self.starts = 0
        self.listed: list[tuple[str, str, set[str]]] = []

    def notify(self, watch: Watch, event: str | None, obj: Any) -> None:
        self.told.append(f"{event} {watch.gvk.kind} {obj['metadata']['name']}")

    def started(self) -> None:
        self.starts += 1

    def note(self, watch: Watch, namespace: str, present: Any) -> None:
        self.listed.append((watch.gvk.kind, namespace, {key.name for key in present}))

    @asynccontextmanager
    async def of(self, stub: Stub, namespaces: tuple[str, ...] = (), base: str = "") -> AsyncIterator[asyncio.Task[None]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            assert request.path.startswith(base)
            return await stub.handler(request.clone(rel_url=request.path_qs.removeprefix(base)))

        async with served(handler if base else stub.handler, base) as client:
            watching = asyncio.create_task(
                watch_primaries(
                    client,
                    watches=[replace(watch_of(THING), selector=self.selector), watch_of(OTHER)],
                    namespaces=namespaces,
                    notify=self.notify,
                    listed=self.note,
                    started=self.started,
                )
            )
            try:
                yield watching
            finally:
                stub.ended.set()
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        async def true() -> bool:
            return condition()

        await until(true, f"{what}; told {self.told}, listed {self.listed}")


GONE = b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}\n'


async def test_an_object_that_is_too_deep_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    stub, following = Stub(), Following()
    stub.lists["things"] = [stub.listing(stub.item("bad", NESTED), stub.item("good"))]
    deep = stub.event("ADDED", stub.item("worse", NESTED))
    gone = stub.event("DELETED", stub.item("gone", NESTED))
    stub.events["things"] = [deep + gone + stub.event("ADDED", stub.item("better")) + deep, None]
    async with following.of(stub):
        await following.until(lambda: {"None Thing good", "ADDED Thing better"} <= set(following.told), "the good are told")
        await following.until(lambda: stub.asked.count("watch things") > 1, "the watch is renewed")
    assert not [line for line in following.told if "bad" in line or "worse" in line]
    assert "DELETED Thing gone" in following.told
    assert stub.scans == 1
    # It is there all the same.
    assert ("Thing", "", {"bad", "good"}) in following.listed
    warned = [record for record in caplog.records if record.getMessage().startswith("A CR is passed over")]
    assert [record.cr for record in warned] == ["bad", "worse", "gone"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(b"<html></html>", id="html"),
        pytest.param(b'{"items":[', id="truncated"),
        pytest.param(b'{"items":[]}', id="no-list"),
        pytest.param(NESTED, id="deep"),
    ],
)
async def test_a_list_that_cannot_be_read_is_asked_for_again_and_costs_no_other_kind(odd: bytes) -> None:
    stub, following = Stub(), Following()
    stub.lists["things"] = [odd, odd, stub.listing(stub.item("one"))]
    async with following.of(stub):
        await following.until(lambda: "None Thing one" in following.told, "it is told")
        await following.until(lambda: "watch others" in stub.asked, "the other kind is watched")
    assert (stub.scans, stub.asked.count("list others")) == (1, 1)


@pytest.mark.parametrize("base", ["", "/k8s/clusters/c-1"], ids=["root", "path"])
@pytest.mark.parametrize("asked", ["list", "watch"])
@pytest.mark.parametrize("status", [400, 403, 404, 410, 500])
async def test_an_error_of_one_kind_costs_no_other_kind(
    asked: str, status: int, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "runner.kube")

    class Refusing(Stub):
        left = 2

        async def handler(self, request: web.Request) -> web.StreamResponse:
            is_asked = ("watch" in request.query) is (asked == "watch")
            if request.path.endswith("/things") and is_asked and self.left:
                self.left -= 1
                return web.json_response({"kind": "Status", "message": "no", "code": status}, status=status)
            return await super().handler(request)

    stub, following = Refusing(), Following()
    stub.events["things"] = [stub.event("ADDED", stub.item("one")), None]
    stub.events["others"] = [stub.event("ADDED", stub.item("other")), None]
    async with following.of(stub, base=base):
        await following.until(lambda: {"ADDED Thing one", "ADDED Other other"} <= set(following.told), "both are told")
    assert (stub.scans, stub.asked.count("list others")) == (1, 1)
    assert "Watching is started again" not in [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(b"<html></html>\n", id="html"),
        pytest.param(b"[]\n", id="no-event"),
        pytest.param(b'{"type":"ADDED","object":{"metadata":{"name":["x"]}}}\n', id="odd-name"),
        pytest.param(b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcd"}}\n', id="error"),
        pytest.param(GONE, id="gone"),
        pytest.param(NESTED + b"\n", id="deep"),
    ],
)
async def test_a_watch_that_cannot_be_read_is_begun_again_and_costs_no_other_kind(odd: bytes) -> None:
    stub, following = Stub(), Following()
    stub.events["things"] = [odd, stub.event("ADDED", stub.item("one")), None]
    async with following.of(stub):
        await following.until(lambda: "ADDED Thing one" in following.told, "it is told")
        await following.until(lambda: "watch others" in stub.asked, "the other kind is watched")
    assert (stub.scans, stub.asked.count("list others")) == (1, 1)


@pytest.mark.parametrize("end", [b"", GONE], ids=["closed-at-once", "gone-each-time"])
async def test_kopf_pauses_between_watches_that_come_to_nothing(end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0.001)

    ended = KopfTransport.pause_after_watch

    async def counted(self: KopfTransport, path: str, *, in_vain: bool) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("runner.kube.kopf_transport.asyncio.sleep", noted)
            await ended(self, path, in_vain=in_vain)

    # However slow the machine is, none was open for long.
    monkeypatch.setattr("runner.kube.kopf_transport._SHORT", 1e9)
    transport = KopfTransport([watch_of(THING)])
    for _ in range(10):
        await counted(transport, "/a", in_vain=True)
        await counted(transport, "/b", in_vain=False)
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]
    stub, following = Stub(), Following()
    stub.events["things"] = [end]
    waits: list[bool] = []

    async def heard(self: KopfTransport, path: str, *, in_vain: bool) -> None:
        if path.endswith("/things"):
            waits.append(in_vain)
        await ended(self, path, in_vain=in_vain)

    monkeypatch.setattr(KopfTransport, "pause_after_watch", heard)
    async with following.of(stub):
        await following.until(lambda: len(waits) > 2, "it was waited")
        assert all(waits)


async def test_what_is_there_is_told_when_all_pages_are_read() -> None:
    stub, following = Stub(), Following()
    stub.lists["things"] = [
        stub.listing(stub.item("one"), more="next"),
        stub.listing(stub.item("two")),
        stub.listing(stub.item("two")),
    ]
    # The first is for the watch that goes on with the list.
    stub.events["things"] = [GONE, GONE, None]
    async with following.of(stub):
        await following.until(lambda: len([one for one in following.listed if one[0] == "Thing"]) > 1, "it was listed twice")
    # The first list may have ended before its watch began: then there is a third.
    assert [one for one in following.listed if one[0] == "Thing"][:2] == [
        ("Thing", "", {"one", "two"}),
        ("Thing", "", {"two"}),
    ]


async def test_a_list_without_an_answer_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.kube.kopf_transport._ANSWER", 0.5)

    class Silent(Stub):
        async def handler(self, request: web.Request) -> web.StreamResponse:
            if request.path.endswith("/things") and "list things" not in self.asked:
                self.asked.append("list things")
                await self.ended.wait()
            return await super().handler(request)

    stub, following = Silent(), Following()
    stub.lists["things"] = [stub.listing(stub.item("one"))]
    async with following.of(stub):
        await following.until(lambda: "None Thing one" in following.told, "it is told")
    # On a slow machine other answers may have been too late as well.
    assert following.starts == 1


class Gated(Stub):
    """Each watch of things is answered when its gate is opened; `since` are the versions from which they were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = [asyncio.Event(), asyncio.Event()]
        self.since: list[str] = []

    async def handler(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/things") and "watch" in request.query:
            self.since.append(request.query["resourceVersion"])
            if len(self.since) <= len(self.gates):
                await self.gates[len(self.since) - 1].wait()
        return await super().handler(request)


@pytest.fixture
def by_kopf(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What kopf has been given to tell."""
    handed: list[str] = []
    deliver = KopfTransport.deliver

    def noted(self: KopfTransport, watch: Watch, event: str | None, obj: Any) -> None:
        handed.append(f"{event} {obj['metadata']['name']}")
        deliver(self, watch, event, obj)

    monkeypatch.setattr(KopfTransport, "deliver", noted)
    return handed


async def test_crs_are_told_past_kopf(by_kopf: list[str]) -> None:
    """kopf makes a task and a memory for each object that it is given, which is much where there are thousands."""
    stub, following = Stub(), Following()
    stub.lists["things"] = [stub.listing(*(stub.item(f"old-{number}") for number in range(200)))]
    added, changed, deleted = (stub.event(kind, stub.item("new")) for kind in ("ADDED", "MODIFIED", "DELETED"))
    stub.events["things"] = [added + changed, changed + changed + deleted, None]
    async with following.of(stub):
        await following.until(lambda: "DELETED Thing new" in following.told, "all is told")
    assert by_kopf == []
    assert following.told == [
        *(f"None Thing old-{number}" for number in range(200)),
        *("ADDED Thing new", *["MODIFIED Thing new"] * 3, "DELETED Thing new"),
    ]


async def test_what_cannot_be_told_past_kopf_is_told_by_it_in_order(by_kopf: list[str]) -> None:
    stub, following = Stub(), Following()
    stub.events["things"] = [b"".join(stub.event(kind, stub.item("new")) for kind in ("ADDED", "MODIFIED", "DELETED")), None]
    notify = following.notify

    def stumble_at_first(watch: Watch, event: str | None, obj: Any) -> None:
        notify(watch, event, obj)
        if len(following.told) == 1:
            raise KeyError("missing")

    following.notify = stumble_at_first  # type: ignore[method-assign]
    async with following.of(stub):
        await following.until(lambda: "DELETED Thing new" in following.told, "all is told")
    assert by_kopf == ["ADDED new", "MODIFIED new", "DELETED new"]
    assert following.told == [f"{kind} Thing new" for kind in ("ADDED", "ADDED", "MODIFIED", "DELETED")]


async def test_what_goes_wrong_with_a_change_ends_no_watch() -> None:
    stub, following = Stub(), Following()
    stub.events["things"] = [stub.event("MODIFIED", stub.item("odd")) + stub.event("MODIFIED", stub.item("one")), None]
    notify = following.notify

    def stumble(watch: Watch, event: str | None, obj: Any) -> None:
        notify(watch, event, obj)
        if obj["metadata"]["name"] == "odd":
            raise KeyError("missing")

    following.notify = stumble  # type: ignore[method-assign]
    async with following.of(stub):
        await following.until(lambda: following.told.count("MODIFIED Thing odd") == 2, "kopf tells it, too, and logs it")
        await following.until(lambda: "MODIFIED Thing one" in following.told, "the other one is told")
    assert stub.scans == 1


async def test_kopf_goes_on_from_what_was_told_past_it() -> None:
    stub, following = Gated(), Following()
    stub.lists["things"] = [stub.listing(stub.item("one"))]
    changed = stub.item("one").replace(b'"resourceVersion": "4"', b'"resourceVersion": "7"')
    stub.events["things"] = [stub.event("MODIFIED", changed), None]
    async with following.of(stub):
        await following.until(lambda: "None Thing one" in following.told, "the list is told")
        stub.gates[0].set()
        await following.until(lambda: len(stub.since) > 1, "it is watched again")
        stub.gates[1].set()
    assert stub.since[:2] == ["5", "7"]


@pytest.mark.parametrize("first", [True, False], ids=["first-page", "further-page"])
async def test_a_list_that_is_gone_is_asked_for_ever_more_seldom_and_that_is_logged(
    first: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wrong with the other kind meanwhile."""
    caplog.set_level("INFO", "runner.kube")
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def paused(seconds: float, *rest: Any) -> None:
        if seconds in (0.2, 0.4, 0.8):
            pauses.append(seconds)
        await sleep(seconds, *rest)

    monkeypatch.setattr("runner.kube.kopf_transport.asyncio.sleep", paused)

    class Going(Stub):
        left = 4

        async def handler(self, request: web.Request) -> web.StreamResponse:
            is_list = request.path.endswith("/things") and "watch" not in request.query
            if is_list and ("continue" in request.query) is not first and self.left:
                self.left -= 1
                return web.json_response({"kind": "Status", "message": "no", "code": 410}, status=410)
            return await super().handler(request)

    stub, following = Going(), Following()
    page, rest = stub.listing(stub.item("one"), more="token"), stub.listing(stub.item("two"))
    stub.lists["things"] = [rest] if first else [page, page, page, page, page, rest]
    async with following.of(stub):
        await following.until(lambda: "None Thing two" in following.told, "it is told")
    assert pauses == sorted(pauses)
    assert len(pauses) >= 3
    logged = [getattr(record, "path", "") for record in caplog.records if record.levelno >= logging.INFO]
    assert "/apis/test.example.com/v1/things" in logged
    assert stub.scans == 1


async def test_a_kind_whose_plural_becomes_another_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to see CRDs nothing else tells of that."""
    monkeypatch.setattr("runner.kube.primaries._LOOK_AGAIN", 0.2)

    class Renamed(Stub):
        old = True

        async def handler(self, request: web.Request) -> web.StreamResponse:
            if request.path == "/apis/test.example.com/v1" and not self.old:
                names = {"name": "thingies", "singularName": "thing", "kind": "Thing", "namespaced": True}
                return web.json_response({"resources": [{**names, "verbs": ["get", "list", "watch"]}]})
            if request.path.endswith("/things") and not self.old:
                return web.Response(status=404, text="404 page not found")
            return await super().handler(request)

    stub, following = Renamed(), Following()
    stub.lists["things"] = stub.lists["thingies"] = [stub.listing(stub.item("one"))]
    stub.events["things"], stub.events["thingies"] = [GONE], [None]
    async with following.of(stub):
        await following.until(lambda: "None Thing one" in following.told, "it is told")
        stub.old = False
        await following.until(lambda: "watch thingies" in stub.asked, "it is watched where it is now")


class Paged(Stub):
    """Its list of things has two pages; the second waits. The watch that begins meanwhile brings `early`, and goes on."""

    early: bytes = b""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        # From which things were watched.
        self.versions: list[str] = []
        self.lists["things"] = [
            self.listing(self.item("one"), more="token"),
            self.listing(*map(self.item, ("three", "two", "four"))),
        ]

    async def handler(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/things"):
            if "continue" in request.query:
                await self.until_ended(self.go_on)
            elif "watch" in request.query:
                self.versions.append(request.query["resourceVersion"])
                self.events["things"] = [b"" if self.go_on.is_set() else self.early, None]
                response = await super().handler(request)
                await self.until_ended()
                return response
        return await super().handler(request)

    async def until_ended(self, *others: asyncio.Event) -> None:
        waiting = {asyncio.create_task(event.wait()) for event in (self.ended, *others)}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()


def versioned(kind: str, name: str, version: int, uid: str = "", spec: bytes = b"{}") -> bytes:
    item = Stub.item(name, spec, uid).replace(b'"resourceVersion": "4"', b'"resourceVersion": "%d"' % version)
    return Stub.event(kind, item)


def early_watches() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("early watch")]


def bookmark(version: int) -> bytes:
    return Stub.event("BOOKMARK", b'{"metadata":{"resourceVersion":"%d"}}' % version)


async def test_what_happens_while_many_are_listed_is_told_at_once() -> None:
    stub, following = Paged(), Following(Selector((Requirement("part", "In", ("a",)),)))
    stub.early = b"".join(
        (
            versioned("ADDED", "new", 6),
            # The list has not come to it: found, as by the list.
            versioned("MODIFIED", "two", 7),
            versioned("DELETED", "three", 8),
            versioned("DELETED", "one", 9),
            versioned("ADDED", "one", 10, uid="another"),
            versioned("DELETED", "new", 11),
            bookmark(12),
        )
    )
    told = ["None Thing one", "ADDED Thing new", "None Thing two", "DELETED Thing three"]
    told += ["DELETED Thing one", "ADDED Thing one", "DELETED Thing new"]
    async with following.of(stub):
        await following.until(lambda: "DELETED Thing new" in following.told, "it is told before the list has ended")
        assert following.told == told
        assert not [one for one in following.listed if one[0] == "Thing"]
        stub.go_on.set()
        await following.until(lambda: len(stub.versions) == 2, "it is watched")
        # What the second page has of the others is older.
        assert following.told == [*told, "None Thing four"]
        assert [one for one in following.listed if one[0] == "Thing"] == [("Thing", "", {"one", "two", "four"})]
        # Where the early watch has come to.
        assert stub.versions == ["5", "12"]
        await following.until(lambda: not early_watches(), "the early watch has ended")
    assert {selector for asked, selector in stub.selectors if "things" in asked} == {"part in (a)"}


async def test_a_list_of_one_page_needs_no_watch_of_its_own() -> None:
    stub, following = Stub(), Following()
    stub.lists["things"] = [stub.listing(stub.item("one"))]
    async with following.of(stub):
        await following.until(lambda: "watch things" in stub.asked and "watch others" in stub.asked, "they are watched")
        assert sorted(stub.asked) == ["list others", "list things", "watch others", "watch things"]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(GONE, id="error"),
        pytest.param(b"<html>\n", id="no JSON"),
        pytest.param(b'{"type":"ADDED"}\n', id="no object"),
        pytest.param(b'{"type":["x"],"object":{"metadata":{"resourceVersion":"9"}}}\n', id="odd type"),
        pytest.param(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":9}}}\n', id="odd version"),
        pytest.param(Stub.event("ADDED", b'{"metadata":{"name":"x","resourceVersion":"9"}}'), id="no uid"),
        pytest.param(Stub.event("ADDED", b'{"metadata":{"name":[1],"uid":"x","resourceVersion":"9"}}'), id="no name"),
    ],
)
async def test_what_cannot_be_told_early_is_left_to_the_watch_after_the_list(odd: bytes) -> None:
    stub, following = Paged(), Following()
    stub.early = versioned("ADDED", "new", 6) + odd + versioned("ADDED", "newer", 10)
    async with following.of(stub):
        await following.until(lambda: "ADDED Thing new" in following.told, "it is told")
        stub.go_on.set()
        await following.until(lambda: len(stub.versions) == 2, "it is watched")
        assert "ADDED Thing newer" not in following.told
        assert stub.versions == ["5", "6"]


async def test_what_is_too_deep_is_passed_over_early_as_well() -> None:
    stub, following = Paged(), Following()
    # The list has it as it was, which could be read.
    deep = versioned("MODIFIED", "two", 6, spec=NESTED) + versioned("DELETED", "three", 7, spec=NESTED)
    stub.early = deep + versioned("ADDED", "new", 8)
    told = ["None Thing one", "DELETED Thing three", "ADDED Thing new"]
    async with following.of(stub):
        await following.until(lambda: following.told == told, "the others are told")
        stub.go_on.set()
        await following.until(lambda: len(stub.versions) == 2, "it is watched")
    assert following.told == [*told, "None Thing four"]
    assert stub.versions == ["5", "8"]
    assert ("Thing", "", {"one", "two", "four", "new"}) in following.listed


async def test_a_list_that_begins_again_has_a_watch_of_its_own() -> None:
    class Expiring(Paged):
        async def handler(self, request: web.Request) -> web.StreamResponse:
            if request.query.get("continue") == "old":
                await self.until_ended(self.go_on)
                self.go_on.clear()
                self.early = versioned("MODIFIED", "two", 21)
                return web.json_response({"kind": "Status", "code": 410, "message": "expired"}, status=410)
            return await super().handler(request)

    stub, following = Expiring(), Following()
    again = stub.listing(stub.item("new"), stub.item("one"), more="token").replace(b'"5"', b'"20"')
    stub.lists["things"] = [stub.listing(stub.item("one"), more="old"), again, stub.listing(stub.item("two"))]
    stub.early = versioned("ADDED", "new", 6) + versioned("ADDED", "gone", 7)
    told = ["None Thing one", "ADDED Thing new", "ADDED Thing gone"]
    async with following.of(stub):
        await following.until(lambda: following.told == told, "it is told")
        stub.go_on.set()
        told += ["None Thing new", "None Thing one", "None Thing two"]
        await following.until(lambda: sorted(following.told) == sorted(told), "the list has begun again")
        await following.until(lambda: len(early_watches()) == 1, "the first early watch has ended")
        stub.go_on.set()
        await following.until(lambda: len(stub.versions) == 3, "it is watched")
    assert stub.versions == ["5", "20", "21"]
    # One that was told of early, and is not there any more.
    assert [one for one in following.listed if one[0] == "Thing"] == [("Thing", "", {"one", "new", "two"})]


async def test_nothing_is_left_of_a_list_that_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    stub, following = Paged(), Following()
    stub.early = versioned("ADDED", "new", 6)
    async with following.of(stub):
        await following.until(lambda: "ADDED Thing new" in following.told, "it is told")
        assert early_watches()
    assert not early_watches()
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_it_ends_though_kopf_overlooks_a_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    """kopf does that with one that comes while it waits for the end of a task of its own, between two watches."""
    monkeypatch.setattr("runner.kube.primaries._CANCEL_AGAIN", 0.2)
    toggles = "kopf._cogs.aiokits.aiotoggles.ToggleSet.wait_for"
    wait_for: Any = pkgutil.resolve_name(toggles.replace(".ToggleSet", ":ToggleSet"))
    cancelled: list[asyncio.Task[None]] = []

    async def slow_to_end(self: object, state: bool) -> None:
        try:
            await wait_for(self, state)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and "pause-waiter for things" in task.get_name() and not cancelled:
                watching.cancel()
                cancelled.append(watching)
                # Until it has got through to the watch.
                for _ in range(10):
                    await asyncio.sleep(0)
            raise

    monkeypatch.setattr(toggles, slow_to_end)
    stub, following = Stub(), Following()
    stub.events["things"] = [GONE, None]
    async with following.of(stub) as watching:
        await following.until(lambda: bool(cancelled), "a watch has ended")
        async with asyncio.timeout(60):
            await asyncio.wait([watching])
    own = asyncio.current_task()
    assert [task for task in asyncio.all_tasks() if task is not own and "things" in task.get_name()] == []


@pytest.mark.parametrize("refused", ["list", "watch"])
async def test_namespaces_are_seen_when_rights_or_they_come_late(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.kube.primaries._LOOK_AT_NAMESPACES", 0.2)

    class Refusing(Stub):
        allowed = False
        # Lists of namespaces.
        looks = 0

        async def handler(self, request: web.Request) -> web.StreamResponse:
            if request.path != "/api/v1/namespaces":
                return await super().handler(request)
            is_watch = "watch" in request.query
            self.looks += not is_watch
            if is_watch is (refused == "watch") and not (self.allowed and refused == "list"):
                return web.json_response({"kind": "Status", "message": "no", "code": 403}, status=403)
            if is_watch:
                await self.ended.wait()
            # Neither concerns it: one that does not match, and one that is none.
            items: list[Any] = [
                {"metadata": {"name": "elsewhere", "uid": "y"}},
                {"metadata": {"name": [1]}},
                {"metadata": {}},
            ]
            items += [{"metadata": {"name": "here", "uid": "x"}}] if self.allowed else []
            return web.json_response({"kind": "NamespaceList", "metadata": {"resourceVersion": "5"}, "items": items})

    stub, following = Refusing(), Following()
    stub.lists["things"] = [stub.listing(stub.item("one"))]
    async with following.of(stub, namespaces=("her*",)):
        # kopf's own, and two of those that are made in its place: the first of them is done.
        await following.until(lambda: stub.looks > 2, "namespaces are looked for")
        assert not following.told
        stub.allowed = True
        await following.until(lambda: "None Thing one" in following.told, "it is told")
        if refused == "watch":
            looks = stub.looks
            await following.until(lambda: stub.looks > looks + 1, "namespaces are looked for again")
    assert (stub.scans, following.starts) == (2, 2)


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("team-*", {"team-a", "team-pr-1", "team-pr-2"}),
        ("!team-*", {"other"}),
        ("team-*, !*-pr-*", {"team-a"}),
        ("team-*, !*-pr-*, *-pr-1, other", {"team-a", "team-pr-1"}),
        ("team-?", {"team-a"}),
        ("other", {"other"}),
    ],
)
def test_patterns_of_namespaces_are_kopfs(pattern: str, matched: set[str]) -> None:
    transport = KopfTransport([], namespaces=(pattern,))
    names = ["team-a", "team-pr-1", "team-pr-2", "other"]
    assert transport.unlisted({"items": [{"metadata": {"name": name}} for name in names]}) == matched


async def test_a_selector_is_sent_with_the_requests_for_its_kind_alone() -> None:
    selector = Selector((Requirement("example.com/shard", "In", ("one",)), Requirement("old", "DoesNotExist", ())))
    stub, following = Stub(), Following(selector)
    async with following.of(stub):
        await following.until(lambda: {"watch things", "watch others"} <= set(stub.asked), "both kinds are watched")
    text = "example.com/shard in (one),!old"
    crs = {one for one in stub.selectors if one[0].endswith(("things", "others"))}
    assert crs == {("list things", text), ("watch things", text), ("list others", ""), ("watch others", "")}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/api/v1/namespaces", ""),
        ("/api/v1/secrets", "mine"),
        ("/api/v1/namespaces/here/secrets", "mine"),
        ("/api/v1/pods", ""),
        ("/api/v1", ""),
        ("/apis/example.com/v1/secrets", ""),
    ],
    ids=["kopf's own", "all", "of a namespace", "another kind", "discovery", "another group's"],
)
def test_kinds_that_kopf_needs_whole_are_asked_for_without_a_selector(path: str, text: str) -> None:
    secret, mine = GroupVersionKind("", "v1", "Secret"), Selector((Requirement("mine", "Exists", ()),))
    transport = KopfTransport([replace(watch_of(gvk), selector=mine) for gvk in (NAMESPACE, secret)])
    transport._discovered["/api/v1"] = {"namespaces": "Namespace", "secrets": "Secret", "pods": "Pod"}
    assert transport._selector(path) == text


def test_events_of_a_cr_that_leaves_and_comes_back_stay_in_their_order() -> None:
    """Its deletion comes from a watch that does not select it any more."""
    following, watch = Following(), watch_of(THING)
    transport = KopfTransport([watch], following.notify)
    transport._by_path["/things"] = watch

    def event(kind: str, name: str) -> dict[str, Any]:
        return {"type": kind, "object": {"metadata": {"name": name, "uid": "u"}}}

    # kopf has both.
    transport._in_kopf["u"] = 2
    transport.deliver(watch, "DELETED", event("DELETED", "1")["object"])
    assert not transport.deliver_past_kopf("/things", event("MODIFIED", "3"))
    transport.deliver(watch, "ADDED", event("ADDED", "2")["object"])
    transport.deliver(watch, "MODIFIED", event("MODIFIED", "3")["object"])
    assert [one.split()[-1] for one in following.told] == ["1", "2", "3"]
    assert transport.deliver_past_kopf("/things", event("MODIFIED", "4"))
