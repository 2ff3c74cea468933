import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import runner
from runner.cli import main, run

# The Go operator's, as it has them.
PEERS_FLAGS = {
    *("--ansible-args", "--ansible-collections-path", "--ansible-log-events", "--ansible-roles-path"),
    *("--ansible-verbosity", "--enable-http2", "--enable-leader-election", "--graceful-shutdown-timeout"),
    *("--health-probe-bind-address", "--inject-owner-ref", "--leader-elect", "--leader-elect-lease-duration"),
    *("--leader-elect-renew-deadline", "--leader-elect-resource-lock", "--leader-election-id"),
    *("--leader-election-namespace", "--max-concurrent-reconciles", "--metrics-addr", "--metrics-bind-address"),
    *("--metrics-require-rbac", "--metrics-secure", "--proxy-port", "--reconcile-period", "--watches-file"),
    *("--zap-devel", "--zap-encoder", "--zap-log-level", "--zap-stacktrace-level", "--zap-time-encoding"),
}
OWN_FLAGS = {
    *("--run-isolation", "--worker-max-age", "--worker-max-memory", "--worker-max-runs"),
    *("--executor", "--log-format", "--log-level", "--max-concurrent-runs", "--role-metrics-bind-address"),
    *("--controller-ring", "--dashboard-bind-address", "--shard-name", "--watch-label-selector"),
    *("--max-artifacts-size", "--requeue-from-stdin", "--run-artifacts", "--run-timeout", "--runs-dir"),
}


def test_the_flags_and_commands_are_those_that_users_have() -> None:
    assert {name for parameter in run.params for name in parameter.opts} == PEERS_FLAGS | OWN_FLAGS
    commands = {"run", "dev", "plan", "schema", "version", "init", "create", "manifests", "devcluster", "check"}
    assert set(main.list_commands(click.Context(main))) == commands


def test_without_the_kit_its_commands_are_absent(tmp_path: Path) -> None:
    """As in an image that leaves devkit out: the entry point is there, and its package is not."""
    code = (
        "import importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'devkit' else find(name, *rest)\n"
        "from runner.cli import main; import click; print(*main.list_commands(click.Context(main)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "run" in found.split()
    assert "check" not in found.split()


def test_the_version_tells_what_it_runs_with() -> None:
    result = CliRunner().invoke(main, ["version"])
    assert result.exit_code == 0
    assert result.output.startswith(f"rolerunner {runner.__version__}, Python 3.")
    assert "ansible-core 2." in result.output


def test_stand_ins_are_for_a_development_cluster(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["dev", "--exec-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "Error: --exec-dir is for a development cluster: give --devcluster as well" in result.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--reconcile-period", "soon"], "soon"),
        (["--reconcile-period", "-1s"], "'-1s' is below zero"),
        (["--max-concurrent-reconciles", "0"], "--max-concurrent-reconciles"),
        (["--ansible-args", "'open"], "--ansible-args"),
        (["--health-probe-bind-address", "here"], "--health-probe-bind-address"),
        (["--executor", "magic"], "--executor"),
        (["--watches-file", "nowhere.yaml"], "nowhere.yaml"),
    ],
    ids=["period", "negative", "concurrency", "arguments", "address", "executor", "file"],
)
def test_a_mistake_gets_a_sentence_and_no_traceback(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # The command sets them for the runs to inherit; what is set here is taken back when the test is over.
    for name in ("ANSIBLE_ROLES_PATH", "ANSIBLE_COLLECTIONS_PATH", "ANSIBLE_ALLOW_BROKEN_CONDITIONALS"):
        monkeypatch.setenv(name, "")
    result = CliRunner().invoke(main, ["run", *flags])
    assert result.exit_code != 0
    assert "Error: " in result.output
    assert message in result.output
    assert "Traceback" not in result.output
