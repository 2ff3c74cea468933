"""The pages: the overview, a CR, a run, and two runs side by side. They gather what is shown, of what the caller may see.

The views themselves are pure: next on the way are `runner.dashboard.overview`, `custom_resource`, `run_page` and `compare`.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any, NamedTuple, ParamSpec, TypeVar

from aiohttp import web

from runner.config.watches import Watch
from runner.control import Request
from runner.control.records import ReconcileRecord, RunRecord
from runner.control.run import folder_parts
from runner.dashboard import compare as comparing
from runner.dashboard import words
from runner.dashboard.access import Caller, scopes
from runner.dashboard.actions import VERB
from runner.dashboard.artifacts import Details, kept_runs, read_details, read_run
from runner.dashboard.custom_resource import MOST_DEPENDENTS, custom_resource, namespaces_of
from runner.dashboard.index import Activity, CrState, Filter
from runner.dashboard.overview import Facts, Load, cr_path
from runner.dashboard.overview import overview as make_overview
from runner.dashboard.run_page import DRY_RUN, NOT_KEPT, TASKS, events_of_page, run_page
from runner.dashboard.state import CALLER, STATE, State
from runner.dashboard.templating import page
from runner.executor.run_folder import ARTIFACTS
from runner.kube.client import KubeError
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey

# Characters of a filter's values, and digits of a page's number.
_LONGEST, _LONGEST_NUMBER = 253, 9
# CRs after which other tasks of the event loop run.
_CHUNK = 1000
_ELSEWHERE = "a change of an object where you may not see this kind"
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="dashboard")

P = ParamSpec("P")
T = TypeVar("T")


class Found(NamedTuple):
    """A run that a page shows. `is_known`: this process made it. `is_waiting`: it has not begun yet, as others go first."""

    record: ReconcileRecord
    run: RunRecord
    is_known: bool = True
    is_waiting: bool = False


async def overview(request: web.Request) -> web.Response:
    """The kinds and their CRs."""
    state, caller = request[STATE], request[CALLER]
    wanted = _filter(request.query)
    found = await scopes(caller, {watch: state.index.namespaces(watch) for watch in state.watches})
    selection = await state.index.select(
        wanted, may=lambda watch, namespace: namespace in found[watch], activity=await _activity(state)
    )
    facts = {summary.request: await _facts(state, caller, summary.request) for summary, _ in selection.rows}
    # Names of roles are those of a kind; numbers over all namespaces are for who may see all of them.
    whole = [watch for watch, scope in found.items() if scope.everywhere]
    contents = {watch.content.path for watch in whole} | {
        watch.finalizer.content.path for watch in whole if watch.finalizer and watch.finalizer.content
    }
    load = Load(delayed=state.queue.delayed, by_minute=state.history.runs_by_minute()) if len(whole) == len(found) else None
    view = make_overview(
        selection,
        facts,
        now=time(),
        load=load,
        contents={path: times for path, times in state.history.contents.items() if path in contents},
        is_complete=all(scope.is_complete for scope in found.values()),
    )
    shard = state.settings.shard
    return await _page(request, "overview.html", view=view, shard=shard.name if shard else "")


async def cr(request: web.Request) -> web.Response:
    """A CR, by `group`, `version`, `kind`, `namespace` and `name` of the path; `-` stands for an empty one."""
    state, caller = request[STATE], request[CALLER]
    wanted = state.request(**request.match_info)
    if wanted is None or not await caller.may("get", wanted.watch, wanted.key.namespace):
        raise web.HTTPNotFound
    summary = state.index.get(wanted)
    records = [await _shown(caller, record) for record in state.history.of(wanted)]
    if summary is None and not records and not state.dry_runs.of(wanted):
        raise web.HTTPNotFound
    dependents, hidden = await _dependents(request, wanted, summary.uid) if summary else ([], 0)
    view = custom_resource(
        wanted,
        summary,
        records,
        now=time(),
        next_run=await _next_run(state, caller, wanted) if summary else "never: it is gone",
        activity=_activity_of(state, wanted),
        dependents=dependents,
        links=await _links(state, caller, dependents),
        hidden_dependents=hidden,
        earlier=await _in_thread(kept_runs, _folder(state, wanted)) if summary else [],
        dry_runs=state.dry_runs.of(wanted),
        may_run=await caller.may(VERB, wanted.watch, wanted.key.namespace, wanted.key.name),
    )
    return await _page(request, "custom_resource.html", view=view)


async def run(request: web.Request) -> web.Response:
    """A run, by `ident` of the path. One of an earlier process also takes the query's `of`, the path of its CR."""
    found = await _find_run(request, request.match_info["ident"], request.query.get("of", ""))
    number = _number(request.query.get("page", ""))
    number = min(number, max(1, -(-len(found.run.tasks) // TASKS)))
    details = await _details(found.run, *events_of_page(found.run, number))
    before = _before(request[STATE], found) if found.is_known else ""
    view = run_page(
        found.record,
        found.run,
        details,
        now=time(),
        page=number,
        before=before,
        is_known=found.is_known,
        is_waiting=found.is_waiting,
    )
    return await _page(request, "run.html", view=view, of=request.query.get("of", "")[: 10 * _LONGEST])


async def compare(request: web.Request) -> web.Response:
    """Two runs side by side, by the query's `one` and `other`."""
    sides = []
    for name in ("one", "other"):
        # Of a run of an earlier process it is `IDENT/` and the path of its CR.
        ident, _, of = request.query.get(name, "").partition("/")
        found = await _find_run(request, ident, of)
        tasks = found.run.tasks
        last = tasks[comparing.MOST_TASKS].counter if len(tasks) > comparing.MOST_TASKS else None
        details = await _details(found.run, 0, last)
        sides.append(
            comparing.Compared(
                record=found.record,
                run=found.run,
                details=details,
                is_known=found.is_known,
                is_waiting=found.is_waiting,
            )
        )
    one, other = sides
    view = await _in_thread(comparing.comparison, one, other, now=time())
    return await _page(request, "compare.html", view=view)


async def _in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the call gives, made in one of the pages' own threads: those of runs must not have to wait for readers."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, functools.partial(call, *args, **kwargs))


async def _page(request: web.Request, template: str, **values: Any) -> web.Response:
    """The page, made in a thread: a large one takes longer than the event loop may be held."""
    return await _in_thread(page, request, template, **values)


async def _find_run(request: web.Request, ident: str, of: str) -> Found:
    """The run with this ident, if the caller may see its CR. Raises HTTPNotFound."""
    state, caller = request[STATE], request[CALLER]
    record = state.of_run(ident)
    parts = of.split("/")
    wanted = record.request if record else state.request(*parts) if len(parts) == 5 else None
    if wanted is None or not await caller.may("get", wanted.watch, wanted.key.namespace):
        raise web.HTTPNotFound
    if dry_run := state.dry_runs.get(ident):
        return Found(dry_run.record, dry_run.run, is_waiting=dry_run.is_waiting)
    if record and record.run:
        return Found(await _shown(caller, record), record.run)
    # A path is made of names that the API server has given, and of what is there; never of an address.
    if state.index.get(wanted) is None:
        raise web.HTTPNotFound
    folder = _folder(state, wanted)
    kept = dict(await _in_thread(kept_runs, folder))
    known = next((each for each in kept if each == ident), None)
    if known is None:
        raise web.HTTPNotFound
    left = await _in_thread(read_run, folder / known, known)
    return Found(ReconcileRecord(request=wanted, ended=left.ended), left, is_known=False)


def _folder(state: State, request: Request) -> Path:
    """The folder of what a CR's runs have left."""
    return state.folders.folder(folder_parts(request)) / ARTIFACTS


async def _details(run: RunRecord, first: int, last: int | None) -> Details:
    if run.artifacts is None:
        return Details(problem=DRY_RUN if run.is_dry_run else NOT_KEPT)
    return await _in_thread(read_details, run.artifacts, first, last)


async def _dependents(request: web.Request, wanted: Request, uid: str) -> tuple[list[Object], int]:
    """What the CR owns, and how many more there are where the caller may not see such CRs."""
    state, caller = request[STATE], request[CALLER]
    objects = await state.informers.dependents(uid, wanted.watch.gvk.group_kind, wanted.key, MOST_DEPENDENTS + 1)
    places = namespaces_of(objects) - {wanted.key.namespace}
    allowed = {place for place in places if await caller.may("get", wanted.watch, place)} | {wanted.key.namespace}
    seen = [obj for obj in objects if ObjectKey.of(obj).namespace in allowed]
    return seen, len(objects) - len(seen)


async def _links(state: State, caller: Caller, objects: Sequence[Object]) -> dict[str, str]:
    """The addresses of those of the objects that are CRs with a page that the caller may see, by uid."""
    watches = {watch.gvk.group_kind: watch for watch in state.watches}
    found: dict[str, str] = {}
    may: dict[tuple[Watch, str], bool] = {}
    for obj in objects:
        if (watch := watches.get(GroupVersionKind.of(obj).group_kind)) is None:
            continue
        one = Request(watch, ObjectKey.of(obj))
        if (summary := state.index.get(one)) is None:
            continue
        scope = watch, one.key.namespace
        if scope not in may:
            may[scope] = await _may_follow(caller, *scope)
        if may[scope]:
            found[summary.uid] = cr_path(one)
    return found


async def _may_follow(caller: Caller, watch: Watch, namespace: str) -> bool:
    """True if the caller may see the pages that links lead to; False as well if that cannot be found out now."""
    try:
        return await caller.may("get", watch, namespace)
    except KubeError:
        return False


async def _activity(state: State) -> Activity:
    """Which CRs are running or waiting."""
    found: dict[Watch, dict[ObjectKey, CrState]] = {}
    for requests, what in ((state.queue.waiting(), CrState.WAITING), (state.queue.on(), CrState.RUNNING)):
        for start in range(0, len(requests), _CHUNK):
            for request in requests[start : start + _CHUNK]:
                found.setdefault(request.watch, {})[request.key] = what
            await asyncio.sleep(0)
    return found


def _activity_of(state: State, request: Request) -> CrState | None:
    if state.queue.is_running(request):
        return CrState.RUNNING
    return CrState.WAITING if state.queue.is_waiting(request) else None


async def _facts(state: State, caller: Caller, request: Request) -> Facts:
    last = next(iter(state.history.of(request)), None)
    return Facts(last=await _shown(caller, last) if last else None, next_run=await _next_run(state, caller, request))


async def _shown(caller: Caller, record: ReconcileRecord) -> ReconcileRecord:
    """The record, with a cause that the caller may see."""
    is_seen = await _sees(caller, record.request, record.cause_namespace)
    return record if is_seen else replace(record, cause=_ELSEWHERE)


async def _sees(caller: Caller, request: Request, cause_namespace: str | None) -> bool:
    """True if the caller may see causes that name an object of this namespace: where the CR is not, as for what it owns
    there."""
    return cause_namespace in (None, request.key.namespace) or await caller.may("get", request.watch, cause_namespace)


async def _next_run(state: State, caller: Caller, request: Request) -> str:
    """When a CR is reconciled next and why, in words."""
    queue, history = state.queue, state.history
    cause = state.handlers.cause(request)
    if not await _sees(caller, request, state.handlers.cause_namespace(request)):
        cause = _ELSEWHERE
    last = history.last(request)
    record = history.current(request) if history.is_on(request) else None
    return words.next_run(
        running_for=time() - record.begun if record else None,
        waited=queue.waited(request),
        due_in=queue.due_in(request),
        reason=last.requeue.reason if last and last.requeue else None,
        queued=words.cut_short(cause, 300),
        failures=queue.failures(request),
        period=request.watch.reconcile_period,
    )


def _before(state: State, found: Found) -> str:
    """The ident of the CR's run before this one."""
    idents = [record.run.ident for record in state.history.of(found.record.request) if record.run]
    if found.run.ident in idents:
        idents = idents[idents.index(found.run.ident) + 1 :]
    return idents[0] if idents else ""


def _filter(query: Mapping[str, str]) -> Filter:
    values = {name: query.get(name, "").strip()[:_LONGEST] for name in ("kind", "namespace", "state", "text")}
    return Filter(**values, page=_number(query.get("page", "")))


def _number(text: str) -> int:
    """A page's number, which may be anything."""
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER else 1
