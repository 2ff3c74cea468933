"""What the runner was told: flags and environment, read once, checked once, frozen.

A default or what a value may be belongs here; `flags` declares the flags and hands their values over.
What a single watch says is in `runner.config.watches`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from runner import logs
from runner.errors import ConfigurationError

DEFAULT_WATCHES_FILE = "./watches.yaml"
DEFAULT_RECONCILE_PERIOD = "10h"
DEFAULT_HEALTH_ADDRESS = ":6789"
DEFAULT_METRICS_ADDRESS = ":8443"
# Where operator_sdk.util.osdk_metric sends to unless its task says otherwise.
DEFAULT_ROLE_METRICS_ADDRESS = "localhost:5050"
DEFAULT_PROXY_PORT = 8888
DEFAULT_VERBOSITY = 2
DEFAULT_GRACE = "30s"
DEFAULT_LEASE_DURATION = "15s"
DEFAULT_RENEW_DEADLINE = "10s"
DEFAULT_EXECUTOR = "warm"
EXECUTORS = ("warm", "subprocess")
DEFAULT_RUN_ISOLATION = "worker"
RUN_ISOLATIONS = ("worker", "fork")
# Of a worker: runs, seconds, bytes more than after its first run.
DEFAULT_WORKER_MAX_RUNS, DEFAULT_WORKER_MAX_AGE, DEFAULT_WORKER_MAX_MEMORY = 500, "1h", 64 * 1024**2
DEFAULT_MAX_ARTIFACTS_SIZE = 1024**3
# The Go operator's.
DEFAULT_RUNS_DIR = Path(tempfile.gettempdir()) / "ansible-operator" / "runner"

MAX_VERBOSITY = 7


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens; an empty host means every interface, port 0 a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class LogEvents(StrEnum):
    """What of a run is logged: its tasks and their failures, every event with its data, or neither."""

    TASKS = "tasks"
    EVERYTHING = "everything"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Election:
    """By which Lease the leader is elected; an empty namespace is the pod's. Durations are seconds."""

    name: str
    namespace: str
    lease_duration: float
    renew_deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    watches_file: Path = Path(DEFAULT_WATCHES_FILE)
    # Names and patterns, as `watched_namespaces` gives them. Empty: every namespace.
    namespaces: tuple[str, ...] = ()
    # Seconds; 0: never.
    reconcile_period: float = 36_000.0
    # None: a run may take as long as it likes.
    run_timeout: float | None = None
    shutdown_grace: float = 30.0
    # Runs at once: for each kind, and over all kinds (0: as many as the kind with the highest limit, and more if they hang).
    max_concurrent_reconciles: int = 1
    max_concurrent_runs: int = 0
    executor: str = DEFAULT_EXECUTOR
    # Whether a process of the warm executor plays many runs of a watch, or one.
    run_isolation: str = DEFAULT_RUN_ISOLATION
    # When a process plays no more: runs, seconds, bytes more than after its first run.
    worker_max_runs: int = DEFAULT_WORKER_MAX_RUNS
    worker_max_age: float = 3600.0
    worker_max_memory: int = DEFAULT_WORKER_MAX_MEMORY
    verbosity: int = DEFAULT_VERBOSITY
    log_events: LogEvents = LogEvents.TASKS
    # What Ansible printed is logged after each run.
    debug_logs: bool = False
    ansible_args: str = ""
    roles_path: str = ""
    collections_path: str = ""
    inject_owner_ref: bool = True
    proxy_port: int = DEFAULT_PROXY_PORT
    # None: not served.
    health_address: Address | None = Address("", 6789)
    metrics_address: Address | None = Address("", 8443)
    metrics_secure: bool = False
    metrics_require_rbac: bool = False
    role_metrics_address: Address | None = Address("localhost", 5050)
    # None: this is the only replica.
    election: Election | None = None
    # Inputs and artifacts of the runs, one folder a CR.
    runs_dir: Path = DEFAULT_RUNS_DIR
    run_artifacts: bool = True
    # Bytes that all artifacts together may take; the oldest go. 0: no bound.
    max_artifacts_size: int = DEFAULT_MAX_ARTIFACTS_SIZE
    # Each line of standard input is a JSON list of kinds to requeue; its end is the runner's.
    requeue_from_stdin: bool = False
    logging: logs.Options = field(default_factory=logs.Options)
    # What the user should be told of the flags and variables, once.
    notices: tuple[str, ...] = ()


def parse_address(text: str, *, flag: str) -> Address | None:
    """`:6789`, `127.0.0.1:8080`, `[::1]:0`; `0` or nothing means: do not serve."""
    if text in ("", "0"):
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise ConfigurationError(f"{flag} {text!r} is no address: write HOST:PORT, :PORT, or 0 to switch it off")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


def watched_namespaces(environ: Mapping[str, str]) -> tuple[str, ...]:
    """WATCH_NAMESPACE: empty or absent for all, otherwise a comma list of names and patterns.

    Patterns have `*`, `?` and `[…]`; what follows a `!` is taken away from all the others. Each item of the result is one
    of kopf's patterns: a glob, and after it, by commas, the exceptions.
    """
    names = list(dict.fromkeys(filter(None, map(str.strip, environ.get("WATCH_NAMESPACE", "").split(",")))))
    exceptions = [name for name in names if name.startswith("!")]
    chosen = [name for name in names if name not in exceptions] or (["*"] if exceptions else [])
    return tuple(",".join((name, *exceptions)) for name in chosen)


def is_pattern(namespace: str) -> bool:
    """Whether this item of WATCH_NAMESPACE may stand for other namespaces than the one that it names."""
    return bool(set("*?[,") & set(namespace))


def search_paths(text: str) -> list[Path]:
    """The folders of a colon list, absolute; `~` is the user's home."""
    return [Path.cwd() / Path(part).expanduser() for part in text.split(":") if part]


def default_concurrency() -> int:
    """As many runs at once as processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
