"""The world that is measured: CRs, each with a ConfigMap and a Service, as an earlier operator would have left them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import yaml

from bench.driver import NAMESPACE, Cluster, condition, is_done, one_role_project, running, until
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey

PAIR = GroupVersionKind("bench.example.com", "v1", "Pair")
DEPENDENTS = (GroupVersionKind("", "v1", "ConfigMap"), GroupVersionKind("", "v1", "Service"))
# At once, when the CRs are copied; CRs in one namespace; items on a page of a list.
_CONNECTIONS, _IN_NAMESPACE, _PAGE = 50, 100, 500


def project(folder: Path, period: float) -> None:
    """A role that makes a ConfigMap and a Service in one task, and the watch for it."""
    metadata = {"name": "{{ ansible_operator_meta.name }}", "namespace": "{{ ansible_operator_meta.namespace }}"}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"size": "{{ size }}"}}
    spec = {"clusterIP": "None", "ports": [{"name": "http", "port": 80}], "selector": {"app": metadata["name"]}}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    one_role_project(folder, PAIR, [{"kubernetes.core.k8s": {"definition": [config_map, service]}}])
    watches = yaml.safe_load((folder / "watches.yaml").read_text())
    (folder / "watches.yaml").write_text(yaml.safe_dump([{**watches[0], "reconcilePeriod": f"{period:.0f}s"}]))


def pair(name: str, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": PAIR.api_version, "kind": PAIR.kind, "metadata": metadata, "spec": {"size": "3"}}


@dataclass(slots=True)
class World:
    """The namespaces of the bench, and the CRs in them."""

    cluster: Cluster
    folder: Path
    crs: int
    namespaces: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.namespaces = [f"large-{self.crs}-{number}" for number in range(self.crs // _IN_NAMESPACE + 1)]

    async def make(self, command: list[str], environ: Mapping[str, str]) -> None:
        """Have one CR made by an operator, and copy it and what it owns."""
        for name in self.namespaces:
            await self.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        key = ObjectKey(self.namespaces[0], "p0")
        await self.cluster.create(pair(key.name), key.namespace)

        async def made_by_operator() -> bool:
            return is_done(await self.cluster.get(PAIR, key) or {})

        with running(command, folder=self.folder, log=self.folder / "log", environ=environ):
            await until(made_by_operator, "the first CR is made", interval=0.5)
        made = [await self.cluster.get(gvk, key) for gvk in (PAIR, *DEPENDENTS)]
        cr, *dependents = [obj for obj in made if obj is not None]
        assert len(dependents) == len(DEPENDENTS), "the role has not made its dependents"
        # Numbers are taken one by one, by so many connections at once.
        numbers = iter(range(1, self.crs))
        await asyncio.gather(*(self._copy(cr, dependents, numbers) for _ in range(_CONNECTIONS)))
        click.echo(err=True)

    async def _copy(self, cr: Object, dependents: Iterable[Object], numbers: Iterator[int]) -> None:
        for number in numbers:
            namespace = self.namespaces[number // _IN_NAMESPACE]
            key = ObjectKey(namespace, f"p{number}")
            made = await self.cluster.create(pair(key.name), namespace)
            path = await self.cluster.path(PAIR, key)
            await self.cluster.client.patch(f"{path}/status", {"status": cr["status"]})
            for dependent in dependents:
                obj = renamed(dependent, key, made["metadata"]["uid"])
                await self.cluster.create({"apiVersion": "v1", **obj}, namespace)
            if number % 100 == 0:
                click.echo(f"\r  {number} of {self.crs} CRs", nl=False, err=True)

    async def pages(self) -> AsyncIterator[list[dict[str, Any]]]:
        """All CRs, page by page."""
        path, token = await self.cluster.path(PAIR), ""
        while True:
            page = await self.cluster.client.get(path, {"limit": str(_PAGE), **({"continue": token} if token else {})})
            yield page["items"]
            token = page["metadata"].get("continue") or ""
            if not token:
                return

    async def completions(self) -> dict[str, str]:
        """When each CR was last run, by its uid."""
        found = {}
        async for page in self.pages():
            for cr in page:
                result = condition(cr, "Running").get("ansibleResult") or {}
                found[cr["metadata"]["uid"]] = result.get("completion", "")
        return found

    async def remove(self) -> None:
        for name in self.namespaces:
            await self.cluster.delete(NAMESPACE, ObjectKey("", name))


def renamed(obj: Object, key: ObjectKey, uid: str) -> dict[str, Any]:
    """A copy of a dependent, for the CR of this key and uid."""
    copied: dict[str, Any] = copy.deepcopy(dict(obj))
    metadata = copied["metadata"]
    owners = [{**owner, "name": key.name, "uid": uid} for owner in metadata["ownerReferences"]]
    copied["metadata"] = {"name": key.name, "ownerReferences": owners}
    for kept in ("labels", "annotations"):
        if kept in metadata:
            copied["metadata"][kept] = metadata[kept]
    if "selector" in copied.get("spec", {}):
        copied["spec"]["selector"] = {"app": key.name}
    return copied
