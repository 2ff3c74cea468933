"""The index: a summary of each CR, kept current by the watches' events, and selections of it for people.

It has of each CR what the pages show, cut, and nothing of its spec. Next on the way: `runner.dashboard.overview`.
"""

from __future__ import annotations

import asyncio
import sys
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from runner.config.annotations import is_dry_run
from runner.config.watches import Watch
from runner.control import Request
from runner.json_codec import mapping
from runner.resource.conditions import FAILURE, SUCCESSFUL
from runner.resource.metadata import Object, ObjectKey, is_deleting

# Characters of a message, and of other texts that anybody may write on a CR; conditions of one CR.
_LONGEST_MESSAGE, _LONGEST_TEXT, _MOST_CONDITIONS = 200, 100, 12
# CRs after which other tasks of the event loop run: about 1 ms.
_CHUNK = 500
# CRs of a page; namespaces that are offered to choose from.
PAGE, MOST_NAMESPACES = 50, 200


class CrState(StrEnum):
    """The state of a CR. `NEW`: no run has had a result yet, or its watch writes no conditions."""

    OK = "ok"
    FAILED = "failed"
    RUNNING = "running"
    WAITING = "waiting"
    DRY_RUN = "dry run"
    NEW = "new"


# The CRs that are running or waiting just now, by watch.
Activity = Mapping[Watch, Mapping[ObjectKey, CrState]]
# True if the CRs of a watch in a namespace are to be shown.
May = Callable[[Watch, str], bool]


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    status: str
    reason: str
    message: str
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A CR as the pages show it. `state` is by its conditions alone; `since` is when it got into it. Times are RFC 3339."""

    request: Request
    uid: str
    state: CrState
    message: str
    since: str
    generation: int | None
    observed_generation: int | None
    created: str
    is_deleting: bool
    conditions: tuple[Condition, ...]

    @property
    def is_behind(self) -> bool:
        """True if the CR has changed since it was last run."""
        return self.observed_generation is not None and self.observed_generation != self.generation

    @classmethod
    def of(cls, request: Request, obj: Object) -> Summary:
        """Make the summary of a CR, whatever anybody has written into it."""
        metadata, status = mapping(obj.get("metadata")), mapping(obj.get("status"))
        conditions = tuple(_conditions(status.get("conditions")))
        found = {condition.type: condition for condition in conditions}
        failure, successful = found.get(FAILURE), found.get(SUCCESSFUL)
        state, decisive = CrState.NEW, None
        if is_dry_run(request.watch, obj):
            state = CrState.DRY_RUN
        elif failure and failure.status == "True":
            state, decisive = CrState.FAILED, failure
        elif successful and successful.status == "True":
            state, decisive = CrState.OK, successful
        return cls(
            request=request,
            uid=_text(metadata.get("uid")),
            state=state,
            message=decisive.message if decisive and state is CrState.FAILED else "",
            since=decisive.since if decisive else "",
            generation=_number(metadata.get("generation")),
            observed_generation=_number(status.get("observedGeneration")),
            created=_text(metadata.get("creationTimestamp")),
            is_deleting=is_deleting(obj),
            conditions=conditions,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What to select: empty texts select everything. `kind` is as `GROUP/VERSION/KIND`; `text` is looked for, in any case,
    in names, namespaces and messages; pages begin with 1."""

    kind: str = ""
    namespace: str = ""
    state: str = ""
    text: str = ""
    page: int = 1

    @property
    def is_empty(self) -> bool:
        return not (self.kind or self.namespace or self.state or self.text)


@dataclass(slots=True, kw_only=True)
class Selection:
    """CRs of one page, with their states, out of `total` selected; and, of all that may be seen, how many are in which
    state, by watch. `namespaces` are those with such CRs, up to a number."""

    filter: Filter
    rows: list[tuple[Summary, CrState]] = field(default_factory=list)
    total: int = 0
    page: int = 1
    counts: dict[Watch, Counter[CrState]] = field(default_factory=dict)
    namespaces: list[str] = field(default_factory=list)

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // PAGE))


class Index:
    """Summaries of all CRs of the watches. Not thread-safe: lives in the event loop."""

    def __init__(self, watches: Iterable[Watch]) -> None:
        self._crs = {watch: _Crs() for watch in watches}

    def observe(self, request: Request, obj: Object | None) -> None:
        """Take a CR as it is now; None for one that is gone, or another shard's."""
        crs, key = self._crs[request.watch], request.key
        if obj is not None:
            if key not in crs.summaries:
                # Lists are in this order already.
                insort(crs.keys, key)
                crs.namespaces[key.namespace] += 1
            crs.summaries[key] = Summary.of(request, obj)
        elif crs.summaries.pop(key, None):
            del crs.keys[bisect_left(crs.keys, key)]
            crs.namespaces[key.namespace] -= 1
            if not crs.namespaces[key.namespace]:
                del crs.namespaces[key.namespace]

    def namespaces(self, watch: Watch) -> list[str]:
        """The namespaces in which there are CRs of a watch."""
        return list(self._crs[watch].namespaces)

    def get(self, request: Request) -> Summary | None:
        return self._crs[request.watch].summaries.get(request.key)

    async def select(self, wanted: Filter, *, may: May, activity: Activity) -> Selection:
        """Select a page of the CRs that may be seen. What changes meanwhile may be missed, and nothing is seen twice."""
        chosen = Selection(filter=wanted)
        namespaces: set[str] = set()
        for watch, crs in self._crs.items():
            busy = activity.get(watch, {})
            chosen.counts[watch] = Counter()
            position = 0
            while position < len(crs.keys):
                chunk = crs.keys[position : position + _CHUNK]
                _select_of(chunk, chosen, watch, crs.summaries, busy, may, namespaces)
                await asyncio.sleep(0)
                # There may be more or fewer of them by now.
                position = bisect_right(crs.keys, chunk[-1])
        chosen.namespaces = sorted(filter(None, namespaces))[:MOST_NAMESPACES]
        return chosen


@dataclass(slots=True)
class _Crs:
    """The CRs of a watch; their keys in the order of the pages, and how many there are in each namespace."""

    summaries: dict[ObjectKey, Summary] = field(default_factory=dict)
    keys: list[ObjectKey] = field(default_factory=list)
    namespaces: Counter[str] = field(default_factory=Counter)


def _select_of(
    keys: Iterable[ObjectKey],
    chosen: Selection,
    watch: Watch,
    summaries: Mapping[ObjectKey, Summary],
    busy: Mapping[ObjectKey, CrState],
    may: May,
    namespaces: set[str],
) -> None:
    """Count these CRs, and add them to the page where they belong on it; the last page stands for those after it."""
    wanted, counts = chosen.filter, chosen.counts[watch]
    text, number = wanted.text.casefold(), max(1, wanted.page)
    is_wanted = wanted.kind in ("", kind_of(watch))
    namespace, is_seen = None, False
    for key in keys:
        if key.namespace != namespace:
            namespace = key.namespace
            if is_seen := may(watch, namespace):
                namespaces.add(namespace)
        if not is_seen or (summary := summaries.get(key)) is None:
            continue
        state = (busy.get(key) if busy else None) or summary.state
        counts[state] += 1
        if not is_wanted or (wanted.namespace and wanted.namespace != namespace) or (wanted.state and wanted.state != state):
            continue
        if text and not (text in key.name or text in key.namespace or text in summary.message.casefold()):
            continue
        at = chosen.total // PAGE + 1
        if at <= number:
            if chosen.total % PAGE == 0:
                chosen.rows, chosen.page = [], at
            chosen.rows.append((summary, state))
        chosen.total += 1


def kind_of(watch: Watch) -> str:
    """A watch's kind as addresses have it: `GROUP/VERSION/KIND`, without an empty group."""
    return f"{watch.gvk.api_version}/{watch.gvk.kind}"


def _conditions(value: object) -> Iterator[Condition]:
    for item in value[:_MOST_CONDITIONS] if isinstance(value, list) else ():
        if isinstance(item, Mapping):
            kind, status, reason, since = (
                # Most CRs have the same few.
                sys.intern(_text(item.get(name)))
                for name in ("type", "status", "reason", "lastTransitionTime")
            )
            yield Condition(kind, status, reason, _cut(item.get("message"), _LONGEST_MESSAGE), since)


def _text(value: object) -> str:
    return _cut(value, _LONGEST_TEXT)


def _cut(value: object, most: int) -> str:
    return value[:most] if isinstance(value, str) else ""


def _number(value: object) -> int | None:
    # One with thousands of digits cannot be written.
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None
