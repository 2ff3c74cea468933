"""One run in a process of its own: reads what to run from standard input, writes events to standard output, ends.

`python -m runner.executor.launcher`, started by `runner.executor.subprocess`. Every process that the run starts ends with
this one: on SIGTERM, when standard input closes (the runner is gone), and when the play is over.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

# prctl(2), from linux/prctl.h: orphans become children of this process instead of init's.
_PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    # What the modules and plugins print must not get among the events.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    _adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: _end_all_and_exit())
    threading.Thread(target=_await_end_of_input, daemon=True).start()
    try:
        return _run(order, events)
    finally:
        # Daemons of the role (async tasks, say) do not outlive its run.
        end_descendants()


def _run(order: dict[str, Any], events: Any) -> int:
    import ansible_runner

    from runner.executor.masking import Masker

    masker = Masker(order["secrets"])
    stdout = open(Path(order["folder"]) / "stdout.partial", "w", encoding="utf-8")  # noqa: SIM115 - moved below

    def handle(event: dict[str, Any]) -> bool:
        """Changes the event itself, so that what ansible-runner writes to the artifacts is masked as well."""
        event.update(masker.mask(dict(event)))
        events.write(json.dumps(event, default=str) + "\n")
        events.flush()
        if event.get("stdout"):
            stdout.write(event["stdout"] + "\n")
        return True

    def started(status: dict[str, Any], **_: Any) -> None:
        # By now ansible-runner has written down the command and the environment that it runs with.
        if status["status"] == "running":
            _redact_command(artifacts / "command", environment)

    folder = Path(order["folder"])
    artifacts = folder / "artifacts" / order["ident"]
    environment = dict(order["environment"])
    role = order["role"]
    if role:
        play: dict[str, Any] = {"hosts": "localhost", "roles": [{"name": Path(role).name}]}
        if not order["gather_facts"]:
            play["gather_facts"] = False
        playbook: Any = [play]
    else:
        playbook = order["playbook"]
    with contextlib.closing(stdout):
        result = ansible_runner.run(
            private_data_dir=str(folder),
            # Where ansible-playbook works: ansible.cfg is looked for there, and relative paths in arguments and variables
            # mean what they mean to who started the operator. Tasks work in the playbook's folder, as ever.
            project_dir=os.getcwd(),
            ident=order["ident"],
            playbook=playbook,
            envvars=environment,
            verbosity=order["verbosity"] or None,
            quiet=True,
            # The printed text goes through the masker instead.
            settings={"suppress_output_file": True, "pexpect_timeout": 1},
            suppress_env_files=True,
            event_handler=handle,
            status_handler=started,
            cancel_callback=lambda: False,
        )
    (folder / "stdout.partial").replace(artifacts / "stdout")
    # A failed play is a result, told by its events; without any event there was none.
    if result.rc is None or (result.rc and not any((artifacts / "job_events").iterdir())):
        sys.stderr.write((artifacts / "stdout").read_text(errors="replace"))
        return 1
    return 0


def _redact_command(path: Path, environment: dict[str, str]) -> None:
    """ansible-runner records the whole environment; what a pod gets as its environment is often secret."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(path.read_text())
        known = {"PATH", "HOME", "LANG", "KUBECONFIG", "K8S_AUTH_KUBECONFIG", *environment}
        record["env"] = {
            name: value for name, value in record["env"].items() if name in known or name.startswith("ANSIBLE_")
        }
        path.write_text(json.dumps(record))


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _await_end_of_input() -> None:
    while sys.stdin.read(4096):
        pass
    _end_all_and_exit()


def _end_all_and_exit() -> None:
    end_descendants()
    os._exit(128 + signal.SIGTERM)


def end_descendants() -> None:
    """Kill every process below this one, also those that start while this goes on, and see them off."""
    while pids := _descendants(os.getpid()):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _descendants(root: int) -> list[int]:
    """Processes below `root` that are not yet dead."""
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    todo = [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _processes() -> list[tuple[int, int]]:
    """(pid, parent's pid) of every live process."""
    if sys.platform != "linux":
        with subprocess.Popen(["ps", "-axo", "pid=,ppid=,stat="], stdout=subprocess.PIPE, text=True) as ps:
            rows = [line.split() for line in ps.communicate()[0].splitlines()]
        return [(int(row[0]), int(row[1])) for row in rows if not row[2].startswith("Z") and int(row[0]) != ps.pid]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                # The name in parentheses may hold anything, so the fields are counted from its end: state, parent.
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    found.append((int(entry.name), int(parent)))
    return found


if __name__ == "__main__":
    sys.exit(main())
