"""What is asked of the API server about who scrapes, how often, and what is made of the answers."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from runner.config.settings import Address
from runner.kube import authorization
from runner.kube.authorization import Access
from runner.kube.client import Unreadable
from runner.serving.role_metrics import RoleMetrics
from runner.serving.server import serving_metrics
from tests.kube.test_client import served


class Server:
    """An API server that knows two tokens, and lets one of their users do everything."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.broken = False

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        if self.broken:
            return web.json_response({"message": "tokenreviews is forbidden"}, status=403)
        status: dict[str, Any]
        if body["kind"] == "TokenReview":
            assert request.path == "/apis/authentication.k8s.io/v1/tokenreviews"
            name = {"good": "prometheus", "poor": "nobody"}.get(body["spec"]["token"])
            user = {"username": name, "uid": "7", "groups": ["g"], "extra": {"e": ["1"]}}
            status = {"authenticated": True, "user": user} if name else {"error": "invalid bearer token"}
        else:
            assert request.path == "/apis/authorization.k8s.io/v1/subjectaccessreviews"
            status = {"allowed": body["spec"]["user"] == "prometheus"}
        return web.json_response({**body, "status": status}, status=201)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def metrics(server: Server) -> AsyncIterator[Address]:
    """Where /metrics is served to those whom the server lets."""
    async with (
        served(server.answer) as client,
        serving_metrics(Address("127.0.0.1", 0), RoleMetrics(CollectorRegistry()), access=Access(client)) as address,
    ):
        yield address


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its last entry is the time."""
    times = [1000.0]
    monkeypatch.setattr(authorization, "monotonic", lambda: times[-1])
    return times


async def scrape(address: Address, header: str | None = None, method: str = "GET") -> tuple[int, str]:
    headers = {} if header is None else {"Authorization": header}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, f"http://{address}/metrics") as answer,
    ):
        return answer.status, await answer.text()


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer  ", "Basic Z29vZA==", "good"])
async def test_who_shows_no_token_is_refused_without_a_question(
    metrics: Address, server: Server, header: str | None
) -> None:
    assert await scrape(metrics, header) == (401, "Unauthorized")
    assert server.asked == []


async def test_the_answers_are_remembered_for_a_while(metrics: Address, server: Server, clock: list[float]) -> None:
    for _ in range(3):
        status, text = await scrape(metrics, "Bearer good")
        assert (status, "ansible_operator_build_info" in text) == (200, True)
    assert [body["kind"] for body in server.asked] == ["TokenReview", "SubjectAccessReview"]
    assert server.asked[1]["spec"] == {
        "user": "prometheus",
        "uid": "7",
        "groups": ["g"],
        "extra": {"e": ["1"]},
        "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
    }
    clock.append(1061.0)
    assert (await scrape(metrics, "bearer good"))[0] == 200
    assert [body["kind"] for body in server.asked[2:]] == ["TokenReview"]
    clock.append(1301.0)
    assert (await scrape(metrics, "Bearer good"))[0] == 200
    assert [body["kind"] for body in server.asked[3:]] == ["TokenReview", "SubjectAccessReview"]
    assert (await scrape(metrics, "Bearer good", "HEAD"))[0] == 200
    assert server.asked[5]["spec"]["nonResourceAttributes"]["verb"] == "head"


async def test_a_refusal_is_remembered_less_long(metrics: Address, server: Server, clock: list[float]) -> None:
    denied = (403, "Authorization denied for user nobody")
    assert [await scrape(metrics, "Bearer poor") for _ in range(2)] == [denied, denied]
    assert len(server.asked) == 2
    clock.append(1031.0)
    assert await scrape(metrics, "Bearer poor") == denied
    assert [body["kind"] for body in server.asked[2:]] == ["SubjectAccessReview"]


async def test_a_token_that_is_nobodys_is_unauthorized(metrics: Address, server: Server) -> None:
    assert [await scrape(metrics, "Bearer bad") for _ in range(2)] == [(401, "Unauthorized")] * 2
    assert len(server.asked) == 1


async def test_made_up_tokens_do_not_fill_the_memory(
    metrics: Address, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorization, "_KEPT", 2)
    for token in ("a", "b", "c", "c", "b", "a"):
        await scrape(metrics, f"Bearer {token}")
    assert [body["spec"]["token"] for body in server.asked] == ["a", "b", "c", "a"]


async def test_a_question_without_an_answer_is_told_without_the_token(
    metrics: Address, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.broken = True
    assert await scrape(metrics, "Bearer good") == (500, "Authentication failed")
    (record,) = (record for record in caplog.records if record.name == "runner.serving.server")
    assert record.__dict__["error"] == "tokenreviews is forbidden"
    assert "good" not in json.dumps([record.__dict__ for record in caplog.records], default=str)
    server.broken = False
    assert (await scrape(metrics, "Bearer good"))[0] == 200


@pytest.mark.parametrize("answer", [{}, {"status": None}, {"status": {"authenticated": True}}], ids=str)
async def test_a_review_without_an_answer_is_an_error(answer: dict[str, Any]) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(answer)

    async with served(handler) as client:
        with pytest.raises(Unreadable):
            await Access(client).user("token")
        if "status" not in answer or not answer["status"]:
            with pytest.raises(Unreadable):
                await Access(client).allows(authorization.User("it", {}), verb="get", path="/metrics")
