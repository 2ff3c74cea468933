"""The settings of `rolerunner run`: flags and environment, read once, checked once, frozen.

A flag or a variable is declared here, once, as a field of `Settings` with its default, its type and what it is for; what
several of them say together is checked in `runner.config.flags`. What a single watch says is in `runner.config.watches`.
"""

from __future__ import annotations

import ipaddress
import os
import shlex
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import click

from runner import logs
from runner.config.options import Duration, Flag, ZapLevel, flag, several, variable
from runner.resource.selectors import EVERYTHING, Selector, label_selector
from runner.resource.sharding import Shard

MAX_VERBOSITY = 7
_MEBIBYTE = 1024**2
# By which `rolerunner dev` hands over the key of its dashboard.
DASHBOARD_KEY = "ROLERUNNER_DASHBOARD_KEY"


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server; an empty host means every interface, port 0 a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class LogEvents(StrEnum):
    """The events of a run that are logged: tasks and their failures, all with their data, or none."""

    TASKS = "tasks"
    EVERYTHING = "everything"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Election:
    """The Lease that a process has to hold while it works; an empty namespace is the pod's. Durations are seconds."""

    name: str
    namespace: str
    lease_duration: float
    renew_deadline: float


def parse_address(text: str) -> Address | None:
    """`:6789`, `127.0.0.1:8080`, `[::1]:0`; `0` or nothing means: do not serve. Raises ValueError."""
    if text in ("", "0"):
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise ValueError(f"{text!r} is no address: write HOST:PORT, :PORT, or 0 to switch it off")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


def _ip(text: str) -> str:
    """An IP address in its usual form, or nothing. Raises ValueError."""
    if not text:
        return ""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("no IP address; other replicas forward no requests of the dashboard to this one") from None


def watched_namespaces(text: str) -> tuple[str, ...]:
    """The items of WATCH_NAMESPACE: a comma list of names and patterns, empty for all namespaces.

    Patterns have `*`, `?` and `[…]`; what follows a `!` is taken away from all the others. Each item of the result is one
    of kopf's patterns: a glob, and after it, by commas, the exceptions.
    """
    names = list(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
    exceptions = [name for name in names if name.startswith("!")]
    chosen = [name for name in names if name not in exceptions] or (["*"] if exceptions else [])
    return tuple(",".join((name, *exceptions)) for name in chosen)


def is_pattern(namespace: str) -> bool:
    """True if an item of WATCH_NAMESPACE may match other namespaces than the one of its name."""
    return bool(set("*?[,") & set(namespace))


def search_paths(text: str) -> list[Path]:
    """The folders of a colon list, absolute; `~` is the user's home."""
    return [Path.cwd() / Path(part).expanduser() for part in text.split(":") if part]


def _selector(text: str) -> Selector:
    """A label selector as kubectl takes it. Raises ValueError."""
    selector = label_selector(text)
    if selector is None:
        raise ValueError(f"{text!r} is no label selector: write terms like key=value, key!=value, key in (a,b), key or !key")
    return selector


def _concurrency(given: int | None) -> int:
    """The number given, or else that of the processors that this process may use."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return given or processors or 1


def _ansible_args(text: str) -> str:
    """The arguments without the quotes that a manifest's `--ansible-args='--check'` has, as no shell has read it."""
    if len(text) > 1 and text[0] == text[-1] == "'":
        text = text[1:-1]
    try:
        shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from error
    return text


def _go_boolean(text: str) -> bool:
    """A boolean as Go's strconv.ParseBool reads it. Raises ValueError."""
    if text not in ("", *"0fF", "false", "FALSE", "False", *"1tT", "true", "TRUE", "True"):
        raise ValueError(f"{text!r}, which is neither true nor false; it counts as false")
    return text.lower() in ("1", "t", "true")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a runner. Durations are seconds, sizes bytes."""

    watches_file: Path = flag(
        "--watches-file",
        click.Path(path_type=Path),
        "The file that maps kinds to roles and playbooks.",
        default="./watches.yaml",
    )
    # Empty: every namespace.
    namespaces: tuple[str, ...] = variable(
        "WATCH_NAMESPACE",
        "The namespaces to watch: names and patterns, by commas; those after a ! are left out. Default: all.",
        watched_namespaces,
    )
    reconcile_period: float = flag(
        "--reconcile-period",
        Duration(or_zero=True),
        "How often each CR is run again, where neither its watch nor the CR says otherwise; 0s for never.",
        default="10h",
    )
    run_timeout: float | None = flag(
        "--run-timeout",
        Duration(),
        "When a run is ended and counts as failed, where its watch does not say otherwise.  [default: never]",
    )
    max_concurrent_reconciles: int = flag(
        "--max-concurrent-reconciles",
        click.IntRange(min=1),
        "Runs at once for each kind.  [default: number of processors]",
        convert=_concurrency,
    )
    # 0: as many as the kind with the highest limit, and more if they hang.
    max_concurrent_runs: int = flag(
        "--max-concurrent-runs",
        click.IntRange(min=1),
        "Runs at once over all kinds; from 2 on, no kind may have all of them.  [default: as many as the kind with the "
        "highest limit; while all runs take over 30 s, one more for each kind that has none]",
        convert=lambda given: given or 0,
    )
    verbosity: int = flag(
        "--ansible-verbosity", click.IntRange(0, MAX_VERBOSITY), "How many times -v for ansible-playbook.", default=2
    )
    log_events: LogEvents = flag(
        "--ansible-log-events",
        click.Choice([what.value for what in LogEvents], case_sensitive=False),
        "What of a run is logged.",
        default=LogEvents.TASKS.value,
        convert=LogEvents,
    )
    debug_logs: bool = variable("ANSIBLE_DEBUG_LOGS", "Log what Ansible printed after each run.", _go_boolean)
    roles_path: str = flag(
        "--ansible-roles-path", click.STRING, "Where roles are looked for; overrides ANSIBLE_ROLES_PATH.", default=""
    )
    collections_path: str = flag(
        "--ansible-collections-path",
        click.STRING,
        "Where collections are looked for; overrides ANSIBLE_COLLECTIONS_PATH.",
        default="",
    )
    ansible_args: str = flag(
        "--ansible-args", click.STRING, "Further arguments for ansible-playbook.", default="", convert=_ansible_args
    )
    executor: str = flag(
        "--executor",
        click.Choice(("warm", "subprocess")),
        "How Ansible is run: by a process that has it loaded, or by a new one for each run.",
        default="warm",
    )
    run_isolation: str = flag(
        "--run-isolation",
        click.Choice(("worker", "fork")),
        "With the warm executor: a worker plays many runs of a watch and is put back and checked in between; a fork "
        "plays one.",
        default="worker",
    )
    worker_max_runs: int = flag(
        "--worker-max-runs", click.IntRange(min=1), "Runs after which a worker is replaced.", default=500
    )
    worker_max_age: float = flag("--worker-max-age", Duration(), "How long a worker is used.", default="1h")
    worker_max_memory: int = flag(
        "--worker-max-memory",
        click.IntRange(min=1),
        "MiB that a worker may have more than after its first run.",
        default=64,
        convert=_MEBIBYTE.__mul__,
    )
    inject_owner_ref: bool = flag(
        "--inject-owner-ref", click.BOOL, "Make each CR the owner of what its role creates.", default=True
    )
    # Of the addresses, None: not served.
    health_address: Address | None = flag(
        "--health-probe-bind-address",
        click.STRING,
        "Where /healthz and /readyz are served; 0 for nowhere.",
        default=":6789",
        convert=parse_address,
    )
    metrics_address: Address | None = flag(
        "--metrics-bind-address",
        click.STRING,
        "Where /metrics is served; 0 for nowhere.",
        default=":8443",
        convert=parse_address,
        old_name="--metrics-addr",
    )
    metrics_secure: bool = flag(
        "--metrics-secure", click.BOOL, "Serve /metrics over TLS, with a certificate made at start.", default=False
    )
    metrics_require_rbac: bool = flag(
        "--metrics-require-rbac",
        click.BOOL,
        "Serve /metrics only to who may read it; needs --metrics-secure.",
        default=False,
    )
    dashboard_address: Address | None = flag(
        "--dashboard-bind-address",
        click.STRING,
        "Where the dashboard is served over TLS to who has a token of the cluster; 0 for nowhere.",
        default="0",
        convert=parse_address,
    )
    # Of `rolerunner dev`: who has it sees the dashboard, over plain HTTP on this machine. None: callers need tokens.
    dashboard_key: str = variable(DASHBOARD_KEY, "The key to the dashboard.", str, hidden=True)
    pod_ip: str = variable("POD_IP", "The pod's address, at which other replicas reach the leader's dashboard.", _ip)
    # The default is where operator_sdk.util.osdk_metric sends to unless its task says otherwise.
    role_metrics_address: Address | None = flag(
        "--role-metrics-bind-address",
        click.STRING,
        "Where roles bring the metrics of osdk_metric; 0 for nowhere.",
        default="localhost:5050",
        convert=parse_address,
    )
    proxy_port: int = flag(
        "--proxy-port",
        click.IntRange(0, 65535),
        "The loopback port through which roles reach the API server; 0 for a free one.",
        default=8888,
    )
    label_selector: Selector = flag(
        "--watch-label-selector",
        click.STRING,
        "Only CRs with these labels, of all kinds, so that runners may share them. With --leader-elect each needs a "
        "--leader-election-id of its own.",
        default="",
        convert=_selector,
    )
    # None: this process has all CRs.
    shard: Shard | None = several(
        Flag(
            "--controller-ring",
            click.STRING,
            "Be a shard of this ControllerRing: work on the CRs that kubernetes-controller-sharding assigns to it. Excludes "
            "--leader-elect.",
            default="",
        ),
        Flag(
            "--shard-name",
            click.STRING,
            "The shard's name, which is its Lease's and its CRs' label's.  [default: the host's name, which is the pod's]",
            default="",
        ),
        default=lambda: None,
    )
    # None: this is the only replica.
    election: Election | None = several(
        Flag(
            "--leader-elect",
            click.BOOL,
            "Work only while holding a Lease, so that of several replicas one works.",
            default=False,
            old_name="--enable-leader-election",
        ),
        Flag(
            "--leader-election-id",
            click.STRING,
            "The Lease's name; needed with --leader-elect.",
            default="",
        ),
        Flag(
            "--leader-election-namespace",
            click.STRING,
            "The namespace of the leader's Lease, or the shard's.  [default: that of the runner's pod]",
            default="",
        ),
        Flag(
            "--leader-elect-lease-duration",
            Duration(),
            "How long a Lease that is not renewed keeps the other replicas waiting; a shard's CRs wait twice as long.",
            default="15s",
        ),
        Flag(
            "--leader-elect-renew-deadline",
            Duration(),
            "How long the leader, or a shard, tries to renew its Lease before it gives up.",
            default="10s",
        ),
        default=lambda: None,
    )
    shutdown_grace: float = flag(
        "--graceful-shutdown-timeout", Duration(or_zero=True), "How long runs may go on after SIGTERM.", default="30s"
    )
    # The default is the Go operator's.
    runs_dir: Path = flag(
        "--runs-dir",
        click.Path(path_type=Path, file_okay=False),
        "Where inputs and artifacts of the runs are kept, a folder for each CR.",
        default=str(Path(tempfile.gettempdir()) / "ansible-operator" / "runner"),
        convert=Path.absolute,
    )
    run_artifacts: bool = flag(
        "--run-artifacts", click.BOOL, "Keep what runs leave: their events, output and result.", default=True
    )
    # The oldest go. 0: no bound.
    max_artifacts_size: int = flag(
        "--max-artifacts-size",
        click.IntRange(min=0),
        "MiB that what all runs leave may take; the oldest is removed beyond that. 0: no bound.",
        default=1024,
        convert=_MEBIBYTE.__mul__,
    )
    # zap's names are the Go operator's.
    logging: logs.Options = several(
        Flag("--log-level", click.Choice(logs.LEVELS), default="info"),
        Flag(
            "--log-format",
            click.Choice(logs.FORMATS),
            "auto: console on a terminal, JSON lines elsewhere.",
            default="auto",
        ),
        Flag(
            "--zap-devel",
            click.BOOL,
            "--log-format console, --log-level debug, tracebacks of warnings.",
            default=False,
        ),
        Flag("--zap-encoder", click.Choice(("json", "console"), case_sensitive=False), "As --log-format."),
        Flag("--zap-log-level", ZapLevel(), "As --log-level; a number above zero means debug."),
        Flag(
            "--zap-stacktrace-level",
            click.Choice(("info", "error", "panic"), case_sensitive=False),
            "From which level on tracebacks are logged.  [default: error]",
        ),
        Flag(
            "--zap-time-encoding",
            click.Choice(logs.TIME_ENCODINGS, case_sensitive=False),
            "How JSON lines tell the time.",
            default="rfc3339",
        ),
        default=logs.Options,
    )
    requeue_from_stdin: bool = flag(
        "--requeue-from-stdin",
        click.BOOL,
        "Requeue the kinds of which each line of standard input is a JSON list; end with it.",
        hidden=True,
        default=False,
    )
    # Warnings about flags and variables, to be logged once.
    notices: tuple[str, ...] = ()

    @property
    def selector(self) -> Selector:
        """The selector of this process's CRs."""
        return self.label_selector & (self.shard.selector if self.shard else EVERYTHING)
