"""The flags of `rolerunner run` on the command line, and how they and the environment become `Settings`.

The names and defaults are the Go operator's, so that a Deployment written for it works as it stands: a switch may be given
alone or with a value (`--leader-elect`, `--leader-elect=false`), names that it has deprecated are still taken, and zap's
flags keep their meaning. What is checked here concerns several flags; each of them is declared in `runner.config.settings`.

Next on the way: `runner.config.watches`.
"""

from __future__ import annotations

import functools
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from runner import logs
from runner.config.options import Flag, Values, Variable, declared_in, parameter
from runner.config.settings import DASHBOARD_KEY, Election, Settings
from runner.errors import ConfigurationError
from runner.resource.sharding import Shard

FLAGS = tuple(each for declared in declared_in(Settings).values() for each in declared if isinstance(each, Flag))
(WATCHES_FILE,) = FLAGS[0].options()

# Flags of the Go operator that are taken for the sake of Deployments that have them.
_WITHOUT_EFFECT = {
    "--leader-elect-resource-lock": (click.STRING, None, "the lock is always a Lease"),
    "--enable-http2": (click.BOOL, False, "no server of the runner speaks HTTP/2"),
}
# What is both the name of an object (RFC 1123) and a label's value, or its name.
_LABEL_AND_NAME = re.compile(r"(?=.{1,63}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
# Of two names for one thing, only one may be given.
_SYNONYMS = (
    *((flag.name, flag.old_name) for flag in FLAGS if flag.old_name),
    ("--log-level", "--zap-log-level"),
    ("--log-format", "--zap-encoder"),
)


def declared(command: Callable[[Values, set[str]], None]) -> Callable[..., None]:
    """Give a click command's function all flags: it gets their values, and the names of those that were given."""

    @functools.wraps(command)
    @click.pass_context
    def wrapped(context: click.Context, /, **values: Any) -> None:
        given = {name for name in values if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT}
        command(values, given)

    ignored = [Flag(name, type, default=default, hidden=True) for name, (type, default, _) in _WITHOUT_EFFECT.items()]
    options = [option for flag in (*FLAGS, *ignored) for option in flag.options()]
    return functools.reduce(lambda function, option: option(function), reversed(options), wrapped)


def read(values: Values, given: set[str], environ: Mapping[str, str]) -> Settings:
    """The settings that the flags' values and the environment are; `given` are the flags that the user wrote.

    Raises ConfigurationError.
    """
    for one, other in _SYNONYMS:
        if {parameter(one), parameter(other)} <= given:
            raise ConfigurationError(f"{one} and {other} are the same; give only one of them")
    if values["metrics_require_rbac"] and not values["metrics_secure"]:
        raise ConfigurationError("--metrics-require-rbac needs --metrics-secure: tokens are not sent in the clear")
    _check_inventory(environ)
    _check_dashboard(values["dashboard_bind_address"], environ)
    shard = _shard(values, given)
    notices: list[str] = []
    settings: dict[str, Any] = {}
    for field, declarations in declared_in(Settings).items():
        match declarations:
            case (Flag() as flag,):
                settings[field] = _converted(flag, values, given)
            case (Variable() as variable,):
                try:
                    settings[field] = variable.convert(environ.get(variable.name, ""))
                except ValueError as error:
                    notices.append(f"{variable.name} is {error}")
    return Settings(
        **settings,
        shard=shard,
        election=_lease(values, shard.name) if shard else _election(values, given, environ, notices),
        logging=_logging(values, given),
        notices=(*notices, *_warnings(given)),
    )


def _converted(flag: Flag, values: Values, given: set[str]) -> object:
    """The setting that is a flag's, which may have been given by its old name."""
    name = flag.old_name if flag.old_name and parameter(flag.old_name) in given else flag.name
    try:
        return flag.convert(values[parameter(name)])
    except ValueError as error:
        raise ConfigurationError(f"{name} {error}") from error


def _check_dashboard(address: str, environ: Mapping[str, str]) -> None:
    """Where a key is the way in, it goes over the wire as it is."""
    host = address.rpartition(":")[0]
    if environ.get(DASHBOARD_KEY) and address not in ("", "0") and host not in ("127.0.0.1", "localhost", "[::1]"):
        raise ConfigurationError(
            f"--dashboard-bind-address {address}: with {DASHBOARD_KEY} it is served without TLS, and on this machine only; "
            f"give 127.0.0.1:PORT, or unset {DASHBOARD_KEY} to have it served over TLS"
        )


def _check_inventory(environ: Mapping[str, str]) -> None:
    """Ansible passes over an inventory that is not there with a warning, and plays for its hosts then do nothing."""
    for path in filter(None, environ.get("ANSIBLE_INVENTORY", "").split(",")):
        if not Path(path).expanduser().exists():
            raise ConfigurationError(f"ANSIBLE_INVENTORY: there is no file or folder {path!r}; correct or unset it")


def _election(values: Values, given: set[str], environ: Mapping[str, str], notices: list[str]) -> Election | None:
    name = values["leader_election_id"]
    if "OPERATOR_NAME" in environ:
        notices.append("OPERATOR_NAME is deprecated; name the Lease with --leader-election-id")
        if "leader_election_id" not in given:
            name = environ["OPERATOR_NAME"]
    if not (values["leader_elect"] or values["enable_leader_election"]):
        return None
    if not name:
        raise ConfigurationError("--leader-elect needs a name for the Lease: give --leader-election-id")
    return _lease(values, name)


def _shard(values: Values, given: set[str]) -> Shard | None:
    """The shard that this process is; None for one that has all CRs."""
    for flag in ("--controller-ring", "--shard-name", "--watch-label-selector"):
        # As of a variable that is not set: a process that has all CRs is the last that is meant by it.
        if parameter(flag) in given and not values[parameter(flag)]:
            raise ConfigurationError(f"{flag} is empty: give it a value, or leave it out")
    ring, name = values["controller_ring"], values["shard_name"]
    if not ring:
        if name:
            raise ConfigurationError("--shard-name is a shard's: give --controller-ring as well")
        return None
    if values["leader_elect"] or values["enable_leader_election"]:
        raise ConfigurationError(
            "--controller-ring and --leader-elect exclude each other: all shards work; give one of them"
        )
    if values["leader_election_id"]:
        raise ConfigurationError("--leader-election-id is a leader's: a shard's Lease has the shard's name, --shard-name")
    # An object's name is in lower case, and a host's may not be.
    shard = Shard(ring, name or socket.gethostname().lower())
    for flag, value in (("--controller-ring", shard.ring), ("--shard-name", shard.name)):
        if not _LABEL_AND_NAME.fullmatch(value):
            raise ConfigurationError(
                f"{flag} {value!r} cannot be used: it has to be the name of an object and part of a label; give one of at "
                "most 63 lower-case letters, digits, '-' and '.', with a letter or digit at each end"
            )
    return shard


def _lease(values: Values, name: str) -> Election:
    lease, deadline = values["leader_elect_lease_duration"], values["leader_elect_renew_deadline"]
    if lease <= deadline:
        raise ConfigurationError(
            f"--leader-elect-lease-duration ({lease:g} s) must be longer than --leader-elect-renew-deadline "
            f"({deadline:g} s), or there could be two holders of the Lease at once"
        )
    return Election(name=name, namespace=values["leader_election_namespace"], lease_duration=lease, renew_deadline=deadline)


def _logging(values: Values, given: set[str]) -> logs.Options:
    devel = values["zap_devel"]
    level = values["zap_log_level"] or ("debug" if devel and "log_level" not in given else values["log_level"])
    format = values["zap_encoder"] or ("console" if devel and "log_format" not in given else values["log_format"])
    traces = {"info": "info", "error": "error", "panic": "critical", None: "warning" if devel else "error"}
    return logs.Options(
        level=level,
        format=format,
        traces=traces[values["zap_stacktrace_level"]],
        time_encoding=values["zap_time_encoding"],
    )


def _warnings(given: set[str]) -> list[str]:
    """Warnings about given flags that are deprecated or have no effect."""
    deprecated = {flag.old_name: f"is deprecated; use {flag.name}" for flag in FLAGS if flag.old_name}
    without = {name: f"has no effect: {reason}" for name, (_, _, reason) in _WITHOUT_EFFECT.items()}
    return [f"{name} {why}" for name, why in (deprecated | without).items() if parameter(name) in given]
