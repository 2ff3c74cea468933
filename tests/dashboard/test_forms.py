"""Forms that are none, and whose they are."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from runner.dashboard import forms
from tests.dashboard.stage import Stage

FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": FORM}, b"token=\xff", 400),
        ({"Content-Type": FORM}, b"a=1&" * 50, 400),
        ({"Content-Type": FORM}, b"token=" + b"x" * 2 * forms.LARGEST, 413),
        ({"Content-Type": FORM, "Content-Encoding": "gzip"}, b"no gzip", 400),
        ({"Content-Type": FORM, "Content-Encoding": "gzip"}, gzip.compress(b"x" * 100 * forms.LARGEST), 413),
        ({"Content-Type": f"{FORM}; charset=none"}, b"token=x", 401),
        ({"Content-Type": "text/plain"}, b"token=token-of-ann", 415),
        ({"Content-Type": "multipart/form-data"}, b"token=token-of-ann", 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"no boundary", 415),
        ({"Origin": "http://["}, b"", 403),
        ({"Origin": "null"}, b"", 403),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_what_is_no_form_is_no_fault(
    stage: Stage, caplog: pytest.LogCaptureFixture, headers: dict[str, str], body: bytes, status: int
) -> None:
    """A stranger could fill the log with tracebacks."""
    answer = await stage.post("/login", headers=headers, data=body)
    assert (answer.status, answer.cookies) == (status, {})
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_form_that_does_not_end_is_not_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "_PATIENCE", 0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.address.port)
    writer.write(f"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\nContent-Length: 9\r\n\r\ntoken=".encode())
    async with asyncio.timeout(60):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()
