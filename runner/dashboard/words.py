"""Times, causes and texts of others in the words and within the bounds of a page.

Next on the way: `runner.dashboard.templating`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from runner.control import RequeueReason
from runner.control.records import ENDED_EARLY, ReconcileStatus, RunRecord
from runner.proxy.sessions import ApiRequest

# Characters of any text of a page. Views cut theirs before, at less.
_LONGEST = 64 * 1024

NOT_KNOWN = "not known"

# What is not seen, or makes other text look different from what it is: controls, directions, spaces without a width, halves
# of pairs, tags.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0e"
    r"\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
_CAUSES: dict[str, str] = {
    RequeueReason.RETRY: "retry, as the last run failed",
    RequeueReason.PERIOD: "its period was over",
    RequeueReason.REQUEUE_AFTER: "its role had asked for it (requeue_after)",
    RequeueReason.DELETION: "it was deleted during its run",
}


def shown(value: object) -> object:
    """A value as a page has it: of a text all that would not be seen is written as its number, as `\\u202e`."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return visible(cut(value, _LONGEST).replace("\r\n", "\n"))


def visible(text: str) -> str:
    """The text, with what would not be seen written as its number."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def cut(text: str, most: int) -> str:
    """The text; if it is longer, its beginning and how long it was."""
    return text if len(text) <= most else f"{text[:most]}… (cut: {len(text):,} characters)"


def cut_short(text: str, most: int) -> str:
    """The text; if it is longer, its beginning."""
    return text if len(text) <= most else f"{text[:most]}…"


def duration(seconds: float) -> str:
    """`0.04 s`, `1.2 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds:.2f} s" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, small, unit, small_unit in ((86_400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if round(seconds) >= size:
            # Years are no one's concern.
            whole, rest = divmod(round(min(seconds, 1e9)), size)
            return f"{whole} {unit}" + (f" {rest // small} {small_unit}" if rest // small and whole < 100 else "")
    return f"{round(seconds)} s"


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as pages have it: how long ago it was, and by the clock, for people and for HTML."""

    ago: str
    clock: str
    iso: str


def moment(seconds: float, now: float) -> Moment:
    """A time in seconds since the epoch."""
    return Moment(f"{duration(now - seconds)} ago", clock(seconds), f"{_datetime(seconds):%Y-%m-%dT%H:%M:%SZ}")


def moment_of(text: str, now: float) -> Moment | None:
    """A time in the form of RFC 3339; None for a text that is no time."""
    seconds = parsed(text)
    return None if seconds is None else moment(seconds, now)


def clock(seconds: float) -> str:
    """A time as `2026-01-31 12:00:00 UTC`."""
    return f"{_datetime(seconds):%Y-%m-%d %H:%M:%S} UTC"


def parsed(text: str) -> float | None:
    """A time in the form of RFC 3339, which may be anything, in seconds since the epoch."""
    try:
        time = datetime.fromisoformat(text[:40])
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def cause(text: str) -> str:
    """The cause of a reconcile in words."""
    return _CAUSES.get(text, text) or NOT_KNOWN


def run_status(run: RunRecord, *, is_waiting: bool = False) -> str:
    """How a run went, or goes. `is_waiting`: it has not begun yet."""
    if is_waiting:
        return "waiting"
    if run.ended is None:
        return str(ReconcileStatus.RUNNING)
    if run.outcome is None:
        return ENDED_EARLY
    if run.is_dry_run:
        return "dry run" if run.outcome.succeeded else "dry run, failed"
    return str(ReconcileStatus.SUCCEEDED if run.outcome.succeeded else ReconcileStatus.FAILED)


def requests(of_run: Sequence[ApiRequest]) -> str:
    """The requests of a run in numbers: `3 reads, 1 of them answered from the operator's store; 1 write`."""
    reads = [request for request in of_run if request.method in ("GET", "HEAD")]
    stored = sum(request.from_store for request in reads)
    answered = f", {stored} of them answered from the operator's store" if stored else ""
    return f"{_counted(len(reads), 'read')}{answered}; {_counted(len(of_run) - len(reads), 'write')}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def next_run(
    *,
    running_for: float | None = None,
    waited: float | None = None,
    due_in: float | None = None,
    reason: RequeueReason | None = None,
    queued: str = "",
    failures: int = 0,
    period: float = 0,
) -> str:
    """When a CR is reconciled next and why. `queued` is why it was put on the queue, if that was an event."""
    if running_for is not None:
        more = f"; again afterwards: {queued}" if queued else ""
        return f"now: it has been reconciled for {duration(running_for)}{more}"
    if waited is not None:
        return f"waits since {duration(waited)} for a worker: {queued or cause(reason or '')}"
    if due_in is None:
        return "when it changes, or something that it owns"
    when = f"in {duration(due_in)}"
    if queued:
        return f"{when}: {queued}"
    match reason:
        case RequeueReason.RETRY:
            return f"{when}, as its last run failed (try {failures + 1})"
        case RequeueReason.REQUEUE_AFTER:
            return f"{when}: its role asked for it by requeue_after"
        case RequeueReason.DELETION:
            return f"{when}: it was deleted during its run"
        case RequeueReason.PERIOD if period:
            return f"{when}: period of {duration(period)}"
    return when


def _datetime(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
