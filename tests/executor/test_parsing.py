"""What of Ansible's plugins is looked at once and not again."""

from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("ansible.plugins.loader")

import yaml
from ansible.executor import playbook_executor
from ansible.plugins import loader
from ansible.plugins.loader import PluginLoader

from runner.executor import ansible_core, parsing


@pytest.fixture(autouse=True)
def _put(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seam is in place for the test only."""
    parsing.check_plugins()
    monkeypatch.setattr(PluginLoader, "_load_config_defs", PluginLoader._load_config_defs)
    for name in parsing._LISTED:
        monkeypatch.setattr(playbook_executor, name, getattr(playbook_executor, name))
    parsing.put_plugins()
    known = dict(parsing.constants.config._plugins.get("shell", {}))
    monkeypatch.setitem(parsing.constants.config._plugins, "shell", known)


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
    assert parsing.constants.config.has_configuration_definition("shell", "others")
