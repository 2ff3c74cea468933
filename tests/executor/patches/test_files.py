"""What of Ansible's files and plugins is looked at once and not again."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("ansible.plugins.loader")

import yaml
from ansible.errors import AnsibleError
from ansible.executor import playbook_executor
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultSecret
from ansible.plugins import loader
from ansible.plugins.loader import PluginLoader

from runner.executor.patches import ansible_core, files

if ansible_core.TAGS:
    from ansible.parsing.vault import VaultSecretsContext


@pytest.fixture(autouse=True)
def _put(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patch is in place for the test only."""
    files.verify_plugins()
    monkeypatch.setattr(PluginLoader, "_load_config_defs", PluginLoader._load_config_defs)
    for name in files._LISTED:
        monkeypatch.setattr(playbook_executor, name, getattr(playbook_executor, name))
    files.apply_plugins()
    known = dict(files.constants.config._plugins.get("shell", {}))
    monkeypatch.setitem(files.constants.config._plugins, "shell", known)


def test_all_plugins_of_a_type_are_loaded_again_when_a_playbook_brings_some(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = playbook_executor.shell_loader
    folders: list[str] = []
    monkeypatch.setattr(loader._loader, "_extra_dirs", folders)
    names = [plugin.__name__ for plugin in loader.all(class_only=True)]
    assert names
    assert list(loader.all(class_only=True)) == []
    folders.append("/somewhere")
    assert len(list(loader.all(class_only=True))) == len(names)


def plugin(name: str, documentation: str) -> ModuleType:
    module = ModuleType(name)
    module.DOCUMENTATION = documentation  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("documentation", ["description: of mine", ""], ids=["description", "nothing"])
def test_a_plugins_documentation_is_read_once(
    documentation: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    read: list[Any] = []
    # Until ansible-core 2.18 without PyYAML's own function.
    owner, function = (yaml, "load") if ansible_core.TAGS else (loader, "AnsibleLoader")
    load = getattr(owner, function)

    def counted(text: Any, *args: Any, **kwargs: Any) -> Any:
        read.append(text)
        return load(text, *args, **kwargs)

    monkeypatch.setattr(owner, function, counted)
    name = request.node.callspec.id
    module = plugin(name, documentation)
    for _ in range(3):
        playbook_executor.shell_loader._loader._load_config_defs(name, module, f"/somewhere/{name}.py")
    assert len(read) == 1


def test_another_plugin_of_the_same_name_is_another() -> None:
    load = playbook_executor.shell_loader._loader._load_config_defs
    load("others", plugin("others", ""), "/one/others.py")
    load("others", plugin("others", "options: {mine: {default: 1}}"), "/two/others.py")
    assert files.constants.config.has_configuration_definition("shell", "others")


@pytest.fixture
def parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[files.Parsed]:
    """The patch is in place, for runs whose own folder is `own`."""
    files.verify()
    monkeypatch.setattr(DataLoader, "load_from_file", DataLoader.load_from_file)
    kept = files.apply()
    (tmp_path / "own").mkdir()
    kept.own_folder = str(tmp_path / "own")
    yield kept
    ansible_core.forget_run()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    # What is younger is not kept.
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


def known(parsed: files.Parsed) -> list[str]:
    return [Path(key[0]).name for key in parsed._known]


def test_each_run_and_reader_has_a_copy_of_its_own(parsed: files.Parsed, tmp_path: Path) -> None:
    path = write(tmp_path / "tasks.yml", "- {a: [1, 2]}\n")
    for _ in range(3):
        for unsafe in (False, True):
            content = DataLoader().load_from_file(str(path), unsafe=unsafe)
            assert content == [{"a": [1, 2]}]
            content[0]["a"].append("mine")
            content.append("mine")
        parsed.end_run()
    assert known(parsed) == ["tasks.yml"]


def test_a_file_that_is_kept_is_not_parsed(parsed: files.Parsed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "tasks.yml", "- a\n")
    empty = write(tmp_path / "empty.yml", "")
    for each in (path, empty):
        DataLoader().load_from_file(str(each))
    parsed.end_run()
    monkeypatch.setattr(DataLoader, "load", lambda *_, **__: pytest.fail("this is kept"))
    assert DataLoader().load_from_file(str(path)) == ["a"]
    assert DataLoader().load_from_file(str(empty)) is None


def test_a_file_that_changes_between_runs_is_read_again(parsed: files.Parsed, tmp_path: Path) -> None:
    path = tmp_path / "tasks.yml"
    for word in ("one", "two", "six"):
        write(path, f"- {word}\n")
        for _ in range(2):
            assert DataLoader().load_from_file(str(path)) == [word]
            parsed.end_run()
    path.unlink()
    with pytest.raises(AnsibleError):
        DataLoader().load_from_file(str(path))


def test_what_is_a_runs_own_is_not_kept(parsed: files.Parsed, tmp_path: Path) -> None:
    DataLoader().load_from_file(str(write(tmp_path / "own" / "play.yml", "- a\n")))
    parsed.end_run()
    assert known(parsed) == []


def test_what_is_still_being_written_or_broken_is_not_kept(parsed: files.Parsed, tmp_path: Path) -> None:
    (tmp_path / "fresh.yml").write_text("a: 1\n")
    # It is not any older when it is looked at, however long that takes.
    os.utime(tmp_path / "fresh.yml", (time.time() + 3600,) * 2)
    for name, text in (("other.yml", "a: 1\n"), ("broken.yml", "a: [\n"), ("none.yml", "")):
        write(tmp_path / name, text)
    (tmp_path / "none.yml").unlink()
    for name in ("fresh.yml", "other.yml", "broken.yml", "none.yml"):
        with contextlib.suppress(AnsibleError):
            DataLoader().load_from_file(str(tmp_path / name))
    parsed.end_run()
    assert known(parsed) == ["other.yml"]


def test_what_is_to_be_told_is_told_in_each_run(
    parsed: files.Parsed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "twice.yml", "a: 1\na: 2\n")
    told: list[str] = []
    monkeypatch.setattr(files.Display, "display", lambda self, text, *_, **__: told.append(text))
    for _ in range(3):
        for name in files._SAID:
            # As at the end of a run.
            getattr(files.Display(), name).clear()
        told.clear()
        for _ in range(2):
            DataLoader().load_from_file(str(path), cache="")
        assert len([text for text in told if "twice.yml" in text]) == 1
        parsed.end_run()
    assert known(parsed) == []


PASSWORD = b"open sesame"


def hidden(path: str, *, password: bytes | None) -> str:
    """What a run with this password, or with none, finds in the file."""
    ansible_core.forget_run()
    secrets = [("default", VaultSecret(password))] if password else []
    if ansible_core.TAGS:
        VaultSecretsContext.initialize(VaultSecretsContext(secrets))
    loader = DataLoader()
    loader.set_vault_secrets(secrets)
    try:
        return str(loader.load_from_file(path)["hidden"])
    except AnsibleError:
        return ""


def encrypted(text: str, folder: Path) -> str:
    (folder / "password").write_bytes(PASSWORD)
    command = [str(Path(sys.executable).with_name("ansible-vault")), "encrypt", "--vault-password-file"]
    done = subprocess.run(
        [*command, str(folder / "password")], input=text, check=True, capture_output=True, text=True, cwd=folder
    )
    return done.stdout


@pytest.mark.parametrize("form", ["whole", "value", "json"])
def test_what_is_vaulted_is_for_runs_with_the_password_only(parsed: files.Parsed, tmp_path: Path, form: str) -> None:
    secret = encrypted("hidden: treasure\n" if form == "whole" else "treasure", tmp_path)
    indented = "".join(f"    {line}\n" for line in secret.splitlines())
    text = {
        "whole": secret,
        "value": f"hidden: !vault |\n{indented}",
        "json": f'{{"hidden": {{"__ansible_vault": "{secret.replace(chr(10), chr(92) + "n")}"}}}}',
    }[form]
    path = str(write(tmp_path / "secret.yml", text))
    for _ in range(2):
        assert hidden(path, password=PASSWORD) == "treasure"
        # Before the process forgets the run.
        parsed.end_run()
        assert "treasure" not in hidden(path, password=None)
        parsed.end_run()
    assert known(parsed) == []
