"""Which shard each CR has, and for how long CRs had none that works.

Next on the way: `tests.chaos.shards`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from runner.resource.sharding import Shard


class Owners:
    """The shards of CRs, by the names of both, as the CRs' labels say. `gaps`: seconds without one, of all that ended."""

    def __init__(self, ring: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.gaps: list[float] = []
        self._labels = Shard(ring, "")
        self._clock = clock
        self._working: set[str] = set()
        self._shards: dict[str, str] = {}
        # By CR, since when it has no shard.
        self._since: dict[str, float] = {}

    @property
    def unowned(self) -> set[str]:
        return set(self._since)

    def of(self, shard: str) -> set[str]:
        """The CRs of a shard, those that it is to let go excepted."""
        return {cr for cr, owner in self._shards.items() if owner == shard}

    def works(self, shard: str) -> None:
        """A shard takes part from now on."""
        self._working.add(shard)
        self._look()

    def ends(self, shard: str) -> None:
        """A shard does nothing from now on: it was asked to end, was killed, or was stopped."""
        self._working.discard(shard)
        self._look()

    def saw(self, cr: str, labels: Mapping[str, str] | None) -> None:
        """A CR has these labels; None: it is deleted."""
        if labels is None:
            self._shards.pop(cr, None)
            self._since.pop(cr, None)
            return
        # One that is to be let go waits for its next shard.
        self._shards[cr] = "" if self._labels.drain_label in labels else labels.get(self._labels.label, "")
        self._look(cr)

    def _look(self, *crs: str) -> None:
        for cr in crs or tuple(self._shards):
            if self._shards[cr] not in self._working:
                self._since.setdefault(cr, self._clock())
            elif cr in self._since:
                self.gaps.append(self._clock() - self._since.pop(cr))
