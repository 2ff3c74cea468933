"""What lies between the operator and the API server goes wrong: bytes are lost, or answers are nonsense."""

from __future__ import annotations

import time

from tests.chaos.links import HttpLink, TcpLink, kubeconfig_of
from tests.chaos.scenario import Scenario, scenario
from tests.chaos.world import Failed

PATIENCE = 300.0
# Lists and watches a second that an operator of three kinds may ask for while each is answered with a fault. Without a pause
# it is hundreds.
_PACE = 30.0


@scenario
async def silent(the: Scenario) -> None:
    """All connections that are there go silent for ever; new ones work."""
    await _tcp(the, "silent", pause=0)


@scenario
async def reset(the: Scenario) -> None:
    """For some seconds each connection is reset."""
    await _tcp(the, "reset", pause=6)


@scenario
async def delay(the: Scenario) -> None:
    """For some seconds each piece of data comes late."""
    await _tcp(the, "delay", pause=10)


@scenario
async def truncate(the: Scenario) -> None:
    """For some seconds connections end in the midst of an answer."""
    await _tcp(the, "truncate", pause=6)


async def _tcp(the: Scenario, mode: str, *, pause: float) -> None:
    link = TcpLink(the.world.kubeconfig, the.world.chance)
    async with link.serving() as port:
        kubeconfig = kubeconfig_of(the.world.kubeconfig, the.world.folder / "linked", f"https://127.0.0.1:{port}")
        operator = await the.operator(kubeconfig=kubeconfig)
        async for _ in the.rounds(20):
            async with the.load():
                await the.world.a_run()
                link.set(mode)
                await the.some_time(pause)
                link.set("pass")
                await the.recovered(PATIENCE)
                the.alive(operator)
        await the.settled(PATIENCE)
        await the.world.end(operator)


@scenario
async def http_429(the: Scenario) -> None:
    """Too many requests; come again in a second."""
    await _http(the, "429")


@scenario
async def http_500(the: Scenario) -> None:
    await _http(the, "500")


@scenario
async def http_503(the: Scenario) -> None:
    await _http(the, "503")


@scenario
async def http_504(the: Scenario) -> None:
    await _http(the, "504")


@scenario
async def http_410(the: Scenario) -> None:
    """Each list and watch is told that its version is too old."""
    await _http(the, "410")


@scenario
async def http_closed(the: Scenario) -> None:
    """Each watch ends at once, as if all were well."""
    await _http(the, "closed")


@scenario
async def http_html(the: Scenario) -> None:
    """Each request is answered with 200 and a web page."""
    await _http(the, "html")


async def _http(the: Scenario, fault: str) -> None:
    link = HttpLink(the.world.kubeconfig, the.world.chance)
    async with link.serving() as port:
        kubeconfig = kubeconfig_of(the.world.kubeconfig, the.world.folder / "linked", f"http://127.0.0.1:{port}")
        operator = await the.operator(kubeconfig=kubeconfig)
        async for number in the.rounds(20):
            async with the.load():
                await the.world.a_run()
                # In turn all requests, and some of them.
                link.set(fault, 1.0 if number % 2 == 0 else 0.3)
                # What watches there are go on; the API server would end them sooner or later.
                link.cut()
                await the.some_time(10)
                pace = link.asked / (time.monotonic() - link.since + 1)
                link.set("")
                if pace > _PACE:
                    raise Failed(f"{pace:.0f} lists and watches a second while each was answered with {fault}")
                the.outcome.checks += 1
                await the.recovered(PATIENCE)
                the.alive(operator)
        await the.settled(PATIENCE)
        await the.world.end(operator)
