"""Requests of browsers, of programs, and of those who want more than they may have."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runner.config.settings import Settings
from runner.resource.sharding import Shard
from tests.dashboard.stage import KEY, Stage

EVERY_ANSWER = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Server": "rolerunner",
}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/login", 200),
        ("/static/style.css", 200),
        ("/static/none.css", 404),
        ("/nowhere", 404),
        ("/cr/example.com/v1/Thing/a", 404),
        ("/live?path=/nowhere", 404),
    ],
)
async def test_every_answer_has_the_headers(stage: Stage, path: str, status: int) -> None:
    answer = await stage.get(path, token="token-of-ann")
    assert answer.status == status
    assert {name: answer.headers.get(name) for name in EVERY_ANSWER} == EVERY_ANSWER
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src", "form-action")} == {"'self'"}
    assert len(policy) == 8


async def test_a_stranger_gets_the_login_page_and_nothing_else(stage: Stage) -> None:
    stage.add("secret-name")
    for path in ("/", "/cr/example.com/v1/Thing/a/secret-name", "/run/1", "/compare?one=1&other=2", "/live?path=/", "/x"):
        answer = await stage.get(path)
        assert answer.status == 401, path
        assert "kubectl create token" in answer.text
        assert "secret-name" not in answer.text.replace("/cr/example.com/v1/Thing/a/secret-name", "")
    answer = await stage.post("/cr/example.com/v1/Thing/a/secret-name/run")
    assert answer.status == 401


@pytest.mark.parametrize(
    "name",
    [
        *("..%2f..%2fserver.py", "%2e%2e%2fserver.py", "../server.py", "..%5cserver.py", "%2fetc%2fpasswd"),
        *("style.css%00", "style.css/", "./style.css%2f..", "%252e%252e%252fserver.py", "", "base.html"),
    ],
)
async def test_static_files_are_those_of_the_folder(stage: Stage, name: str) -> None:
    answer = await stage.get(f"/static/{name}", token="token-of-ann")
    assert answer.status == 404
    assert "import " not in answer.text


async def test_what_is_too_large_is_refused(stage: Stage) -> None:
    assert (await stage.get(f"/?text={'x' * 5000}", token="token-of-ann")).status == 414
    answer = await stage.post("/login", data={"token": "x" * 100_000})
    assert answer.status == 413
    assert "<main" in answer.text
    assert stage.cluster.asked == {}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_other_methods_are_refused(stage: Stage, method: str) -> None:
    assert (await stage.request(method, "/", token="token-of-ann")).status == 405


@pytest.mark.parametrize(
    "host",
    [
        "evil.example.com",
        "evil.example.com:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1.evil.com:{port}",
        "2130706433:{port}",
    ],
)
async def test_another_name_for_dev_is_refused(local: Stage, host: str) -> None:
    """A site may have its own name lead to this machine, and read what a browser gets for it."""
    headers = {"Host": host.format(port=local.address.port)}
    for path in ("/", f"/?key={KEY}", "/static/style.css"):
        answer = await local.get(path, headers=headers)
        assert (answer.status, answer.cookies) == (421, {})


@pytest.mark.parametrize(
    "host", ["", "a b:c", "[::", "x:99999999", "x:é".encode().decode("latin-1"), "a/b", "a@b:1", "x" * 300, ":"]
)
async def test_a_host_that_is_none_is_no_fault(stage: Stage, host: str, caplog: pytest.LogCaptureFixture) -> None:
    stage.cluster.rights = {("ann", "list", "*")}
    for path in ("/", "/login", "/live?path=/none", "/cr/example.com/v1/Thing/a/none"):
        assert (await stage.get(path, token="token-of-ann", headers={"Host": host})).status in (200, 400, 404)
    form = {"token": "token-of-ann"}
    assert (await stage.post("/login", data=form, headers={"Host": host, "Origin": f"http://{host}"})).status in (
        303,
        400,
        403,
    )
    assert caplog.records == []


async def test_a_replica_that_waits_says_so(tmp_path: Path) -> None:
    async with Stage.serving(tmp_path) as stage:
        answer = await stage.get("/", token="token-of-ann")
        assert (answer.status, "This replica waits." in answer.text) == (503, True)
        assert (await stage.get("/")).status == 401
        stage.show()
        assert (await stage.get("/", token="token-of-ann")).status == 200
        stage.dashboard.hide()
        assert "being stopped" in (await stage.get("/", token="token-of-ann")).text


async def test_a_shard_says_that_it_is_one(local: Stage) -> None:
    (cookie,) = (await local.get(f"/?key={KEY}")).cookies.values()
    assert "the shard" not in (await local.get("/", cookie=cookie.partition(";")[0])).text
    local.show(Settings(shard=Shard("ring", "pod-7")))
    assert "This is the shard <strong>pod-7</strong>" in (await local.get("/", cookie=cookie.partition(";")[0])).text


async def test_a_fault_is_a_page_that_tells_nothing(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.cluster.is_broken = True
    answer = await stage.get("/", token="token-of-ann")
    assert (answer.status, "<main" in answer.text) == (503, True)
    assert "no right" not in answer.text
    assert "token-of-ann" not in caplog.text


@pytest.mark.parametrize(
    "path",
    [
        "/cr/example.com/v1/Thing/a/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/cr/%3Cscript%3E/v1/Thing/a/b",
        "/run/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/compare?one=%3Cscript%3E&other=%22%3E%3Cimg%20src=x%3E",
        "/?text=%3Cscript%3Ealert(1)%3C/script%3E&namespace=%22%20onfocus=x",
        "/?text=%00%ff%fe&page=99999999999999999999&state=%0d%0aSet-Cookie:%20a=b",
        "/%3Cscript%3Ealert(1)%3C/script%3E",
    ],
)
@pytest.mark.parametrize("token", ["", "token-of-ann"])
async def test_what_an_address_says_is_never_markup(stage: Stage, path: str, token: str) -> None:
    stage.cluster.rights |= {("ann", "list", "*"), ("ann", "get", "*")}
    answer = await stage.get(path, token=token)
    assert answer.status in (200, 400, 401, 404)
    assert "<script>" not in answer.text
    assert "<img src=x" not in answer.text
    assert '" onfocus' not in answer.text
    assert answer.cookies == {}


async def test_bytes_that_are_no_http_end_a_connection_and_nothing_else(stage: Stage) -> None:
    for data in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nX: " + b"y" * 20_000 + b"\r\n\r\n"):
        reader, writer = await asyncio.open_connection(stage.address.host, stage.address.port)
        writer.write(data + b"\r\n\r\n")
        async with asyncio.timeout(30):
            assert not (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
    assert (await stage.get("/", token="token-of-ann")).status == 200
