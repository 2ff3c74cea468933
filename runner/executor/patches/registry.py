"""Where ansible-core is worked on from outside: a seam is put in only if this ansible-core is as it was written for.

What is not as known goes ansible-core's standard way, which is slower and never wrong.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

# A seam's name, what raises where this ansible-core is not as known, and what puts the seam in.
Seam = tuple[str, Callable[[], None], Callable[[], Any]]


def install(seams: Iterable[Seam]) -> tuple[dict[str, str], dict[str, Any]]:
    """What was left out, and why; and what the others' putting in gave; by name."""
    left_out: dict[str, str] = {}
    installed = {}
    for name, check, put in seams:
        try:
            check()
        except (LookupError, AttributeError, TypeError, ValueError, ImportError) as error:
            left_out[name] = str(error)
        else:
            installed[name] = put()
    return left_out, installed


def expect(function: Any, *parameters: str) -> None:
    """LookupError unless the function has these parameters, and no others that must be given."""
    known = inspect.signature(function).parameters
    missing = [name for name in parameters if name not in known]
    strange = [
        name
        for name, parameter in known.items()
        if name not in parameters and parameter.default is parameter.empty and parameter.kind not in _COLLECTING
    ]
    if missing or strange:
        raise LookupError(f"{function.__qualname__} is not as known (missing {missing}, unknown {strange})")


_COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def bounded(kept: dict[Any, Any], most: int) -> None:
    """Let the oldest entries go. What is used again and again is soon back."""
    while len(kept) > most:
        del kept[next(iter(kept))]
