"""The program `python -m tests.chaos` itself: what it makes of chance, and what its links do to bytes."""

import asyncio
import json
import random
import re
from pathlib import Path

import pytest

from bench.driver import ROOT
from tests.chaos import __main__ as program
from tests.chaos import links
from tests.chaos.scenario import SCENARIOS
from tests.chaos.tenants import generators
from tests.chaos.world import Outcome, is_served, marked

PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_every_scenario_is_told_and_every_one_told_is_there() -> None:
    promised = PAGE.partition("## What is guaranteed")[2].partition("## ")[0]
    cells = [row.split("|")[3] for row in promised.splitlines() if row.startswith("| ")]
    assert set(re.findall(r"`([^`]+)`", " ".join(cells))) == set(SCENARIOS)
    assert set(SCENARIOS) >= program.LONG_ONLY


def test_the_same_seed_makes_the_same_objects() -> None:
    def made(seed: int) -> list[str]:
        makers = generators(random.Random(seed))
        return [next(makers)(number).text for number in range(40)]

    assert made(1) == made(1) != made(2)


def test_the_table_has_a_row_for_each_scenario() -> None:
    rows = program.table({"child": Outcome(rounds=3), "etcd": Outcome(failures=["wrong"])}).splitlines()
    assert len({len(row) for row in rows}) == 1
    assert [row.split("|")[-2].strip() for row in rows[2:]] == ["ok", "FAILED"]


@pytest.mark.parametrize(
    "status", [None, "x", [], {}, {"observedGeneration": 1}, {"observedGeneration": "2", "conditions": []}]
)
def test_a_status_of_any_shape_says_no_more_than_it_says(status: object) -> None:
    assert not is_served({"metadata": {"generation": 2}, "status": status})


def test_nobody_has_a_mark_that_was_not_given() -> None:
    assert marked("nobody") == []


def kubeconfig(folder: Path, port: int) -> Path:
    path = folder / "kubeconfig"
    path.write_text(json.dumps({"clusters": [{"cluster": {"server": f"https://127.0.0.1:{port}"}}]}))
    return path


@pytest.mark.parametrize(
    ("mode", "answer"),
    [
        pytest.param("pass", b"x" * 100_000, id="pass"),
        pytest.param("delay", b"x" * 100_000, id="delay"),
        pytest.param("truncate", None, id="truncate"),
        pytest.param("reset", ConnectionError, id="reset"),
        pytest.param("silent", TimeoutError, id="silent"),
    ],
)
async def test_what_a_link_does_to_bytes(mode: str, answer: bytes | type[Exception] | None, tmp_path: Path) -> None:
    served: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(writer)
        await reader.readline()
        writer.write(b"x" * 100_000)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        link = links.TcpLink(kubeconfig(tmp_path, port), random.Random(1))
        async with link.serving() as through:
            link.set(mode)

            async def ask() -> bytes:
                reader, writer = await asyncio.open_connection("127.0.0.1", through)
                try:
                    writer.write(b"hello\n")
                    return await reader.read()
                finally:
                    writer.close()

            if isinstance(answer, type):
                with pytest.raises(answer):
                    await asyncio.wait_for(ask(), 2 if mode == "silent" else 60)
            elif answer is None:
                assert len(await asyncio.wait_for(ask(), 60)) < 100_000
            else:
                assert await asyncio.wait_for(ask(), 300) == answer
        for writer in served:
            # To a link that is silent it would go on writing.
            writer.transport.abort()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("fault", "query", "status", "content"),
    [
        pytest.param("429", {}, 429, "TooManyRequests", id="429"),
        pytest.param("503", {}, 503, "ServiceUnavailable", id="503"),
        pytest.param("html", {}, 200, "<html>", id="html"),
        pytest.param("410", {"watch": "true"}, 200, '"ERROR"', id="410-watch"),
        pytest.param("410", {"limit": "500"}, 410, "Expired", id="410-list"),
        pytest.param("closed", {"watch": "true"}, 200, "", id="closed"),
    ],
)
def test_what_a_link_answers(fault: str, query: dict[str, str], status: int, content: str, tmp_path: Path) -> None:
    watches = "watch" in query
    link = links.HttpLink(kubeconfig(tmp_path, 1), random.Random(1))
    link.set(fault)
    answer = link.faulty(watches=watches, lists=bool(query))
    assert answer is not None
    assert answer.status == status
    assert content in (answer.text or "")
    assert answer.headers.get("Retry-After") == ("1" if fault == "429" else None)


def test_a_link_lets_the_rest_pass(tmp_path: Path) -> None:
    link = links.HttpLink(kubeconfig(tmp_path, 1), random.Random(1))
    for fault in ("", "410", "closed"):
        link.set(fault)
        assert link.faulty(watches=False, lists=False) is None
