"""The flags of `rolerunner run`, declared, and made into `Settings` together with the environment.

The names and defaults are the Go operator's, so that a Deployment written for it works as it stands: a switch may be given
alone or with a value (`--leader-elect`, `--leader-elect=false`), names that it has deprecated are still taken, and zap's
flags keep their meaning. What a flag is for once it has been read belongs to who uses it.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from runner import logs
from runner.config import settings
from runner.config.settings import Election, LogEvents, Settings
from runner.errors import ConfigurationError
from runner.resource.metadata import parse_duration


class Duration(click.ParamType[float]):
    """A Go duration above zero, or from zero on; its value is seconds."""

    name = "duration"

    def __init__(self, *, or_zero: bool = False) -> None:
        self._or_zero = or_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = value if isinstance(value, float) else parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds < 0 or (seconds == 0 and not self._or_zero):
            self.fail(f"{value!r} is {'below' if self._or_zero else 'not above'} zero", param, ctx)
        return seconds


class ZapLevel(click.ParamType[str]):
    """zap's level as one of ours: its numbers are debug levels."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        level = str(value).lower()
        if level.isascii() and level.isdigit() and level.strip("0"):
            return "debug"
        if level not in _ZAP_LEVELS:
            self.fail(f"{value!r} is none of {', '.join(_ZAP_LEVELS)}, nor a number above zero", param, ctx)
        return _ZAP_LEVELS[level]


_ZAP_LEVELS = {"debug": "debug", "info": "info", "error": "error", "panic": "critical"}

# Of two names for one thing, only one may be given.
_SYNONYMS = (
    ("metrics_bind_address", "metrics_addr"),
    ("leader_elect", "enable_leader_election"),
    ("log_level", "zap_log_level"),
    ("log_format", "zap_encoder"),
)


def _switch(name: str, *, default: bool = False, help: str, hidden: bool = False) -> Any:
    """As in Go: `--x`, `--x=true` or `--x=false`."""
    return click.option(
        name,
        is_flag=False,
        flag_value="true",
        type=bool,
        default=default,
        show_default=True,
        metavar="[=BOOLEAN]",
        help=help,
        hidden=hidden,
    )


WATCHES_FILE = click.option(
    "--watches-file",
    default=settings.DEFAULT_WATCHES_FILE,
    show_default=True,
    type=click.Path(path_type=Path),
    help="The file that maps kinds to roles and playbooks.",
)

_OPTIONS = (
    WATCHES_FILE,
    click.option(
        "--reconcile-period",
        type=Duration(or_zero=True),
        default=settings.DEFAULT_RECONCILE_PERIOD,
        show_default=True,
        help="How often each CR is run anew, where neither its watch nor the CR says otherwise; 0s for never.",
    ),
    click.option(
        "--run-timeout",
        type=Duration(),
        help="When a run is ended and counts as failed, where its watch does not say otherwise.  [default: never]",
    ),
    click.option(
        "--max-concurrent-reconciles",
        type=click.IntRange(min=1),
        help="Runs at once for each kind.  [default: number of processors]",
    ),
    click.option(
        "--max-concurrent-runs",
        type=click.IntRange(min=1),
        help="Runs at once over all kinds; from 2 on, no kind may have all of them.  [default: as many as the kind with the "
        "highest limit; beside runs that all take over 30 s, one for each kind that has none]",
    ),
    click.option(
        "--ansible-verbosity",
        type=click.IntRange(0, settings.MAX_VERBOSITY),
        default=settings.DEFAULT_VERBOSITY,
        show_default=True,
        help="How many times -v for ansible-playbook.",
    ),
    click.option(
        "--ansible-log-events",
        type=click.Choice([what.value for what in LogEvents], case_sensitive=False),
        default=LogEvents.TASKS.value,
        show_default=True,
        help="What of a run is logged.",
    ),
    click.option("--ansible-roles-path", default="", help="Where roles are looked for; overrides ANSIBLE_ROLES_PATH."),
    click.option(
        "--ansible-collections-path",
        default="",
        help="Where collections are looked for; overrides ANSIBLE_COLLECTIONS_PATH.",
    ),
    click.option("--ansible-args", default="", help="Further arguments for ansible-playbook."),
    click.option(
        "--executor",
        type=click.Choice(settings.EXECUTORS),
        default=settings.DEFAULT_EXECUTOR,
        show_default=True,
        help="How Ansible is run: by a process that has it loaded, or by a new one for each run.",
    ),
    click.option(
        "--run-isolation",
        type=click.Choice(settings.RUN_ISOLATIONS),
        default=settings.DEFAULT_RUN_ISOLATION,
        show_default=True,
        help="With the warm executor: a worker plays many runs of a watch and is put back and checked in between; a fork "
        "plays one.",
    ),
    click.option(
        "--worker-max-runs",
        type=click.IntRange(min=1),
        default=settings.DEFAULT_WORKER_MAX_RUNS,
        show_default=True,
        help="Runs after which a worker is replaced.",
    ),
    click.option(
        "--worker-max-age",
        type=Duration(),
        default=settings.DEFAULT_WORKER_MAX_AGE,
        show_default=True,
        help="How long a worker is used.",
    ),
    click.option(
        "--worker-max-memory",
        type=click.IntRange(min=1),
        default=settings.DEFAULT_WORKER_MAX_MEMORY // 1024**2,
        show_default=True,
        help="MiB that a worker may have more than after its first run.",
    ),
    _switch("--inject-owner-ref", default=True, help="Make each CR the owner of what its role creates."),
    click.option(
        "--health-probe-bind-address",
        default=settings.DEFAULT_HEALTH_ADDRESS,
        show_default=True,
        help="Where /healthz and /readyz are served; 0 for nowhere.",
    ),
    click.option(
        "--metrics-bind-address",
        default=settings.DEFAULT_METRICS_ADDRESS,
        show_default=True,
        help="Where /metrics is served; 0 for nowhere.",
    ),
    _switch("--metrics-secure", help="Serve /metrics over TLS, with a certificate made at start."),
    _switch("--metrics-require-rbac", help="Serve /metrics only to who may read it; needs --metrics-secure."),
    click.option(
        "--role-metrics-bind-address",
        default=settings.DEFAULT_ROLE_METRICS_ADDRESS,
        show_default=True,
        help="Where roles bring the metrics of osdk_metric; 0 for nowhere.",
    ),
    click.option(
        "--proxy-port",
        type=click.IntRange(0, 65535),
        default=settings.DEFAULT_PROXY_PORT,
        show_default=True,
        help="The loopback port through which roles reach the API server; 0 for a free one.",
    ),
    _switch("--leader-elect", help="Work only while holding a Lease, so that of several replicas one works."),
    click.option("--leader-election-id", default="", help="The Lease's name; needed with --leader-elect."),
    click.option(
        "--leader-election-namespace", default="", help="The Lease's namespace.  [default: that of the runner's pod]"
    ),
    click.option(
        "--leader-elect-lease-duration",
        type=Duration(),
        default=settings.DEFAULT_LEASE_DURATION,
        show_default=True,
        help="How long a Lease that is not renewed keeps the other replicas waiting.",
    ),
    click.option(
        "--leader-elect-renew-deadline",
        type=Duration(),
        default=settings.DEFAULT_RENEW_DEADLINE,
        show_default=True,
        help="How long the leader tries to renew its Lease before it gives up.",
    ),
    click.option(
        "--graceful-shutdown-timeout",
        type=Duration(or_zero=True),
        default=settings.DEFAULT_GRACE,
        show_default=True,
        help="How long runs may go on after SIGTERM.",
    ),
    click.option(
        "--runs-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=settings.DEFAULT_RUNS_DIR,
        show_default=True,
        help="Where inputs and artifacts of the runs are kept, a folder for each CR.",
    ),
    _switch("--run-artifacts", default=True, help="Keep what runs leave: their events, output and result."),
    click.option(
        "--max-artifacts-size",
        type=click.IntRange(min=0),
        default=settings.DEFAULT_MAX_ARTIFACTS_SIZE // 1024**2,
        show_default=True,
        help="MiB that what all runs leave may take; the oldest is removed beyond that. 0: no bound.",
    ),
    click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True),
    click.option(
        "--log-format",
        type=click.Choice(logs.FORMATS),
        default="auto",
        show_default=True,
        help="auto: console on a terminal, JSON lines elsewhere.",
    ),
    click.option(
        "--requeue-from-stdin",
        is_flag=True,
        hidden=True,
        help="Requeue the kinds that each line of standard input lists; end with it.",
    ),
    # The Go operator's other names for the logs' flags.
    _switch("--zap-devel", help="--log-format console, --log-level debug, tracebacks of warnings."),
    click.option("--zap-encoder", type=click.Choice(("json", "console"), case_sensitive=False), help="As --log-format."),
    click.option("--zap-log-level", type=ZapLevel(), help="As --log-level; a number above zero means debug."),
    click.option(
        "--zap-stacktrace-level",
        type=click.Choice(("info", "error", "panic"), case_sensitive=False),
        help="From which level on tracebacks are logged.  [default: error]",
    ),
    click.option(
        "--zap-time-encoding",
        type=click.Choice(logs.TIME_ENCODINGS, case_sensitive=False),
        default="rfc3339",
        show_default=True,
        help="How JSON lines tell the time.",
    ),
    # Taken for the sake of Deployments that have them.
    click.option("--metrics-addr", hidden=True),
    _switch("--enable-leader-election", hidden=True, help="As --leader-elect."),
    click.option("--leader-elect-resource-lock", hidden=True),
    _switch("--enable-http2", hidden=True, help="No server here speaks HTTP/2."),
)


def declared(command: Callable[[Mapping[str, Any], set[str]], None]) -> Callable[..., None]:
    """A click command's function with all flags. It is called with their values, and the names of those that were given."""

    @functools.wraps(command)
    @click.pass_context
    def wrapped(context: click.Context, /, **flags: Any) -> None:
        given = {name for name in flags if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT}
        command(flags, given)

    return functools.reduce(lambda function, option: option(function), reversed(_OPTIONS), wrapped)


def read(flags: Mapping[str, Any], given: set[str], environ: Mapping[str, str]) -> Settings:
    """The flags' values and the environment, checked. `given` are the flags that the user wrote. ConfigurationError."""
    for one, other in _SYNONYMS:
        if {one, other} <= given:
            raise ConfigurationError(f"{_name(one)} and {_name(other)} are the same; give only one of them")
    notices: list[str] = []
    if flags["metrics_require_rbac"] and not flags["metrics_secure"]:
        raise ConfigurationError("--metrics-require-rbac needs --metrics-secure: tokens are not sent in the clear")
    _check_inventory(environ)
    metrics_flag = "metrics_addr" if "metrics_addr" in given else "metrics_bind_address"
    return Settings(
        watches_file=flags["watches_file"],
        namespaces=settings.watched_namespaces(environ),
        reconcile_period=flags["reconcile_period"],
        run_timeout=flags["run_timeout"],
        shutdown_grace=flags["graceful_shutdown_timeout"],
        max_concurrent_reconciles=flags["max_concurrent_reconciles"] or settings.default_concurrency(),
        max_concurrent_runs=flags["max_concurrent_runs"] or 0,
        executor=flags["executor"],
        run_isolation=flags["run_isolation"],
        worker_max_runs=flags["worker_max_runs"],
        worker_max_age=flags["worker_max_age"],
        worker_max_memory=flags["worker_max_memory"] * 1024**2,
        verbosity=flags["ansible_verbosity"],
        log_events=LogEvents(flags["ansible_log_events"]),
        debug_logs=_switched_on("ANSIBLE_DEBUG_LOGS", environ, notices),
        ansible_args=_ansible_args(flags["ansible_args"]),
        roles_path=flags["ansible_roles_path"],
        collections_path=flags["ansible_collections_path"],
        inject_owner_ref=flags["inject_owner_ref"],
        run_artifacts=flags["run_artifacts"],
        proxy_port=flags["proxy_port"],
        health_address=_address(flags, "health_probe_bind_address"),
        metrics_address=_address(flags, metrics_flag),
        metrics_secure=flags["metrics_secure"],
        metrics_require_rbac=flags["metrics_require_rbac"],
        role_metrics_address=_address(flags, "role_metrics_bind_address"),
        election=_election(flags, given, environ, notices),
        runs_dir=flags["runs_dir"].absolute(),
        max_artifacts_size=flags["max_artifacts_size"] * 1024**2,
        requeue_from_stdin=flags["requeue_from_stdin"],
        logging=_logging(flags, given),
        notices=(*notices, *_ignored(given)),
    )


def _ansible_args(text: str) -> str:
    """A manifest's `--ansible-args='--check'` comes with its quotes, as no shell has read it; one pair is taken away."""
    if len(text) > 1 and text[0] == text[-1] == "'":
        text = text[1:-1]
    try:
        shlex.split(text)
    except ValueError as error:
        raise ConfigurationError(f"--ansible-args {text!r}: {error}") from error
    return text


def _check_inventory(environ: Mapping[str, str]) -> None:
    """Ansible passes over an inventory that is not there with a warning, and plays for its hosts then do nothing."""
    for path in filter(None, environ.get("ANSIBLE_INVENTORY", "").split(",")):
        if not Path(path).expanduser().exists():
            raise ConfigurationError(f"ANSIBLE_INVENTORY: there is no file or folder {path!r}; correct or unset it")


def _address(flags: Mapping[str, Any], name: str) -> settings.Address | None:
    return settings.parse_address(flags[name], flag=_name(name))


def _election(flags: Mapping[str, Any], given: set[str], environ: Mapping[str, str], notices: list[str]) -> Election | None:
    name = flags["leader_election_id"]
    if "OPERATOR_NAME" in environ:
        notices.append("OPERATOR_NAME is deprecated; name the Lease with --leader-election-id")
        if "leader_election_id" not in given:
            name = environ["OPERATOR_NAME"]
    if not (flags["leader_elect"] or flags["enable_leader_election"]):
        return None
    if not name:
        raise ConfigurationError("--leader-elect needs a name for the Lease: give --leader-election-id")
    lease, deadline = flags["leader_elect_lease_duration"], flags["leader_elect_renew_deadline"]
    if lease <= deadline:
        raise ConfigurationError(
            f"--leader-elect-lease-duration ({lease:g} s) must be longer than --leader-elect-renew-deadline "
            f"({deadline:g} s), or there could be two leaders at once"
        )
    return Election(name=name, namespace=flags["leader_election_namespace"], lease_duration=lease, renew_deadline=deadline)


def _logging(flags: Mapping[str, Any], given: set[str]) -> logs.Options:
    devel = flags["zap_devel"]
    level = flags["zap_log_level"] or ("debug" if devel and "log_level" not in given else flags["log_level"])
    format = flags["zap_encoder"] or ("console" if devel and "log_format" not in given else flags["log_format"])
    traces = {"info": "info", "error": "error", "panic": "critical", None: "warning" if devel else "error"}
    return logs.Options(
        level=level,
        format=format,
        traces=traces[flags["zap_stacktrace_level"]],
        time_encoding=flags["zap_time_encoding"],
    )


def _switched_on(name: str, environ: Mapping[str, str], notices: list[str]) -> bool:
    """A boolean variable, as Go's strconv.ParseBool reads it; anything else is off, and said."""
    value = environ.get(name, "")
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value not in ("", "0", "f", "F", "false", "FALSE", "False"):
        notices.append(f"{name} is {value!r}, which is neither true nor false; it counts as false")
    return False


def _ignored(given: set[str]) -> list[str]:
    reasons = {
        "metrics_addr": "is deprecated; use --metrics-bind-address",
        "enable_leader_election": "is deprecated; use --leader-elect",
        "leader_elect_resource_lock": "has no effect: the lock is always a Lease",
        "enable_http2": "has no effect: no server of the runner speaks HTTP/2",
    }
    return [f"{_name(name)} {reason}" for name, reason in reasons.items() if name in given]


def _name(parameter: str) -> str:
    return "--" + parameter.replace("_", "-")
