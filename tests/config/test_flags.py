import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from runner.config import flags
from runner.config.settings import Address, Election, LogEvents, Settings
from runner.errors import ConfigurationError
from runner.resource.sharding import Shard


def read(*arguments: str, **environ: str) -> Settings:
    """The settings that the flags are. A mistake that click finds raises UsageError, one of ours ConfigurationError."""
    found: list[Settings] = []

    @click.command()
    @flags.declared
    def command(values: Mapping[str, Any], given: set[str]) -> None:
        found.append(flags.read(values, given, environ))

    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception:
        raise result.exception
    return found[0]


def test_the_defaults_are_the_go_operators() -> None:
    settings = read()
    assert settings.reconcile_period == 36_000
    assert settings.verbosity == 2
    assert settings.inject_owner_ref is True
    assert settings.proxy_port == 8888
    assert settings.health_address == Address("", 6789)
    assert settings.metrics_address == Address("", 8443)
    assert settings.role_metrics_address == Address("localhost", 5050)
    assert settings.shutdown_grace == 30
    assert settings.log_events is LogEvents.TASKS
    assert settings.election is None
    assert settings.run_timeout is None
    switches = (settings.metrics_secure, settings.metrics_require_rbac, settings.debug_logs)
    assert not any(switches)
    assert settings.notices == ()


def test_settings_without_flags_are_those_of_the_flags_defaults() -> None:
    assert Settings() == read()


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ((), True),
        (("--inject-owner-ref",), True),
        (("--inject-owner-ref=true",), True),
        (("--inject-owner-ref=false",), False),
    ],
    ids=["default", "alone", "true", "false"],
)
def test_a_switch_stands_alone_or_has_a_value(arguments: tuple[str, ...], value: bool) -> None:
    assert read(*arguments, "--metrics-secure").inject_owner_ref is value


@pytest.mark.parametrize(
    ("arguments", "environ", "name"),
    [
        (("--leader-elect", "--leader-election-id=here"), {}, "here"),
        (("--enable-leader-election", "--leader-election-id=here"), {}, "here"),
        (("--leader-elect",), {"OPERATOR_NAME": "there"}, "there"),
        (("--leader-elect", "--leader-election-id=here"), {"OPERATOR_NAME": "there"}, "here"),
    ],
    ids=["flag", "old-flag", "variable", "flag-over-variable"],
)
def test_leader_election(arguments: tuple[str, ...], environ: dict[str, str], name: str) -> None:
    assert read(*arguments, **environ).election == Election(name=name, namespace="", lease_duration=15, renew_deadline=10)


def test_a_shard_has_a_lease_of_its_name() -> None:
    settings = read("--controller-ring=ring", "--shard-name=one", "--leader-election-namespace=here")
    assert settings.shard == Shard("ring", "one")
    assert settings.election == Election(name="one", namespace="here", lease_duration=15, renew_deadline=10)
    assert str(settings.selector) == "shard.alpha.sharding.timebertt.dev/ring in (one)"


def test_a_shard_is_named_as_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Operator-7d-x")
    assert read("--controller-ring=ring").shard == Shard("ring", "operator-7d-x")


@pytest.mark.parametrize("name", ["a" * 64, "Ring", "-ring", "ring_1", "ring.", "a..b", "ring\n"])
@pytest.mark.parametrize("flag", ["--controller-ring", "--shard-name"])
def test_a_name_that_is_no_label_is_one_clear_error(flag: str, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{flag} .* at most 63 lower-case letters"):
        read("--controller-ring=x", "--shard-name=x", f"{flag}={name}")


@pytest.mark.parametrize("name", ["a" * 63, "a", "a.b-c", "0"])
def test_names_of_a_ring_and_a_shard(name: str) -> None:
    assert read(f"--controller-ring={name}", f"--shard-name={name}").shard == Shard(name, name)


def test_the_crs_of_a_label_selector() -> None:
    selector = read("--watch-label-selector=tier=gold, !old", "--controller-ring=r", "--shard-name=s").selector
    assert str(selector) == "tier in (gold),!old,shard.alpha.sharding.timebertt.dev/r in (s)"
    with pytest.raises(ConfigurationError, match="--watch-label-selector 'tier gold' is no label selector: write terms"):
        read("--watch-label-selector=tier gold")


@pytest.mark.parametrize(
    ("arguments", "level", "format", "traces", "encoding"),
    [
        ((), "info", "auto", "error", "rfc3339"),
        (("--zap-devel",), "debug", "console", "warning", "rfc3339"),
        (("--zap-devel", "--zap-encoder=json", "--zap-log-level=error"), "error", "json", "warning", "rfc3339"),
        (("--zap-devel=false", "--zap-log-level=5"), "debug", "auto", "error", "rfc3339"),
        (("--zap-log-level=panic", "--zap-stacktrace-level=panic"), "critical", "auto", "critical", "rfc3339"),
        (("--zap-stacktrace-level=info", "--zap-time-encoding=epoch"), "info", "auto", "info", "epoch"),
        (("--zap-encoder=JSON", "--zap-time-encoding=RFC3339Nano"), "info", "json", "error", "rfc3339nano"),
        (("--zap-time-encoding=nanos",), "info", "auto", "error", "nanos"),
    ],
    ids=["default", "devel", "devel-but", "number", "panic", "times", "case", "nanos"],
)
def test_zaps_flags(arguments: tuple[str, ...], level: str, format: str, traces: str, encoding: str) -> None:
    logging = read(*arguments).logging
    assert (logging.level, logging.format, logging.traces, logging.time_encoding) == (level, format, traces, encoding)


@pytest.mark.parametrize("value", ["Tasks", "EVERYTHING", "nothing"])
def test_log_events_in_any_case(value: str) -> None:
    assert read(f"--ansible-log-events={value}").log_events == value.lower()


@pytest.mark.parametrize(
    ("value", "on", "said"), [("true", True, 0), ("1", True, 0), ("0", False, 0), ("", False, 0), ("yes", False, 1)]
)
def test_debug_logs(value: str, on: bool, said: int) -> None:
    settings = read(ANSIBLE_DEBUG_LOGS=value)
    assert settings.debug_logs is on
    assert len(settings.notices) == said


@pytest.mark.parametrize(
    ("value", "ip", "said"),
    [("", "", 0), ("10.1.0.8", "10.1.0.8", 0), ("FD00:0::8", "fd00::8", 0), ("here", "", 1), ("10.1.0.8,fd00::8", "", 1)],
)
def test_the_pods_address(value: str, ip: str, said: int) -> None:
    settings = read(POD_IP=value)
    assert (settings.pod_ip, len(settings.notices)) == (ip, said)


@pytest.mark.parametrize(
    ("arguments", "notice"),
    [
        (("--metrics-addr=:9000",), "--metrics-addr is deprecated; use --metrics-bind-address"),
        (("--enable-leader-election=false",), "--enable-leader-election is deprecated; use --leader-elect"),
        (("--leader-elect-resource-lock=leases",), "--leader-elect-resource-lock has no effect"),
        (("--enable-http2",), "--enable-http2 has no effect"),
    ],
    ids=["metrics", "election", "lock", "http2"],
)
def test_what_is_deprecated_is_taken_and_said(arguments: tuple[str, ...], notice: str) -> None:
    (said,) = read(*arguments).notices
    assert said.startswith(notice)


def test_the_old_name_of_the_metrics_address_counts() -> None:
    assert read("--metrics-addr=127.0.0.1:9000").metrics_address == Address("127.0.0.1", 9000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metrics-addr=:1", "--metrics-bind-address=:2"), "are the same"),
        (("--leader-elect", "--enable-leader-election"), "are the same"),
        (("--log-level=info", "--zap-log-level=info"), "are the same"),
        (("--leader-elect",), "--leader-election-id"),
        (("--leader-elect", "--leader-election-id=x", "--leader-elect-lease-duration=10s"), "must be longer"),
        (("--metrics-require-rbac",), "needs --metrics-secure"),
        (("--controller-ring=x", "--leader-elect", "--leader-election-id=x"), "exclude each other"),
        (("--shard-name=x",), "give --controller-ring as well"),
        (("--controller-ring=",), "--controller-ring is empty"),
        (("--controller-ring=x", "--shard-name="), "--shard-name is empty"),
        (("--watch-label-selector=",), "--watch-label-selector is empty"),
        (("--controller-ring=x", "--leader-election-id=x"), "--leader-election-id is a leader's"),
        (("--controller-ring=x", "--leader-elect-lease-duration=10s"), "must be longer"),
    ],
    ids=[
        "metrics",
        "election",
        "level",
        "no-id",
        "durations",
        "rbac",
        "ring",
        "no-ring",
        "empty-ring",
        "empty-name",
        "empty-selector",
        "id",
        "shard-durations",
    ],
)
def test_what_does_not_go_together_is_one_clear_error(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(*arguments)


@pytest.mark.parametrize(
    "address", [":0", ":8444", "0.0.0.0:1", "[::]:1", "10.0.0.1:1", "127.0.0.1.evil.com:1", "localhost.x:1"]
)
def test_with_a_key_the_dashboard_is_for_this_machine_alone(address: str) -> None:
    with pytest.raises(ConfigurationError, match="served without TLS, and on this machine only"):
        read(f"--dashboard-bind-address={address}", ROLERUNNER_DASHBOARD_KEY="key")
    assert read(f"--dashboard-bind-address={address}").dashboard_key == ""


@pytest.mark.parametrize("address", ["0", "", "127.0.0.1:0", "localhost:8444", "[::1]:1"])
def test_with_a_key_the_dashboard_is_served_on_loopback(address: str) -> None:
    assert read(f"--dashboard-bind-address={address}", ROLERUNNER_DASHBOARD_KEY="key").dashboard_key == "key"


@pytest.mark.parametrize(
    "argument",
    ["--zap-log-level=0", "--zap-log-level=²", "--zap-log-level=loud", "--ansible-log-events=some", "--run-timeout=0s"],
)
def test_what_is_no_value_is_refused(argument: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is not|is none of"):
        read(argument)


def test_never_is_a_period() -> None:
    # As the AWX operator's image has it.
    assert read("--reconcile-period=0s").reconcile_period == 0
    assert read("--graceful-shutdown-timeout=0s").shutdown_grace == 0


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--vault-password-file /pwd --check", "--vault-password-file /pwd --check"),
        ("'--vault-password-file /pwd --check'", "--vault-password-file /pwd --check"),
        ("'--tags' 'a'b", "'--tags' 'a'b"),
        ("", ""),
    ],
    ids=["plain", "in-quotes", "quotes-inside", "none"],
)
def test_a_manifests_quotes_are_no_part_of_the_arguments(argument: str, value: str) -> None:
    assert read(f"--ansible-args={argument}").ansible_args == value


def test_an_inventory_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    here, away = tmp_path / "hosts", tmp_path / "nowhere"
    here.write_text("localhost\n")
    read(ANSIBLE_INVENTORY=f"{here},{tmp_path}")
    with pytest.raises(ConfigurationError, match=r"ANSIBLE_INVENTORY: there is no file or folder '.*nowhere'"):
        read(ANSIBLE_INVENTORY=f"{here},{away}")
