"""The store of what roles made, through gaps and ends of its watch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bench.driver import until
from runner.kube.client import ApiClient, ApiError, Expired, NotReady, Unreachable
from runner.kube.discovery import Resource
from runner.kube.informer import Informer, Informers
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
