"""The warm process: has Ansible loaded, and forks a child for each job, which plays it and ends.

When there is none for a while, it forks for the next job, for which all is prepared then.

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
# Seconds without a job or any news after which a fork is made for the next job.
_LULL = 0.2


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
        # By process id. What does not play a job has no name.
        self._jobs: dict[int, str] = {}
        # The fork that waits for the next job, and where it is told of it.
        self._spare: tuple[int, socket.socket] | None = None
        # Not again, after one has died or could not be made, until there is something to do.
        self._may_spare = True
        # Readable when a child has ended.
        self._ended, bell = socket.socketpair()
        for end in (self._ended, bell):
            end.setblocking(False)
        signal.set_wakeup_fd(bell.detach(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # The runner decides when it is time to go; Ctrl-C goes to all processes of a terminal.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(self, message: dict[str, Any]) -> None:
        self._control.send(json.dumps(message).encode())

    def serve(self) -> None:
        """Until the other end of the control socket is closed."""
        try:
            while True:
                patience = _LULL if self._may_spare and self._spare is None and not self._jobs else None
                ready, _, _ = select.select([self._control, self._warm.lessons, self._ended], [], [], patience)
                if self._ended in ready:
                    self._reap()
                elif self._control in ready:
                    text, descriptors, _, _ = socket.recv_fds(self._control, _DATAGRAM, 1)
                    if not text:
                        return
                    message = json.loads(text)
                    if "play" in message:
                        self._play(message["play"], descriptors[0])
                    else:
                        self._end(message["end"])
                elif ready:
                    self._warm.lessons.hear()
                    # The next will know more.
                    self._dismiss()
                    self._may_spare = True
                else:
                    self._prepare()
        finally:
            self._dismiss()
            for pid in list(self._jobs):
                processes.end_tree(pid)

    def _play(self, ident: str, descriptor: int) -> None:
        self._may_spare = True
        connection = socket.socket(fileno=descriptor)
        if not self._hand_over(ident, connection):
            self._jobs[self._fork(lambda: self._warm.play(connection))] = ident
        connection.close()
        if "" not in self._jobs.values() and (gather := self._warm.gathering()):
            self._jobs[self._fork(gather)] = ""

    def _prepare(self) -> None:
        """Fork for the next job while there is none."""
        self._may_spare = False
        with contextlib.suppress(OSError):
            ours, theirs = socket.socketpair()

            def wait() -> None:
                ours.close()
                self._warm.wait(theirs)

            with theirs:
                try:
                    self._spare = self._fork(wait), ours
                except OSError:
                    ours.close()

    def _hand_over(self, ident: str, connection: socket.socket) -> bool:
        """Whether a fork was waiting, and has got the job."""
        if self._spare is None:
            return False
        (pid, spare), self._spare = self._spare, None
        with spare, contextlib.suppress(OSError):
            socket.send_fds(spare, [b"!"], [connection.fileno()])
            self._jobs[pid] = ident
            return True
        return False

    def _dismiss(self) -> None:
        """Let the waiting fork go. It ends when its socket is closed."""
        if self._spare is not None:
            self._spare[1].close()
            self._spare = None

    def _fork(self, work: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                self._control.close()
                self._ended.close()
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
        return pid

    def _end(self, ident: str) -> None:
        for pid, known in list(self._jobs.items()):
            if known == ident:
                processes.end_tree(pid)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._ended.recv(_DATAGRAM):
                pass
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                if self._spare is not None and pid == self._spare[0]:
                    self._dismiss()
                if ident := self._jobs.pop(pid, None):
                    self.tell({"ended": ident})


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
