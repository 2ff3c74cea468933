"""A replica that waits to lead, and a leader that answers by way of it: a real one, or one that says what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict
from yarl import URL

from runner.config.settings import Address
from runner.dashboard import logins
from runner.dashboard.leader import LeaderEndpoint
from runner.dashboard.logins import FORWARDED_FOR, Sender
from runner.kube.authorization import Access, User
from runner.serving.certificate import ServingCertificate
from runner.serving.server import serving
from tests.dashboard.stage import Stage

PATIENCE = 60
CR = "/cr/example.com/v1/Thing/a/one"


@dataclass(slots=True)
class Known:
    """What the replica that waits has read in the Lease."""

    leader: LeaderEndpoint | None = None

    def __call__(self) -> LeaderEndpoint | None:
        return self.leader


@dataclass(slots=True)
class Pretended:
    """A leader that answers as a test says, and keeps what it was asked."""

    answer: Callable[[web.Request], Awaitable[web.StreamResponse]]
    asked: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.bodies.append(await request.read())
        return await self.answer(request)


@pytest.fixture
def certificate(tmp_path: Path) -> ServingCertificate:
    return ServingCertificate(tmp_path / "none")


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
async def waiting(tmp_path: Path, known: Known) -> AsyncIterator[Stage]:
    async with Stage.serving(tmp_path / "waiting", leader=known) as stage:
        yield stage


@pytest.fixture
async def leader(tmp_path: Path, certificate: ServingCertificate, known: Known) -> AsyncIterator[Stage]:
    async with Stage.serving(tmp_path / "leader", certificate=certificate) as stage:
        known.leader = LeaderEndpoint(stage.address, certificate.fingerprint)
        stage.show()
        yield stage


@contextlib.asynccontextmanager
async def pretending(
    certificate: ServingCertificate, known: Known, answer: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> AsyncIterator[Pretended]:
    made, application = Pretended(answer), web.Application()
    application.router.add_route("*", "/{path:.*}", made.serve)
    async with serving(Address("127.0.0.1", 0), application, flag="", certificate=certificate, cancels=True) as address:
        known.leader = LeaderEndpoint(address, certificate.fingerprint)
        yield made


async def ok(_: web.Request) -> web.StreamResponse:
    return web.Response(text="the leader's")


async def test_a_browser_works_with_the_leader_by_way_of_another(waiting: Stage, leader: Stage) -> None:
    leader.cluster.rights = {("ann", verb, "*") for verb in ("get", "list", "update")}
    leader.add()
    answer = await waiting.get("/")
    assert (answer.status, "kubectl create token" in answer.text) == (401, True)
    cookie = await waiting.log_in("token-of-ann")
    assert "one" in (await waiting.get("/", cookie=cookie)).text
    text = (await waiting.get(CR, cookie=cookie)).text
    form = {"form_token": re.findall(r'name="form_token" value="([^"]+)"', text)[0]}
    origin = f"https://{waiting.address}"
    for headers, sent, status in (
        ({"Origin": origin, "Sec-Fetch-Site": "same-origin"}, form, 303),
        ({"Origin": origin}, {"form_token": "x"}, 403),
        ({"Origin": "https://evil.com"}, form, 403),
        ({"Sec-Fetch-Site": "cross-site"}, form, 403),
    ):
        assert (await waiting.post(f"{CR}/run", cookie=cookie, data=sent, headers=headers)).status == status
    # The one that waits knows neither the caller nor the CRs.
    assert waiting.cluster.asked == {}
    assert (await waiting.post("/logout", cookie=cookie)).status == 303
    assert (await waiting.get("/", cookie=cookie)).status == 401


async def test_a_program_and_a_stream_get_the_leaders_answer(waiting: Stage, leader: Stage) -> None:
    leader.cluster.rights = {("ann", "list", "*")}
    answer = await waiting.get("/", token="token-of-ann")
    assert (answer.status, answer.headers["X-Frame-Options"], answer.headers["Server"]) == (200, "DENY", "rolerunner")
    assert (await waiting.request("HEAD", "/", token="token-of-ann")).status == 200
    headers = {"Authorization": "Bearer token-of-ann"}
    async with (
        asyncio.timeout(PATIENCE),
        waiting.session.get(f"http://{waiting.address}/live?path=/", headers=headers) as got,
    ):
        assert got.content_type == "text/event-stream"
        assert await got.content.readuntil(b"\n\n") == b"retry: 1000\n\n"
        leader.add("new")
        assert await got.content.readuntil(b"\n\n") == b"data: changed\n\n"


async def test_the_leader_gets_the_headers_that_it_checks_and_no_others(
    waiting: Stage, certificate: ServingCertificate, known: Known
) -> None:
    kept = {
        "Host": "dashboard.example.com:8443",
        "Origin": "https://dashboard.example.com:8443",
        "Sec-Fetch-Site": "same-origin",
        "Sec-Fetch-Mode": "navigate",
        "Cookie": "__Host-rolerunner-8443=x-Y_5",
        "Authorization": "Bearer x",
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Dashboard-Live": "1",
        "Accept": "text/html",
    }
    dropped = {
        "Connection": "keep-alive, Authorization",
        "Keep-Alive": "5",
        "Te": "trailers",
        "Upgrade": "websocket",
        "Proxy-Authorization": "x",
        "X-Forwarded-For": "1.2.3.4",
        "X-Real-IP": "1.2.3.4",
        "Forwarded": "for=1.2.3.4",
        "X-Anything": "x",
    }
    others = {"Cookie": f"a=b; other=é; {kept['Cookie']}; rolerunner-8443=z"}
    async with pretending(certificate, known, ok) as made:
        answer = await waiting.post("/login?a=b", headers=kept | dropped | others, data=b"token=x")
        assert answer.text == "the leader's"
        (asked,) = made.asked
        assert (asked.method, asked.path_qs, made.bodies) == ("POST", "/login?a=b", [b"token=x"])
        ours = {FORWARDED_FOR: "127.0.0.1", "Content-Length": "7"}
        assert {name.title(): value for name, value in asked.headers.items()} == {
            name.title(): value for name, value in (kept | ours).items()
        }


async def test_the_browser_gets_the_leaders_answer_as_it_is(
    waiting: Stage, certificate: ServingCertificate, known: Known
) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        cookies = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
        headers = CIMultiDict([*cookies, ("Location", "/x"), ("Keep-Alive", "7"), ("Retry-After", "3")])
        return web.Response(status=303, headers=headers, text="see there")

    async with pretending(certificate, known, answer):
        got = await waiting.get("/")
        assert (got.status, got.text, got.headers["Location"], got.headers["Retry-After"]) == (303, "see there", "/x", "3")
        assert (got.cookies, "Keep-Alive" in got.headers) == ({"a": "a=1", "b": "b=2"}, False)
        # They are the browser's alone.
        assert "Cookie" not in (await asked_next(waiting, known, certificate)).headers


async def asked_next(waiting: Stage, known: Known, certificate: ServingCertificate) -> web.Request:
    async with pretending(certificate, known, ok) as made:
        await waiting.get("/")
        return made.asked[0]


async def status_line(stage: Stage, head: bytes, body: bytes = b"") -> bytes:
    """The first line of the answer to a request that no client would send so."""
    reader, writer = await asyncio.open_connection(stage.address.host, stage.address.port)
    with contextlib.closing(writer):
        writer.write(head + b"\r\nHost: a\r\nConnection: close\r\n\r\n" + body)
        async with asyncio.timeout(PATIENCE):
            return await reader.readline()


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/cr/a%2Fb/%3Cx%3E?text=%22%20%00&x=%2f", "/cr/a%2Fb/%3Cx%3E?text=%22%20%00&x=%2f"),
        ("//evil.example.com/x", "//evil.example.com/x"),
        ("/@evil.example.com", "/@evil.example.com"),
        ("/..%2f../x", "/..%2f../x"),
        ("http://evil.example.com:1/x?y", "/x?y"),
    ],
)
async def test_what_is_asked_for_leads_to_the_leader_alone(
    waiting: Stage, certificate: ServingCertificate, known: Known, target: str, path: str
) -> None:
    async with pretending(certificate, known, ok) as made:
        assert (await status_line(waiting, f"GET {target} HTTP/1.1".encode())).startswith(b"HTTP/1.1 200")
        assert [asked.raw_path for asked in made.asked] == [path]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET @evil.example.com/ HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"GET http://evil.example.com HTTP/1.1", 400),
        (b"GET /" + b"x" * 5000 + b" HTTP/1.1", 414),
        (b"PUT / HTTP/1.1", 405),
        (b"GET / HTTP/1.1\r\nOrigin: \xff", 400),
        (b"POST /login HTTP/1.1\r\nContent-Length: 100000", 413),
    ],
)
async def test_what_is_no_request_for_the_dashboard_is_not_passed_on(
    waiting: Stage, certificate: ServingCertificate, known: Known, head: bytes, status: int
) -> None:
    async with pretending(certificate, known, ok) as made:
        line = await status_line(waiting, head, b"x" * 100_000 if b"POST" in head else b"")
        assert line.split()[1] == str(status).encode()
        assert made.asked == []


async def test_another_certificate_than_the_leases_is_told_nothing(
    waiting: Stage, certificate: ServingCertificate, known: Known, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = ServingCertificate(tmp_path / "none")
    async with pretending(other, known, ok) as made:
        assert known.leader
        right, known.leader = known.leader, LeaderEndpoint(known.leader.address, certificate.fingerprint)
        for _ in range(2):
            answer = await waiting.get("/", token="token-of-ann")
            assert (answer.status, "The replica that leads does not answer." in answer.text) == (503, True)
        assert made.asked == []
        assert [record.__dict__["reason"] for record in caplog.records] == ["another certificate"]
        # As when the Lease has come to say what is served: connections to the other are not used for it, or the reverse.
        known.leader = right
        assert (await waiting.get("/")).text == "the leader's"
        known.leader = LeaderEndpoint(right.address, certificate.fingerprint)
        assert (await waiting.get("/")).status == 503
    assert "token-of-ann" not in caplog.text


async def test_a_leader_that_is_not_there_is_a_page(
    waiting: Stage, certificate: ServingCertificate, known: Known, caplog: pytest.LogCaptureFixture
) -> None:
    async with pretending(certificate, known, ok):
        pass
    answer = await waiting.get("/")
    assert (answer.status, "data-live" in answer.text) == (503, True)
    # What the page needs to be one is here.
    assert (await waiting.get("/static/live.js")).status == 200
    assert caplog.messages == ["The leader's dashboard could not be asked"]


async def test_what_has_been_passed_on_is_not_passed_on_again(
    tmp_path: Path, waiting: Stage, certificate: ServingCertificate, known: Known
) -> None:
    back = Known()
    async with Stage.serving(tmp_path / "other", certificate=certificate, leader=back) as other:
        known.leader = LeaderEndpoint(other.address, certificate.fingerprint)
        async with pretending(certificate, back, ok) as made:
            answer = await waiting.get("/", token="token-of-ann")
            assert (answer.status, "do not agree yet" in answer.text) == (503, True)
            assert (made.asked, other.cluster.asked) == ([], {})
    assert (await waiting.get("/", headers={FORWARDED_FOR: "1.2.3.4"})).status == 503


async def test_a_stream_is_passed_on_as_it_comes_and_ends_with_its_reader(
    waiting: Stage, certificate: ServingCertificate, known: Known
) -> None:
    read, gone = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            await response.write(b"data: 1\n\n")
            await read.wait()
            await response.write(b"data: 2\n\n")
            await asyncio.Event().wait()
        finally:
            gone.set()
        return response

    async with pretending(certificate, known, answer), asyncio.timeout(PATIENCE):
        async with waiting.session.get(f"http://{waiting.address}/live") as got:
            assert await got.content.readuntil(b"\n\n") == b"data: 1\n\n"
            read.set()
            assert await got.content.readuntil(b"\n\n") == b"data: 2\n\n"
            got.close()
        await gone.wait()


@pytest.mark.parametrize("kind", ["text/html", "text/event-stream"])
async def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one(
    waiting: Stage, certificate: ServingCertificate, known: Known, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        await response.write(b"half of ")
        assert request.transport
        request.transport.abort()
        return response

    async with pretending(certificate, known, answer):
        if kind == "text/event-stream":
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                await waiting.get("/")
            assert caplog.records == []
        else:
            assert (await waiting.get("/")).status == 503
            # What was asked for is a stranger's text.
            assert [record.__dict__["reason"] for record in caplog.records] == ["ClientPayloadError"]


async def test_a_form_that_the_leader_did_not_answer_is_not_sent_again_by_itself(
    waiting: Stage, certificate: ServingCertificate, known: Known
) -> None:
    async with pretending(certificate, known, ok):
        pass
    answer = await waiting.post("/login", data={"token": "x"})
    assert (answer.status, "data-live" in answer.text, "go back" in answer.text) == (503, False, True)
    assert answer.headers["Retry-After"] == "5"


async def test_a_new_leader_is_not_kept_waiting_by_a_former_one(
    waiting: Stage, certificate: ServingCertificate, known: Known, tmp_path: Path
) -> None:
    asked = asyncio.Event()

    async def silent(_: web.Request) -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with pretending(certificate, known, silent), asyncio.timeout(PATIENCE):
        pending = asyncio.create_task(waiting.get("/"))
        await asked.wait()
        async with pretending(ServingCertificate(tmp_path / "none"), known, ok):
            assert (await waiting.get("/")).text == "the leader's"
            assert (await pending).status == 503


async def test_a_leader_with_an_ipv6_address(waiting: Stage, certificate: ServingCertificate, known: Known) -> None:
    application = web.Application()
    application.router.add_get("/", ok)
    async with serving(Address("::1", 0), application, flag="", certificate=certificate, cancels=True) as address:
        known.leader = LeaderEndpoint(address, certificate.fingerprint)
        assert (await waiting.get("/")).text == "the leader's"


async def test_a_replica_that_leads_answers_itself(waiting: Stage, certificate: ServingCertificate, known: Known) -> None:
    ended = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"x")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return response

    async with pretending(certificate, known, answer) as made, asyncio.timeout(PATIENCE):
        async with waiting.session.get(f"http://{waiting.address}/live") as got:
            assert await got.content.readexactly(1) == b"x"
            waiting.show()
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                await got.content.read()
        await ended.wait()
        waiting.cluster.rights = {("ann", "list", "*")}
        assert (await waiting.get("/", token="token-of-ann")).status == 200
        # Also what another took it to be the leader for.
        assert (await waiting.get("/", token="token-of-ann", headers={FORWARDED_FOR: "1.2.3.4"})).status == 200
        assert len(made.asked) == 1


async def test_a_replica_that_begins_to_lead_while_a_form_comes_answers_it_itself(
    waiting: Stage, certificate: ServingCertificate, known: Known
) -> None:
    async def form() -> AsyncIterator[bytes]:
        yield b"token=token-of-"
        known.leader = None
        waiting.show()
        yield b"ann"

    async with pretending(certificate, known, ok) as made:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await waiting.post("/login", data=form(), headers=headers)).status == 303
        assert made.asked == []


async def test_where_no_leader_is_known_the_page_says_who_it_is(waiting: Stage) -> None:
    answer = await waiting.get("/", token="token-of-ann")
    assert (answer.status, "This replica waits." in answer.text) == (503, True)


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No failure is forgotten meanwhile."""
    monkeypatch.setattr(logins, "monotonic", lambda: 1000.0)


async def from_address(address: str, stage: Stage, **headers: str) -> int:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(address, 0))) as session,
        session.get(URL(f"http://{stage.address}/"), headers=headers) as answer,
    ):
        return answer.status


@pytest.mark.usefixtures("still")
async def test_wrong_tokens_are_counted_for_each_address_behind_a_replica(waiting: Stage, leader: Stage) -> None:
    for number in range(11):
        status = await from_address("127.0.0.2", waiting, Authorization=f"Bearer made-up-{number}")
        assert status == (401 if number < 10 else 429)
    assert await from_address("127.0.0.2", waiting, Authorization="Bearer token-of-bob") == 429
    assert await from_address("127.0.0.3", waiting, Authorization="Bearer token-of-bob") == 200


@pytest.mark.usefixtures("still")
async def test_a_claimed_address_is_not_that_of_somebody_else(stage: Stage) -> None:
    for number in range(10):
        await from_address("127.0.0.2", stage, **{FORWARDED_FOR: "127.0.0.3", "Authorization": f"Bearer made-up-{number}"})
    headers = {FORWARDED_FOR: "127.0.0.3", "Authorization": "Bearer token-of-ann"}
    assert await from_address("127.0.0.2", stage, **headers) == 429
    assert await from_address("127.0.0.3", stage, Authorization="Bearer token-of-ann") == 200


@pytest.mark.usefixtures("still")
async def test_the_tokens_of_a_peer_that_forwards_too_many_wrong_ones_are_reviewed_one_by_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "_PAUSE", 0.0)
    reviewing, most, together = 0, 0, asyncio.Event()

    async def review(self: Access, token: str) -> User | None:
        nonlocal reviewing, most
        reviewing += 1
        most = max(most, reviewing)
        if most > 1:
            together.set()
        await together.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        reviewing -= 1
        return User("ann", {"user": "ann"}) if token == "token-of-ann" else None

    monkeypatch.setattr(Access, "_review", review)

    async def wrong(numbers: range) -> list[int]:
        sent = [({FORWARDED_FOR: f"10.0.0.{each}", "Authorization": f"Bearer made-up-{each}"}) for each in numbers]
        return await asyncio.gather(*(from_address("127.0.0.2", stage, **headers) for headers in sent))

    async with asyncio.timeout(PATIENCE):
        # Fewer at once than there are connections.
        assert await wrong(range(51)) == [401] * 51
        assert await wrong(range(51, 102)) == [401] * 51
    most = 0
    assert await wrong(range(102, 112)) == [401] * 10
    assert most == 1
    # Others that it forwards for are let in.
    headers = {FORWARDED_FOR: "10.0.1.1", "Authorization": "Bearer token-of-ann"}
    assert await from_address("127.0.0.2", stage, **headers) == 200


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("claimed", ["", "unknown", "x" * 5000, "1.2.3.4, 5.6.7.8", "1.2.3", "::1::"])
async def test_what_is_no_address_is_none(stage: Stage, claimed: str) -> None:
    for number in range(11):
        headers = {FORWARDED_FOR: claimed, "Authorization": f"Bearer made-up-{number}"}
        assert await from_address("127.0.0.2", stage, **headers) == (401 if number < 10 else 429)


def test_a_sender_is_one_in_any_writing() -> None:
    one = Sender.of(make_mocked_request("GET", "/", headers={FORWARDED_FOR: "fd00::1"}))
    assert one == Sender.of(make_mocked_request("GET", "/", headers={FORWARDED_FOR: "FD00:0:0::0001"}))
    assert one == Sender(one.peer, "fd00::1")
