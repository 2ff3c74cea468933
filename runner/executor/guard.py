"""A guard above a process that runs Ansible: `python -m runner.executor.guard RUNNER FOLDER MODULE ARGUMENT…`.

Started by `runner.executor.guarded`. The module is imported below it, in a child: the guard itself stays small.

Next on the way: `runner.executor.warm.forkserver` or `runner.executor.cold_main`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

from runner.executor.processes import adopt_orphans, die_with_parent, end_descendants, ended


def guard(runner: int, *folders: str) -> None:
    """Return in a child, and stay behind as its guard, which ends as the child does.

    When the child has ended, or the process `runner` that started this one, the guard kills all that is left below it,
    removes the folders and ends. To be called before there is anything to import or to hold. On Linux only.
    """
    if sys.platform != "linux":
        return
    awaited = {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    adopt_orphans()
    die_with_parent(runner, signal.SIGTERM)
    here = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent(here)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)
        return
    code: int | None = None
    while code is None and signal.sigwait(awaited) != signal.SIGTERM:
        for pid, status in ended():
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
    if left := end_descendants():
        os.write(2, f"Processes that cannot be ended: {left}\n".encode())
    # Not before it is used: the guard is to be small.
    import shutil

    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    code = -signal.SIGTERM if code is None else code
    # As a shell tells it.
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    runner, folder, module, *arguments = sys.argv[1:]
    guard(int(runner), *filter(None, [folder]))
    sys.exit(importlib.import_module(module).main(*arguments))
