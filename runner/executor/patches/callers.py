"""The callers of a function that is deprecated are looked for without their source code, and only as far as needed.

Each deprecation asks who has called, in a list of all callers with their source. kubernetes.core causes two with each
template.

Saves 2.1 ms (10 %) of a run of one task, 135 (114 %) of ten.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from typing import Any

from runner.executor.patches.registry import Patch, expect


def verify() -> None:
    _stack = importlib.import_module("ansible.module_utils._internal._stack")
    expect(_stack.iter_stack)
    expect(_stack.caller_frame)
    expect(inspect.getframeinfo, "frame", "context")


def apply() -> None:
    def iter_stack() -> Iterator[inspect.FrameInfo]:
        frame = sys._getframe().f_back
        while frame is not None:
            if "_skip_stackwalk" not in frame.f_locals:
                found = inspect.getframeinfo(frame, context=0)
                yield inspect.FrameInfo(frame, found.filename, found.lineno, found.function, None, None)
            frame = frame.f_back

    _stack: Any = importlib.import_module("ansible.module_utils._internal._stack")
    _stack.iter_stack = iter_stack


PATCH = Patch("callers", verify, apply)
