"""The process of a cold run: reads the job from standard input, writes events to standard output, ends.

Started by `runner.executor.cold` below a guard. Every process that the run starts ends with this one: on SIGTERM, when
standard input closes (the runner is gone), when the play is over, and when it is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, TextIO

from runner.executor.processes import adopt_orphans, be_first_out_of_memory, end_descendants

if TYPE_CHECKING:
    from runner.executor.jobs import JobMessage


def main() -> int:
    # What the modules and plugins print must not get among the events.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    adopt_orphans()
    be_first_out_of_memory()
    signal.signal(signal.SIGTERM, lambda *_: _end_all_and_exit())
    threading.Thread(target=_await_end_of_input, daemon=True).start()
    try:
        return _run(job, events)
    finally:
        # Daemons of the role (async tasks, say) do not outlive its run.
        end_descendants()


def _run(job: JobMessage, events: TextIO) -> int:
    import ansible_runner

    from runner.executor.recorder import Recorder

    def tell(event: str) -> None:
        events.write(event + "\n")
        events.flush()

    recorder = Recorder(job, tell)
    result = ansible_runner.run(**recorder.arguments())
    printed = recorder.close()
    # A failed play is a result, told by its events; without any event there was none.
    if result.rc is None or (result.rc and not any((recorder.artifacts / "job_events").iterdir())):
        sys.stderr.write(printed)
        return 1
    return 0


def _await_end_of_input() -> None:
    while sys.stdin.read(4096):
        pass
    _end_all_and_exit()


def _end_all_and_exit() -> None:
    end_descendants()
    os._exit(128 + signal.SIGTERM)
