"""Who is next: one entry a CR, one run at a time a CR, priorities, delays and backoff.

The rules are controller-runtime's: an entry that is added while its turn is on comes again once afterwards, and failures
wait 5 ms, doubling to 1000 s, until a success. Beyond those, a changed CR never waits behind the periodic pass, and there
is a limit over all kinds beside that of each kind.

Next on the way: `runner.control.controller`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from time import monotonic

from runner import metrics
from runner.control import Priority, Request
from runner.watches import Watch

_FIRST_BACKOFF, _LAST_BACKOFF = 0.005, 1000.0


class Closed(Exception):
    """The queue gives out no more turns."""


@dataclass(slots=True)
class _Turn:
    """What is known of a CR that waits for a turn, has one, or failed its last."""

    failures: int = 0
    # Waiting now, with this priority; the sequence number tells it from stale entries of the heap.
    priority: Priority | None = None
    sequence: int = 0
    running: bool = False
    # Added while running: comes again.
    again: Priority | None = None
    timer: asyncio.TimerHandle | None = None
    due: float = 0.0
    # Since when it has been waiting.
    since: float = 0.0


@dataclass(slots=True)
class WorkQueue:
    """Not safe for threads: lives in one event loop."""

    limit: int
    _turns: dict[Request, _Turn] = field(default_factory=dict)
    # A heap a watch: a kind that is at its limit must not be in another's way.
    _waiting: dict[Watch, list[tuple[Priority, int, Request]]] = field(default_factory=dict)
    _running: Counter[Watch] = field(default_factory=Counter)
    # Since when the turns that are on have been so.
    _begun: dict[Request, float] = field(default_factory=dict)
    _sequence: itertools.count[int] = field(default_factory=itertools.count)
    _wanting: list[asyncio.Future[None]] = field(default_factory=list)
    _closed: bool = False

    def __len__(self) -> int:
        """How many wait for a turn now, not counting those whose time has not come."""
        return sum(1 for turn in self._turns.values() if turn.priority is not None)

    @property
    def running(self) -> int:
        return self._running.total()

    def follow(self, watch: Watch) -> None:
        """Have the watch's turns shown by the metrics."""
        metrics.follow(
            watch.controller,
            limit=watch.max_concurrent_reconciles,
            # controller-runtime counts its priorities downwards, too.
            depths={-priority: partial(self._depth, watch, priority) for priority in Priority},
            running=lambda: [monotonic() - begun for request, begun in self._begun.items() if request.watch == watch],
        )

    def add(self, request: Request, priority: Priority, after: float = 0.0) -> None:
        """Give the CR a turn, in `after` seconds. Of several delays the shortest counts, of priorities the highest."""
        if self._closed:
            return
        turn = self._turns.setdefault(request, _Turn())
        if after > 0:
            self._delay(request, turn, priority, after)
        elif turn.running:
            turn.again = priority if turn.again is None else min(turn.again, priority)
        elif turn.priority is None or priority < turn.priority:
            if turn.priority is None:
                turn.since = monotonic()
                metrics.queued(request.watch.controller)
            turn.priority, turn.sequence = priority, next(self._sequence)
            heapq.heappush(self._waiting.setdefault(request.watch, []), (priority, turn.sequence, request))
            self._wake()

    async def get(self) -> Request:
        """The next CR's turn, which lasts until `done`. Raises Closed."""
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
                    # Woken and cancelled at once: another must not sleep through what this one was woken for.
                    self._wake()
                raise

    def done(
        self,
        request: Request,
        *,
        failed: bool = False,
        after: float | None = None,
        priority: Priority = Priority.PERIODIC,
    ) -> float:
        """The turn is over. It comes again by backoff if it failed, after `after` seconds, or when something happens.

        Returns the seconds of the backoff, 0 without one.
        """
        turn = self._turns[request]
        turn.running = False
        metrics.ended(request.watch.controller, worked=monotonic() - self._begun.pop(request))
        self._running[request.watch] -= 1
        again, turn.again = turn.again, None
        backoff = 0.0
        if failed:
            backoff = min(_FIRST_BACKOFF * 2**turn.failures, _LAST_BACKOFF)
            turn.failures += 1
            # A change of the CR may be the remedy. One of its dependents may be the failed run's own doing, and to come
            # back at once for that would go round without a pause.
            if again is Priority.CHANGE:
                self.add(request, again)
            else:
                self.add(request, Priority.RETRY, after=backoff)
        else:
            turn.failures = 0
            if again is not None:
                self.add(request, again)
            elif after is not None and after > 0:
                self.add(request, priority, after=after)
        if turn.priority is None and turn.timer is None and not turn.failures:
            del self._turns[request]
        self._wake()
        return backoff

    def close(self) -> None:
        """No more turns. Those that are on go on."""
        self._closed = True
        for turn in self._turns.values():
            if turn.timer is not None:
                turn.timer.cancel()
        while self._wanting:
            self._wake()

    def _delay(self, request: Request, turn: _Turn, priority: Priority, after: float) -> None:
        metrics.delayed(request.watch.controller)
        loop = asyncio.get_running_loop()
        due = loop.time() + after
        if turn.timer is not None:
            if turn.due <= due:
                return
            turn.timer.cancel()
        turn.due = due
        turn.timer = loop.call_later(after, self._ripe, request, turn, priority)

    def _ripe(self, request: Request, turn: _Turn, priority: Priority) -> None:
        turn.timer = None
        self.add(request, priority)

    def _next(self) -> Request | None:
        if self.running >= self.limit:
            return None
        heads = []
        for watch, heap in self._waiting.items():
            while heap and self._is_stale(heap[0]):
                heapq.heappop(heap)
            if heap and self._running[watch] < watch.max_concurrent_reconciles:
                heads.append(heap)
        if not heads:
            return None
        _, _, request = heapq.heappop(min(heads, key=lambda heap: heap[0][:2]))
        turn = self._turns[request]
        turn.priority, turn.running = None, True
        if turn.timer is not None:
            # This turn stands for the delayed one as well, and says itself when to come back.
            turn.timer.cancel()
            turn.timer = None
        self._running[request.watch] += 1
        self._begun[request] = monotonic()
        metrics.begun(request.watch.controller, waited=self._begun[request] - turn.since)
        return request

    def _depth(self, watch: Watch, priority: Priority) -> int:
        waiting = self._waiting.get(watch, ())
        return sum(1 for entry in waiting if entry[0] == priority and not self._is_stale(entry))

    def _is_stale(self, entry: tuple[Priority, int, Request]) -> bool:
        turn = self._turns.get(entry[2])
        return turn is None or turn.priority is None or turn.sequence != entry[1]

    def _wake(self) -> None:
        while self._wanting:
            waiter = self._wanting.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return
