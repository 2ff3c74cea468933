"""The state of the operator that pages read, and by which keys a request for a page has it.

Next on the way: `runner.dashboard.pages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from runner.config.settings import Settings
from runner.config.watches import Watch
from runner.control import Request
from runner.control.handlers import Handlers
from runner.control.history import History
from runner.control.records import ReconcileRecord
from runner.control.workqueue import WorkQueue
from runner.dashboard.access import Caller
from runner.dashboard.changes import Changes
from runner.dashboard.dry_runs import DryRuns
from runner.dashboard.index import Index
from runner.executor.run_folder import RunFolders
from runner.kube.informer import Informers
from runner.resource.metadata import ObjectKey


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The parts of an operator that works."""

    settings: Settings
    watches: Sequence[Watch]
    queue: WorkQueue
    handlers: Handlers
    history: History
    index: Index
    changes: Changes
    dry_runs: DryRuns
    informers: Informers
    folders: RunFolders

    def watch(self, group: str, version: str, kind: str) -> Watch | None:
        """The watch of a kind."""
        wanted = (group, version, kind)
        return next(
            (watch for watch in self.watches if (watch.gvk.group, watch.gvk.version, watch.gvk.kind) == wanted), None
        )

    def request(self, group: str, version: str, kind: str, namespace: str, name: str) -> Request | None:
        """The request of a CR by the parts of its page's path, in which `-` stands for an empty one; None if its kind is not
        watched."""
        group, namespace = ("" if part == "-" else part for part in (group, namespace))
        watch = self.watch(group, version, kind)
        return Request(watch, ObjectKey(namespace, name)) if watch else None

    def of_run(self, ident: str) -> ReconcileRecord | None:
        """The reconcile, or the dry run that was asked for here, whose run has this ident."""
        dry_run = self.dry_runs.get(ident)
        return dry_run.record if dry_run else self.history.of_run(ident)


# What the handler of each page finds in its request. Whether the caller may see something, it has to ask itself.
STATE: web.RequestKey[State] = web.RequestKey("state", State)
CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
