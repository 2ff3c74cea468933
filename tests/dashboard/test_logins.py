"""Who gets in, and for how long."""

from __future__ import annotations

import re
from itertools import count

import pytest
from aiohttp.test_utils import make_mocked_request

from runner.dashboard import logins
from runner.kube import authorization
from tests.dashboard.stage import KEY, Stage


def cookie_name(stage: Stage) -> str:
    return f"__Host-rolerunner-{stage.address.port}"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its last entry is the time."""
    times = [1000.0]
    for module in (logins, authorization):
        monkeypatch.setattr(module, "monotonic", lambda: times[-1])
    return times


async def test_a_browser_is_known_by_its_cookie(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    answer = await stage.post("/login", data={"token": " token-of-ann\n", "path": "/run/7"})
    assert (answer.status, answer.headers["Location"]) == (303, "/run/7")
    (cookie,) = answer.cookies.values()
    assert set(cookie.split("; ")[1:]) == {"HttpOnly", "Path=/", "SameSite=Strict", "Secure"}
    value = cookie.split("; ")[0]
    assert re.fullmatch(f"{cookie_name(stage)}=[A-Za-z0-9_-]{{43}}", value)
    assert (await stage.get("/", cookie=value)).status == 200
    answer = await stage.post("/logout", cookie=value)
    assert answer.status == 303
    assert "Max-Age=0" in answer.cookies[cookie_name(stage)]
    assert (await stage.get("/", cookie=value)).status == 401
    assert "token-of-ann" not in caplog.text


async def test_a_page_for_strangers_does_not_ask_for_itself_again(stage: Stage, local: Stage) -> None:
    """It would do so for ever: what it gets is no answer but itself."""
    for answer in (await stage.get("/"), await stage.get("/login"), await local.get("/"), await local.get("/?key=x")):
        assert "<main" in answer.text
        assert "data-live" not in answer.text


@pytest.mark.parametrize(
    "cookie",
    ["", "x", "a" * 43, "../../etc", "%00", "é", "' OR 1=1 --", "a=b; __Host-rolerunner=", "x" * 4000],
)
async def test_a_forged_cookie_is_none(stage: Stage, cookie: str) -> None:
    await stage.log_in("token-of-ann")
    assert (await stage.get("/", cookie=f"{cookie_name(stage)}={cookie}")).status == 401


@pytest.mark.parametrize(
    "token", ["", " ", "made-up", "token-of-ann x", "token-of-ann\0", "é", "x" * 20_000, "token-of-ann\r\nX: y"]
)
async def test_a_token_that_is_none_does_not_log_in(stage: Stage, token: str) -> None:
    answer = await stage.post("/login", data={"token": token, "path": "/"})
    assert (answer.status, answer.cookies) == (401, {})
    assert "does not know this token" in answer.text
    assert token.strip() in ("", "é") or token not in answer.text


@pytest.mark.parametrize("header", ["Basic dG9rZW46", "Bearer", "Bearer ", "bearer made-up", "token-of-ann", "Bearer a b"])
async def test_a_program_without_a_valid_token_is_told_so(stage: Stage, header: str) -> None:
    cookie = await stage.log_in("token-of-ann")
    answer = await stage.get("/", headers={"Authorization": header}, cookie=cookie)
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    "path",
    [
        *("//evil.com", "/\\evil.com", "https://evil.com", "javascript:alert(1)", "evil.com", "/login", "/logout"),
        *("/\tx", "/x\r\nSet-Cookie: a=b", "/é", "/" + "x" * 3000, ""),
    ],
)
async def test_a_login_leads_to_no_other_site(stage: Stage, path: str) -> None:
    answer = await stage.post("/login", data={"token": "token-of-ann", "path": path})
    assert (answer.status, answer.headers["Location"]) == (303, "/")


async def test_two_operators_on_one_host_have_a_cookie_each(stage: Stage) -> None:
    """As where both are reached by forwarded ports."""
    form = {"token": "token-of-ann"}
    hosts = ("localhost:1", "localhost:2", "operator.example.com")
    answers = [await stage.post("/login", data=form, headers={"Host": host}) for host in hosts]
    names = [next(iter(answer.cookies)) for answer in answers]
    assert names == ["__Host-rolerunner-1", "__Host-rolerunner-2", "__Host-rolerunner"]


async def test_a_token_that_is_revoked_ends_the_login(stage: Stage, clock: list[float]) -> None:
    cookie = await stage.log_in("token-of-ann")
    del stage.cluster.tokens["token-of-ann"]
    assert (await stage.get("/", cookie=cookie)).status == 200
    clock.append(clock[-1] + 61)
    assert (await stage.get("/", cookie=cookie)).status == 401
    stage.cluster.tokens["token-of-ann"] = "ann"
    clock.append(clock[-1] + 61)
    # It is forgotten, and not only refused for a while.
    assert (await stage.get("/", cookie=cookie)).status == 401


async def test_a_login_ends_when_nobody_asks_for_pages(stage: Stage, clock: list[float]) -> None:
    cookie = await stage.log_in("token-of-ann")
    for _ in range(3):
        clock.append(clock[-1] + 3000)
        assert (await stage.get("/", cookie=cookie)).status == 200
    # Those that a page itself asks for do not count.
    clock.append(clock[-1] + 3000)
    assert (await stage.get("/", cookie=cookie, headers={"X-Dashboard-Live": "1"})).status == 200
    clock.append(clock[-1] + 3000)
    assert (await stage.get("/", cookie=cookie)).status == 401


async def test_a_login_ends_after_half_a_day(stage: Stage, clock: list[float]) -> None:
    cookie = await stage.log_in("token-of-ann")
    for _ in range(14):
        clock.append(clock[-1] + 3000)
        assert (await stage.get("/", cookie=cookie)).status == 200
    clock.append(clock[-1] + 3000)
    assert (await stage.get("/", cookie=cookie)).status == 401


async def test_logins_are_bounded_for_each_user(stage: Stage) -> None:
    bob = await stage.log_in("token-of-bob")
    cookies = [await stage.log_in("token-of-ann") for _ in range(25)]
    seen = [(await stage.get("/", cookie=cookie)).status for cookie in cookies]
    assert seen == [401] * 5 + [200] * 20
    assert (await stage.get("/", cookie=bob)).status == 200


async def test_guesses_are_bounded(stage: Stage, clock: list[float]) -> None:
    tokens = (f"guess-{number}" for number in count())
    for _ in range(10):
        assert (await stage.get("/", token=next(tokens))).status == 401
    refused = await stage.get("/", token=next(tokens))
    assert refused.status == 429
    assert (await stage.post("/login", data={"token": next(tokens)})).status == 429
    assert stage.cluster.asked["tokenreviews"] == 10
    clock.append(clock[-1] + float(refused.headers["Retry-After"]))
    assert (await stage.get("/", token=next(tokens))).status == 401
    assert (await stage.get("/", token=next(tokens))).status == 429


async def test_who_is_known_is_not_held_up_by_the_wrong_tokens_of_others(stage: Stage, clock: list[float]) -> None:
    assert (await stage.get("/", token="token-of-ann")).status == 200
    for number in range(12):
        await stage.get("/", token=f"made-up-{number}")
    assert (await stage.get("/", token="token-of-bob")).status == 429
    assert (await stage.get("/", token="token-of-ann")).status == 200
    assert (await stage.post("/login", data={"token": "token-of-ann"})).status == 303


async def test_other_sites_cannot_log_a_browser_in_or_out(stage: Stage) -> None:
    cookie = await stage.log_in("token-of-ann")
    for headers in (
        {"Origin": "https://evil.com"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        answer = await stage.post("/login", data={"token": "token-of-bob"}, headers=headers)
        assert (answer.status, answer.cookies) == (403, {})
        assert (await stage.post("/logout", cookie=cookie, headers=headers)).status == 403
    assert (await stage.get("/", cookie=cookie)).status == 200


async def test_a_link_on_another_site_leads_in_without_a_login(stage: Stage) -> None:
    """A browser does not send the cookie with the first request, but with that of the page itself."""
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer = await stage.get("/run/1?a=%22%3E", headers=headers)
    assert answer.status == 200
    assert '<meta http-equiv="refresh" content="0;url=/run/1?a=%22%3E">' in answer.text


async def test_devs_key_becomes_a_cookie(local: Stage, caplog: pytest.LogCaptureFixture) -> None:
    assert (await local.get("/")).status == 401
    answer = await local.get(f"/?key={KEY}&state=failed")
    assert (answer.status, answer.headers["Location"]) == (303, "/?state=failed")
    (cookie,) = answer.cookies.values()
    assert set(cookie.split("; ")[1:]) == {"HttpOnly", "Path=/", "SameSite=Strict"}
    assert KEY not in cookie
    value = cookie.split("; ")[0]
    answer = await local.get("/", cookie=value)
    assert answer.status == 200
    assert KEY not in answer.text + caplog.text
    assert "Max-Age=0" in next(iter((await local.post("/logout", cookie=value)).cookies.values()))
    for wrong in ("", "x", KEY[:-1], KEY + "x", KEY.upper(), "%C3%A9"):
        answer = await local.get(f"/?key={wrong}", cookie=value)
        assert (answer.status, answer.cookies) == (401, {})


async def test_a_request_that_is_no_http_is_not_logged(local: Stage, caplog: pytest.LogCaptureFixture) -> None:
    assert (await local.get(f"/?key={KEY}é")).status == 400
    assert caplog.records == []


async def test_devs_cookie_is_good_for_the_next_operator_on_the_port_alone(local: Stage) -> None:
    """Another's process on the port, while the operator is started again, is sent it: it is of no use anywhere else."""
    answer = await local.get(f"/?key={KEY}")
    (cookie,) = answer.cookies.values()
    value = cookie.partition(";")[0].partition("=")[2]
    here, elsewhere = str(local.address), f"127.0.0.1:{local.address.port - 1}"
    for key, host, is_good in ((KEY, here, True), ("another", here, False), (KEY, elsewhere, False)):
        name = f"rolerunner-{host.rpartition(':')[2]}"
        request = make_mocked_request("GET", "/", headers={"Host": host, "Cookie": f"{name}={value}"})
        assert (await logins.KeyLogin(key).caller(request) is not None) is is_good


async def test_devs_key_leads_to_no_other_site(local: Stage) -> None:
    answer = await local.get(f"//evil.com/?key={KEY}")
    assert answer.headers.get("Location", "/").startswith("/")
    assert not answer.headers.get("Location", "/").startswith("//")


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example/x", "//evil.example?", "/login"])
async def test_a_link_from_elsewhere_leads_nowhere_else(stage: Stage, path: str) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer = await stage.get(path, headers=headers)
    assert "evil" not in answer.text


async def test_a_link_from_elsewhere_to_a_page_goes_on_to_it(stage: Stage) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer = await stage.get("/run/7?page=2", headers=headers)
    assert 'content="0;url=/run/7?page=2"' in answer.text
