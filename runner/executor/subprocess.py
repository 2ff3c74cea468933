"""The plain way: each job is a process that hands it to `ansible_runner`, which starts ansible-playbook.

Slow (a second and more goes into starting Pythons) and without any assumption about ansible-core: the safety net, and what
faster ways are compared with. The process at the other end is `runner.executor.launcher`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from runner.executor import launcher
from runner.executor.artifacts import link_latest, rotate
from runner.executor.jobs import ExecutorError, Job, JobEvent

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent.parent.parent
# operator_sdk.util, for roles to find without any set-up.
COLLECTIONS = Path(__file__).parent.parent / "collections"

# An event holds a task's whole result: a line may be long. Beyond this a run counts as broken.
_LONGEST_LINE = 256 * 1024 * 1024
# Seconds for the launcher to end what it started, before it is ended with whatever is left.
_GRACE = 10.0


async def execute(job: Job) -> AsyncGenerator[JobEvent, None]:
    """Run the job; its events come as they happen. Ended early (closed, cancelled), every process of it is ended.

    Raises ExecutorError when no run came about.
    """
    _write_inputs(job)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        launcher.__name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LONGEST_LINE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": _python_path(PACKAGE)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    complaints = asyncio.create_task(process.stderr.read())
    try:
        # Its standard input stays open: it is how the launcher learns that the runner is no more.
        process.stdin.write(json.dumps(_order(job)).encode() + b"\n")
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
        link_latest(job.folder, job.ident)
        rotate(job.folder, job.max_artifacts)


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


def _order(job: Job) -> dict[str, object]:
    """What the launcher is told. Extra vars and arguments are in files, where ansible-runner looks for them."""
    return {
        "ident": job.ident,
        "folder": str(job.folder),
        "role": str(job.role) if job.role else None,
        "playbook": str(job.playbook) if job.playbook else None,
        "gather_facts": os.environ.get("ANSIBLE_GATHERING") != "explicit",
        # Ansible finds collections on Python's path too. ANSIBLE_COLLECTIONS_PATH is the user's, and so is ansible.cfg,
        # which that variable would override.
        "environment": {**job.environment, "PYTHONPATH": _python_path(COLLECTIONS), "PATH": _path()},
        "verbosity": job.verbosity,
        "secrets": job.secrets,
    }


def _write_inputs(job: Job) -> None:
    """The input folder of one run; what an earlier one left in the same places is replaced."""
    for name in ("env", "project", "artifacts"):
        (job.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(job.folder / "env" / "extravars", json.dumps(job.extra_vars))
    _write(job.folder / "env" / "cmdline", job.arguments)
    inventory = job.folder / "inventory"
    if os.environ.get("ANSIBLE_INVENTORY"):
        # Ansible reads the user's where it stands; ansible-runner would take this folder instead.
        shutil.rmtree(inventory, ignore_errors=True)
    else:
        inventory.mkdir(mode=0o700, exist_ok=True)
        interpreter = json.dumps(sys.executable)
        _write(inventory / "hosts", f"localhost ansible_connection=local ansible_python_interpreter={interpreter}\n")
    if job.role:
        # Beside the play, where Ansible looks first, so that the roles path stays the user's; its siblings come along.
        roles = job.folder / "project" / "roles"
        roles.unlink(missing_ok=True)
        roles.symlink_to(job.role.parent)


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _path() -> str:
    """The programs of this Python's environment first: a runner is often started by its path, from no activated venv."""
    return os.pathsep.join(filter(None, (str(Path(sys.executable).parent), os.environ.get("PATH", ""))))


def _python_path(first: Path) -> str:
    return os.pathsep.join(filter(None, (str(first), os.environ.get("PYTHONPATH", ""))))
