"""What roles create: one informer a kind and namespace, started when a role first touches an object of that kind.

List, then watch with bookmarks from there on. After a gap (410, a lost stream) list anew and compare with the store, so
that a deletion missed meanwhile is still told. The stores also answer the proxy's reads, while they are `fresh`.

Next on the way: `runner.control.handlers`, and `runner.proxy.reads`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runner.kube.client import ApiClient, Expired, KubeError, NotFound, NotReady, Refused
from runner.kube.discovery import Resource
from runner.resource.metadata import Object, ObjectKey

logger = logging.getLogger(__name__)

# (before, after): None before for a new object, None after for one that is gone.
Notify = Callable[[Object | None, Object | None], None]

_PAGE = 500
# Objects after which others get their turn.
_BREATH = 50
# Seconds. The server ends each watch after a time within these, so that not all are renewed at once.
_WATCH_SECONDS = (240, 480)
_FIRST_DELAY, _LAST_DELAY = 0.2, 30.0


class Informer:
    """A store of the objects of one kind, in one namespace or (namespace empty) all, kept current by `run`.

    `version` is the resourceVersion up to which the store has come, `fresh` whether its watch goes on without a
    gap (a peer that is silently gone is noticed after the watch's own timeout), and `list_kind` what the server calls a
    list of these.
    """

    def __init__(self, client: ApiClient, resource: Resource, namespace: str, notify: Notify) -> None:
        self.resource = resource
        self.namespace = namespace
        self.store: dict[ObjectKey, Object] = {}
        self.synced = asyncio.Event()
        self.version = ""
        self.fresh = False
        self.list_kind = ""
        self._client = client
        self._notify = notify
        self._unbroken = False
        self._encoded: dict[ObjectKey, bytes] = {}

    def expect(self, obj: Object) -> None:
        """The object is known to be, or to have been, there; the store, while it is behind, learns of what becomes of it."""
        key = ObjectKey.of(obj)
        known = max(_number(self.version), _number(_version(self.store[key])) if key in self.store else 0)
        if not self.fresh and _number(_version(obj)) > known:
            self._put(key, _slim(obj))

    def encoded(self, key: ObjectKey) -> bytes | None:
        """An object of the store as JSON: made when it is first asked for, and kept until the object changes."""
        if key not in self._encoded:
            if key not in self.store:
                return None
            self._encoded[key] = json.dumps(self.store[key], separators=(",", ":")).encode()
        return self._encoded[key]

    async def run(self) -> None:
        """Keep the store current until cancelled. Trouble is logged once a kind of trouble, and waited out."""
        delay, trouble = _FIRST_DELAY, ""
        while True:
            try:
                await self.step()
                delay, trouble = _FIRST_DELAY, ""
                continue
            except NotFound:
                # The kind itself is gone, and its objects with it.
                await self._replace({})
                self.version = ""
                problem, level = "kind not served", logging.INFO
            except NotReady as error:
                problem, level = str(error), logging.DEBUG
            except KubeError as error:
                # Missing rights stay missing until somebody acts; the rest passes.
                problem, level = str(error), logging.WARNING if isinstance(error, Refused) else logging.INFO
            if problem != trouble:
                logger.log(
                    level,
                    "Dependents are not being watched for now",
                    extra={"resource": self.resource.plural, "namespace": self.namespace, "reason": problem},
                )
            trouble = problem
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))
            delay = min(delay * 2, _LAST_DELAY)

    async def step(self) -> None:
        """List if there is nothing to go on from, else one watch to its end. Raises KubeError."""
        try:
            await (self._watch() if self.version else self._list())
        except Expired:
            self.version = ""

    async def _list(self) -> None:
        path = self.resource.path(namespace=self.namespace)
        found: dict[ObjectKey, Object] = {}
        params = {"limit": str(_PAGE)}
        while True:
            page = await self._client.get(path, params)
            for item in page.get("items") or ():
                # Items of a list carry no kind of their own.
                whole = {"apiVersion": self.resource.gvk.api_version, "kind": self.resource.gvk.kind, **item}
                found[ObjectKey.of(item)] = _slim(whole)
            self.list_kind = page.get("kind", "")
            token = page["metadata"].get("continue")
            if not token:
                break
            params = {"limit": str(_PAGE), "continue": token}
        self.version = page["metadata"]["resourceVersion"]
        # What came while the list was on its way is for the watch to tell.
        newer = {key: obj for key, obj in self.store.items() if _number(_version(obj)) > _number(self.version)}
        await self._replace({**found, **newer})
        self._unbroken = True
        self.synced.set()

    async def _watch(self) -> None:
        path = self.resource.path(namespace=self.namespace)
        params = {"resourceVersion": self.version, "timeoutSeconds": str(random.randint(*_WATCH_SECONDS))}
        try:
            async for event in self._client.watch(path, params, opened=self._opened):
                obj = event["object"]
                self.version = obj["metadata"]["resourceVersion"]
                if event["type"] == "BOOKMARK":
                    self.fresh = self._unbroken = True
                else:
                    self._put(ObjectKey.of(obj), None if event["type"] == "DELETED" else _slim(obj), last=obj)
        except KubeError:
            self._unbroken = False
            raise
        finally:
            self.fresh = False

    def _opened(self) -> None:
        # After trouble much may have been missed; that all of it has been told, a bookmark says.
        self.fresh = self._unbroken

    async def _replace(self, found: Mapping[ObjectKey, Object]) -> None:
        for key in self.store.keys() - found.keys():
            self._put(key, None)
        for number, (key, obj) in enumerate(found.items()):
            before = self.store.get(key)
            if before is None or _version(before) != _version(obj):
                self._put(key, obj)
            if number % _BREATH == 0:
                # Who is told may have to think about each.
                await asyncio.sleep(0)

    def _put(self, key: ObjectKey, obj: Object | None, *, last: Object | None = None) -> None:
        before = self.store.pop(key, None)
        self._encoded.pop(key, None)
        if obj is not None:
            self.store[key] = obj
        elif before is None:
            # Deleted before it was ever listed: its last words say whose it was.
            before = last
        self._notify(before, obj)


class Informers:
    """The informers, by kind, each started at most once. `namespaces` empty: one for the whole cluster."""

    def __init__(self, client: ApiClient, *, namespaces: Sequence[str], notify: Notify, tasks: asyncio.TaskGroup) -> None:
        self._client = client
        self._namespaces = tuple(namespaces) or ("",)
        self._notify = notify
        self._tasks = tasks
        # By kind (plural and API version), then by namespace.
        self._running: dict[str, dict[str, Informer]] = {}
        self._started: list[asyncio.Task[None]] = []

    def ensure(self, resource: Resource, obj: Object | None = None) -> None:
        """Watch this kind from now on, if it can be watched and is not yet; `obj` is one that was just seen.

        Should that one be gone, or another, before the kind is listed, this is told as of any other.
        """
        name = _kind(resource.gvk.api_version, resource.plural)
        if name not in self._running and resource.is_watchable:
            self._start(name, resource)
        if obj is not None and name in self._running:
            informer = self.covering(resource.gvk.api_version, resource.plural, ObjectKey.of(obj).namespace)
            if informer is not None:
                informer.expect(obj)

    def _start(self, name: str, resource: Resource) -> None:
        self._running[name] = {}
        for namespace in self._namespaces if resource.namespaced else ("",):
            informer = Informer(self._client, resource, namespace, self._notify)
            self._running[name][namespace] = informer
            self._started.append(self._tasks.create_task(informer.run(), name=f"informer {name} {namespace}"))
        logger.info("Watching dependents", extra={"resource": name, "namespaces": ",".join(filter(None, self._namespaces))})

    def covering(self, api_version: str, plural: str, namespace: str) -> Informer | None:
        """The informer whose store has all objects of a kind in a namespace, or (namespace empty) in the cluster."""
        by_namespace = self._running.get(_kind(api_version, plural), {})
        return by_namespace.get("") or by_namespace.get(namespace)

    def stop(self) -> None:
        for task in self._started:
            task.cancel()


def _kind(api_version: str, plural: str) -> str:
    return f"{plural}.{api_version}"


def _slim(obj: Mapping[str, Any]) -> Object:
    """Without managedFields: half of a stored object's size, and nothing here or in a role asks for them."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    return {**obj, "metadata": metadata}


def _version(obj: Object) -> str:
    return str(obj["metadata"].get("resourceVersion"))


def _number(version: str) -> int:
    """Versions of one kind are compared as numbers, which Kubernetes promises from 1.35 on and which held before."""
    return int(version) if version.isdecimal() else 0
