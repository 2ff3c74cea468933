"""What is read of a ControllerRing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bench.driver import until
from runner.kube import controller_ring
from runner.kube.client import ApiClient, KubeError, NotFound, Refused, Unreachable
from runner.kube.controller_ring import ControllerRing, listed
from runner.kube.discovery import Discovery, Resource
from runner.resource.metadata import GroupVersionKind

THING = Resource(GroupVersionKind("example.com", "v1", "Thing"), "things", True)
OTHER = Resource(GroupVersionKind("example.com", "v1", "Other"), "others", True)
DEPLOYMENT = Resource(GroupVersionKind("apps", "v1", "Deployment"), "deployments", True)
CONFIG_MAP = Resource(GroupVersionKind("", "v1", "ConfigMap"), "configmaps", True)


def ring(*resources: Any) -> dict[str, Any]:
    return {"spec": {"resources": [*resources]}}


THINGS = {"group": "example.com", "resource": "things"}
CONFIG_MAPS = {"group": "", "resource": "configmaps"}


class Server(ApiClient):
    """Answers each GET of the ring with the next of `answers`, and then with the last of them."""

    def __init__(self, *answers: dict[str, Any] | KubeError) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def get(self, path: str, params: Any = None) -> dict[str, Any]:
        self.asked.append(path)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, KubeError):
            raise answer
        return answer


class Known(Discovery):
    async def by_kind(self, gvk: GroupVersionKind) -> Resource | None:
        return next((some for some in (THING, OTHER) if some.gvk == gvk), None)


def reading(server: Server, *kinds: Resource) -> ControllerRing:
    return ControllerRing(server, Known(server), "operator", kinds=[kind.gvk for kind in kinds])


async def test_a_ring_says_which_kinds_are_labelled_with_their_controllers() -> None:
    server = Server(
        ring(
            {**THINGS, "controlledResources": [CONFIG_MAPS, {"group": "apps", "resource": "deployments"}]},
            # The sharder goes by what is listed first as a main kind.
            {"group": "example.com", "resource": "others", "controlledResources": [THINGS]},
        )
    )
    found = reading(server, THING, OTHER)
    assert not found.controls(CONFIG_MAP)
    await found.look()
    assert server.asked == ["/apis/sharding.timebertt.dev/v1alpha1/controllerrings/operator"]
    assert [found.controls(kind) for kind in (CONFIG_MAP, DEPLOYMENT, THING, OTHER)] == [True, True, False, False]


@pytest.mark.parametrize(
    "odd",
    [
        None,
        "text",
        5,
        ["a"],
        {"a": "b"},
        [None],
        [["a"]],
        [{"group": 5, "resource": "x"}],
        [{"group": "x"}],
        [{"resource": []}],
    ],
    ids=repr,
)
def test_a_ring_may_say_anything(odd: Any) -> None:
    for some in ({"spec": odd}, {"spec": {"resources": odd}}):
        assert listed(some) == (frozenset(), frozenset())
    assert listed(ring({**THINGS, "controlledResources": odd})) == ({("example.com", "things")}, frozenset())


def test_the_core_group_may_be_left_out() -> None:
    assert listed(ring({**THINGS, "controlledResources": [{"resource": "configmaps"}]}))[1] == {("", "configmaps")}


@pytest.mark.parametrize(
    ("error", "level", "says", "still"),
    [
        (NotFound(404, "no"), "WARNING", "create the ControllerRing", False),
        (Refused(403, "may not get"), "WARNING", "let the ServiceAccount get controllerrings", True),
        (Unreachable("away"), "INFO", "", True),
    ],
    ids=["not there", "refused", "away"],
)
async def test_what_was_known_counts_unless_the_ring_is_gone(
    error: KubeError, level: str, says: str, still: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "runner.kube.controller_ring")
    good = ring({**THINGS, "controlledResources": [CONFIG_MAPS]})
    found = reading(Server(good, error, error, good, error), THING)
    await found.look()
    assert not caplog.records
    for _ in range(2):
        await found.look()
        assert found.controls(CONFIG_MAP) is still
    (record,) = caplog.records
    assert record.levelname == level
    assert says in record.__dict__.get("remedy", "")
    for _ in range(2):
        await found.look()
    # Trouble that comes back is told again.
    assert len(caplog.records) == 2


async def test_a_kind_that_gets_no_shard_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    found = reading(Server(ring(THINGS)), THING, OTHER, DEPLOYMENT)
    for _ in range(2):
        await found.look()
    (record,) = caplog.records
    assert (record.__dict__["kind"], record.__dict__["remedy"]) == ("Other", "list others in the ring's resources")


async def test_a_ring_that_changes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_ring, "_LOOK_AGAIN", 0.001)
    full = ring({**THINGS, "controlledResources": [CONFIG_MAPS]})
    server = Server(full, full, full, ring(THINGS))
    found, seen = reading(server, THING), list[bool]()
    await found.look()
    following = asyncio.create_task(found.follow(lambda: seen.append(found.controls(CONFIG_MAP))))

    async def looked_on() -> bool:
        return len(server.asked) > 6

    await until(looked_on, "it is read again")
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert seen == [False]


@pytest.mark.parametrize(
    ("answer", "asked"),
    [(Unreachable("no answer"), 3), (NotFound(404, "gone"), 1), (Refused(403, "no"), 1)],
    ids=["no answer", "no ring", "no right"],
)
async def test_at_the_start_an_answer_is_waited_for(answer: KubeError, asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_ring, "_FIRST_PAUSE", 0.001)
    server = Server(answer, answer, ring({**THINGS, "controlledResources": [CONFIG_MAPS]}))
    found = reading(server, THING)
    await found.first_look()
    assert (len(server.asked), found.controls(CONFIG_MAP)) == (asked, asked == 3)


async def test_the_start_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_ring, "_FIRST_PAUSE", 0.0001)
    server = Server(Unreachable("no answer"))
    await reading(server, THING).first_look()
    assert len(server.asked) == controller_ring._TRIES
