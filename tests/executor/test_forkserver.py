import json
import socket
import subprocess
import sys

# A fork server whose kills do nothing, as with a process that hangs in the kernel.
SERVER = """
import socket, sys, time
from types import SimpleNamespace
from runner.executor import forkserver, processes
from runner.executor.jobs import Limits

processes.LIMIT = 0.2
processes.end_tree = lambda pid, *, limit=0: []
lessons, _ = socket.socketpair()
lessons = SimpleNamespace(fileno=lessons.fileno, forked=lambda: None)
warm = SimpleNamespace(lessons=lessons, serve=lambda server: time.sleep(600), gathering=lambda: None)
forkserver.Server(socket.socket(fileno=int(sys.argv[1])), warm, Limits()).serve()
"""


def test_a_run_whose_process_cannot_be_killed_is_given_up_alone() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(60)
    command = [sys.executable, "-c", SERVER, str(theirs.fileno())]
    # It ends when the socket is closed.
    with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as server, ours:
        theirs.close()
        for ident in ("one", "two"):
            connection, other = socket.socketpair()
            with connection, other:
                socket.send_fds(ours, [json.dumps({"play": ident, "pool": ""}).encode()], [other.fileno()])
        ours.send(json.dumps({"end": "one"}).encode())
        told = json.loads(ours.recv(65536))
        assert (told["ended"], told["code"], len(told["left"])) == ("one", -9, 1)
        # The other is still played, and whoever asks is answered.
        ours.send(json.dumps({"ping": 1}).encode())
        assert json.loads(ours.recv(65536)) == {"pong": 1}
        ours.close()
        assert server.wait(60) == 0
