from __future__ import annotations

import pytest
from markupsafe import Markup

from runner.control import RequeueReason
from runner.dashboard import words


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
    assert words.iso(seconds) == "1970-01-01T00:00:00Z"


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
