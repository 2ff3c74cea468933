"""Dry runs that are asked for on a page: besides the queue, one at a time, with the last results kept.

Each has a folder for itself, as its CR may be run meanwhile. Whoever asked for it waits for it; if nobody does any more, it
is ended.

Next on the way: `runner.control.run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from time import time

from runner.control import Priority, Request
from runner.control.finalizers import Decision, decide
from runner.control.history import History, Notify
from runner.control.records import ReconcileRecord, ReconcileStatus
from runner.control.run import Runs
from runner.control.spans import Spans
from runner.errors import RolerunnerError
from runner.executor.run_folder import RunFolders
from runner.kube.client import ApiClient, NotFound
from runner.kube.discovery import Discovery

# Results that are kept: each may have a plan of 256 KB.
_MOST = 50
# Seconds: for the dry run that is on to end; for one to take where its watch has no timeout.
_PATIENCE, _LONGEST = 30.0, 600.0


class NoPlan(RolerunnerError):
    """A dry run that could not be made; `str()` says why, for the page."""


class Plans:
    """Makes dry runs, and has the last of them. Not thread-safe: lives in the event loop."""

    def __init__(self, runs: Runs, client: ApiClient, discovery: Discovery, *, notify: Notify) -> None:
        # None of it is the CR's next run's concern: its own writes, what it would create, its artifacts.
        self._runs = replace(
            runs,
            settings=replace(runs.settings, run_artifacts=False),
            own_writes=None,
            on_dependent=None,
            history=History(notify=notify),
        )
        self._client = client
        self._discovery = discovery
        self._on = asyncio.Lock()
        self._kept: OrderedDict[str, ReconcileRecord] = OrderedDict()
        self._making: set[asyncio.Task[object]] = set()

    def of_run(self, ident: str) -> ReconcileRecord | None:
        """The dry run with this ident."""
        return self._kept.get(ident)

    async def make(self, request: Request, cause: str) -> str:
        """Make a dry run of a CR; its ident. Raises NoPlan and KubeError."""
        task: asyncio.Task[object] | None = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._on.acquire()
        except TimeoutError:
            raise NoPlan("Another dry run is on, and has not ended for long. Try again later.") from None
        self._making.add(task)
        try:
            async with asyncio.timeout(None if request.watch.timeout else _LONGEST):
                return await self._make(request, cause)
        except TimeoutError:
            raise NoPlan(f"The dry run was ended, as it has taken {_LONGEST:g} s.") from None
        finally:
            self._making.discard(task)
            self._on.release()

    def close(self) -> None:
        """End the dry run that is on."""
        for task in self._making:
            task.cancel()

    async def _make(self, request: Request, cause: str) -> str:
        resource = await self._discovery.by_kind(request.watch.gvk)
        if resource is None:
            raise NoPlan("The cluster does not serve the kind any more.")
        try:
            obj = await self._client.get(resource.path(request.key))
        except NotFound:
            raise NoPlan("The CR is gone.") from None
        decision = decide(obj, request.watch)
        if decision is Decision.IGNORE:
            raise NoPlan("The CR is being deleted, and nothing is run for that.")
        record = ReconcileRecord(request=request, priority=Priority.CHANGE, waited=0.0, cause=cause)
        record.uid, record.generation = obj["metadata"]["uid"], obj["metadata"].get("generation")
        async with _traced(record, self._runs.spans), _folders() as folders:
            runs = replace(self._runs, folders=folders)
            plan = await runs.dry_run(request, resource, obj, finalizing=decision is Decision.FINALIZE, record=record)
            record.end(ReconcileStatus.DRY_RUN, plan.failure)
        if record.run is None:
            raise NoPlan(plan.failure)
        self._kept[record.run.ident] = record
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        return record.run.ident


@contextlib.asynccontextmanager
async def _traced(record: ReconcileRecord, spans: Spans | None) -> AsyncIterator[None]:
    """End the record, and make its trace."""
    if spans:
        spans.begin(record)
    try:
        yield
    finally:
        record.end(ReconcileStatus.FAILED, "ended before its end")
        record.ended = time()
        if spans:
            await spans.end(record)


@contextlib.asynccontextmanager
async def _folders() -> AsyncIterator[RunFolders]:
    """Folders for one run."""
    root = await asyncio.to_thread(tempfile.mkdtemp, prefix="rolerunner-plan-")
    try:
        with contextlib.closing(RunFolders(Path(root))) as folders:
            yield folders
    finally:
        await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
