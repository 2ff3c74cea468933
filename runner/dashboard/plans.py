"""Dry runs that are asked for on a page: besides the queue, a few at a time, with the last results kept.

Each has a folder for itself, as its CR may be run meanwhile. Whoever asked for it waits for it; if nobody does any more, it
is ended. One at a time is made of each namespace's CRs: a tenant whose dry runs do not end has no other tenant wait.

Next on the way: `runner.control.run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from time import time
from weakref import WeakValueDictionary

from runner.control import Request
from runner.control.finalizers import Decision, decide
from runner.control.history import History, Notify
from runner.control.records import ENDED_EARLY, ReconcileRecord, ReconcileStatus
from runner.control.run import Runs
from runner.control.spans import Spans
from runner.errors import RolerunnerError
from runner.executor.run_folder import RunFolders
from runner.kube.client import ApiClient, NotFound
from runner.kube.discovery import Discovery

# Dry runs at once, of different namespaces; results that are kept: each may have a plan of 256 KB.
_AT_ONCE, _MOST = 4, 50
# Seconds: for dry runs that are on to end; for one to take where its watch has no timeout.
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
        self._places = asyncio.Semaphore(_AT_ONCE)
        # By namespace, as long as somebody waits in one.
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._kept: dict[str, ReconcileRecord] = {}
        self._making: set[asyncio.Task[object]] = set()

    def of_run(self, ident: str) -> ReconcileRecord | None:
        """The dry run with this ident."""
        return self._kept.get(ident)

    async def make(self, request: Request, cause: str) -> str:
        """Make a dry run of a CR; its ident. Raises NoPlan and KubeError."""
        task: asyncio.Task[object] | None = asyncio.current_task()
        assert task is not None
        line = self._lines.setdefault(request.key.namespace, asyncio.Lock())
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await stack.enter_async_context(line)
                    await stack.enter_async_context(self._places)
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

    def close(self) -> None:
        """End the dry runs that are on."""
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
        record = ReconcileRecord(request=request, cause=cause)
        record.uid, record.generation = obj["metadata"]["uid"], obj["metadata"].get("generation")
        async with _traced(record, self._runs.spans), _folders() as folders:
            runs = replace(self._runs, folders=folders)
            plan = await runs.dry_run(request, resource, obj, finalizing=decision is Decision.FINALIZE, record=record)
            record.end(ReconcileStatus.DRY_RUN, plan.failure)
        if record.run is None:
            raise NoPlan(plan.failure)
        self._keep(record.run.ident, record)
        return record.run.ident

    def _keep(self, ident: str, record: ReconcileRecord) -> None:
        """Keep a result. For one too many, the oldest goes of the namespace that has the most."""
        self._kept[ident] = record
        if len(self._kept) > _MOST:
            ((most, _),) = Counter(kept.request.key.namespace for kept in self._kept.values()).most_common(1)
            del self._kept[next(ident for ident, kept in self._kept.items() if kept.request.key.namespace == most)]


@contextlib.asynccontextmanager
async def _traced(record: ReconcileRecord, spans: Spans | None) -> AsyncIterator[None]:
    """End the record, and make its trace."""
    if spans:
        spans.begin(record)
    try:
        yield
    finally:
        record.end(ReconcileStatus.FAILED, ENDED_EARLY)
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
