"""osdk_metric as a role calls it: by ansible-playbook, against the endpoint itself."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from devkit.devcluster import Cluster as Devcluster
from runner.config.settings import Address
from runner.serving.role_metrics import RoleMetrics
from runner.serving.server import serving_role_metrics
from tests.collections.test_modules import play


def osdk_metric(address: Address, name: str = "x", **options: Any) -> dict[str, Any]:
    where = f"http://localhost:{address.port}/metrics"
    return {"operator_sdk.util.osdk_metric": {"name": name, "description": "d", "address": where, **options}}


async def test_what_is_told_arrives_and_what_is_refused_is_told(
    devcluster: Devcluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody listens there: what stays in the pod does not go through a proxy for the world outside.
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    brought = RoleMetrics(CollectorRegistry())
    async with serving_role_metrics(Address("localhost", 0), brought) as address:
        tasks = [
            osdk_metric(address, "made_total", counter={}),
            osdk_metric(address, "level", gauge={"set": 7}),
            osdk_metric(address, "level", gauge={"set": 0}),
            {**osdk_metric(address, "dry", gauge={"set": 0}), "check_mode": True},
            osdk_metric(address, "level", counter={"add": 1}),
            osdk_metric(address, "level", gauge={}, summary={}),
            osdk_metric(address, "level"),
        ]
        results = await asyncio.to_thread(play, tmp_path, devcluster, tasks)
    assert [result["changed"] for result in results[:4]] == [True] * 4
    assert brought.exposition().decode().splitlines()[2::3] == ["made_total 0.0", "level 0.0"]
    changed, both, neither = results[4:]
    assert (changed["status_code"], changed["msg"]) == (400, "cannot change metric type of level, which is a gauge")
    assert "mutually exclusive" in both["msg"]
    assert "one of the following is required: counter, gauge, histogram, summary" in neither["msg"]


def test_an_operator_that_takes_no_metrics_is_told_of(devcluster: Devcluster, tmp_path: Path) -> None:
    # One that does not listen; as long as it is there, nobody else gets its port.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        (result,) = play(tmp_path, devcluster, [osdk_metric(Address("", port), gauge={"set": 1})])
    assert result["msg"].startswith(f"http://localhost:{port}/metrics takes no metrics: ")
    assert "see the operator's --role-metrics-bind-address" in result["msg"]
    assert "status_code" not in result
