"""The tracer: the only module that imports OpenTelemetry. It makes spans and has them exported in a thread.

It is imported where traces are on (`runner.tracing`). An export that is slow or fails holds up nothing: the queue of spans
is bounded, and what does not fit is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanKind, Status, StatusCode

import runner
from runner.export_trouble import Trouble

logger = logging.getLogger(__name__)

# Seconds for the last spans when the operator ends: its pod is killed ten seconds after the runs' time.
_CLOSE_WITHIN = 3.0

Value = str | int | float | bool
Attributes = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Span:
    """A span, begun or made. `traceparent` names it as W3C's Trace Context has it; `is_sampled`: it is exported."""

    otel: trace.Span

    @property
    def is_sampled(self) -> bool:
        return self.otel.get_span_context().trace_flags.sampled

    @property
    def trace_id(self) -> str:
        return trace.format_trace_id(self.otel.get_span_context().trace_id)

    @property
    def traceparent(self) -> str:
        return self._header(self.otel.get_span_context().span_id)

    def new_child(self) -> str:
        """The traceparent of a child that is made later, by `Tracer.add`."""
        return self._header(random.getrandbits(64) or 1) if self.is_sampled else self.traceparent

    def _header(self, span_id: int) -> str:
        context = self.otel.get_span_context()
        return f"00-{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(span_id)}-{context.trace_flags:02x}"


class _Ids(RandomIdGenerator):
    """Random ids, but for the next span, whose id may have been handed out already."""

    def __init__(self) -> None:
        self.next = 0

    def generate_span_id(self) -> int:
        chosen, self.next = self.next, 0
        return chosen or super().generate_span_id()


class Tracer:
    """Makes spans. Lives in the event loop. Times are seconds since the epoch."""

    def __init__(self, *exporters: SpanExporter, resource: Resource | None = None) -> None:
        self._ids = _Ids()
        # Ended by `close`; the SDK's own end waits for an endpoint that does not answer.
        self._provider = TracerProvider(resource=resource or _resource(), id_generator=self._ids, shutdown_on_exit=False)
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("rolerunner", runner.__version__)

    @classmethod
    def of(cls, exporters: Sequence[str], protocol: str, trouble: Trouble) -> Tracer:
        """A tracer with these exporters, which read their own variables. Raises whatever they do."""
        return cls(*(Exporter(name, _exporter(name, protocol), trouble) for name in exporters))

    def begin(self, name: str, *, begun: float, parent: Span | None = None, attributes: Attributes | None = None) -> Span:
        """Begin a span, for `end`. One without a parent is the root of a new trace."""
        context = trace.set_span_in_context(parent.otel) if parent else trace.set_span_in_context(trace.INVALID_SPAN)
        made = self._tracer.start_span(_text(name), context, attributes=_values(attributes), start_time=_nanoseconds(begun))
        return Span(made)

    def end(self, span: Span, *, ended: float, attributes: Attributes | None = None, error: str | None = None) -> None:
        """End a span; `error`: what failed, None where nothing did."""
        if attributes:
            span.otel.set_attributes(_values(attributes))
        if error is not None:
            span.otel.set_status(Status(StatusCode.ERROR, _text(error)))
        span.otel.end(_nanoseconds(ended))

    def add(
        self,
        name: str,
        *,
        parent: Span,
        begun: float,
        ended: float,
        attributes: Attributes | None = None,
        error: str | None = None,
        is_client: bool = False,
        traceparent: str = "",
    ) -> Span:
        """Make a span that is over. `traceparent`: as it was handed out (`Span.new_child`)."""
        if traceparent:
            self._ids.next = int(traceparent.split("-")[2], 16)
        otel = self._tracer.start_span(
            _text(name),
            trace.set_span_in_context(parent.otel),
            kind=SpanKind.CLIENT if is_client else SpanKind.INTERNAL,
            attributes=_values(attributes),
            start_time=_nanoseconds(begun),
        )
        self._ids.next = 0
        span = Span(otel)
        self.end(span, ended=max(begun, ended), error=error)
        return span

    async def close(self) -> None:
        """Export what there is, for a few seconds at most."""
        closed, loop = asyncio.Event(), asyncio.get_running_loop()

        def close() -> None:
            try:
                self._provider.shutdown()
            except Exception as error:
                logger.debug("The tracer did not end well", extra={"error": str(error)})
            # The loop may be closed by now.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(closed.set)

        # Not one of the event loop's threads, for which the process would wait when it ends.
        threading.Thread(target=close, name="closing the tracer", daemon=True).start()
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                await closed.wait()
        except TimeoutError:
            logger.warning("The last traces could not be sent in time")


class Exporter(SpanExporter):
    """An exporter whose failures are told once, and raise nothing."""

    def __init__(self, name: str, exporter: SpanExporter, trouble: Trouble) -> None:
        self._name = name
        self._exporter = exporter
        self._trouble = trouble

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._trouble.exporting():
            try:
                result = self._exporter.export(spans)
            except Exception as error:
                self._trouble.failed(self._name, f"{type(error).__name__}: {error}")
                return SpanExportResult.FAILURE
            if result is SpanExportResult.SUCCESS:
                self._trouble.over(self._name)
            else:
                self._trouble.failed(self._name)
            return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _exporter(name: str, protocol: str) -> SpanExporter:
    if name == "console":
        return ConsoleSpanExporter()
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter()


def _resource() -> Resource:
    """The operator, as OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say, which come first."""
    given = Resource.create().attributes
    # In a pod, its name: which of the replicas.
    own = {"service.version": runner.__version__, "host.name": socket.gethostname()}
    # The SDK's own name where there is none begins so.
    if str(given.get("service.name", "")).startswith("unknown_service"):
        own["service.name"] = "rolerunner"
    return Resource.create({name: value for name, value in own.items() if name == "service.name" or name not in given})


def _values(attributes: Attributes | None) -> Attributes:
    return {name: _text(value) if isinstance(value, str) else value for name, value in (attributes or {}).items()}


def _text(text: str) -> str:
    """The text without what UTF-8 does not have (halves of surrogate pairs): one of them and a whole batch is not sent."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _nanoseconds(seconds: float) -> int:
    """For a span: what is before 1970 or after 2262, as a run may say of its events, is in no message of OTLP."""
    return min(max(int(seconds * 1e9), 0), 2**63 - 1)
