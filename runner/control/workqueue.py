"""Who is next: one entry a CR, one run at a time a CR, priorities, delays and backoff.

The rules are controller-runtime's: an entry that is added while its turn is on comes again once afterwards, and failures
wait 5 ms, doubling to 1000 s, until a success. Beyond those:

- A higher priority goes first, but every fourth turn is that of who has waited longest, so that none waits for ever.
- Beside the limit of each kind there is one over all kinds. Runs of one kind that hang must not stop the others. A limit
  that the user gave is never passed: of two or more, a kind does not get the last. Of the default one, once all runs that
  are on have been so for half a minute, a kind that has none on gets one more.
- A CR whose dependents change all the time comes less and less often for their sake: see `Damper`.

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

_FIRST_BACKOFF, _LAST_BACKOFF = 0.005, 1000.0
# Doublings after which a backoff is at its last. A CR that fails for months has more failures than a float has room for.
_MOST_DOUBLINGS = 20
# Each how many turns one is given by age alone.
_AGEING = 4

# The CRs that wait with one priority, in the order in which they began to, and the numbers of that order.
_Line = OrderedDict[Request, int]


class Closed(RolerunnerError):
    """The queue gives out no more turns."""


@dataclass(slots=True)
class Damper:
    """How long a CR waits that was reconciled for its dependents' sake again and again; seconds, of whatever clock.

    The first `burst` times not at all, then 1 s, 2 s, 4 s … up to `longest`. One time is forgotten each `interval`, so that
    in the long run there is about one each `interval`.
    """

    burst: int = 10
    interval: float = 10.0
    longest: float = 30.0
    # When a CR's last time will be forgotten.
    _forgotten: dict[Request, float] = field(default_factory=dict)
    _room: int = 1024

    def count(self, request: Request, now: float) -> None:
        """The CR is reconciled for a dependent's sake."""
        self._forgotten[request] = max(self._forgotten.get(request, now), now) + self.interval
        if len(self._forgotten) > self._room:
            self._forgotten = {each: at for each, at in self._forgotten.items() if at > now}
            self._room = max(1024, 2 * len(self._forgotten))

    def wait(self, request: Request, now: float) -> float:
        """How long the next time has to wait."""
        times = (self._forgotten.get(request, now) - now) / self.interval
        return 0.0 if times <= self.burst - 1 else min(2.0 ** min(times - self.burst, _MOST_DOUBLINGS), self.longest)


@dataclass(slots=True)
class _Turn:
    """What is known of a CR that waits for a turn, has one, or failed its last."""

    failures: int = 0
    # Waiting now, with this priority.
    priority: Priority | None = None
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

    # Runs at once over all kinds, and whether that holds whatever happens.
    limit: int
    strict: bool = False
    # Seconds after which runs count as long, and others get a turn beside them.
    patience: float = 30.0
    clock: Callable[[], float] = monotonic
    dependents: Damper = field(default_factory=Damper)
    _turns: dict[Request, _Turn] = field(default_factory=dict)
    # By watch: a kind that is at its limit must not be in another's way.
    _waiting: dict[Watch, dict[Priority, _Line]] = field(default_factory=dict)
    _running: Counter[Watch] = field(default_factory=Counter)
    # Since when the turns that are on have been so.
    _begun: dict[Request, float] = field(default_factory=dict)
    _sequence: itertools.count[int] = field(default_factory=itertools.count)
    _given: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _wanting: list[asyncio.Future[None]] = field(default_factory=list)
    # Looks again when the runs that are on have become long ones.
    _look: asyncio.TimerHandle | None = None
    _closed: bool = False

    def __len__(self) -> int:
        """How many wait for a turn now, not counting those whose time has not come."""
        return sum(1 for turn in self._turns.values() if turn.priority is not None)

    @property
    def running(self) -> int:
        return self._running.total()

    @property
    def workers(self) -> int:
        """The most turns that are ever on at once, for the watches that are followed."""
        return self.limit if self.strict else self.limit + max(len(self._waiting) - 1, 0)

    def follow(self, watch: Watch) -> None:
        """Reckon with the watch's turns, and have them shown by the metrics."""
        self._lines(watch)
        metrics.follow(
            watch.controller,
            limit=watch.max_concurrent_reconciles,
            # controller-runtime counts its priorities downwards, too.
            depths={-priority: partial(self._depth, watch, priority) for priority in Priority},
            running=lambda: [self.clock() - begun for request, begun in self._begun.items() if request.watch == watch],
        )

    def add(self, request: Request, priority: Priority, after: float = 0.0) -> None:
        """Give the CR a turn, in `after` seconds. Of several delays the shortest counts, of priorities the highest."""
        if self._closed:
            return
        turn = self._turns.setdefault(request, _Turn())
        if after <= 0 and priority is Priority.DEPENDENT and not turn.running:
            after = self.dependents.wait(request, self.clock())
        if after > 0:
            self._delay(request, turn, priority, after)
        else:
            self._put(request, turn, priority)

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

        Returns the seconds of the backoff, 0 without one. For a turn that is not on, nothing happens.
        """
        turn = self._turns.get(request)
        if turn is None or not turn.running:
            return 0.0
        turn.running = False
        metrics.ended(request.watch.controller, worked=self.clock() - self._begun.pop(request))
        self._running[request.watch] -= 1
        again, turn.again = turn.again, None
        backoff = 0.0
        if failed:
            backoff = min(_FIRST_BACKOFF * 2 ** min(turn.failures, _MOST_DOUBLINGS), _LAST_BACKOFF)
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
        for timer in (self._look, *(turn.timer for turn in self._turns.values())):
            if timer is not None:
                timer.cancel()
        while self._wanting:
            self._wake()

    def _put(self, request: Request, turn: _Turn, priority: Priority) -> None:
        if turn.running:
            turn.again = priority if turn.again is None else min(turn.again, priority)
        elif turn.priority is None or priority < turn.priority:
            lines = self._lines(request.watch)
            if turn.priority is None:
                turn.since = self.clock()
                metrics.queued(request.watch.controller)
            else:
                del lines[turn.priority][request]
            turn.priority = priority
            lines[priority][request] = next(self._sequence)
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
        self._put(request, turn, priority)

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
        turn = self._turns[request]
        turn.priority, turn.running = None, True
        if turn.timer is not None:
            # This turn stands for the delayed one as well, and says itself when to come back.
            turn.timer.cancel()
            turn.timer = None
        self._running[request.watch] += 1
        now = self._begun[request] = self.clock()
        if priority is Priority.DEPENDENT:
            self.dependents.count(request, now)
        metrics.begun(request.watch.controller, waited=now - turn.since)
        # The workers that wait do not look again by themselves.
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
        """In how many seconds all runs that are on will have been so for long."""
        return max(self._begun.values(), default=0.0) + self.patience - self.clock()

    def _look_again(self) -> None:
        """See to it that a kind without a run gets one when all runs that are on have become long ones."""
        if self.strict or self._look is not None or self.running < self.limit:
            return
        if any(not self._running[watch] and any(lines.values()) for watch, lines in self._waiting.items()):
            self._look = asyncio.get_running_loop().call_later(max(self._long_in(), 0.001), self._looks)

    def _looks(self) -> None:
        self._look = None
        self._wake()

    def _lines(self, watch: Watch) -> dict[Priority, _Line]:
        lines = self._waiting.get(watch)
        if lines is None:
            lines = self._waiting[watch] = {priority: OrderedDict() for priority in Priority}
        return lines

    def _depth(self, watch: Watch, priority: Priority) -> int:
        return len(self._lines(watch)[priority])

    def _wake(self) -> None:
        while self._wanting:
            waiter = self._wanting.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return
