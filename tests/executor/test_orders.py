import asyncio
import json
import threading
from pathlib import Path

import pytest

from runner.executor import orders
from runner.executor.jobs import Job
from runner.executor.orders import environment, put_inputs


@pytest.mark.parametrize(
    ("upper", "lower", "told"),
    [
        (None, None, ("127.0.0.1", "127.0.0.1")),
        (".svc,10.0.0.0/8", None, (".svc,10.0.0.0/8,127.0.0.1",) * 2),
        (None, ".svc", (".svc,127.0.0.1",) * 2),
        (".svc", ".local", (".svc,127.0.0.1", ".local,127.0.0.1")),
        ("127.0.0.1,.svc", "", ("127.0.0.1,.svc", "127.0.0.1")),
        ("*", None, ("*", "*")),
    ],
)
def test_no_http_proxy_between_a_run_and_the_runner(
    upper: str | None, lower: str | None, told: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    for name, given in (("NO_PROXY", upper), ("no_proxy", lower)):
        monkeypatch.delenv(name, raising=False) if given is None else monkeypatch.setenv(name, given)
    made = environment()
    assert (made["NO_PROXY"], made["no_proxy"]) == told


def test_without_an_http_proxy_nothing_says_that_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roles hand NO_PROXY on to what they make, as eda-server-operator does."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert {"NO_PROXY", "no_proxy"}.isdisjoint(environment())


@pytest.mark.parametrize("is_big", [False, True], ids=["small", "big"])
async def test_many_variables_are_written_beside_the_event_loop(
    tmp_path: Path, is_big: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[bool] = []
    written = orders._write_inputs
    monkeypatch.setattr(
        orders,
        "_write_inputs",
        lambda job: (where.append(threading.current_thread() is threading.main_thread()), written(job)),
    )
    places = {"folder": tmp_path / "it", "scratch": tmp_path / "tmp", "role": tmp_path / "role"}
    await put_inputs(Job(ident="it", **places, extra_vars={"a": 1}, is_big=is_big))
    assert json.loads((tmp_path / "it" / "env" / "extravars").read_text()) == {"a": 1}
    assert where == [not is_big]


async def test_a_run_that_is_ended_while_its_inputs_are_written_leaves_nobody_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    written = orders._write_inputs

    def write(job: Job) -> None:
        begun.set()
        go_on.wait()
        written(job)

    monkeypatch.setattr(orders, "_write_inputs", write)
    places = {"folder": tmp_path / "it", "scratch": tmp_path / "tmp", "role": tmp_path / "role"}
    putting = asyncio.create_task(put_inputs(Job(ident="it", **places, is_big=True)))
    await asyncio.to_thread(begun.wait)
    putting.cancel()
    await asyncio.sleep(0)
    assert not putting.done()
    go_on.set()
    await asyncio.wait({putting})
    assert putting.cancelled()
    assert (tmp_path / "it" / "env" / "extravars").exists()
