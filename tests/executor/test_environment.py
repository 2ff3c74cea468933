from pathlib import Path

import pytest

from runner.executor import environment
from runner.executor.environment import temporary


@pytest.mark.parametrize(
    ("upper", "lower", "told"),
    [
        (None, None, ("127.0.0.1", "127.0.0.1")),
        (".svc,10.0.0.0/8", None, (".svc,10.0.0.0/8,127.0.0.1",) * 2),
        (None, ".svc", (".svc,127.0.0.1",) * 2),
        (".svc", ".local", (".svc,127.0.0.1", ".local,127.0.0.1")),
        ("127.0.0.1,.svc", "", ("127.0.0.1,.svc", "127.0.0.1")),
        ("*", None, ("*", "*")),
    ],
)
def test_no_http_proxy_between_a_run_and_the_runner(
    upper: str | None, lower: str | None, told: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    for name, given in (("NO_PROXY", upper), ("no_proxy", lower)):
        monkeypatch.delenv(name, raising=False) if given is None else monkeypatch.setenv(name, given)
    made = environment.environment()
    assert (made["NO_PROXY"], made["no_proxy"]) == told


def test_without_an_http_proxy_nothing_says_that_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roles hand NO_PROXY on to what they make, as eda-server-operator does."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert {"NO_PROXY", "no_proxy"}.isdisjoint(environment.environment())


def test_an_ansible_cfg_that_has_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "ANSIBLE_LOCAL_TEMP"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "ansible.cfg"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANSIBLE_CONFIG", str(config))
    scratch = {"TMPDIR": "/run/it", "ANSIBLE_LOCAL_TEMP": "/run/it"}
    config.write_text("[defaults]\n")
    assert temporary("/run/it") == scratch

    config.write_text("[defaults]\nlocal_tmp = /elsewhere\n")
    assert temporary("/run/it") == {"TMPDIR": "/run/it"}

    config.unlink()
    monkeypatch.chdir(tmp_path)
    assert temporary("/run/it") == scratch


def test_ara_gets_no_variables_of_a_run_unless_the_operator_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARA_IGNORED_FILES", raising=False)
    config = tmp_path / "ansible.cfg"
    monkeypatch.setenv("ANSIBLE_CONFIG", str(config))
    config.write_text("[ara]\napi_client = http\n")
    assert environment.environment()["ARA_IGNORED_FILES"].split(",") == [".ansible/tmp", "/env/extravars"]

    config.write_text("[ara]\nignored_files = .ansible/tmp\n")
    assert "ARA_IGNORED_FILES" not in environment.environment()

    config.unlink()
    monkeypatch.setenv("ARA_IGNORED_FILES", "")
    assert "ARA_IGNORED_FILES" not in environment.environment()


def test_without_ara_nothing_is_set_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARA_IGNORED_FILES", raising=False)
    monkeypatch.setattr(environment, "_has_ara", lambda: False)
    assert "ARA_IGNORED_FILES" not in environment.environment()
