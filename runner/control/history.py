"""The history: what was done for each CR of late, and why; kept in memory, within a bound, and gone with the process.

Next on the way: `runner.control.records`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import time

from runner.control import Priority, Request, RequeueReason
from runner.control.records import ReconcileRecord, ReconcileStatus, RunRecord

Notify = Callable[[Request], None]

# Reconciles of one CR; entries of all of them together: tasks, requests and long texts, each of which takes half a kilobyte.
_MOST_OF_CR, _MOST_ENTRIES, _ENTRY = 20, 100_000, 512
# Minutes for which the runs are counted; roles of which the times are kept.
_MINUTES, _MOST_CONTENTS = 60, 1000


@dataclass(slots=True)
class ContentTimes:
    """How long the runs of a role or playbook took: their number, seconds in all, and the longest."""

    runs: int = 0
    seconds: float = 0.0
    longest: float = 0.0


class History:
    """The reconciles that are on, and the last ones. Not thread-safe: lives in the event loop."""

    def __init__(self, *, is_kept: bool = False, notify: Notify = lambda request: None) -> None:
        """`is_kept`: reconciles are kept after their end. `notify` is called with each CR of which something is new here."""
        self._is_kept = is_kept
        self.notify = notify
        self._on: dict[Request, ReconcileRecord] = {}
        self._past: dict[Request, deque[ReconcileRecord]] = {}
        # By the run's ident, the oldest first.
        self._runs: OrderedDict[str, ReconcileRecord] = OrderedDict()
        # By identity, in the order of their ends; with their entries, as a request may be answered after its run's end.
        self._kept: OrderedDict[int, tuple[ReconcileRecord, int]] = OrderedDict()
        # Why each CR comes again by itself. Kept in any case: the log and traces have it as the cause of the next reconcile.
        self._reasons: dict[Request, RequeueReason] = {}
        self._entries = 0
        self.contents: dict[Path, ContentTimes] = {}
        self._minutes: Counter[int] = Counter()

    def begin(self, request: Request, priority: Priority, waited: float) -> ReconcileRecord:
        """Begin the record of a reconcile. Its cause is that of the last one's requeue, unless a better one is known."""
        record = ReconcileRecord(request=request, priority=priority, waited=waited)
        reason = self._reasons.pop(request, None)
        if reason and priority in (Priority.RETRY, Priority.PERIODIC):
            record.cause = reason
        self._on[request] = record
        self.notify(request)
        return record

    def current(self, request: Request) -> ReconcileRecord:
        """The record of the reconcile that is on; one that is not kept, where none was begun."""
        return self._on.get(request) or ReconcileRecord(request=request)

    def is_on(self, request: Request) -> bool:
        return request in self._on

    def end(self, record: ReconcileRecord) -> None:
        """End a reconcile."""
        record.end(ReconcileStatus.LEFT)
        record.ended = time()
        if record.requeue:
            self._reasons[record.request] = record.requeue.reason
        if self._on.get(record.request) is record:
            del self._on[record.request]
        if self._is_kept:
            self._keep(record)
        self.notify(record.request)

    def forget(self, request: Request) -> None:
        """Forget that a CR was to come again: it is gone, or another's. What was done for it stays."""
        self._reasons.pop(request, None)

    def begin_run(self, record: ReconcileRecord, run: RunRecord) -> None:
        record.run = run
        if self._is_kept:
            self._runs[run.ident] = record
        self.notify(record.request)

    def last(self, request: Request) -> ReconcileRecord | None:
        """The last reconcile that has ended."""
        past = self._past.get(request)
        return past[-1] if past else None

    def of(self, request: Request) -> list[ReconcileRecord]:
        """The reconciles of a CR, the latest first; the one that is on among them."""
        on = self._on.get(request)
        return [*([on] if on else []), *reversed(self._past.get(request, ()))]

    def of_run(self, ident: str) -> ReconcileRecord | None:
        """The reconcile whose run has this ident."""
        return self._runs.get(ident)

    def runs_by_minute(self) -> list[int]:
        """The runs that ended in each of the last minutes, the current one last."""
        now = int(time() // 60)
        return [self._minutes[minute] for minute in range(now - _MINUTES + 1, now + 1)]

    def _keep(self, record: ReconcileRecord) -> None:
        past = self._past.setdefault(record.request, deque())
        past.append(record)
        entries = _entries(record)
        self._kept[id(record)] = record, entries
        self._entries += entries
        if len(past) > _MOST_OF_CR:
            self._drop(past.popleft())
        while self._entries > _MOST_ENTRIES:
            self._evict()
        if record.run and record.run.ended is not None and not record.run.is_dry_run:
            self._count(record.run, record.run.ended)

    def _evict(self) -> None:
        """Drop the oldest reconcile of all."""
        oldest, _ = next(iter(self._kept.values()))
        past = self._past[oldest.request]
        past.popleft()
        if not past:
            del self._past[oldest.request]
        self._drop(oldest)

    def _drop(self, record: ReconcileRecord) -> None:
        _, entries = self._kept.pop(id(record))
        self._entries -= entries
        if record.run:
            self._runs.pop(record.run.ident, None)

    def _count(self, run: RunRecord, ended: float) -> None:
        minute = int(ended // 60)
        self._minutes[minute] += 1
        if len(self._minutes) > 2 * _MINUTES:
            # The clock may have been set back.
            near = range(minute - _MINUTES, minute + 1)
            self._minutes = Counter({at: count for at, count in self._minutes.items() if at in near})
        if run.content in self.contents or len(self.contents) < _MOST_CONTENTS:
            times, seconds = self.contents.setdefault(run.content, ContentTimes()), max(0.0, ended - run.begun)
            times.runs, times.seconds, times.longest = times.runs + 1, times.seconds + seconds, max(times.longest, seconds)


def _entries(record: ReconcileRecord) -> int:
    """The entries that a reconcile counts for."""
    run, texts = record.run, [record.message]
    count = 2 + len(record.phases)
    if run:
        count += len(run.tasks) + len(run.requests)
        texts += [run.plan, *(run.outcome.messages if run.outcome else ())]
        texts += [text for task in run.tasks for text in (task.location, task.message)]
        texts += [request.path for request in run.requests]
    return count + sum(len(text) // _ENTRY for text in texts)
