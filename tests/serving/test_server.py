import asyncio
import contextlib
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from runner.config.settings import Address
from runner.errors import ConfigurationError
from runner.serving import server
from runner.serving.certificate import ServingCertificate
from runner.serving.role_metrics import RoleMetrics
from runner.serving.server import serving_health, serving_metrics, serving_role_metrics

ANY_PORT = Address("127.0.0.1", 0)


async def test_what_roles_bring_is_served_beside_the_runners_own() -> None:
    role_metrics = RoleMetrics(CollectorRegistry(auto_describe=True))
    async with AsyncExitStack() as stack:
        brought = await stack.enter_async_context(serving_role_metrics(ANY_PORT, role_metrics))
        served = await stack.enter_async_context(serving_metrics(ANY_PORT, role_metrics))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        body = {"name": "x", "description": "d", "counter": {"increment": True}}
        async with session.post(f"http://{brought}/metrics", json=body) as answer:
            assert (answer.status, await answer.text()) == (200, "")
        async with session.post(f"http://{brought}/metrics", json={**body, "gauge": {}}) as answer:
            assert answer.status == 400
            assert "only one metric can be processed at a time" in await answer.text()
        for method in ("GET", "PUT", "DELETE"):
            async with session.request(method, f"http://{brought}/metrics") as answer:
                assert answer.status == 405
        async with session.get(f"http://{served}/metrics") as answer:
            text = await answer.text()
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE x counter\nx 1.0\n" in text
    assert "\nansible_operator_build_info{" in text


async def test_a_probe_finds_a_place_whoever_holds_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_CONNECTIONS", 5)
    async with AsyncExitStack() as stack:
        bound = await stack.enter_async_context(serving_health(ANY_PORT, is_ready=lambda: True))
        held = []
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", bound.port)
            stack.callback(writer.close)
            held.append(reader)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        async with session.get(f"http://{bound}/healthz", timeout=aiohttp.ClientTimeout(60)) as answer:
            assert answer.status == 200
        # The oldest were closed.
        async with asyncio.timeout(60):
            assert await asyncio.gather(*(reader.read() for reader in held[:15])) == [b""] * 15


async def test_connections_that_do_not_begin_tls_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(server, "_CONNECTIONS", 5)
    monkeypatch.setattr(server, "_HANDSHAKE", 3600.0)
    certificate = ServingCertificate(tmp_path)
    async with AsyncExitStack() as stack:
        metrics = serving_metrics(ANY_PORT, RoleMetrics(CollectorRegistry()), certificate=certificate)
        bound = await stack.enter_async_context(metrics)
        held = []
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", bound.port)
            stack.callback(writer.close)
            held.append(reader)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        async with session.get(f"https://{bound}/metrics", ssl=False, timeout=aiohttp.ClientTimeout(60)) as answer:
            assert answer.status == 200

        async def ends(reader: asyncio.StreamReader) -> bool:
            with contextlib.suppress(ConnectionError):
                return await reader.read() == b""
            return True

        # The oldest were closed.
        async with asyncio.timeout(60):
            assert all(await asyncio.gather(*map(ends, held[:15])))


async def test_localhost_is_one_address() -> None:
    async with serving_role_metrics(Address("localhost", 0), RoleMetrics(CollectorRegistry())) as bound:
        with socket.create_connection(("127.0.0.1", bound.port), timeout=60):
            pass


async def test_a_port_in_use_is_one_clear_error() -> None:
    role_metrics = RoleMetrics(CollectorRegistry())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match=rf"--role-metrics-bind-address {address} cannot be listened on: .+"):
            async with serving_role_metrics(address, role_metrics):
                pass


async def test_healthz_tells_when_ansible_cannot_be_run() -> None:
    healthy = True
    async with (
        serving_health(Address("127.0.0.1", 0), is_ready=lambda: True, is_healthy=lambda: healthy) as bound,
        aiohttp.ClientSession() as session,
    ):
        async with session.get(f"http://{bound}/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok")
        healthy = False
        async with session.get(f"http://{bound}/healthz") as answer:
            assert (answer.status, await answer.text()) == (503, "Ansible cannot be run")
        async with session.get(f"http://{bound}/readyz") as answer:
            assert answer.status == 200
