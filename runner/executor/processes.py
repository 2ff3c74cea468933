"""Trees of processes: found and ended whole, with those that have cut themselves loose from their parent.

Nothing of a run outlives it, whichever process is killed first. A process that runs Ansible stands below a guard (`guard`),
which ends all of it when that process or the runner has died; were the guard itself killed, all that it stood for dies with
it or falls to the runner, which knows it by `MARK` (`end_marked`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Container
from pathlib import Path

# prctl(2), from linux/prctl.h: orphans become children of this process instead of init's; a signal when the parent dies.
_PR_SET_CHILD_SUBREAPER, _PR_SET_PDEATHSIG = 36, 1

# In the environment of all that stands below one guard: the runner's process id, "-", and what is this guard's alone.
MARK = "ROLERUNNER_GUARD"

# Seconds: how long processes are killed again and again, and the pauses in between. What is left after that is another
# user's (setuid) or hangs in the kernel (state D); it is told, and not waited for.
LIMIT = 5.0
_PAUSE, _LONGEST_PAUSE = 0.002, 0.2

# Of 1000, on top of the runner's: what plays goes first when memory runs out, before the runner and what serves all runs.
_OOM_SCORE = 500

# Not all kernels are built to tell.
CHILDREN_LISTED = Path(f"/proc/self/task/{os.getpid()}/children").exists()


def adopt_orphans(adopt: bool = True) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Get this signal when the parent ends, however it ends: also if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), number)


def be_first_out_of_memory() -> None:
    """Have the kernel end this process and its children before others when memory runs out."""
    with contextlib.suppress(OSError):
        own = Path("/proc/self/oom_score_adj")
        own.write_text(str(min(int(own.read_text()) + _OOM_SCORE, 1000)))


def end_descendants(root: int | None = None, *, limit: float = LIMIT) -> list[int]:
    """Kill every process below this one (or `root`), also those that start while this goes on, and see ours off.

    Those that are still there after `limit` seconds are returned.
    """
    return _end(lambda: _descendants(root or os.getpid()), limit, reap=root is None)


def end_tree(pid: int, *, limit: float = LIMIT) -> list[int]:
    """Kill a process and all below it; with limit 0, each once."""
    # It must not start more while what it started is ended.
    _send(pid, signal.SIGSTOP)
    left = end_descendants(pid, limit=limit)
    _send(pid, signal.SIGKILL)
    return left


def end_marked(mark: str, *, limit: float = LIMIT) -> list[int]:
    """Kill every process below this one whose environment has this mark, and its session; those that stay are returned."""
    sign = f"{MARK}={mark}".encode()
    sessions: set[str] = set()

    def marked() -> list[int]:
        below = {pid: (_stat(pid) + [""] * 4)[3] for pid in _descendants(os.getpid())}
        found = {pid for pid in below if sign in _environment(pid)}
        # Some have an environment of their own.
        sessions.update(below[pid] for pid in found)
        return [pid for pid, session in below.items() if session and session in sessions]

    return _end(marked, limit)


def take_note_of_adopted(own: Container[int]) -> None:
    """Let go of the dead that this process has adopted: children in other sessions that it has not started itself."""
    session = os.getsid(0)
    for pid in _children_of(os.getpid()):
        if (fields := _stat(pid))[0] == "Z" and int(fields[3]) != session and pid not in own:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def children() -> list[int]:
    """Living children of this process."""
    # What the kernel tells may leave one out while another ends, but not twice in a row.
    return _descendants(os.getpid(), deep=False) or _descendants(os.getpid(), deep=False)


def _end(find: Callable[[], list[int]], limit: float, *, reap: bool = False) -> list[int]:
    deadline, pause = time.monotonic() + limit, _PAUSE
    # Twice, for the same reason.
    while pids := find() or find():
        for pid in pids:
            _send(pid, signal.SIGKILL)
        if time.monotonic() >= deadline:
            break
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
        if reap:
            ended()
    if reap:
        ended()
    return pids


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def ended() -> list[tuple[int, int]]:
    """(pid, status) of each child that has ended since the last call."""
    found = []
    with contextlib.suppress(ChildProcessError):
        while (one := os.waitpid(-1, os.WNOHANG))[0]:
            found.append(one)
    return found


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _descendants(root: int, *, deep: bool = True) -> list[int]:
    """Processes below `root` that are not yet dead."""
    if CHILDREN_LISTED:
        return _listed(root, deep)
    below: dict[int, list[int]] = {}
    for pid, parent in _processes():
        below.setdefault(parent, []).append(pid)
    found: list[int] = []
    todo = [root]
    while todo:
        pids = below.get(todo.pop(), [])
        found += pids
        todo += pids if deep else ()
    return found


def _listed(root: int, deep: bool) -> list[int]:
    """The same, asked of each process for its own children: a node may have thousands of others."""
    found: list[int] = []
    todo = [root]
    while todo:
        pids = _children_of(todo.pop())
        todo += pids if deep else ()
        found += [pid for pid in pids if _stat(pid)[0] not in "ZX"]
    return found


def _children_of(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def _stat(pid: int) -> list[str]:
    """State, parent, group, session …; of a process that is no more, as of one that is dead."""
    try:
        # The name in parentheses may hold anything, so the fields are counted from its end.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() or ["X"]
    except OSError:
        return ["X"]


def _processes() -> list[tuple[int, int]]:
    """(pid, parent's pid) of every live process."""
    if sys.platform != "linux":
        import subprocess

        with subprocess.Popen(["ps", "-axo", "pid=,ppid=,stat="], stdout=subprocess.PIPE, text=True) as ps:
            rows = [line.split() for line in ps.communicate()[0].splitlines()]
        return [(int(row[0]), int(row[1])) for row in rows if not row[2].startswith("Z") and int(row[0]) != ps.pid]
    entries = [(int(entry.name), _stat(int(entry.name))) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [(pid, int(fields[1])) for pid, fields in entries if fields[0] not in "ZX"]
