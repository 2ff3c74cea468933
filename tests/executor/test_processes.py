import os
import signal
import subprocess
import sys
import time

import pytest

from runner.executor import processes
from runner.executor.environment import PACKAGE
from tests.conftest import alive


def played(code: str) -> str:
    """What a process of its own prints."""
    env = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_what_may_not_be_killed_is_given_up_and_told() -> None:
    code = """
import os, time
from runner.executor import processes
child = os.fork()
if child == 0:
    os.close(1)
    os.close(2)
    time.sleep(60)
    os._exit(0)
os.setuid(65534)
used = time.process_time()
left = processes.end_descendants(limit=1.0)
print(left == [child], time.process_time() - used < 0.5, child)
"""
    *said, child = played(code).split()
    os.kill(int(child), signal.SIGKILL)
    assert said == ["True", "True"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells who has adopted whom")
def test_what_is_killed_takes_those_that_go_on_starting_others_with_it() -> None:
    code = """
import subprocess, time
from runner.executor import processes
processes.adopt_orphans()
shell = subprocess.Popen(["sh", "-c", "while :; do setsid sleep 60 & sleep 0.001; done"])
while len(processes._descendants(shell.pid)) < 5:
    time.sleep(0.01)
print(processes.end_descendants(), processes.children())
"""
    assert played(code).split() == ["[]", "[]"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells of a parent's death")
def test_a_parent_that_has_died_before_counts_as_well() -> None:
    pid = os.fork()
    if pid == 0:
        # Not its parent.
        processes.die_with_parent(os.getpid())
        time.sleep(60)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_tree_is_ended() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        below = int(shell.stdout.readline())
        assert processes.end_tree(shell.pid) == []
    assert alive([below]) == []
