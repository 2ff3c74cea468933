"""Metrics from roles, which send them with operator_sdk.util.osdk_metric.

Requests are the Go operator's, and do what they do there; beyond that, a gauge can be set to 0, an empty histogram or
summary observes nothing, and a name that is taken is refused instead of making the whole exposition invalid.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, Histogram, Metric, Summary, generate_latest
from prometheus_client.registry import Collector

from runner.errors import RolerunnerError

logger = logging.getLogger(__name__)

_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "counter": (),
    "gauge": (),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
}
# Limits: roles run for what tenants write, and every scrape shows all of their metrics.
_MOST_METRICS, _LONGEST_NAME, _LONGEST_DESCRIPTION = 1000, 200, 1000
_OBSERVING = {"histogram", "summary"}
# Characters that a name cannot have, or not at its beginning.
_NO_NAME = re.compile(r"[^a-zA-Z0-9_:]|^[0-9]")
# Go's defaults.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class RefusedMetric(RolerunnerError):
    """A request that cannot be done; `str()` says why, for the answer."""


class RoleMetrics:
    """A registry of the roles' metrics, for the life of the process and for one event loop.

    Their names are claimed in `registry`, so that no series is exposed twice.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._metrics: dict[str, _RoleMetric] = {}

    def record(self, body: bytes) -> None:
        """Set or create the metric that a request's JSON body names. Raises RefusedMetric."""
        request = _parsed(body)
        given = [kind for kind in _SUFFIXES if request.get(kind) is not None]
        if len(given) != 1:
            many = "only one metric can be processed at a time" if given else "a request should contain at least one metric"
            raise RefusedMetric(f"{many}; give one of {', '.join(_SUFFIXES)}")
        (kind,) = given
        name = _text(request, "name")
        if not name:
            raise RefusedMetric("name: a metric needs a name")
        if len(name) > _LONGEST_NAME:
            raise RefusedMetric(f"name: a metric's name has no more than {_LONGEST_NAME} characters")
        change = _change(kind, _options(request, kind))
        metric = self._metrics.get(name)
        if metric is None:
            if len(self._metrics) >= _MOST_METRICS:
                raise RefusedMetric(f"{name}: there are {_MOST_METRICS} metrics of roles already, and may be no more")
            metric = self._metrics[name] = self._new(name, kind, _text(request, "description")[:_LONGEST_DESCRIPTION])
        elif metric.kind != kind and {metric.kind, kind} != _OBSERVING:
            raise RefusedMetric(f"cannot change metric type of {name}, which is a {metric.kind}")
        change(metric.value)

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return b"".join(metric.exposition() for metric in self._metrics.values())

    def _new(self, name: str, kind: str, description: str) -> _RoleMetric:
        # As Go shows it to scrapers that do not ask for more.
        series = _NO_NAME.sub("_", name)
        try:
            self._registry.register(_Claim(series, *(series + suffix for suffix in _SUFFIXES[kind])))
        except ValueError as error:
            raise RefusedMetric(f"{name}: there is a metric of this name already, which is none of this role's") from error
        logger.info("A role brought a metric", extra={"metric": name, "type": kind})
        return _RoleMetric(series, kind, description)


class _RoleMetric:
    def __init__(self, series: str, kind: str, description: str) -> None:
        self.kind = kind
        self._series = series
        self.value: Gauge | Histogram | Summary
        if kind == "histogram":
            self.value = Histogram(series, description, registry=None, buckets=_BUCKETS)
        elif kind == "summary":
            self.value = Summary(series, description, registry=None)
        else:
            self.value = Gauge(series, description, registry=None)

    def exposition(self) -> bytes:
        text = generate_latest(self.value)
        if self.kind == "counter":
            # The library's own counters must end in _total, Go's need not.
            text = text.replace(f"# TYPE {self._series} gauge\n".encode(), f"# TYPE {self._series} counter\n".encode())
        return text


class _Claim(Collector):
    """A collector that claims names in a registry and collects nothing."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def describe(self) -> Iterable[Metric]:
        return [Metric(name, "", "gauge") for name in self._names]

    def collect(self) -> Iterable[Metric]:
        return []


def _change(kind: str, options: Mapping[str, object]) -> Callable[[Any], None]:
    """A function that changes the metric. Of several changes to a gauge, the one that is Go's first is made."""
    if kind in _OBSERVING:
        observed = _number(options, "observe")
        return lambda metric: None if observed is None else metric.observe(observed)
    increment, add = _flag(options, "increment"), _number(options, "add")
    if kind == "counter":
        if add is not None and add < 0:
            raise RefusedMetric("counter.add: counter metrics cannot decrease in value")
        return lambda counter: counter.inc(1 if increment else add or 0)
    decrement, subtract = _flag(options, "decrement"), _number(options, "subtract")
    value, to_now = _number(options, "set"), _flag(options, "set_to_current_time")

    def change(gauge: Gauge) -> None:
        if increment or decrement:
            gauge.inc(1 if increment else -1)
        elif add or subtract:
            gauge.inc(add or -(subtract or 0))
        elif value is not None:
            gauge.set(value)
        elif to_now:
            gauge.set_to_current_time()

    return change


def _parsed(body: bytes) -> Mapping[str, object]:
    try:
        request = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RefusedMetric(f"the body is no JSON: {error}") from error
    if not isinstance(request, dict):
        raise RefusedMetric("the body must be a JSON object with a name, a description and a metric")
    return request


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _text(request: Mapping[str, object], key: str) -> str:
    value = request.get(key) or ""
    if not isinstance(value, str):
        raise RefusedMetric(f"{key}: must be a string")
    try:
        # Half a surrogate pair, which JSON can say, has no place in the exposition.
        value.encode()
    except UnicodeEncodeError as error:
        raise RefusedMetric(f"{key}: must be a string") from error
    return value


def _options(request: Mapping[str, object], kind: str) -> Mapping[str, object]:
    options = request[kind]
    if not isinstance(options, dict):
        raise RefusedMetric(f"{kind}: must be an object")
    return options


def _flag(options: Mapping[str, object], key: str) -> bool:
    value = options.get(key)
    if value is not None and not isinstance(value, bool):
        raise RefusedMetric(f"{key}: must be true or false")
    return bool(value)


def _number(options: Mapping[str, object], key: str) -> float | None:
    value = options.get(key)
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RefusedMetric(f"{key}: must be a number")
    return number
