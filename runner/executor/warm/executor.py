"""The warm executor: processes that have Ansible loaded play the jobs, each many of them, one after another.

Their parent, the fork server, is started with the first use, and again when it has died or does not answer. The processes
at the other end are `runner.executor.warm.forkserver`, below a guard, and its children.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import asdict
from pathlib import Path
from typing import Self

from runner import metrics
from runner.executor import processes
from runner.executor.environment import PACKAGE, environment
from runner.executor.guarded import GuardedProcess
from runner.executor.jobs import LONGEST_LINE, ExecutorError, Job, JobEvent, Limits, executor_errors
from runner.executor.run_folder import prepare, settle
from runner.executor.warm import forkserver
from runner.json_codec import JsonObject, decode, encode

logger = logging.getLogger(__name__)

_DATAGRAM = 64 * 1024
# Of what a run tells, read at a time.
_CHUNK = 64 * 1024
# Seconds: imports and the warm-up run, on a machine that is busy.
_START = 120.0
# Seconds between two questions whether it is there, and how many of them it may leave without an answer. Questions are
# counted, not time: where the runner itself was stopped (a laptop that sleeps), there was none to answer.
_ASKING, _UNANSWERED = 5.0, 6
# Seconds that the fork server may take to end the processes of a run. It gives up sooner those that cannot be killed.
_RUN_END_TIMEOUT = processes.LIMIT + 15.0
# Reasons to end a worker that lie in what its run has left, and how many of them are told.
_LEFT_BY_RUNS = frozenset({"child", "thread", "code", "patched", "process", "descriptor"})
_MOST_WARNED = 20
# The kernel has no room for a datagram or its descriptor just now; seconds until it may have.
_NO_ROOM = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
_ROOM = 0.05


class WarmExecutor:
    """Runs the fork server while it is entered (`async with`); `execute` is the executor."""

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self._limits = limits
        self._server: ForkServerClient | None = None
        self._starting = asyncio.Lock()
        self._could_start = True

    async def __aenter__(self) -> Self:
        try:
            await self._ready()
        finally:
            # What cannot be entered is not used.
            self._could_start = True
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            await self._server.stop()

    @property
    def healthy(self) -> bool:
        """False if runs cannot be made, as far as is known: the fork server does not answer, or could not be started."""
        return self._could_start and (self._server is None or self._server.died.is_set() or self._server.answers)

    async def execute(self, job: Job) -> AsyncGenerator[JobEvent, None]:
        """Run the job; its events come as they happen. Ended early (closed, cancelled), every process of it is ended.

        Raises ExecutorError when no run came about.
        """
        await prepare(job)
        server = await self._ready()
        with executor_errors("a run could not be made"):
            ours, theirs = socket.socketpair()
        ours.setblocking(False)
        run = server.play(job.ident, job.pool, theirs)
        last: JsonObject = {}
        begun: list[bytes] = []
        try:
            with contextlib.suppress(ConnectionError):
                await asyncio.get_running_loop().sock_sendall(ours, encode(job.message()) + b"\n")
                # Of a line that has no end, its process has died.
                while "done" not in last and (lines := await _lines(ours, begun)):
                    for line in lines:
                        last = decode(line, strict=False)
                        if "done" in last:
                            break
                        yield JobEvent.of(last)
            # Its worker has still to put itself back; of one that has died, the fork server knows why.
            await server.wait_until_ended(job.ident, run)
            if last.get("done", 1) != 0:
                raise ExecutorError(f"ansible-runner could not run: {last.get('printed') or run.reason}")
        except (ValueError, RecursionError) as error:
            raise ExecutorError(f"what the run has told cannot be read: {error}") from error
        finally:
            server.end(job.ident)
            ours.close()
            await server.wait_until_ended(job.ident, run)
            await asyncio.to_thread(settle, job.folder, job.ident, job.max_artifacts)

    async def _ready(self) -> ForkServerClient:
        async with self._starting:
            if self._server is None or self._server.died.is_set():
                if self._server is not None:
                    logger.warning("The warm process has died and is replaced")
                    await self._server.stop()
                try:
                    self._server = await ForkServerClient.start(self._limits)
                except ExecutorError:
                    # Not so where the one run is ended that has it started: the next one tries again.
                    self._could_start = False
                    raise
                self._could_start = True
            return self._server


class _Run:
    """The state of a job's processes."""

    def __init__(self) -> None:
        # Set when all processes of the job have ended or were given up; a worker that can be used again stays.
        self.ended = asyncio.Event()
        self.reason = "its process has died"


class ForkServerClient:
    """The runner's end of one fork server."""

    def __init__(self, guarded: GuardedProcess, control: socket.socket) -> None:
        self.died = asyncio.Event()
        self._guarded = guarded
        self._control = control
        self._ready: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        # The end of what it and its children print past everything that is made for printing.
        self._said = b""
        self._listening = asyncio.create_task(self._listen())
        self._watching: asyncio.Task[None] | None = None
        self._burying: asyncio.Task[None] | None = None
        self._unanswered = 0
        # What runs have left, as far as it was told: (reason, what).
        self._warned: set[tuple[str, str]] = set()
        # What the kernel has not yet taken, with the connection that goes along.
        self._outgoing: collections.deque[tuple[bytes, socket.socket | None]] = collections.deque()
        self._is_waiting_for_room = False
        # The jobs whose processes have not yet all ended.
        self._playing: dict[str, _Run] = {}
        asyncio.get_running_loop().add_reader(control, self._hear)

    @classmethod
    async def start(cls, limits: Limits) -> Self:
        """Raises ExecutorError, with what the process said, if it does not come up."""
        with executor_errors("the warm process could not be started"):
            folder = Path(tempfile.mkdtemp(prefix="rolerunner-warm-"))
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        common = environment()
        paths = (str(PACKAGE), common["PYTHONPATH"])
        try:
            guarded = await GuardedProcess.start(
                forkserver.__name__,
                *(str(theirs.fileno()), str(folder), json.dumps(asdict(limits))),
                environment={**os.environ, **common, "PYTHONPATH": os.pathsep.join(paths)},
                folder=folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        server = cls(guarded, ours)
        try:
            async with asyncio.timeout(_START):
                ready = await server._ready
        except (TimeoutError, ConnectionError) as error:
            await server.stop()
            said = server._said.decode(errors="replace").strip()
            raise ExecutorError(f"the warm process did not start: {said}") from error
        except BaseException:
            await server.stop()
            raise
        for part, reason in ready["left_out"].items():
            logger.warning(
                "This ansible-core is not known; a part of each run goes the slow way",
                extra={"part": part, "reason": reason},
            )
            metrics.slow_part(part)
        logger.info("Ansible is warm", extra={"seconds": ready["ready"]})
        server._watching = asyncio.create_task(server._watch())
        return server

    @property
    def answers(self) -> bool:
        return self._unanswered < _UNANSWERED

    def play(self, ident: str, pool: str, connection: socket.socket) -> _Run:
        """Have a job played that talks through this connection, which is closed here."""
        run = self._playing[ident] = _Run()
        if self.died.is_set():
            connection.close()
            run.ended.set()
        else:
            self._tell({"play": ident, "pool": pool}, connection)
        return run

    def end(self, ident: str) -> None:
        """End what is left of a job's processes."""
        if ident in self._playing:
            self._tell({"end": ident})

    async def wait_until_ended(self, ident: str, run: _Run) -> None:
        """Wait until nothing of a job is left. A worker that does not see to it is ended, then the fork server."""
        if run.ended.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RUN_END_TIMEOUT):
                await run.ended.wait()
                return
        self.end(ident)
        try:
            async with asyncio.timeout(_RUN_END_TIMEOUT):
                await run.ended.wait()
        except TimeoutError:
            logger.error("The warm process does not end a run, and is killed with all of its runs")
            await self._kill()

    async def stop(self) -> None:
        """End it and all of its jobs."""
        await self._kill()
        self._control.close()
        if self._watching is not None:
            self._watching.cancel()
        # What could not be ended may hold its other end.
        await asyncio.wait({self._listening}, timeout=1)
        self._listening.cancel()

    async def _listen(self) -> None:
        stderr = self._guarded.process.stderr
        assert stderr is not None
        while text := await stderr.read(_DATAGRAM):
            self._said = (self._said + text)[-2000:]
            logger.debug("The warm process printed something", extra={"output": text.decode(errors="replace")})

    async def _watch(self) -> None:
        """See that it answers; else nothing of what it does would ever end, not by a timeout either."""
        while not self.died.is_set():
            if not self.answers:
                logger.error("The warm process does not answer, and is killed with all of its runs")
                await self._kill()
                return
            self._unanswered += 1
            self._tell({"ping": self._unanswered})
            await asyncio.sleep(_ASKING)

    def _tell(self, message: JsonObject, connection: socket.socket | None = None) -> None:
        self._outgoing.append((json.dumps(message).encode(), connection))
        if not self._is_waiting_for_room:
            self._send()

    def _send(self) -> None:
        self._is_waiting_for_room = False
        while self._outgoing:
            text, connection = self._outgoing[0]
            try:
                if connection is None:
                    self._control.send(text)
                else:
                    socket.send_fds(self._control, [text], [connection.fileno()])
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    self._lost()
                    return
                self._is_waiting_for_room = True
                asyncio.get_running_loop().call_later(_ROOM, self._send)
                return
            self._outgoing.popleft()
            if connection is not None:
                connection.close()

    def _hear(self) -> None:
        try:
            text = self._control.recv(_DATAGRAM)
        except BlockingIOError:
            return
        except OSError:
            text = b""
        if not text:
            self._lost()
            return
        self._unanswered = 0
        message = json.loads(text)
        if "ready" in message:
            self._ready.set_result(message)
        elif "ended" in message and (run := self._playing.pop(message["ended"], None)):
            if message["left"]:
                logger.error("Processes of a run cannot be ended", extra={"job": message["ended"], "pids": message["left"]})
            run.reason = message["error"] or _reason(message["code"])
            if message["number"]:
                number, retired = message["number"], message["retired"]
                logger.debug(
                    "A worker has played a run", extra={"job": message["ended"], "number": number, "retired": retired}
                )
                metrics.worker_run(number, retired)
                if retired in _LEFT_BY_RUNS:
                    self._warn_of_new_workers(retired, message["found"])
            run.ended.set()

    def _warn_of_new_workers(self, reason: str, found: str) -> None:
        """Once for each: what a role or a callback plugin leaves each time, costs each of its runs a new worker."""
        if (reason, found) not in self._warned and len(self._warned) < _MOST_WARNED:
            self._warned.add((reason, found))
            logger.info(
                "A run has left something in its worker, which is not used again",
                extra={"reason": reason, **({"found": found} if found else {})},
            )

    def _lost(self) -> None:
        if self.died.is_set():
            return
        self.died.set()
        asyncio.get_running_loop().remove_reader(self._control)
        if not self._ready.done():
            self._ready.set_exception(ConnectionError("the process has ended"))
        while self._outgoing:
            if (connection := self._outgoing.popleft()[1]) is not None:
                connection.close()
        self._burying = asyncio.create_task(self._end_all())

    async def _kill(self) -> None:
        self._lost()
        assert self._burying is not None
        # It goes on though who waits for it is cancelled.
        await asyncio.shield(self._burying)

    async def _end_all(self) -> None:
        try:
            await self._guarded.end()
        finally:
            # Only now may they be run again.
            for run in self._playing.values():
                run.ended.set()
            self._playing.clear()


async def _lines(connection: socket.socket, begun: list[bytes]) -> list[bytes]:
    """The next lines that have come, and in `begun` the beginning of another; none when no more will come.

    Raises ValueError for a line that is too long.
    """
    while chunk := await _received(connection):
        first, *others = chunk.split(b"\n")
        begun.append(first)
        if others:
            line, begun[:] = b"".join(begun), others[-1:]
            return [line, *others[:-1]]
        if len(begun) * _CHUNK > LONGEST_LINE and sum(map(len, begun)) > LONGEST_LINE:
            raise ValueError("a line is too long")
    return []


async def _received(connection: socket.socket) -> bytes:
    try:
        chunk = connection.recv(_CHUNK)
    except BlockingIOError:
        return await asyncio.get_running_loop().sock_recv(connection, _CHUNK)
    # There may be more and more at once, and others want their turn.
    await asyncio.sleep(0)
    return chunk


def _reason(code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed (signal 9), perhaps for want of memory"
    return f"its process was ended by signal {-code}" if code < 0 else f"its process has ended (exit code {code})"
