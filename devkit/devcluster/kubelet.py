"""The kubelet of a development cluster's node: `python -m devkit.devcluster.kubelet DIR PORT`.

kwok writes the status of nodes and pods. This serves what the API server asks of a node's kubelet, `exec`, `logs` and
`attach`, and provisions volumes (`volumes`). kwok has such a server as well, but it starts whatever program a request names
on this machine, for every process that reaches its port, and loses exit codes.

A command runs as the program of its name in the folder of stand-ins, DIR/exec, and nowhere else; without such a program it
ends with exit code 127 and says why on stderr. Only holders of a certificate of the cluster's CA are served: the API server
and the administrator.

The protocol is the WebSocket one (channel byte, data), v4 of client libraries and v5 of kubectl 1.31 and newer. The API
server hands WebSockets over as they are, because the node declares ExtendWebSocketsToKubelet (`supervisor`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiohttp import ClientConnectionResetError, WSMsgType, web

from devkit.devcluster import volumes
from devkit.devcluster.pki import client_context
from runner.errors import RolerunnerError
from runner.executor.processes import die_with_parent

_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255
# Bytes. A command is in its request's first line, of which the API server takes as much.
_CHUNK, _REQUEST_LINE = 32 * 1024, 1024 * 1024
# Exit codes, as shells and container runtimes have them.
_CANNOT_RUN, _NOT_FOUND, _KILLED = 126, 127, 128


class CommandError(RolerunnerError):
    """A command that cannot be run, and the exit code for it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Container:
    """The container that a request is about."""

    namespace: str
    pod: str
    name: str

    @classmethod
    def of(cls, request: web.Request) -> Container:
        return cls(*(request.match_info[part] for part in ("namespace", "pod", "container")))


@dataclass(frozen=True, slots=True)
class StandIns:
    """The programs that stand in for those of containers: the folder DIR/exec, read again for each command."""

    cluster: Path

    @property
    def folder(self) -> Path | None:
        link = self.cluster / "exec"
        return link.resolve() if link.is_symlink() else None

    def find(self, command: str) -> Path:
        """The program that stands in for `command`, of whose path only the name counts. Raises CommandError."""
        name = command.rpartition("/")[2]
        if self.folder is None:
            raise CommandError(
                _NOT_FOUND,
                f'exec: "{command}": executable file not found: pods of a development cluster run no programs. '
                f"Start the cluster with --exec-dir DIR, a folder with a program {name!r} that stands in for it",
            )
        program = self.folder / name
        if name in ("", ".", "..") or not program.is_file():
            raise CommandError(
                _NOT_FOUND,
                f'exec: "{command}": executable file not found: '
                f"--exec-dir {self.folder} has no program {name!r} that stands in for it",
            )
        if not os.access(program, os.X_OK):
            raise CommandError(_CANNOT_RUN, f'exec: "{command}": permission denied: {program} is not executable')
        return program

    def environ(self, program: Path, container: Container, home: Path) -> dict[str, str]:
        """The environment variables of a stand-in program.

        The command of a request, if it is a script, finds the programs of this machine behind those of the folder. Anything
        else, such as a link to a shell, finds those of the folder alone, and so does what it starts: a role's `sh -c`
        reaches stand-ins and nothing else.
        """
        path = [str(program.parent)]
        with open(program, "rb") as file:
            if file.read(2) == b"#!":
                path.append(os.environ.get("PATH", os.defpath))
        return {
            "PATH": os.pathsep.join(path),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "POD_NAMESPACE": container.namespace,
            "POD_NAME": container.pod,
            "CONTAINER_NAME": container.name,
        }

    def log(self, container: Container) -> list[str]:
        """The log's lines: of `logs/CONTAINER.log` in the folder, or one that says that there is none."""
        path = (self.folder or self.cluster) / "logs" / f"{container.name}.log"
        if self.folder is not None and path.is_file():
            return path.read_text(errors="replace").splitlines(keepends=True)
        return [
            f"Container {container.name} runs on paper and logs nothing; logs/{container.name}.log in --exec-dir would\n"
        ]


class Kubelet:
    """The HTTP handlers of a node's kubelet."""

    def __init__(self, cluster: Path) -> None:
        self._cluster = cluster
        self._stand_ins = StandIns(cluster)

    def app(self) -> web.Application:
        app = web.Application()
        container = "{namespace}/{pod}/{container}"
        app.router.add_get(f"/containerLogs/{container}", self._logs)
        app.router.add_route("*", f"/exec/{container}", self._exec)
        app.router.add_route("*", f"/attach/{container}", self._attach)
        app.router.add_route("*", "/portForward/{namespace}/{pod}", self._port_forward)
        return app

    async def _logs(self, request: web.Request) -> web.Response:
        container = Container.of(request)
        if request.query.get("previous") == "true":
            text = f'previous terminated container "{container.name}" in pod "{container.pod}" not found'
            return web.Response(status=400, text=text)
        lines = self._stand_ins.log(container)
        if tail := request.query.get("tailLines"):
            lines = lines[max(len(lines) - int(tail), 0) :]
        content = "".join(lines).encode()
        if limit := request.query.get("limitBytes"):
            content = content[: int(limit)]
        return web.Response(body=content, content_type="text/plain")

    async def _port_forward(self, request: web.Request) -> web.Response:
        return web.Response(status=501, text="pods of a development cluster run on paper: nothing listens on their ports")

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        socket = await _accepted(request)
        if isinstance(socket, web.WebSocketResponse):
            with contextlib.suppress(ClientConnectionResetError):
                await socket.send_bytes(bytes([_STDOUT]) + "".join(self._stand_ins.log(Container.of(request))).encode())
                await _end(socket, 0)
        return socket

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        socket = await _accepted(request)
        if isinstance(socket, web.WebSocketResponse):
            # The client may leave at any time.
            with contextlib.suppress(ClientConnectionResetError):
                try:
                    code = await self._run(socket, request)
                except CommandError as error:
                    await socket.send_bytes(bytes([_stderr_of(request)]) + f"{error}\n".encode())
                    code = error.code
                await _end(socket, code)
        return socket

    async def _run(self, socket: web.WebSocketResponse, request: web.Request) -> int:
        """Run a command with the socket's channels; its exit code. Raises CommandError."""
        if request.query.get("tty") == "1":
            raise CommandError(
                _CANNOT_RUN, "exec: containers of a development cluster have no terminals: leave out --tty (-t)"
            )
        command = request.query.getall("command", [""])
        process = await self._start(command, Container.of(request), stdin=request.query.get("input") == "1")
        assert process.stdout is not None
        assert process.stderr is not None
        feeding = asyncio.create_task(_feed(socket, process))
        try:
            await asyncio.gather(_send(process.stdout, socket, _STDOUT), _send(process.stderr, socket, _stderr_of(request)))
            code = await process.wait()
        finally:
            _kill(process)
            feeding.cancel()
            await asyncio.wait([feeding])
        return code if code >= 0 else _KILLED - code

    async def _start(self, command: Sequence[str], container: Container, *, stdin: bool) -> asyncio.subprocess.Process:
        program = self._stand_ins.find(command[0])
        home = self._cluster / "pods" / container.namespace / container.pod
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return await asyncio.create_subprocess_exec(
                program,
                *command[1:],
                stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=home,
                env=self._stand_ins.environ(program, container, home),
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )
        except (OSError, ValueError) as error:
            raise CommandError(_CANNOT_RUN, f'exec: "{command[0]}": {program} cannot be started: {error}') from error


async def _accepted(request: web.Request) -> web.WebSocketResponse | web.Response:
    """The request's WebSocket, or the answer that there is none."""
    socket = web.WebSocketResponse(protocols=_PROTOCOLS, max_msg_size=0)
    protocol = socket.can_prepare(request).protocol
    if protocol is None:
        text = "a development cluster speaks the WebSocket protocol only, not SPDY; kubectl does from version 1.31 on"
        return web.Response(status=501, text=text)
    await socket.prepare(request)
    return socket


def _stderr_of(request: web.Request) -> int:
    """The channel for standard error: a client that asks for a terminal has one for both."""
    return _STDERR if request.query.get("error") == "1" else _STDOUT


async def _feed(socket: web.WebSocketResponse, process: asyncio.subprocess.Process) -> None:
    """Copy the client's messages to standard input; when the client leaves, the command is killed."""
    async for message in socket:
        if message.type is not WSMsgType.BINARY or process.stdin is None or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        # A program that has ended or closed its input misses nothing.
        with contextlib.suppress(ConnectionError):
            if channel == _STDIN and data:
                process.stdin.write(data)
                await process.stdin.drain()
            elif channel == _CLOSE and data == bytes([_STDIN]):
                process.stdin.close()
    _kill(process)


async def _send(output: asyncio.StreamReader, socket: web.WebSocketResponse, channel: int) -> None:
    while data := await output.read(_CHUNK):
        await socket.send_bytes(bytes([channel]) + data)


async def _end(socket: web.WebSocketResponse, code: int) -> None:
    status: dict[str, object] = {"metadata": {}, "status": "Success"}
    if code:
        status = {
            "metadata": {},
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": f"command terminated with non-zero exit code: {code}",
            "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
        }
    await socket.send_bytes(bytes([_STATUS]) + json.dumps(status).encode())
    await socket.close()


def _kill(process: asyncio.subprocess.Process) -> None:
    """End a command and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def serve(cluster: Path, port: int) -> None:
    """Serve the kubelet's port and provision volumes, until the process ends."""
    pki = cluster / "pki"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=pki / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pki / "server.crt", pki / "server.key")
    server = web.AppRunner(Kubelet(cluster).app(), access_log=None, max_line_size=_REQUEST_LINE)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", port, ssl_context=context).start()
    kubeconfig = json.loads((cluster / "components.kubeconfig").read_text())
    await volumes.provision(kubeconfig["clusters"][0]["cluster"]["server"], client_context(pki))


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
