"""Discovery of the kinds that the API server serves, and of their paths. A group version in use is discovered again after a
minute, and on a miss.

Next on the way: `runner.kube.primaries`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import TypeGuard

from runner.kube.client import ApiClient, KubeError, NotFound
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey, split_api_version

logger = logging.getLogger(__name__)

# The verbs that watching a kind takes.
WATCHABLE = frozenset({"list", "watch"})
# Seconds after which a CRD may have been changed in place: its scope, or its status subresource.
_KNOWN = 60.0


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind as the API serves it. `verbs` and `subresources` are what the server offers, not what the runner may do."""

    gvk: GroupVersionKind
    plural: str
    namespaced: bool
    verbs: frozenset[str] = frozenset()
    subresources: frozenset[str] = frozenset()

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources

    @property
    def is_watchable(self) -> bool:
        return self.verbs >= WATCHABLE

    def path(self, key: ObjectKey | None = None, *, namespace: str = "", subresource: str = "") -> str:
        """The path of one object, or, without a key, of the list in a namespace (or in all of them)."""
        parts = [group_version_path(self.gvk.api_version)]
        namespace = key.namespace if key else namespace
        if namespace and self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if key:
            parts.append(key.name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


def group_version_path(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


class Discovery:
    """Finds resources by kind or by plural; None if the cluster has no such kind (yet). Raises KubeError."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._found: dict[str, dict[str, Resource]] = {}
        # Until when what was found counts.
        self._until: dict[str, float] = {}
        self._asking: dict[str, asyncio.Lock] = {}

    async def by_kind(self, gvk: GroupVersionKind) -> Resource | None:
        def match(resources: dict[str, Resource]) -> Resource | None:
            return next((resource for resource in resources.values() if resource.gvk == gvk), None)

        return match(await self._known(gvk.api_version)) or match(await self._ask(gvk.api_version))

    async def by_plural(self, api_version: str, plural: str) -> Resource | None:
        known = (await self._known(api_version)).get(plural)
        return known or (await self._ask(api_version)).get(plural)

    def forget(self, gvk: GroupVersionKind) -> None:
        """Discover the kind again before its next use, as its CRD may have changed."""
        self._found.pop(gvk.api_version, None)

    async def _known(self, api_version: str) -> dict[str, Resource]:
        """The resources of a group version, by plural, at most a minute old if the server answers."""
        known = self._found.get(api_version)
        if known is None:
            return {}
        if monotonic() >= self._until[api_version]:
            # Other callers need not wait meanwhile.
            self._until[api_version] = monotonic() + _KNOWN
            try:
                # An API server that has only just begun may not know all of its groups yet: a kind is gone when its objects
                # are, and then `forget` is called.
                return await self._ask(api_version) or known
            except KubeError as error:
                logger.debug("A group could not be discovered again", extra={"group": api_version, "reason": str(error)})
        return known

    async def _ask(self, api_version: str) -> dict[str, Resource]:
        async with self._asking.setdefault(api_version, asyncio.Lock()):
            try:
                answer = await self._client.get(group_version_path(api_version))
            except NotFound:
                return {}
            self._found[api_version] = _resources(api_version, answer.get("resources"))
            self._until[api_version] = monotonic() + _KNOWN
            return self._found[api_version]


def _resources(api_version: str, listed: object) -> dict[str, Resource]:
    """The resources in a discovery document, as far as it can be read: an aggregated API server may send anything."""
    group, version = split_api_version(api_version)
    entries = [entry for entry in listed if is_entry(entry)] if isinstance(listed, list) else []
    subresources: dict[str, set[str]] = {}
    for entry in entries:
        plural, slash, subresource = entry["name"].partition("/")
        if slash:
            subresources.setdefault(plural, set()).add(subresource)
    return {
        plural: Resource(
            gvk=GroupVersionKind(group, version, entry["kind"]),
            plural=plural,
            namespaced=bool(entry.get("namespaced")),
            verbs=verbs_of(entry),
            subresources=frozenset(subresources.get(plural, ())),
        )
        for entry in entries
        if "/" not in (plural := entry["name"])
    }


def verbs_of(entry: Object) -> frozenset[str]:
    """The verbs of an entry for which `is_entry` is true."""
    return frozenset(verb for verb in entry.get("verbs") or () if isinstance(verb, str))


def is_entry(entry: object) -> TypeGuard[Object]:
    """True for the entry of a kind or a subresource in a discovery document, with all fields that are read of it."""
    return (
        isinstance(entry, Mapping)
        and all(isinstance(entry.get(name), str) and entry[name] for name in ("name", "kind"))
        and isinstance(entry.get("verbs") or (), (list, tuple))
    )
