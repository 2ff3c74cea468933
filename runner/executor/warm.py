"""The fast way: a process that has Ansible loaded forks a child for each job.

The fork server is started with the first use, and again when it has died. The processes at the other end are
`runner.executor.forkserver` and its children.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any, Self

from runner import metrics
from runner.executor import forkserver
from runner.executor.artifacts import settle
from runner.executor.jobs import ExecutorError, Job, JobEvent
from runner.executor.orders import LONGEST_LINE, PACKAGE, environment, order, write_inputs

logger = logging.getLogger(__name__)

_DATAGRAM = 64 * 1024
# Seconds: imports and the warm-up run, on a machine that is busy.
_START = 120.0


class WarmExecutor:
    """Holds the fork server while it is entered (`async with`); `execute` is the executor."""

    def __init__(self) -> None:
        self._server: _ForkServer | None = None
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            await self._server.stop()

    async def execute(self, job: Job) -> AsyncGenerator[JobEvent, None]:
        """Run the job; its events come as they happen. Ended early (closed, cancelled), every process of it is ended.

        Raises ExecutorError when no run came about.
        """
        write_inputs(job)
        server = await self._ready()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        asked = time.monotonic()
        ended = server.play(job.ident, theirs)
        reader, writer = await asyncio.open_connection(sock=ours, limit=LONGEST_LINE)
        last: dict[str, Any] = {}
        try:
            writer.write(json.dumps(order(job)).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                async for line in reader:
                    last = json.loads(line)
                    if "begun" in last:
                        metrics.phase("fork", last["begun"] - asked)
                    elif "done" not in last:
                        yield JobEvent.of(last)
            if last.get("done", 1) != 0:
                raise ExecutorError(f"ansible-runner could not run: {last.get('printed') or 'its process has died'}")
        finally:
            server.end(job.ident)
            writer.close()
            await ended.wait()
            settle(job.folder, job.ident, job.max_artifacts)

    async def _ready(self) -> _ForkServer:
        async with self._starting:
            if self._server is None or self._server.died.is_set():
                if self._server is not None:
                    logger.warning("The warm process has died and is replaced")
                    await self._server.stop()
                self._server = await _ForkServer.start()
            return self._server


class _ForkServer:
    """The runner's end of one fork server."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self.died = asyncio.Event()
        self._process = process
        self._control = control
        self._ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        # The end of what it and its children print past everything that is made for printing.
        self._said = b""
        self._listening = asyncio.create_task(self._listen())
        # The jobs whose processes have not yet all ended.
        self._playing: dict[str, asyncio.Event] = {}
        asyncio.get_running_loop().add_reader(control, self._hear)

    @classmethod
    async def start(cls) -> Self:
        """Raises ExecutorError, with what the process said, if it does not come up."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        common = environment()
        paths = (str(PACKAGE), common["PYTHONPATH"])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            forkserver.__name__,
            str(theirs.fileno()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            pass_fds=(theirs.fileno(),),
            env={**os.environ, **common, "PYTHONPATH": os.pathsep.join(paths)},
        )
        theirs.close()
        server = cls(process, ours)
        try:
            async with asyncio.timeout(_START):
                ready = await server._ready
        except (TimeoutError, ConnectionError) as error:
            await server.stop()
            said = server._said.decode(errors="replace").strip()
            raise ExecutorError(f"the warm process did not start: {said}") from error
        for part, reason in ready["left_out"].items():
            logger.warning(
                "This ansible-core is not known; a part of each run goes the slow way",
                extra={"part": part, "reason": reason},
            )
            metrics.slow(part)
        logger.info("Ansible is warm", extra={"seconds": ready["ready"]})
        return server

    def play(self, ident: str, connection: socket.socket) -> asyncio.Event:
        """Fork for a job that talks through this connection, which is closed here; set when its processes have ended."""
        ended = self._playing[ident] = asyncio.Event()
        with connection:
            try:
                socket.send_fds(self._control, [json.dumps({"play": ident}).encode()], [connection.fileno()])
            except OSError:
                self._lost()
        return ended

    def end(self, ident: str) -> None:
        if ident in self._playing:
            try:
                self._control.send(json.dumps({"end": ident}).encode())
            except OSError:
                self._lost()

    async def stop(self) -> None:
        """End it and all of its jobs."""
        self._lost()
        self._control.close()
        await self._process.wait()
        await self._listening

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while text := await self._process.stderr.read(_DATAGRAM):
            self._said = (self._said + text)[-2000:]
            logger.debug("The warm process printed something", extra={"output": text.decode(errors="replace")})

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
        message = json.loads(text)
        if "ready" in message:
            self._ready.set_result(message)
        elif ended := self._playing.pop(message["ended"], None):
            ended.set()

    def _lost(self) -> None:
        if self.died.is_set():
            return
        self.died.set()
        asyncio.get_running_loop().remove_reader(self._control)
        if not self._ready.done():
            self._ready.set_exception(ConnectionError("the process has ended"))
        # Its children die with it.
        for ended in self._playing.values():
            ended.set()
        self._playing.clear()
