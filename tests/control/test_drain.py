"""CRs that are let go to another shard, against an API server that does what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from bench.driver import until
from runner.config.watches import Watch
from runner.control import Priority, Request
from runner.control.drain import Drainer
from runner.control.handlers import Handlers
from runner.control.workqueue import WorkQueue
from runner.kube.backoff import Backoff
from runner.kube.client import ApiClient, Conflict, KubeError, NotFound, Unreachable
from runner.kube.discovery import Discovery, Resource
from runner.resource.metadata import GroupVersionKind, Object
from runner.resource.sharding import Shard
from tests.control.test_workqueue import A, idle

SHARD = Shard("ring", "one")
MINE, DRAIN = {SHARD.label: "one"}, {SHARD.drain_label: "true"}
RESOURCE = Resource(A.watch.gvk, "things", namespaced=True, verbs=frozenset({"get", "patch"}), subresources=frozenset())


def cr(version: int = 1, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": "a", "namespace": "default", "resourceVersion": str(version), "uid": "u", "labels": labels}}


class Server(ApiClient):
    """Keeps one CR. `errors` are raised by the next requests, and `assigns` changes the labels of each write."""

    def __init__(self, obj: dict[str, Any] | None) -> None:
        self.obj = obj
        self.errors: list[KubeError] = []
        self.assigns: Callable[[dict[str, str]], None] = lambda labels: None
        self.patched = 0
        # Patches that are answered by something else than the CR.
        self.odd_answers = 0

    async def get(self, path: str, params: Any = None) -> dict[str, Any]:
        if self.errors:
            raise self.errors.pop(0)
        if self.obj is None:
            raise NotFound(404, 'things "a" not found')
        return self.obj

    async def patch(self, path: str, body: Any, params: Any = None) -> dict[str, Any]:
        obj = await self.get(path)
        if body["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
            raise Conflict(409, "the object has been modified")
        labels = {**obj["metadata"]["labels"], **body["metadata"]["labels"]}
        labels = {name: value for name, value in labels.items() if value is not None}
        self.assigns(labels)
        self.patched += 1
        self.obj = cr(int(obj["metadata"]["resourceVersion"]) + 1, **labels)
        if self.odd_answers:
            self.odd_answers -= 1
            return {"kind": "Status"}
        return self.obj


class FakeDiscovery:
    """`answers` come before the usual one."""

    def __init__(self) -> None:
        self.answers: list[Resource | None] = []
        self.asked = 0

    async def by_kind(self, gvk: GroupVersionKind) -> Resource | None:
        self.asked += 1
        return self.answers.pop(0) if self.answers else RESOURCE


class Draining:
    """A drainer at work, its queue, and what it has delivered and ended."""

    def __init__(self, server: Server, grace: float = 30.0) -> None:
        self.server = server
        self.queue = WorkQueue(2)
        self.delivered: list[Object] = []
        self.ended: list[Request] = []
        self.forgotten: list[Request] = []
        self.discovery = FakeDiscovery()
        self.error: Exception | None = None
        self.drainer = Drainer(server, cast(Discovery, self.discovery), SHARD, queue=self.queue, grace=grace)

    @classmethod
    @asynccontextmanager
    async def at_work(cls, server: Server, grace: float = 30.0) -> AsyncIterator[Draining]:
        self = cls(server, grace)
        running = asyncio.create_task(self.drainer.run(self._end, self._deliver, self.forgotten.append))
        try:
            yield self
        finally:
            running.cancel()
            await asyncio.wait({running})
            self.queue.close()

    def takes(self, obj: dict[str, Any], event: str | None = "MODIFIED") -> bool:
        return self.drainer.takes(A, event, obj)

    async def is_over(self) -> None:
        async def over() -> bool:
            return not self.drainer._draining

        await until(over, "the CR is let go")

    def _end(self, request: Request) -> None:
        self.ended.append(request)
        self.queue.done(request)

    def _deliver(self, watch: Watch, event: str | None, obj: Object) -> None:
        if self.error:
            raise self.error
        assert self.drainer.takes(A, event, obj) is None
        self.delivered.append(obj)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "next", lambda self: 0.0)


async def test_a_cr_is_let_go_by_one_patch_and_its_old_events_are_taken() -> None:
    drained = cr(7, **MINE, **DRAIN, of="test")
    async with Draining.at_work(Server(drained)) as draining:
        assert not draining.takes(cr(6, **MINE))
        draining.queue.add(A, Priority.CHANGE)
        assert draining.takes(drained)
        assert await idle(draining.queue)
        await draining.is_over()
        assert draining.server.obj == cr(8, of="test")
        assert draining.server.patched == 1
        # What the watch delivers late was before.
        assert draining.takes(cr(7, **MINE))
        assert await idle(draining.queue)
        assert (draining.delivered, draining.forgotten) == ([], [A])
        # It may come back.
        assert not draining.takes(cr(9, **MINE))
        draining.queue.add(A, Priority.CHANGE)
        assert await draining.queue.get() == A


async def test_it_left_and_its_deletion_from_the_watch_is_no_event_of_the_drain() -> None:
    drained = cr(7, **MINE, **DRAIN)
    async with Draining.at_work(Server(drained)) as draining:
        assert draining.takes(drained)
        await draining.is_over()
        assert not draining.takes(cr(8), "DELETED")
        assert not draining.takes(cr(7, **MINE), "ADDED")
        assert not draining.drainer._settled


async def test_the_run_that_is_on_is_waited_for() -> None:
    drained = cr(7, **MINE, **DRAIN)
    async with Draining.at_work(Server(drained)) as draining:
        draining.queue.add(A, Priority.CHANGE)
        assert await draining.queue.get() == A
        assert draining.takes(drained)
        # What the run writes on its CR meanwhile is in the way of nothing.
        draining.server.obj = cr(9, **MINE, **DRAIN)
        assert draining.takes(draining.server.obj)
        await asyncio.sleep(0)
        assert draining.server.patched == 0
        draining.queue.done(A)
        await draining.is_over()
        assert (draining.server.obj, draining.ended) == (cr(10), [])


async def test_the_run_is_ended_after_its_grace() -> None:
    drained = cr(7, **MINE, **DRAIN)
    async with Draining.at_work(Server(drained), grace=0.01) as draining:
        draining.queue.add(A, Priority.CHANGE)
        assert await draining.queue.get() == A
        assert draining.takes(drained)
        await draining.is_over()
        assert (draining.server.obj, draining.ended) == (cr(8), [A])


@pytest.mark.parametrize(
    "error",
    [Conflict(409, "modified"), Unreachable("no answer"), NotFound(404, "404 page not found"), KubeError("odd")],
    ids=["conflict", "no answer", "not served", "another"],
)
async def test_an_error_is_waited_out(error: KubeError) -> None:
    drained = cr(7, **MINE, **DRAIN)
    server = Server(drained)
    server.errors = [error, error]
    async with Draining.at_work(server) as draining:
        assert draining.takes(drained)
        await draining.is_over()
        assert server.obj == cr(8)


async def test_a_cr_that_is_assigned_to_this_shard_again_stays() -> None:
    drained = cr(7, **MINE, **DRAIN)
    server = Server(drained)
    server.assigns = lambda labels: labels.update(MINE)
    async with Draining.at_work(server) as draining:
        assert draining.takes(drained)
        await draining.is_over()
        assert draining.delivered == [cr(8, **MINE)]
        # What was before is late, and drains nothing any more.
        assert draining.takes(drained)
        await draining.is_over()
        assert await idle(draining.queue)
        assert server.patched == 1
        assert not draining.takes(cr(9, **MINE))


async def test_a_drain_that_is_called_off_ends_and_the_cr_stays() -> None:
    server = Server(cr(8, **MINE))
    async with Draining.at_work(server) as draining:
        assert draining.takes(cr(7, **MINE, **DRAIN))
        # Delivered while it is being let go.
        assert draining.takes(cr(8, **MINE))
        await draining.is_over()
        assert (server.patched, draining.delivered) == (0, [cr(8, **MINE)])


async def test_a_cr_that_is_gone_is_reconciled_which_clears_up() -> None:
    async with Draining.at_work(Server(None)) as draining:
        assert draining.takes(cr(7, **MINE, **DRAIN))
        await draining.is_over()
        assert await draining.queue.get() == A


async def test_a_drain_that_is_called_off_ends_no_run() -> None:
    server = Server(cr(8, **MINE))
    async with Draining.at_work(server, grace=0.01) as draining:
        draining.queue.add(A, Priority.CHANGE)
        assert await draining.queue.get() == A
        assert draining.takes(cr(7, **MINE, **DRAIN))
        assert draining.takes(cr(8, **MINE))
        await draining.is_over()
        assert (draining.ended, draining.delivered) == ([], [cr(8, **MINE)])
        # It is reconciled once more for what came meanwhile.
        draining.queue.add(A, Priority.CHANGE)
        draining.queue.done(A)
        assert await draining.queue.get() == A


async def test_a_cr_whose_labels_are_gone_before_the_answer_is_here_leaves_nothing() -> None:
    drained = cr(7, **MINE, **DRAIN)
    server = Server(drained)
    async with Draining.at_work(server) as draining:
        server.assigns = lambda labels: draining.takes(cr(8), "DELETED") and None
        assert draining.takes(drained)
        await draining.is_over()
        assert not draining.drainer._settled
        assert draining.forgotten == [A]


async def test_a_kind_that_is_not_served_for_now_is_waited_for() -> None:
    drained = cr(7, **MINE, **DRAIN)
    async with Draining.at_work(Server(drained)) as draining:
        draining.discovery.answers = [None, None]
        assert draining.takes(drained)
        await draining.is_over()
        assert (draining.server.obj, draining.forgotten) == (cr(8), [A])


async def test_a_kind_that_is_gone_takes_its_crs_with_it() -> None:
    drained = cr(7, **MINE, **DRAIN)
    async with Draining.at_work(Server(drained)) as draining:
        draining.discovery.answers = [None] * 10
        assert draining.takes(drained)
        assert not draining.takes(drained, "DELETED")
        await draining.is_over()
        assert await draining.queue.get() == A


@pytest.mark.parametrize(
    ("obj", "ends"),
    [(cr(8, **{SHARD.label: "two"}), True), (cr(8), True), (cr(8, **MINE), False), (None, False)],
    ids=["another's", "nobody's", "back again", "deleted"],
)
async def test_a_run_ends_whose_cr_was_given_away_without_a_drain(obj: dict[str, Any] | None, ends: bool) -> None:
    async with Draining.at_work(Server(obj)) as draining:
        draining.queue.add(A, Priority.CHANGE)
        assert await draining.queue.get() == A
        assert not draining.takes(cr(8, **MINE), "DELETED")

        async def looked() -> bool:
            return draining.discovery.asked > 0

        await until(looked, "it is asked where the CR is")
        await asyncio.sleep(0)
        assert draining.ended == ([A] if ends else [])


async def test_where_a_cr_is_is_asked_until_it_is_known() -> None:
    server = Server(cr(8, **{SHARD.label: "two"}))
    server.errors = [Unreachable("no answer"), KubeError("odd")]
    async with Draining.at_work(server) as draining:
        draining.queue.add(A, Priority.CHANGE)
        assert await draining.queue.get() == A
        assert not draining.takes(cr(8, **MINE), "DELETED")

        async def ended() -> bool:
            return draining.ended == [A]

        await until(ended, "its run is ended")


async def test_a_cr_that_stays_is_one_of_the_shards_when_its_own_event_comes() -> None:
    drained = cr(7, **MINE, **DRAIN)
    server = Server(drained)
    server.assigns = lambda labels: labels.update(MINE)
    queue, watch = WorkQueue(2), replace(A.watch, selector=SHARD.selector)
    drainer = Drainer(server, cast(Discovery, FakeDiscovery()), SHARD, queue=queue, grace=30)
    handlers = Handlers([watch], queue.add, drainer.takes)
    request = Request(watch, A.key)
    running = asyncio.create_task(drainer.run(queue.done, handlers.primary, handlers.forget))
    handlers.primary(watch, "ADDED", cr(6, **MINE))
    handlers.primary(watch, "MODIFIED", drained)
    assert not handlers.has_observed(request)

    async def over() -> bool:
        return not drainer._draining

    await until(over, "it is decided that it stays")
    handlers.primary(watch, "MODIFIED", cr(8, **MINE))
    handlers.primary(watch, "MODIFIED", drained)
    assert handlers.has_observed(request)
    running.cancel()
    await asyncio.wait({running})
    queue.close()


async def test_a_drain_that_is_asked_for_again_waits_for_the_run_again() -> None:
    drained = cr(7, **MINE, **DRAIN)
    server = Server(cr(8, **MINE))
    async with Draining.at_work(server, grace=0.01) as draining:
        draining.queue.add(A, Priority.CHANGE)
        assert await draining.queue.get() == A
        assert draining.takes(drained)
        assert draining.takes(cr(8, **MINE))
        # It was called off, and is asked for again before that is known from the API server.
        draining.discovery.answers = [None]
        server.obj = cr(9, **MINE, **DRAIN)

        async def asked() -> bool:
            return draining.discovery.asked > 0

        await until(asked, "the kind is looked up")
        assert draining.takes(server.obj)
        await draining.is_over()
        assert (draining.ended, server.obj) == ([A], cr(10))


async def test_the_crs_of_others_are_not_drained() -> None:
    async with Draining.at_work(Server(None)) as draining:
        assert not draining.takes(cr(7, **{SHARD.label: "two"}, **DRAIN))


async def test_versions_that_are_no_numbers_are_news() -> None:
    drained = cr(7, **MINE, **DRAIN)
    async with Draining.at_work(Server(drained)) as draining:
        assert draining.takes(drained)
        await draining.is_over()
        back = cr(9, **MINE)
        back["metadata"]["resourceVersion"] = "abc"
        assert not draining.takes(back)


async def test_a_cr_that_cannot_be_handled_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(cr(7, **MINE, **DRAIN))
    server.assigns = lambda labels: labels.update(MINE)
    async with Draining.at_work(server) as draining:
        draining.error = TypeError("odd")
        assert draining.takes(cr(7, **MINE, **DRAIN))
        await draining.is_over()
        assert await draining.queue.get() == A
        draining.queue.done(A)
        draining.error = None
        server.obj = cr(20, **MINE, **DRAIN)
        assert draining.takes(server.obj)
        await draining.is_over()
        assert draining.delivered == [cr(21, **MINE)]
    assert "could not be handled" in caplog.text


async def test_an_answer_that_is_no_object_is_waited_out() -> None:
    drained = cr(7, **MINE, **DRAIN)
    server = Server(drained)
    server.odd_answers = 2
    async with Draining.at_work(server) as draining:
        assert draining.takes(drained)
        await draining.is_over()
        assert (server.obj, draining.forgotten) == (cr(8), [A])


async def test_a_fault_with_one_cr_is_waited_out_and_ends_no_other(caplog: pytest.LogCaptureFixture) -> None:
    drained = cr(7, **MINE, **DRAIN)
    server = Server(drained)
    server.errors = [cast(KubeError, TypeError("a fault of our own"))]
    async with Draining.at_work(server) as draining:
        assert draining.takes(drained)
        await draining.is_over()
        assert server.obj == cr(8)
    assert "A CR cannot be let go for now" in caplog.text
