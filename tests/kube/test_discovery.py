"""What is made of discovery documents, and for how long it counts."""

from __future__ import annotations

from typing import Any

import pytest

from runner.kube import discovery as module
from runner.kube.client import ApiClient, KubeError, NotFound, Unreachable
from runner.kube.discovery import Discovery
from runner.resource.metadata import GroupVersionKind

THING = GroupVersionKind("example.com", "v1", "Thing")
ENTRY = {"name": "things", "kind": "Thing", "namespaced": True, "verbs": ["get", "list", "watch"]}
STATUS = {"name": "things/status", "kind": "Thing", "namespaced": True, "verbs": ["get"]}


class Server(ApiClient):
    """Answers with `resources`, or raises it."""

    def __init__(self, resources: Any) -> None:
        self.resources = resources
        self.asked = 0

    async def get(self, path: str, params: Any = None) -> dict[str, Any]:
        self.asked += 1
        if isinstance(self.resources, KubeError):
            raise self.resources
        return {"resources": self.resources}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


async def test_a_crd_that_has_got_a_status_is_seen_to_have_one(clock: list[float]) -> None:
    server = Server([ENTRY])
    discovery = Discovery(server)
    found = await discovery.by_kind(THING)
    assert found is not None
    assert not found.has_status
    server.resources = [ENTRY, STATUS]
    assert await discovery.by_kind(THING) is found
    clock[0] += 61
    for _ in range(2):
        found = await discovery.by_kind(THING)
        assert found is not None
        assert found.has_status
    assert server.asked == 2


@pytest.mark.parametrize("error", [Unreachable("away"), NotFound(404, "half-started")], ids=["away", "not-there-yet"])
async def test_what_is_known_counts_while_the_server_does_not_say_otherwise(clock: list[float], error: KubeError) -> None:
    server = Server([ENTRY])
    discovery = Discovery(server)
    found = await discovery.by_plural("example.com/v1", "things")
    server.resources = error
    clock[0] += 61
    assert await discovery.by_plural("example.com/v1", "things") is found
    discovery.forget(THING)
    if isinstance(error, NotFound):
        assert await discovery.by_plural("example.com/v1", "things") is None
    else:
        with pytest.raises(Unreachable):
            await discovery.by_plural("example.com/v1", "things")


@pytest.mark.parametrize(
    "odd",
    [None, "x", 7, {}, [None], [[]], [{}], [{"name": 1, "kind": "Thing"}], [{"name": "things", "kind": "T", "verbs": 7}]],
    ids=str,
)
async def test_what_is_no_entry_is_passed_over(odd: Any) -> None:
    assert await Discovery(Server(odd)).by_kind(THING) is None
    if isinstance(odd, list):
        found = await Discovery(Server([*odd, {**ENTRY, "verbs": ["get", 7, None]}, STATUS])).by_kind(THING)
        assert found is not None
        assert (found.verbs, found.has_status) == ({"get"}, True)
