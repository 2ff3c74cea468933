from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from runner.config.related import by_label
from runner.config.watches import Related
from runner.control import RequeueReason
from runner.control.handlers import Handlers
from runner.control.own_writes import VersionChange
from runner.control.records import ReconcileStatus
from runner.dashboard import words
from runner.resource.metadata import GroupVersionKind, ObjectKey
from runner.resource.selectors import EVERYTHING
from tests.control.test_handlers import Seen, cr

PAGE = (Path(__file__).parents[2] / "docs" / "dashboard.md").read_text()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 ms"),
        (0.0004, "0.4 ms"),
        (0.04, "0.04 s"),
        (1.24, "1.2 s"),
        (42.3, "42 s"),
        (59.7, "1 min"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
        (36_000, "10 h"),
        (4 * 86_400 + 3 * 3600, "4 d 3 h"),
        (1e300, "11574 d"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300, -1e300])
def test_any_time_can_be_written(seconds: float) -> None:
    assert words.clock(seconds) == "1970-01-01 00:00:00 UTC"
    assert words.moment(seconds, 0.0).iso == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:01:00Z", 60),
        ("1970-01-01T01:01:00+01:00", 60),
        ("1970-01-01T00:01:00", 60),
        ("yesterday", None),
        ("", None),
        ("9" * 1_000_000, None),
        ("0001-01-01T00:00:00+23:59", None),
    ],
    ids=["utc", "offset", "none", "words", "empty", "long", "before all"],
)
def test_times_of_others(text: str, seconds: float | None) -> None:
    found = words.parsed(text)
    assert found == seconds or (seconds is None and found is not None and found < 0)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain, ünï, 漢字, עברית, 👍", "plain, ünï, 漢字, עברית, 👍"),
        ("a\u202eb", "a\\u202eb"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("\x1b[31m\x00", "\\u001b[31m\\u0000"),
        ("lone \ud800", "lone \\ud800"),
        ("lines\r\nand\ttabs\n", "lines\nand\ttabs\n"),
        ("tag \U000e0041", "tag \\ue0041"),
    ],
    ids=["visible", "direction", "no width", "controls", "surrogate", "lines", "tag"],
)
def test_what_would_not_be_seen_is_written_as_its_number(text: str, seen: str) -> None:
    assert words.shown(text) == seen


def test_markup_and_numbers_stay() -> None:
    markup = Markup("<b>\u200b</b>")
    assert words.shown(markup) is markup
    assert words.shown(3) == 3


def test_a_long_text_is_cut_and_says_so() -> None:
    text = words.shown("x" * 1_000_000)
    assert isinstance(text, str)
    assert len(text) < 70_000
    assert text.endswith("… (cut: 1,000,000 characters)")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "when it changes, or something that it owns"),
        ({"running_for": 2}, "now: it has been reconciled for 2.0 s"),
        ({"running_for": 2, "queued": "changed"}, "now: it has been reconciled for 2.0 s; again afterwards: changed"),
        (
            {"waited": 3, "queued": "Deployment x changed: spec"},
            "waits since 3.0 s for a worker: Deployment x changed: spec",
        ),
        ({"waited": 3, "reason": RequeueReason.PERIOD}, "waits since 3.0 s for a worker: its period was over"),
        ({"due_in": 240, "reason": RequeueReason.RETRY, "failures": 2}, "in 4 min, as its last run failed (try 3)"),
        ({"due_in": 30, "reason": RequeueReason.REQUEUE_AFTER}, "in 30 s: its role asked for it by requeue_after"),
        ({"due_in": 5, "reason": RequeueReason.DELETION}, "in 5.0 s: it was deleted during its run"),
        ({"due_in": 60, "reason": RequeueReason.PERIOD, "period": 36_000}, "in 1 min: period of 10 h"),
        ({"due_in": 60, "queued": "found at the operator's start"}, "in 1 min: found at the operator's start"),
        ({"due_in": 60}, "in 1 min"),
    ],
    ids=str,
)
def test_the_next_run_in_words(given: dict[str, object], text: str) -> None:
    assert words.next_run(**given) == text  # type: ignore[arg-type]


def test_causes_in_words() -> None:
    assert words.cause(RequeueReason.RETRY) == "retry, as the last run failed"
    assert words.cause("Deployment x changed") == "Deployment x changed"
    assert words.cause("") == "not known"


def documented(column: str) -> list[str]:
    """What the docs' table with this first column has there."""
    rows = PAGE.partition(f"| {column} | |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    return [word for row in rows for word in re.findall("`([^`]+)`", row.split("|")[1])]


def test_the_results_of_reconciles_are_documented() -> None:
    assert sorted(documented("result")) == sorted(ReconcileStatus)


def test_the_causes_are_documented() -> None:
    """Each is as its event gives it."""
    made = {words.cause(reason) for reason in RequeueReason} | {"its role or playbook was edited", "asked for by ann"}
    # The former: `requeue_kinds` in test_handlers.py; the latter: test_actions.py.
    settings = GroupVersionKind("", "v1", "ConfigMap")
    seen = Seen(related=(Related(gvk=settings, selector=EVERYTHING, mapper=by_label("owner")),), watch_annotations=True)
    handlers, one = seen.handlers, seen.request()

    def takes(event: str | None, **fields: Any) -> str:
        seen.primary(event, {**cr(**fields.pop("metadata", {})), **fields})
        return handlers.pop_cause(one)

    made |= {takes("ADDED", spec={"size": 1}), takes("MODIFIED", spec={"size": 2}, metadata={"generation": 2})}
    made |= {takes("MODIFIED", spec={"size": 2}, metadata={"generation": 2, "annotations": {"a": "b"}})}
    made |= {takes("MODIFIED", spec={"size": 2}, metadata={"generation": 3, "deletionTimestamp": "now"})}
    made |= {takes("MODIFIED", metadata={"uid": "another"}), takes("DELETED", metadata={"uid": "another"})}
    status = {"conditions": [{"type": "Successful"}]}
    made.add(takes(None, status=status))
    sharded = Handlers([seen.watch], lambda request, priority, after: None, lambda request, event, obj: None)
    sharded.primary(seen.watch, "ADDED", {**cr(), "status": status})
    made.add(sharded.pop_cause(one))
    # They name an object of the kind.
    reference = {"apiVersion": "example.com/v1", "kind": "Thing", "name": "one", "uid": "uid-one"}
    deployment: dict[str, Any] = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 1}}
    deployment["metadata"] = {"name": "sessions", "namespace": "default", "uid": "d", "ownerReferences": [reference]}
    for after in ({**deployment, "spec": {"replicas": 2}}, None):
        handlers.changed(deployment, after)
        made.add(handlers.pop_cause(one).replace("default/", "shop/"))
    metadata = {"name": "settings", "namespace": "default", "uid": "s", "labels": {"owner": "one"}}
    handlers.changed(None, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    made.add(handlers.pop_cause(one).replace("default/", "shop/"))
    handlers._missed(one, VersionChange("d", "1", "2", "Deployment", ObjectKey("shop", "sessions")))
    made.add(handlers.pop_cause(one))
    assert sorted(made) == sorted(documented("cause"))
