"""Dry runs that are asked for on a page: apart from the queue, a few at a time, with the last results kept.

Each has a folder for itself, as its CR may be run meanwhile. It goes on by itself, and its page says how far it is. One at a
time is made of each namespace's CRs: a tenant whose dry runs do not end has no other tenant wait.

Next on the way: `runner.control.run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import time
from weakref import WeakValueDictionary

from runner.control import Request
from runner.control.finalizers import Decision, decide
from runner.control.history import History, Notify
from runner.control.records import ENDED_EARLY, ReconcileRecord, ReconcileStatus, RunRecord, new_ident
from runner.control.run import Runs
from runner.errors import RolerunnerError
from runner.executor.jobs import Outcome
from runner.executor.run_folder import RunFolders
from runner.kube.client import ApiClient, KubeError, NotFound
from runner.kube.discovery import Discovery

logger = logging.getLogger(__name__)

# Dry runs at once, of different namespaces; those that have not ended, of all namespaces and of one; results that are kept:
# each may have a plan of 256 KB.
_AT_ONCE, _MOST_ASKED, _MOST_ASKED_OF_ONE, _MOST = 4, 40, 4, 50
# Seconds: for a dry run to wait for its turn; for one to take where its watch has no timeout.
_PATIENCE, _LONGEST = 30.0, 600.0


class DryRunError(RolerunnerError):
    """A dry run that could not be made; `str()` says why, for the page."""


@dataclass(slots=True, eq=False)
class RequestedDryRun:
    """A dry run from when it is asked for. `is_waiting`: others are made before it."""

    ident: str
    record: ReconcileRecord
    is_waiting: bool = True

    @property
    def has_ended(self) -> bool:
        return self.record.ended is not None

    @property
    def run(self) -> RunRecord:
        """Its run; one without tasks before it has begun, and where it came to none."""
        record = self.record
        return record.run or RunRecord(
            ident=self.ident,
            content=record.request.watch.content.path or Path(),
            artifacts=None,
            is_dry_run=True,
            begun=record.begun,
            ended=record.ended,
            outcome=Outcome(messages=(record.message,)) if self.has_ended else None,
        )


class DryRuns:
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
        self._notify = notify
        self._slots = asyncio.Semaphore(_AT_ONCE)
        # Locks, each as long as somebody has it or waits for it.
        self._by_namespace: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # By ident: those that have ended in the order of their ends, the others in that in which they were asked for.
        self._kept: dict[str, RequestedDryRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def get(self, ident: str) -> RequestedDryRun | None:
        """The dry run with this ident."""
        return self._kept.get(ident)

    def of(self, request: Request) -> list[RequestedDryRun]:
        """The dry runs of a CR, the latest first; those that have ended after the others."""
        found = [dry_run for dry_run in reversed(self._kept.values()) if dry_run.record.request == request]
        return sorted(found, key=lambda dry_run: dry_run.has_ended)

    def begin(self, request: Request, cause: str) -> str:
        """Have a dry run of a CR made; its ident. Raises DryRunError if too many have been asked for already, or
        the operator is being stopped."""
        if self._is_closed:
            raise DryRunError("The operator is being stopped.")
        asked = Counter(each.record.request.key.namespace for each in self._kept.values() if not each.has_ended)
        if asked.total() >= _MOST_ASKED or asked[request.key.namespace] >= _MOST_ASKED_OF_ONE:
            raise DryRunError("Other dry runs are on or wait already. Try again when they have ended.")
        dry_run = RequestedDryRun(new_ident(), ReconcileRecord(request=request, cause=cause))
        self._kept[dry_run.ident] = dry_run
        task = asyncio.create_task(self._make(dry_run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._notify(request)
        return dry_run.ident

    def close(self) -> None:
        """End the dry runs that are on, and begin no more."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()

    async def closed(self) -> None:
        """Wait until none is on any more."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _make(self, dry_run: RequestedDryRun) -> None:
        """Make it when it is its turn, to its end or that of its time."""
        record, spans = dry_run.record, self._runs.spans
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._end, dry_run)
            try:
                await self._acquire(record.request.key.namespace, stack)
                begun = time()
                record.waited, record.begun, dry_run.is_waiting = max(0.0, begun - record.begun), begun, False
                if spans:
                    spans.begin(record)
                self._notify(record.request)
                await self._run_in_time(dry_run)
            except DryRunError as error:
                record.end(ReconcileStatus.FAILED, str(error))
            except KubeError as error:
                logger.error(
                    "A dry run could not be made, as the API server did not answer",
                    extra={**record.request.fields, "error": str(error)},
                )
                record.end(ReconcileStatus.FAILED, "The API server did not answer. The log says more.")
            except Exception:
                logger.exception("A dry run could not be made", extra=record.request.fields)
                record.end(ReconcileStatus.FAILED, "A fault of the runner. The log says more.")

    async def _acquire(self, namespace: str, stack: contextlib.AsyncExitStack) -> None:
        """Wait for a slot, of which a namespace has one at most, and have it as long as the stack."""
        lock = self._by_namespace.setdefault(namespace, asyncio.Lock())
        try:
            async with asyncio.timeout(_PATIENCE):
                await stack.enter_async_context(lock)
                await stack.enter_async_context(self._slots)
        except TimeoutError:
            raise DryRunError("Another dry run is on, and has not ended for long. Try again later.") from None

    async def _run_in_time(self, dry_run: RequestedDryRun) -> None:
        """Make the dry run, to the end of its time. Raises DryRunError and KubeError."""
        try:
            async with asyncio.timeout(None if dry_run.record.request.watch.timeout else _LONGEST) as deadline:
                await self._run(dry_run)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise DryRunError(f"The dry run was ended, as it has taken {_LONGEST:g} s.") from None

    async def _run(self, dry_run: RequestedDryRun) -> None:
        """Make the dry run. Raises DryRunError and KubeError."""
        record = dry_run.record
        request = record.request
        resource = await self._discovery.by_kind(request.watch.gvk)
        if resource is None:
            raise DryRunError("The cluster does not serve the kind any more.")
        try:
            obj = await self._client.get(resource.path(request.key))
        except NotFound:
            raise DryRunError("The CR is gone.") from None
        decision = decide(obj, request.watch)
        if decision is Decision.IGNORE:
            raise DryRunError("The CR is being deleted, and nothing is run for that.")
        record.uid, record.generation = obj["metadata"]["uid"], obj["metadata"].get("generation")
        async with _folders() as folders:
            plan = await replace(self._runs, folders=folders).dry_run(
                request, resource, obj, finalizing=decision is Decision.FINALIZE, record=record, ident=dry_run.ident
            )
        record.end(ReconcileStatus.DRY_RUN if record.run else ReconcileStatus.FAILED, plan.failure)

    async def _end(self, dry_run: RequestedDryRun) -> None:
        """End the record, make its trace, and drop results that are too many: of the namespace with the most the oldest,
        those without a plan first."""
        record, spans = dry_run.record, self._runs.spans
        record.end(ReconcileStatus.FAILED, ENDED_EARLY)
        record.ended, dry_run.is_waiting = time(), False
        self._kept[dry_run.ident] = self._kept.pop(dry_run.ident)
        ended = [each for each in self._kept.values() if each.has_ended]
        if len(ended) > _MOST:
            ((most, _),) = Counter(each.record.request.key.namespace for each in ended).most_common(1)
            # All but this one, whose end has not been seen yet.
            others = [each for each in ended[:-1] if each.record.request.key.namespace == most]
            del self._kept[min(others, key=lambda each: bool(each.run.plan)).ident]
        self._notify(record.request)
        if spans:
            await spans.end(record)


@contextlib.asynccontextmanager
async def _folders() -> AsyncIterator[RunFolders]:
    """Folders for one run."""
    # At once: a thread would make it also where this is cancelled, and nobody would remove it.
    root = tempfile.mkdtemp(prefix="rolerunner-dry-run-")
    try:
        with contextlib.closing(RunFolders(Path(root))) as folders:
            yield folders
    finally:
        await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
