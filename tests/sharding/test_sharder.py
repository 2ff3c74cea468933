"""The stand-in does in a cluster what the sharder does: it was seen to do the same, step by step."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.driver import Cluster, until
from devkit.devcluster import Cluster as Devcluster
from runner.kube.lease import LEASE
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey
from runner.resource.sharding import RING_LABEL, Shard
from tests.conftest import crd, thing
from tests.sharding import SYNC_PERIOD, setup
from tests.sharding.leases import SHARDER
from tests.sharding.sharder import STATE_LABEL

# A kind and a ring that no other test has.
GVK = GroupVersionKind("sharder.example.com", "v1", "Thing")
CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")
RING = "sharder-itself"
LABELS = Shard(RING, "")


def stamp() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@contextlib.asynccontextmanager
async def shard(world: Cluster, key: ObjectKey) -> AsyncIterator[None]:
    """A Lease that is renewed meanwhile; in the end there are three seconds left of it, whatever it had before."""
    spec = {"holderIdentity": key.name, "leaseDurationSeconds": 60, "acquireTime": stamp(), "renewTime": stamp()}
    metadata = {"name": key.name, "labels": {RING_LABEL: RING}}
    await world.create({"apiVersion": LEASE.api_version, "kind": "Lease", "metadata": metadata, "spec": spec}, key.namespace)

    async def renew() -> None:
        while True:
            await asyncio.sleep(0.3)
            await world.patch(LEASE, key, {"spec": {"renewTime": stamp()}})

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.wait([renewing])
        await world.patch(LEASE, key, {"spec": {"leaseDurationSeconds": 3, "renewTime": stamp()}})


def label(obj: Object, name: str) -> str | None:
    value: str | None = (obj["metadata"].get("labels") or {}).get(name)
    return value


def names(objects: Iterable[Object]) -> set[str]:
    return {obj["metadata"]["name"] for obj in objects}


async def test_objects_follow_the_shards(world: Cluster, devcluster: Devcluster, namespace: str, tmp_path: Path) -> None:
    await world.install(crd(GVK))
    await world.create(thing("early", GVK), namespace)
    await setup.install(world, RING, {"things.sharder.example.com": ("configmaps",)})
    sharder = setup.start(devcluster.kubeconfig, tmp_path, sync_period=SYNC_PERIOD)

    async def things() -> list[dict[str, Any]]:
        return await world.list(GVK, namespace)

    async def all_of(name: str) -> bool:
        return all(label(each, LABELS.label) == name for each in await things())

    async def drained() -> list[dict[str, Any]]:
        return [each for each in await things() if label(each, LABELS.drain_label)]

    try:
        await setup.ready(world, RING)
        async with shard(world, ObjectKey(namespace, "a")):
            await setup.ready(world, RING, shards=1)
            await until(lambda: all_of("a"), "what was there before the shard is assigned")
            made = [await world.create(thing(f"thing-{number}", GVK), namespace) for number in range(20)]
            assert {label(each, LABELS.label) for each in made} == {"a"}

            second = ObjectKey(namespace, "b")
            async with shard(world, second):
                # Nothing else is done with them until their shard has let them go.
                to_go = await until(drained, "some of the first shard's are to be drained")
                assert await all_of("a")
                owner = to_go[0]
                reference = {"apiVersion": GVK.api_version, "kind": GVK.kind, "controller": True}
                reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
                config_map = {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "x", "ownerReferences": [reference]},
                }
                assert label(await world.create(config_map, namespace), LABELS.label) == "b"
                let_go = {"metadata": {"labels": {LABELS.label: None, LABELS.drain_label: None}}}
                assert label(await world.patch(GVK, ObjectKey.of(owner), let_go), LABELS.label) == "b"

            # It renews its Lease no more.
            await until(lambda: all_of("a"), "the dead shard's are moved")
            # Those that were to go to it are for their shard to let go as before.
            assert names(await drained()) >= names(to_go[1:])
            lease = await world.get(LEASE, second)
            assert lease is not None
            assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseDurationSeconds"]) == (SHARDER, 6)

            async def labelled() -> bool:
                return label(await world.get(LEASE, second) or {"metadata": {}}, STATE_LABEL) == "dead"

            await until(labelled, "its Lease says that it is dead")

            async def followed() -> bool:
                found = await world.get(CONFIG_MAP, ObjectKey(namespace, "x"))
                return found is not None and label(found, LABELS.label) == "a"

            await until(followed, "what is controlled is where its controller is")
        assert sharder.process.poll() is None
    finally:
        sharder.kill()
        await setup.uninstall(world, RING)
