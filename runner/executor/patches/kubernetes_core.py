"""Clients of kubernetes.core, with their connections and discovery, are kept for later runs; a kubeconfig is read once.

It is so for the run's own kubeconfig only, in which there is no more than an address and a token: with others a task may
have something done (start a process for a token, say) each time. Each run's configuration, and so its token, is its own.

Saves 4.7 ms (15 %) of a run of one task, 40 (27 %) of ten.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import importlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.executor.patches.registry import Patch, bounded, expect

_COLLECTION = "ansible_collections.kubernetes.core"
_CLIENT = f"{_COLLECTION}.plugins.module_utils.k8s.client"
# In a run's environment, where its kubeconfig is.
KUBECONFIG = "K8S_AUTH_KUBECONFIG"
# Seconds: how long a client's discovery counts (what it does not find it looks for again at once), and how long a connection
# may be idle.
_AGE, _IDLE = 60.0, 15.0
# Clients that are kept: one does for nearly all.
_MOST = 4
# What a task may say of how to reach the cluster, apart from the kubeconfig, for its client to be kept.
_HARMLESS = frozenset({"kubeconfig", "context", "verify_ssl", "no_proxy", "persist_config"})
# Of a client's configuration: what is the run's own, and loggers, which are the process'.
_OF_THE_RUN = frozenset({"api_key", "refresh_api_key_hook", "kubeconfig"})
_LOGGING = frozenset({"logger", "logger_formatter", "logger_stream_handler", "logger_file_handler"})
_NOT_COMPARED = frozenset({"refresh_api_key_hook", *_LOGGING})
# What stands for a run's token; what the Kubernetes client reads of the environment.
_TOKEN = "TOKEN-OF-THE-RUN"
_PROXY = re.compile("_proxy$|^REQUEST_METHOD$", re.IGNORECASE)


def verify() -> None:
    if (client := _client()) is not None:
        expect(client._create_configuration, "auth")
        expect(client.get_api_client)
        expect(client.create_api_client)
        expect(client.kubernetes.client.Configuration.set_default, "default")
        expect(client.kubernetes.config.kube_config._cleanup_temp_files)
        _ = client._pool.clear


def apply() -> Connections | None:
    client = _client()
    if client is None:
        # Not every operator has Kubernetes' collection.
        return None
    connections = Connections(client)
    client._create_configuration, client.create_api_client = connections.create, connections.client
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
    """The kept clients. `create` and `client` replace kubernetes.core's `_create_configuration` and `create_api_client`.

    `own`: the path of the run's own kubeconfig. `module`: kubernetes.core's, whose functions they call.
    """

    def __init__(self, module: Any) -> None:
        self.own: str | None = None
        self._create, self._make = module._create_configuration, module.create_api_client
        self._pool: dict[str, Any] = module._pool
        self._set_default: Callable[[Any], None] = module.kubernetes.client.Configuration.set_default
        self._clean_up: Callable[[], None] = module.kubernetes.config.kube_config._cleanup_temp_files
        self._last: tuple[Hashable, Any] | None = None
        # The run's configurations of which the clients may be kept: by their ids, with what there is of secrets in them.
        self._simple: dict[int, tuple[Any, str]] = {}
        self._kept: dict[Hashable, _Kept] = {}
        # Configurations but for what is a run's own, by all that they depend on.
        self._forms: dict[Hashable, Any] = {}

    def create(self, auth: dict[str, Any]) -> Any:
        """`auth` are a task's arguments of that kind, and what the environment says in their place."""
        known = self._all_it_depends_on(auth)
        if known is not None and self._last is not None and self._last[0] == known:
            return self._last[1]
        # The Kubernetes client's default is the process', and what it makes begins as a copy of it.
        self._set_default(None)
        own = _Own.read(self.own) if known is not None else None
        configuration = self._read(auth, own) if own is not None and _is_all(auth) else self._create(auth)
        if known is not None:
            # A request's head and body are sent apart, and to what urllib3 takes for a proxy it leaves Nagle's algorithm on:
            # the body would wait 40 ms for the head to be acknowledged.
            configuration.socket_options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        self._last = None if known is None else (known, configuration)
        if own is not None and {name for name, value in auth.items() if value} <= _HARMLESS:
            self._simple[id(configuration)] = configuration, own.token
        return configuration

    def _read(self, auth: dict[str, Any], own: _Own) -> Any:
        """The configuration of the run's own kubeconfig, read if an earlier run has had another but for its token."""
        key = own.text.replace(own.token, ""), *(item for item in os.environ.items() if _PROXY.search(item[0]))
        if (form := self._forms.get(key)) is not None:
            configuration = own.filled(form)
            self._set_default(configuration)
            return configuration
        configuration = self._create(auth)
        if (form := own.form(configuration)) is not None:
            self._forms[key] = form
            bounded(self._forms, _MOST)
        return configuration

    def client(self, configuration: Any, **headers: Any) -> Any:
        """A client that has this configuration: one that was kept, or a new one."""
        found = self._simple.get(id(configuration))
        if found is None or headers:
            return self._make(configuration, **headers)
        with _without(configuration, found[1]):
            key = _key(configuration, found[1])
            kept = self._kept.pop(key, None)
            if kept is not None and not kept.is_fresh():
                self._forget(kept.client)
                kept = None
            if kept is None:
                kept = _Kept(self._make(configuration))
                if key is None or not kept.is_as_known():
                    return kept.client
        kept.use(configuration)
        self._kept[key] = kept
        bounded(self._kept, _MOST)
        return kept.client

    def _forget(self, client: Any) -> None:
        for digest, pooled in list(self._pool.items()):
            if pooled is client:
                del self._pool[digest]
        # What it holds is its own affair.
        with contextlib.suppress(Exception):
            client.client.close()

    def end_run(self) -> None:
        """Forget what the run has used but what it has found out, which is for those that come after it."""
        self._last = None
        self._simple.clear()
        for kept in self._kept.values():
            kept.release()
        kept_clients = [kept.client for kept in self._kept.values()]
        for client in list(self._pool.values()):
            if not any(client is kept for kept in kept_clients):
                self._forget(client)
        self._pool.clear()
        self._set_default(None)
        self._clean_up()

    def descriptors(self) -> set[int]:
        """Those of the connections that are kept."""
        return {number for kept in self._kept.values() for number in kept.descriptors()}

    def _all_it_depends_on(self, auth: dict[str, Any]) -> Hashable:
        """None where it is not the run's own kubeconfig."""
        if self.own is None or auth.get("kubeconfig") != self.own:
            return None
        try:
            state = os.stat(self.own)
        except OSError:
            return None
        return repr(sorted(auth.items())), state.st_mtime_ns, state.st_size, state.st_ino, frozenset(os.environ.items())


class _Kept:
    """A client of kubernetes.core. Between two runs it has no configuration."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._headers = dict(client.client.default_headers)
        self._made = self._used = time.monotonic()

    def is_fresh(self) -> bool:
        return time.monotonic() - self._made < _AGE and self.client.client.default_headers == self._headers

    def is_as_known(self) -> bool:
        """True if it has its configuration, and so its token, in the known places."""
        configuration = vars(self.client).get("configuration")
        return configuration is not None and configuration is vars(self.client.client).get("configuration")

    def use(self, configuration: Any) -> None:
        if time.monotonic() - self._used > _IDLE:
            # Its other end may just be closing it.
            self.client.client.rest_client.pool_manager.clear()
        self._used = time.monotonic()
        self._configure(configuration)

    def release(self) -> None:
        self._used = time.monotonic()
        self._configure(None)

    def descriptors(self) -> Iterator[int]:
        pools = self.client.client.rest_client.pool_manager.pools
        for key in pools.keys():  # noqa: SIM118 - it cannot be iterated over itself
            for connection in list(pools[key].pool.queue):
                if connection is not None and connection.sock is not None:
                    yield connection.sock.fileno()

    def _configure(self, configuration: Any) -> None:
        for part in (self.client, self.client.client, self.client.client.rest_client):
            part.configuration = configuration


@dataclass(frozen=True, slots=True)
class _Own:
    """A run's own kubeconfig, with the token in its place."""

    path: str
    text: str
    token: str
    authorization: str

    @staticmethod
    def read(path: str | None) -> _Own | None:
        try:
            text = Path(path or "").read_text()
            (user,) = json.loads(text)["users"]
            token, password = str(user["user"]["username"]), user["user"].get("password", "")
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None
        authorization = base64.b64encode(f"{token}:{password}".encode()).decode()
        return _Own(str(path), text, token, f"Basic {authorization}") if token else None

    def form(self, configuration: Any) -> Any:
        """A copy of the configuration without what is the run's own; None if there is more of that than is known."""
        form = copy.deepcopy(configuration)
        form.api_key = dict.fromkeys(form.api_key, "")
        form.proxy = str(form.proxy).replace(self.token, _TOKEN)
        # It would read the same again.
        form.kubeconfig = form.refresh_api_key_hook = None
        filled, values = vars(self.filled(form)), repr(vars(form))
        is_known = all(filled.get(name) == value for name, value in vars(configuration).items() if name not in _NOT_COMPARED)
        has_secrets = self.token in values or self.authorization in values
        return form if is_known and not has_secrets and not _has_files(form) else None

    def filled(self, form: Any) -> Any:
        configuration = copy.deepcopy(form)
        configuration.api_key = dict.fromkeys(form.api_key, self.authorization)
        configuration.proxy = form.proxy.replace(_TOKEN, self.token)
        configuration.kubeconfig = self.path
        return configuration


def _is_all(auth: Mapping[str, Any]) -> bool:
    """True if a task's authentication options are a kubeconfig alone."""
    return all(name == "kubeconfig" or value is None or value == {} for name, value in auth.items())


def _has_files(configuration: Any) -> bool:
    """Which may go."""
    return bool(configuration.ssl_ca_cert or configuration.cert_file or configuration.key_file)


def _key(configuration: Any, token: str) -> Hashable:
    """All that a client depends on but the run's token; None where there is more of that, or of files."""
    if _has_files(configuration):
        return None
    text = repr(
        sorted((name, repr(value)) for name, value in vars(configuration).items() if name not in _OF_THE_RUN | _LOGGING)
    )
    return None if token in text else text


@contextlib.contextmanager
def _without(configuration: Any, token: str) -> Iterator[None]:
    """Meanwhile the address of the proxy is without the token, which is sent otherwise: clients remember it."""
    proxy = configuration.proxy
    if not proxy or token not in proxy:
        yield
        return
    scheme, _, rest = proxy.partition("://")
    configuration.proxy = f"{scheme}://{rest.rpartition('@')[2]}"
    try:
        yield
    finally:
        configuration.proxy = proxy


PATCH = Patch("connections", verify, apply)
