"""Seams of ansible-core and of what it uses: what has been parsed is not parsed again.

Files that an earlier run has read are reused while they are unchanged. The fork server parses what its children say they
have parsed, so that the next ones have it. A child hands out what it has inherited once, without a copy: it is its own.
From then on ansible-core's cache does its work.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from typing import Any

import ansible_runner.loader
import yaml
from ansible import constants
from ansible.cli.playbook import PlaybookCLI
from ansible.executor import playbook_executor
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import PluginLoader, get_plugin_class
from ansible.utils.display import Display

from runner.executor import ansible_core
from runner.executor.lessons import bounded
from runner.executor.seams import expect

_MOST = 500
# Nanoseconds. A file that was written just now may be written again without a trace in its times.
_SETTLED = 2_000_000_000

_LISTED = ("connection_loader", "shell_loader", "become_loader")

# A file's path, and how it is read: as JSON only, as a trusted template.
Key = tuple[str, bool, bool]


class Parsed:
    def __init__(self, load: Any) -> None:
        self._load = load
        # With what the file was like before it was read.
        self._known: dict[Key, tuple[tuple[int, ...], Any]] = {}
        self._learned: set[Key] = set()
        self._taken: set[Key] = set()
        # Files below this folder are the run's own.
        self.own_folder = ""

    def keep(self, key: Key) -> None:
        path, json_only, trusted = key
        said = _said()
        before = [set(messages) for messages in said]
        try:
            state = _state(path)
            how = {"trusted_as_template": trusted} if ansible_core.TAGS else {}
            content = self._load(DataLoader(), path, "none", True, json_only, **how)
        except Exception:
            # Whatever is wrong with it is for a run to say.
            return
        finally:
            # So is what there is to say of its content, each time: what was said once is not said again.
            silent = before == [set(messages) for messages in said]
            for messages, earlier in zip(said, before, strict=True):
                for message in set(messages) - earlier:
                    _unsay(messages, message)
        if silent and state[0] < time.time_ns() - _SETTLED and not ansible_core.has_vault_values(content):
            self._known[key] = state, content
            bounded(self._known, _MOST)

    def learned(self) -> Iterable[Key]:
        learned, self._learned = self._learned, set()
        return learned

    def take(self, key: Key) -> Any:
        """The content, once, if it is known and the file has not changed; None otherwise."""
        known = self._known.pop(key, None)
        with contextlib.suppress(OSError):
            if known is not None and _state(key[0]) == known[0]:
                self._taken.add(key)
                return known[1]
        if key not in self._taken and not key[0].startswith(self.own_folder + os.sep):
            self._learned.add(key)
        return None


def _state(path: str) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns


def _said() -> list[set[str] | dict[str, int]]:
    """What has been said by now and is not said twice: warnings, deprecations, errors."""
    display = Display()
    return [display._warns, display._deprecations, display._errors]


def _unsay(messages: set[str] | dict[str, int], message: str) -> None:
    if isinstance(messages, dict):
        del messages[message]
    else:
        messages.remove(message)


def check() -> None:
    expect(
        DataLoader.load_from_file,
        *("self", "file_name", "cache", "unsafe", "json_only", *(["trusted_as_template"] if ansible_core.TAGS else [])),
    )
    _ = DataLoader()._FILE_CACHE
    for messages in _said():
        if not isinstance(messages, (set, dict)):
            raise TypeError(f"what has been said is kept in a {type(messages).__name__}")


def put() -> Parsed:
    load = DataLoader.load_from_file
    kept = Parsed(load)

    def load_from_file(
        self: Any, file_name: str, cache: str = "all", unsafe: bool = False, json_only: bool = False, **kwargs: Any
    ) -> Any:
        path = self.path_dwim(file_name)
        if path not in self._FILE_CACHE:
            content = kept.take((str(path), json_only, kwargs.get("trusted_as_template", False)))
            if content is not None:
                return content
        return load(self, file_name, cache, unsafe, json_only, **kwargs)

    DataLoader.load_from_file = load_from_file
    return kept


def check_yaml() -> None:
    expect(yaml.safe_load, "stream")
    _ = yaml.CSafeLoader, ansible_runner.loader.safe_load


def put_yaml() -> None:
    """Kubeconfigs and the like are read by PyYAML's safe loader; the one in C reads the same."""
    yaml.safe_load = ansible_runner.loader.safe_load = lambda stream: yaml.load(stream, Loader=yaml.CSafeLoader)


def check_inventory() -> None:
    expect(InventoryManager._fetch_inventory_plugins, "self")


def put_inventory() -> None:
    """The plugins that inventories are tried with are loaded beforehand; whoever asks again in a run gets others."""
    fetch, here = InventoryManager._fetch_inventory_plugins, os.getpid()
    loaded: list[Any] = []

    def fetch_inventory_plugins(self: Any) -> Any:
        if os.getpid() == here:
            # In the fork server's first run: once for it, and once for each fork.
            loaded[:] = [fetch(self)]
            return fetch(self)
        return loaded.pop() if loaded else fetch(self)

    InventoryManager._fetch_inventory_plugins = fetch_inventory_plugins


def check_arguments() -> None:
    expect(PlaybookCLI.init_parser, "self")
    _ = PlaybookCLI.parse


def put_arguments() -> None:
    """The parser of ansible-playbook's arguments is the same for all runs."""
    init_parser = PlaybookCLI.init_parser
    parser: Any = None

    def kept_parser(self: Any) -> None:
        nonlocal parser
        if parser is None:
            # Once in the life of the fork server, in its first run.
            init_parser(self)
            parser = self.parser
        self.parser = parser

    PlaybookCLI.init_parser = kept_parser


def check_plugins() -> None:
    expect(PluginLoader._load_config_defs, "self", "name", "module", "path")
    expect(get_plugin_class, "obj")
    expect(constants.config.has_configuration_definition, "plugin_type", "name")
    for name in _LISTED:
        loader = getattr(playbook_executor, name)
        _ = loader._extra_dirs, loader.class_name
        expect(loader.all)


def put_plugins() -> None:
    """Before a run's playbooks, all plugins of some types are loaded for the options that their documentation has.

    They are known from the fork server's first run, unless a playbook brings more of them. And of a plugin whose
    documentation has no options, that is found out once, not whenever it is loaded.
    """
    for name in _LISTED:
        setattr(playbook_executor, name, _Listed(getattr(playbook_executor, name)))
    load = PluginLoader._load_config_defs
    without: set[tuple[str, str, Any]] = set()

    def load_config_defs(self: Any, name: str, module: Any, path: str) -> None:
        key = self.class_name, name, module
        if key in without:
            return
        load(self, name, module, path)
        if not (self.class_name and constants.config.has_configuration_definition(get_plugin_class(self.class_name), name)):
            without.add(key)

    PluginLoader._load_config_defs = load_config_defs


class _Listed:
    """A loader of plugins, in the one place where all of them are loaded, and then not used."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._loaded: list[str] | None = None

    def all(self, **how: Any) -> Iterable[Any]:
        folders = list(self._loader._extra_dirs)
        if folders == self._loaded:
            return ()
        self._loaded = folders
        return self._loader.all(**how)  # type: ignore[no-any-return]
