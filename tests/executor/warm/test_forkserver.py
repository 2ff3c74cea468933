"""The fork server alone, with workers that play nothing."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# A fork server whose kills do nothing, as with a process that hangs in the kernel. Its time is the size of a file.
SERVER = """
import os, socket, sys
from types import SimpleNamespace
from runner.executor import processes
from runner.executor.jobs import Limits
from runner.executor.warm import forkserver

processes.LIMIT = 1
forkserver.time = SimpleNamespace(monotonic=lambda: os.path.getsize(sys.argv[2]))
processes.end_tree = lambda pid, *, limit=0: []


def serve(server):
    # Say on the job's connection that it is there, and answer when that is closed.
    while (descriptors := socket.recv_fds(server, 1024, 1)[1]):
        with socket.socket(fileno=descriptors[0]) as connection:
            connection.send(str(os.getpid()).encode())
            connection.recv(1)
        server.send(b'{"retired": "", "found": "", "old_facts": false}')


warm = SimpleNamespace(serve=serve)
forkserver.ForkServer(socket.socket(fileno=int(sys.argv[1])), warm, Limits()).serve()
"""


class Server:
    """The runner's end of it."""

    def __init__(self, control: socket.socket, time: Path) -> None:
        self.control = control
        self._time = time

    def play(self, ident: str, pool: str = "") -> tuple[socket.socket, int]:
        """The job's connection, and the process that plays it."""
        connection, other = socket.socketpair()
        connection.settimeout(60)
        with other:
            socket.send_fds(self.control, [json.dumps({"play": ident, "pool": pool}).encode()], [other.fileno()])
        return connection, int(connection.recv(1024))

    def end(self, ident: str) -> None:
        self.control.send(json.dumps({"end": ident}).encode())
        # It has come to it when it answers what comes after it.
        assert self.is_there()

    def give_up(self) -> None:
        """The time is over for what was to be ended so far."""
        with self._time.open("ab") as file:
            file.write(b"x")

    def answer(self) -> Any:
        return json.loads(self.control.recv(65536))

    def is_there(self) -> bool:
        self.control.send(json.dumps({"ping": 1}).encode())
        return bool(self.answer() == {"pong": 1})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    time = tmp_path / "time"
    time.touch()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(60)
    command = [sys.executable, "-c", SERVER, str(theirs.fileno()), str(time)]
    # It ends when the socket is closed.
    with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process, ours:
        theirs.close()
        yield Server(ours, time)
        ours.close()
        assert process.wait(60) == 0


def test_a_run_whose_process_cannot_be_killed_is_given_up_alone(server: Server) -> None:
    one, pid = server.play("one")
    two, _ = server.play("two")
    with one, two:
        server.end("one")
        server.give_up()
        told = server.answer()
        assert (told["ended"], told["code"], told["left"]) == ("one", -9, [pid])
        # The other is still played, and whoever asks is answered.
        assert server.is_there()


def test_a_worker_that_was_to_be_killed_gets_no_job(server: Server) -> None:
    """It has answered meanwhile, and is not yet dead."""
    one, pid = server.play("one", "pool")
    with one:
        server.end("one")
    told = server.answer()
    assert (told["ended"], told["code"], told["retired"]) == ("one", 0, "")
    two, another = server.play("two", "pool")
    with two:
        assert another != pid
    assert server.answer()["ended"] == "two"
    # When it is given up, there is nothing to tell.
    three, _ = server.play("three")
    with three:
        server.end("three")
        server.give_up()
        assert server.answer()["ended"] == "three"
    assert server.is_there()
