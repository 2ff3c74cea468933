"""ansible-runner's wrappers of Display bind arguments without `inspect`, and `debug` is called only when debugging.

It wraps the methods of ansible-core's Display, and binds the arguments of each call by the method's signature; of `debug`
there are a hundred calls in a run, mostly for nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from ansible import constants
from ansible.plugins.loader import callback_loader
from ansible.utils.display import Display

from runner.executor.patches.registry import Patch, expect


def verify() -> None:
    module = _module()
    expect(module["_getsignature"], "f")
    expect(module["_getcallargs"], "sig")
    expect(Display.debug, "self", "msg", "host")
    _ = constants.DEFAULT_DEBUG


def apply() -> None:
    module = _module()
    module["_getsignature"], module["_getcallargs"] = parameters, arguments
    marked = Display.debug

    def debug(self: Any, msg: str, host: str | None = None) -> None:
        if constants.DEFAULT_DEBUG:
            marked(self, msg, host=host)

    Display.debug = debug


def _module() -> dict[str, Any]:
    """The names of the callback plugin's module."""
    found: dict[str, Any] = callback_loader.get("awx_display", class_only=True).set_options.__globals__
    return found


@functools.cache
def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The names of a function's parameters, and their defaults."""
    return {name: each.default for name, each in inspect.signature(function).parameters.items()}


def arguments(parameters: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a call. If it cannot be made, it says so itself."""
    return {**parameters, **dict(zip(parameters, args, strict=False)), **kwargs}


PATCH = Patch("display", verify, apply)
