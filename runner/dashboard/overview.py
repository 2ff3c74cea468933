"""The overview's view model: the kinds, the CRs of a page, the queue, and which roles take long.

Next on the way: `runner.dashboard.custom_resource`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from runner.config.watches import Watch
from runner.control import Request
from runner.control.history import ContentTimes
from runner.control.records import ReconcileRecord
from runner.dashboard import words
from runner.dashboard.charts import sparkline
from runner.dashboard.index import CrState, Filter, Selection, Summary, kind_of

_MOST_CONTENTS = 10
# Characters of a cause in a row.
_LONGEST_CAUSE = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a CR besides its summary: the last reconcile that has ended or is on, and when it comes again."""

    last: ReconcileRecord | None
    next_run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A CR in the table."""

    kind: str
    namespace: str
    name: str
    href: str
    state: CrState
    is_behind: bool
    message: str
    last: words.Moment | None
    last_status: str
    run_href: str
    cause: str
    next_run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRow:
    """A kind with the numbers of its CRs, by state; `value` names it in the filter."""

    value: str
    kind: str
    api_version: str
    content: str
    href: str
    total: int
    counts: Sequence[tuple[CrState, int, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What concerns the CRs of all namespaces: shown to who may see all of them."""

    delayed: int
    by_minute: Sequence[int]

    @property
    def points(self) -> str:
        return sparkline(self.by_minute)

    @property
    def last_hour(self) -> int:
        return sum(self.by_minute)

    @property
    def most(self) -> int:
        return max(self.by_minute, default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRow:
    """How long a role or playbook takes."""

    name: str
    runs: int
    mean: str
    longest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    filter: Filter
    kinds: Sequence[KindRow]
    rows: Sequence[Row]
    total: int
    page: int
    pages: int
    previous: str
    next: str
    namespaces: Sequence[str]
    running: int
    waiting: int
    load: Load | None
    contents: Sequence[ContentRow]
    # False if there was no time to ask for which namespaces the caller may see.
    is_complete: bool

    @property
    def states(self) -> Sequence[CrState]:
        return tuple(CrState)

    @property
    def count(self) -> int:
        return sum(kind.total for kind in self.kinds)


def overview(
    selection: Selection,
    facts: Mapping[Request, Facts],
    *,
    now: float,
    load: Load | None,
    contents: Mapping[Path, ContentTimes],
    is_complete: bool = True,
) -> Overview:
    """Make the overview of a selection and what is known of the CRs on its page."""
    wanted, page = selection.filter, selection.page
    counts = selection.counts.values()
    return Overview(
        filter=wanted,
        kinds=[_kind(watch, found) for watch, found in selection.counts.items()],
        rows=[_row(summary, state, facts[summary.request], now) for summary, state in selection.rows],
        total=selection.total,
        page=page,
        pages=selection.pages,
        previous=address(wanted, page - 1) if page > 1 else "",
        next=address(wanted, page + 1) if page < selection.pages else "",
        namespaces=selection.namespaces,
        running=sum(found[CrState.RUNNING] for found in counts),
        waiting=sum(found[CrState.WAITING] for found in counts),
        load=load,
        contents=_contents(contents),
        is_complete=is_complete,
    )


def address(wanted: Filter, page: int = 1) -> str:
    """The overview's address with a filter."""
    values = {"kind": wanted.kind, "namespace": wanted.namespace, "state": wanted.state, "text": wanted.text}
    query = {name: value for name, value in values.items() if value} | ({"page": str(page)} if page > 1 else {})
    return f"/?{urlencode(query)}" if query else "/"


def cr_path(request: Request) -> str:
    """The path of a CR's page."""
    return "/cr/" + "/".join(quote(part, safe="") for part in _parts(request))


def run_path(ident: str, request: Request, *, is_known: bool = True) -> str:
    """The address of a run's page; of one of an earlier process it has the path of its CR."""
    return f"/run/{ident}" + ("" if is_known else f"?of={cr_path(request).removeprefix('/cr/')}")


def run_reference(ident: str, request: Request) -> str:
    """A run of an earlier process as a form has it."""
    return "/".join((ident, *_parts(request)))


def _parts(request: Request) -> list[str]:
    """The parts by which `State.request` finds a CR."""
    gvk, key = request.watch.gvk, request.key
    return [part or "-" for part in (gvk.group, gvk.version, gvk.kind, key.namespace, key.name)]


def _kind(watch: Watch, counts: Mapping[CrState, int]) -> KindRow:
    kind = kind_of(watch)
    return KindRow(
        value=kind,
        kind=watch.gvk.kind,
        api_version=watch.gvk.api_version,
        content=watch.content.path.name if watch.content.path else "",
        href=address(Filter(kind=kind)),
        total=sum(counts.values()),
        counts=[(state, counts[state], address(Filter(kind=kind, state=state))) for state in CrState if counts.get(state)],
    )


def _row(summary: Summary, state: CrState, facts: Facts, now: float) -> Row:
    key, last = summary.request.key, facts.last
    since = last.ended or last.begun if last else words.parsed(summary.since)
    return Row(
        kind=summary.request.watch.gvk.kind,
        namespace=key.namespace,
        name=key.name,
        href=cr_path(summary.request),
        state=state,
        is_behind=summary.is_behind,
        message=summary.message,
        last=None if since is None else words.moment(since, now),
        last_status=str(last.status) if last else "",
        run_href=f"/run/{last.run.ident}" if last and last.run else "",
        cause=words.cut_short(words.cause(last.cause), _LONGEST_CAUSE) if last else "",
        next_run=words.cut_short(facts.next_run, 2 * _LONGEST_CAUSE),
    )


def _contents(contents: Mapping[Path, ContentTimes]) -> list[ContentRow]:
    def mean(times: ContentTimes) -> float:
        return times.seconds / max(times.runs, 1)

    slowest = sorted(contents.items(), key=lambda item: -mean(item[1]))[:_MOST_CONTENTS]
    return [
        ContentRow(name=path.name, runs=times.runs, mean=words.duration(mean(times)), longest=words.duration(times.longest))
        for path, times in slowest
    ]
