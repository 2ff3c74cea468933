"""The stand-in for the sharder, as a process: `python -m tests.sharding.sharder`.

It keeps each ControllerRing's webhook and status, takes over the Leases of shards that do not renew them, assigns objects as
they are written, and drains or moves those that a coming or going shard leaves in the wrong place.

Next on the way: `tests.sharding.setup`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import click
import trustme
from aiohttp import web

from runner.json_codec import encode
from runner.kube.backoff import Backoff
from runner.kube.client import ApiClient, ApiError, KubeError, NotFound, Unreachable, parsed
from runner.kube.discovery import Discovery, Resource
from runner.kube.informer import Informer
from runner.kube.lease import LEASE
from runner.resource.metadata import Object, ObjectKey, labels_of
from runner.resource.sharding import CONTROLLER_RING, RING_DOMAIN, RING_LABEL
from tests.sharding import leases
from tests.sharding.assignment import GroupResource, Shards, Unassignable, resources_of
from tests.sharding.leases import Shard, State
from tests.sharding.manifests import EXCLUDED, WEBHOOK, webhook_configuration

logger = logging.getLogger(__name__)

STATE_LABEL = f"{RING_DOMAIN}/state"
_WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/"
_MANAGER = "stand-in-sharder"
# Of objects, no more is asked for.
_METADATA_ONLY = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
_PAGE = "500"
# Seconds until what failed is tried again: a change of objects, most often as they were written meanwhile, and all else.
_RETRY_CHANGES, _RETRY = 5.0, 1.0
# Seconds between two looks at the Leases, even if one could have changed its state sooner.
_SOONEST = 0.05


class Sharder:
    """Works on all rings while it `run`s; `url` is where the API server finds `admit`, `ca` signed its certificate."""

    def __init__(self, client: ApiClient, *, url: str, ca: bytes, sync_period: float, concurrent_moves: int) -> None:
        self._client = client
        self._discovery = Discovery(client)
        self._url = url
        self._ca = ca
        self._sync_period = sync_period
        self._moving = asyncio.Semaphore(concurrent_moves)
        lease = Resource(LEASE, "leases", namespaced=True)
        self._leases = Informer(client, lease, "", self._lease_changed, lambda obj: RING_LABEL in labels_of(obj))
        ring = Resource(CONTROLLER_RING, "controllerrings", namespaced=False)
        self._rings = Informer(client, ring, "", self._ring_changed)
        # Set when a Lease was written; by ring, when its objects are to be looked at, and when itself is.
        self._lease_news = asyncio.Event()
        self._objects_due: dict[str, asyncio.Event] = {}
        self._ring_due: dict[str, asyncio.Event] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._tasks:
            for informer in (self._leases, self._rings):
                self._tasks.create_task(informer.run())
            self._tasks.create_task(self._keep_leases())

    # What the informers report.

    def _lease_changed(self, before: Object | None, after: Object | None) -> None:
        self._lease_news.set()
        ring = labels_of(after or before or {}).get(RING_LABEL, "")
        if ring not in self._ring_due:
            return
        now = datetime.now(UTC)
        changed = leases.is_available(before, now) != leases.is_available(after, now)
        if changed:
            self._objects_due[ring].set()
        if changed or before is None or after is None:
            self._ring_due[ring].set()

    def _ring_changed(self, before: Object | None, after: Object | None) -> None:
        if after is None:
            return
        name = after["metadata"]["name"]
        if name not in self._ring_due:
            assert self._tasks is not None
            self._objects_due[name], self._ring_due[name] = asyncio.Event(), asyncio.Event()
            self._tasks.create_task(self._keep_assignments(name))
            self._tasks.create_task(self._keep_ring(name))
        if before is None or before["metadata"].get("generation") != after["metadata"].get("generation"):
            for news in (self._lease_news, self._objects_due[name], self._ring_due[name]):
                news.set()

    def _ring(self, name: str) -> Object | None:
        return self._rings.store.get(ObjectKey("", name))

    def _shards(self, ring: str) -> Shards:
        of_the_ring = (lease for lease in self._leases.store.values() if labels_of(lease)[RING_LABEL] == ring)
        return Shards.of(ring, of_the_ring, datetime.now(UTC))

    # Leases.

    async def _keep_leases(self) -> None:
        """Look at each Lease when it is written, and when its state changes by itself."""
        while True:
            self._lease_news.clear()
            wait = self._sync_period
            for lease in list(self._leases.store.values()):
                if self._ring(labels_of(lease)[RING_LABEL]) is not None:
                    try:
                        wait = min(wait, await self._keep_lease(lease))
                    except KubeError as error:
                        # A shard that renews its Lease meanwhile is the usual case.
                        logger.info("A Lease could not be written: %s", error)
                        wait = min(wait, _RETRY)
            await _set_within(self._lease_news, max(wait, _SOONEST))

    async def _keep_lease(self, lease: Object) -> float:
        """Label a Lease with its state, and act on that; the seconds until it is to be looked at again. Raises KubeError."""
        now = datetime.now(UTC)
        shard = Shard.of(lease, now)
        path = self._leases.resource.path(ObjectKey.of(lease))
        if labels_of(lease).get(STATE_LABEL) != shard.state.value:
            logger.info("The shard %s is %s", shard.name, shard.state.value)
            version = lease["metadata"]["resourceVersion"]
            patch = {"metadata": {"resourceVersion": version, "labels": {STATE_LABEL: shard.state.value}}}
            lease = await self._client.patch(path, patch)
        if shard.state is State.UNCERTAIN:
            await self._client.put(path, leases.taken_over(lease, now))
        elif shard.state is State.ORPHANED:
            await self._client.delete(path)
        return (shard.changes - now).total_seconds()

    # Rings.

    async def _keep_ring(self, name: str) -> None:
        """Keep a ring's webhook and status current."""
        backoff = Backoff(_RETRY, self._sync_period)
        while True:
            await self._ring_due[name].wait()
            self._ring_due[name].clear()
            try:
                if (ring := self._ring(name)) is not None:
                    webhook = webhook_configuration(ring, url=self._url, ca=self._ca)
                    await self._client.apply(f"{_WEBHOOKS}{webhook['metadata']['name']}", webhook, manager=_MANAGER)
                    await self._write_status(ring)
                backoff.reset()
            except KubeError as error:
                logger.warning("The ring %s could not be kept: %s", name, error)
                await backoff.pause()
                self._ring_due[name].set()

    async def _write_status(self, ring: Object) -> None:
        name, generation = ring["metadata"]["name"], ring["metadata"]["generation"]
        shards = self._shards(name)
        ready = {
            **{"type": "Ready", "status": "True", "reason": "ReconciliationSucceeded", "message": "Its webhook is there"},
            **{"observedGeneration": generation, "lastTransitionTime": ring["metadata"]["creationTimestamp"]},
        }
        counts = {"shards": len(shards.known), "availableShards": len(shards.available)}
        status = {"observedGeneration": generation, **counts, "conditions": [ready]}
        await self._client.patch(self._rings.resource.path(ObjectKey("", name), subresource="status"), {"status": status})

    # Objects.

    async def _keep_assignments(self, name: str) -> None:
        """Look at all objects of a ring when a shard comes or goes, and now and then."""
        backoff = Backoff(_RETRY_CHANGES, self._sync_period)
        while True:
            self._objects_due[name].clear()
            ring = self._ring(name)
            if ring is not None and await self._resync(ring):
                wait = min(backoff.next(), self._sync_period)
            else:
                wait = self._sync_period
                backoff.reset()
            await _set_within(self._objects_due[name], wait)

    async def _resync(self, ring: Object) -> int:
        """Drain or move what is in the wrong place; how often that failed."""
        name = ring["metadata"]["name"]
        shards = self._shards(name)
        results: list[bool] = []
        try:
            namespaces = await self._namespaces(ring)
            for kind in resources_of(ring):
                results += await self._resync_kind(kind, shards, namespaces)
        except KubeError as error:
            logger.warning("The objects of the ring %s could not be listed: %s", name, error)
            results.append(False)
        failed = results.count(False)
        known = ", ".join(sorted(shards.available)) or "none"
        logger.info("The ring %s has %s: %d drained or moved, %d failed", name, known, results.count(True), failed)
        return failed

    async def _resync_kind(self, kind: GroupResource, shards: Shards, namespaces: set[str]) -> list[bool]:
        resource = await self._resource(kind)
        changes = []
        async for obj in self._listed(resource):
            # An object without a namespace is assigned when it is written, and stays where it is.
            if obj["metadata"].get("namespace") in namespaces:
                with contextlib.suppress(Unassignable):
                    if patch := shards.change(obj, controlled=kind.controlled):
                        changes.append(asyncio.create_task(self._change(resource.path(ObjectKey.of(obj)), patch)))
        return await asyncio.gather(*changes)

    async def _change(self, path: str, patch: Mapping[str, Any]) -> bool:
        async with self._moving:
            try:
                await self._client.patch(path, patch)
            except NotFound:
                pass
            except KubeError as error:
                logger.info("An object could not be drained or moved: %s", error)
                return False
            return True

    async def _namespaces(self, ring: Object) -> set[str]:
        """The namespaces of a ring. Of selectors, only the default one and `matchLabels` are known here."""
        labels = ((ring.get("spec") or {}).get("namespaceSelector") or {}).get("matchLabels") or {}
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        listed = await self._client.get("/api/v1/namespaces", {"labelSelector": selector})
        names = {item["metadata"]["name"] for item in listed["items"]}
        return names if selector else names - set(EXCLUDED)

    async def _resource(self, kind: GroupResource) -> Resource:
        version = "v1"
        if kind.group:
            version = (await self._client.get(f"/apis/{kind.group}"))["preferredVersion"]["groupVersion"]
        resource = await self._discovery.by_plural(version, kind.plural)
        if resource is None:
            raise NotFound(404, f"the cluster has no {kind.plural} of {version}")
        return resource

    async def _listed(self, resource: Resource) -> AsyncIterator[Object]:
        """The metadata of all objects of a kind, as the API server's cache has them. Raises KubeError."""
        # A change of what is older than it was is refused, and is tried again.
        params = {"limit": _PAGE, "resourceVersion": "0"}
        kind = {"apiVersion": resource.gvk.api_version, "kind": resource.gvk.kind}
        while params:
            page = await self._get(resource.path(), params)
            for item in page["items"] or ():
                yield {**item, **kind}
            token = page["metadata"].get("continue")
            params = {"limit": _PAGE, "continue": token} if token else {}

    async def _get(self, path: str, params: Mapping[str, str]) -> Mapping[str, Any]:
        try:
            url = self._client.server + path
            async with self._client.session.get(url, params=params, headers=_METADATA_ONLY) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"GET {path}: {error or type(error).__name__}") from error
        if answer.status >= 400:
            raise ApiError(answer.status, content.decode(errors="replace")[:500])
        return await parsed(content, f"GET {path}")

    async def admit(self, request: web.Request) -> web.Response:
        """Answer an AdmissionReview of a ring: the object gets the label of its shard."""
        asked = (await request.json())["request"]
        answer: dict[str, Any] = {"uid": asked["uid"], "allowed": True}
        name, written = request.match_info["ring"], asked["resource"]
        kinds = [kind for kind in resources_of(self._ring(name) or {}) if kind.plural == written["resource"]]
        kinds = [kind for kind in kinds if kind.group == written["group"]]
        try:
            # A kind that is listed as both is a main one.
            is_controlled = all(kind.controlled for kind in kinds)
            if kinds and (patch := self._shards(name).admitted(asked["object"], controlled=is_controlled)):
                answer |= {"patchType": "JSONPatch", "patch": base64.b64encode(encode(patch)).decode()}
        except Unassignable as error:
            answer |= {"allowed": False, "status": {"code": 400, "message": str(error)}}
        return web.json_response({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer})


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


async def run(client: ApiClient, *, sync_period: float = 300.0, concurrent_moves: int = 100) -> None:
    """A sharder, with its webhook, until it is cancelled."""
    ca = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        url = f"https://127.0.0.1:{bound.getsockname()[1]}"
        pem = ca.cert_pem.bytes()
        sharder = Sharder(client, url=url, ca=pem, sync_period=sync_period, concurrent_moves=concurrent_moves)
        app = web.Application(client_max_size=8 << 20)
        app.router.add_post(WEBHOOK + "{ring}", sharder.admit)
        served = web.AppRunner(app, access_log=None)
        await served.setup()
        try:
            await web.SockSite(served, bound, ssl_context=tls).start()
            logger.info("Serving the webhook on %s", url)
            await sharder.run()
        finally:
            await served.cleanup()


async def _run(kubeconfig: Path, *, sync_period: float, concurrent_moves: int) -> None:
    client = await ApiClient.connect({"KUBECONFIG": str(kubeconfig)})
    try:
        await run(client, sync_period=sync_period, concurrent_moves=concurrent_moves)
    finally:
        await client.close()


@click.command(help=__doc__)
@click.option("--kubeconfig", type=Path, default=os.environ.get("KUBECONFIG"), required=True, help="Default: $KUBECONFIG.")
@click.option("--sync-period", default=300.0, show_default=True, help="Seconds between two looks at all objects.")
@click.option("--concurrent-moves", default=100, show_default=True, help="Objects that are drained or moved at once.")
def main(kubeconfig: Path, sync_period: float, concurrent_moves: int) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(kubeconfig, sync_period=sync_period, concurrent_moves=concurrent_moves))


if __name__ == "__main__":
    main()
