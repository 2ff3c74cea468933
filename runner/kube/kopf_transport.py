"""The HTTP between kopf and the API server: a client middleware that keeps kopf's watches running, each on its own.

kopf ends with all of its watches when one of them meets an error or an object that it does not expect. So errors are waited
out here, within the request of the one kind that they concern, and kopf gets only what it can process.

This is all that is assumed of kopf beyond its public API, and `tests/kube/test_kopf_transport.py` notices when it changes:

- it reads an answer by `json()`, and a watch's content by `iter_chunked()`, in lines;
- it lists a kind, and watches it from the list's resourceVersion or the last event's, of whatever type;
- a ClientPayloadError begins a watch again, and an ERROR event of the code 410 a list;
- it asks `/api` and `/apis`, and then each version of a group, for the kinds that are served, and watches those;
- it ignores the namespaces that it lists before it watches them, and adds those of ADDED events.

Next on the way: `runner.kube.nesting`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import functools
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, cast

import aiohttp
from yarl import URL

from runner.config.watches import Watch
from runner.json_codec import JsonObject, encode
from runner.kube.backoff import Backoff, delay
from runner.kube.client import Unreadable, is_not_ready, lines, parsed
from runner.kube.discovery import WATCHABLE, group_version_path, is_entry, verbs_of
from runner.kube.early_watch import BeginWatch, EarlyWatch
from runner.kube.nesting import DEEPEST, METADATA_ONLY
from runner.logs import Once
from runner.resource import api_status
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey, is_deleting

logger = logging.getLogger(__name__)

# The type of a watch event on a CR: ADDED, MODIFIED, DELETED, or None for a CR that was found by listing.
EventType = str | None
Notify = Callable[[Watch, EventType, Object], None]
# Called with the keys of all CRs of a watch in a namespace, or (namespace empty) in the cluster.
Listed = Callable[[Watch, str, Collection[ObjectKey]], None]

NAMESPACE = GroupVersionKind("", "v1", "Namespace")
CRD = GroupVersionKind("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
NAMESPACES = "/api/v1/namespaces"
_DISCOVERY = re.compile(r"/apis?|/api/[^/]+|/apis/[^/]+/[^/]+")

# Of objects, None for one on a list: all others are for kopf to judge.
_DELIVERED = (None, "ADDED", "MODIFIED", "DELETED")
# CRs of a list after which other tasks of the event loop run.
_CHUNK = 50

# Seconds.
FIRST_DELAY, LAST_DELAY = 0.2, 10.0
# Seconds: for an answer, of a watch for its beginning; a watch that ends sooner, without an event, is trouble.
_ANSWER, _SHORT = 60.0, 1.0


class KopfResponse(aiohttp.ClientResponse):
    """A response whose JSON has been read for kopf already: `value`."""

    value: Object | None = None

    async def json(self, **options: Any) -> Any:
        return await super().json(**options) if self.value is None else self.value


class Gone(aiohttp.ClientPayloadError):
    """A list that cannot be continued."""


class KopfTransport:
    """A client middleware: waits out an API server that is away or refuses a watched kind, and filters its answers.

    Missing rights on the watched kinds are waited for too, since RBAC often arrives after its operator. On CRDs and
    namespaces they may be missing for good, in which case kopf does without. What is no answer of an API server is waited
    out as if there was none, and an object that nests too deep is taken out of lists and watches.

    kopf makes a task, a queue and a memory for each CR that it is told of, and is slow with each event. So CRs are delivered
    without it: kopf is given empty lists, and of a watch's events only how far they go. What cannot be delivered so is left
    to it, and then all events of that CR until kopf has delivered them, as they have to come in order.
    """

    def __init__(
        self,
        watches: Sequence[Watch],
        notify: Notify = lambda watch, event, obj: None,
        listed: Listed = lambda watch, namespace, present: None,
        *,
        server: str = "",
        namespaces: Sequence[str] = (),
        begin_watch: BeginWatch | None = None,
    ) -> None:
        """`server`: the API server's URL, which may have a path. `namespaces`: the items of WATCH_NAMESPACE.

        `begin_watch`: by which CRs are watched while a list of several pages goes on.
        """
        self._watches = tuple(watches)
        self._base = URL(server).path.rstrip("/")
        self._patterns = tuple(namespaces)
        self._notify = notify
        self._listed = listed
        self._paths = tuple({group_version_path(watch.gvk.api_version) + "/" for watch in watches})
        # Among the paths of the core group, but mostly read for kopf's own sake.
        self._unwatched = "" if NAMESPACE in {watch.gvk for watch in watches} else NAMESPACES
        # By path, whose CRs have been listed, but for kinds of which kopf itself has to know.
        self._by_path: dict[str, Watch] = {}
        # By uid, how many events of a CR kopf has been given and has not delivered.
        self._in_kopf: Counter[str] = Counter()
        # By path, or "" for the API server as a whole: the level at which it was logged that there is something to wait for.
        self._waiting: dict[str, int] = {}
        self._begin_watch = begin_watch
        # By path, the watches of kinds that are being listed; those that are ending.
        self._early: dict[str, EarlyWatch] = {}
        self._ending: set[asyncio.Task[None]] = set()
        # By path, the keys on the pages of a list so far.
        self._present: dict[str, set[ObjectKey]] = {}
        # By path, the watches in a row that brought nothing.
        self._in_vain: dict[str, int] = {}
        # By path and key: CRs that nest too deep.
        self._too_deep = Once()
        # By group version's path and plural, the kinds that can be watched, as kopf was last answered; requests for them in
        # flight.
        self._discovered: dict[str, dict[str, str]] = {}
        self._discovering = 0
        # By path, the kinds whose CRs were found there before, and are not any more.
        self._not_found: dict[str, GroupVersionKind] = {}
        # Whether kopf was refused to list or to watch namespaces.
        self.namespaces_refused = False
        # Name and uid of the namespaces on the last list, and its resourceVersion.
        self._namespaces: list[JsonObject] = []
        self._namespaces_version = ""

    async def __call__(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        path, backoff = request.url.path.removeprefix(self._base), Backoff(FIRST_DELAY, LAST_DELAY, jitter=0)
        is_discovery = _DISCOVERY.fullmatch(path) is not None
        if selector := self._selector(path):
            # kopf has selectors in its handlers alone: it would be sent every CR of the cluster.
            request.url = request.url.update_query(labelSelector=selector)
        self._discovering += is_discovery
        try:
            while True:
                concerned, level = "", logging.WARNING
                try:
                    async with asyncio.timeout(_ANSWER):
                        if "continue" not in request.url.query:
                            # Of a list that was given up: what it tells could be newer than the next list.
                            self._end_early(path)
                        response = await handler(request)
                        concerned, problem, level = await self._problem(path, request, response)
                        if not problem:
                            await self._read(path, request, response)
                            self._log_progress(path)
                            return response
                except Gone:
                    raise
                except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
                    problem, level = f"no answer from the API server: {error or type(error).__name__}", logging.WARNING
                except Unreadable as error:
                    problem, level = str(error)[:500], logging.WARNING
                self._log_waiting(concerned, problem, level)
                await backoff.pause()
        finally:
            self._discovering -= is_discovery
            self._not_found.pop(path, None)

    async def _problem(
        self, path: str, request: aiohttp.ClientRequest, response: aiohttp.ClientResponse
    ) -> tuple[str, str, int]:
        """The path that is concerned (empty: all), the problem to wait for (empty: none), and the level of its log line."""
        status = response.status
        is_watched = path.startswith(self._paths) and path != self._unwatched
        # Of a watch, or of a page that continues a list, this says where to go on.
        is_answer = status == 410 and not {"watch", "continue"}.isdisjoint(request.url.query)
        if status in (429, 500, 502, 503, 504) or (status >= 400 and not is_answer and is_watched):
            if status == 404 and path in self._by_path:
                self._not_found[path] = self._by_path[path].gvk
            text = api_status.readable(await response.text(errors="replace"))
            # A CRD that was deleted may be created again.
            level = logging.DEBUG if is_not_ready(status, text) else logging.INFO if status == 404 else logging.WARNING
            concerned = path if status < 500 and status not in (401, 429) else ""
            return concerned, f"HTTP {status}: {text[:500]}", level
        if status == 403 and path == NAMESPACES:
            self.namespaces_refused = True
        return "", "", logging.NOTSET

    async def _read(self, path: str, request: aiohttp.ClientRequest, response: aiohttp.ClientResponse) -> None:
        """Read the answer in kopf's place. Raises Gone and Unreadable."""
        query = request.url.query
        if not isinstance(response, KopfResponse) or response.status not in (200, 410) or request.method != "GET":
            return
        if response.status == 410:
            await response.read()
            if not query.get("watch"):
                # The page's token has expired: for this alone kopf begins the list again.
                logger.info("A kind is listed again", extra={"path": path, "reason": f"HTTP 410: {response.reason}"})
                await self.pause_after_watch(path, in_vain=True)
                raise Gone(f"GET {path}: {response.reason}")
            # As an event, kopf takes it for what it is.
            response.status = 200
            response.content = cast(aiohttp.StreamReader, _WatchStream(response.content, self, path, events=_gone()))
        elif query.get("watch"):
            begin = self._missed_namespaces(path, query)
            response.content = cast(aiohttp.StreamReader, _WatchStream(response.content, self, path, begin=begin))
        else:
            response.value = await self._value(path, query, response)

    async def _value(self, path: str, query: Mapping[str, str], response: aiohttp.ClientResponse) -> Object:
        value = await parsed(await response.read(), f"GET {path}")
        if "items" in value:
            self._read_list(path, query, value)
            self._watch_early(path, query, value)
            await self._deliver_list(path, value)
            self._finish_list(path, value)
        elif _DISCOVERY.fullmatch(path):
            self._read_discovery(path, value)
        return value

    def _read_list(self, path: str, query: Mapping[str, str], page: JsonObject) -> None:
        items = page["items"] if isinstance(page["items"], list) else []
        objects = [item for item in items if _is_named(item)]
        self._collect_page(path, query, page, objects)
        page["items"] = [obj for obj in objects if self.is_readable(path, obj)]
        if not isinstance(page.get("metadata"), dict):
            raise Unreadable(f"GET {path}: the answer is no list")

    async def _deliver_list(self, path: str, page: JsonObject) -> None:
        """Deliver the CRs of a list's page, and leave in it what is for kopf to deliver."""
        watch = self._by_path.get(path)
        if watch is None:
            return
        left = []
        early = self._early.get(path)
        for number, obj in enumerate(page["items"]):
            if early and ObjectKey.of(obj) in early.seen:
                # This is how it was before.
                continue
            # The items of a list do not name their kind.
            named = {"apiVersion": watch.gvk.api_version, "kind": watch.gvk.kind, **obj}
            if not self._deliver_past_kopf(watch, None, named):
                left.append(obj)
            if number % _CHUNK == 0:
                await asyncio.sleep(0)
        page["items"] = left

    def _collect_page(self, path: str, query: Mapping[str, str], page: Object, objects: Sequence[JsonObject]) -> None:
        """Add a page to what a list has."""
        watch = self._watch_of(path)
        if watch and watch.gvk not in (NAMESPACE, CRD):
            self._by_path[path] = watch
        is_first = not query.get("continue")
        metadata = page.get("metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        if path == NAMESPACES and self._patterns:
            kept = (obj["metadata"] for obj in objects if not is_deleting(obj))
            found = [{"name": metadata.get("name"), "uid": metadata.get("uid")} for metadata in kept]
            self._namespaces = found if is_first else [*self._namespaces, *found]
            self._namespaces_version = str(metadata.get("resourceVersion"))
        if is_first:
            self._present[path] = set()
        self._present.setdefault(path, set()).update(ObjectKey.of(obj) for obj in objects)

    def _finish_list(self, path: str, page: JsonObject) -> None:
        """Call `listed` for a watched kind after the last page of its list."""
        if page["metadata"].get("continue"):
            return
        present = self._present.pop(path, set())
        if early := self._end_early(path):
            page["metadata"]["resourceVersion"] = early.version
            present.update(key for key, is_there in early.seen.items() if is_there)
            present.difference_update(key for key, is_there in early.seen.items() if not is_there)
        if watch := self._watch_of(path):
            place = path.removeprefix(group_version_path(watch.gvk.api_version) + "/").split("/")
            self._listed(watch, place[1] if len(place) == 3 else "", present)

    def _watch_early(self, path: str, query: Mapping[str, str], page: JsonObject) -> None:
        """Watch from a list's first page on, if there are more."""
        watch, metadata = self._by_path.get(path), page["metadata"]
        if not watch or not self._begin_watch or query.get("continue") or not metadata.get("continue"):
            return
        version = metadata.get("resourceVersion")
        if isinstance(version, str) and version:
            deliver = functools.partial(self._deliver_early, path, watch)
            self._early[path] = EarlyWatch(self._begin_watch, path, version, query.get("labelSelector", ""), deliver)

    def _end_early(self, path: str) -> EarlyWatch | None:
        early = self._early.pop(path, None)
        if early is not None:
            ending = early.stop()
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        return early

    async def close(self) -> None:
        """End what goes on without kopf."""
        for path in list(self._early):
            self._end_early(path)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _deliver_early(self, path: str, watch: Watch, event: str, obj: Object) -> bool:
        """Deliver an event of a list's time, unless it is for kopf to judge or to deliver."""
        if not _is_named(obj) or not _uid(obj) or self._in_kopf[_uid(obj)]:
            return False
        if not self.is_readable(path, obj) and event != "DELETED":
            return True
        with contextlib.suppress(Exception):
            # A change of a CR to which the list has not come finds it, as the list would.
            self._notify(watch, None if event == "MODIFIED" else event, obj)
            return True
        return False

    def _watch_of(self, path: str) -> Watch | None:
        """The watch whose CRs are listed and watched at a path."""
        for watch in self._watches:
            rest = path.removeprefix(group_version_path(watch.gvk.api_version) + "/").split("/")
            is_list = len(rest) == 1 or (len(rest) == 3 and rest[0] == "namespaces")
            if is_list and self._kinds(watch.gvk).get(rest[-1]) == watch.gvk.kind:
                return watch
        return None

    def _missed_namespaces(self, path: str, query: Mapping[str, str]) -> bytes:
        """Events for the beginning of a watch of namespaces, as kopf ignores those that were created before it.

        They have no resourceVersion, so that kopf goes on from the list's.
        """
        if path != NAMESPACES or query.get("resourceVersion") != self._namespaces_version:
            return b""
        kind = {"apiVersion": NAMESPACE.api_version, "kind": NAMESPACE.kind}
        events = ({"type": "ADDED", "object": {**kind, "metadata": metadata}} for metadata in self._namespaces)
        return b"".join(encode(event) + b"\n" for event in events)

    def _read_discovery(self, path: str, answer: JsonObject) -> None:
        """Record which kinds kopf knows, and leave out entries that it cannot process."""
        if path == "/apis":
            try:
                versions = {str(version["groupVersion"]) for group in answer["groups"] for version in group["versions"]}
            except (KeyError, TypeError) as error:
                raise Unreadable(f"GET {path}: the answer is no list of groups") from error
            served = {"/api/v1", *map(group_version_path, versions)}
            self._discovered = {path: kinds for path, kinds in self._discovered.items() if path in served}
        elif isinstance(answer.get("resources"), list):
            answer["resources"] = [
                {"singularName": "", "namespaced": False, **entry, "verbs": sorted(verbs_of(entry))}
                for entry in answer["resources"]
                if is_entry(entry)
            ]
            self._discovered[path] = {
                entry["name"]: entry["kind"]
                for entry in answer["resources"]
                if "/" not in entry["name"] and set(entry["verbs"]) >= WATCHABLE
            }

    def unlisted(self, page: Object) -> set[str]:
        """The namespaces of a list that kopf would watch, and that were not on the last list that it got."""
        items = page.get("items")
        objects = [item for item in items if _is_named(item)] if isinstance(items, list) else []
        names = {str(obj["metadata"]["name"]) for obj in objects if not is_deleting(obj)}
        wanted = {name for name in names if any(_matches(name, pattern) for pattern in self._patterns)}
        return wanted - {metadata["name"] for metadata in self._namespaces}

    def undiscovered(self, kinds: Collection[GroupVersionKind]) -> set[GroupVersionKind]:
        """The kinds that kopf does not know; none while it is asking."""
        if self._discovering or not self._discovered:
            return set()
        # What is not found any more may have another plural by now, or another scope.
        unknown = {gvk for gvk in kinds if gvk.kind not in self._kinds(gvk).values()}
        return unknown | set(self._not_found.values()) & set(kinds)

    def _kinds(self, gvk: GroupVersionKind) -> Mapping[str, str]:
        return self._discovered.get(group_version_path(gvk.api_version), {})

    def _selector(self, path: str) -> str:
        """The label selector of the requests for a watched kind; empty for others, and those that kopf needs whole."""
        watch = self._watch_of(path)
        return "" if watch is None or watch.gvk in (NAMESPACE, CRD) else str(watch.selector)

    def is_readable(self, path: str, obj: Object) -> bool:
        """True if an object can be delivered; if not, that is logged once."""
        if METADATA_ONLY not in obj:
            return True
        key = ObjectKey.of(obj)
        if self._too_deep.is_new((path, key)):
            fields = {"kind": str(obj.get("kind") or path), "namespace": key.namespace, "cr": key.name}
            logger.warning("A CR is passed over: it nests deeper than can be read", extra={**fields, "limit": DEEPEST})
        return False

    def deliver_past_kopf(self, path: str, event: Object) -> bool:
        """Deliver an event of a watch, if that need not be left to kopf."""
        watch = self._by_path.get(path)
        return watch is not None and self._deliver_past_kopf(watch, event["type"], event["object"])

    def _deliver_past_kopf(self, watch: Watch, event: EventType, obj: Object) -> bool:
        uid = _uid(obj)
        if not uid:
            return False
        if event in _DELIVERED and not self._in_kopf[uid]:
            # An error with an odd object is for kopf to log.
            with contextlib.suppress(Exception):
                self._notify(watch, event, obj)
                return True
        self._in_kopf[uid] += 1
        return False

    def deliver(self, watch: Watch, event: EventType, obj: Object) -> None:
        """Deliver an event that has come through kopf."""
        if watch.gvk == NAMESPACE and "resourceVersion" not in obj["metadata"]:
            # Of `_missed_namespaces`.
            return
        uid = _uid(obj)
        self._in_kopf[uid] -= 1
        if self._in_kopf[uid] <= 0:
            del self._in_kopf[uid]
        self._notify(watch, event, obj)

    async def pause_after_watch(self, path: str, *, in_vain: bool) -> None:
        """Wait a while after a watch that was one of several without an event."""
        count = self._in_vain[path] = self._in_vain.get(path, 0) + 1 if in_vain else 0
        if count > 1:
            await asyncio.sleep(delay(count - 1, FIRST_DELAY, LAST_DELAY))

    def _log_waiting(self, concerned: str, problem: str, level: int) -> None:
        """Log a problem once when it begins, and when it gets worse."""
        if level > self._waiting.get(concerned, logging.NOTSET):
            self._waiting[concerned] = level
            fields = {"path": concerned} if concerned else {}
            logger.log(level, "Watching has to wait", extra={"reason": problem, **fields})

    def _log_progress(self, path: str) -> None:
        levels = {where: level for where in ("", path) if (level := self._waiting.pop(where, logging.NOTSET))}
        if levels:
            fields = {"path": path} if path in levels else {}
            logger.log(min(*levels.values(), logging.INFO), "Watching goes on", extra=fields)


class _WatchStream:
    """The content of a watch's answer for kopf, read by `iter_chunked`: whole lines, and only such as kopf can process."""

    def __init__(
        self,
        content: aiohttp.StreamReader,
        transport: KopfTransport,
        path: str,
        *,
        begin: bytes = b"",
        events: AsyncIterator[bytes] | None = None,
    ) -> None:
        """`begin` comes before the events, which are those of the content unless they are given."""
        self._content = content
        self._lines = events or lines(content)
        self._transport = transport
        self._path = path
        self._begin = begin

    def __getattr__(self, name: str) -> Any:
        # What aiohttp asks of it when the response is closed.
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        begun, heard = loop.time(), False
        if self._begin:
            yield self._begin
        async for line in self._lines:
            event = await self._event(line)
            if event["type"] == "ERROR":
                logger.debug("A kind is listed again", extra={"reason": str(event["object"].get("message"))[:500]})
                await self._transport.pause_after_watch(self._path, in_vain=not heard)
                # Only for "Gone" kopf lists that kind again; for any other it would end with all its watches.
                yield encode({**event, "object": {**event["object"], "code": 410}}) + b"\n"
                return
            heard = True
            if self._transport.is_readable(self._path, event["object"]):
                if self._transport.deliver_past_kopf(self._path, event):
                    # Should the watch break off, kopf goes on from here.
                    version = event["object"]["metadata"].get("resourceVersion", "")
                    line = encode({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}})
                yield line + b"\n"
            elif event["type"] == "DELETED":
                # For this its name is enough.
                yield encode(event) + b"\n"
        await self._transport.pause_after_watch(self._path, in_vain=not heard and loop.time() - begun < _SHORT)

    async def _event(self, line: bytes) -> JsonObject:
        """The event on a line. Raises ClientPayloadError, for which alone kopf begins the watch again."""
        try:
            event = await parsed(line, f"a watch of {self._path}")
            if not _is_event(event):
                raise Unreadable(f"a watch of {self._path}: something else than events")
        except Unreadable as error:
            logger.debug("A watch is begun again", extra={"reason": str(error)[:500]})
            await self._transport.pause_after_watch(self._path, in_vain=True)
            raise aiohttp.ClientPayloadError(str(error)) from error
        return event


async def _gone() -> AsyncIterator[bytes]:
    yield encode({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "the resourceVersion is too old"}})


def _is_object(item: object) -> bool:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    return isinstance(metadata, dict) and all(
        isinstance(metadata.get(name) or "", str) for name in ("name", "namespace", "uid")
    )


def _is_named(item: object) -> bool:
    return isinstance(item, dict) and _is_object(item) and bool(item["metadata"].get("name"))


def _matches(name: str, pattern: str) -> bool:
    """True if kopf watches this namespace for the pattern: globs, of which the first chooses and those with `!` exclude."""
    globs = [glob.strip() for glob in pattern.split(",")]
    if globs[0].startswith("!"):
        globs.insert(0, "*")
    is_matched = is_chosen = fnmatch.fnmatchcase(name, globs[0])
    for glob in globs[1:]:
        if fnmatch.fnmatchcase(name, glob.removeprefix("!")):
            is_matched = not glob.startswith("!")
    return is_chosen and is_matched


def _uid(obj: Object) -> str:
    return obj["metadata"].get("uid") or ""


def _is_event(event: Object) -> bool:
    match event.get("type"):
        case "ERROR":
            return isinstance(event.get("object"), dict)
        case "BOOKMARK":
            return _is_object(event.get("object"))
        case kind:
            return isinstance(kind, str) and _is_named(event.get("object"))
