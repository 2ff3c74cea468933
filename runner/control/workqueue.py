"""The work queue: one entry for each CR, one reconcile at a time for each CR, priorities, delays, backoff and limits.

The rules are controller-runtime's: a CR that is added while it is being reconciled is reconciled once more afterwards, and
failures wait 5 ms, doubling to 1000 s, until a success. Beyond those:

- A higher priority goes first, but every fourth reconcile is of the CR that has waited longest, so that none starves.
- Besides the limit of each kind there is one over all kinds. Runs of one kind that hang must not stop the others. A limit
  that the user gave is never exceeded; of two or more, a kind does not get the last. The default limit is exceeded by one
  for a kind without a run once all runs that are on have taken half a minute.
- A CR whose dependents change all the time is reconciled less and less often because of them: see `Damper`.

Next on the way: `runner.control.controller`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic

from runner import metrics
from runner.config.watches import Watch
from runner.control import Priority, Request
from runner.errors import RolerunnerError
from runner.kube.backoff import delay

_FIRST_BACKOFF, _LAST_BACKOFF = 0.005, 1000.0
# Every so many reconciles one is chosen by age alone.
_AGEING = 4

# The CRs that wait with one priority, in the order in which they began to; with the number of that order, and since when.
_Line = OrderedDict[Request, tuple[int, float]]


class Closed(RolerunnerError):
    """The queue is shut down."""


@dataclass(slots=True)
class Damper:
    """Rate limiter of reconciles that are due to dependents; in seconds.

    The first `burst` of a CR do not wait, the next ones 1 s, 2 s, 4 s … up to `longest`. One is forgotten each `interval`,
    so that in the long run there is about one each `interval`.
    """

    burst: int = 10
    interval: float = 10.0
    longest: float = 30.0
    # When a CR's last such reconcile will be forgotten.
    _forgotten: dict[Request, float] = field(default_factory=dict)
    _room: int = 1024

    def count(self, request: Request, now: float) -> None:
        """Record a reconcile that is due to a dependent."""
        self._forgotten[request] = max(self._forgotten.get(request, now), now) + self.interval
        if len(self._forgotten) > self._room:
            self._forgotten = {each: at for each, at in self._forgotten.items() if at > now}
            self._room = max(1024, 2 * len(self._forgotten))

    def wait(self, request: Request, now: float) -> float:
        """Seconds that the next one has to wait."""
        times = (self._forgotten.get(request, now) - now) / self.interval
        return 0.0 if times <= self.burst - 1 else delay(times - self.burst + 1, 1.0, self.longest)


@dataclass(slots=True)
class _Entry:
    """The state of a CR that waits, is being reconciled, or failed last time."""

    failures: int = 0
    # Waiting now, with this priority.
    priority: Priority | None = None
    running: bool = False
    # Of the reconcile that is on: its priority, and how long it waited.
    begun: tuple[Priority, float] = (Priority.CHANGE, 0.0)
    # Added while running, or while held: is reconciled again.
    again: Priority | None = None
    # Done when no reconcile is on; set while none may begin.
    held: asyncio.Future[None] | None = None
    timer: asyncio.TimerHandle | None = None
    due: float = 0.0
    # Since when it has been waiting.
    since: float = 0.0


@dataclass(slots=True)
class WorkQueue:
    """Not thread-safe: lives in one event loop."""

    # Reconciles at once over all kinds, and whether that is never exceeded.
    limit: int
    strict: bool = False
    # Seconds after which runs count as long, and a kind without a run gets one besides them.
    patience: float = 30.0
    clock: Callable[[], float] = monotonic
    dependents: Damper = field(default_factory=Damper)
    _entries: dict[Request, _Entry] = field(default_factory=dict)
    # By watch: a kind that is at its limit must not be in another's way.
    _waiting: dict[Watch, dict[Priority, _Line]] = field(default_factory=dict)
    _running: Counter[Watch] = field(default_factory=Counter)
    # When the reconciles that are on began.
    _begun: dict[Request, float] = field(default_factory=dict)
    _sequence: itertools.count[int] = field(default_factory=itertools.count)
    _given: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _wanting: list[asyncio.Future[None]] = field(default_factory=list)
    # Wakes a worker when the runs that are on have become long ones.
    _look: asyncio.TimerHandle | None = None
    _closed: bool = False

    def __len__(self) -> int:
        """The number of CRs that wait, without those whose delay is not over."""
        return sum(1 for entry in self._entries.values() if entry.priority is not None)

    @property
    def running(self) -> int:
        return self._running.total()

    @property
    def workers(self) -> int:
        """The most reconciles that are ever on at once, for the watches that are registered."""
        return self.limit if self.strict else self.limit + max(len(self._waiting) - 1, 0)

    def is_running(self, request: Request) -> bool:
        return request in self._begun

    def is_waiting(self, request: Request) -> bool:
        """True if the CR waits for a worker; its delay, if it had one, is over."""
        entry = self._entries.get(request)
        return entry is not None and entry.priority is not None

    def due_in(self, request: Request) -> float | None:
        """Seconds until the delay of a CR is over; None if it has none."""
        entry = self._entries.get(request)
        return entry.due - asyncio.get_running_loop().time() if entry and entry.timer else None

    def waited(self, request: Request) -> float | None:
        """Seconds for which a CR has waited for a worker; None if it does not wait."""
        entry = self._entries.get(request)
        return self.clock() - entry.since if entry and entry.priority is not None else None

    def failures(self, request: Request) -> int:
        """How often a CR has failed in a row."""
        entry = self._entries.get(request)
        return entry.failures if entry else 0

    def on(self) -> list[Request]:
        """The CRs that are being reconciled."""
        return list(self._begun)

    def waiting(self) -> list[Request]:
        """The CRs that wait for a worker."""
        return [request for lines in self._waiting.values() for line in lines.values() for request in line]

    @property
    def delayed(self) -> int:
        """The number of CRs whose delay is not over: they come again by themselves."""
        return sum(1 for entry in self._entries.values() if entry.timer is not None)

    def begun(self, request: Request) -> tuple[Priority, float]:
        """The priority of the CR's reconcile that is on, and for how many seconds it waited."""
        return self._entries[request].begun

    def register(self, watch: Watch) -> None:
        """Make the watch known, for the limits over all kinds, and export its metrics."""
        self._lines(watch)
        metrics.export_controller(
            watch.controller,
            limit=watch.max_concurrent_reconciles,
            # controller-runtime counts its priorities downwards as well.
            depths={-priority: partial(self._depth, watch, priority) for priority in Priority},
            waits={-priority: partial(self._longest_wait, watch, priority) for priority in Priority},
            running=lambda: [self.clock() - begun for request, begun in self._begun.items() if request.watch == watch],
        )

    def add(self, request: Request, priority: Priority, after: float = 0.0) -> None:
        """Put the CR on the queue, in `after` seconds. Of several delays the shortest counts, of priorities the highest."""
        if self._closed:
            return
        entry = self._entries.setdefault(request, _Entry())
        if after <= 0 and priority is Priority.DEPENDENT and not entry.running:
            after = self.dependents.wait(request, self.clock())
        if after > 0 and entry.held is None:
            self._delay(request, entry, priority, after)
        else:
            self._put(request, entry, priority)

    def hold(self, request: Request) -> asyncio.Future[None]:
        """Let no reconcile of the CR begin until `release`; the future is done when the one that is on has ended."""
        entry = self._entries.setdefault(request, _Entry())
        if entry.held is None:
            entry.held = asyncio.get_running_loop().create_future()
            if not entry.running:
                entry.held.set_result(None)
            if entry.timer is not None:
                entry.timer.cancel()
                entry.timer = None
            if entry.priority is not None:
                del self._lines(request.watch)[entry.priority][request]
                entry.priority = None
            entry.failures = 0
        return entry.held

    def release(self, request: Request) -> None:
        """Let the CR be reconciled again, if it was added while it was held."""
        entry = self._entries.get(request)
        if entry is None or entry.held is None:
            return
        entry.held = None
        if entry.running:
            return
        again, entry.again = entry.again, None
        if again is not None:
            self.add(request, again)
        self._drop_idle(request, entry)

    async def get(self) -> Request:
        """Wait for the next CR to reconcile, which must be given back with `done`. Raises Closed."""
        while True:
            if self._closed:
                raise Closed
            request = self._next()
            if request is not None:
                return request
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._wanting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._wanting:
                    self._wanting.remove(waiter)
                else:
                    # Woken and cancelled at once: another worker has to be woken in its place.
                    self._wake()
                raise

    def done(
        self,
        request: Request,
        *,
        failed: bool = False,
        after: float | None = None,
        priority: Priority = Priority.PERIODIC,
    ) -> float | None:
        """End the CR's reconcile. It is requeued with backoff if it failed, else after `after` seconds or by an event.

        Returns after how many seconds it comes again by itself; None if it does not, or is requeued at once, as it was added
        meanwhile. Does nothing for a CR that is not being reconciled.
        """
        entry = self._entries.get(request)
        if entry is None or not entry.running:
            return None
        entry.running = False
        metrics.request_done(request.watch.controller, worked=self.clock() - self._begun.pop(request))
        self._running[request.watch] -= 1
        if entry.held is not None:
            if not entry.held.done():
                entry.held.set_result(None)
            self._wake()
            return None
        again, entry.again = entry.again, None
        comes: float | None = None
        if failed:
            entry.failures += 1
            # A change of the CR may be the remedy. A change of a dependent may be the failed run's own, and to requeue at
            # once for that would be a loop without a pause.
            if again is Priority.CHANGE:
                self.add(request, again)
            else:
                comes = delay(entry.failures, _FIRST_BACKOFF, _LAST_BACKOFF)
                self.add(request, Priority.RETRY, after=comes)
        else:
            entry.failures = 0
            if again is not None:
                self.add(request, again)
            elif after is not None and after > 0:
                comes = after
                self.add(request, priority, after=comes)
        self._drop_idle(request, entry)
        self._wake()
        return comes

    def close(self) -> None:
        """Shut down: no reconcile begins any more. Those that are on go on."""
        self._closed = True
        for timer in (self._look, *(entry.timer for entry in self._entries.values())):
            if timer is not None:
                timer.cancel()
        while self._wanting:
            self._wake()

    def _drop_idle(self, request: Request, entry: _Entry) -> None:
        if entry.priority is None and entry.timer is None and not entry.failures:
            del self._entries[request]

    def _put(self, request: Request, entry: _Entry, priority: Priority) -> None:
        if entry.running or entry.held is not None:
            entry.again = priority if entry.again is None else min(entry.again, priority)
        elif entry.priority is None or priority < entry.priority:
            lines = self._lines(request.watch)
            if entry.priority is None:
                entry.since = self.clock()
                metrics.request_added(request.watch.controller)
            else:
                del lines[entry.priority][request]
            entry.priority = priority
            lines[priority][request] = next(self._sequence), self.clock()
            self._wake()

    def _delay(self, request: Request, entry: _Entry, priority: Priority, after: float) -> None:
        metrics.request_delayed(request.watch.controller)
        loop = asyncio.get_running_loop()
        due = loop.time() + after
        if entry.timer is not None:
            if entry.due <= due:
                return
            entry.timer.cancel()
        entry.due = due
        entry.timer = loop.call_later(after, self._delay_over, request, entry, priority)

    def _delay_over(self, request: Request, entry: _Entry, priority: Priority) -> None:
        entry.timer = None
        self._put(request, entry, priority)

    def _next(self) -> Request | None:
        fronts = [
            (priority, *next(iter(line.items())))
            for watch, lines in self._waiting.items()
            if self._has_room(watch)
            for priority, line in lines.items()
            if line
        ]
        if not fronts:
            self._look_again()
            return None
        by_age = next(self._given) % _AGEING == 0
        priority, request, _ = min(fronts, key=lambda front: (0 if by_age else front[0], front[2]))
        del self._waiting[request.watch][priority][request]
        entry = self._entries[request]
        entry.priority, entry.running = None, True
        if entry.timer is not None:
            # This reconcile stands for the delayed one as well, and decides itself when to requeue.
            entry.timer.cancel()
            entry.timer = None
        self._running[request.watch] += 1
        now = self._begun[request] = self.clock()
        entry.begun = priority, now - entry.since
        if priority is Priority.DEPENDENT:
            self.dependents.count(request, now)
        metrics.request_started(request.watch.controller, waited=now - entry.since)
        # Workers that wait do not look again by themselves.
        self._look_again()
        return request

    def _has_room(self, watch: Watch) -> bool:
        running = self._running[watch]
        if running >= watch.max_concurrent_reconciles:
            return False
        if self.strict:
            share = self.limit - 1 if self.limit > 1 and len(self._waiting) > 1 else self.limit
            return running < share and self.running < self.limit
        return self.running < self.limit or (not running and self._long_in() <= 0)

    def _long_in(self) -> float:
        """Seconds until all runs that are on count as long."""
        return max(self._begun.values(), default=0.0) + self.patience - self.clock()

    def _look_again(self) -> None:
        """Set the timer that lets a kind without a run have one when all runs that are on have become long ones."""
        if self.strict or self._look is not None or self.running < self.limit:
            return
        if any(not self._running[watch] and any(lines.values()) for watch, lines in self._waiting.items()):
            self._look = asyncio.get_running_loop().call_later(max(self._long_in(), 0.001), self._look_now)

    def _look_now(self) -> None:
        self._look = None
        self._wake()

    def _lines(self, watch: Watch) -> dict[Priority, _Line]:
        lines = self._waiting.get(watch)
        if lines is None:
            lines = self._waiting[watch] = {priority: OrderedDict() for priority in Priority}
        return lines

    def _depth(self, watch: Watch, priority: Priority) -> int:
        return len(self._lines(watch)[priority])

    def _longest_wait(self, watch: Watch, priority: Priority) -> float:
        """Seconds; 0 if none waits. One that was lifted to this priority has waited with it since then."""
        first = next(iter(self._lines(watch)[priority].values()), None)
        return 0.0 if first is None else self.clock() - first[1]

    def _wake(self) -> None:
        while self._wanting:
            waiter = self._wanting.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return
