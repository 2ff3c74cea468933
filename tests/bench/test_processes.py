"""Whose a process's processor time is, while it lives and when it has ended."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench.processes import Process, seconds, split, subtree, tree

# Seconds of processor time. The kernel tells it in hundredths, each process's rounded down.
BURNT, ROUNDED = 0.3, 0.05
# A process with a child and a grandchild; it says when these are as they are to be, and stays until its input ends.
FAMILY = f"""
import os, signal, sys, time

def burn():
    while time.process_time() < {BURNT}:
        pass

def forked(work):
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    return pid

def stay():
    os.write(1, b"ready")
    os.read(0, 1)

def child():
    CHILD

pid = forked(child)
PARENT
"""
GRANDCHILD_ENDED = "os.waitpid(forked(burn), 0); "
# Such a process's children are no one's when they have ended: waiting says only that there is none any more.
UNHEARD = """signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        os.waitpid(forked(burn), 0)
    except ChildProcessError:
        stay()"""


@contextlib.contextmanager
def family(child: str, parent: str) -> Iterator[int]:
    script = FAMILY.replace("CHILD", child).replace("PARENT", parent)
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.read(5) == b"ready"
        yield process.pid
        process.communicate()


@pytest.mark.parametrize(
    ("child", "parent", "below", "processes"),
    [
        pytest.param("burn(); stay()", "os.waitpid(pid, 0)", BURNT, 2, id="a child that lives"),
        pytest.param(GRANDCHILD_ENDED + "stay()", "os.waitpid(pid, 0)", BURNT, 2, id="a grandchild that has ended"),
        pytest.param(GRANDCHILD_ENDED, "os.waitpid(pid, 0); stay()", BURNT, 1, id="all have ended"),
        pytest.param(
            "burn()", "os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT); stay()", BURNT, 2, id="not yet waited for"
        ),
        pytest.param(UNHEARD, "os.waitpid(pid, 0)", 0, 2, id="a grandchild that nobody waits for is lost"),
    ],
)
def test_what_is_below_a_process(child: str, parent: str, below: float, processes: int) -> None:
    with family(child, parent) as pid:
        found = tree(pid)
        own, others = split(pid, found)
        assert len(found) == processes
        assert own < BURNT
        assert below - ROUNDED <= others < below + BURNT / 2
        assert seconds(found.values()) == pytest.approx(own + others)


def test_what_is_a_process_s_own() -> None:
    with family("pass", "os.waitpid(pid, 0); burn(); stay()") as pid:
        own, others = split(pid, tree(pid))
        assert own >= BURNT - ROUNDED
        assert others < BURNT / 2


def test_a_process_that_is_not_there() -> None:
    assert tree(0) == {}
    assert split(0, {}) == (0, 0)


def test_a_line_of_the_kernel_s() -> None:
    line = "42 (a) (b c) S 7 42 42 0 -1 4194560 100 200 0 0 150 50 1000 25 20 0 1 0 12345 1000 50"
    assert Process.of(line) == Process(42, 7, "a) (b c", own=2.0, ended=10.25)


def test_only_what_is_below_the_root_counts() -> None:
    processes = {pid: Process(pid, parent, "any", own=1, ended=2) for pid, parent in {1: 0, 5: 1, 6: 5, 7: 6, 8: 1}.items()}
    found = subtree(5, processes)
    assert list(found) == [5, 6, 7]
    assert split(5, found) == (1, 8)
