"""The warm process: has Ansible loaded, and forks a child for each job, which plays it and ends.

`python -m runner.executor.forkserver FD`, started by `runner.executor.warm`. It has no threads and no event loop, so that
a fork of it is whole. On the control socket FD it is told, one datagram each,

    {"play": IDENT} with a socket of the job's own        {"end": IDENT}

and tells {"ready": …} once and {"ended": IDENT} for each job. On its job's socket a child reads the order, one line of
JSON, and writes {"begun": WHEN}, the events, one a line, and at last {"done": EXIT CODE, "printed": TEXT}. When the control
socket closes, the runner is gone, and every process of every job is ended.

Next on the way: `runner.executor.child`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from runner.executor import processes

_DATAGRAM = 64 * 1024


def main(control: socket.socket) -> None:
    begun = time.monotonic()
    with _environment_of_a_run():
        from runner.executor import child

        warm = child.Warm()
    warm.warm_up()
    # What is there now stays: the collector must not touch, and thereby copy, the pages that the children share.
    gc.collect()
    gc.freeze()
    server = Server(control, warm)
    server.tell({"ready": round(time.monotonic() - begun, 3), "left_out": warm.left_out})
    server.serve()


@contextlib.contextmanager
def _environment_of_a_run() -> Iterator[None]:
    """What ansible-runner would start ansible-playbook with: Ansible reads some of it once, when it is imported."""
    from ansible_runner import RunnerConfig

    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        config = RunnerConfig(private_data_dir=folder, playbook="none.yml")
        config.prepare()
    os.environ.update(config.env)
    yield
    os.environ.clear()
    os.environ.update(before)


class Server:
    """Forks, and keeps account of its children. `warm` is a `child.Warm`."""

    def __init__(self, control: socket.socket, warm: Any) -> None:
        self._control = control
        self._warm = warm
        self._jobs: dict[int, str] = {}
        signal.signal(signal.SIGCHLD, lambda *_: self._reap())
        # The runner decides when it is time to go; Ctrl-C goes to all processes of a terminal.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(self, message: dict[str, Any]) -> None:
        self._control.send(json.dumps(message).encode())

    def serve(self) -> None:
        """Until the other end of the control socket is closed."""
        try:
            while True:
                ready, _, _ = select.select([self._control, self._warm.lessons], [], [])
                if self._control not in ready:
                    self._warm.lessons.hear()
                    continue
                text, descriptors, _, _ = socket.recv_fds(self._control, _DATAGRAM, 1)
                if not text:
                    return
                message = json.loads(text)
                if "play" in message:
                    self._play(message["play"], descriptors[0])
                else:
                    self._end(message["end"])
        finally:
            for pid in list(self._jobs):
                processes.end_tree(pid)

    def _play(self, ident: str, descriptor: int) -> None:
        connection = socket.socket(fileno=descriptor)
        self._fork(ident, lambda: self._warm.play(connection))
        connection.close()
        if "" not in self._jobs.values() and (gather := self._warm.gathering()):
            self._fork("", gather)

    def _fork(self, ident: str, work: Callable[[], None]) -> None:
        # A child that ends at once must not be reaped before it is known.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
                self._control.close()
                os.setsid()
                processes.die_with_parent()
                processes.adopt_orphans()
                # Those of the fork server are not this process' to run; what a module registers is.
                atexit._clear()
                work()
            except Exception:
                # The runner is gone, say; or what was to be found out for later runs could not be.
                traceback.print_exc()
            finally:
                processes.end_descendants()
                # Nothing of the fork server's own is cleaned up in a child.
                os._exit(0)
        self._jobs[pid] = ident
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def _end(self, ident: str) -> None:
        for pid, known in list(self._jobs.items()):
            if known == ident:
                processes.end_tree(pid)

    def _reap(self) -> None:
        while self._jobs:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            # What does not play a job has no name.
            if ident := self._jobs.pop(pid, None):
                self.tell({"ended": ident})


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
