"""Traces, as a collector gets them from an operator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.driver import Cluster, until
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.behaviour.test_leader_election import said
from tests.behaviour.test_runs import counted, succeeded
from tests.conftest import THING, Project, lines, thing

CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")
CANNOT_BE_SENT = "Traces cannot be sent; the operator goes on without them"
# A header of the export: its value is a secret.
SECRET = "tok-4711-never-shown"

ROLE = """
- name: The ConfigMap has what the CR asks for
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: "{{ ansible_operator_meta.name }}", namespace: "{{ ansible_operator_meta.namespace }}"}
      data:
        size: "{{ size | string }}"
        environment: "{{ lookup('pipe', 'env | grep -e ^TRACEPARENT -e HEADERS') }}"
- name: It is looked at
  kubernetes.core.k8s_info: {api_version: v1, kind: ConfigMap, namespace: "{{ ansible_operator_meta.namespace }}"}
- name: Two commands
  ansible.builtin.command: "true"
  changed_when: false
  loop: [1, 2]
- name: A size may be too large
  ansible.builtin.fail: {msg: "no size {{ size }}"}
  when: size == 13
"""


@dataclass
class SpanNode:
    name: str
    attributes: dict[str, Any]
    error: str | None
    trace_id: str
    span_id: str
    begun: int
    ended: int
    children: list[SpanNode] = field(default_factory=list)

    def find(self, name: str) -> SpanNode:
        (found,) = [span for span in self.walk() if span.name == name]
        return found

    def names(self) -> list[str]:
        return [child.name for child in self.children]

    def walk(self) -> list[SpanNode]:
        return [self, *(span for child in self.children for span in child.walk())]

    def text(self, depth: int = 0) -> str:
        about = {key: value for key, value in self.attributes.items() if key in SHOWN and value not in ("", None, False)}
        words = " ".join(f"{SHOWN[key]}={value}" for key, value in about.items())
        error = f"  ERROR {self.error}" if self.error is not None else ""
        line = f"{'  ' * depth}{self.name}  {(self.ended - self.begun) / 1e6:.1f} ms  {words}{error}".rstrip()
        return "\n".join([line, *(child.text(depth + 1) for child in self.children)])


SHOWN = {
    "rolerunner.result": "result",
    "rolerunner.cause": "cause",
    "rolerunner.requeue.reason": "requeue",
    "ansible.task.status": "status",
    "ansible.task.items": "items",
    "http.response.status_code": "code",
    "rolerunner.from_store": "from_store",
}


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[str] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.headers.append(request.headers.get("x-token", ""))
        self.requests.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(content_type="application/x-protobuf")

    def roots(self) -> list[SpanNode]:
        """The traces whose roots have come."""
        spans: dict[str, SpanNode] = {}
        parents: dict[str, str] = {}
        for sent in self.requests:
            for of_resource in sent.resource_spans:
                for scope in of_resource.scope_spans:
                    for span in scope.spans:
                        raw = MessageToDict(span)
                        attributes = {item["key"]: next(iter(item["value"].values())) for item in raw.get("attributes", [])}
                        error = span.status.message if span.status.code == 2 else None
                        times = span.start_time_unix_nano, span.end_time_unix_nano
                        ids = span.trace_id.hex(), span.span_id.hex()
                        spans[ids[1]] = SpanNode(span.name, attributes, error, *ids, *times)
                        parents[ids[1]] = span.parent_span_id.hex()
        roots = []
        for span_id, node in sorted(spans.items(), key=lambda item: item[1].begun):
            if parents[span_id] == "":
                roots.append(node)
            elif parents[span_id] in spans:
                spans[parents[span_id]].children.append(node)
        return roots

    def resource(self) -> dict[str, Any]:
        attributes = self.requests[0].resource_spans[0].resource.attributes
        return {item.key: item.value.string_value for item in attributes}


@asynccontextmanager
async def listening(take: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """The URL of an endpoint that takes OTLP so."""
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    async with listening(made.take) as made.url:
        yield made


async def of_generation(collector: Collector, generation: int) -> SpanNode:
    """The first trace of the CR's generation, when it has come."""

    async def come() -> SpanNode | None:
        of_it = (root for root in collector.roots() if root.attributes.get("rolerunner.generation") == str(generation))
        return next(of_it, None)

    return await until(come, f"a trace of generation {generation} came")


@pytest.mark.parametrize("executor", ["warm", "subprocess"])
async def test_a_reconcile_is_a_trace(
    project: Project, world: Cluster, one: ObjectKey, collector: Collector, executor: str
) -> None:
    project.role(ROLE)
    project.watch()
    operator = await project.start(
        f"--executor={executor}",
        "--ansible-log-events=Everything",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_EXPORTER_OTLP_HEADERS=f"x-token={SECRET}",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
        OTEL_BSP_SCHEDULE_DELAY="50",
    )
    await world.create(thing(size=1), one.namespace)
    await succeeded(world, one)
    root = await of_generation(collector, 1)

    assert (root.name, root.error, root.attributes["rolerunner.cause"]) == ("reconcile Thing", None, "created")
    assert {span.attributes["k8s.object.name"] for span in root.walk()} == {one.name}
    assert root.attributes["k8s.namespace.name"] == one.namespace
    # A run that takes longer than half a second is announced meanwhile, by requests of the reconcile itself.
    parts = [child.name for child in root.children if "http.request.method" not in child.attributes]
    assert parts == ["queue", "read", "run thing", "status"]
    run = root.find("run thing")
    tasks = [
        *("The ConfigMap has what the CR asks for", "It is looked at"),
        *("Two commands", "A size may be too large"),
    ]
    assert run.names() == ["start", *tasks, "end"]
    statuses = [run.find(name).attributes["ansible.task.status"] for name in tasks]
    assert statuses == ["changed", "ok", "ok", "skipped"]
    assert run.find("Two commands").attributes["ansible.task.items"] == "2"
    writing = run.find(tasks[0]).find("POST configmaps")
    assert writing.attributes["http.response.status_code"] == "201"
    assert writing.attributes["url.template"] == "/api/v1/namespaces/{namespace}/configmaps"
    assert run.find(tasks[1]).find("GET configmaps").attributes["http.response.status_code"] == "200"
    assert root.find("status").find("PUT things/status").attributes["http.response.status_code"] == "200"
    # All of it lies within it.
    assert all(root.begun <= span.begun <= span.ended <= root.ended for span in root.walk())

    made = await world.get(CONFIG_MAP, one)
    assert made is not None
    assert made["data"]["environment"] in (f"TRACEPARENT=00-{run.trace_id}-{run.span_id}-{f}" for f in ("01", "03"))
    of_run = lines(operator, "Run succeeded", name=one.name)[0]
    assert of_run["trace_id"] == root.trace_id

    # The next run is another's, also in the same process.
    await world.patch(THING, one, {"spec": {"size": 2}})
    second = await of_generation(collector, 2)
    assert second.trace_id != root.trace_id
    assert second.attributes["rolerunner.cause"] != "created"
    made = await world.get(CONFIG_MAP, one)
    assert made is not None
    assert second.find("run thing").span_id in made["data"]["environment"]

    assert set(collector.headers) == {SECRET}
    attributes = collector.resource()
    assert (attributes["service.name"], attributes["deployment.environment.name"]) == ("rolerunner", "test")
    # The collector goes on meanwhile.
    assert await asyncio.to_thread(operator.stop) == 0
    kept = [path for path in project.runs.rglob("*") if path.is_file()]
    assert any(path.name == "command" and run.span_id in path.read_text() for path in kept)
    assert not [path for path in kept if SECRET in path.read_text(errors="replace")]
    assert SECRET not in operator.output
    print(f"\n{executor}\n{root.text()}\n{second.text()}")  # noqa: T201 - docs/traces.md shows it


async def test_a_failure_is_an_error_without_secrets(
    project: Project, world: Cluster, one: ObjectKey, collector: Collector
) -> None:
    project.role(
        """
- name: A Secret
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: Secret
      metadata: {name: secret, namespace: "{{ ansible_operator_meta.namespace }}"}
      stringData: {password: hunter2-hunter2}
- name: It says too much
  ansible.builtin.fail: {msg: "cannot log in with hunter2-hunter2"}
"""
    )
    project.watch()
    await project.start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="50")
    await world.create(thing(), one.namespace)
    root = await of_generation(collector, 1)
    task, run = root.find("It says too much"), root.find("run thing")
    assert task.error is not None
    assert task.error.startswith("cannot log in with")
    assert run.error == root.error == task.error
    assert root.attributes["rolerunner.requeue.reason"] == "retry"
    assert root.find("POST events").error is None
    assert not [sent for sent in collector.requests if b"hunter2" in sent.SerializeToString()]


async def test_an_endpoint_that_is_not_there_harms_nothing(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("- {ansible.builtin.debug: {msg: hello}}")
    project.watch()
    # Nothing listens there, and nobody without root's rights may.
    operator = await project.start(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        OTEL_EXPORTER_OTLP_HEADERS=f"x-token={SECRET}",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
        OTEL_BSP_SCHEDULE_DELAY="10",
    )
    await world.create(thing(size=0), one.namespace)
    await counted(operator, one.name, 1)
    await said(operator, CANNOT_BE_SENT)
    for size in range(1, 4):
        await world.patch(THING, one, {"spec": {"size": size}})
        await counted(operator, one.name, size + 1)
    assert operator.stop() == 0
    assert operator.output.count("Traces cannot be sent") == 1
    assert "opentelemetry" not in operator.output
    assert "Traceback" not in operator.output
    assert SECRET not in operator.output


async def test_an_endpoint_that_does_not_answer_holds_up_no_end(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("- {ansible.builtin.debug: {msg: hello}}")
    project.watch()
    asked = asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with listening(take) as url:
        # It waits for longer than the test has time.
        operator = await project.start(
            OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_TIMEOUT="100000", OTEL_BSP_SCHEDULE_DELAY="10"
        )
        await world.create(thing(), one.namespace)
        await counted(operator, one.name, 1)
        await asked.wait()
        await world.patch(THING, one, {"spec": {"size": 1}})
        await counted(operator, one.name, 2)
        assert await asyncio.to_thread(operator.stop) == 0
    assert lines(operator, "The last traces could not be sent in time")
    assert "Traceback" not in operator.output


@pytest.mark.parametrize("status", [200, 401, 503])
async def test_garbage_from_the_endpoint_is_one_warning_at_most(
    project: Project, world: Cluster, one: ObjectKey, status: int
) -> None:
    project.role("- {ansible.builtin.debug: {msg: hello}}")
    project.watch()
    count = 0

    async def take(request: web.Request) -> web.Response:
        nonlocal count
        count += 1
        return web.Response(status=status, text=f"<html>{request.headers['x-token']}" + "x" * 100_000)

    async with listening(take) as url:
        operator = await project.start(
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_EXPORTER_OTLP_HEADERS=f"x-token={SECRET}",
            OTEL_EXPORTER_OTLP_TIMEOUT="1",
            OTEL_BSP_SCHEDULE_DELAY="10",
        )
        await world.create(thing(size=0), one.namespace)
        for size in range(1, 4):
            await counted(operator, one.name, size)
            before = count
            await world.patch(THING, one, {"spec": {"size": size}})

            async def sent(before: int = before) -> bool:
                return count > before

            await until(sent, "the next traces are sent")
        if status != 200:
            # A batch is sent several times before it is given up.
            await said(operator, CANNOT_BE_SENT)
        assert await asyncio.to_thread(operator.stop) == 0
    assert operator.output.count("Traces cannot be sent") == (0 if status == 200 else 1)
    assert SECRET not in operator.output
    assert len(operator.output) < 50_000


@pytest.mark.parametrize("executor", ["warm", "subprocess"])
async def test_ansible_s_own_callback_goes_on_with_the_trace(
    project: Project, world: Cluster, one: ObjectKey, collector: Collector, executor: str
) -> None:
    project.role("- {name: Hello, ansible.builtin.debug: {msg: hello}}")
    project.watch()
    operator = await project.start(
        f"--executor={executor}",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="http/protobuf",
        ANSIBLE_CALLBACKS_ENABLED="community.general.opentelemetry",
        ANSIBLE_OPENTELEMETRY_ENABLED="true",
    )
    await world.create(thing(), one.namespace)
    await succeeded(world, one)

    async def come() -> SpanNode | None:
        # It sends its spans when the play is over, and the runner its own when the reconcile is.
        root = await of_generation(collector, 1)
        return root if any(span.name == "main.json" for span in root.walk()) else None

    run = (await until(come, "the callback's spans came")).find("run thing")
    assert "main.json" in run.names()
    assert run.find("main.json").names() == ["thing : Hello"]
    assert await asyncio.to_thread(operator.stop) == 0
