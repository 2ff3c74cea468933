"""What the proxy adds to a request of a run: `python -m bench.proxy`.

The Kubernetes client of a run's modules asks the API server itself and through the proxy, in turns, over connections that
are kept. It is a process of its own, as runs are. On a cluster of its own, or that of $KUBECONFIG.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from kubernetes import client as kubernetes
from kubernetes import config

from bench.driver import MEMCACHED, NAMESPACE, Cluster, memcached, prepare, some_cluster, tidy_on_sigterm
from runner.kube.discovery import Discovery
from runner.private_files import write_private
from runner.proxy.server import ProxyServer
from runner.proxy.sessions import Session, Sessions, kubeconfigs
from runner.resource.metadata import ObjectKey, Owner

NAME = "asked"
TURNS = 10


def ask(paths: list[str], namespace: str, times: int) -> list[dict[str, float]]:
    """The median of each kind of request through each, in ms."""
    connect: Any = config.new_client_from_config
    apis = [kubernetes.CoreV1Api(connect(path)) for path in paths]
    taken: list[dict[str, list[float]]] = [{"get": [], "patch": []} for _ in apis]
    for turn in range(TURNS):
        for api, seconds in zip(apis, taken, strict=True):
            for number in range(times // TURNS):
                begun = time.perf_counter()
                api.read_namespaced_config_map(NAME, namespace)
                between = time.perf_counter()
                api.patch_namespaced_config_map(NAME, namespace, {"data": {"turn": f"{turn}-{number}"}})
                seconds["get"].append(between - begun)
                seconds["patch"].append(time.perf_counter() - between)
    return [{kind: round(1000 * statistics.median(each), 2) for kind, each in seconds.items()} for seconds in taken]


async def measure(kubeconfig: Path, folder: Path, *, times: int) -> list[dict[str, float]]:
    """Directly, and through the proxy."""
    namespace = f"bench-proxy-{os.getpid()}"
    async with Cluster.connected(kubeconfig) as world:
        await prepare(world, namespace)
        try:
            owner = await world.create(memcached("owner", 1), namespace)
            uid, key = owner["metadata"]["uid"], ObjectKey(namespace, "owner")
            session = Session(owner=Owner(MEMCACHED, key, uid), inject_owner=True, on_dependent=_nothing, on_write=_nothing)
            sessions = Sessions()
            proxy = ProxyServer(world.client, Discovery(world.client), sessions, covering=_nothing, port=0)
            async with proxy:
                with sessions.opened(session) as token:
                    own = folder / "kubeconfig"
                    write_private(own, kubeconfigs(token, port=proxy.port, namespace=namespace)[1])
                    asked = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": {"turn": ""}}
                    await world.create(asked, namespace)
                    return await _asked([str(kubeconfig), str(own)], namespace, times)
        finally:
            await world.delete(NAMESPACE, ObjectKey("", namespace))


def _nothing(*_: Any) -> None:
    """Nobody wants to know, and nothing is kept here: each request goes to the API server."""


async def _asked(paths: list[str], namespace: str, times: int) -> list[dict[str, float]]:
    arguments = json.dumps([paths, namespace, times])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.proxy", "--ask", arguments, stdout=asyncio.subprocess.PIPE
    )
    text, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    answer: list[dict[str, float]] = json.loads(text)
    return answer


@click.command(help=__doc__)
@click.option("--times", type=click.IntRange(TURNS), default=500, show_default=True, help="Requests of each kind, each way.")
@click.option("--ask", "asked", hidden=True)
def main(times: int, asked: str | None) -> None:
    if asked is not None:
        click.echo(json.dumps(ask(*json.loads(asked))))
        return
    tidy_on_sigterm()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rolerunner-proxy-")))
        kubeconfig, _ = stack.enter_context(some_cluster())
        directly, through = asyncio.run(measure(kubeconfig, folder, times=times))
    click.echo(json.dumps({"directly_ms": directly, "through_the_proxy_ms": through}))


if __name__ == "__main__":
    main()
