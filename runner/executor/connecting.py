"""A seam of kubernetes.core: how to reach the cluster is read once in a run, instead of by each of its tasks.

It is so for the run's own kubeconfig only, in which there is no more than an address and a token: with others a task may
have something done (start a process for a token, say) each time.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Hashable
from typing import Any

from runner.executor.seams import expect

_CLIENT = "ansible_collections.kubernetes.core.plugins.module_utils.k8s.client"
_OURS = "K8S_AUTH_KUBECONFIG"

Create = Callable[[dict[str, Any]], Any]


def check() -> None:
    if (client := _client()) is not None:
        expect(client._create_configuration, "auth")
        expect(client.get_api_client)


def put() -> None:
    # Not every operator has Kubernetes' collection; this one would have nothing to do with it.
    if (client := _client()) is not None:
        client._create_configuration = create_configuration(client._create_configuration)


def _client() -> Any:
    try:
        return importlib.import_module(_CLIENT)
    except ImportError:
        return None


def create_configuration(original: Create) -> Create:
    """kubernetes.core's `_create_configuration`, which `original` is: `auth` are a task's arguments of that kind."""
    last: list[tuple[Hashable, Any]] = []

    def created(auth: dict[str, Any]) -> Any:
        known = _all_it_depends_on(auth)
        if known is None:
            return original(auth)
        if not last or last[0][0] != known:
            last[:] = [(known, original(auth))]
        return last[0][1]

    return created


def _all_it_depends_on(auth: dict[str, Any]) -> Hashable:
    """None where it is not the run's own kubeconfig."""
    path = os.environ.get(_OURS)
    if not path or auth.get("kubeconfig") != path:
        return None
    try:
        state = os.stat(path)
    except OSError:
        return None
    return repr(sorted(auth.items())), state.st_mtime_ns, state.st_size, state.st_ino, frozenset(os.environ.items())
