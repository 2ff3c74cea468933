"""The run's own kubeconfig is read once in a run, and others each time; a client of it serves later runs as well."""

import base64
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.executor.patches import kubernetes_core
from runner.executor.patches.kubernetes_core import Connections
from runner.proxy.sessions import Token, kubeconfigs
from tests.executor.patches.test_ansible_core import loaded


class _Configuration:
    """Each is another one."""

    socket_options: Any = None


class World:
    """A kubernetes.core that notes down what it is asked, and a Kubernetes client with a default."""

    def __init__(self, own: Path) -> None:
        self.default: Any = "that of an earlier one"
        self.asked: list[dict[str, Any]] = []
        self.defaults: list[Any] = []
        kubernetes = SimpleNamespace(
            client=SimpleNamespace(Configuration=SimpleNamespace(set_default=self._set_default)),
            config=SimpleNamespace(kube_config=SimpleNamespace(_cleanup_temp_files=None)),
        )
        module = SimpleNamespace(_create_configuration=self._create, create_api_client=None, _pool={}, kubernetes=kubernetes)
        connections = Connections(module)
        connections.own = str(own)
        self.create = connections.create

    def _create(self, auth: dict[str, Any]) -> object:
        self.asked.append(dict(auth))
        self.defaults.append(self.default)
        self.default = _Configuration()
        return self.default

    def _set_default(self, default: Any) -> None:
        self.default = default


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    path.write_text("{}")
    return path


@pytest.fixture
def world(own: Path) -> World:
    return World(own)


def test_the_same_is_read_once(world: World, own: Path) -> None:
    auth = {"kubeconfig": str(own), "verify_ssl": None}
    assert world.create(auth) is world.create(dict(auth))
    assert len(world.asked) == 1


def test_what_differs_is_read_again(world: World, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auth = {"kubeconfig": str(own)}
    world.create(auth)
    world.create({**auth, "context": "other"})
    world.create(auth)
    monkeypatch.setenv("HTTPS_PROXY", "http://elsewhere")
    world.create(auth)
    own.write_text("{ }")
    os.utime(own, ns=(1, 1))
    world.create(auth)
    assert len(world.asked) == 5


def test_none_begins_with_what_an_earlier_one_has_left(world: World, own: Path) -> None:
    world.create({"kubeconfig": str(own)})
    world.create({"kubeconfig": str(own), "host": "https://elsewhere", "api_key": "x"})
    assert world.defaults == [None, None]


def test_what_is_read_once_is_the_default_as_if_it_had_been_read_again(world: World, own: Path) -> None:
    created = [world.create({"kubeconfig": path}) for path in (str(own), "/elsewhere", str(own), str(own))]
    assert world.default is created[-1]


@pytest.mark.parametrize("kubeconfig", [None, "/elsewhere", {"clusters": []}], ids=str)
def test_others_are_read_each_time(world: World, kubeconfig: Any) -> None:
    for _ in range(2):
        world.create({"kubeconfig": kubeconfig})
    assert len(world.asked) == 2


def test_one_that_a_task_has_put_into_the_environment_is_not_the_runs_own(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_text("{}")
    monkeypatch.setenv("K8S_AUTH_KUBECONFIG", str(other))
    for _ in range(2):
        world.create({"kubeconfig": str(other)})
    assert len(world.asked) == 2


KINDS = {"things": "Thing"}


class Server:
    """An API server that knows some kinds, and notes down who has asked for what on which connection."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.kinds = dict(KINDS)
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                path = "/" + self.path.removeprefix(f"http://127.0.0.1:{server.port}/").lstrip("/")
                credentials = str(self.headers["authorization"]).partition(" ")[2]
                token = base64.b64decode(credentials).decode().partition(":")[0]
                server.asked.append((token, path, self.client_address))
                answer = json.dumps(server.answer(path)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, path: str) -> Any:
        match path:
            case "/version":
                return {"gitVersion": "v1.36.2"}
            case "/apis":
                version = {"groupVersion": "example.com/v1", "version": "v1"}
                return {
                    "kind": "APIGroupList",
                    "groups": [{"name": "example.com", "versions": [version], "preferredVersion": version}],
                }
            case "/apis/example.com/v1":
                resources = [{"name": name, "kind": kind, "verbs": ["get"]} for name, kind in self.kinds.items()]
                return {"kind": "APIResourceList", "resources": resources}
        return {"kind": "Thing", "metadata": {"name": path.rpartition("/")[2]}}

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


class Process:
    """A process that plays runs one after another, with the kubernetes.core that is installed."""

    def __init__(self, folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = importlib.import_module(kubernetes_core._CLIENT)
        self.connections = Connections(self.module)
        self._folder = folder
        self._server = server
        self._monkeypatch = monkeypatch
        for name in ("_create_configuration", "create_api_client"):
            monkeypatch.setattr(self.module, name, getattr(self.module, name))
        self.module._create_configuration = self.connections.create
        self.module.create_api_client = self.connections.client

    def begin_run(self, token: str, server: Server | None = None) -> None:
        # In which kubernetes.core would have its cache.
        self._monkeypatch.setattr(tempfile, "tempdir", tempfile.mkdtemp(dir=self._folder))
        path = Path(tempfile.gettempdir()) / "kubeconfig"
        path.write_text(kubeconfigs(Token(token), port=(server or self._server).port, namespace="default")[1])
        self.connections.own = str(path)

    def get(self, kind: str = "Thing", **arguments: Any) -> Any:
        """What a task does. The client that it has had is given."""
        client = self.module.get_api_client(**{"kubeconfig": self.connections.own, **arguments})
        client.get(client.resource(kind, "example.com/v1"), name="one")
        return client

    def run(self, token: str, *kinds: str, server: Server | None = None, **arguments: Any) -> list[str]:
        """The paths that a run has asked for; each with its own token."""
        asked = (server or self._server).asked
        asked.clear()
        self.begin_run(token, server)
        for kind in kinds or ("Thing",):
            self.get(kind, **arguments)
        assert {request[0] for request in asked} == {token}
        self.connections.end_run()
        return [request[1] for request in asked]


@pytest.fixture
def process(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    for name in list(os.environ):
        if name.startswith("K8S_AUTH_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    made = Process(tmp_path, server, monkeypatch)
    yield made
    made.connections.end_run()


DISCOVERY = ["/version", "/apis", "/apis/example.com/v1"]
ONE = ["/apis/example.com/v1/things/one"]


def test_what_a_client_has_found_out_and_its_connection_serve_later_runs_with_their_own_tokens(
    process: Process, server: Server
) -> None:
    assert process.run("the-token-of-run-1") == DISCOVERY + ONE
    first = {request[2] for request in server.asked}
    assert process.run("the-token-of-run-2", "Thing", "Thing") == ONE * 2
    assert {request[2] for request in server.asked} == first
    assert len(process.connections.descriptors()) == 1


def test_of_a_run_that_has_ended_no_token_is_left(process: Process) -> None:
    process.run("the-token-of-run-1")
    process.begin_run("the-token-of-run-2")
    client = process.get().client
    assert "the-token-of-run-2" in client.configuration.proxy
    process.connections.end_run()
    assert client.configuration is client.client.configuration is None
    assert process.module._pool == {}
    gc.collect()
    held = [client, process.connections, process.module.kubernetes.client.Configuration]
    seen: set[int] = set()
    while held:
        one = held.pop()
        if isinstance(one, str | bytes):
            assert "the-token-of-run" not in str(one)
        elif id(one) not in seen and not isinstance(one, type(os)) and one is not process._folder:
            seen.add(id(one))
            held += [value for value in gc.get_referents(one) if not isinstance(value, dict) or "__name__" not in value]


def test_a_kubeconfig_that_differs_in_its_token_only_is_not_read_again(
    process: Process, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []
    create = process.connections._create
    monkeypatch.setattr(process.connections, "_create", lambda auth: (read.append(process.connections.own), create(auth))[1])
    for token in ("first-token", "second-token"):
        process.run(token)
    assert len(read) == 1
    # Not what a task says beside it, nor a proxy.
    process.run("third-token", verify_ssl=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    process.run("fourth-token")
    assert len(read) == 3


def test_a_configuration_that_was_not_read_is_as_if_it_had_been(process: Process) -> None:
    def values(configuration: Any) -> dict[str, Any]:
        return {name: value for name, value in vars(configuration).items() if "logger" not in name and "hook" not in name}

    for token in ("first-token", "second-token"):
        process.begin_run(token)
        created = process.module._create_configuration({"kubeconfig": process.connections.own, "proxy_headers": {}})
        read = process.connections._create({"kubeconfig": process.connections.own, "proxy_headers": {}})
        assert {**values(read), "socket_options": created.socket_options} == values(created)


def test_what_is_not_known_yet_is_looked_for(process: Process, server: Server) -> None:
    process.run("the-token-of-run-1")
    server.kinds["others"] = "Other"
    asked = process.run("the-token-of-run-2", "Other", "Thing")
    assert asked[:3] == DISCOVERY
    assert asked[3:] == ["/apis/example.com/v1/others/one", *ONE]


def test_what_was_found_out_long_ago_is_found_out_again(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    process.run("the-token-of-run-1")
    monkeypatch.setattr(kubernetes_core, "_AGE", 0.0)
    assert process.run("the-token-of-run-2") == DISCOVERY + ONE


def test_an_idle_connection_is_not_used_again(process: Process, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    process.run("the-token-of-run-1")
    first = {request[2] for request in server.asked}
    monkeypatch.setattr(kubernetes_core, "_IDLE", 0.0)
    assert process.run("the-token-of-run-2") == ONE
    assert not first & {request[2] for request in server.asked}


def test_another_server_has_another_client(process: Process) -> None:
    process.run("the-token-of-run-1")
    other = Server()
    assert process.run("the-token-of-run-2", server=other) == DISCOVERY + ONE
    other.close()
    assert process.run("the-token-of-run-3") == ONE


@pytest.mark.parametrize("arguments", [{"impersonate_user": "jane"}, {"no_proxy": "elsewhere"}], ids=str)
def test_a_client_that_was_asked_for_otherwise_is_another(process: Process, arguments: Any) -> None:
    process.run("the-token-of-run-1")
    process.run("the-token-of-run-2", **arguments)
    assert process.run("the-token-of-run-3") == ONE


def test_headers_that_a_task_has_set_are_not_for_later_runs(process: Process) -> None:
    process.begin_run("the-token-of-run-1")
    process.get().client.client.set_default_header("Impersonate-User", "jane")
    process.connections.end_run()
    assert process.run("the-token-of-run-2") == DISCOVERY + ONE


def test_of_another_kubeconfig_nothing_is_kept(process: Process, tmp_path: Path, server: Server) -> None:
    for number in (1, 2):
        other = tmp_path / "other"
        other.write_text(kubeconfigs(Token(f"the-token-of-another-{number}"), port=server.port, namespace="")[1])
        asked = process.run(f"the-token-of-another-{number}", kubeconfig=str(other))
        assert asked == DISCOVERY + ONE
        assert process.connections.descriptors() == set()


WITHOUT = """
from dataclasses import replace
from runner.executor.patches import kubernetes_core

def unknown():
    raise LookupError("another kubernetes.core")

kubernetes_core.PATCH = replace(kubernetes_core.PATCH, verify=unknown)
"""


def test_modules_of_which_one_could_reach_anothers_cluster_are_not_called_in_the_process(tmp_path: Path) -> None:
    assert loaded(tmp_path, WITHOUT) == "[] {'connections': 'another kubernetes.core'}"


def test_one_api_is_imported_without_all_others() -> None:
    """The client's deprecated package has them all; kubernetes.core's k8s_exec asks it for one."""
    program = (
        "import sys; from runner.executor.patches.kubernetes_core import shorten_imports; shorten_imports(); "
        "from kubernetes.client.apis import core_v1_api; from kubernetes.client.api import CoreV1Api; "
        "assert core_v1_api.CoreV1Api is CoreV1Api; print('kubernetes.client.api.apps_v1_api' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
