"""What a caller may see: what is asked of the API server, how often, and what is made of the answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runner.dashboard import access
from runner.dashboard.access import KeyHolder, Scope, TokenHolder, scopes
from runner.kube import authorization
from runner.kube.authorization import Access, User
from runner.kube.client import KubeError
from tests.dashboard.stage import THING, Stage

ANN = User("ann", {"user": "ann", "groups": ["g"]})


def caller(stage: Stage) -> TokenHolder:
    return TokenHolder(ANN, Access(stage.client), stage.discovery)


async def test_a_right_is_asked_for_by_the_kinds_plural_and_remembered(stage: Stage) -> None:
    stage.cluster.rights = {("ann", "get", "a")}
    ann = caller(stage)
    for _ in range(3):
        assert await ann.may("get", THING, "a")
        assert not await ann.may("get", THING, "b")
        assert not await ann.may("update", THING, "a", "one")
    attributes = {"verb": "get", "group": "example.com", "version": "v1", "resource": "things", "namespace": "a", "name": ""}
    assert stage.cluster.reviews[0] == {"user": "ann", "groups": ["g"], "resourceAttributes": attributes}
    assert [review["resourceAttributes"]["name"] for review in stage.cluster.reviews] == ["", "", "one"]


async def test_of_a_kind_that_is_not_served_nothing_may_be_seen(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(gvk: object) -> None:
        return None

    monkeypatch.setattr(stage.discovery, "by_kind", none)
    stage.cluster.rights = {("ann", "get", "*")}
    assert not await caller(stage).may("get", THING, "a")


async def test_no_answer_is_no_right(stage: Stage) -> None:
    stage.cluster.is_broken = True
    with pytest.raises(KubeError):
        await caller(stage).may("get", THING, "a")


async def test_who_may_list_everywhere_is_asked_about_once(stage: Stage) -> None:
    stage.cluster.rights = {("ann", "list", "*")}
    found = await scopes(caller(stage), {THING: [f"ns-{number}" for number in range(1000)]})
    assert found == {THING: Scope(everywhere=True)}
    assert "whatever" in found[THING]
    assert stage.cluster.asked["subjectaccessreviews"] == 1


async def test_a_scope_is_of_the_namespaces_that_may_be_listed(stage: Stage) -> None:
    stage.cluster.rights = {("ann", "list", "b"), ("ann", "get", "c"), ("bob", "list", "d")}
    found = await scopes(caller(stage), {THING: ["a", "b", "c", "d", ""]})
    assert found == {THING: Scope(everywhere=False, namespaces=frozenset({"b"}))}
    assert [place in found[THING] for place in ("a", "b", "c", "d", "", "B", "b ", None)] == [False, True, *[False] * 6]


async def test_many_namespaces_are_asked_about_some_at_a_time(stage: Stage) -> None:
    on, most, waiting = 0, 0, asyncio.Event()

    async def before() -> None:
        nonlocal on, most
        on += 1
        most = max(most, on)
        if on == authorization._AT_ONCE:
            waiting.set()
        if stage.cluster.asked["subjectaccessreviews"] > 1:
            await waiting.wait()
        on -= 1

    stage.cluster.before_review = before
    stage.cluster.rights = {("ann", "list", f"ns-{number}") for number in range(0, 200, 2)}
    found = await scopes(caller(stage), {THING: [f"ns-{number}" for number in range(200)]})
    assert most == authorization._AT_ONCE
    assert found[THING].namespaces == {f"ns-{number}" for number in range(0, 200, 2)}
    assert found[THING].is_complete


async def test_what_is_not_answered_in_time_is_not_shown(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_PATIENCE", 0.3)
    over = asyncio.Event()
    stage.cluster.rights = {("ann", "list", "a"), ("ann", "list", "b")}

    async def before() -> None:
        if stage.cluster.reviews[-1]["resourceAttributes"]["namespace"] == "b":
            await over.wait()

    stage.cluster.before_review = before
    ann = caller(stage)
    # This answer is there already, and takes no time.
    assert await ann.may("list", THING, "a")
    found = await scopes(ann, {THING: ["a", "b"]})
    over.set()
    assert found == {THING: Scope(everywhere=False, namespaces=frozenset({"a"}), is_complete=False)}


async def test_what_cannot_be_asked_is_not_shown(stage: Stage) -> None:
    stage.cluster.rights = {("ann", "list", "a"), ("ann", "list", "b")}

    async def before() -> None:
        # All that come after the first.
        stage.cluster.is_broken = stage.cluster.asked["subjectaccessreviews"] > 1

    stage.cluster.before_review = before
    found = await scopes(caller(stage), {THING: ["a", *(f"ns-{number}" for number in range(100)), "b"]})
    assert not found[THING].is_complete
    assert found[THING].namespaces <= {"a"}


async def test_the_user_of_dev_may_do_everything() -> None:
    holder: Any = KeyHolder("form")
    assert await scopes(holder, {THING: ["a"]}) == {THING: Scope(everywhere=True)}
    assert await holder.may("update", THING, "a", "one")


def test_a_callers_token_is_in_no_text(stage: Stage) -> None:
    assert "token-of" not in repr(caller(stage))
