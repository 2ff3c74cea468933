"""Files that an earlier run of the process has parsed are not parsed again while they are unchanged.

Each reader gets a copy. What is kept is parsed once more between two runs, without the passwords of any run: what is
encrypted is never kept. So too are the parser of ansible-playbook's arguments and the options of plugins kept.

`parsing` saves 2.6 ms (13 %) of a run of one task, 7.1 (6 %) of ten.
"""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from ansible import constants
from ansible.cli.playbook import PlaybookCLI
from ansible.executor import playbook_executor
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import PluginLoader, get_plugin_class
from ansible.utils.display import Display

from runner.executor.patches import ansible_core
from runner.executor.patches.registry import Patch, bounded, expect

_MOST = 500
# Nanoseconds. A file that was written just now may be written again without a trace in its times.
_SETTLED = 2_000_000_000

_LISTED = ("connection_loader", "shell_loader", "become_loader")

# A file's path, and how it is read: as JSON only, as a trusted template.
Key = tuple[str, bool, bool]
# Times, size and number of a file.
State = tuple[int, ...]
# A file may as well contain nothing.
UNKNOWN = object()
# Of the display: what has been said by now and is not said twice.
_SAID = ("_warns", "_deprecations", "_errors")


class Parsed:
    """The files that are known, each with what it was like before it was read."""

    def __init__(self, load: Any) -> None:
        self._load = load
        self._known: dict[Key, tuple[State, Any]] = {}
        self._read: set[Key] = set()
        # What has something to be told each time, or is encrypted.
        self._refused: dict[Key, State] = {}
        # Files below this folder are the run's own.
        self.own_folder = ""

    def _keep(self, key: Key) -> None:
        """Read a file for the runs to come, with no run's passwords."""
        path, json_only, trusted = key
        how = {"trusted_as_template": trusted} if ansible_core.TAGS else {}
        try:
            with _nothing_said() as said:
                state = _state(path)
                content = self._load(DataLoader(), path, "none", True, json_only, **how)
        except Exception:
            # Whatever is wrong with it is for a run to say.
            return
        if any(said) or not ansible_core.is_plain(content):
            self._refused[key] = state
            bounded(self._refused, _MOST)
        elif state[0] < time.time_ns() - _SETTLED:
            self._known[key] = state, content
            bounded(self._known, _MOST)

    def end_run(self) -> None:
        """Between two runs of a process: keep what the first has read for the next."""
        read, self._read = self._read, set()
        for key in read:
            self._keep(key)

    def take(self, key: Key) -> Any:
        """The content, a copy of its own for each, if it is known and the file has not changed; else UNKNOWN."""
        state, content = self._known.get(key, (None, UNKNOWN))
        try:
            now = _state(key[0])
        except OSError:
            now = None
        if now is not None and now == state:
            return ansible_core.copied(content)
        self._known.pop(key, None)
        if now != self._refused.get(key) and not key[0].startswith(self.own_folder + os.sep):
            self._read.add(key)
        return UNKNOWN


def _state(path: str) -> State:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns


@contextlib.contextmanager
def _nothing_said() -> Iterator[list[set[str] | dict[str, int]]]:
    """Meanwhile nothing has been said before: warnings, deprecations, errors. Gives what has been said at the end.

    None of it is displayed: a run that reads the file says it, once in each run, and ansible-runner's wrappers
    would begin an event for it that nobody takes.
    """
    display = Display()
    display.display = lambda *args, **kwargs: None
    before = {name: getattr(display, name) for name in _SAID}
    said = [type(messages)() for messages in before.values()]
    for name, messages in zip(_SAID, said, strict=True):
        setattr(display, name, messages)
    try:
        yield said
    finally:
        del display.display
        for name, messages in before.items():
            setattr(display, name, messages)


def verify() -> None:
    expect(
        DataLoader.load_from_file,
        *("self", "file_name", "cache", "unsafe", "json_only", *(["trusted_as_template"] if ansible_core.TAGS else [])),
    )
    ansible_core.verify_copied()
    _ = DataLoader()._FILE_CACHE
    for name in _SAID:
        if not isinstance(messages := getattr(Display(), name), (set, dict)):
            raise TypeError(f"what has been said is kept in a {type(messages).__name__}")


def apply() -> Parsed:
    ansible_core.share_leaves()
    load = DataLoader.load_from_file
    kept = Parsed(load)

    def load_from_file(
        self: Any, file_name: str, cache: str = "all", unsafe: bool = False, json_only: bool = False, **kwargs: Any
    ) -> Any:
        path = self.path_dwim(file_name)
        if path not in self._FILE_CACHE:
            content = kept.take((str(path), json_only, kwargs.get("trusted_as_template", False)))
            if content is not UNKNOWN:
                if cache != "all":
                    return content
                # Callback plugins look there for the files of a run.
                self._FILE_CACHE[path] = content
        content = load(self, file_name, cache, True, json_only, **kwargs)
        if unsafe:
            return content
        try:
            return ansible_core.copied(content)
        except ansible_core.NotPlain:
            return copy.deepcopy(content)

    DataLoader.load_from_file = load_from_file
    return kept


def verify_arguments() -> None:
    expect(PlaybookCLI.init_parser, "self")
    _ = PlaybookCLI.parse


def apply_arguments() -> None:
    """Keep the parser of ansible-playbook's arguments, which is the same for all runs: saves 2 to 5 ms of a run."""
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


def verify_plugins() -> None:
    expect(PluginLoader._load_config_defs, "self", "name", "module", "path")
    expect(get_plugin_class, "obj")
    expect(constants.config.has_configuration_definition, "plugin_type", "name")
    for name in _LISTED:
        loader = getattr(playbook_executor, name)
        _ = loader._extra_dirs, loader.class_name
        expect(loader.all)


def apply_plugins() -> None:
    """Load the options that the documentation of plugins has once: saves 7.7 ms of a run of one task, 14 of ten.

    Before a run's playbooks, all plugins of some types are loaded for them.

    They are known from the fork server's first run, unless a playbook brings more of them. And of a plugin whose
    documentation has no options, that is found out once, not whenever it is loaded.
    """
    for name in _LISTED:
        setattr(playbook_executor, name, _Listed(getattr(playbook_executor, name)))
    load = PluginLoader._load_config_defs
    # By their modules, of which runs may load new ones again and again.
    without: WeakKeyDictionary[ModuleType, set[tuple[str, str]]] = WeakKeyDictionary()

    def load_config_defs(self: Any, name: str, module: ModuleType, path: str) -> None:
        key = self.class_name, name
        if key in without.get(module, ()):
            return
        load(self, name, module, path)
        if not (self.class_name and constants.config.has_configuration_definition(get_plugin_class(self.class_name), name)):
            without.setdefault(module, set()).add(key)

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


PATCHES = (
    Patch("parsing", verify, apply),
    Patch("arguments", verify_arguments, apply_arguments),
    Patch("plugins", verify_plugins, apply_plugins),
)
