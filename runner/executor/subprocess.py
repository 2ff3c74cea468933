"""The plain way: each job is a process that hands it to `ansible_runner`, which starts ansible-playbook.

Slow (a second and more goes into starting Pythons) and without any assumption about ansible-core: the safety net, and what
the fast way, `runner.executor.warm`, is compared with. The process at the other end is `runner.executor.launcher`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator

from runner.executor import launcher
from runner.executor.artifacts import settle
from runner.executor.jobs import ExecutorError, Job, JobEvent
from runner.executor.orders import LONGEST_LINE, PACKAGE, order, python_path, write_inputs

logger = logging.getLogger(__name__)

# Seconds for the launcher to end what it started, before it is ended with whatever is left.
_GRACE = 10.0


async def execute(job: Job) -> AsyncGenerator[JobEvent, None]:
    """Run the job; its events come as they happen. Ended early (closed, cancelled), every process of it is ended.

    Raises ExecutorError when no run came about.
    """
    write_inputs(job)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        launcher.__name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=LONGEST_LINE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": python_path(PACKAGE)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    complaints = asyncio.create_task(process.stderr.read())
    try:
        # Its standard input stays open: it is how the launcher learns that the runner is no more.
        process.stdin.write(json.dumps(order(job)).encode() + b"\n")
        await process.stdin.drain()
        async for line in process.stdout:
            yield JobEvent.of(json.loads(line))
        code = await process.wait()
        if code != 0:
            said = (await complaints).decode(errors="replace").strip()
            raise ExecutorError(f"ansible-runner could not run (exit code {code}): {said[-2000:]}")
    except (BrokenPipeError, ConnectionResetError) as error:
        said = (await complaints).decode(errors="replace").strip()
        raise ExecutorError(f"ansible-runner could not be started: {said[-2000:]}") from error
    finally:
        await _end(process)
        complaints.cancel()
        settle(job.folder, job.ident, job.max_artifacts)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_GRACE):
            await process.wait()
    except TimeoutError:
        logger.warning("A run had to be killed", extra={"pid": process.pid})
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
