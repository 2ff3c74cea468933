"""Traces, on or off by OpenTelemetry's standard variables alone.

They are on where `OTEL_TRACES_EXPORTER` names an exporter, or an OTLP endpoint is set; `OTEL_SDK_DISABLED` turns them off.
Without them nothing of OpenTelemetry is imported. They are no reason to end an operator: where they cannot be made, a
warning says why, and it goes on without.

Next on the way: `runner.tracer`, and `runner.control.spans`.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.errors import RolerunnerError
from runner.export_trouble import ENDPOINTS, Trouble, credentials, route_library_logs, secret_variables

if TYPE_CHECKING:
    from runner.tracer import Tracer

logger = logging.getLogger(__name__)

EXPORTERS = ("otlp", "console", "none")
_PROTOCOLS = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc",
}


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """The exporters that are asked for, the protocol of `otlp`, and the variable that asks for them."""

    exporters: tuple[str, ...]
    protocol: str
    variable: str


class TracesError(RolerunnerError):
    """Traces that are asked for and cannot be made; `str()` names the variable and the remedy."""


def wanted(environ: Mapping[str, str]) -> ExportSettings | None:
    """Read the variables; None where no traces are asked for. Raises TracesError."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    variable, given = "OTEL_TRACES_EXPORTER", environ.get("OTEL_TRACES_EXPORTER", "")
    if not given.strip():
        # The specification takes an empty variable for one that is not set.
        variable = next((name for name in ENDPOINTS if environ.get(name, "").strip()), "")
        given = "otlp" if variable else "none"
    exporters = tuple(dict.fromkeys(name.strip().lower() for name in given.split(",") if name.strip()))
    if unknown := [name for name in exporters if name not in EXPORTERS]:
        raise TracesError(f"{variable}: {', '.join(unknown)[:100]} is not known; it is one of {', '.join(EXPORTERS)}")
    if "none" in exporters:
        return None
    return ExportSettings(exporters, _protocol(environ) if "otlp" in exporters else "", variable)


def _protocol(environ: Mapping[str, str]) -> str:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if given := environ.get(name, "").strip():
            if given not in _PROTOCOLS:
                raise TracesError(f"{name}: {given[:100]} is not supported; it is one of {', '.join(_PROTOCOLS)}")
            return given
    return "http/protobuf"


def start(environ: MutableMapping[str, str]) -> Tracer | None:
    """The tracer that the variables ask for, or None. From then on `environ` has no credentials of the export any more.

    What is in the runner's environment is in each run's.
    """
    trouble = Trouble(credentials(environ))
    try:
        asked = wanted(environ)
        if asked is None:
            return None
        _require("opentelemetry.sdk", f"{asked.variable} is set", "otel")
        if asked.protocol:
            extra = "otel-grpc" if asked.protocol == "grpc" else "otel"
            _require(_PROTOCOLS[asked.protocol], f"{asked.variable} asks for OTLP by {asked.protocol}", extra)
        route_library_logs(trouble)
        from runner.tracer import Tracer

        made = Tracer.of(asked.exporters, asked.protocol, trouble)
    except TracesError as error:
        logger.warning("No traces are made", extra={"error": str(error)})
        return None
    except Exception as error:
        # A value of a variable that the SDK does not take, say.
        logger.warning("No traces are made", extra={"error": trouble.masked(f"{type(error).__name__}: {error}")})
        return None
    for name in secret_variables(environ):
        del environ[name]
    logger.info("Traces are made", extra={"exporter": ",".join(asked.exporters), "variable": asked.variable})
    return made


def _require(module: str, why: str, extra: str) -> None:
    try:
        is_there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        raise TracesError(f"{why}, but {module} is not installed; install it: pip install 'rolerunner[{extra}]'")
