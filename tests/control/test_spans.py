"""Traces of reconciles, made of what happens on a stage, as an exporter gets them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from runner.control import Priority, Request, Result, records, spans
from runner.control.controller import Controller
from runner.control.reconciliation import read
from runner.control.spans import Spans, described, trace_request
from runner.control.workqueue import WorkQueue
from runner.executor.jobs import Job, JobEvent
from runner.executor.run_folder import RunFolders
from runner.kube.client import ApiClient
from runner.proxy.sessions import ApiRequest
from runner.resource.metadata import ObjectKey
from runner.tracer import Tracer
from tests.control.stage import PLAIN, Stage, cr
from tests.control.test_workqueue import SOON, watch
from tests.executor.test_jobs import failure, stats
from tests.kube.test_client import served

SERVER = "https://10.0.0.1:6443"
# What each span has of the stage's CR.
OF_CR = {
    "k8s.namespace.name": "default",
    "k8s.object.api_version": "example.com/v1",
    "k8s.object.kind": "Thing",
    "k8s.object.name": "a",
    "k8s.object.uid": "1",
}


@dataclass
class Traced:
    """A stage whose reconciles are traced."""

    stage: Stage
    tracer: Tracer
    exporter: InMemorySpanExporter
    queue: WorkQueue
    spans: Spans

    def __post_init__(self) -> None:
        self.stage.runs.spans = self.spans
        self.controller = Controller(self.queue, self._reconcile, self.stage.history, self.spans)

    async def _reconcile(self, request: Request) -> Result:
        return await self.stage.reconciler.reconcile(request)

    async def reconcile(self) -> None:
        self.queue.add(self.stage.request, Priority.CHANGE)
        async with asyncio.timeout(SOON):
            await self.controller.reconcile(await self.queue.get())

    async def made(self) -> dict[str, ReadableSpan]:
        """All spans, by their names, of which there is one each."""
        await self.tracer.close()
        finished = self.exporter.get_finished_spans()
        found = {span.name: span for span in finished}
        assert len(found) == len(finished)
        return found

    async def tree(self) -> list[str]:
        """The names of the spans, in the order of their beginnings, each with those that it is below."""
        await self.tracer.close()
        finished = self.exporter.get_finished_spans()
        names = {span.context.span_id: span for span in finished if span.context}

        def path(span: ReadableSpan) -> str:
            return f"{path(names[span.parent.span_id])} > {span.name}" if span.parent else span.name

        # Of two that begin at the same time the outer one is first.
        ordered = sorted(finished, key=lambda span: (span.start_time or 0, path(span).count(">")))
        return [path(span) for span in ordered]


@pytest.fixture(autouse=True)
def _a_machine_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.tracer._CLOSE_WITHIN", 120.0)


@pytest.fixture
async def traced(stage: Stage) -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    tracer = Tracer(exporter)
    queue = WorkQueue(2)
    yield Traced(stage, tracer, exporter, queue, Spans(tracer, SERVER))
    queue.close()
    await tracer.close()


def now(name: str, uuid: str, **data: Any) -> JobEvent:
    """An event that happens now."""
    return JobEvent.of({"event": name, "event_data": {"task_uuid": uuid, "task": f"Task {uuid}", **data}})


def started(uuid: str) -> JobEvent:
    data = {"task_action": "k8s", "role": "x", "task_path": "/roles/x/tasks/main.yml:3"}
    return now("playbook_on_task_start", uuid, **data)


def request(path: str = "/api/v1/namespaces/default/configmaps/x", **more: Any) -> ApiRequest:
    made = ApiRequest(method="GET", path=path, status=200, from_store=False, begun=time.time(), seconds=0.001)
    return replace(made, **more)


def plays(traced: Traced, *told: JobEvent | Callable[[], object]) -> None:
    """Have the next run tell these events; what can be called happens between them."""

    async def execute(job: Job) -> AsyncGenerator[JobEvent, None]:
        traced.stage.jobs.append(job)
        for each in told:
            # Two events of a real run are not at the same time.
            await asyncio.sleep(0.002)
            if isinstance(each, JobEvent):
                yield each
            else:
                each()
        # What is after the last one takes time as well, and so comes before the status.
        await asyncio.sleep(0.002)

    traced.stage.having(execute=execute)
    traced.stage.runs.spans = traced.spans


def run_of(traced: Traced) -> records.RunRecord:
    run = traced.stage.history.current(traced.stage.request).run
    assert run is not None
    return run


async def test_the_tree_of_a_run(traced: Traced) -> None:
    def asks(**more: Any) -> None:
        run_of(traced).add_request(request(**more))

    plays(
        traced,
        started("a"),
        asks,
        now("runner_on_ok", "a", res={"changed": True}),
        started("b"),
        lambda: asks(method="POST", path="/api/v1/namespaces/default/configmaps", status=201),
        now("runner_on_skipped", "b"),
        stats(ok=1, changed=1),
    )
    await traced.reconcile()
    assert [name for name in await traced.tree() if "queue" not in name] == [
        "reconcile Thing",
        "reconcile Thing > read",
        "reconcile Thing > run x",
        "reconcile Thing > run x > start",
        "reconcile Thing > run x > Task a",
        "reconcile Thing > run x > Task a > GET configmaps",
        "reconcile Thing > run x > Task b",
        "reconcile Thing > run x > Task b > POST configmaps",
        "reconcile Thing > run x > end",
        "reconcile Thing > status",
    ]
    assert len({span.context.trace_id for span in traced.exporter.get_finished_spans() if span.context}) == 1


async def test_the_attributes(traced: Traced) -> None:
    traced.stage.handlers.causes = ["spec changed"]
    plays(
        traced,
        started("a"),
        lambda: run_of(traced).add_request(request()),
        now("runner_item_on_ok", "a", res={}),
        now("runner_on_ok", "a", res={"changed": True}),
        stats(ok=1, changed=1),
    )
    await traced.reconcile()
    made = await traced.made()
    (record,) = traced.stage.history.of(traced.stage.request)
    root = dict(made["reconcile Thing"].attributes or {})
    assert 50 < root.pop("rolerunner.requeue.after") <= 60  # type: ignore[operator]
    assert root.pop("rolerunner.queue.seconds") == round(record.waited, 6)
    assert root == {
        **OF_CR,
        "rolerunner.generation": 1,
        "rolerunner.cause": "spec changed",
        "rolerunner.priority": "change",
        "rolerunner.requeue.reason": "period",
        "rolerunner.result": "succeeded",
    }
    assert dict(made["run x"].attributes or {}) == {
        **OF_CR,
        "ansible.role": "x",
        "ansible.ok": 1,
        "ansible.changed": 1,
        "ansible.skipped": 0,
        "ansible.failures": 0,
        "rolerunner.dry_run": False,
        "rolerunner.run": traced.stage.jobs[0].ident,
    }
    assert dict(made["Task a"].attributes or {}) == {
        **OF_CR,
        "ansible.task.name": "Task a",
        "ansible.task.module": "k8s",
        "ansible.task.role": "x",
        "ansible.task.status": "changed",
        "ansible.task.items": 1,
        "code.file.path": "/roles/x/tasks/main.yml",
        "code.line.number": 3,
    }
    asked = made["GET configmaps"]
    assert dict(asked.attributes or {}) == {
        **OF_CR,
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "server.address": "10.0.0.1",
        "server.port": 6443,
        "url.full": f"{SERVER}/api/v1/namespaces/default/configmaps/x",
        "url.template": "/api/v1/namespaces/{namespace}/configmaps/{name}",
    }
    assert asked.kind is SpanKind.CLIENT
    assert all(span.status.status_code is StatusCode.UNSET for span in made.values())


async def test_a_failed_task_is_an_error_of_its_run_and_its_reconcile(traced: Traced) -> None:
    plays(traced, started("a"), failure("no room", task_uuid="a"), stats(failures=1))
    await traced.reconcile()
    made = await traced.made()
    failed = {name: span.status.description for name, span in made.items() if span.status.status_code is StatusCode.ERROR}
    assert failed == {"Task a": "no room", "run x": "no room", "reconcile Thing": "no room"}
    attributes = made["reconcile Thing"].attributes or {}
    assert (attributes["rolerunner.result"], attributes["rolerunner.requeue.reason"]) == ("failed", "retry")


async def test_a_search_for_a_cr_finds_each_span(traced: Traced) -> None:
    plays(traced, started("a"), lambda: run_of(traced).add_request(request()), failure("no room", task_uuid="a"))
    await traced.reconcile()
    found = {name for name, span in (await traced.made()).items() if OF_CR.items() <= dict(span.attributes or {}).items()}
    others = {"queue", "read", "start", "end", "status"}
    assert found == {"reconcile Thing", "run x", "Task a", "GET configmaps", *others}


async def test_an_ignored_failure_is_no_error(traced: Traced) -> None:
    plays(traced, started("a"), failure("no room", task_uuid="a", ignore_errors=True), stats(ok=1))
    await traced.reconcile()
    task = (await traced.made())["Task a"]
    assert task.status.status_code is StatusCode.UNSET
    assert (task.attributes or {})["ansible.task.message"] == "no room"


async def test_a_run_that_is_cancelled_has_its_spans_ended(traced: Traced) -> None:
    begun = asyncio.Event()

    async def execute(job: Job) -> AsyncGenerator[JobEvent, None]:
        yield started("a")
        begun.set()
        await asyncio.Event().wait()

    traced.stage.having(execute=execute)
    traced.stage.runs.spans = traced.spans
    working = asyncio.create_task(traced.reconcile())
    await begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    made = await traced.made()
    assert made["run x"].status.description == "ended before its end"
    assert made["reconcile Thing"].status.description == "ended before its end"
    assert (made["Task a"].attributes or {})["ansible.task.status"] == "running"
    assert all(span.end_time for span in made.values())


async def test_a_dry_run(folders: RunFolders) -> None:
    exporter, queue = InMemorySpanExporter(), WorkQueue(2)
    tracer = Tracer(exporter)
    stage = Stage(folders, replace(PLAIN, allow_annotations=frozenset({"dry-run"})))
    stage.server.touch(metadata={**stage.cr["metadata"], "annotations": {"rolerunner.io/dry-run": "true"}})
    traced = Traced(stage, tracer, exporter, queue, Spans(tracer, SERVER))
    await traced.reconcile()
    made = await traced.made()
    assert (made["run x"].attributes or {})["rolerunner.dry_run"] is True
    assert (made["reconcile Thing"].attributes or {})["rolerunner.result"] == "dry run"
    queue.close()


async def test_a_refused_cr_has_no_run_and_is_an_error(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    async def problems(*_: object) -> list[str]:
        return ["spec.size: is no integer"]

    monkeypatch.setattr(type(traced.stage.runs), "problems", problems)
    await traced.reconcile()
    made = await traced.made()
    assert "run x" not in made
    assert made["reconcile Thing"].status.description == "spec.size: is no integer"


async def test_the_run_s_environment_names_its_span(traced: Traced) -> None:
    await traced.reconcile()
    await traced.reconcile()
    made = await traced.tree()
    assert made.count("reconcile Thing > run x") == 2
    seen = [job.environment["TRACEPARENT"] for job in traced.stage.jobs]
    contexts = [span.context for span in traced.exporter.get_finished_spans() if span.name == "run x"]
    assert seen == [
        f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}" for context in contexts if context
    ]
    assert len(set(seen)) == 2


async def test_a_request_of_a_run_has_the_span_that_the_api_server_was_told_of(traced: Traced) -> None:
    handed_out: list[str] = []

    def asks() -> None:
        (session,) = traced.stage.runs.sessions._open.values()
        handed_out.append(session.new_traceparent())
        run_of(traced).add_request(request(traceparent=handed_out[0]))

    # It is called where the proxy's server is, of which no reconcile is the context.
    plays(traced, started("a"), lambda: asyncio.get_running_loop().call_soon(asks), stats(ok=1), stats(ok=1))
    await traced.reconcile()
    context = (await traced.made())["GET configmaps"].context
    assert context is not None
    assert handed_out == [f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"]


async def test_the_runner_s_own_requests_are_part_of_the_trace(traced: Traced) -> None:
    seen: list[str | None] = []

    async def handler(asked: web.Request) -> web.Response:
        seen.append(asked.headers.get("traceparent"))
        return web.json_response(cr() if "things" in asked.path else {"message": "x"}, status=200)

    async with served(handler) as plain:
        client = ApiClient(plain._configuration, trace_request)
        try:

            async def execute(job: Job) -> AsyncGenerator[JobEvent, None]:
                await read(client, traced.stage.reconciliation)
                async for _ in client.watch("/api/v1/pods", {}):
                    break
                yield stats(ok=1)

            traced.stage.having(execute=execute)
            traced.stage.runs.spans = traced.spans
            await client.get("/version")
            await traced.reconcile()
            await client.get("/version")
        finally:
            await client.close()
    span = (await traced.made())["GET things"]
    assert span.context is not None
    named = f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"
    # Neither a watch nor what is no part of a reconcile.
    assert seen == [None, named, None, None]
    assert (span.attributes or {})["http.response.status_code"] == 200


@pytest.mark.parametrize(
    ("changes", "status", "error_type"),
    [
        ({"status": 200}, StatusCode.UNSET, None),
        ({"status": 404}, StatusCode.UNSET, None),
        ({"status": 404, "method": "PUT"}, StatusCode.ERROR, "404"),
        ({"status": 409, "method": "PUT"}, StatusCode.ERROR, "409"),
        ({"status": 500}, StatusCode.ERROR, "500"),
        ({"status": 0}, StatusCode.ERROR, "no_answer"),
    ],
    ids=["good", "not-there", "nothing-to-change", "conflict", "broken", "no-answer"],
)
async def test_which_requests_are_errors(
    traced: Traced, changes: dict[str, Any], status: StatusCode, error_type: str | None
) -> None:
    plays(traced, lambda: run_of(traced).add_request(request(**changes)), stats(ok=1))
    await traced.reconcile()
    span = (await traced.made())[f"{changes.get('method', 'GET')} configmaps"]
    assert span.status.status_code is status
    assert (span.attributes or {}).get("error.type") == error_type


async def test_an_answer_of_a_store_never_was_at_the_server(traced: Traced) -> None:
    plays(traced, lambda: run_of(traced).add_request(request(from_store=True)), stats(ok=1))
    await traced.reconcile()
    span = (await traced.made())["GET configmaps"]
    assert span.kind is SpanKind.INTERNAL
    assert (span.attributes or {})["rolerunner.from_store"] is True
    assert "server.address" not in (span.attributes or {})


async def test_a_run_has_so_many_spans_and_no_more(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "_MOST_TASKS", 2)
    monkeypatch.setattr(spans, "_MOST_REQUESTS", 1)
    asks = [lambda: run_of(traced).add_request(request())] * 2
    plays(traced, *(started(uuid) for uuid in "abcd"), *asks, stats(ok=1))
    await traced.reconcile()
    made = await traced.made()
    assert {name for name in made if name.startswith("Task")} == {"Task a", "Task b"}
    attributes = made["run x"].attributes or {}
    assert (attributes["rolerunner.tasks_left_out"], attributes["rolerunner.requests_left_out"]) == (2, 1)


async def test_others_have_their_turn_while_many_spans_are_made(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "_AT_ONCE", 2)
    asks = [lambda: run_of(traced).add_request(request())] * 10
    plays(traced, *(started(str(number)) for number in range(10)), *asks, stats(ok=1))
    turn, seen, add = 0, [], traced.tracer.add

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append(turn)
        return add(*args, **kwargs)

    async def others() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(traced.tracer, "add", counted)
    working = asyncio.create_task(others())
    await traced.reconcile()
    working.cancel()
    assert len(seen) > 20
    assert len(set(seen)) >= 10


async def test_what_a_reconcile_begins_does_not_keep_its_trace(traced: Traced) -> None:
    """The timer of a requeue has the context of the reconcile: with 10,000 CRs, it would have as many traces."""
    contexts: list[contextvars.Context] = []
    plays(traced, lambda: contexts.append(contextvars.copy_context()), stats(ok=1))
    await traced.reconcile()
    (context,) = contexts
    assert context.run(spans._current) is None


async def test_what_is_not_sampled_has_no_spans_and_says_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    exporter, queue = InMemorySpanExporter(), WorkQueue(2)
    tracer = Tracer(exporter)
    traced = Traced(stage, tracer, exporter, queue, Spans(tracer, SERVER))
    await traced.reconcile()
    assert await traced.made() == {}
    assert traced.stage.jobs[0].environment["TRACEPARENT"].endswith(("-00", "-02"))
    queue.close()


async def test_log_lines_of_a_reconcile_have_its_trace(traced: Traced, caplog: pytest.LogCaptureFixture) -> None:
    is_over, begun = asyncio.Event(), []

    async def outlives() -> None:
        await is_over.wait()
        logging.getLogger(__name__).info("of a task that it has begun")

    plays(traced, lambda: begun.append(asyncio.create_task(outlives())), stats(ok=1))
    caplog.handler.addFilter(spans._add_trace_id)
    try:
        with caplog.at_level(logging.INFO):
            await traced.reconcile()
            logging.getLogger(__name__).info("after it")
            is_over.set()
            await asyncio.gather(*begun)
    finally:
        caplog.handler.removeFilter(spans._add_trace_id)
    ids = {record.getMessage(): record.__dict__.get("trace_id") for record in caplog.records}
    context = (await traced.made())["run x"].context
    assert context is not None
    assert ids["Running"] == ids["Run succeeded"] == f"{context.trace_id:032x}"
    assert ids["after it"] is ids["of a task that it has begun"] is None


async def test_a_fault_of_a_trace_is_none_of_the_reconcile(
    traced: Traced, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no spans today")

    spans._told.reset()
    monkeypatch.setattr(traced.tracer, "begin", broken)
    monkeypatch.setattr(traced.tracer, "add", broken)
    await traced.reconcile()
    await traced.reconcile()
    assert len(traced.stage.jobs) == 2
    assert "TRACEPARENT" not in traced.stage.jobs[0].environment
    assert [record.getMessage() for record in caplog.records].count(
        "A trace could not be made; the operator goes on without it"
    ) == 1


@pytest.mark.parametrize(
    ("path", "name", "url_template"),
    [
        ("/api/v1/namespaces/x/pods/y/log", "GET pods/log", "/api/v1/namespaces/{namespace}/pods/{name}/log"),
        ("/apis/apps/v1/deployments", "GET deployments", "/apis/apps/v1/deployments"),
        ("/api/v1/namespaces/x", "GET namespaces", "/api/v1/namespaces/{name}"),
        ("/apis/e.com/v1/things/a/status", "GET things/status", "/apis/e.com/v1/things/{name}/status"),
        ("/api/v1/nodes/n/proxy/metrics/x", "GET nodes/proxy", "/api/v1/nodes/{name}/proxy"),
        ("/apis", "GET /apis", ""),
        ("/openapi/v3/apis/apps/v1", "GET /openapi", ""),
        ("/whatever/a/b", "GET", ""),
        ("/api/v1/" + "x" * 300, "GET " + "x" * 96, "/api/v1/" + "x" * 300),
    ],
    ids=["log", "list", "namespace", "status", "proxy", "apis", "openapi", "unknown", "long"],
)
def test_names_of_requests(path: str, name: str, url_template: str) -> None:
    assert described("GET", path) == (name, url_template)


async def test_cluster_scoped_and_behind_another_server(stage: Stage) -> None:
    exporter, queue = InMemorySpanExporter(), WorkQueue(2)
    tracer = Tracer(exporter)
    made = Spans(tracer, "https://me:hidden@rancher.example.com/k8s/clusters/c-1")
    record = records.ReconcileRecord(
        request=Request(watch("Fleet"), ObjectKey("", "one")), priority=Priority.RETRY, waited=0.0
    )
    made.begin(record)
    trace = spans._current()
    assert trace is not None
    trace.add_request(request("/k8s/clusters/c-1/apis/example.com/v1/fleets/one"))
    await made.end(record)
    await tracer.close()
    asked, root = exporter.get_finished_spans()
    assert asked.name == "GET fleets"
    url = "https://rancher.example.com/k8s/clusters/c-1/apis/example.com/v1/fleets/one"
    assert (asked.attributes or {})["url.full"] == url
    assert (asked.attributes or {})["server.port"] == 443
    assert "k8s.namespace.name" not in (root.attributes or {})
    assert (root.attributes or {})["rolerunner.priority"] == "retry"
    queue.close()
