"""Which kinds the API server has, and under which paths: asked once a group and version, and again on a miss.

Next on the way: `runner.kube.primaries`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from runner.kube.client import ApiClient, NotFound
from runner.resource.metadata import GroupVersionKind, ObjectKey, split_api_version


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
        return {"list", "watch"} <= self.verbs

    def path(self, key: ObjectKey | None = None, *, namespace: str = "", subresource: str = "") -> str:
        """Of one object, or, without a key, of the list in a namespace (or in all of them)."""
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
    """Finds resources by kind or by plural. `None` when the cluster has no such kind (yet). Raises KubeError."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._found: dict[str, dict[str, Resource]] = {}
        self._asking: dict[str, asyncio.Lock] = {}

    async def by_kind(self, gvk: GroupVersionKind) -> Resource | None:
        def match(resources: dict[str, Resource]) -> Resource | None:
            return next((resource for resource in resources.values() if resource.gvk == gvk), None)

        return match(self._found.get(gvk.api_version, {})) or match(await self._ask(gvk.api_version))

    async def by_plural(self, api_version: str, plural: str) -> Resource | None:
        known = self._found.get(api_version, {}).get(plural)
        return known or (await self._ask(api_version)).get(plural)

    def forget(self, gvk: GroupVersionKind) -> None:
        """The kind's definition may have changed: ask again before its next use."""
        self._found.pop(gvk.api_version, None)

    async def _ask(self, api_version: str) -> dict[str, Resource]:
        async with self._asking.setdefault(api_version, asyncio.Lock()):
            try:
                answer = await self._client.get(group_version_path(api_version))
            except NotFound:
                return {}
            self._found[api_version] = _resources(api_version, answer.get("resources", ()))
            return self._found[api_version]


def _resources(api_version: str, entries: list[dict[str, object]]) -> dict[str, Resource]:
    group, version = split_api_version(api_version)
    subresources: dict[str, set[str]] = {}
    for entry in entries:
        plural, slash, subresource = str(entry["name"]).partition("/")
        if slash:
            subresources.setdefault(plural, set()).add(subresource)
    return {
        plural: Resource(
            gvk=GroupVersionKind(group, version, str(entry["kind"])),
            plural=plural,
            namespaced=bool(entry["namespaced"]),
            verbs=frozenset(entry.get("verbs", ())),  # type: ignore[call-overload]
            subresources=frozenset(subresources.get(plural, ())),
        )
        for entry in entries
        if "/" not in (plural := str(entry["name"]))
    }
