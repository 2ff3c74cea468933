"""Processor time of processes, as /proc has it.

Processor time of a process that has ended is its parent's from when the parent has waited for it, and with it that of the
children for which it had waited itself. So the sum over a tree also has what ended in it, generations deep. It lacks what
no process of the tree has waited for: children of one that ignores SIGCHLD, and those that outlive their parent and are
adopted by a process outside of the tree.

Nor can a table of processes be read in one moment: what ends while it is read may be missing, or be there twice. Read it
when the tree is at rest.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """Seconds of processor time: its own, and that of its ended children. `name` is the kernel's, cut to 15 characters."""

    pid: int
    parent: int
    name: str
    own: float
    ended: float

    @classmethod
    def of(cls, stat: str) -> Process:
        """From /proc/PID/stat. A name may have spaces and parentheses."""
        pid, _, rest = stat.partition(" (")
        name, _, rest = rest.rpartition(") ")
        fields = rest.split()
        user, system, ended_user, ended_system = map(int, fields[11:15])
        return cls(int(pid), int(fields[1]), name, (user + system) / _TICKS, (ended_user + ended_system) / _TICKS)


def tree(root: int) -> dict[int, Process]:
    """A process and everything below it; empty if there is no such process."""
    found: dict[int, Process] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found[int(entry.name)] = Process.of((entry / "stat").read_text())
    return subtree(root, found)


def subtree(root: int, processes: Mapping[int, Process]) -> dict[int, Process]:
    """The root comes first, and each process before its children."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: dict[int, Process] = {}
    todo = [root] if root in processes else []
    while todo:
        pid = todo.pop()
        found[pid] = processes[pid]
        todo += children.get(pid, [])
    return found


def seconds(processes: Iterable[Process]) -> float:
    """Processor time of all of them, ended children included."""
    return sum(process.own + process.ended for process in processes)


def split(root: int, processes: Mapping[int, Process]) -> tuple[float, float]:
    """Processor seconds of the root itself, and of all that is or was below it."""
    own = processes[root].own if root in processes else 0.0
    return own, seconds(processes.values()) - own
