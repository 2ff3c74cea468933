"""What runs have seen and watches have not yet reported."""

from __future__ import annotations

from typing import Any

import pytest

from runner.kube import awaited as module
from runner.kube.awaited import Awaited
from runner.kube.client import ApiClient, NotFound, Refused
from runner.kube.discovery import Resource
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey
from runner.resource.sharding import Shard

CONFIG_MAP = Resource(GroupVersionKind("", "v1", "ConfigMap"), "configmaps", True)
SHARD = Shard("ring", "one")
KEY = ObjectKey("here", "x")


def config_map(version: str, color: str = "blue", *, shard: str = "", **labels: str) -> dict[str, Any]:
    labels = {**labels, **({SHARD.label: shard} if shard else {})}
    metadata: dict[str, Any] = {"name": "x", "namespace": "here", "resourceVersion": version}
    return {"metadata": {**metadata, **({"labels": labels} if labels else {})}, "data": {"color": color}}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def changed(before: Object | None, after: Object | None) -> list[str]:
    """The parts that differ, except for the version."""
    found = []
    for part in ("labels", "color"):
        values = [
            obj and (obj["metadata"].get("labels") if part == "labels" else obj["data"]["color"]) for obj in (before, after)
        ]
        if values[0] != values[1]:
            found.append(part)
    return found


@pytest.mark.parametrize(
    ("seen", "come", "expected"),
    [
        (config_map("5"), config_map("6", shard="one"), []),
        (config_map("5", app="x"), config_map("6", shard="one", app="x"), []),
        (config_map("5", shard="two"), config_map("6", shard="one"), []),
        (config_map("5", shard="two"), config_map("7", "red", shard="one"), ["color"]),
        (config_map("5", app="x"), config_map("7", shard="one"), ["labels"]),
        (config_map("5"), config_map("5", shard="one"), []),
        # Of what the run itself has written since.
        (config_map("7", "red"), config_map("6", shard="one"), []),
        (config_map("odd"), config_map("odder", "red", shard="one"), ["color"]),
    ],
    ids=[
        "labelled",
        "labelled besides",
        "moved",
        "moved and changed",
        "moved and another label gone",
        "as it was",
        "older",
        "without numbers",
    ],
)
def test_that_the_label_has_come_is_no_change(seen: dict[str, Any], come: dict[str, Any], expected: list[str]) -> None:
    awaited = Awaited(SHARD.selector)
    awaited.add(KEY, seen)
    assert changed(awaited.pop(KEY, come), come) == expected
    assert awaited.pop(KEY, come) is None


def test_the_latest_state_that_was_seen_counts() -> None:
    awaited = Awaited(SHARD.selector)
    for version, color in (("5", "blue"), ("9", "red"), ("7", "green")):
        awaited.add(KEY, config_map(version, color))
    come = config_map("10", "red", shard="one")
    assert changed(awaited.pop(KEY, come), come) == []


class Server(ApiClient):
    def __init__(self, *answers: dict[str, Any] | None) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def get(self, path: str, params: Any = None) -> dict[str, Any]:
        self.asked.append(path)
        answer = self.answers.pop(0)
        if answer is None:
            raise NotFound(404, "gone")
        return answer


async def test_what_does_not_come_is_asked_for(clock: list[float]) -> None:
    awaited = Awaited(SHARD.selector)
    awaited.add(KEY, config_map("5"))
    told: list[list[str] | None] = []

    def notify(before: Object | None, after: Object | None) -> None:
        told.append(None if after is None else changed(before, after))

    server = Server(config_map("5"), config_map("7", "red"), config_map("8", "red", shard="two"), None)
    await awaited.ask(server, CONFIG_MAP, notify)
    assert server.asked == []
    clock[0] += 11
    for _ in range(4):
        await awaited.ask(server, CONFIG_MAP, notify)
        await awaited.ask(server, CONFIG_MAP, notify)
        # Ever more seldom.
        clock[0] += 161
    assert server.asked == ["/api/v1/namespaces/here/configmaps/x"] * 4
    assert told == [["color"], [], None]
    # It is gone.
    await awaited.ask(server, CONFIG_MAP, notify)


def test_what_does_not_get_its_label_in_minutes_will_not(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    awaited = Awaited(SHARD.selector)
    awaited.add(KEY, config_map("5"))
    clock[0] += 299
    awaited.add(KEY, config_map("6"))
    assert awaited.overdue() is None
    clock[0] += 2
    assert awaited.overdue() == KEY
    monkeypatch.setattr(module, "_GIVEN_UP_AFTER", 1000)
    assert awaited.overdue() is None
    monkeypatch.setattr(module, "_MOST", 0)
    assert awaited.overdue() == KEY


@pytest.mark.parametrize("shard", ["one", "two"], ids=["this", "another"])
def test_what_has_got_a_label_is_given_up_after_minutes_and_its_kind_not_watched_whole(
    clock: list[float], shard: str
) -> None:
    awaited = Awaited(SHARD.selector)
    awaited.add(KEY, config_map("5", shard=shard))
    clock[0] += 299
    assert awaited.overdue() is None
    assert [key for key, _ in awaited] == [KEY]
    clock[0] += 2
    assert awaited.overdue() is None
    assert not list(awaited)


async def test_one_that_may_not_be_read_is_in_the_way_of_no_other(clock: list[float]) -> None:
    class Refusing(Server):
        async def get(self, path: str, params: Any = None) -> dict[str, Any]:
            if path.endswith("/x"):
                raise Refused(403, "no")
            return await super().get(path, params)

    awaited, told = Awaited(SHARD.selector), 0

    def notify(before: Object | None, after: Object | None) -> None:
        nonlocal told
        told += after is None

    for key in (KEY, ObjectKey("here", "y")):
        awaited.add(key, config_map("5"))
    clock[0] += 11
    await awaited.ask(Refusing(None), CONFIG_MAP, notify)
    assert told == 1
    clock[0] += 300
    assert awaited.overdue() == KEY
