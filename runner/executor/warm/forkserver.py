"""The fork server, also called the warm process: has Ansible loaded, and forks workers, which play jobs.

Started by `runner.executor.warm.executor` below a guard, with the descriptor of a control socket, a folder for temporary
files, which is removed with it, and `jobs.Limits` as JSON. It has no threads and no event loop, so that a fork of it is
whole. On the control socket it receives, one datagram each,

    {"play": IDENT, "pool": POOL} with a socket of the job's own        {"end": IDENT}        {"ping": NUMBER}

and sends {"ready": …} once, {"pong": NUMBER}, and for each job, when no process of it is left,

    {"ended": IDENT, "code": EXIT CODE, "left": PIDS, "error": TEXT, "number": N, "retired": REASON, "found": TEXT}

N: it was the Nth job of its worker, which is not used again if there is a reason, such as a thread that was found. On its
job's socket a worker reads the job (`jobs.JobMessage`), one line of JSON, and writes the events, one a line, and at
last {"done": EXIT CODE, "printed": TEXT}. When the control socket closes, the runner is gone, and every process
of every job is ended.

A worker plays jobs of one pool, one after another; a job without a pool has a worker of its own. Each worker has a socket to
the fork server, on which it receives jobs, {"again": BOOL} with the job's socket, and answers each, when nothing of the run
is left, by {"retired": REASON, "found": TEXT, "old_facts": BOOL}; with a reason it ends. Where a run has asked for facts
of the machine and had old ones, a fork gathers them for later runs. When no job has come for a while and there is no worker,
one is forked for the next job. A job that its worker had not read when it died is given to another.

The fork server never waits for a single process. A worker is killed as a tree: a process that has lost its parent by that
becomes the fork server's own child, is killed as such, and so on, as the kernel tells of each death.

Next on the way: `runner.executor.warm.worker`.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from runner.executor import processes
from runner.executor.jobs import Limits
from runner.json_codec import JsonObject

_DATAGRAM = 64 * 1024
# Seconds without a job or any news after which a worker is forked for the next job.
_FORK_AHEAD_AFTER = 0.2
# Seconds until what does not die is killed once more.
_AGAIN = 0.1
# The beginning of a job's message.
_UNREAD = b'{"ident"'


def main(descriptor: str, folder: str, asked: str) -> None:
    begun = time.monotonic()
    control = socket.socket(fileno=int(descriptor))
    tempfile.tempdir = folder
    with environment_of_a_run(folder):
        from runner.executor.warm import worker

        limits = Limits(**json.loads(asked))
        warm = worker.LoadedAnsible(limits)
    warm.warm_up()
    # What is there now stays: the collector must not touch, and thereby copy, the pages that the workers share.
    gc.collect()
    gc.freeze()
    server = ForkServer(control, warm, limits)
    server.tell({"ready": round(time.monotonic() - begun, 3), "left_out": warm.left_out})
    server.serve()


@contextlib.contextmanager
def environment_of_a_run(scratch: str) -> Iterator[None]:
    """The environment that ansible-runner gives ansible-playbook: Ansible reads some of it when it is imported."""
    from ansible_runner import RunnerConfig

    from runner.executor.environment import restored_environ, temporary

    with tempfile.TemporaryDirectory() as folder:
        config = RunnerConfig(private_data_dir=folder, playbook="none.yml")
        config.prepare()
    with restored_environ():
        os.environ.update({**config.env, **temporary(scratch)})
        yield


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker process, and the fork server's end of its socket."""

    pid: int
    channel: socket.socket
    # Of its first job, and so of all; None before it.
    pool: str | None = None
    # The job that it plays.
    job: str | None = None
    # The job's, where another may play it should this one have died meanwhile.
    connection: socket.socket | None = None
    # How many jobs it has got.
    number: int = 0
    retired: str = "died"
    # What the last job has left, if that is the reason.
    found: str = ""
    free_since: float = field(default_factory=time.monotonic)

    def close(self) -> None:
        self.channel.close()
        self.forget_connection()

    def forget_connection(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class ForkServer:
    """Forks workers, gives them jobs and sees to their end. `warm` is a `worker.LoadedAnsible`."""

    def __init__(self, control: socket.socket, warm: Any, limits: Limits) -> None:
        self._control = control
        self._warm = warm
        self._limits = limits
        # Those that play or may get a job, by process id.
        self._workers: dict[int, _Worker] = {}
        # Forked here, and not yet reaped. All other children were a run's, and have lost their parent.
        self._forks: set[int] = set()
        self._gatherer: int | None = None
        # Workers that were killed, and until when their end is waited for.
        self._killed: dict[int, float] = {}
        # Workers that ended while they played, and may have left orphans: the exit code, and until when they are waited for.
        self._ending: dict[_Worker, tuple[int, float]] = {}
        # Orphans that cannot be killed.
        self._given_up: set[int] = set()
        # Whether to fork for the next job. Not again, after that one has died or could not be made, until there is one.
        self._may_prepare = True
        # Readable when a child has ended.
        self._ended, bell = socket.socketpair()
        for end in (self._ended, bell):
            end.setblocking(False)
        self._news = selectors.DefaultSelector()
        for source, take in ((control, self._receive), (self._ended, self._reap)):
            self._news.register(source, selectors.EVENT_READ, take)
        signal.set_wakeup_fd(bell.detach(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # The runner decides when it is time to go; Ctrl-C goes to all processes of a terminal.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        processes.adopt_orphans()

    def tell(self, message: JsonObject) -> None:
        self._control.send(json.dumps(message).encode())

    def serve(self) -> None:
        """Serve until the other end of the control socket is closed."""
        try:
            while True:
                self._give_up()
                ready = self._news.select(self._patience())
                for key, _ in ready:
                    # One may have closed another.
                    if self._news.get_map().get(key.fd) is key:
                        key.data()
                if not ready:
                    self._look_around()
        except (BrokenPipeError, ConnectionResetError):
            # The runner is gone; perhaps there was something to tell it.
            pass
        finally:
            processes.end_descendants()

    def _patience(self) -> float | None:
        """Seconds until there is something to do without any news."""
        if self._ending or self._killed:
            return _AGAIN
        if self._may_prepare and not self._workers:
            return _FORK_AHEAD_AFTER
        surplus = self._surplus()
        if not surplus:
            return None
        return max(0.0, min(worker.free_since for worker in surplus) + self._limits.idle - time.monotonic())

    def _look_around(self) -> None:
        if self._ending or self._killed:
            self._end_orphans()
        elif self._may_prepare and not self._workers:
            self._may_prepare = False
            with contextlib.suppress(OSError):
                self._fork_worker()
        for worker in self._surplus():
            if time.monotonic() - worker.free_since >= self._limits.idle:
                self._dismiss(worker)

    def _receive(self) -> None:
        text, descriptors, _, _ = socket.recv_fds(self._control, _DATAGRAM, 1)
        if not text:
            raise ConnectionResetError
        message = json.loads(text)
        if "ping" in message:
            self.tell({"pong": message["ping"]})
        elif "end" in message:
            self._end(message["end"])
        else:
            try:
                # The kernel has left it out where there are too many open files.
                if not descriptors:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                with socket.socket(fileno=descriptors[0]) as connection:
                    self._play(message["play"], message["pool"], connection)
            except OSError as error:
                self._tell_end(message["play"], error=f"its process could not be made: {error.strerror}")

    def _play(self, ident: str, pool: str, connection: socket.socket) -> None:
        self._may_prepare = True
        # Those that have not played yet may play anything.
        for worker in (*(self._free(pool) if pool else ()), *self._free(None)):
            if self._hand_over(worker, ident, pool, connection):
                with contextlib.suppress(OSError):
                    worker.connection = connection.dup()
                break
        else:
            self._make_room()
            if not self._hand_over(self._fork_worker(), ident, pool, connection):
                raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))

    def _play_again(self, worker: _Worker) -> bool:
        """Give the job of a worker that has died to a new one, if it had not been read; return whether that was so."""
        if worker.job is None or worker.pool is None or worker.connection is None:
            return False
        with contextlib.suppress(OSError):
            if worker.connection.recv(len(_UNREAD), socket.MSG_PEEK | socket.MSG_DONTWAIT) == _UNREAD:
                return self._hand_over(self._fork_worker(), worker.job, worker.pool, worker.connection)
        return False

    def _hand_over(self, worker: _Worker, ident: str, pool: str, connection: socket.socket) -> bool:
        """Send the job to the worker; return whether that worked."""
        try:
            socket.send_fds(worker.channel, [json.dumps({"again": bool(pool)}).encode()], [connection.fileno()])
        except OSError:
            self._dismiss(worker)
            return False
        worker.job, worker.pool = ident, pool
        worker.number += 1
        return True

    def _free(self, pool: str | None) -> list[_Worker]:
        """Those that wait for a job of this pool (None: for their first), first the one that has waited least."""
        free = [each for each in self._workers.values() if each.job is None and each.pool == pool]
        alive = [worker for worker in free if worker.pid not in self._killed]
        return sorted(alive, key=lambda worker: worker.free_since, reverse=True)

    def _surplus(self) -> list[_Worker]:
        """Those that wait for a job though another of the same pool does."""
        pools = {worker.pool for worker in self._workers.values() if worker.job is None}
        return [worker for pool in pools for worker in self._free(pool)[1:]]

    def _make_room(self) -> None:
        """For one more: let go of those that have waited longest."""
        waiting = sorted((each for each in self._workers.values() if each.job is None), key=lambda each: each.free_since)
        for worker in waiting[: max(0, len(self._workers) + 1 - self._limits.workers)]:
            self._dismiss(worker)

    def _dismiss(self, worker: _Worker) -> None:
        """Give it no more jobs: it ends when its socket is closed."""
        del self._workers[worker.pid]
        with contextlib.suppress(KeyError):
            self._news.unregister(worker.channel)
        worker.close()

    def _answered(self, worker: _Worker) -> None:
        """A worker has played its job, or has died."""
        try:
            text = worker.channel.recv(_DATAGRAM, socket.MSG_DONTWAIT)
        except OSError:
            text = b""
        if not text:
            # That it has ended, is told when it is seen.
            with contextlib.suppress(KeyError):
                self._news.unregister(worker.channel)
            return
        answer = json.loads(text)
        worker.retired, worker.found = answer["retired"], answer["found"]
        if not worker.retired and worker.job is not None:
            ident, worker.job, worker.free_since = worker.job, None, time.monotonic()
            worker.forget_connection()
            self._tell_end(ident, 0, of=worker)
            worker.retired = "died"
        if answer["old_facts"] and self._gatherer is None and self._warm.facts_are_due():
            with contextlib.suppress(OSError):
                self._gatherer = self._fork(self._warm.gather_facts)

    def _fork_worker(self) -> _Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def work() -> None:
            ours.close()
            self._warm.serve(theirs)

        with theirs:
            try:
                worker = _Worker(self._fork(work), ours)
            except OSError:
                ours.close()
                raise
        self._workers[worker.pid] = worker
        self._news.register(ours, selectors.EVENT_READ, partial(self._answered, worker))
        return worker

    def _fork(self, work: Callable[[], None]) -> int:
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                self._news.close()
                self._control.close()
                self._ended.close()
                for other in self._workers.values():
                    other.close()
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
        for worker in list(self._workers.values()):
            if worker.job == ident:
                worker.forget_connection()
                self._killed.setdefault(worker.pid, time.monotonic() + processes.LIMIT)
                # Where orphans do not come here, this is all there is.
                processes.end_tree(worker.pid, limit=0 if sys.platform == "linux" else 1)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._ended.recv(_DATAGRAM):
                pass
        for pid, status in processes.ended():
            self._forks.discard(pid)
            self._given_up.discard(pid)
            self._killed.pop(pid, None)
            if pid == self._gatherer:
                self._gatherer = None
            if (worker := self._workers.get(pid)) is not None:
                self._on_worker_exit(worker, os.waitstatus_to_exitcode(status))
        self._end_orphans()

    def _on_worker_exit(self, worker: _Worker, code: int) -> None:
        # Its last answer may still be there.
        self._answered(worker)
        if worker.job is not None and not self._play_again(worker):
            self._ending[worker] = (code, time.monotonic() + processes.LIMIT)
        self._dismiss(worker)

    def _end_orphans(self) -> None:
        """Kill what has lost its run; tell the end of the jobs of which there may be something left when that is done."""
        orphans = [pid for pid in processes.children() if pid not in self._forks and pid not in self._given_up]
        for pid in orphans:
            processes.end_tree(pid, limit=0)
        for worker, (code, deadline) in list(self._ending.items()):
            if not orphans or time.monotonic() >= deadline:
                self._given_up.update(orphans)
                del self._ending[worker]
                self._tell_end(worker.job, code, orphans, of=worker)

    def _give_up(self) -> None:
        """Tell the end of jobs whose worker hangs in the kernel, also when killed: the other jobs go on."""
        for pid, deadline in list(self._killed.items()):
            if time.monotonic() >= deadline:
                del self._killed[pid]
                if (worker := self._workers.get(pid)) is not None:
                    self._dismiss(worker)
                    # Or it has answered meanwhile.
                    if worker.job is not None:
                        self._tell_end(worker.job, -signal.SIGKILL, [pid], of=worker)

    def _tell_end(
        self, ident: str | None, code: int = 1, left: Sequence[int] = (), error: str = "", of: _Worker | None = None
    ) -> None:
        retired = of.retired if of is not None and of.job is not None else ""
        number, found = (of.number, of.found) if of is not None else (0, "")
        about = {"code": code, "left": left, "error": error, "number": number, "retired": retired, "found": found}
        self.tell({"ended": ident, **about})
