"""The warm process: has Ansible loaded, and forks a child for each job, which plays it and ends.

When there is none for a while, it forks for the next job, for which all is prepared then.

`python -m runner.executor.forkserver RUNNER FOLDER FD`, started by `runner.executor.warm`: the runner's process id and a
folder for temporary files, which goes with it. It stands below a guard. It has no threads and no event loop, so that a fork
of it is whole. On the control socket FD it is told, one datagram each,

    {"play": IDENT} with a socket of the job's own        {"end": IDENT}        {"ping": NUMBER}

and tells {"ready": …} once, {"pong": NUMBER}, and {"ended": IDENT, "code": EXIT CODE, "left": PIDS, "error": TEXT} for each
job. On its job's socket a child reads the order, one line of JSON, and writes {"begun": WHEN}, the events, one a line, and
at last {"done": EXIT CODE, "printed": TEXT}. When the control socket closes, the runner is gone, and every process of every
job is ended.

It waits for nothing but news. A child is killed, not its processes one by one: what has lost its parent by that becomes the
fork server's own child, is killed as such, and so on, as the kernel tells of each death.

Next on the way: `runner.executor.child`.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from runner.executor import processes

_DATAGRAM = 64 * 1024
# Seconds without a job or any news after which a fork is made for the next job.
_LULL = 0.2
# Seconds until what does not die is killed once more.
_AGAIN = 0.1


def main(control: socket.socket, folder: str) -> None:
    begun = time.monotonic()
    tempfile.tempdir = folder
    with _environment_of_a_run(folder):
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
def _environment_of_a_run(scratch: str) -> Iterator[None]:
    """What ansible-runner would start ansible-playbook with: Ansible reads some of it once, when it is imported."""
    from ansible_runner import RunnerConfig

    from runner.executor.orders import temporary

    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        config = RunnerConfig(private_data_dir=folder, playbook="none.yml")
        config.prepare()
    os.environ.update({**config.env, **temporary(scratch)})
    yield
    os.environ.clear()
    os.environ.update(before)


class Server:
    """Forks, and keeps account of its children. `warm` is a `child.Warm`."""

    def __init__(self, control: socket.socket, warm: Any) -> None:
        self._control = control
        self._warm = warm
        # Forked here, and not yet seen off. All other children were a run's, and have lost their parent.
        self._forks: set[int] = set()
        # By process id. What does not play a job has no name.
        self._jobs: dict[int, str] = {}
        # Jobs' own processes that were killed, and until when their end is waited for.
        self._killed: dict[int, float] = {}
        # Jobs whose own process has ended, while orphans may be left: the exit code, and until when they are waited for.
        self._ending: dict[str, tuple[int, float]] = {}
        # Orphans that cannot be killed.
        self._given_up: set[int] = set()
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
        processes.adopt_orphans()

    def tell(self, message: dict[str, Any]) -> None:
        self._control.send(json.dumps(message).encode())

    def serve(self) -> None:
        """Until the other end of the control socket is closed."""
        try:
            while True:
                self._give_up()
                may_spare = self._may_spare and self._spare is None and not self._jobs
                patience = _AGAIN if self._ending or self._killed else _LULL if may_spare else None
                ready, _, _ = select.select([self._control, self._warm.lessons, self._ended], [], [], patience)
                if self._ended in ready:
                    self._reap()
                elif self._control in ready:
                    text, descriptors, _, _ = socket.recv_fds(self._control, _DATAGRAM, 1)
                    if not text:
                        return
                    self._heed(json.loads(text), descriptors)
                elif ready:
                    self._warm.lessons.hear()
                    # The next will know more.
                    self._dismiss()
                    self._may_spare = True
                elif self._ending or self._killed:
                    self._end_orphans()
                else:
                    self._prepare()
        finally:
            self._dismiss()
            processes.end_descendants()

    def _heed(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if "ping" in message:
            self.tell({"pong": message["ping"]})
        elif "end" in message:
            self._end(message["end"])
        else:
            try:
                # The kernel has left it out where there are too many open files.
                if not descriptors:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                self._play(message["play"], descriptors[0])
            except OSError as error:
                self._tell_end(message["play"], error=f"its process could not be made: {error.strerror}")

    def _play(self, ident: str, descriptor: int) -> None:
        self._may_spare = True
        with socket.socket(fileno=descriptor) as connection:
            if not self._hand_over(ident, connection):
                self._jobs[self._fork(lambda: self._warm.play(connection))] = ident
        if "" not in self._jobs.values() and (gather := self._warm.gathering()):
            with contextlib.suppress(OSError):
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
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                self._control.close()
                self._ended.close()
                os.setsid()
                processes.die_with_parent(parent)
                processes.adopt_orphans()
                processes.be_first_out_of_memory()
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
        self._forks.add(pid)
        return pid

    def _end(self, ident: str) -> None:
        for pid, known in list(self._jobs.items()):
            if known == ident:
                self._killed.setdefault(pid, time.monotonic() + processes.LIMIT)
                # Where orphans do not come here, this is all there is.
                processes.end_tree(pid, limit=0 if sys.platform == "linux" else 1)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._ended.recv(_DATAGRAM):
                pass
        for pid, status in processes.ended():
            self._forks.discard(pid)
            self._given_up.discard(pid)
            self._killed.pop(pid, None)
            if self._spare is not None and pid == self._spare[0]:
                self._dismiss()
            if ident := self._jobs.pop(pid, None):
                self._ending[ident] = (os.waitstatus_to_exitcode(status), time.monotonic() + processes.LIMIT)
        self._end_orphans()

    def _end_orphans(self) -> None:
        """Kill what has lost its run; tell the end of the jobs of which there may be something left when that is done."""
        orphans = [pid for pid in processes.children() if pid not in self._forks and pid not in self._given_up]
        for pid in orphans:
            processes.end_tree(pid, limit=0)
        for ident, (code, deadline) in list(self._ending.items()):
            if not orphans or time.monotonic() >= deadline:
                self._given_up.update(orphans)
                del self._ending[ident]
                self._tell_end(ident, code, orphans)

    def _give_up(self) -> None:
        """Tell the end of jobs whose own process hangs in the kernel, also when killed: the other jobs go on."""
        for pid, deadline in list(self._killed.items()):
            if time.monotonic() >= deadline:
                del self._killed[pid]
                self._tell_end(self._jobs.pop(pid), -signal.SIGKILL, [pid])

    def _tell_end(self, ident: str, code: int = 1, left: Sequence[int] = (), error: str = "") -> None:
        self.tell({"ended": ident, "code": code, "left": left, "error": error})


if __name__ == "__main__":
    runner, place, number = sys.argv[1:]
    processes.guard(int(runner), place)
    main(socket.socket(fileno=int(number)), place)
