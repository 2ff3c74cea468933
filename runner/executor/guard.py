"""A guard above a process that runs Ansible: `python -m runner.executor.guard RUNNER FOLDER MODULE ARGUMENT…`.

Started by `runner.executor.guarded`. The module is imported below it, in a child: the guard itself stays small.

Next on the way: `runner.executor.warm.forkserver` or `runner.executor.cold_main`.
"""

from __future__ import annotations

import importlib
import sys

from runner.executor.processes import guard

if __name__ == "__main__":
    runner, folder, module, *arguments = sys.argv[1:]
    guard(int(runner), *filter(None, [folder]))
    sys.exit(importlib.import_module(module).main(*arguments))
