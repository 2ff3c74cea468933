"""A run's view model: its phases, its tasks with their times and results, and its requests.

Next on the way: `runner.dashboard.compare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.control.records import ReconcileRecord, RunRecord, TaskRecord
from runner.dashboard import words
from runner.dashboard.artifacts import Details, TaskDetails
from runner.dashboard.charts import Bar, Span, bars
from runner.dashboard.overview import cr_path
from runner.proxy.sessions import ApiRequest

# Tasks of a page; requests that are shown; characters of a plan and of a path.
TASKS, MOST_REQUESTS = 100, 300
_LONGEST_PLAN, _LONGEST_PATH, _LONGEST_MESSAGES = 64 * 1024, 300, 16 * 1024

NOT_KEPT = "Results of tasks are not kept: the operator was started with --run-artifacts=false."
DRY_RUN = "Of a dry run the plan is kept, and no results of tasks."


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of a reconcile."""

    name: str
    duration: str
    bar: Bar


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task, with its bar on the scale of the whole run, and what it left (None: nothing is known of that)."""

    number: int
    name: str
    action: str
    role: str
    location: str
    status: str
    duration: str
    items: int
    message: str
    bar: Bar
    details: TaskDetails | None
    is_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request through the proxy."""

    method: str
    path: str
    status: str
    source: str
    duration: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    ident: str
    cr_href: str
    kind: str
    namespace: str
    name: str
    content: str
    location: str
    status: str
    is_dry_run: bool
    is_on: bool
    # Other dry runs go first.
    is_waiting: bool
    # False for a run of an earlier process.
    is_known: bool
    cause: str
    generation: int | None
    begun: words.Moment
    duration: str
    counts: Sequence[tuple[str, int]]
    messages: Sequence[str]
    plan: Sequence[str]
    phases: Sequence[Phase]
    tasks: Sequence[Task]
    task_count: int
    more_tasks: int
    page: int
    pages: int
    problem: str
    calls: Sequence[Call]
    call_count: int
    requests: str
    # Of the same CR: the run before this one, to compare with; empty if there is none.
    before: str


def run_page(
    record: ReconcileRecord,
    run: RunRecord,
    details: Details,
    *,
    now: float,
    page: int = 1,
    before: str = "",
    is_known: bool = True,
    is_waiting: bool = False,
) -> RunPage:
    """Make the view of a run. `details` are of the tasks of this page, see `events_of_page`."""
    key, outcome = record.request.key, run.outcome
    ended = run.ended or now
    pages = max(1, -(-len(run.tasks) // TASKS))
    first = (min(max(page, 1), pages) - 1) * TASKS
    messages = outcome.messages if outcome else ([record.message] if record.message else [])
    return RunPage(
        ident=run.ident,
        cr_href=cr_path(record.request),
        kind=record.request.watch.gvk.kind,
        namespace=key.namespace,
        name=key.name,
        content=run.content.name,
        location=str(run.content) if run.content.name else "",
        status=words.run_status(run, is_waiting=is_waiting),
        is_waiting=is_waiting,
        is_dry_run=run.is_dry_run,
        is_on=run.ended is None,
        is_known=is_known,
        cause=words.cut(words.cause(record.cause), 1000) if is_known else "",
        generation=record.generation,
        begun=words.moment(run.begun, now),
        duration=words.duration(ended - run.begun),
        counts=list(outcome.counts.items()) if outcome else [],
        messages=[words.cut(message, _LONGEST_MESSAGES) for message in messages[:10]],
        plan=words.cut(run.plan, _LONGEST_PLAN).splitlines(),
        phases=_phases(record, now) if is_known and not is_waiting else [],
        tasks=[
            _task(first + number, task, run, ended, details.tasks.get(task.uuid))
            for number, task in enumerate(run.tasks[first : first + TASKS], start=1)
        ],
        task_count=len(run.tasks) + run.more_tasks,
        more_tasks=run.more_tasks,
        page=first // TASKS + 1,
        pages=pages,
        problem=details.problem,
        calls=[_call(call) for call in run.requests[:MOST_REQUESTS]],
        call_count=len(run.requests) + run.more_requests,
        requests=words.requests(run.requests),
        before=before,
    )


def events_of_page(run: RunRecord, page: int) -> tuple[int, int | None]:
    """The numbers of the events that belong to the tasks of a page: from, and before (None: to the end)."""
    tasks = run.tasks[(max(page, 1) - 1) * TASKS :]
    after = tasks[TASKS : TASKS + 1]
    return tasks[0].counter if tasks else 0, after[0].counter if after else None


def _phases(record: ReconcileRecord, now: float) -> list[Phase]:
    """The phases, from the queue on. One that is cut off by an error is the rest."""
    spans = [Span(record.begun - record.waited, record.begun, "queue", "queue")]
    spans += [Span(phase.begun, phase.begun + phase.seconds, phase.name, phase.name) for phase in record.phases]
    begun, ended = spans[0].begun, record.ended or now
    return [
        Phase(name=span.title, duration=words.duration(span.ended - span.begun), bar=bar)
        for span, bar in zip(spans, bars(spans, begun, ended), strict=True)
    ]


def _task(number: int, task: TaskRecord, run: RunRecord, ended: float, details: TaskDetails | None) -> Task:
    until = task.ended or ended
    length = words.duration(until - task.begun)
    (bar,) = bars([Span(task.begun, until, str(task.status), f"{task.status}, {length}")], run.begun, ended)
    return Task(
        number=number,
        name=task.name or task.action or "(a task without a name)",
        action=task.action,
        role=task.role,
        # As `roles/x/tasks/main.yml:3`, where it is of this project.
        location=task.location.removeprefix(f"{run.content.parent.parent}/"),
        status=str(task.status),
        duration=length,
        items=task.items,
        message=task.message,
        bar=bar,
        details=details,
        is_open=task.status.is_failure,
    )


def _call(call: ApiRequest) -> Call:
    return Call(
        method=words.cut_short(call.method, 20),
        path=words.cut_short(call.path, _LONGEST_PATH),
        status=str(call.status) if call.status else "no answer",
        source="store" if call.from_store else "API server",
        duration=words.duration(call.seconds),
    )
