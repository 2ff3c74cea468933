"""The runner's side of a guarded process: started below a guard, and ended with all its descendants.

The guard itself is `runner.executor.guard`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from runner.executor import guard, processes
from runner.executor.jobs import executor_errors

logger = logging.getLogger(__name__)

# Seconds for the guard to end what is below it, before that is done from here.
_GRACE = processes.LIMIT + 10.0


class GuardedProcess:
    """A Python module that runs below a guard. `process` is the guard; its streams are the module's."""

    # The guards of this runner that have not been seen off.
    _pids: ClassVar[set[int]] = set()

    def __init__(self, process: asyncio.subprocess.Process, mark: str, folder: Path | None) -> None:
        self.process = process
        self._mark = mark
        self._folder = folder
        self._pids.add(process.pid)
        # Should a guard be killed, what it stood for comes here instead of to init.
        processes.adopt_orphans()

    @classmethod
    async def start(
        cls, module: str, *arguments: str, environment: Mapping[str, str], folder: Path | None = None, **how: Any
    ) -> Self:
        """Call the module's `main` with the arguments; the folder is removed when it ends. Raises ExecutorError."""
        mark = f"{os.getpid()}-{secrets.token_hex(8)}"
        command = (sys.executable, "-m", guard.__name__, str(os.getpid()), str(folder or ""), module, *arguments)
        env = {**environment, processes.MARK: mark}
        try:
            with executor_errors(f"{module} could not be started"):
                process = await asyncio.create_subprocess_exec(*command, start_new_session=True, env=env, **how)
        except BaseException:
            await _remove(folder)
            raise
        return cls(process, mark, folder)

    async def end(self) -> None:
        """End it with every process below it. What cannot be ended is told, and not waited for any longer."""
        with contextlib.suppress(ProcessLookupError):
            if self.process.returncode is None:
                self.process.terminate()
        try:
            async with asyncio.timeout(_GRACE):
                await self.process.wait()
        except TimeoutError:
            logger.error("A run's guard does not end and is killed", extra={"pid": self.process.pid})
        if self.process.returncode is None or self.process.returncode < 0:
            left = await asyncio.to_thread(self._end_from_here)
            if left:
                logger.error("Processes of runs cannot be ended", extra={"pids": left})
        await _remove(self._folder)
        self._pids.discard(self.process.pid)
        if not self._pids:
            # What else is orphaned is not this process' to see off.
            processes.adopt_orphans(False)

    def _end_from_here(self) -> list[int]:
        """The guard itself was killed, or does nothing."""
        if self.process.returncode is None:
            processes.end_tree(self.process.pid)
        left = processes.end_marked(self._mark)
        processes.take_note_of_adopted(self._pids)
        return left


async def _remove(folder: Path | None) -> None:
    if folder is not None:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
