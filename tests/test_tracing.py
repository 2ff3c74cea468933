"""When traces are made, and what is said where they cannot be."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from runner import tracing
from runner.tracing import ExportSettings, TracesError, start, wanted

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.fixture(autouse=True)
def _library_logs() -> Iterator[None]:
    libraries = [logging.getLogger(name) for name in ("opentelemetry", "urllib3")]
    before = [(library.handlers[:], library.propagate, library.level) for library in libraries]
    yield
    for library, settings in zip(libraries, before, strict=True):
        library.handlers[:], library.propagate, library.level = settings


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({ENDPOINT: "http://c:4318"}, ExportSettings(("otlp",), "http/protobuf", ENDPOINT)),
        ({TRACES_ENDPOINT: "http://c/x", ENDPOINT: "y"}, ExportSettings(("otlp",), "http/protobuf", TRACES_ENDPOINT)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ExportSettings(("otlp",), "http/protobuf", "OTEL_TRACES_EXPORTER")),
        (
            {"OTEL_TRACES_EXPORTER": " Console, otlp,"},
            ExportSettings(("console", "otlp"), "http/protobuf", "OTEL_TRACES_EXPORTER"),
        ),
        ({"OTEL_TRACES_EXPORTER": "console"}, ExportSettings(("console",), "", "OTEL_TRACES_EXPORTER")),
        ({"OTEL_TRACES_EXPORTER": "none", ENDPOINT: "http://c"}, None),
        ({"OTEL_TRACES_EXPORTER": "", ENDPOINT: " "}, None),
        ({"OTEL_SDK_DISABLED": "TRUE", ENDPOINT: "http://c"}, None),
        ({"OTEL_SDK_DISABLED": "1", ENDPOINT: "http://c"}, ExportSettings(("otlp",), "http/protobuf", ENDPOINT)),
        ({ENDPOINT: "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ExportSettings(("otlp",), "grpc", ENDPOINT)),
        (
            {
                ENDPOINT: "http://c",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            ExportSettings(("otlp",), "http/protobuf", ENDPOINT),
        ),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c"}, None),
    ],
    ids=[
        *("nothing", "endpoint", "traces-endpoint", "exporter", "several", "console", "none", "empty", "disabled"),
        *("no-boolean", "grpc", "own-protocol", "for-others"),
    ],
)
def test_what_is_wanted(environ: dict[str, str], expected: ExportSettings | None) -> None:
    assert wanted(environ) == expected


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, ["OTEL_TRACES_EXPORTER", "jaeger", "otlp, console, none"]),
        ({ENDPOINT: "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, ["OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"]),
    ],
    ids=["exporter", "protocol"],
)
def test_what_is_not_known_is_a_warning_and_no_end(
    environ: dict[str, str], words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TracesError):
        wanted(environ)
    assert start(environ) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert all(word in record.__dict__["error"] for word in words)


@pytest.mark.parametrize(
    ("protocol", "extra"),
    [("http/protobuf", "rolerunner[otel]"), ("grpc", "rolerunner[otel-grpc]")],
    ids=["http", "grpc"],
)
def test_a_missing_extra_is_one_warning_with_the_remedy(
    protocol: str, extra: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = tracing._PROTOCOLS[protocol]
    found = tracing.importlib.util.find_spec
    monkeypatch.setattr(tracing.importlib.util, "find_spec", lambda name: None if name == module else found(name))
    assert start({ENDPOINT: "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}) is None
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, "No traces are made")
    assert ENDPOINT in record.__dict__["error"]
    assert f"pip install '{extra}'" in record.__dict__["error"]


def test_a_value_that_the_sdk_does_not_take_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # It reads the process' own environment.
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")
    assert start({"OTEL_TRACES_EXPORTER": "console"}) is None
    assert [record.getMessage() for record in caplog.records] == ["No traces are made"]


async def test_headers_of_the_export_are_in_no_run_s_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"):
        monkeypatch.setenv(name, "authorization=Bearer%20secret-token")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    tracer = start(os.environ)
    assert tracer is not None
    await tracer.close()
    assert "OTEL_TRACES_EXPORTER" in os.environ
    assert not [name for name in os.environ if name.startswith("OTEL_") and "HEADERS" in name]


async def test_headers_that_are_malformed_are_not_logged_as_they_stand(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK's own warning has them."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization: Bearer secret-token, x-key: other-secret")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    tracer = start(os.environ)
    assert tracer is not None
    await tracer.close()
    said = [record.__dict__["error"] for record in caplog.records if record.getMessage() == "OpenTelemetry warns"]
    assert said
    assert all("Header format invalid" in text and "secret" not in text for text in said)


def test_what_is_off_leaves_the_variables_to_the_roles() -> None:
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": "a=b", "OTEL_SDK_DISABLED": "true", ENDPOINT: "http://c"}
    assert start(environ) is None
    assert "OTEL_EXPORTER_OTLP_HEADERS" in environ


def test_off_nothing_of_opentelemetry_is_imported() -> None:
    program = """
import json, os, sys
from runner import manager, tracing
assert tracing.start(os.environ) is None
print(json.dumps([name for name in sys.modules if name.startswith(("opentelemetry", "google.protobuf", "grpc"))]))
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
    program = program.replace("is None", "is not None")
    environ["OTEL_TRACES_EXPORTER"] = "console"
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert "opentelemetry.sdk.trace" in json.loads(done.stdout)


def test_to_the_console() -> None:
    program = """
import asyncio, os
from runner import tracing
async def main():
    tracer = tracing.start(os.environ)
    tracer.end(tracer.begin("a span", begun=1.0), ended=2.0)
    await tracer.close()
asyncio.run(main())
"""
    environ = {**os.environ, "OTEL_TRACES_EXPORTER": "console"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["name"] == "a span"
