from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runner.config.watches import Watch
from runner.control import Request
from runner.dashboard.index import PAGE, CrState, Filter, Index, Selection, Summary, kind_of
from runner.resource.metadata import ObjectKey
from tests.control.test_workqueue import watch

THING, OTHER = watch("Thing"), watch("Other")


def cr(name: str, namespace: str = "a", **status: Any) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": name,
        "generation": 2,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return {"metadata": metadata, "status": status}


def condition(kind: str, status: str = "True", **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": "",
        "message": "",
        "lastTransitionTime": "2026-01-02T00:00:00Z",
        **more,
    }


def put(index: Index, name: str, namespace: str = "a", of: Watch = THING, **status: Any) -> Request:
    request = Request(of, ObjectKey(namespace, name))
    index.observe(request, cr(name, namespace, **status))
    return request


async def select(index: Index, activity: Any = None, may: Any = None, **wanted: Any) -> Selection:
    return await index.select(Filter(**wanted), may=may or (lambda of, namespace: True), activity=activity or {})


def names(selection: Selection) -> list[str]:
    return [summary.request.key.name for summary, _ in selection.rows]


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        ([], CrState.NEW),
        ([condition("Failure"), condition("Successful", "False")], CrState.FAILED),
        ([condition("Failure", "False"), condition("Successful")], CrState.OK),
        ([condition("Running"), condition("Successful", "False")], CrState.NEW),
        ("no list", CrState.NEW),
        ([None, 3, {}, {"type": 5, "status": ["True"], "message": {}}], CrState.NEW),
    ],
    ids=["none", "failed", "ok", "first run", "no list", "odd"],
)
def test_the_state_is_that_of_the_conditions(conditions: Any, state: CrState) -> None:
    request = Request(THING, ObjectKey("a", "one"))
    assert Summary.of(request, cr("one", conditions=conditions)).state is state


def test_a_dry_run_is_a_state_only_where_the_watch_allows_it() -> None:
    request = Request(THING, ObjectKey("a", "one"))
    obj = cr("one")
    obj["metadata"]["annotations"] = {"rolerunner.io/dry-run": "true"}
    allowed = "dry-run" in THING.allow_annotations
    assert (Summary.of(request, obj).state is CrState.DRY_RUN) is allowed


def test_of_a_long_text_a_summary_has_the_beginning() -> None:
    request = Request(THING, ObjectKey("a", "one"))
    long = condition("Failure", message="x" * 1_000_000, reason="r" * 1_000_000)
    summary = Summary.of(request, cr("one", conditions=[long] * 1000, observedGeneration=10**5000))
    assert (len(summary.message), len(summary.conditions)) == (200, 12)
    assert len(summary.conditions[0].reason) == 100
    assert summary.observed_generation is None


@pytest.mark.parametrize(
    "obj", [{}, {"metadata": None}, {"metadata": {"uid": 3}, "status": "x"}, {"status": {"conditions": {}}}]
)
def test_anything_can_be_a_cr(obj: dict[str, Any]) -> None:
    assert Summary.of(Request(THING, ObjectKey("a", "one")), obj).state is CrState.NEW


async def test_pages_are_in_the_order_of_kind_namespace_and_name() -> None:
    index = Index([THING, OTHER])
    put(index, "a", of=OTHER)
    for name, namespace in (("b", "b"), ("a", "b"), ("z", "a")):
        put(index, name, namespace)
    assert names(await select(index)) == ["z", "a", "b", "a"]


async def test_what_is_selected_is_counted_and_cut_into_pages() -> None:
    index = Index([THING])
    for number in range(PAGE + 1):
        put(index, f"{number:03}")
    first, second, beyond = [await select(index, page=page) for page in (1, 2, 1000)]
    assert (len(first.rows), first.total, first.pages) == (PAGE, PAGE + 1, 2)
    assert names(second) == names(beyond) == [f"{PAGE:03}"]
    assert (beyond.page, (await select(index, page=-5)).page) == (2, 1)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"namespace": "b"}, ["two"]),
        ({"kind": "example.com/v1/Other"}, ["three"]),
        ({"kind": "none/of/these"}, []),
        ({"state": "failed"}, ["two"]),
        ({"state": "running"}, ["one"]),
        ({"text": "TW"}, ["two"]),
        ({"text": "disk"}, ["two"]),
        ({"text": "disk", "namespace": "a"}, []),
    ],
    ids=str,
)
async def test_filters(wanted: dict[str, str], found: list[str]) -> None:
    index = Index([THING, OTHER])
    put(index, "one")
    put(index, "two", "b", conditions=[condition("Failure", message="Disk full")])
    put(index, "three", "c", of=OTHER)
    activity = {THING: {ObjectKey("a", "one"): CrState.RUNNING}}
    assert names(await select(index, activity, **wanted)) == found


async def test_counts_are_of_all_that_may_be_seen_whatever_the_filter() -> None:
    index = Index([THING, OTHER])
    put(index, "one", conditions=[condition("Successful")])
    put(index, "two", conditions=[condition("Successful")])
    put(index, "hidden", "secret")
    activity = {THING: {ObjectKey("a", "two"): CrState.WAITING}}
    found = await select(index, activity, may=lambda of, namespace: namespace != "secret", text="no such")
    assert found.counts == {THING: {CrState.OK: 1, CrState.WAITING: 1}, OTHER: {}}
    assert found.namespaces == ["a"]
    assert (found.total, found.rows) == (0, [])


async def test_what_is_gone_is_forgotten() -> None:
    index = Index([THING])
    one, two = put(index, "one"), put(index, "two", "b")
    for _ in range(2):
        index.observe(one, None)
    assert names(await select(index)) == ["two"]
    assert index.get(one) is None
    assert index.get(two) is not None
    assert index.namespaces(THING) == ["b"]


async def test_crs_that_come_and_go_meanwhile_make_no_other_appear_twice_or_be_missed() -> None:
    index = Index([THING])
    stay = [f"{number:05}" for number in range(0, 4000, 2)]
    for name in stay:
        put(index, name)

    async def stir() -> None:
        for number in range(1, 4000, 2):
            put(index, f"{number:05}")
            if number % 3 == 0:
                index.observe(Request(THING, ObjectKey("a", f"{number:05}")), None)
            if number % 97 == 0:
                await asyncio.sleep(0)

    seen: list[str] = []
    # Pages of what changes may shift; a page itself has each once.
    stirring = asyncio.ensure_future(stir())
    for page in range(1, 1000):
        found = await select(index, page=page)
        if found.page < page:
            break
        seen += names(found)
    await stirring
    found = await select(index)
    assert found.total == len(stay) + sum(number % 3 != 0 for number in range(1, 4000, 2))
    assert not {name for name in seen if seen.count(name) > 2}


async def test_the_event_loop_runs_other_tasks_while_many_are_selected() -> None:
    index = Index([THING])
    for number in range(10_000):
        put(index, f"{number:05}")
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    assert (await select(index, text="9999")).total == 1
    task.cancel()
    assert others >= 10


def test_a_kind_is_named_with_its_group_and_version() -> None:
    assert kind_of(THING) == "example.com/v1/Thing"
