"""The watched custom resources, by kopf: embedded, with low-level event handlers only.

kopf follows CRDs that arrive late, go, or come back, and namespaces that match a pattern. Nothing is left on the CRs: its
change handlers, finalizers and peering are not used. After a disconnect it lists anew, so an event may come twice, which
`control.handlers` tells from news; what a list lacks was deleted meanwhile. kopf ends with all of its watches when one of
them meets what it does not expect, so a middleware sees to it that it gets only what it does.

Next on the way: `runner.control.handlers`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, cast

import aiohttp
import kopf
from kopf._cogs.structs.references import Insights, NamespaceName, match_namespace

from runner.config.watches import Watch
from runner.json_codec import encode
from runner.kube.backoff import Backoff
from runner.kube.client import ApiClient, KubeError, Unreadable, in_cluster_namespace, is_not_ready, lines, parsed
from runner.kube.discovery import Discovery, group_version_path
from runner.kube.nesting import DEEPEST, METADATA_ONLY
from runner.logs import Once
from runner.resource import api_status
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey, is_deleting

logger = logging.getLogger(__name__)

# What happened to a CR: ADDED, MODIFIED, DELETED, or None for one that was found by listing.
EventType = str | None
Notify = Callable[[Watch, EventType, Object], None]
# The CRs of a watch that there are, by a list of a namespace or (namespace empty) of all.
Listed = Callable[[Watch, str, Collection[ObjectKey]], None]

NAMESPACE = GroupVersionKind("", "v1", "Namespace")
CRD = GroupVersionKind("apiextensions.k8s.io", "v1", "CustomResourceDefinition")

# Seconds.
_FIRST_DELAY, _LAST_DELAY = 0.2, 10.0
_LOOK_AGAIN, _LOOK_AT_NAMESPACES = 2.0, 30.0
# Seconds: for an answer, of a watch for its beginning; a watch that ends sooner, without an event, is trouble; one without
# even a bookmark for so long has lost its peer.
_ANSWER, _SHORT, _INACTIVE = 60.0, 1.0, 90.0


async def watch_primaries(
    client: ApiClient,
    *,
    watches: Sequence[Watch],
    namespaces: Sequence[str],
    notify: Notify,
    listed: Listed = lambda watch, namespace, present: None,
    started: Callable[[], None],
) -> None:
    """Call `notify` for every event on a CR of the watches, until cancelled. An empty `namespaces` means all of them.

    `notify` and `listed` are called in the event loop and must not block. `started` is called whenever kopf has been
    started: it has then set handlers for SIGTERM and SIGINT.
    """
    backoff = Backoff(_FIRST_DELAY, _LAST_DELAY, jitter=0)
    while True:
        begun = asyncio.get_running_loop().time()
        patience = Patience(watches, notify, listed)
        reason = await _watch_once(client, watches=watches, namespaces=namespaces, patience=patience, started=started)
        # kopf gives up where it could go on; nothing is lost by starting it again, but that it lists anew.
        if asyncio.get_running_loop().time() - begun > _LAST_DELAY:
            backoff.reset()
        logger.info("Watching is started again", extra={"reason": reason})
        await backoff.pause()


async def _watch_once(
    client: ApiClient,
    *,
    watches: Sequence[Watch],
    namespaces: Sequence[str],
    patience: Patience,
    started: Callable[[], None],
) -> str:
    """Run kopf until it ends by itself, or has overlooked a kind; which of them."""
    session = client.new_session(patience, response_class=KopfResponse)
    registry = kopf.OperatorRegistry()

    async def login(**_: Any) -> kopf.AiohttpSession:
        # One way to log in for the whole runner: this session adds fresh credentials to each request.
        return kopf.AiohttpSession(
            server=client.server, aiohttp_session=session, default_namespace=in_cluster_namespace() or None
        )

    kopf.on.login(registry=registry)(login)
    for watch in watches:
        _register(registry, watch, patience.come)
    insights = Insights()
    # Not kopf.run() nor run_tasks(): on its way out that cancels every task of the loop which is younger than kopf's own.
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=_settings(),
        insights=insights,
        standalone=True,
        clusterwide=not namespaces,
        namespaces=tuple(namespaces),
    )
    started()
    overlooked = asyncio.create_task(_overlooked(client, insights, {watch.gvk for watch in watches}))
    if namespaces:
        tasks = [*tasks, asyncio.create_task(_add_namespaces(client, insights, namespaces), name="namespaces")]
    try:
        done, _ = await asyncio.wait([overlooked, *tasks], return_when=asyncio.FIRST_COMPLETED)
        if overlooked in done:
            return f"{overlooked.result()} has come"
        task = done.pop()
        error = None if task.cancelled() else task.exception()
        return f"{task.get_name()}: {_reason(error) if error else 'ended'}"
    finally:
        for task in (overlooked, *tasks):
            task.cancel()
        await asyncio.gather(overlooked, *tasks, return_exceptions=True)
        await session.close()


async def _overlooked(client: ApiClient, insights: Insights, kinds: set[GroupVersionKind]) -> GroupVersionKind:
    """Wait until one of the kinds is served for some time without kopf watching it.

    kopf asks which kinds there are when a CRD changes. The server may take a moment longer to serve a kind than to call
    its CRD established, and then nothing makes kopf ask again. Nor does kopf see CRDs where it has no right to.
    """
    suspects: set[GroupVersionKind] = set()
    while True:
        await asyncio.sleep(_LOOK_AGAIN)
        watched = {GroupVersionKind(found.group, found.version, found.kind or "") for found in insights.watched_resources}
        missed = {gvk for gvk in kinds - watched if insights.ready_resources.is_set() and await _is_served(client, gvk)}
        if again := missed & suspects:
            return again.pop()
        suspects = missed


async def _add_namespaces(client: ApiClient, insights: Insights, patterns: Sequence[str]) -> None:
    """Tell kopf of namespaces that it has missed, until cancelled.

    It lists them and then watches, and passes over what the watch finds at its own beginning: what came in between, or
    while the watch was down, would not be seen.
    """
    await insights.ready_namespaces.wait()
    delay = _LOOK_AGAIN
    while True:
        await asyncio.sleep(delay)
        delay = _LOOK_AT_NAMESPACES
        try:
            found = (await client.get("/api/v1/namespaces")).get("items") or ()
        except KubeError as error:
            # Without the right to list them, kopf takes their names as they are given.
            logger.debug("Namespaces were not listed", extra={"reason": str(error)})
            continue
        names = (NamespaceName(item["metadata"]["name"]) for item in found if not is_deleting(item))
        wanted = {name for name in names if any(match_namespace(name, pattern) for pattern in patterns)}
        async with insights.revised:
            if missed := wanted - insights.namespaces:
                logger.debug("Namespaces had been missed", extra={"namespaces": ", ".join(sorted(missed))})
                insights.namespaces.update(missed)
                insights.revised.notify_all()


def _reason(error: BaseException) -> str:
    # kopf's errors have the server's answer as an object beside its message.
    answers = [argument for argument in error.args if isinstance(argument, dict)]
    return api_status.sentence(answers[0]) if answers else str(error) or type(error).__name__


async def _is_served(client: ApiClient, gvk: GroupVersionKind) -> bool:
    try:
        resource = await Discovery(client).by_kind(gvk)
    except KubeError:
        return False
    return resource is not None and resource.is_watchable


def _register(registry: kopf.OperatorRegistry, watch: Watch, notify: Notify) -> None:
    async def handler(type: EventType, event: Any, **_: Any) -> None:
        notify(watch, type, event["object"])

    gvk = watch.gvk
    kopf.on.event(group=gvk.group, version=gvk.version, kind=gvk.kind, id=str(gvk), registry=registry)(handler)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoEssence()
    # Otherwise kopf kills this process ten minutes after it was stopped.
    settings.process.ultimate_exiting_timeout = None
    # Tries again a given number of times, and not distinguishing what for; `Patience` does better.
    settings.networking.error_backoffs = ()
    # It would count the patience, too, which has a limit for each answer.
    settings.networking.request_timeout = None
    settings.networking.connect_timeout = 10
    settings.watching.reconnect_backoff = 0.5
    settings.watching.server_timeout = 300
    settings.watching.inactivity_timeout = _INACTIVE
    settings.watching.chunk_size = 250
    return settings


class _NoEssence(kopf.DiffBaseStorage):
    """What kopf's change handlers would compare with the last time. It would be made of each event, and there are none."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass


class KopfResponse(aiohttp.ClientResponse):
    """An answer for kopf. `value` is its JSON, where it has been read already."""

    value: Mapping[str, Any] | None = None

    async def json(self, **options: Any) -> Any:
        return await super().json(**options) if self.value is None else self.value


class Patience:
    """A client middleware: waits out an API server that is away or not ready, for as long as it takes.

    Missing rights on the watched kinds are waited for too, since RBAC often arrives after its operator. On CRDs and
    namespaces they may be missing for good, in which case kopf does without. What is no answer of an API server is waited
    out as if there was none, and an object that nests too deep is taken out of lists and watches.

    kopf takes its time over each event, and most are of statuses that runs have written. So a change is told past it,
    unless something else of the CR is on its way through it, which has to come first.
    """

    def __init__(
        self,
        watches: Sequence[Watch],
        notify: Notify = lambda watch, event, obj: None,
        listed: Listed = lambda watch, namespace, present: None,
    ) -> None:
        self._watches = tuple(watches)
        # By path, whose CRs have been listed, but for kinds of which kopf itself has to know.
        self._followed: dict[str, Watch] = {}
        # By uid, how many events of a CR kopf has been given and has not handed on.
        self._on_the_way: Counter[str] = Counter()
        self._paths = tuple({group_version_path(watch.gvk.api_version) + "/" for watch in watches})
        # Among the paths of the core group, but read for kopf's own sake.
        self._namespaces = "" if NAMESPACE in {watch.gvk for watch in watches} else "/api/v1/namespaces"
        # The level at which it was said that there is something to wait for.
        self._said = logging.NOTSET
        self._notify = notify
        self._listed = listed
        # By path, what the pages of a list have had so far.
        self._present: dict[str, set[ObjectKey]] = {}
        # By path, the watches in a row that came to nothing.
        self._in_vain: dict[str, int] = {}
        # By path and key: CRs that nest too deep.
        self._too_deep = Once()

    async def __call__(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        backoff = Backoff(_FIRST_DELAY, _LAST_DELAY, jitter=0)
        while True:
            try:
                async with asyncio.timeout(_ANSWER):
                    response = await handler(request)
                    problem, level = await self._problem(request, response)
                    if not problem:
                        await self._read(request, response)
                        self._go_on()
                        return response
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
                problem, level = f"no answer from the API server: {error or type(error).__name__}", logging.WARNING
            except Unreadable as error:
                problem, level = str(error)[:500], logging.WARNING
            self._wait_for(problem, level)
            await backoff.pause()

    async def _problem(self, request: aiohttp.ClientRequest, response: aiohttp.ClientResponse) -> tuple[str, int]:
        """What there is to wait for, and the level of the log at which that is said; empty if there is nothing."""
        path = request.url.path
        ours = path.startswith(self._paths) and path != self._namespaces
        if response.status in (429, 500, 502, 503, 504) or (response.status in (401, 403) and ours):
            text = api_status.readable(await response.text(errors="replace"))
            level = logging.DEBUG if is_not_ready(response.status, text) else logging.WARNING
            return f"HTTP {response.status}: {text[:500]}", level
        return "", logging.NOTSET

    async def _read(self, request: aiohttp.ClientRequest, response: aiohttp.ClientResponse) -> None:
        """Read an answer in kopf's place. Raises Unreadable."""
        if not isinstance(response, KopfResponse) or response.status != 200 or request.method != "GET":
            return
        path, query = request.url.path, request.url.query
        if query.get("watch"):
            response.content = cast(aiohttp.StreamReader, _Events(response.content, self, path))
            return
        value = await parsed(await response.read(), f"GET {path}")
        if "items" in value:
            items = value["items"] if isinstance(value["items"], list) else []
            objects = [item for item in items if _is_object(item)]
            self._note(path, query, value, {ObjectKey.of(obj) for obj in objects})
            value["items"] = [obj for obj in objects if self.takes(path, obj)]
            if not isinstance(value.get("metadata"), dict):
                raise Unreadable(f"GET {path}: the answer is no list")
            if path in self._followed:
                self._on_the_way.update(_uid(obj) for obj in value["items"])
        response.value = value

    def _note(self, path: str, query: Mapping[str, str], page: Mapping[str, Any], keys: set[ObjectKey]) -> None:
        """A page of a list; after the last, what there is of a watched kind is told."""
        watches = [watch for watch in self._watches if _is_list_of(watch, path, page)]
        if watches and watches[0].gvk not in (NAMESPACE, CRD):
            self._followed[path] = watches[0]
        if not query.get("continue"):
            self._present[path] = set()
        present = self._present.setdefault(path, set())
        present |= keys
        metadata = page.get("metadata")
        if isinstance(metadata, Mapping) and metadata.get("continue"):
            return
        del self._present[path]
        for watch in watches:
            place = path.removeprefix(group_version_path(watch.gvk.api_version) + "/").split("/")
            self._listed(watch, place[1] if len(place) == 3 else "", present)

    def takes(self, path: str, obj: Object) -> bool:
        """Whether an object is one that can be handed on; if not, that is told once."""
        if METADATA_ONLY not in obj:
            return True
        key = ObjectKey.of(obj)
        if self._too_deep.is_new((path, key)):
            fields = {"kind": str(obj.get("kind") or path), "namespace": key.namespace, "cr": key.name}
            logger.warning("A CR is passed over: it nests deeper than can be read", extra={**fields, "limit": DEEPEST})
        return False

    def tell(self, path: str, event: Mapping[str, Any]) -> bool:
        """Tell an event of a watch, if that is not for kopf to do."""
        watch, obj = self._followed.get(path), event["object"]
        uid = _uid(obj)
        if watch is None or not uid:
            return False
        if event["type"] == "MODIFIED" and not self._on_the_way[uid]:
            # What goes wrong with an odd object, kopf will say.
            with contextlib.suppress(Exception):
                self._notify(watch, "MODIFIED", obj)
                return True
        self._on_the_way[uid] += 1
        return False

    def come(self, watch: Watch, event: EventType, obj: Object) -> None:
        """Tell an event that kopf has handed on."""
        uid = _uid(obj)
        self._on_the_way[uid] -= 1
        if event == "DELETED" or self._on_the_way[uid] <= 0:
            del self._on_the_way[uid]
        self._notify(watch, event, obj)

    async def ended(self, path: str, *, in_vain: bool) -> None:
        """A watch has come to its end. If that was one of several that came to nothing, wait a while."""
        count = self._in_vain[path] = min(self._in_vain.get(path, 0) + 1, 20) if in_vain else 0
        if count > 1:
            await asyncio.sleep(min(_FIRST_DELAY * 2 ** (count - 2), _LAST_DELAY))

    def _wait_for(self, problem: str, level: int) -> None:
        """Say it once when the trouble begins, and when it is of a worse kind."""
        if level > self._said:
            self._said = level
            logger.log(level, "Watching has to wait", extra={"reason": problem})

    def _go_on(self) -> None:
        if self._said:
            logger.log(min(self._said, logging.INFO), "Watching goes on")
            self._said = logging.NOTSET


class _Events:
    """The content of a watch's answer, which kopf reads by `iter_chunked`: whole lines, and only such as kopf takes."""

    def __init__(self, content: aiohttp.StreamReader, patience: Patience, path: str) -> None:
        self._content = content
        self._patience = patience
        self._path = path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        begun, heard = loop.time(), False
        async for line in lines(self._content):
            try:
                event = await parsed(line, f"a watch of {self._path}")
                if not _is_event(event):
                    raise Unreadable(f"a watch of {self._path}: something else than events")
            except Unreadable as error:
                logger.debug("A watch is begun anew", extra={"reason": str(error)[:500]})
                await self._patience.ended(self._path, in_vain=True)
                # Of all that can go wrong this is what kopf begins the watch anew for.
                raise aiohttp.ClientPayloadError(str(error)) from error
            if event["type"] == "ERROR":
                logger.debug("A kind is listed again", extra={"reason": str(event["object"].get("message"))[:500]})
                await self._patience.ended(self._path, in_vain=not heard)
                # Only for "Gone" kopf lists that kind again; for any other it would end with all its watches.
                yield encode({**event, "object": {**event["object"], "code": 410}}) + b"\n"
                return
            heard = True
            if self._patience.takes(self._path, event["object"]):
                if self._patience.tell(self._path, event):
                    # Should the watch break off, kopf goes on from here.
                    version = event["object"]["metadata"].get("resourceVersion", "")
                    line = encode({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}})
                yield line + b"\n"
            elif event["type"] == "DELETED":
                # For this its name is enough.
                yield encode(event) + b"\n"
        await self._patience.ended(self._path, in_vain=not heard and loop.time() - begun < _SHORT)


def _is_object(item: Any) -> bool:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    return isinstance(metadata, dict) and all(
        isinstance(metadata.get(name) or "", str) for name in ("name", "namespace", "uid")
    )


def _is_list_of(watch: Watch, path: str, page: Mapping[str, Any]) -> bool:
    return path.startswith(group_version_path(watch.gvk.api_version) + "/") and page.get("kind") == f"{watch.gvk.kind}List"


def _uid(obj: Object) -> str:
    return obj["metadata"].get("uid") or ""


def _is_event(event: Mapping[str, Any]) -> bool:
    is_error = event.get("type") == "ERROR" and isinstance(event.get("object"), dict)
    return is_error or (isinstance(event.get("type"), str) and _is_object(event.get("object")))
