"""A process's part in the election, with an elector that does what a test says. With a Lease: tests/behaviour."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import cast

import pytest

from runner import leadership as module
from runner.config.settings import Election
from runner.kube.client import ApiClient
from runner.kube.lease import Lost
from runner.leadership import Leadership

ELECTION = Election(name="lease", namespace="default", lease_duration=15, renew_deadline=10)


class FakeElector:
    name, fields = "lease", {"lease": "default/lease"}

    def __init__(self, *_: object, **__: object) -> None:
        self.leads = asyncio.Event()

    async def acquire(self) -> None:
        await self.leads.wait()

    async def keep(self) -> None:
        raise Lost("the lease is held by another")

    async def announce(self) -> None:
        raise TypeError("unhashable type: 'list'")


@pytest.fixture
def leadership(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leadership]:
    monkeypatch.setattr(module, "Elector", FakeElector)
    before = signal.getsignal(signal.SIGALRM)
    yield Leadership(cast(ApiClient, None), ELECTION)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("leads", [True, False], ids=["it leads", "it is stopped before"])
async def test_leadership_is_waited_for_until_the_process_is_stopped(leadership: Leadership, leads: bool) -> None:
    stop = asyncio.Event()
    (cast(FakeElector, leadership._elector).leads if leads else stop).set()
    assert await leadership.acquire(stop) is leads


async def test_a_leader_that_has_lost_ends_its_process_and_says_so(
    leadership: Leadership, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", end)
    # The kernel is not to end the tests.
    monkeypatch.setattr(module, "_LAST_LINE", 600.0)
    with pytest.raises(SystemExit):
        await leadership.keep()
    assert [record.__dict__["reason"] for record in caplog.records] == ["the lease is held by another"]


async def test_an_announcement_that_fails_ends_nothing(leadership: Leadership, caplog: pytest.LogCaptureFixture) -> None:
    await leadership.announce()
    assert len(caplog.records) == 1
