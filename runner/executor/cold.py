"""The cold executor: each job is a process that hands it to `ansible_runner`, which starts ansible-playbook.

Slow (a second and more goes into starting Pythons) and without any assumption about ansible-core: the safety net, and what
the warm executor is compared with. The process at the other end is `runner.executor.cold_main`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator

from runner.executor import cold_main
from runner.executor.environment import PACKAGE, python_path
from runner.executor.guarded import GuardedProcess
from runner.executor.jobs import LONGEST_LINE, ExecutorError, Job, JobEvent
from runner.executor.run_folder import prepare, settle


async def execute(job: Job) -> AsyncGenerator[JobEvent, None]:
    """Run the job; its events come as they happen. Ended early (closed, cancelled), every process of it is ended.

    Raises ExecutorError when no run came about.
    """
    await prepare(job)
    guarded = await GuardedProcess.start(
        cold_main.__name__,
        environment={**os.environ, "PYTHONPATH": python_path(PACKAGE)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=LONGEST_LINE,
    )
    process = guarded.process
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    complaints = asyncio.create_task(_end_of(process.stderr))
    try:
        # Its standard input stays open: by its end the process learns that the runner is gone.
        process.stdin.write(json.dumps(job.message()).encode() + b"\n")
        await process.stdin.drain()
        async for line in process.stdout:
            if not line.endswith(b"\n"):
                # Its process has died over it.
                break
            yield JobEvent.of(json.loads(line))
        code = await process.wait()
        if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
            raise ExecutorError(
                "ansible-runner could not run: its process was killed (signal 9), perhaps for want of memory"
            )
        if code != 0:
            raise ExecutorError(f"ansible-runner could not run (exit code {code}): {await complaints}")
    except (ValueError, RecursionError) as error:
        raise ExecutorError(f"what the run has told cannot be read: {error}") from error
    except (BrokenPipeError, ConnectionResetError) as error:
        raise ExecutorError(f"ansible-runner could not be started: {await complaints}") from error
    finally:
        await guarded.end()
        complaints.cancel()
        await asyncio.to_thread(settle, job.folder, job.ident, job.max_artifacts)


async def _end_of(stream: asyncio.StreamReader) -> str:
    kept = b""
    while text := await stream.read(64 * 1024):
        kept = (kept + text)[-2000:]
    return kept.decode(errors="replace").strip()
