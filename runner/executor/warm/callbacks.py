"""A user's callback plugins in workers: each run loads them again, as a process of its own would; the warm-up has none.

A callback plugin hears of one run in its life. Many keep something of it in their module (the command line that was there
when they were loaded, when the run began), and those that record runs would record the warm-up as well, and connect to their
server in the process of which workers are forks. So their modules are loaded in the fork server, for what they import, and
dropped before and after each run. What plugins leave elsewhere in the process (threads, connections) is for
`runner.executor.warm.reset` to find.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ansible
from ansible.executor.task_queue_manager import TaskQueueManager
from ansible.plugins.loader import callback_loader

from runner.executor.environment import PACKAGE

# ansible-runner's, whose class has the user's for a base.
_OUTPUT = "/awx_display.py"
# Where ansible-core's own are, and this program's.
_KNOWN = tuple(os.path.join(folder, "") for folder in (Path(ansible.__file__).parent / "plugins", PACKAGE / "runner"))


def verify() -> None:
    """LookupError or AttributeError where this ansible-core keeps callback plugins elsewhere."""
    if not isinstance(callback_loader._module_cache, dict):
        raise LookupError("callback plugins are kept elsewhere")
    _ = TaskQueueManager.load_callbacks


@contextlib.contextmanager
def none_of_the_users() -> Iterator[None]:
    """Meanwhile a run loads the modules of all callback plugins, and has none but the one that writes to its output."""
    load = TaskQueueManager.load_callbacks

    def of_the_output(self: Any) -> None:
        self._run_additional_callbacks = False
        load(self)

    TaskQueueManager.load_callbacks = of_the_output
    try:
        yield
    finally:
        TaskQueueManager.load_callbacks = load


def drop() -> None:
    """Forget the modules of the user's callback plugins, but for the one that writes to the output."""
    loaded = callback_loader._module_cache
    stays = {
        each.__module__
        for path, module in loaded.items()
        if path.endswith(_OUTPUT)
        for each in module.CallbackModule.__mro__
    }
    dropped = {
        path: module for path, module in loaded.items() if module.__name__ not in stays and not path.startswith(_KNOWN)
    }
    if not dropped:
        return
    for path in dropped:
        del loaded[path]
    modules = {id(module) for module in dropped.values()}
    for name in [name for name, module in sys.modules.items() if id(module) in modules]:
        del sys.modules[name]
