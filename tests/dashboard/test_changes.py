"""Which CRs have changed since when."""

from __future__ import annotations

import asyncio

import pytest

from runner.dashboard import changes
from runner.dashboard.changes import Changes
from tests.control.test_workqueue import SOON, A, B, C


async def test_each_change_is_told_to_who_waits() -> None:
    made = Changes()
    waiting = [asyncio.ensure_future(made.after(number)) for number in (0, 0, 1)]
    await asyncio.sleep(0)
    made.note(A)
    async with asyncio.timeout(SOON):
        await asyncio.gather(*waiting[:2])
    await asyncio.sleep(0)
    assert not waiting[2].done()
    made.note(A)
    async with asyncio.timeout(SOON):
        await waiting[2]
        await made.after(1)


def test_the_crs_that_have_changed_since() -> None:
    made = Changes()
    for request in (A, B, A, C):
        made.note(request)
    assert [made.since(number) for number in range(5)] == [{A, B, C}, {A, B, C}, {A, C}, {C}, set()]


def test_what_was_long_ago_is_not_known_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_MOST", 2)
    made = Changes()
    for request in (A, B, C, C):
        made.note(request)
    assert [made.since(number) for number in range(5)] == [None, {B, C}, {C}, {C}, set()]


async def test_who_goes_leaves_nothing_behind() -> None:
    made = Changes()
    waiting = asyncio.ensure_future(made.after(0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert made._waiting == set()
