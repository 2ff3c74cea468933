"""Deadlines of answers, which can be ended all at once."""

from __future__ import annotations

import asyncio

import pytest

from runner.dashboard.deadlines import Deadlines

PATIENCE = 60


async def test_all_that_have_not_ended_expire() -> None:
    deadlines = Deadlines()

    async def answer() -> None:
        async with deadlines.after(3600):
            await asyncio.Event().wait()

    async with asyncio.timeout(PATIENCE):
        answers = [asyncio.create_task(answer()) for _ in range(2)]
        # Also where they are in the course of expiring.
        while not all(each.done() for each in answers):
            deadlines.expire()
            await asyncio.sleep(0)
        assert [type(each.exception()) for each in answers] == [TimeoutError, TimeoutError]
        deadlines.expire()


async def test_one_that_has_ended_does_not_expire_any_more() -> None:
    deadlines = Deadlines()
    async with deadlines.after(3600):
        pass
    deadlines.expire()
    with pytest.raises(TimeoutError):
        async with deadlines.after(0):
            await asyncio.Event().wait()
