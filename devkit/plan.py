"""`rolerunner plan`: shows what CRs in files would change. Their roles are run in check mode, and nothing is written.

The API server makes of each CR what an apply would (a dry run: defaults, validation). That is run as if it was in the
cluster.

Next on the way: `runner.control.plan`.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from devkit import object_files
from runner import manager
from runner.config.settings import LogEvents, Settings
from runner.config.watches import Watch
from runner.control import Request
from runner.control.plan import Plan
from runner.control.records import new_ident
from runner.control.run import Runs
from runner.control.status import StatusWriter
from runner.errors import ConfigurationError
from runner.executor.run_folder import RunFolders
from runner.kube.client import ApiClient, KubeError, NotFound, current_context
from runner.kube.discovery import Discovery, Resource
from runner.proxy.server import ProxyServer
from runner.proxy.sessions import Sessions
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey, annotations_of

_DRY_RUN = {"dryRun": "All"}
# kubectl's record of what was applied last, by which it knows what has been taken out of a file since.
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class CrInFile:
    """A CR as a file has it, and its place there, for messages."""

    where: str
    watch: Watch
    content: Object


async def plan(settings: Settings, crs: Sequence[CrInFile], *, namespace: str) -> list[Plan]:
    """Plan each CR, in their order; `namespace` is that of CRs that name none. Raises ConfigurationError and KubeError."""
    async with AsyncExitStack() as stack:
        client = await ApiClient.connect(os.environ)
        stack.push_async_callback(client.close)
        discovery, sessions = Discovery(client), Sessions()
        namespace = namespace or current_context(os.environ).namespace or "default"
        found = [await _in_cluster(client, discovery, cr, namespace) for cr in crs]
        proxy = ProxyServer(client, discovery, sessions, covering=lambda *_: None, port=0)
        await stack.enter_async_context(proxy)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rolerunner-plan-")))
        runs = Runs(
            settings=replace(settings, log_events=LogEvents.NOTHING),
            execute=await manager.executor(settings.executor, stack),
            folders=stack.enter_context(contextlib.closing(RunFolders(folder))),
            sessions=sessions,
            proxy_port=proxy.port,
            status=StatusWriter(client),
        )
        return [await runs.dry_run(*each, ident=new_ident()) for each in found]


async def _in_cluster(
    client: ApiClient, discovery: Discovery, cr: CrInFile, namespace: str
) -> tuple[Request, Resource, Object]:
    """The CR as `kubectl apply` would leave it in the cluster. Raises ConfigurationError if the server refuses it."""
    gvk = cr.watch.gvk
    resource = await discovery.by_kind(gvk)
    if resource is None:
        raise ConfigurationError(f"{cr.where}: kind: the cluster has no {gvk}; apply its CRD first")
    wanted = ObjectKey.of(cr.content)
    key = ObjectKey((wanted.namespace or namespace) if resource.namespaced else "", wanted.name)
    content = {
        **cr.content,
        "metadata": {**cr.content["metadata"], **({"namespace": key.namespace} if key.namespace else {})},
    }
    try:
        try:
            before = await client.get(resource.path(key))
        except NotFound:
            obj = await client.post(resource.path(namespace=key.namespace), content, _DRY_RUN)
        else:
            obj = await client.patch(resource.path(key), _merge_patch(_last_applied(before), content), _DRY_RUN)
    except KubeError as error:
        raise ConfigurationError(f"{cr.where}: the cluster would not take this: {error}") from error
    if not cr.watch.selector.matches(obj):
        raise ConfigurationError(
            f"{cr.where}: metadata.labels: its watch's selector leaves this CR out; it would not be run"
        )
    return Request(cr.watch, key), resource, obj


def _merge_patch(last: Object, new: Object) -> dict[str, object]:
    """The patch that kubectl sends for a `new` object; fields that it had when `last` applied are removed."""
    gone = {name: None for name in last if name not in new}
    changed = {
        name: _merge_patch(last.get(name) or {}, value)
        if isinstance(value, Mapping) and isinstance(last.get(name, {}), Mapping)
        else value
        for name, value in new.items()
    }
    return {**gone, **changed}


def _last_applied(obj: Object) -> Object:
    try:
        last = json.loads(annotations_of(obj).get(_LAST_APPLIED, "{}"))
    except ValueError:
        return {}
    return last if isinstance(last, dict) else {}


def read(names: Sequence[str], watches: Sequence[Watch], *, watches_file: Path) -> list[CrInFile]:
    """Read the CRs in files (see `object_files`). Raises ConfigurationError for what is no object, or has no watch."""
    by_kind = {watch.gvk: watch for watch in watches}
    crs = []
    for where, content in (found for name in names for found in object_files.read(name)):
        gvk = GroupVersionKind.of(content)
        if gvk not in by_kind:
            known = "; ".join(map(str, by_kind))
            raise ConfigurationError(f"{where}: kind: no watch for {gvk} in {watches_file}; it has {known}")
        crs.append(CrInFile(where, by_kind[gvk], content))
    if not crs:
        raise ConfigurationError(f"{', '.join(names)}: there is no CR in it")
    return crs
