"""A CR's view model: its conditions, when it comes again and why, its last reconciles, and what it owns.

Next on the way: `runner.dashboard.run_page`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from runner.control import Request
from runner.control.records import ReconcileRecord, ReconcileStatus
from runner.dashboard import words
from runner.dashboard.charts import Bar, Span, bars
from runner.dashboard.dry_runs import RequestedDryRun
from runner.dashboard.index import Condition, CrState, Filter, Summary, kind_of
from runner.dashboard.overview import address, cr_path, run_path, run_reference
from runner.json_codec import mapping
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey, owner_references

# Dependents and dry runs that are shown; characters of a cause, and of a message in a table.
MOST_DEPENDENTS, _MOST_DRY_RUNS = 200, 20
_LONGEST_CAUSE, _LONGEST_MESSAGE, _LONGEST_NAME = 500, 500, 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconcile:
    """A reconcile in the list of the last ones."""

    begun: words.Moment
    status: ReconcileStatus
    cause: str
    waited: str
    duration: str
    generation: int | None
    counts: str
    message: str
    # The name of the task that failed; empty where none did, or it was rescued.
    failed_task: str
    ident: str

    @property
    def href(self) -> str:
        return f"/run/{self.ident}" if self.ident else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependent:
    """An object that the CR owns; `level` 1 is its own, 2 is owned by one of these. `ready` says how it is, in words.

    `href` leads to its page, if it is a CR that has one; `anchor` is its row's, and `owner_href` leads to its owner's.
    """

    kind: str
    api_version: str
    namespace: str
    name: str
    level: int
    owner: str
    owner_href: str
    ready: str
    href: str
    anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRunRow:
    """A dry run that was asked for. `result` is the plan in numbers, or why there is none."""

    ident: str
    href: str
    begun: words.Moment
    cause: str
    status: str
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierRun:
    """A run of an earlier process, of which its artifacts are left. `reference` names it in a form."""

    ident: str
    href: str
    reference: str
    at: words.Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomResource:
    path: str
    kind: str
    kind_href: str
    api_version: str
    namespace: str
    name: str
    content: str
    location: str
    is_gone: bool
    is_deleting: bool
    state: str
    created: words.Moment | None
    generation: int | None
    observed_generation: int | None
    is_behind: bool
    next_run: str
    # With when each got its status.
    conditions: Sequence[tuple[Condition, words.Moment | None]]
    message: str
    failed_task: str
    reconciles: Sequence[Reconcile]
    timeline: Sequence[Bar]
    timeline_begun: str
    dependents: Sequence[Dependent]
    more_dependents: bool
    hidden_dependents: int
    earlier: Sequence[EarlierRun]
    dry_runs: Sequence[DryRunRow]
    may_run: bool

    @property
    def runs(self) -> Sequence[str]:
        """The runs to compare two of, as the form has them, the latest first."""
        known = [each.ident for each in self.reconciles if each.ident]
        return [*known, *(each.reference for each in self.earlier)]


def custom_resource(
    request: Request,
    summary: Summary | None,
    records: Sequence[ReconcileRecord],
    *,
    now: float,
    next_run: str,
    activity: CrState | None,
    dependents: Sequence[Object] = (),
    links: Mapping[str, str] = MappingProxyType({}),
    hidden_dependents: int = 0,
    earlier: Sequence[tuple[str, float]] = (),
    dry_runs: Sequence[RequestedDryRun] = (),
    may_run: bool = False,
) -> CustomResource:
    """Make the view of a CR; `summary` is None if it is gone. `records` are its reconciles, the latest first; `links`
    are the addresses of dependents that are CRs, by uid."""
    watch, key = request.watch, request.key
    first = min((record.begun for record in records), default=now)
    failed = next((record for record in records if record.status is not ReconcileStatus.RUNNING), None)
    known = {record.run.ident for record in records if record.run}
    return CustomResource(
        path=cr_path(request),
        kind=watch.gvk.kind,
        kind_href=address(Filter(kind=kind_of(watch))),
        api_version=watch.gvk.api_version,
        namespace=key.namespace,
        name=key.name,
        content=watch.content.path.name if watch.content.path else "",
        location=str(watch.content.path or ""),
        is_gone=summary is None,
        is_deleting=bool(summary and summary.is_deleting),
        state=str(activity or (summary.state if summary else ReconcileStatus.GONE)),
        created=words.moment_of(summary.created, now) if summary else None,
        generation=summary.generation if summary else None,
        observed_generation=summary.observed_generation if summary else None,
        is_behind=bool(summary and summary.is_behind),
        next_run=next_run,
        conditions=[(each, words.moment_of(each.since, now)) for each in summary.conditions] if summary else [],
        message=failed.message if failed and failed.status in (ReconcileStatus.FAILED, ReconcileStatus.REFUSED) else "",
        failed_task=_failed_task(failed) if failed else "",
        reconciles=[reconcile(record, now) for record in records],
        timeline=bars([_span(record, now) for record in reversed(records)], first, now),
        timeline_begun=words.duration(now - first),
        dependents=_dependents(dependents[:MOST_DEPENDENTS], summary.uid if summary else "", key, links),
        more_dependents=len(dependents) > MOST_DEPENDENTS,
        hidden_dependents=hidden_dependents,
        earlier=[_earlier(request, ident, at, now) for ident, at in earlier if ident not in known],
        dry_runs=[_dry_run(each, now) for each in dry_runs[:_MOST_DRY_RUNS]],
        may_run=may_run and summary is not None,
    )


def reconcile(record: ReconcileRecord, now: float) -> Reconcile:
    """The view of a reconcile."""
    run = record.run
    outcome = run.outcome if run else None
    counts = f"{outcome.ok} ok, {outcome.changed} changed, {outcome.failures} failed" if outcome else ""
    return Reconcile(
        begun=words.moment(record.begun, now),
        status=record.status,
        cause=words.cut_short(words.cause(record.cause), _LONGEST_CAUSE),
        waited=words.duration(record.waited),
        duration=words.duration((record.ended or now) - record.begun),
        generation=record.generation,
        counts=counts,
        message=words.cut_short(record.message, _LONGEST_MESSAGE),
        failed_task=_failed_task(record),
        ident=run.ident if run else "",
    )


def _failed_task(record: ReconcileRecord) -> str:
    """The task that made the run fail, which is the last one that failed: others were rescued."""
    if record.run is None or record.status is not ReconcileStatus.FAILED:
        return ""
    failed = (task for task in reversed(record.run.tasks) if task.status.is_failure)
    return words.cut_short(next((task.name or task.action for task in failed), ""), _LONGEST_NAME)


def readiness(obj: Object) -> str:
    """How an object is, by the fields that the usual kinds have in their status; empty where there are none."""
    status, spec = (mapping(obj.get(part)) for part in ("status", "spec"))
    if mapping(obj.get("metadata")).get("deletionTimestamp"):
        return "being deleted"
    if isinstance(phase := status.get("phase"), str):
        return words.cut_short(phase, 50)
    if isinstance(wanted := spec.get("replicas", status.get("desiredNumberScheduled")), int) and "template" in spec:
        ready = status.get("readyReplicas", status.get("numberReady", 0))
        return f"{ready} of {wanted} ready" if isinstance(ready, int) and max(ready, wanted) < 2**31 else ""
    conditions = status.get("conditions")
    for condition in conditions[:50] if isinstance(conditions, list) else ():
        if isinstance(condition, Mapping) and condition.get("type") in ("Ready", "Available", "Complete"):
            return f"{condition['type']}: {words.cut_short(str(condition.get('status', '')), 20)}"
    return ""


def namespaces_of(objects: Collection[Object]) -> set[str]:
    """The namespaces that there are objects in."""
    return {ObjectKey.of(obj).namespace for obj in objects}


def _span(record: ReconcileRecord, now: float) -> Span:
    ended = record.ended or now
    title = f"{words.clock(record.begun)}, {words.duration(ended - record.begun)}: {record.status}"
    return Span(record.begun, ended, str(record.status), title, f"/run/{record.run.ident}" if record.run else "")


def _dependents(objects: Sequence[Object], uid: str, key: ObjectKey, links: Mapping[str, str]) -> list[Dependent]:
    """The dependents in the order of ownership: each is followed by those that it owns."""
    by_uid = {str(mapping(obj.get("metadata")).get("uid", "")): obj for obj in objects}
    children: dict[str, list[str]] = {}
    for own, obj in by_uid.items():
        references = (str(reference.get("uid", "")) for reference in owner_references(obj))
        # One that no reference leads to from here names the CR in an annotation.
        owner = next((each for each in references if each == uid or (each in by_uid and each != own)), uid)
        children.setdefault(owner, []).append(own)
    found: list[Dependent] = []
    waiting = [(own, 1, key.name, "#main") for own in reversed(children.pop(uid, []))]
    while waiting:
        own, level, owner, owner_href = waiting.pop()
        anchor = f"dependent-{len(found) + 1}"
        obj = by_uid[own]
        gvk, place = GroupVersionKind.of(obj), ObjectKey.of(obj)
        found.append(
            Dependent(
                kind=words.cut_short(gvk.kind, _LONGEST_NAME),
                api_version=words.cut_short(gvk.api_version, _LONGEST_NAME),
                namespace=place.namespace,
                name=words.cut_short(place.name, _LONGEST_NAME),
                level=level,
                owner=owner,
                owner_href=owner_href,
                ready=readiness(obj),
                href=links.get(own, ""),
                anchor=anchor,
            )
        )
        name = words.cut_short(f"{gvk.kind} {place.name}", _LONGEST_NAME)
        waiting += [(each, level + 1, name, f"#{anchor}") for each in reversed(children.pop(own, []))]
    return found


def _dry_run(dry_run: RequestedDryRun, now: float) -> DryRunRow:
    record, run = dry_run.record, dry_run.run
    return DryRunRow(
        ident=dry_run.ident,
        href=run_path(dry_run.ident, record.request),
        begun=words.moment(record.begun, now),
        cause=words.cut_short(words.cause(record.cause), _LONGEST_CAUSE),
        status=words.run_status(run, is_waiting=dry_run.is_waiting),
        # The first line of a plan has its numbers, after the CR's kind and name.
        result=words.cut_short(record.message or run.plan.partition("\n")[0].rpartition(": ")[2], _LONGEST_MESSAGE),
    )


def _earlier(request: Request, ident: str, at: float, now: float) -> EarlierRun:
    return EarlierRun(
        ident=ident,
        href=run_path(ident, request, is_known=False),
        reference=run_reference(ident, request),
        at=words.moment(at, now),
    )
