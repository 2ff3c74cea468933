"""The index: the CRs that there are, as the watches deliver them, in the little that pages show of each."""

from __future__ import annotations

from collections.abc import Iterable

from runner.config.watches import Watch
from runner.control import Request
from runner.resource.metadata import Object


class Index:
    """The CRs by their requests. Not thread-safe: lives in the event loop."""

    def __init__(self, watches: Iterable[Watch]) -> None:
        self.crs: dict[Request, Object] = {}

    def observe(self, request: Request, obj: Object | None) -> None:
        """Take a CR as it is now; None: it is gone, or another's."""
        if obj is None:
            self.crs.pop(request, None)
        else:
            self.crs[request] = obj

    def namespaces(self, watch: Watch) -> list[str]:
        """The namespaces in which there are CRs of a watch."""
        return sorted({request.key.namespace for request in self.crs if request.watch == watch})
