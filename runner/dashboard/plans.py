"""Dry runs that are asked for on a page, one at a time, with a few results kept.

Next on the way: `runner.control.run`.
"""

from __future__ import annotations

from collections import OrderedDict

from runner.control.records import ReconcileRecord

_MOST = 50


class Plans:
    """The last dry runs that were asked for here. Not thread-safe: lives in the event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, ReconcileRecord] = OrderedDict()

    def of_run(self, ident: str) -> ReconcileRecord | None:
        """The dry run with this ident."""
        return self._kept.get(ident)
