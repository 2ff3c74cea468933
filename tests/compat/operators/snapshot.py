"""All objects of a cluster, of every kind that it serves, and when they have come to rest."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.kube.client import ApiClient, ApiError
from runner.kube.discovery import group_version_path
from tests.compat.operators import comparison
from tests.compat.operators.comparison import Snapshot

# Lists at a time; more would only wait in the API server.
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Served:
    """A kind that may be listed."""

    api_version: str
    kind: str
    path: str


async def served(client: ApiClient) -> list[Served]:
    """Every kind once, in its group's preferred version where that has it. Raises KubeError."""
    groups = (await client.get("/apis"))["groups"]
    versions = ["v1"]
    for group in groups:
        preferred = group["preferredVersion"]["groupVersion"]
        versions += [preferred, *(v["groupVersion"] for v in group["versions"] if v["groupVersion"] != preferred)]
    found: dict[tuple[str, str], Served] = {}
    for version in versions:
        try:
            entries = (await client.get(group_version_path(version))).get("resources", ())
        except ApiError:
            # Its server may be away, or its last CRD be gone since.
            continue
        for entry in entries:
            if "/" not in entry["name"] and "list" in entry.get("verbs", ()) and entry["kind"] not in comparison.LEFT_OUT:
                path = f"{group_version_path(version)}/{entry['name']}"
                found.setdefault((version.rpartition("/")[0], entry["kind"]), Served(version, entry["kind"], path))
    return list(found.values())


async def objects(client: ApiClient) -> list[dict[str, Any]]:
    """Every object of the cluster but those that `comparison` leaves out. Raises KubeError."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def listed(kind: Served) -> list[dict[str, Any]]:
        async with limit:
            try:
                items = (await client.get(kind.path)).get("items") or ()
            except ApiError:
                return []
            return [{**item, "apiVersion": kind.api_version, "kind": kind.kind} for item in items]

    found = await asyncio.gather(*(listed(kind) for kind in await served(client)))
    return [obj for some in found for obj in some]


def has_orphans(found: Sequence[Mapping[str, Any]], namespace: str) -> bool:
    """Whether an object in the namespace is owned by one that is gone, and so goes as well."""
    uids = {obj["metadata"].get("uid") for obj in found}
    owned = (obj["metadata"] for obj in found if obj["metadata"].get("namespace") == namespace)
    return any(owner["uid"] not in uids for metadata in owned for owner in metadata.get("ownerReferences") or ())


@dataclass(frozen=True, slots=True)
class View:
    """The cluster as one engine's namespace sees it: what is in there, and what is elsewhere."""

    inside: Snapshot
    outside: Snapshot

    @property
    def whole(self) -> Snapshot:
        return {**self.outside, **self.inside}


def view(found: Iterable[Mapping[str, Any]], namespace: str) -> View:
    """What was found, normalized."""
    normalized = comparison.normalize(found, namespace)
    inside = {identity: content for identity, content in normalized.items() if identity.namespace == comparison.NAMESPACE}
    outside = {identity: content for identity, content in normalized.items() if identity not in inside}
    return View(inside, outside)
