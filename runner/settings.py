"""What the runner was told: flags and environment, read once, checked once, frozen.

A default, a flag's meaning or a variable's name belongs here; `cli` declares the flags and hands their values over.
What a single watch says is in `runner.watches`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_WATCHES_FILE = "./watches.yaml"
DEFAULT_RECONCILE_PERIOD = "10h"
DEFAULT_HEALTH_ADDRESS = ":6789"
DEFAULT_METRICS_ADDRESS = ":8443"
DEFAULT_PROXY_PORT = 8888
DEFAULT_VERBOSITY = 2
DEFAULT_GRACE = "30s"
DEFAULT_EXECUTOR = "subprocess"
EXECUTORS = ("subprocess",)
# The Go operator's.
DEFAULT_RUNS_DIR = Path(tempfile.gettempdir()) / "ansible-operator" / "runner"

MAX_VERBOSITY = 7


class ConfigurationError(Exception):
    """A user's mistake in a flag, a variable or a file: `str()` says where it is and what to do about it.

    `watches.WatchesError` is one of these.
    """


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens; an empty host means every interface, port 0 a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    watches_file: Path = Path(DEFAULT_WATCHES_FILE)
    # Empty: every namespace.
    namespaces: tuple[str, ...] = ()
    # Seconds.
    reconcile_period: float = 36_000.0
    shutdown_grace: float = 30.0
    # Runs at once: for each kind, and over all kinds (0: as many as the kind with the highest limit).
    max_concurrent_reconciles: int = 1
    max_concurrent_runs: int = 0
    executor: str = DEFAULT_EXECUTOR
    verbosity: int = DEFAULT_VERBOSITY
    ansible_args: str = ""
    roles_path: str = ""
    collections_path: str = ""
    inject_owner_ref: bool = True
    proxy_port: int = DEFAULT_PROXY_PORT
    # None: not served.
    health_address: Address | None = Address("", 6789)
    metrics_address: Address | None = Address("", 8443)
    # Inputs and artifacts of the runs, one folder a CR.
    runs_dir: Path = DEFAULT_RUNS_DIR
    log_level: str = "info"
    log_format: str = "auto"


def parse_address(text: str, *, flag: str) -> Address | None:
    """`:6789`, `127.0.0.1:8080`, `[::1]:0`; `0` or nothing means: do not serve."""
    if text in ("", "0"):
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"{flag} {text!r} is no address: write HOST:PORT, :PORT, or 0 to switch it off")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


def watched_namespaces(environ: Mapping[str, str]) -> tuple[str, ...]:
    """WATCH_NAMESPACE: empty or absent for all, otherwise a comma list."""
    names = (name.strip() for name in environ.get("WATCH_NAMESPACE", "").split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def search_paths(text: str) -> list[Path]:
    """The folders of a colon list, absolute; `~` is the user's home."""
    return [Path.cwd() / Path(part).expanduser() for part in text.split(":") if part]


def default_concurrency() -> int:
    """As many runs at once as processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
