"""The spans of reconciles: a trace for each, made of its record.

The spans of a reconcile and its run are begun when these begin, as the run and the API server are told of them. All others
are made when the reconcile has ended: its phases, the run's tasks, and the requests to the API server, each below what was
on when it was made. The runner's names of spans have no names of objects, so that a viewer can group them; those are
attributes. Each span has those of the CR, so that a search for it finds also a task that failed. Of a reconcile that is not
sampled nothing is made.

Next on the way: `runner.tracer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic, time
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import aiohttp

from runner.control.records import ENDED_EARLY, ReconcileRecord, ReconcileStatus, RunRecord, TaskRecord
from runner.logs import Once
from runner.proxy.requestinfo import parse
from runner.proxy.sessions import ApiRequest

if TYPE_CHECKING:
    from runner.tracer import Span, Tracer

logger = logging.getLogger(__name__)

# Spans of one reconcile, each: its own requests, the run's tasks, and the run's requests. A queue of the SDK has 2048.
_MOST_OWN, _MOST_TASKS, _MOST_REQUESTS = 100, 500, 500
# Spans that are made without a pause: two milliseconds of the event loop, as one takes 36 µs.
_AT_ONCE = 50
# Characters of a name and of a path in an attribute.
_LONGEST_NAME, _LONGEST_PATH = 100, 1000
# The parts of the API that are no resources, by the first part of a path.
_ENDPOINTS = frozenset({"api", "apis", "openapi", "version", "healthz", "readyz", "livez", "logs", "metrics"})

_FAILED = frozenset({ReconcileStatus.FAILED, ReconcileStatus.REFUSED})

Attributes = dict[str, str | int | float | bool]
_Item = TypeVar("_Item")


@dataclass(slots=True)
class Trace:
    """A reconcile that is on: its span, its run's, and the runner's own requests."""

    span: Span
    run: Span | None = None
    requests: list[ApiRequest] = field(default_factory=list)

    def add_request(self, request: ApiRequest) -> None:
        if len(self.requests) < _MOST_OWN:
            self.requests.append(request)


@dataclass(slots=True)
class _Slot:
    """The trace of a reconcile, until it is over.

    What the reconcile begins has its context for as long as it lives: the timer of its requeue, the watch of a dependent.
    It must neither add to the trace then nor keep it.
    """

    trace: Trace | None


# Of the reconcile that the current task works on.
_CURRENT: ContextVar[_Slot | None] = ContextVar("trace", default=None)


def _current() -> Trace | None:
    slot = _CURRENT.get()
    return slot.trace if slot else None


class Spans:
    """Makes the spans of reconciles. `server`: the API server's URL. Nothing that goes wrong here ends a reconcile."""

    def __init__(self, tracer: Tracer, server: str) -> None:
        self._tracer = tracer
        url = urlsplit(server)
        # Before the path of the API, where the API server is behind another one.
        self._base = url.path.rstrip("/")
        self._url = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{self._base}"
        port = url.port or (80 if url.scheme == "http" else 443)
        self._server: Attributes = {"server.address": url.hostname or "", "server.port": port}

    def begin(self, record: ReconcileRecord) -> None:
        """Begin the trace of a reconcile: it begins when its CR was put on the queue."""
        with _harmless():
            kind = record.request.watch.gvk.kind
            span = self._tracer.begin(f"reconcile {kind}", begun=record.begun - record.waited)
            _CURRENT.set(_Slot(Trace(span)))

    def begin_run(self, run: RunRecord) -> None:
        """Begin the span of the reconcile's run."""
        with _harmless():
            if (trace := _current()) is not None:
                trace.run = self._tracer.begin(f"run {run.content.name[:_LONGEST_NAME]}", begun=run.begun, parent=trace.span)

    async def end(self, record: ReconcileRecord) -> None:
        """End the trace, and make all of its spans."""
        slot = _CURRENT.get()
        if slot is None or (trace := slot.trace) is None:
            return
        slot.trace = None
        if not trace.span.is_sampled:
            return
        with _harmless():
            ended, of_cr = record.ended or time(), _of_cr(record)
            await self._add_parts(trace, record, ended, of_cr)
            error = (record.message or record.status) if record.status in _FAILED else None
            self._tracer.end(trace.span, ended=ended, attributes={**of_cr, **_of_reconcile(record)}, error=error)

    def environment(self) -> dict[str, str]:
        """The variables by which a run's own spans become children of its span."""
        trace = _current()
        return {"TRACEPARENT": trace.run.traceparent} if trace is not None and trace.run is not None else {}

    def children(self) -> Callable[[], str]:
        """Makes the traceparents of the run's requests, wherever it is called; empty without a trace."""
        trace = _current()
        return trace.run.new_child if trace is not None and trace.run is not None else str

    async def _add_parts(self, trace: Trace, record: ReconcileRecord, ended: float, of_cr: Attributes) -> None:
        run = record.run
        if record.waited > 0:
            begun = record.begun - record.waited
            self._tracer.add("queue", parent=trace.span, begun=begun, ended=record.begun, attributes=of_cr)
        phases: list[tuple[float, float, Span]] = []
        for phase in record.phases:
            begun, over, parent = phase.begun, phase.begun + phase.seconds, trace.span
            if run is not None and trace.run is not None and phase.name in ("start", "tasks", "end"):
                # The run's tasks say more than that there were some.
                if phase.name == "tasks":
                    continue
                begun, parent = max(begun, run.begun), trace.run
            span = self._tracer.add(phase.name, parent=parent, begun=begun, ended=over, attributes=of_cr)
            if parent is trace.span:
                phases.append((begun, over, span))
        async for request in _with_pauses(trace.requests):
            within = (span for begun, over, span in phases if begun <= request.begun < over)
            self._add_request(request, next(within, trace.span), of_cr)
        if run is not None and trace.run is not None:
            await self._add_run(run, trace.run, ended, of_cr)

    async def _add_run(self, run: RunRecord, parent: Span, ended: float, of_cr: Attributes) -> None:
        ended = run.ended or ended
        tasks = run.tasks[:_MOST_TASKS]
        spans = [self._add_task(task, parent, ended, of_cr) async for task in _with_pauses(tasks)]
        begins = [task.begun for task in tasks]
        async for request in _with_pauses(run.requests[:_MOST_REQUESTS]):
            number = bisect_right(begins, request.begun) - 1
            is_within = number >= 0 and request.begun < (tasks[number].ended or ended)
            self._add_request(request, spans[number] if is_within else parent, of_cr)
        self._tracer.end(parent, ended=ended, attributes={**of_cr, **_of_run(run)}, error=_error_of_run(run))

    def _add_task(self, task: TaskRecord, parent: Span, ended: float, of_cr: Attributes) -> Span:
        path, _, line = task.location.rpartition(":")
        attributes: Attributes = {
            **of_cr,
            "ansible.task.name": task.name,
            "ansible.task.module": task.action,
            "ansible.task.status": task.status.value,
        }
        if task.role:
            attributes["ansible.task.role"] = task.role
        if path and line.isdecimal():
            attributes |= {"code.file.path": path[:_LONGEST_PATH], "code.line.number": int(line)}
        if task.items:
            attributes["ansible.task.items"] = task.items
        if task.message and not task.status.is_failure:
            attributes["ansible.task.message"] = task.message
        return self._tracer.add(
            task.name[:_LONGEST_NAME] or task.action or "task",
            parent=parent,
            begun=task.begun,
            ended=task.ended or ended,
            attributes=attributes,
            error=(task.message or task.status) if task.status.is_failure else None,
        )

    def _add_request(self, request: ApiRequest, parent: Span, of_cr: Attributes) -> None:
        path, error = request.path.removeprefix(self._base), _error_of_request(request)
        name, template = described(request.method, path)
        attributes: Attributes = {**of_cr, "http.request.method": request.method}
        if request.from_store:
            attributes |= {"rolerunner.from_store": True, "url.path": path}
        else:
            attributes |= {**self._server, "url.full": f"{self._url}{path}"}
        if template:
            attributes["url.template"] = template
        if request.status:
            attributes["http.response.status_code"] = request.status
        if error is not None:
            attributes["error.type"] = str(request.status or "no_answer")
        self._tracer.add(
            name,
            parent=parent,
            begun=request.begun,
            ended=request.begun + request.seconds,
            attributes=attributes,
            error=error,
            # A store is the runner's own.
            is_client=not request.from_store,
            traceparent=request.traceparent,
        )


async def trace_request(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """A middleware of the runner's client: the requests of a reconcile are part of its trace, and name it to the server."""
    trace = _current()
    # A watch that a reconcile begins is no part of it.
    if trace is None or "watch" in request.url.query:
        return await handler(request)
    traceparent = trace.span.new_child()
    request.headers.setdefault("traceparent", traceparent)
    if not trace.span.is_sampled:
        return await handler(request)
    begun, since, status = time(), monotonic(), 0
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        path = request.url.raw_path[:_LONGEST_PATH]
        trace.add_request(ApiRequest(request.method, path, status, False, begun, monotonic() - since, traceparent))


def add_trace_ids() -> None:
    """Give each log line of a reconcile the field `trace_id`."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_add_trace_id)


def _add_trace_id(record: logging.LogRecord) -> bool:
    trace = _current()
    if trace is not None and trace.span.is_sampled:
        record.trace_id = trace.span.trace_id
    return True


async def _with_pauses(items: Sequence[_Item]) -> AsyncIterator[_Item]:
    """The items; after some of them it is others' turn in the event loop."""
    for number, item in enumerate(items, 1):
        yield item
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)


def described(method: str, path: str) -> tuple[str, str]:
    """The span's name (`GET deployments`, `PUT memcacheds/status`, `GET /apis`), and the path's template.

    Neither has namespaces and names. The template is empty for what is no resource.
    """
    info = parse(path)
    if not info.is_resource:
        first = path.removeprefix("/").partition("/")[0]
        return f"{method} /{first}" if first in _ENDPOINTS else method, ""
    subresource = f"/{info.subresource.partition('/')[0]}" if info.subresource else ""
    template = f"/{'apis' if '/' in info.api_version else 'api'}/{info.api_version}"
    template += "/namespaces/{namespace}" if info.namespace else ""
    template += f"/{info.plural}{'/{name}' if info.name else ''}{subresource}"
    return f"{method} {info.plural}{subresource}"[:_LONGEST_NAME], template[:_LONGEST_PATH]


def _of_cr(record: ReconcileRecord) -> Attributes:
    request = record.request
    attributes: Attributes = {
        "k8s.object.api_version": request.watch.gvk.api_version,
        "k8s.object.kind": request.watch.gvk.kind,
        "k8s.object.name": request.key.name,
    }
    if request.key.namespace:
        attributes["k8s.namespace.name"] = request.key.namespace
    # It is not known where the CR was not found.
    if record.uid:
        attributes["k8s.object.uid"] = record.uid
    return attributes


def _of_reconcile(record: ReconcileRecord) -> Attributes:
    attributes: Attributes = {
        "rolerunner.priority": record.priority.name.lower(),
        "rolerunner.queue.seconds": round(record.waited, 6),
        "rolerunner.result": record.status.value,
    }
    if record.generation is not None:
        attributes["rolerunner.generation"] = record.generation
    if record.cause:
        attributes["rolerunner.cause"] = record.cause[:_LONGEST_PATH]
    if record.requeue is not None:
        after = max(0.0, record.requeue.due - (record.ended or time()))
        attributes |= {"rolerunner.requeue.reason": record.requeue.reason, "rolerunner.requeue.after": round(after, 3)}
    return attributes


def _of_run(run: RunRecord) -> Attributes:
    is_playbook = run.content.suffix in (".yml", ".yaml")
    attributes: Attributes = {
        "rolerunner.run": run.ident,
        "ansible.playbook" if is_playbook else "ansible.role": run.content.name[:_LONGEST_NAME],
        "rolerunner.dry_run": run.is_dry_run,
    }
    if outcome := run.outcome:
        attributes |= {f"ansible.{name}": count for name, count in outcome.counts.items()}
    for name, more in (
        ("tasks", len(run.tasks) + run.more_tasks - _MOST_TASKS),
        ("requests", len(run.requests) + run.more_requests - _MOST_REQUESTS),
    ):
        if more > 0:
            attributes[f"rolerunner.{name}_left_out"] = more
    return attributes


def _error_of_run(run: RunRecord) -> str | None:
    if run.outcome is None:
        return ENDED_EARLY
    return None if run.outcome.succeeded else "\n".join(run.outcome.messages)[:2000]


def _error_of_request(request: ApiRequest) -> str | None:
    if not request.status:
        return "no answer"
    # That an object is not there is what clients ask for.
    is_error = request.status >= 400 and not (request.status == 404 and request.method in ("GET", "HEAD"))
    return "" if is_error else None


_told = Once()


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """Log what goes wrong with a trace, once."""
    try:
        yield
    except Exception as error:
        if _told.is_new(type(error).__name__):
            logger.exception("A trace could not be made; the operator goes on without it")
