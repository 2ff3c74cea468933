"""Trouble with the export of traces: told once, in our own words, and without the credentials of the export.

What is a credential is said here as well.

Next on the way: `runner.tracer`.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote, urlsplit

from runner.logs import Once

logger = logging.getLogger(__name__)

# The variables that name an endpoint, and those in which its credentials are handed over.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_HEADERS = re.compile(r"OTEL_EXPORTER_\w*HEADERS")
# Whose logs say how an export goes; urllib3's have the URLs.
_LIBRARIES = ("opentelemetry", "urllib3")
_MASK = "***"
# Characters of a reason, which may be an answer of whatever is at the endpoint.
_LONGEST_REASON = 500


def credentials(environ: Mapping[str, str]) -> set[str]:
    """Texts that are secret in the variables: headers, with and without their names, and parts of the endpoints' URLs."""
    found: set[str] = set()
    for value in (value for name, value in environ.items() if _HEADERS.fullmatch(name)):
        parts = [value, *value.split(",")]
        for part in (*parts, *(part.partition("=")[2] for part in parts)):
            # `Bearer TOKEN` is a secret, and so is the token alone.
            found.update((part.strip(), unquote(part).strip(), *unquote(part).split()))
    for name in ENDPOINTS:
        found |= _secrets_of_url(environ.get(name, ""))
    # Shorter ones are parts of other words.
    return {text for text in found if len(text) > 3 and text.lower() not in ("basic", "bearer")}


def secret_variables(environ: Mapping[str, str]) -> list[str]:
    """The variables that no run may have: headers, and endpoints with a password or a query in their URL."""
    return [
        name for name, value in environ.items() if _HEADERS.fullmatch(name) or (name in ENDPOINTS and _secrets_of_url(value))
    ]


def _secrets_of_url(text: str) -> set[str]:
    try:
        url = urlsplit(text)
        return {secret for secret in (url.query, url.password) if secret}
    except ValueError:
        return set()


class Trouble:
    """Tells trouble with an exporter once, and when it is over. Thread-safe: exporters work in threads."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = sorted(secrets, key=len, reverse=True)
        self._lock = threading.Lock()
        # The exporters of whose trouble has been told.
        self._told: set[str] = set()
        # Of the export that the current thread makes, what the libraries have said of it: the first and the last.
        self._export = threading.local()

    def masked(self, text: str) -> str:
        """The text without the export's credentials, cut."""
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"

    @contextlib.contextmanager
    def exporting(self) -> Iterator[None]:
        """While this thread makes an export."""
        self._export.reasons = []
        try:
            yield
        finally:
            self._export.reasons = None

    def takes(self, text: str) -> bool:
        """Take what a library says of an export; False if this thread makes none."""
        reasons: list[str] | None = getattr(self._export, "reasons", None)
        if reasons is None:
            return False
        reasons[1:] = [text]
        return True

    def failed(self, exporter: str, error: str = "") -> None:
        """The export came to nothing."""
        with self._lock:
            is_told = exporter in self._told
            self._told.add(exporter)
        if not is_told:
            reason = self.masked(error or "; ".join(dict.fromkeys(self._export.reasons or [])))
            fields = {"exporter": exporter, "error": reason}
            logger.warning("Traces cannot be sent; the operator goes on without them", extra=fields)

    def over(self, exporter: str) -> None:
        """The export succeeded."""
        with self._lock:
            is_told = exporter in self._told
            self._told.discard(exporter)
        if is_told:
            logger.info("Traces are sent again", extra={"exporter": exporter})


class _LibraryLogs(logging.Handler):
    """Takes what the libraries log: of an export as its reason, anything else once."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__()
        self._trouble = trouble
        self._once = Once()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:
            # Of another library; one that cannot be formatted is of no use.
            text = str(record.msg)
        if self._trouble.takes(text):
            return
        if record.levelno >= logging.WARNING and self._once.is_new(str(record.msg)):
            logger.warning("OpenTelemetry warns", extra={"part": record.name, "error": self._trouble.masked(text)})


def route_library_logs(trouble: Trouble) -> None:
    """Have the libraries log through `_LibraryLogs` alone: they log each attempt, and headers and URLs as they stand."""
    handler = _LibraryLogs(trouble)
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        library.handlers[:] = [handler]
        library.propagate = False
        library.setLevel(logging.WARNING)
