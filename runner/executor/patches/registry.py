"""The registry of patches: each is applied only where the installed version is as the patch was written for.

Where it is not, Ansible's own way is taken, which is slower and never wrong.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Patch:
    """A change of private code of ansible-core or kubernetes.core.

    `verify` raises LookupError, AttributeError, TypeError, ValueError or ImportError where that code is not as known;
    `apply` returns what the patch keeps, if anybody is to use it.
    """

    name: str
    verify: Callable[[], None]
    apply: Callable[[], Any]


def install(patches: Iterable[Patch]) -> tuple[dict[str, str], dict[str, Any]]:
    """Apply the patches. By name: why one was left out, and what `apply` of the others returned."""
    left_out: dict[str, str] = {}
    installed = {}
    for patch in patches:
        try:
            patch.verify()
        except (LookupError, AttributeError, TypeError, ValueError, ImportError) as error:
            left_out[patch.name] = str(error)
        else:
            installed[patch.name] = patch.apply()
    return left_out, installed


def expect(function: Callable[..., object], *parameters: str) -> None:
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
    """Remove the oldest entries beyond so many. What is used often is soon back."""
    while len(kept) > most:
        del kept[next(iter(kept))]
