"""What kopf leaves to be done."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench.driver import NAMESPACE, Cluster, until
from devkit.devcluster import Cluster as Devcluster
from runner.config.watches import Content, Watch
from runner.kube.client import ApiClient
from runner.kube.primaries import _reason, watch_primaries
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey
from tests.conftest import THING, crd, thing


class LateToServe(ApiClient):
    """In the sessions that it gives to others, the server does not yet serve the kinds of whatever CRD is there."""

    late = True
    asked = 0
    watches_crds = False

    def new_session(self, *middlewares: aiohttp.ClientMiddlewareType, **options: Any) -> aiohttp.ClientSession:
        async def hide(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
            response = await handler(request)
            if "customresourcedefinitions" in request.url.path and "watch" in request.url.query:
                self.watches_crds = True
            if request.url.path == "/apis":
                self.asked += 1
                if self.late:
                    groups = [group for group in (await response.json())["groups"] if "example.com" not in group["name"]]
                    response._body = json.dumps({"groups": groups}).encode()
            return response

        return super().new_session(*middlewares, hide, **options)


class ComesInBetween(ApiClient):
    """In the sessions that it gives to others, `come` happens between the first list of namespaces and the next."""

    listed = 0

    async def come(self) -> None:
        raise NotImplementedError

    def new_session(self, *middlewares: aiohttp.ClientMiddlewareType, **options: Any) -> aiohttp.ClientSession:
        async def between(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
            if request.url.path == "/api/v1/namespaces" and "watch" not in request.url.query:
                self.listed += 1
                if self.listed == 2:
                    await self.come()
            return await handler(request)

        return super().new_session(*middlewares, between, **options)


def watch_of(gvk: GroupVersionKind) -> Watch:
    return Watch(gvk=gvk, content=Content(role=Path("role")), reconcile_period=1, max_concurrent_reconciles=1, verbosity=0)


def test_why_kopf_has_ended_is_a_sentence() -> None:
    assert _reason(kopf_error({"kind": "Status", "message": "no", "reason": "Forbidden"})) == "Forbidden: no"
    assert _reason(ConnectionError("gone")) == "gone"
    assert _reason(TimeoutError()) == "TimeoutError"


def kopf_error(status: dict[str, str]) -> Exception:
    """As kopf makes its own: the message, and the whole answer."""
    return Exception(status["message"], status)


async def test_a_kind_that_is_served_later_than_its_crd_says_is_watched(devcluster: Devcluster, namespace: str) -> None:
    # kopf asks what is served when a CRD changes, and not again.
    gvk = GroupVersionKind(f"g{uuid.uuid4().hex[:8]}.example.com", "v1", "Late")
    seen: list[Object] = []
    client = await LateToServe.connect({"KUBECONFIG": str(devcluster.kubeconfig)})
    cluster = Cluster(client)
    watching = asyncio.create_task(
        watch_primaries(
            client,
            watches=[watch_of(gvk)],
            namespaces=[namespace],
            notify=lambda _, event, obj: seen.append(obj),
            started=lambda: None,
        )
    )
    try:

        async def watches_crds() -> bool:
            return client.watches_crds

        async def asked() -> bool:
            return client.asked > 1

        await until(watches_crds, "kopf watches CRDs")
        await cluster.install(crd(gvk))
        await until(asked, "kopf asks about the new CRD")
        client.late = False
        await cluster.create(thing("one", gvk), namespace)

        async def noticed() -> bool:
            return bool(seen)

        await until(noticed, "the CR is noticed")
        assert {obj["metadata"]["name"] for obj in seen} == {"one"}
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await client.close()


async def test_rights_in_its_namespace_are_all_it_needs(devcluster: Devcluster, namespace: str, tmp_path: Path) -> None:
    """As the Go project scaffolds them: no right to list namespaces or CRDs. A core kind shares its path with namespaces."""

    def kubectl(*arguments: str) -> str:
        command = [str(devcluster.kubectl), "--kubeconfig", str(devcluster.kubeconfig), "--namespace", namespace, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    kubectl("create", "role", "reader", "--verb=get,list,watch", "--resource=secrets")
    kubectl("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:default")
    config = json.loads(devcluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": kubectl("create", "token", "default").strip()}
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    seen: list[Object] = []
    client = await ApiClient.connect({"KUBECONFIG": str(tmp_path / "kubeconfig")})
    watching = asyncio.create_task(
        watch_primaries(
            client,
            watches=[watch_of(GroupVersionKind("", "v1", "Secret"))],
            namespaces=[namespace],
            notify=lambda _, event, obj: seen.append(obj),
            started=lambda: None,
        )
    )
    try:
        kubectl("create", "secret", "generic", "one")

        async def noticed() -> bool:
            return "one" in {obj["metadata"]["name"] for obj in seen}

        await until(noticed, "the Secret is noticed")
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await client.close()


async def test_a_namespace_that_comes_as_kopf_begins_to_watch_them_is_seen(
    devcluster: Devcluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    client = await ComesInBetween.connect({"KUBECONFIG": str(devcluster.kubeconfig)})
    own = await ApiClient.connect({"KUBECONFIG": str(devcluster.kubeconfig)})
    world = Cluster(own)
    await world.install(crd(THING))
    fresh = f"{namespace}-fresh"

    async def come() -> None:
        await world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": fresh}})
        await world.create(thing(), fresh)

    monkeypatch.setattr(client, "come", come)
    watching = asyncio.create_task(
        watch_primaries(
            client,
            watches=[watch_of(THING)],
            namespaces=[f"{namespace}-*"],
            notify=lambda _, event, obj: seen.append(obj["metadata"]["namespace"]),
            started=lambda: None,
        )
    )
    try:

        async def told() -> bool:
            return fresh in seen

        await until(told, "the CR in the fresh namespace is told")
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await world.delete(NAMESPACE, ObjectKey("", fresh))
        await client.close()
        await own.close()


def test_no_private_module_of_kopf_is_imported() -> None:
    sources = (path.read_text() for path in Path("runner").rglob("*.py"))
    assert not [line for text in sources for line in text.splitlines() if re.match(r"\s*(from|import) kopf\._", line)]
