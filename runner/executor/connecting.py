"""A seam of kubernetes.core: how to reach the cluster is read once in a run, instead of by each of its tasks.

It is so for the run's own kubeconfig only, in which there is no more than an address and a token: with others a task may
have something done (start a process for a token, say) each time.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Hashable
from typing import Any

from runner.executor.seams import expect

_COLLECTION = "ansible_collections.kubernetes.core"
_CLIENT = f"{_COLLECTION}.plugins.module_utils.k8s.client"
# In a run's environment, where its kubeconfig is.
KUBECONFIG = "K8S_AUTH_KUBECONFIG"


def check() -> None:
    if (client := _client()) is not None:
        expect(client._create_configuration, "auth")
        expect(client.get_api_client)
        expect(client.kubernetes.client.Configuration.set_default, "default")


def put() -> Connections | None:
    client = _client()
    if client is None:
        # Not every operator has Kubernetes' collection.
        return None
    connections = Connections(client._create_configuration, client.kubernetes.client.Configuration.set_default)
    client._create_configuration = connections.create
    shorten_imports()
    return connections


def shorten_imports() -> None:
    """Let k8s_exec import the one API that it needs.

    It names the client's deprecated package `kubernetes.client.apis`, which imports every API and every model: 3.6 s of the
    processor and 80 MB more than the one API's 0.9 s, measured with client 37.
    """
    sys.modules.setdefault("kubernetes.client.apis", importlib.import_module("kubernetes.client.api"))


def _client() -> Any:
    """None where there is no kubernetes.core. ImportError where it is another one."""
    try:
        importlib.import_module(_COLLECTION)
    except ImportError:
        return None
    return importlib.import_module(_CLIENT)


class Connections:
    """`create` is kubernetes.core's `_create_configuration`. `own`: the path of the run's own kubeconfig."""

    def __init__(self, original: Callable[[dict[str, Any]], Any], set_default: Callable[[Any], None]) -> None:
        self.own: str | None = None
        self._original = original
        self._set_default = set_default
        self._last: tuple[Hashable, Any] | None = None

    def create(self, auth: dict[str, Any]) -> Any:
        """`auth` are a task's arguments of that kind, and what the environment says in their place."""
        known = self._all_it_depends_on(auth)
        if known is not None and self._last is not None and self._last[0] == known:
            return self._last[1]
        # The Kubernetes client's default is the process', and what it makes begins as a copy of it.
        self._set_default(None)
        configuration = self._original(auth)
        self._last = None if known is None else (known, configuration)
        return configuration

    def _all_it_depends_on(self, auth: dict[str, Any]) -> Hashable:
        """None where it is not the run's own kubeconfig."""
        if self.own is None or auth.get("kubeconfig") != self.own:
            return None
        try:
            state = os.stat(self.own)
        except OSError:
            return None
        return repr(sorted(auth.items())), state.st_mtime_ns, state.st_size, state.st_ino, frozenset(os.environ.items())
