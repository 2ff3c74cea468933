from pathlib import Path

import pytest
from click.testing import CliRunner

from runner.cli import main

API = ["create", "api", "--group", "cache", "--version", "v1", "--kind"]


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def test_they_say_what_they_wrote_and_mistakes_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = call(*API, "Memcached", "--generate-role")
    assert (code, output.count("\n")) == (1, 1)
    assert output.startswith("Error: PROJECT is not there")

    # As who comes from operator-sdk writes it.
    code, output = call("init", "--plugins=ansible", "--domain", "example.com", "--project-name", "mine")
    assert code == 0
    assert "Made .gitignore, Dockerfile, Makefile" in output
    assert "Next: rolerunner create api" in output

    code, output = call(*API, "Memcached", "--generate-role")
    assert code == 0
    assert "made     roles/memcached/tasks/main.yml\n" in output
    assert "added to watches.yaml\n" in output

    code, output = call(*API, "Memcached", "--generate-role")
    assert (code, output.count("\n")) == (1, 1)
    assert output.startswith("Error: PROJECT: it has the kind Memcached")


@pytest.mark.parametrize(
    ("flags", "scope"),
    [([], "Namespaced"), (["--namespaced=false"], "Cluster"), (["--namespaced"], "Namespaced")],
    ids=["default", "false", "alone"],
)
def test_the_scope(flags: list[str], scope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("init", "--domain", "example.com", "--project-name", "mine")[0] == 0
    assert call(*API, "Memcached", *flags, "--generate-playbook")[0] == 0
    assert f"scope: {scope}\n" in Path("config/crd/bases/cache.example.com_memcacheds.yaml").read_text()
