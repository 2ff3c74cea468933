"""What a process started, found and ended: whole trees, with what has cut itself loose from its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

# prctl(2), from linux/prctl.h: orphans become children of this process instead of init's; a signal when the parent dies.
_PR_SET_CHILD_SUBREAPER, _PR_SET_PDEATHSIG = 36, 1


# Not all kernels are built to tell.
CHILDREN_LISTED = Path(f"/proc/self/task/{os.getpid()}/children").exists()


def adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Be killed when the parent ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_descendants(root: int | None = None) -> None:
    """Kill every process below this one (or `root`), also those that start while this goes on, and see ours off."""
    # What the kernel tells may leave one out while another ends, but not twice in a row.
    while pids := _descendants(root or os.getpid()) or _descendants(root or os.getpid()):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    if root is None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def end_tree(pid: int) -> None:
    """Kill a child of this process and all below it."""
    with contextlib.suppress(ProcessLookupError):
        # It must not start more while what it started is ended.
        os.kill(pid, signal.SIGSTOP)
        end_descendants(pid)
        os.kill(pid, signal.SIGKILL)


def _descendants(root: int) -> list[int]:
    """Processes below `root` that are not yet dead."""
    if CHILDREN_LISTED:
        return _listed(root)
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    todo = [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _listed(root: int) -> list[int]:
    """The same, asked of each process for its own children: a node may have thousands of others."""
    found: list[int] = []
    todo = [root]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                below = [int(child) for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
                todo += below
                found += filter(_is_alive, below)
    return found


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _processes() -> list[tuple[int, int]]:
    """(pid, parent's pid) of every live process."""
    if sys.platform != "linux":
        with subprocess.Popen(["ps", "-axo", "pid=,ppid=,stat="], stdout=subprocess.PIPE, text=True) as ps:
            rows = [line.split() for line in ps.communicate()[0].splitlines()]
        return [(int(row[0]), int(row[1])) for row in rows if not row[2].startswith("Z") and int(row[0]) != ps.pid]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                # The name in parentheses may hold anything, so the fields are counted from its end: state, parent.
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    found.append((int(entry.name), int(parent)))
    return found
