import subprocess
import sys
from pathlib import Path

import pytest
import yaml
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
    assert "made     config/crd/bases/cache.example.com_memcacheds.yaml\n" in output
    assert "added to watches.yaml\n" in output
    assert "added to config/rbac/role.yaml\n" in output

    code, output = call(*API, "Memcached", "--generate-role")
    assert (code, output.count("\n")) == (1, 1)
    assert output.startswith("Error: PROJECT: it has the kind Memcached")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANSIBLE_ROLES_PATH", raising=False)
    assert call("init", "--domain", "example.com", "--project-name", "mine")[0] == 0
    return tmp_path


def test_the_manifests_are_up_to_date_after_each_kind(project: Path) -> None:
    for kind, flags in (
        ("Memcached", ["--generate-role"]),
        ("Backup", ["--generate-playbook"]),
        ("Redis", ["--generate-role", "--generate-playbook"]),
        ("Proxy", ["--generate-role", "--plural=proxes", "--namespaced=false"]),
    ):
        code, output = call(*API, kind, *flags)
        assert (code, output.count("not decided")) == (0, 0), output
        assert call("manifests", "--check") == (0, "Everything is up to date.\n")
    listed = yaml.safe_load((project / "config/crd/kustomization.yaml").read_text())["resources"]
    assert sorted(path.name for path in (project / "config/crd/bases").iterdir()) == sorted(
        entry.removeprefix("bases/") for entry in listed
    )
    role = yaml.safe_load((project / "config/rbac/role.yaml").read_text())
    resources = {resource for rule in role["rules"] for resource in rule["resources"]}
    assert resources >= {"memcacheds", "backups", "redis", "proxes"}


def test_what_a_user_has_written_into_them_stays(project: Path) -> None:
    assert call(*API, "Memcached", "--generate-role")[0] == 0
    role, crd = Path("config/rbac/role.yaml"), Path("config/crd/bases/cache.example.com_memcacheds.yaml")
    mine = "- apiGroups: [batch]  # Mine.\n  resources: [jobs]\n  verbs: [get]\n"
    before = role.read_text()
    role.write_text(before.replace("# +kubebuilder", mine + "# +kubebuilder"))
    crd.write_text(crd.read_text() + "# Mine.\n")
    written = crd.read_text()
    assert call(*API, "Backup", "--generate-role")[0] == 0
    assert mine in role.read_text()
    assert "backups" in role.read_text()
    assert crd.read_text() == written


def test_a_mistake_elsewhere_is_told_with_what_is_left_to_do(project: Path) -> None:
    assert call(*API, "Memcached", "--generate-role")[0] == 0
    specs = Path("roles/memcached/meta/argument_specs.yml")
    specs.write_text(specs.read_text().replace("type: int", "type: integer"))
    code, output = call(*API, "Backup", "--generate-role")
    assert (code, output.count("\n")) == (1, 1)
    assert "unknown type 'integer'" in output
    assert "run: rolerunner manifests" in output
    specs.write_text(specs.read_text().replace("type: integer", "type: int"))
    assert call("manifests")[0] == 0
    assert Path("config/crd/bases/cache.example.com_backups.yaml").exists()


@pytest.mark.parametrize(
    ("flags", "scope"),
    [([], "Namespaced"), (["--namespaced=false"], "Cluster"), (["--namespaced"], "Namespaced")],
    ids=["default", "false", "alone"],
)
def test_the_scope(flags: list[str], scope: str, project: Path) -> None:
    assert call(*API, "Memcached", *flags, "--generate-playbook")[0] == 0
    assert f"scope: {scope}\n" in Path("config/crd/bases/cache.example.com_memcacheds.yaml").read_text()


def test_without_a_package_dev_names_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['rich'] = sys.modules['rich.console'] = None; from runner.cli import main; main(['dev'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: dev needs the package rich: pip install 'rolerunner[devkit]'\n"
