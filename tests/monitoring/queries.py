"""What queries in PromQL name: the series they select, and the labels of their results."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import promql_parser
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import AggModifierType, LabelModifierType, MatchOp

from tests.test_metrics import shown_after_everything

# What Prometheus gives to each series of a target, as the ServiceMonitor has it.
TARGET = frozenset({"namespace", "job", "pod", "instance"})
# Of the kubelet (cAdvisor), by their labels.
KUBELET = {
    name: frozenset({"container"}) for name in ("container_cpu_usage_seconds_total", "container_memory_working_set_bytes")
}
# Operators between vectors whose result has the labels of the left one alone.
_SETS = ("and", "or", "unless")


class Unknown(AssertionError):
    """A query names a series or a label that there is not."""


@functools.cache
def exposed() -> Mapping[str, frozenset[str]]:
    """The labels of each series by its name, `_bucket` and the like included."""
    found: dict[str, frozenset[str]] = {}
    for family in text_string_to_metric_families(shown_after_everything()):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, frozenset()) | set(sample.labels)
    return found


@dataclass(frozen=True)
class Selected:
    """The selection of a series; `name` is empty where only matchers say what is selected."""

    name: str
    # (label, operator, value)
    matchers: tuple[tuple[str, str, str], ...]

    @property
    def labels(self) -> frozenset[str]:
        """The labels that the series has. Raises Unknown."""
        if not self.name:
            return TARGET
        known = exposed() | KUBELET
        if self.name not in known:
            raise Unknown(f"there is no series {self.name}")
        labels = known[self.name] | TARGET
        if strange := {label for label, *_ in self.matchers} - labels:
            raise Unknown(f"{self.name} has no label {', '.join(sorted(strange))}")
        return labels

    def matches(self, name: str, labels: Mapping[str, str], ignoring: frozenset[str] = frozenset()) -> bool:
        """As Prometheus does it. A matcher of a label in `ignoring` does not count."""
        return name == self.name and all(
            _MATCHES[operator](value, labels.get(label, ""))
            for label, operator, value in self.matchers
            if label not in ignoring
        )


_MATCHES = {
    "=": lambda value, found: value == found,
    "!=": lambda value, found: value != found,
    "=~": lambda value, found: re.fullmatch(value, found) is not None,
    "!~": lambda value, found: re.fullmatch(value, found) is None,
}
_OPERATORS = ((MatchOp.Equal, "="), (MatchOp.NotEqual, "!="), (MatchOp.Re, "=~"), (MatchOp.NotRe, "!~"))


def parse(query: str) -> promql_parser.Expr:
    """A query as it stands in a dashboard or a rule. Raises ValueError."""
    return promql_parser.parse(query.replace("$__rate_interval", "5m"))


def selected(query: str) -> list[Selected]:
    """All series that a query selects. Raises ValueError."""
    return [_selected(each) for each in _vectors(parse(query))]


def labels(query: str) -> frozenset[str]:
    """The labels of a query's results. Raises Unknown, and ValueError."""
    return _labels(parse(query))


def _selected(vector: promql_parser.VectorSelector) -> Selected:
    matchers = (
        (each.name, next(text for operator, text in _OPERATORS if operator == each.op), each.value)
        for each in vector.matchers.matchers
    )
    return Selected(vector.name or "", tuple(each for each in matchers if each[0] != "__name__"))


def _vectors(expression: Any) -> Iterator[promql_parser.VectorSelector]:
    match expression:
        case promql_parser.VectorSelector():
            yield expression
        case promql_parser.MatrixSelector():
            yield expression.vector_selector
        case promql_parser.BinaryExpr():
            yield from _vectors(expression.lhs)
            yield from _vectors(expression.rhs)
        case promql_parser.Call():
            for argument in expression.args:
                yield from _vectors(argument)
        case promql_parser.AggregateExpr() | promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            yield from _vectors(expression.expr)


def _labels(expression: Any) -> frozenset[str]:
    match expression:
        case promql_parser.VectorSelector():
            return _selected(expression).labels
        case promql_parser.MatrixSelector():
            return _selected(expression.vector_selector).labels
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            return _labels(expression.expr)
        case promql_parser.AggregateExpr():
            return _of_aggregation(expression)
        case promql_parser.Call():
            return _of_call(expression)
        case promql_parser.BinaryExpr():
            return _of_operation(expression)
        case _:
            return frozenset()


def _of_aggregation(expression: promql_parser.AggregateExpr) -> frozenset[str]:
    inner, modifier = _labels(expression.expr), expression.modifier
    if modifier is None:
        return frozenset()
    named = frozenset(modifier.labels)
    if strange := named - inner:
        raise Unknown(f"there is no label {', '.join(sorted(strange))} in {expression.expr}")
    return named if modifier.type == AggModifierType.By else inner - named


def _of_call(expression: promql_parser.Call) -> frozenset[str]:
    name = expression.func.name
    found = frozenset().union(*map(_labels, expression.args))
    if name == "histogram_quantile":
        if "le" not in found:
            raise Unknown(f"there is no label le in {expression.args[1]}")
        return found - {"le"}
    if name == "absent":
        (vector,) = _vectors(expression)
        return frozenset(label for label, operator, _ in _selected(vector).matchers if operator == "=")
    return found


def _of_operation(expression: promql_parser.BinaryExpr) -> frozenset[str]:
    sides = [_labels(side) for side in (expression.lhs, expression.rhs) if any(_vectors(side))]
    if len(sides) < 2:
        return sides[0] if sides else frozenset()
    left, right = sides
    matching = expression.modifier.matching if expression.modifier else None
    # No query here needs `on`.
    assert matching is None or matching.type == LabelModifierType.Exclude, expression
    ignored = frozenset(matching.labels) if matching else frozenset()
    if left - ignored != right - ignored:
        raise Unknown(f"the sides of {expression} have other labels: {sorted(left)}, {sorted(right)}")
    return left if str(expression.op) in _SETS else left - ignored
