"""The store of what roles made, through gaps and ends of its watch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bench.driver import until
from runner.control.handlers import dependent_changed
from runner.control.own_writes import VersionChange
from runner.kube.client import ApiClient, ApiError, Expired, NotFound, NotReady, Silent, Unreachable
from runner.kube.discovery import Resource
from runner.kube.informer import Informer, Informers
from runner.kube.nesting import METADATA_ONLY
from runner.resource.metadata import GroupKind, GroupVersionKind, Object, ObjectKey, Owner
from runner.resource.selectors import EVERYTHING, label_selector
from runner.resource.sharding import Shard

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
        informers.watch(CONFIG_MAP)
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
    # However slow the machine is, none was open for long.
    monkeypatch.setattr("runner.kube.informer._SHORT", 1e9)
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


SHARD = Shard("ring", "one")
OWNER = Owner(GroupVersionKind("example.com", "v1", "Thing"), ObjectKey("here", "cr"), "uid-1")


def dependent(name: str, version: int, color: str = "blue", *, shard: str = "one", controller: bool = True) -> Object:
    obj = config_map(name, version)
    labels = {"labels": {SHARD.label: shard}} if shard else {}
    references = {"ownerReferences": [OWNER.reference(controller=controller)]}
    metadata = {**obj["metadata"], "uid": name, **labels, **references}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"color": color}}


class Requeued(list[str]):
    """What a CR is requeued for: the changes of dependents, those of its own runs as well."""

    def __call__(self, before: Object | None, after: Object | None) -> None:
        if dependent_changed(before, after):
            change = VersionChange.between(before, after)
            self.append(f"{change.uid} {change.before or '-'}→{change.version or '-'}")


@pytest.fixture
def requeued() -> Requeued:
    return Requeued()


def sharded(server: Server, notify: Any) -> Informer:
    return Informer(server, CONFIG_MAP, "here", notify, selector=SHARD.selector)


async def test_a_shard_lists_and_watches_by_its_label(requeued: Requeued) -> None:
    server = Server([page(5, more="next"), page(5)], [])
    informer = sharded(server, requeued)
    await informer.step()
    await informer.step()
    assert [asked["labelSelector"] for asked in server.asked] == [f"{SHARD.label} in (one)"] * 3
    assert server.asked[1]["continue"] == "next"


async def test_what_comes_from_another_shard_may_have_changed(requeued: Requeued) -> None:
    server = Server(
        [page(5, dependent("listed", 1)), page(20, dependent("listed", 1), dependent("late", 12))],
        [
            event("ADDED", dependent("come", 6)),
            event("DELETED", dependent("come", 7)),
            event("ADDED", dependent("come", 8)),
            Expired(410, "old"),
        ],
    )
    informer = sharded(server, requeued)
    for _ in range(3):
        await informer.step()
    # And what a gap hid. `OwnWrites` knows creations of the CR's own runs by the same change.
    assert requeued == ["come -→6", "come 6→-", "come -→8", "late -→12", "come 8→-"]


@pytest.mark.parametrize(
    ("come", "expected"),
    [
        (dependent("a", 6), []),
        (dependent("a", 7, "red"), ["a 4→7"]),
        # A creation of the run's own comes with its answer, or before.
        (dependent("a", 4), []),
    ],
    ids=["labelled", "changed and labelled", "as it was"],
)
@pytest.mark.parametrize("synced", [True, False], ids=["later", "with the first list"])
async def test_what_a_run_has_seen_is_compared_when_it_comes(
    come: Object, expected: list[str], synced: bool, requeued: Requeued
) -> None:
    server = Server([page(5)] if synced else [page(8, come)], [event("ADDED", come)] if synced else [])
    informer = sharded(server, requeued)
    if synced:
        await informer.step()
    informer.expect(dependent("a", 4, shard="two"))
    assert not informer.store
    await informer.step()
    assert (list(informer.store), requeued) == ([named("a")], expected)


async def test_a_store_that_is_widened_keeps_what_it_has_and_what_was_seen(requeued: Requeued) -> None:
    server = Server(
        [
            page(5, dependent("a", 1), dependent("b", 2)),
            page(20, dependent("a", 11, "red"), dependent("c", 4, shard=""), dependent("e", 9)),
        ],
        [],
    )
    informer = sharded(server, requeued)
    await informer.step()
    for name in ("c", "d"):
        informer.expect(dependent(name, 4, shard=""))
    informer.widen()
    assert (informer.fresh, informer.version, requeued) == (False, "", [])
    await informer.step()
    await informer.step()
    assert all("labelSelector" not in asked for asked in server.asked[1:])
    assert (len(server.asked), sorted(informer.store)) == (3, [named("a"), named("c"), named("e")])
    # Nothing says that `e` has changed: no run of this shard has seen it without its label.
    assert sorted(requeued) == ["a 1→11", "b 2→-", "d 4→-"]


class Quiet(Server):
    """Has these objects, as far as a selector selects them, and watches in which nothing happens."""

    def __init__(self, *objects: Object) -> None:
        super().__init__([], [])
        self.objects = objects

    async def get(self, path: str, params: Any = None) -> dict[str, Any]:
        self.asked.append(dict(params or {}))
        if path.endswith("/configmaps"):
            selected = [obj for obj in self.objects if not params.get("labelSelector") or SHARD.selector.matches(obj)]
            return {**page(5, *selected), "kind": "ConfigMapList"}
        for obj in self.objects:
            if path.endswith(f"/{obj['metadata']['name']}"):
                return dict(obj)
        raise NotFound(404, "gone")

    async def watch(
        self, path: str, params: Any, *, opened: Callable[[], None] = lambda: None
    ) -> AsyncIterator[dict[str, Any]]:
        opened()
        await asyncio.Event().wait()
        yield {}


@asynccontextmanager
async def informing(server: Server, notify: Any, *labelled: Resource) -> AsyncIterator[tuple[Informers, list[Resource]]]:
    """A shard's informers, and the kinds that have its label."""
    known = list(labelled)
    async with asyncio.TaskGroup() as tasks:
        informers = Informers(
            server,
            namespaces=(),
            notify=notify,
            selector=SHARD.selector,
            is_labelled=lambda resource: resource in known,
            tasks=tasks,
        )
        yield informers, known
        informers.stop()


def found(informers: Informers) -> Informer:
    informer = informers.covering("v1", "configmaps", "here")
    assert informer is not None
    return informer


async def fresh(informers: Informers) -> Informer:
    async def is_fresh() -> bool:
        return found(informers).fresh

    await until(is_fresh, "it is fresh")
    return found(informers)


ELSEWHERE = dependent("a", 1, shard="")
ELSEWHERE["metadata"]["namespace"] = "there"


@pytest.mark.parametrize(
    ("labelled", "seen", "whole"),
    [
        (False, dependent("a", 1), True),
        (True, dependent("a", 1), False),
        (True, dependent("a", 1, controller=False), False),
        (True, dependent("a", 1, shard="two"), False),
        (True, dependent("a", 1, shard=""), False),
        (True, dependent("a", 1, shard="", controller=False), True),
        (True, dependent("a", 1, shard="two", controller=False), True),
        (True, ELSEWHERE, True),
    ],
    ids=[
        "of a kind without labels",
        "assigned",
        "labelled by the role",
        "about to be moved",
        "about to be assigned",
        "made before sharding",
        "labelled by the role, and its CR moved",
        "assigned by another namespace",
    ],
)
async def test_a_kind_is_watched_by_label_as_long_as_nothing_is_missed_by_it(
    labelled: bool, seen: Object, whole: bool, requeued: Requeued, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "runner.kube.informer")
    server = Quiet(dependent("b", 1))
    async with informing(server, requeued, *([CONFIG_MAP] if labelled else [])) as (informers, _):
        informers.ensure(CONFIG_MAP, dependent("b", 1), OWNER)
        await fresh(informers)
        for _ in range(2):
            informers.ensure(CONFIG_MAP, seen, OWNER)
        informer = await fresh(informers)
        assert (informer.selector == EVERYTHING) is whole
        assert ("labelSelector" not in server.asked[-1]) is whole
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["Watching dependents", *["Dependents are watched whole from now on"] * (labelled and whole)]


async def test_an_object_whose_kind_is_watched_whole_for_it_is_not_lost(requeued: Requeued) -> None:
    server = Quiet(dependent("b", 1))
    async with informing(server, requeued, CONFIG_MAP) as (informers, _):
        informers.ensure(CONFIG_MAP, dependent("b", 1), OWNER)
        await fresh(informers)
        # Gone, or changed, before its kind is listed again.
        informers.ensure(CONFIG_MAP, dependent("a", 4, shard="", controller=False), OWNER)
        await fresh(informers)
    assert requeued == ["a 4→-"]


async def test_a_kind_that_is_labelled_no_more_is_watched_whole(requeued: Requeued) -> None:
    async with informing(Quiet(dependent("a", 1)), requeued, CONFIG_MAP) as (informers, labelled):
        informers.ensure(CONFIG_MAP, dependent("a", 1), OWNER)
        informers.select_again()
        assert found(informers).selector == SHARD.selector
        labelled.clear()
        informers.select_again()
        assert (await fresh(informers)).selector == EVERYTHING
        labelled.append(CONFIG_MAP)
        # What was made meanwhile has no label.
        informers.select_again()
        informers.ensure(CONFIG_MAP, dependent("a", 1), OWNER)
        assert found(informers).selector == EVERYTHING
    assert requeued == []


async def test_a_related_kind_is_watched_by_its_selector_until_dependents_are_of_it(requeued: Requeued) -> None:
    selector = label_selector("app=x")
    assert selector is not None
    async with informing(Quiet(), requeued, CONFIG_MAP) as (informers, _):
        informers.watch(CONFIG_MAP, selector)
        informers.select_again()
        assert found(informers).selector == selector
        informers.ensure(CONFIG_MAP, dependent("a", 1), OWNER)
        assert found(informers).selector == EVERYTHING


async def test_what_does_not_get_its_label_is_asked_for_and_then_watched(
    requeued: Requeued, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("runner.kube.awaited.monotonic", lambda: now[0])
    monkeypatch.setattr("runner.kube.informer._LOOK_AGAIN", 0.001)
    server = Quiet(dependent("a", 9, "red", shard=""))
    async with informing(server, requeued, CONFIG_MAP) as (informers, _):
        asking = asyncio.create_task(informers.ask_for_awaited())
        for name in ("a", "b"):
            informers.ensure(CONFIG_MAP, dependent(name, 4, shard=""), OWNER)
        informer = await fresh(informers)
        now[0] += 11

        async def told() -> bool:
            return len(requeued) == 2

        await until(told, "it is told")
        assert sorted(requeued) == ["a 4→9", "b 4→-"]
        assert informer.selector == SHARD.selector
        now[0] += 300

        async def whole() -> bool:
            return informer.selector == EVERYTHING

        await until(whole, "it is watched whole")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await fresh(informers)
    assert len(requeued) == 2


def owned_by(name: str, *uids: str, namespace: str = "here", **annotations: str) -> Object:
    references = [{"uid": uid} for uid in uids]
    metadata = {"name": name, "namespace": namespace, "uid": name, "ownerReferences": references, "annotations": annotations}
    return {"metadata": {**metadata, "resourceVersion": "1"}}


async def dependents(*objects: Object, namespace: str = "here", most: int = 100) -> list[str]:
    """The names of what `owner` of a kind and its dependents own, in the order in which they are found."""
    async with asyncio.TaskGroup() as tasks:
        informers = Informers(Server([page(5, *objects)], []), namespaces=(), notify=Told(), tasks=tasks)
        informers.watch(CONFIG_MAP)
        informer = informers.covering("v1", "configmaps", "")
        assert informer
        await informer.synced.wait()
        found = await informers.dependents("uid", GroupKind("g", "Kind"), ObjectKey(namespace, "owner"), most)
        informers.stop()
        return [obj["metadata"]["name"] for obj in found]


async def test_dependents_are_found_by_reference_level_by_level() -> None:
    objects = [owned_by("grandchild", "child"), owned_by("child", "other", "uid"), owned_by("stranger", "other")]
    assert await dependents(*objects) == ["child", "grandchild"]
    assert await dependents(*objects, most=1) == ["child"]


async def test_dependents_may_own_each_other() -> None:
    assert await dependents(owned_by("one", "uid", "two"), owned_by("two", "one"), owned_by("self", "self")) == [
        "one",
        "two",
    ]


async def test_dependents_elsewhere_are_found_by_annotation_alone() -> None:
    marks = {"operator-sdk/primary-resource": "here/owner", "operator-sdk/primary-resource-type": "Kind.g"}
    others = {**marks, "operator-sdk/primary-resource": "there/owner"}
    elsewhere = [owned_by("forged", "uid", namespace="there"), owned_by("another's", namespace="there", **others)]
    assert await dependents(*elsewhere, owned_by("marked", namespace="there", **marks)) == ["marked"]
    # A cluster-scoped owner may own by reference anywhere.
    assert await dependents(elsewhere[0], namespace="") == ["forged"]
