"""A volume provisioner: each claim of the class `standard` gets a PersistentVolume, which is never mounted.

kube-controller-manager's own host-path provisioner would make folders on this machine that outlive the cluster. This is what
Kubernetes calls an external provisioner: kube-controller-manager marks the claims that wait for it, and binds them to the
volumes that it creates. Released volumes are deleted by kwok (`stages.yaml`).
"""

from __future__ import annotations

import asyncio
import json
import ssl

import aiohttp

from devkit.devcluster.supervisor import PROVISIONER
from runner.resource.metadata import Object

# Seconds between two attempts to reach the API server.
_PAUSE = 0.5
# Bytes: a watch's line is a whole object, which etcd limits to 1.5 MiB.
_LINE = 4 * 1024 * 1024


async def provision(server: str, context: ssl.SSLContext) -> None:
    """Create the volumes that claims wait for, without end; the API server may come and go."""
    connector = aiohttp.TCPConnector(ssl=context)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(
        server, connector=connector, timeout=timeout, read_bufsize=_LINE, raise_for_status=True
    ) as session:
        while True:
            try:
                await _follow(session)
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(_PAUSE)


async def _follow(session: aiohttp.ClientSession) -> None:
    """Create volumes until the watch ends, which begins with the claims that exist."""
    async with session.get("/api/v1/persistentvolumeclaims", params={"watch": "true"}) as events:
        async for line in events.content:
            claim = json.loads(line)["object"]
            if _waits(claim):
                await _create(session, volume(claim, await _reclaim_policy(session, claim)))


def _waits(claim: Object) -> bool:
    metadata, spec = claim.get("metadata") or {}, claim.get("spec") or {}
    provisioner = (metadata.get("annotations") or {}).get("volume.kubernetes.io/storage-provisioner")
    return provisioner == PROVISIONER and "volumeName" not in spec and "deletionTimestamp" not in metadata


async def _reclaim_policy(session: aiohttp.ClientSession, claim: Object) -> str:
    name = claim["spec"]["storageClassName"]
    async with session.get(f"/apis/storage.k8s.io/v1/storageclasses/{name}") as answer:
        policy: str = (await answer.json())["reclaimPolicy"]
    return policy


async def _create(session: aiohttp.ClientSession, body: Object) -> None:
    async with session.post("/api/v1/persistentvolumes", json=body, raise_for_status=False) as answer:
        # It was created before, and is not bound yet.
        if answer.status != 409:
            answer.raise_for_status()


def volume(claim: Object, reclaim_policy: str) -> Object:
    """The PersistentVolume for a claim, as it asks for it."""
    metadata, spec = claim["metadata"], claim["spec"]
    name = f"pvc-{metadata['uid']}"
    return {
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "accessModes": spec["accessModes"],
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            # Never mounted.
            "hostPath": {"path": f"/devcluster/{name}"},
            "persistentVolumeReclaimPolicy": reclaim_policy,
            "storageClassName": spec["storageClassName"],
            "volumeMode": spec.get("volumeMode", "Filesystem"),
        },
    }
