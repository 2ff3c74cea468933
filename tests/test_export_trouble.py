"""What is said of an export that comes to nothing: once, and without its credentials."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from runner.export_trouble import Trouble, credentials, route_library_logs, secret_variables

SAID = "Traces cannot be sent; the operator goes on without them"


@pytest.fixture
def _library_logs() -> Iterator[None]:
    libraries = [logging.getLogger(name) for name in ("opentelemetry", "urllib3")]
    before = [(library.handlers[:], library.propagate, library.level) for library in libraries]
    yield
    for library, settings in zip(libraries, before, strict=True):
        library.handlers[:], library.propagate, library.level = settings


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.getMessage(), record.__dict__.get("error", "")) for record in caplog.records]


@pytest.mark.parametrize(
    ("environ", "secrets"),
    [
        ({"OTEL_EXPORTER_OTLP_HEADERS": "api-key=abcd1234,x=secret%20two"}, {"abcd1234", "secret two", "secret%20two"}),
        ({"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=Bearer tok-1"}, {"tok-1", "Bearer tok-1"}),
        # Not as the specification has it; the SDK writes it into its log.
        ({"OTEL_EXPORTER_OTLP_HEADERS": "Authorization: Bearer tok-1"}, {"Authorization: Bearer tok-1", "tok-1"}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://me:hidden@c/v1?key=abcd"}, {"hidden", "key=abcd"}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[broken"}, set()),
        ({"OTEL_SERVICE_NAME": "my-service"}, set()),
    ],
    ids=["headers", "bearer", "malformed", "url", "no-url", "others"],
)
def test_what_is_secret(environ: dict[str, str], secrets: set[str]) -> None:
    found = credentials(environ)
    assert secrets <= found
    if not secrets:
        assert not found
    text = Trouble(found).masked(f"before {' and '.join(environ.values())} after")
    assert not [secret for secret in secrets if secret in text]
    assert text.startswith("before ")


@pytest.mark.parametrize(
    ("name", "value", "is_secret"),
    [
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x", True),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://me:hidden@c", True),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c/v1?key=abcd", True),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4318/v1", False),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[broken", False),
        ("OTEL_SERVICE_NAME", "a?b", False),
    ],
    ids=["headers", "password", "query", "plain", "no-url", "other"],
)
def test_which_variables_are_secret(name: str, value: str, is_secret: bool) -> None:
    assert secret_variables({name: value}) == ([name] if is_secret else [])


def test_trouble_is_told_once_until_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trouble = Trouble(["tok-1"])
    for _ in range(3):
        with trouble.exporting():
            trouble.takes("refused with tok-1, retrying")
            trouble.takes("refused again, retrying")
            trouble.takes("given up")
            trouble.failed("otlp")
    for _ in range(2):
        with trouble.exporting():
            trouble.over("console")
            trouble.over("otlp")
    with trouble.exporting():
        trouble.failed("otlp", "ValueError: no")
    assert said(caplog) == [
        (SAID, "refused with ***, retrying; given up"),
        ("Traces are sent again", ""),
        (SAID, "ValueError: no"),
    ]


def test_a_long_answer_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble()
    with trouble.exporting():
        trouble.failed("otlp", "x" * 100_000)
    assert len(caplog.records[0].__dict__["error"]) < 1000


def test_each_exporter_has_its_own_trouble(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trouble = Trouble()
    for _ in range(2):
        with trouble.exporting():
            trouble.over("console")
        with trouble.exporting():
            trouble.failed("otlp", "away")
    assert said(caplog) == [(SAID, "away")]
    assert caplog.records[0].__dict__["exporter"] == "otlp"


@pytest.mark.usefixtures("_library_logs")
def test_what_the_libraries_log_is_told_once_and_masked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    trouble = Trouble(["tok-1"])
    route_library_logs(trouble)
    of_export = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    of_sdk = logging.getLogger("opentelemetry.sdk.trace")
    of_connections = logging.getLogger("urllib3.connectionpool")
    for number in range(3):
        of_sdk.warning("Header format invalid! %s %s", "tok-1", number)
        with trouble.exporting():
            of_export.warning("Transient error, retrying in %s", number)
            of_connections.debug("POST /v1/traces?key=tok-1")
    of_sdk.info("not of interest")
    of_sdk.warning("%s %s", "not to be formatted")
    assert [text for text in said(caplog)] == [
        ("OpenTelemetry warns", "Header format invalid! *** 0"),
        ("OpenTelemetry warns", "%s %s"),
    ]
