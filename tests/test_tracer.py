"""Spans, and exporters that do what a test says."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import runner
from runner import tracer as module
from runner.export_trouble import Trouble
from runner.tracer import Exporter, Tracer


@pytest.fixture(autouse=True)
def _a_machine_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLOSE_WITHIN", 120.0)


class Failing(SpanExporter):
    """Fails as a test says, and counts its batches."""

    def __init__(self, how: Exception | SpanExportResult) -> None:
        self.how = how
        self.batches = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.batches += 1
        if isinstance(self.how, Exception):
            raise self.how
        return self.how


class Hanging(SpanExporter):
    """Answers when it is let go."""

    def __init__(self) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.begun.set()
        self.let_go.wait()
        return SpanExportResult.SUCCESS


async def test_a_span_has_its_times_parent_and_error() -> None:
    exporter = InMemorySpanExporter()
    made = Tracer(exporter)
    root = made.begin("root", begun=10.0)
    made.add("child", parent=root, begun=11.5, ended=11.0, attributes={"a": 1}, error="no", is_client=True)
    made.end(root, ended=12.0, attributes={"b": True})
    await made.close()
    child, of_root = exporter.get_finished_spans()
    assert child.parent is not None
    assert of_root.context is not None
    assert (child.parent.span_id, of_root.parent) == (of_root.context.span_id, None)
    assert (of_root.start_time, of_root.end_time) == (10 * 10**9, 12 * 10**9)
    # It never ends before it begins.
    assert child.end_time == child.start_time == 11_500_000_000
    assert (child.kind, child.status.status_code, child.status.description) == (SpanKind.CLIENT, StatusCode.ERROR, "no")
    assert (dict(child.attributes or {}), dict(of_root.attributes or {})) == ({"a": 1}, {"b": True})


async def test_what_is_no_text_is_sent_all_the_same() -> None:
    exporter = InMemorySpanExporter()
    made = Tracer(exporter)
    root = made.begin("r\ud800", begun=1.0, attributes={"a": "x\udcff"})
    made.add("c\ud800", parent=root, begun=1.0, ended=2.0, attributes={"a": "ä\udcff"}, error="\ud800")
    made.end(root, ended=2.0, attributes={"b": "\ud800"}, error="no")
    await made.close()
    sent = encode_spans(exporter.get_finished_spans()).SerializeToString()
    assert "ä?".encode() in sent


async def test_a_time_that_no_message_has_is_sent_all_the_same() -> None:
    """A run's events have the times that the run says."""
    exporter = InMemorySpanExporter()
    made = Tracer(exporter)
    root = made.begin("root", begun=-5.0)
    made.add("child", parent=root, begun=-1.0, ended=253_402_300_799.0)
    made.end(root, ended=20_000_000_000.0)
    await made.close()
    encode_spans(exporter.get_finished_spans()).SerializeToString()
    assert [(span.start_time, span.end_time) for span in exporter.get_finished_spans()] == [(0, 2**63 - 1)] * 2


async def test_a_child_has_the_id_that_was_handed_out() -> None:
    exporter = InMemorySpanExporter()
    made = Tracer(exporter)
    root = made.begin("root", begun=10.0)
    name = root.new_child()
    made.add("first", parent=root, begun=10, ended=11, traceparent=name)
    made.add("second", parent=root, begun=10, ended=11)
    await made.close()
    ids = [span.context.span_id for span in exporter.get_finished_spans() if span.context]
    assert f"{ids[0]:016x}" == name.split("-")[2]
    assert ids[1] != ids[0]
    assert name.split("-")[1] == root.trace_id == root.traceparent.split("-")[1]


@pytest.mark.parametrize("is_there", [True, False], ids=["there", "away"])
async def test_by_grpc(is_there: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    came: list[str] = []

    class Collector(TraceServiceServicer):  # type: ignore[misc]
        def Export(self, request: ExportTraceServiceRequest, context: object) -> ExportTraceServiceResponse:
            came.extend(span.name for sent in request.resource_spans for scope in sent.scope_spans for span in scope.spans)
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    add_TraceServiceServicer_to_server(Collector(), server)
    # Where nobody listens; as long as it is there, nobody else gets the port.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = server.add_insecure_port("127.0.0.1:0") if is_there else closed.getsockname()[1]
        server.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60" if is_there else "1")
        made = Tracer.of(["otlp"], "grpc", Trouble())
        try:
            made.end(made.begin("x", begun=1.0), ended=2.0)
            await made.close()
        finally:
            server.stop(None).wait()
    assert came == (["x"] if is_there else [])
    told = [record.getMessage() for record in caplog.records if record.name.startswith("runner.")]
    assert told == ([] if is_there else ["Traces cannot be sent; the operator goes on without them"])


@pytest.mark.parametrize("how", [SpanExportResult.FAILURE, OSError("away")], ids=["result", "exception"])
async def test_an_export_that_fails_is_told_once(
    how: Exception | SpanExportResult, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    exporter = Failing(how)
    made = Tracer(Exporter("otlp", exporter, Trouble()))
    for _ in range(3):
        made.end(made.begin("x", begun=1.0), ended=2.0)
    await made.close()
    assert exporter.batches == 3
    assert [record.getMessage() for record in caplog.records] == ["Traces cannot be sent; the operator goes on without them"]


async def test_an_export_that_hangs_holds_up_neither_spans_nor_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "2")
    monkeypatch.setattr(module, "_CLOSE_WITHIN", 0.01)
    exporter = Hanging()
    made = Tracer(Exporter("otlp", exporter, Trouble()))
    try:
        for _ in range(10):
            made.end(made.begin("x", begun=1.0), ended=2.0)
        await asyncio.to_thread(exporter.begun.wait)
        await made.close()
        assert "The last traces could not be sent in time" in [record.getMessage() for record in caplog.records]
    finally:
        exporter.let_go.set()
        closing = [thread for thread in threading.enumerate() if thread.name == "closing the tracer"]
        for thread in closing:
            await asyncio.to_thread(thread.join)


@pytest.mark.parametrize(
    ("environ", "name", "version"),
    [
        ({}, "rolerunner", runner.__version__),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine", runner.__version__),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs,service.version=7"}, "theirs", "7"),
    ],
    ids=["own", "name", "attributes"],
)
async def test_the_resource_is_the_operator(
    environ: dict[str, str], name: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    exporter = InMemorySpanExporter()
    made = Tracer(exporter)
    made.end(made.begin("x", begun=1.0), ended=2.0)
    await made.close()
    (span,) = exporter.get_finished_spans()
    assert span.resource.attributes["host.name"] == socket.gethostname()
    assert (span.resource.attributes["service.name"], span.resource.attributes["service.version"]) == (name, version)
