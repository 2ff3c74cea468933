"""A shard of the simulation, as a process: `rolerunner run` with its flags, but that a run waits instead of playing a role.

All else is the operator's own: Lease, watches, work queue, status and drain. While a run waits, it holds a lock on a file of
its CR, so that two of them at once, in whatever processes, are noticed.

Next on the way: `bench.scale.journal`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import click

from bench.scale.journal import Entry, Journal, RunEvent
from runner import logs
from runner.cli import mistakes
from runner.config import flags, watches
from runner.config.options import Values
from runner.executor.jobs import LOCALHOST, Execute, Job, JobEvent
from runner.manager import Manager
from runner.resource.api_status import readable

# Variables of the environment: the folder of the journal and the locks, and the seconds that a run waits.
FOLDER, RUN_SECONDS = "ROLERUNNER_SCALE_FOLDER", "ROLERUNNER_SCALE_RUN_SECONDS"
JOURNAL, LOCKS = "journal", "locks"


class Waiting:
    """An executor whose runs wait, and succeed."""

    def __init__(self, folder: Path, shard: str, seconds: float) -> None:
        self._locks = folder / LOCKS
        self._journal = Journal(folder / JOURNAL)
        self._shard = shard
        self._seconds = seconds

    async def execute(self, job: Job) -> AsyncGenerator[JobEvent, None]:
        name = job.names[-1]
        with self._recorded(name):
            yield _event(1, "playbook_on_start")
            await asyncio.sleep(self._seconds)
        yield _event(2, "playbook_on_stats", ok={LOCALHOST: 1})

    @contextlib.contextmanager
    def _recorded(self, cr: str) -> Iterator[None]:
        """Hold the CR's lock, which the kernel releases if this process is killed."""
        with open(self._locks / cr, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._record(RunEvent.OVERLAP, cr)
            self._record(RunEvent.BEGIN, cr)
            try:
                yield
            except BaseException:
                self._record(RunEvent.CUT, cr)
                raise
            self._record(RunEvent.END, cr)

    def _record(self, event: RunEvent, cr: str) -> None:
        self._journal.add(Entry(time.monotonic(), event, self._shard, cr))


def _event(counter: int, event: str, **data: object) -> JobEvent:
    return JobEvent(event=event, counter=counter, created=datetime.now(UTC).isoformat(), stdout="", data=data)


class WaitingManager(Manager):
    async def _executor(self, stack: AsyncExitStack) -> Execute:
        shard = self._settings.shard
        assert shard is not None, "a shard of the simulation needs --controller-ring"
        return Waiting(Path(os.environ[FOLDER]), shard.name, float(os.environ[RUN_SECONDS])).execute


@click.command(help=__doc__)
@flags.declared
def main(values: Values, given: set[str]) -> None:
    with mistakes():
        chosen = flags.read(values, given, os.environ)
        logs.configure(chosen.logging, readable=readable)
        asyncio.run(WaitingManager(chosen, watches.load(chosen, os.environ)).run())


if __name__ == "__main__":
    main()
