"""The store of what roles made, through gaps and ends of its watch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bench.driver import until
from runner.kube.client import ApiClient, ApiError, Expired, NotFound, NotReady, Silent, Unreachable
from runner.kube.discovery import Resource
from runner.kube.informer import Informer, Informers
from runner.kube.nesting import METADATA_ONLY
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey

CONFIG_MAP = Resource(
    gvk=GroupVersionKind("", "v1", "ConfigMap"),
    plural="configmaps",
    namespaced=True,
    verbs=frozenset({"list", "watch"}),
    subresources=frozenset(),
)


def config_map(name: str, version: int) -> Object:
    return {"metadata": {"name": name, "namespace": "here", "resourceVersion": str(version), "managedFields": [{}]}}


# Looks on while a watch is open.
Look = Callable[[], object]


class Server(ApiClient):
    """Answers lists with `pages`, in order, and watches with `events`."""

    def __init__(self, pages: list[dict[str, Any]], events: list[dict[str, Any] | Exception | Look]) -> None:
        self.pages = pages
        self.events = events
        self.asked: list[dict[str, str]] = []

    async def get(self, path: str, params: Any = None) -> dict[str, Any]:
        self.asked.append(dict(params or {}))
        return self.pages.pop(0)

    async def watch(
        self, path: str, params: Any, *, opened: Callable[[], None] = lambda: None
    ) -> AsyncIterator[dict[str, Any]]:
        self.asked.append(dict(params))
        opened()
        while self.events:
            event = self.events.pop(0)
            if isinstance(event, Exception):
                raise event
            if callable(event):
                event()
            else:
                yield event


def page(version: int, *items: Object, more: str = "") -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(items)}


def event(kind: str, obj: Object) -> dict[str, Any]:
    return {"type": kind, "object": {"apiVersion": "v1", "kind": "ConfigMap", **obj}}


class Told(list[tuple[str, str]]):
    """What was told, as (name, the change in versions)."""

    def __call__(self, before: Object | None, after: Object | None) -> None:
        some = after or before
        assert some is not None
        versions = [obj["metadata"]["resourceVersion"] if obj else "-" for obj in (before, after)]
        self.append((some["metadata"]["name"], "→".join(versions)))


@pytest.fixture
def told() -> Told:
    return Told()


async def test_pages_become_one_store(told: Told) -> None:
    server = Server([page(5, config_map("a", 1), more="next"), page(5, config_map("b", 2))], [])
    informer = Informer(server, CONFIG_MAP, "here", told)
    await informer.step()
    assert told == [("a", "-→1"), ("b", "-→2")]
    assert server.asked[1]["continue"] == "next"
    stored = informer.store[ObjectKey("here", "a")]
    # The items of a list say nothing of their kind; managedFields would double the memory.
    assert stored["kind"] == "ConfigMap"
    assert "managedFields" not in stored["metadata"]


async def test_a_watch_goes_on_from_the_last_event_or_bookmark(told: Told) -> None:
    first = [event("ADDED", config_map("a", 6)), event("BOOKMARK", {"metadata": {"resourceVersion": "9"}})]
    server = Server([page(5)], [*first])
    informer = Informer(server, CONFIG_MAP, "here", told)
    await informer.step()
    await informer.step()
    await informer.step()
    assert [asked.get("resourceVersion") for asked in server.asked] == [None, "5", "9"]
    assert told == [("a", "-→6")]


async def test_changes_and_deletions_are_told_with_what_was_there(told: Told) -> None:
    server = Server(
        [page(5, config_map("a", 1))],
        [
            event("MODIFIED", config_map("a", 6)),
            event("DELETED", config_map("a", 7)),
            event("DELETED", config_map("unseen", 8)),
        ],
    )
    informer = Informer(server, CONFIG_MAP, "here", told)
    await informer.step()
    await informer.step()
    assert told == [("a", "-→1"), ("a", "1→6"), ("a", "6→-"), ("unseen", "8→-")]
    assert informer.store == {}


async def test_after_a_gap_only_differences_are_told(told: Told) -> None:
    server = Server(
        [
            page(5, config_map("same", 1), config_map("changed", 2), config_map("gone", 3)),
            page(20, config_map("same", 1), config_map("changed", 12), config_map("new", 13)),
        ],
        [Expired(410, "too old")],
    )
    informer = Informer(server, CONFIG_MAP, "here", told)
    await informer.step()
    told.clear()
    await informer.step()
    await informer.step()
    assert sorted(told) == [("changed", "2→12"), ("gone", "3→-"), ("new", "-→13")]
    assert server.asked[-1].get("continue") is None


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (NotReady(429, "storage is (re)initializing"), "DEBUG"),
        (ApiError(429, "too many requests"), "INFO"),
    ],
    ids=["not ready", "too busy"],
)
async def test_a_new_kind_that_is_not_ready_is_nothing_to_tell_of(
    told: Told, error: Exception, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "runner.kube.informer")
    running = asyncio.create_task(Informer(Server([page(5)], [error]), CONFIG_MAP, "here", told).run())

    async def said() -> bool:
        return bool(caplog.records)

    try:
        await until(said, "it is said")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert (caplog.records[0].levelname, caplog.records[0].reason) == (level, str(error))  # type: ignore[attr-defined]


async def test_a_store_is_fresh_while_its_watch_goes_on_without_a_gap(told: Told) -> None:
    seen: list[tuple[str, bool]] = []

    def look(when: str) -> Look:
        return lambda: seen.append((when, informer.fresh))

    server = Server([page(5, config_map("a", 1)), page(20)], [look("open")])
    informer = Informer(server, CONFIG_MAP, "here", told)
    await informer.step()
    look("listed")()
    await informer.step()
    look("between")()
    server.events = [look("open again"), Unreachable("cut")]
    with pytest.raises(Unreachable):
        await informer.step()
    look("cut")()
    # What was missed meanwhile comes first, and then a bookmark.
    server.events = [
        look("open after trouble"),
        event("MODIFIED", config_map("a", 7)),
        look("heard one"),
        event("BOOKMARK", {"metadata": {"resourceVersion": "9"}}),
        look("heard all"),
        Expired(410, "old"),
    ]
    await informer.step()
    look("expired")()
    await informer.step()
    server.events = [look("open after a list")]
    await informer.step()
    assert seen == [
        ("listed", False),
        ("open", True),
        ("between", False),
        ("open again", True),
        ("cut", False),
        ("open after trouble", False),
        ("heard one", False),
        ("heard all", True),
        ("expired", False),
        ("open after a list", True),
    ]


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        pytest.param([], [("a", "3→-")], id="gone-before-the-list"),
        pytest.param([config_map("a", 4)], [("a", "3→4")], id="changed-before-the-list"),
        pytest.param([config_map("a", 3)], [], id="still-there"),
    ],
)
async def test_what_became_of_an_object_before_its_kind_was_listed_is_told(
    told: Told, listed: list[Object], expected: list[tuple[str, str]]
) -> None:
    server = Server([page(5, *listed)], [])
    informer = Informer(server, CONFIG_MAP, "here", told)
    informer.expect(config_map("a", 3))
    await informer.step()
    assert told == [("a", "-→3"), *expected]
    assert len(informer.store) == len(listed)


async def test_an_object_that_is_newer_than_the_list_is_kept_for_the_watch(told: Told) -> None:
    server = Server([page(5)], [event("DELETED", config_map("a", 9))])
    informer = Informer(server, CONFIG_MAP, "here", told)
    informer.expect(config_map("a", 7))
    await informer.step()
    assert told == [("a", "-→7")]
    # What the store has come past is known already: this one has gone meanwhile.
    informer.expect(config_map("old", 4))
    assert list(informer.store) == [ObjectKey("here", "a")]
    await informer.step()
    assert told == [("a", "-→7"), ("a", "7→-")]


async def test_a_change_that_a_run_reads_before_it_is_told_is_told_once(told: Told) -> None:
    server = Server([page(5, config_map("a", 5))], [event("MODIFIED", config_map("a", 9))])
    informer = Informer(server, CONFIG_MAP, "here", told)
    await informer.step()
    told.clear()
    # Between two watches, say.
    informer.expect(config_map("a", 9))
    await informer.step()
    assert told == [("a", "5→9"), ("a", "9→9")]


async def test_an_objects_json_is_kept_until_it_changes(told: Told) -> None:
    server = Server(
        [page(5, config_map("a", 1))], [event("MODIFIED", config_map("a", 6)), event("DELETED", config_map("a", 7))]
    )
    informer = Informer(server, CONFIG_MAP, "here", told)
    key = ObjectKey("here", "a")
    await informer.step()
    first = informer.encoded(key)
    assert first is informer.encoded(key)
    assert json.loads(first or b"") == informer.store[key]
    server.events.insert(1, lambda: versions.append(json.loads(informer.encoded(key) or b"")["metadata"]["resourceVersion"]))
    versions: list[str] = []
    await informer.step()
    assert versions == ["6"]
    assert informer.encoded(key) is None


@pytest.mark.parametrize(
    ("watched", "asked", "covered"),
    [
        ((), "here", ""),
        ((), "", ""),
        (("here", "there"), "here", "here"),
        (("here",), "elsewhere", None),
        (("here",), "", None),
    ],
)
async def test_which_store_has_all_of_a_namespace(watched: tuple[str, ...], asked: str, covered: str | None) -> None:
    async with asyncio.TaskGroup() as tasks:
        informers = Informers(Server([page(5), page(5)], []), namespaces=watched, notify=Told(), tasks=tasks)
        informers.ensure(CONFIG_MAP)
        found = informers.covering("v1", "configmaps", asked)
        assert (found and found.namespace) == covered
        assert informers.covering("v1", "secrets", asked) is None
        informers.stop()


def named(name: str) -> ObjectKey:
    return ObjectKey("here", name)


def owned(name: str, version: int) -> Object:
    """One that is kept in full by `has_owner`."""
    obj = config_map(name, version)
    return {**obj, "metadata": {**obj["metadata"], "ownerReferences": [{"name": "x"}]}}


def has_owner(obj: Object) -> bool:
    return "ownerReferences" in obj["metadata"]


async def test_of_what_nobody_owns_only_the_labels_are_kept(told: Told) -> None:
    foreign = config_map("b", 2)
    labelled = {**foreign, "data": {"x": "y"}, "metadata": {**foreign["metadata"], "labels": {"app": "z"}}}
    server = Server(
        [page(5, owned("a", 1), labelled, config_map("c", 3))],
        [
            event("MODIFIED", config_map("c", 6)),
            event("ADDED", config_map("d", 7)),
            event("DELETED", config_map("c", 8)),
            event("DELETED", config_map("unseen", 9)),
            event("DELETED", owned("a", 10)),
        ],
    )
    informer = Informer(server, CONFIG_MAP, "here", told, has_owner)
    await informer.step()
    assert (list(informer.store), informer.others) == ([named("a")], {named("b"): {"app": "z"}, named("c"): {}})
    assert informer.encoded(named("b")) is None
    await informer.step()
    assert told == [("a", "-→1"), ("a", "1→-")]
    assert (informer.store, list(informer.others)) == ({}, [named("b"), named("d")])


async def test_an_object_that_is_adopted_or_given_up_is_told(told: Told) -> None:
    class Kept(Told):
        def __call__(self, before: Object | None, after: Object | None) -> None:
            self.append((str(ObjectKey.of(after or before or {})), f"{_owned(before)}→{_owned(after)}"))

    def _owned(obj: Object | None) -> str:
        return "-" if obj is None else str(has_owner(obj))

    kept = Kept()
    server = Server(
        [page(5, config_map("a", 1), owned("b", 2)), page(20, config_map("a", 11), owned("b", 12))],
        [event("MODIFIED", owned("a", 6)), event("MODIFIED", config_map("b", 7)), Expired(410, "old")],
    )
    informer = Informer(server, CONFIG_MAP, "here", kept, has_owner)
    for _ in range(3):
        await informer.step()
    first = [("here/b", "-→True"), ("here/a", "False→True"), ("here/b", "True→False")]
    # And once more each, in the gap.
    assert kept == [*first, ("here/a", "True→False"), ("here/b", "False→True")]
    assert (list(informer.store), list(informer.others)) == ([named("b")], [named("a")])


async def test_what_nests_too_deep_is_not_kept_in_full(told: Told) -> None:
    server = Server([page(5, {**owned("a", 1), METADATA_ONLY: True}, owned("b", 1))], [])
    informer = Informer(server, CONFIG_MAP, "here", told, has_owner)
    await informer.step()
    assert (list(informer.store), list(informer.others)) == ([named("b")], [named("a")])


async def running_for(server: Server, notify: Any, condition: Callable[[Informer], bool], what: str) -> Informer:
    """An informer that has run until the condition was true of it."""
    informer = Informer(server, CONFIG_MAP, "here", notify)
    running = asyncio.create_task(informer.run())

    async def true() -> bool:
        assert not running.done(), running.exception()
        return condition(informer)

    try:
        await until(true, what)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return informer


class Endless(Server):
    """Answers every list with the same page, of `version`, and every watch with `ends`."""

    def __init__(self, ends: Exception | None, version: str) -> None:
        super().__init__([], [])
        self.ends = ends
        self.version = version

    async def get(self, path: str, params: Any = None) -> dict[str, Any]:
        await asyncio.sleep(0)
        self.pages = [{"metadata": {"resourceVersion": self.version}, "items": []}]
        return await super().get(path, params)

    async def watch(
        self, path: str, params: Any, *, opened: Callable[[], None] = lambda: None
    ) -> AsyncIterator[dict[str, Any]]:
        self.asked.append(dict(params))
        if self.ends:
            raise self.ends
        return
        yield {}


@pytest.mark.parametrize(
    ("ends", "version"),
    [
        pytest.param(None, "5", id="closed-at-once"),
        pytest.param(Expired(410, "too old"), "5", id="expired-each-time"),
        pytest.param(None, "", id="lists-without-a-version"),
    ],
)
async def test_watches_that_come_to_nothing_are_paused_between(
    ends: Exception | None, version: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("runner.kube.informer.asyncio.sleep", noted)
    server = Endless(ends, version)
    informer = Informer(server, CONFIG_MAP, "here", told)
    running = asyncio.create_task(informer.run())
    while len(pauses) < 12 and len(server.asked) < 1000:
        await sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    # The first one is free; each list and watch after it costs a pause, and these grow.
    assert len(server.asked) <= 2 * len(pauses) + 4
    assert len(pauses) == 12
    assert pauses[-1] > 20


async def test_a_quiet_watch_is_renewed_without_a_word(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "runner.kube.informer")
    server = Server([page(5)], [Silent("quiet")])
    informer = Informer(server, CONFIG_MAP, "here", told)
    await informer.step()
    await informer.step()
    await informer.step()
    assert [asked.get("resourceVersion") for asked in server.asked] == [None, "5", "5"]
    assert not caplog.records


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError("deep"), TypeError("unhashable")], ids=repr)
async def test_one_objects_trouble_is_told_once_and_concerns_no_other(
    error: Exception, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    def notify(before: Object | None, after: Object | None) -> None:
        if ((after or before or {})["metadata"]["name"]).startswith("bad"):
            raise error
        told(before, after)

    items = [config_map("bad", 1), config_map("good", 2), config_map("bad-too", 3), {"metadata": None}, {}, None, [], "x"]
    events = [
        event("MODIFIED", config_map("bad", 6)),
        {"type": "ADDED", "object": {}},
        {"type": "ADDED", "object": {"metadata": 7}},
        event("MODIFIED", config_map("good", 7)),
    ]
    server = Server([page(5, *items)], events)  # type: ignore[arg-type]
    informer = Informer(server, CONFIG_MAP, "here", notify)
    await informer.step()
    await informer.step()
    assert told == [("good", "-→2"), ("good", "2→7")]
    messages = [record.getMessage() for record in caplog.records if type(error).__name__ in record.error]  # type: ignore[attr-defined]
    assert messages == ["An object was passed over"]


async def test_the_unexpected_is_trouble_and_not_the_end(
    told: Told, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("runner.kube.informer._FIRST_DELAY", 0.001)

    class Odd(Server):
        async def get(self, path: str, params: Any = None) -> dict[str, Any]:
            if len(self.pages) > 1:
                self.pages.pop()
                raise KeyError("metadata")
            return await super().get(path, params)

    server = Odd([page(5), page(5), page(5)], [])
    await running_for(server, told, lambda informer: informer.synced.is_set(), "it goes on")
    assert [record.levelname for record in caplog.records if record.levelno > 20] == ["ERROR"]


async def test_after_a_backup_was_restored_the_list_is_believed(told: Told) -> None:
    server = Server(
        [page(50, config_map("gone", 40), config_map("back", 41)), page(20, config_map("back", 11))],
        [event("BOOKMARK", {"metadata": {"resourceVersion": "21"}})],
    )
    informer = Informer(server, CONFIG_MAP, "here", told)
    for _ in range(3):
        await informer.step()
    assert sorted(told[2:]) == [("back", "41→11"), ("gone", "40→-")]
    assert informer.version == "20"


async def test_a_kind_that_is_not_served_for_a_moment_has_not_lost_its_objects(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.kube.informer._FIRST_DELAY", 0.001)

    class HalfStarted(Server):
        left = 1

        async def get(self, path: str, params: Any = None) -> dict[str, Any]:
            if len(self.asked) > 1 and self.left:
                self.left -= 1
                raise NotFound(404, "not yet")
            return await super().get(path, params)

    server = HalfStarted([page(5, config_map("a", 1)), page(6, config_map("a", 1))], [Expired(410, "old")])
    await running_for(server, told, lambda informer: informer.version == "6", "it is listed again")
    assert told == [("a", "-→1")]
    server = HalfStarted([page(5, config_map("a", 1)), page(6)], [Expired(410, "old")])
    server.left = 10**6
    await running_for(server, told, lambda informer: not informer.store and len(told) == 3, "the kind is gone")
    assert told[1:] == [("a", "-→1"), ("a", "1→-")]
