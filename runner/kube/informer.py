"""Informers of dependents: one per kind and namespace, started when a role first touches an object of that kind.

An informer lists, then watches with bookmarks from the list's resourceVersion. After a gap (410, a lost stream) it lists
again and compares with its store, so that a deletion in the gap is still reported. The stores also answer the proxy's reads
while they are `fresh`. They hold what CRs own; of all the other objects of a kind, which may be the whole cluster's Secrets,
only names and labels are kept. In a shard, kinds whose objects have the shard's label are watched by it; if a run sees an
object that will not get the label, its kind is watched whole from then on.

Next on the way: `runner.control.handlers`, and `runner.proxy.cached_reads`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from runner.json_codec import encode
from runner.kube.awaited import Awaited
from runner.kube.backoff import Backoff
from runner.kube.client import ApiClient, Expired, KubeError, NotFound, NotReady, Refused, Silent, Unreadable
from runner.kube.discovery import Resource
from runner.kube.nesting import METADATA_ONLY
from runner.logs import Once
from runner.resource.comparison import without_metadata
from runner.resource.metadata import (
    PRIMARY_RESOURCE,
    GroupKind,
    Object,
    ObjectKey,
    Owner,
    annotations_of,
    is_assigned_with,
    labels_of,
    object_version,
    owner_references,
    owners,
    version_number,
)
from runner.resource.selectors import EVERYTHING, Selector
from runner.resource.sharding import is_labelled

logger = logging.getLogger(__name__)

# (before, after): None before for a new object, None after for one that is gone.
Notify = Callable[[Object | None, Object | None], None]
# Whether an object is to be stored in full, and its changes reported.
Keeps = Callable[[Object], bool]

_PAGE = 100
# Objects after which other tasks of the event loop run.
_CHUNK = 50
# The same, where little is done with each.
_MANY = 500
# Seconds. The server ends each watch after a time within these, so that not all are renewed at once.
_WATCH_SECONDS = (240, 480)
_FIRST_DELAY, _LAST_DELAY = 0.2, 30.0
# Seconds between two looks at what is awaited.
_LOOK_AGAIN = 5.0
# A watch that ends sooner, without an event, is trouble: client-go's rule.
_SHORT = 1.0
_NO_LABELS: Mapping[str, str] = {}
_NOT_SERVED = "kind not served"


class Informer:
    """A store of the objects of one kind in one namespace, or (namespace empty) in all, kept current by `run`.

    With a selector it has only what that selects. An object that comes into it later has a history that nobody here saw:
    `notify` gets it with another state before, the one that a run saw, or else one without content.

    `store` has the objects for which `keeps` is true, `others` the labels of all others. `notify` is called for the former,
    and when an object becomes one of the others or ceases to be one. `version` is the resourceVersion of the store, `fresh`
    says whether its watch runs without a gap (a peer that is silently gone is noticed after the watch's own timeout), and
    `list_kind` is the kind of the server's list.
    """

    def __init__(
        self,
        client: ApiClient,
        resource: Resource,
        namespace: str,
        notify: Notify,
        keeps: Keeps = lambda obj: True,
        selector: Selector = EVERYTHING,
    ) -> None:
        self.resource = resource
        self.namespace = namespace
        self.selector = selector
        self.store: dict[ObjectKey, Object] = {}
        self.others: dict[ObjectKey, Mapping[str, str]] = {}
        self.synced = asyncio.Event()
        self.version = ""
        self.fresh = False
        self.list_kind = ""
        self._client = client
        self._notify = notify
        self._keeps = keeps
        self._awaited = Awaited(selector)
        self._unbroken = False
        # The latest resourceVersion of a list or a watch, as a number.
        self._latest = 0
        # Watches in a row that brought nothing.
        self._in_vain = 0
        # By type of error: objects that could not be processed.
        self._failures = Once()
        self._encoded: dict[ObjectKey, bytes] = {}

    def expect(self, obj: Object) -> None:
        """Store an object that was seen elsewhere, if the store is behind: its deletion is then reported, too.

        One that the store does not select, or not yet, is awaited.
        """
        key = ObjectKey.of(obj)
        if self.selector != EVERYTHING and key not in self.store:
            self._awaited.add(key, obj)
        if not self.selector.matches(obj):
            return
        known = max(version_number(self.version), object_version(self.store[key]) if key in self.store else 0)
        if not self.fresh and object_version(obj) > known:
            self._apply(key, obj)

    def widen(self) -> None:
        """Select everything from the next list on. `run` has to be begun again for it."""
        awaited = list(self._awaited)
        self.selector, self._awaited = EVERYTHING, Awaited(EVERYTHING)
        self.version, self.fresh = "", False
        for key, obj in awaited:
            # The list then tells what became of it.
            if key not in self.store:
                self._apply(key, obj)

    async def ask_for_awaited(self) -> ObjectKey | None:
        """Ask for what should have come into the store by now; returns one that will not come."""
        if self.synced.is_set():
            await self._awaited.ask(self._client, self.resource, self._notify)
        return self._awaited.overdue()

    @property
    def _selected(self) -> dict[str, str]:
        """The parameter of lists and watches that limits them to what is selected."""
        return {"labelSelector": str(self.selector)} if self.selector != EVERYTHING else {}

    def encoded(self, key: ObjectKey) -> bytes | None:
        """An object of the store as JSON: encoded at the first call, and cached until the object changes."""
        if key not in self._encoded:
            if key not in self.store:
                return None
            self._encoded[key] = encode(self.store[key])
        return self._encoded[key]

    async def run(self) -> None:
        """Keep the store current until cancelled. A problem is logged once and waited out."""
        backoff, trouble = Backoff(_FIRST_DELAY, _LAST_DELAY), Once(limit=1)
        while True:
            error_itself: Exception | None = None
            try:
                in_vain = self._in_vain
                await self.step()
                if self._in_vain <= max(in_vain, 1):
                    if not self._in_vain:
                        backoff.reset()
                        trouble.reset()
                    continue
                problem, level = "watches end as soon as they begin", logging.INFO
            except NotFound:
                problem, level = _NOT_SERVED, logging.INFO
                self.version = ""
            except NotReady as error:
                problem, level = str(error), logging.DEBUG
            except KubeError as error:
                # Missing rights stay missing until somebody acts; the rest passes.
                problem, level = str(error), logging.WARNING if isinstance(error, Refused) else logging.INFO
            except Exception as error:
                # Nothing that one kind's watch stumbles over ends the others'.
                problem, level, error_itself = f"{type(error).__name__}: {error}", logging.ERROR, error
                self.version, self._unbroken = "", False
            if trouble.is_new(problem):
                logger.log(
                    level,
                    "Dependents are not being watched for now",
                    extra={"resource": self.resource.plural, "namespace": self.namespace, "reason": problem[:1000]},
                    exc_info=error_itself,
                )
            elif problem == _NOT_SERVED:
                # The kind itself is gone, and its objects with it: a server that has just begun says so once.
                await self._remove(self.store.keys() | self.others.keys())
            await backoff.pause()

    async def step(self) -> None:
        """List if there is no resourceVersion to watch from, else watch until the stream ends. Raises KubeError."""
        try:
            await (self._watch() if self.version else self._list())
        except Expired:
            self.version = ""
            self._in_vain += 1
        except Silent as error:
            # Renewed as any that has ended; after it the store is fresh again with the first bookmark.
            logger.debug("A watch is renewed", extra={"resource": self.resource.plural, "reason": str(error)})

    async def _list(self) -> None:
        """List page by page, none of which is kept, and remove what is not on the list."""
        path = self.resource.path(namespace=self.namespace)
        kind = {"apiVersion": self.resource.gvk.api_version, "kind": self.resource.gvk.kind}
        listed: set[ObjectKey] = set()
        params = {"limit": str(_PAGE), **self._selected}
        token: object = "first"
        while token:
            page = await self._client.get(path, params)
            metadata = page.get("metadata")
            if not isinstance(metadata, Mapping):
                raise Unreadable(f"GET {path}: the answer is no list")
            version, token = str(metadata.get("resourceVersion", "")), metadata.get("continue")
            # Versions go back where etcd was restored from a backup: then nothing that is known counts any more.
            restored = 0 < version_number(version) < self._latest
            self.list_kind = str(page.get("kind", ""))
            params["continue"] = str(token)
            items = page.pop("items", None)
            for number, item in enumerate(items if isinstance(items, list) else ()):
                key = self._key(item)
                if key is not None:
                    listed.add(key)
                    # A version later than the list's is for the watch to report.
                    known = self.store.get(key)
                    is_news = known is None or _version(known) != _version(item)
                    if is_news and (known is None or restored or object_version(known) <= object_version(item)):
                        # Items of a list carry no kind of their own.
                        self._apply(key, {**kind, **item})
                if number % _CHUNK == 0:
                    # `notify` may take its time.
                    await asyncio.sleep(0)
            # The next page comes while this one would still be there.
            del page, items
        await self._remove(
            key
            for key in (self.store.keys() | self.others.keys()) - listed
            if restored or key not in self.store or object_version(self.store[key]) <= version_number(version)
        )
        self.version, self._latest = version, version_number(version)
        if not version:
            # As of some aggregated API servers: there is nothing to watch from, and the next list is not to come at once.
            self._in_vain += 1
        self._unbroken = True
        self.synced.set()

    async def _watch(self) -> None:
        path = self.resource.path(namespace=self.namespace)
        params = {"resourceVersion": self.version, "timeoutSeconds": str(random.randint(*_WATCH_SECONDS)), **self._selected}
        loop = asyncio.get_running_loop()
        begun, heard = loop.time(), False
        try:
            async for event in self._client.watch(path, params, opened=self._opened):
                heard = True
                self._handle(event)
        except KubeError:
            self._unbroken = False
            raise
        finally:
            self.fresh = False
            if heard or loop.time() - begun >= _SHORT:
                self._in_vain = 0
        if not heard and loop.time() - begun < _SHORT:
            self._in_vain += 1

    def _opened(self) -> None:
        # After a problem much may have been missed; a bookmark says that all of it has been sent.
        self.fresh = self._unbroken

    def _handle(self, event: Object) -> None:
        obj = event["object"]
        metadata = obj.get("metadata")
        version = metadata.get("resourceVersion") if isinstance(metadata, Mapping) else None
        is_bookmark = event.get("type") == "BOOKMARK"
        if isinstance(version, str) and version:
            if is_bookmark and 0 < version_number(version) < self._latest:
                # A watch from a version that is yet to come: silent until then.
                raise Expired(410, "the versions of the API server have gone back")
            self.version, self._latest = version, max(self._latest, version_number(version))
        if is_bookmark:
            self.fresh = self._unbroken = True
        elif (key := self._key(obj)) is not None:
            self._apply(key, obj, deleted=event.get("type") == "DELETED")

    def _key(self, obj: Object) -> ObjectKey | None:
        try:
            key = ObjectKey.of(obj)
            return key if hash(key) and key.name else None
        except Exception as error:
            self._log_failure(error)
            return None

    async def _remove(self, keys: Iterable[ObjectKey]) -> None:
        for number, key in enumerate(list(keys)):
            self._apply(key, None)
            if number % _CHUNK == 0:
                await asyncio.sleep(0)

    def _apply(self, key: ObjectKey, obj: Object | None, *, deleted: bool = False) -> None:
        """Store an object, or remove it. An error with one object affects no other."""
        try:
            # managedFields are half of a stored object's size, and nothing here or in a role asks for them.
            slim = None if obj is None else without_metadata(obj, ("managedFields",))
            self._put(key, None if deleted else slim, last=slim)
        except Exception as error:
            self._log_failure(error, key)

    def _log_failure(self, error: Exception, key: ObjectKey | None = None) -> None:
        what = type(error).__name__
        if self._failures.is_new(what):
            fields = {"resource": self.resource.plural, "object": str(key or ""), "error": f"{what}: {error}"[:1000]}
            logger.error("An object was passed over", extra=fields, exc_info=error)

    def _put(self, key: ObjectKey, obj: Object | None, *, last: Object | None) -> None:
        before = self.store.pop(key, None)
        was_another = self.others.pop(key, None) is not None
        seen = self._awaited.pop(key, obj)
        self._encoded.pop(key, None)
        # One that nests too deep cannot be kept in full.
        if obj is not None and METADATA_ONLY not in obj and self._keeps(obj):
            self.store[key] = obj
            # That it existed before distinguishes an adoption, or what comes from another shard, from a creation.
            if before is None and seen is not None:
                before = seen
            elif was_another or (
                before is None and self.selector != EVERYTHING and is_labelled(obj) and self.synced.is_set()
            ):
                before = {"apiVersion": obj.get("apiVersion"), "kind": obj.get("kind"), "metadata": _named(key)}
        elif obj is not None:
            self.others[key] = dict(labels_of(obj)) or _NO_LABELS
        elif before is None and not was_another and last is not None and self._keeps(last):
            # Deleted before it was ever listed: its last state says whose it was.
            before = last
        if before is not None or key in self.store:
            self._notify(before, obj)


class Informers:
    """All informers by kind, each started at most once. `namespaces` empty: one for the whole cluster.

    In a shard, `selector` selects what is the shard's, and `is_labelled` says of which kinds the dependents have the label.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        namespaces: Sequence[str],
        notify: Notify,
        keeps: Keeps = lambda obj: True,
        selector: Selector = EVERYTHING,
        is_labelled: Callable[[Resource], bool] = lambda resource: False,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._client = client
        self._keeps = keeps
        self._selector = selector
        self._is_labelled = is_labelled
        self._namespaces = tuple(namespaces) or ("",)
        self._notify = notify
        self._tasks = tasks
        # By kind (plural and API version), then by namespace.
        self._running: dict[str, dict[str, Informer]] = {}
        self._started: dict[Informer, asyncio.Task[None]] = {}

    def ensure(self, resource: Resource, obj: Object, owner: Owner) -> None:
        """Start the informers of a kind, if it can be watched and is not yet; `obj` is an object of the owner's, just seen.

        Its deletion or change is reported even if that happens before the kind is listed.
        """
        self.watch(resource, self._selector if self._is_labelled(resource) else EVERYTHING)
        informer = self.covering(resource.gvk.api_version, resource.plural, ObjectKey.of(obj).namespace)
        if informer is None:
            return
        if not informer.selector.matches(obj) and not is_assigned_with(obj, owner):
            self._widen(_kind(resource), "an object is not assigned with its CR, its controller", ObjectKey.of(obj))
        informer.expect(obj)

    def watch(self, resource: Resource, selector: Selector = EVERYTHING) -> None:
        """Start the informers of a kind, if it can be watched and is not yet. With several selectors it is watched whole."""
        name = _kind(resource)
        if name not in self._running:
            if resource.is_watchable:
                self._start(name, resource, selector)
        elif any(informer.selector not in (EVERYTHING, selector) for informer in self._running[name].values()):
            self._widen(name, "its objects are watched for several reasons")

    def select_again(self) -> None:
        """Watch each kind whole whose dependents do not get the shard's label any more."""
        for name, informers in self._running.items():
            if any(each.selector == self._selector and not self._is_labelled(each.resource) for each in informers.values()):
                self._widen(name, "its objects get no label any more")

    async def ask_for_awaited(self) -> None:
        """Ask for objects that runs have seen and no watch has reported, now and then until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN)
            for informer in list(self._started):
                if overdue := await informer.ask_for_awaited():
                    self._widen(_kind(informer.resource), "an object does not get its CR's label", overdue)

    def _start(self, name: str, resource: Resource, selector: Selector) -> None:
        self._running[name] = {}
        for namespace in self._namespaces if resource.namespaced else ("",):
            informer = Informer(self._client, resource, namespace, self._notify, self._keeps, selector)
            self._running[name][namespace] = informer
            self._run(informer)
        fields = {"resource": name, "namespaces": ",".join(filter(None, self._namespaces))}
        logger.info(
            "Watching dependents", extra={**fields, **({"selector": str(selector)} if selector != EVERYTHING else {})}
        )

    def _run(self, informer: Informer) -> None:
        name = f"informer {_kind(informer.resource)} {informer.namespace}"
        self._started[informer] = self._tasks.create_task(informer.run(), name=name)

    def _widen(self, name: str, reason: str, key: ObjectKey | None = None) -> None:
        """Watch a kind whole that was watched by labels. What its store has stays there."""
        for informer in self._running[name].values():
            if informer.selector != EVERYTHING:
                self._started[informer].cancel()
                informer.widen()
                self._run(informer)
        fields = {"resource": name, "reason": reason, **({"object": str(key)} if key else {})}
        logger.info("Dependents are watched whole from now on", extra=fields)

    async def dependents(self, uid: str, owner: GroupKind, key: ObjectKey, most: int) -> list[Object]:
        """Of what is stored, the objects that this owner owns, those that these own, and so on: `most` of all of them.

        An owner in a namespace owns by reference there, and by annotation anywhere.
        """
        by_owner: dict[str, list[Object]] = {}
        for informer in list(self._started):
            stored = list(informer.store.items())
            for start in range(0, len(stored), _MANY):
                for at, obj in stored[start : start + _MANY]:
                    # Of objects elsewhere hardly any is this owner's.
                    if key.namespace in ("", at.namespace):
                        for reference in owner_references(obj):
                            by_owner.setdefault(str(reference.get("uid", "")), []).append(obj)
                    if PRIMARY_RESOURCE in annotations_of(obj) and (owner, key) in owners(obj):
                        by_owner.setdefault(uid, []).append(obj)
                await asyncio.sleep(0)
        found: dict[str, Object] = {}
        wanted = deque([uid])
        while wanted:
            for obj in by_owner.pop(wanted.popleft(), ()):
                own = str(obj["metadata"].get("uid", ""))
                if own not in found and len(found) < most:
                    found[own] = obj
                    wanted.append(own)
        return list(found.values())

    def covering(self, api_version: str, plural: str, namespace: str) -> Informer | None:
        """The informer whose store has all objects of a kind in a namespace, or (namespace empty) in the cluster."""
        by_namespace = self._running.get(f"{plural}.{api_version}", {})
        return by_namespace.get("") or by_namespace.get(namespace)

    def stop(self) -> None:
        for task in self._started.values():
            task.cancel()


def _kind(resource: Resource) -> str:
    return f"{resource.plural}.{resource.gvk.api_version}"


def _named(key: ObjectKey) -> dict[str, str]:
    return {"name": key.name, **({"namespace": key.namespace} if key.namespace else {})}


def _version(obj: Object) -> str:
    return str((obj.get("metadata") or {}).get("resourceVersion"))
