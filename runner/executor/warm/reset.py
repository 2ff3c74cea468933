"""The reset of a worker between two jobs: what a run has changed in the process is put back, and the rest detected.

Runs never share state. What ansible-core, the Kubernetes client and Python keep for the whole process is set to what it was
before the first job; what a run may not have changed is compared with what it was. The first difference is the reason why
the worker plays no other job: it is a label of `rolerunner_worker_retired_total`, and stands below with each comparison.

What is not compared, is kept away: Python that is neither ansible-core's, nor an installed library's, nor of the collections
whose modules are called in the process, ends its worker (`code`), as it may have changed anything; also if its import fails.
A role's own filters and tests may be `harmless`: their modules are dropped, and loaded again by the next run.
Plugins that ansible.cfg gives to all runs (`callback_plugins`, `filter_plugins`) end the worker too: after each run, then.
Only callback plugins of installed libraries do not (`runner.executor.warm.callbacks`), if they leave nothing else.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import inspect
import io
import itertools
import json
import locale
import logging
import os
import random
import resource
import shutil
import signal
import site
import socket
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jinja2
import jinja2.defaults
import jinja2.environment
import jinja2.filters
import jinja2.runtime
import jinja2.tests
import yaml
from ansible import constants, context
from ansible.executor.task_queue_manager import TaskQueueManager
from ansible.module_utils import basic
from ansible.parsing import dataloader
from ansible.parsing.vault import VaultAES256
from ansible.plugins import action, cache, callback, loader, lookup
from ansible.utils import color
from ansible.utils.display import Display
from ansible.vars import manager

from runner.executor import processes
from runner.executor.environment import PACKAGE, set_environ
from runner.executor.jobs import Limits
from runner.executor.patches import ansible_core
from runner.executor.patches.registry import Patch, expect
from runner.executor.warm import callbacks
from runner.executor.warm.harmless import is_harmless

# Of these, every attribute is to be what it was; and of the classes below, every method.
_WATCHED: tuple[ModuleType | type, ...] = (
    *(builtins, json, os, os.path, random, shutil, socket, ssl, subprocess, time, logging, io, yaml),
    *(jinja2, jinja2.defaults, jinja2.environment, jinja2.filters, jinja2.runtime, jinja2.tests),
    *(action, lookup, callback, manager, dataloader),
    *(action.ActionBase, lookup.LookupBase, manager.VariableManager, dataloader.DataLoader, jinja2.environment.Environment),
    *(basic.AnsibleModule, json.JSONEncoder, json.JSONDecoder, socket.socket, subprocess.Popen, TaskQueueManager),
    *(callback.CallbackBase, loader.PluginLoader, loader.Jinja2Loader, Display),
)
# Module-level variables that belong to a run; the last has the passwords of those that were asked.
_OF_A_RUN = (
    *ansible_core.OF_A_MODULE,
    *((context, "CLIARGS"), (color, "ANSIBLE_COLOR"), (tempfile, "tempdir"), (urllib.request, "_opener")),
)
_LOADERS = tuple(each for each in vars(loader).values() if isinstance(each, loader.PluginLoader))
_LIMITS = tuple(number for name, number in vars(resource).items() if name.startswith("RLIMIT_"))
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
# Seconds for which a thread that has ended may still be listed.
_THREAD_EXIT_WAITS = (0.0, 0.001, 0.01, 0.1)
# What the interpreter has in a module or class; each handler of logs, which is made where a library that logs is imported.
_CHANGING = frozenset({"__builtins__", "__annotations__", "__slotnames__", "_handlerList"})
# What the path of a collection's file has in it.
_COLLECTIONS = "/ansible_collections/"
# What Python's imports note down in a module.
_OF_IMPORTS = ("__spec__", "__loader__", "__package__", "__path__", "__file__", "__cached__", "__doc__")
# Exit codes of an ansible-playbook that has come to its end: all is well, a task failed.
_ENDED_BY_ITSELF = (0, 2)


def verify() -> None:
    """LookupError or AttributeError where this ansible-core keeps other things for the whole process."""
    expect(TaskQueueManager.cleanup, "self")
    for owner, name in _OF_A_RUN:
        getattr(owner, name)
    for each in _LOADERS:
        _ = each._extra_dirs, each._paths, each._clear_caches
    _ = loader.MODULE_CACHE, loader.PLUGIN_PATH_CACHE, cache.tempfile.mkstemp, cache.BaseFileCacheModule.set
    callbacks.verify()


# The files of Python code that were loaded since a worker has last looked.
_loaded: list[str] = []


def apply() -> None:
    """Have each run close its lock file, not the garbage collector some time later; and record the code that is loaded.

    This saves nothing: without it a worker could not be checked.
    """
    cleanup = TaskQueueManager.cleanup

    def closing(self: Any) -> None:
        try:
            cleanup(self)
        finally:
            self._connection_lockfile.close()

    TaskQueueManager.cleanup = closing
    if "os.close" not in inspect.getsource(cache.BaseFileCacheModule.set):
        # Until 2.19 the files that facts are kept in stay open.
        cache.tempfile = SimpleNamespace(mkstemp=_made)
    get_code = SourceFileLoader.get_code

    def noted(self: Any, name: str) -> Any:
        _loaded.append(self.path)
        return get_code(self, name)

    # It is no longer on the stack when the code is run, and so in no traceback.
    setattr(SourceFileLoader, "get_code", noted)  # noqa: B010


def _made(*args: Any, **kwargs: Any) -> tuple[int, str]:
    """As `tempfile.mkstemp`, where the name is all that is used."""
    descriptor, path = tempfile.mkstemp(*args, **kwargs)
    os.close(descriptor)
    return -1, path


PATCH = Patch("workers", verify, apply)


class Baseline:
    """The state of the process before the first job. Made in the fork server; `begin` is called in each worker."""

    def __init__(self, collections: frozenset[str]) -> None:
        found = {name: sys.modules.get(f"ansible_collections.{name}") for name in collections}
        # Those that are there: another of the same name that comes with a playbook is not known.
        self._collections = {tuple(name.split(".")) for name, module in found.items() if module}
        self._called = tuple(os.path.join(path, "") for module in found.values() if module for path in module.__path__)
        self._watched = [(each, dict(vars(each))) for each in _WATCHED]
        self._containers = [(each, each.copy()) for _, known in self._watched for each in _containers(known)]
        self._defaults = dict(vars(constants))
        self._default_containers = [(each, each.copy()) for each in _containers(self._defaults)]
        self._of_a_run = [(owner, name, getattr(owner, name)) for owner, name in _OF_A_RUN]
        self._display = {name: value.copy() if _is_filled(value) else value for name, value in vars(Display()).items()}
        self._loaders = [(each, list(each._extra_dirs)) for each in _LOADERS]
        self._libraries = sorted(_libraries(), key=len, reverse=True)
        # The fork server's may be lowered for a while, and so those of a worker that it forks meanwhile.
        self._limits = _limits()
        # The operator's own plugins, which all runs have: loaded once, they keep what they keep for all of them.
        plugins = [module for each in _LOADERS for module in each._module_cache.values()]
        self._plugins = [module.__name__ for module in plugins if not self._is_known_code(module.__name__, module)]
        # What the last comparison has found, for people; empty if that is not known.
        self.found = ""

    def begin(self) -> None:
        self._modules = dict(sys.modules)
        _loaded.clear()
        self._environment, self._folder, self._mask = dict(os.environ), os.getcwd(), _umask()
        self._streams = sys.stdin, sys.stdout, sys.stderr
        self._argv, self._path = list(sys.argv), list(sys.path)
        self._warnings = list(warnings.filters)
        self._signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._collector = gc.isenabled(), gc.get_threshold()
        self._process = _process()
        self._descriptors = _descriptors(())

    def restore(self) -> None:
        """Put the process back into this state, as far as that is possible."""
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        ansible_core.forget_run()
        for owner, name, value in self._of_a_run:
            setattr(owner, name, value)
        # Derived from passwords.
        getattr(VaultAES256._gen_key_initctr, "cache_clear", lambda: None)()
        self._restore_defaults()
        self._restore_display()
        self._restore_loaders()
        callbacks.drop()
        if (module := sys.modules.get("ansible.plugins.vars.host_group_vars")) is not None:
            for name in ("FOUND", "NAK", "CANONICAL_PATHS"):
                getattr(module, name, {}).clear()
        zone = os.environ.get("TZ")
        set_environ(self._environment)
        if zone != os.environ.get("TZ"):
            time.tzset()
        os.chdir(self._folder)
        os.umask(self._mask)
        sys.stdin, sys.stdout, sys.stderr = self._streams
        sys.argv[:], sys.path[:] = self._argv, self._path
        # In any case: only so is what was said once said again.
        warnings.resetwarnings()
        filters: Any = warnings.filters
        filters[:] = self._warnings
        for number, handler in self._signals.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
        if gc.isenabled() != self._collector[0]:
            (gc.enable if self._collector[0] else gc.disable)()
        gc.set_threshold(*self._collector[1])
        random.seed()

    def _restore_defaults(self) -> None:
        """Restore the constants of ansible-core: templates do not always get copies of their values."""
        state = vars(constants)
        state.update(self._defaults)
        for name in state.keys() - self._defaults.keys():
            del state[name]
        for each, known in self._default_containers:
            if each != known:
                each.clear()
                (each.extend if isinstance(each, list) else each.update)(known)

    def _restore_display(self) -> None:
        state = vars(Display())
        for name in state.keys() - self._display.keys():
            del state[name]
        for name, value in self._display.items():
            if _is_filled(value):
                state[name].clear()
                state[name].update(value)
            else:
                state[name] = value

    def _restore_loaders(self) -> None:
        """A role's own folders of modules and plugins are the run's: its path may be of a CR's folder."""
        self._had_folders = False
        for each, folders in self._loaders:
            if each._extra_dirs == folders:
                continue
            self._had_folders = True
            each._extra_dirs[:] = folders
            loader.MODULE_CACHE[each.class_name] = each._module_cache = {}
            loader.PLUGIN_PATH_CACHE[each.class_name] = each._plugin_path_cache = _empty_like(each._plugin_path_cache)
            each._clear_caches()

    def difference(self, kept: Collection[int] = ()) -> str:
        """The first part of the process that is not as it was; empty if all is. `kept`: descriptors that may stay open."""
        self.found = ""
        return next((name for name, is_different in self._comparisons(kept) if is_different()), "")

    def _comparisons(self, kept: Collection[int]) -> Iterator[tuple[str, Callable[[], bool]]]:
        yield "child", _had_children
        yield "thread", self._has_threads
        yield "code", self._has_new_code
        yield "patched", self._is_patched
        yield "process", lambda: _process() != self._process or _limits() != self._limits
        yield "descriptor", partial(self._has_other_descriptors, kept)

    def _has_new_code(self) -> bool:
        modules = sys.modules
        loaded, _loaded[:] = list(_loaded), []
        own = [path for path in loaded if not self._is_of_a_library(path)]
        # A role's own, whose modules are dropped with what else the loaders have of its folders.
        harmful = (path for path in own if not (self._had_folders and is_harmless(path)))
        cached = (path for path in own if any(path in each._module_cache for each in _LOADERS))
        if found := next(itertools.chain(harmful, self._plugins, cached), ""):
            self.found = found
            return True
        if modules == self._modules:
            return False
        if found := next((name for name, module in self._modules.items() if modules.get(name) is not module), ""):
            self.found = found
            return True
        for name in modules.keys() - self._modules.keys():
            if getattr(modules[name], "__file__", None) in own:
                del modules[name]
            elif self._is_known_code(name, modules[name]):
                self._modules[name] = modules[name]
            else:
                self.found = name
                return True
        return False

    def _has_threads(self) -> bool:
        if not _has_threads():
            return False
        self.found = ", ".join(thread.name for thread in threading.enumerate()[1:])
        return True

    def _is_known_code(self, name: str, module: ModuleType) -> bool:
        package, *parts = name.split(".")
        if package == "ansible_collections":
            known = {*self._collections, ("ansible", "builtin"), ("ansible", "legacy")}
            return any(tuple(parts[:2]) == each[: len(parts[:2])] for each in known)
        path = getattr(module, "__file__", None)
        return path is None or self._is_of_a_library(path)

    def _is_of_a_library(self, path: str) -> bool:
        path = os.path.abspath(path)
        if path.startswith(self._called):
            return True
        library = next((folder for folder in self._libraries if path.startswith(folder)), None)
        # Other collections may be installed as libraries are.
        return library is not None and _COLLECTIONS not in path[len(library) - 1 :]

    def _is_patched(self) -> bool:
        return any(vars(each) != known and _is_changed(vars(each), known) for each, known in self._watched) or any(
            each != known for each, known in self._containers
        )

    def _has_other_descriptors(self, kept: Collection[int]) -> bool:
        if _descriptors(kept) == self._descriptors:
            return False
        # Some are closed with what had them.
        gc.collect()
        return _descriptors(kept) != self._descriptors


class Uses:
    """The runs, the age and the memory of a worker, against its limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._begun = time.monotonic()
        self._runs = 0
        self._memory = 0

    def reason(self, code: int | None) -> str:
        """After a run with this exit code (None: an error): the reason to end the worker; empty if there is none."""
        self._runs += 1
        if code not in _ENDED_BY_ITSELF:
            return "exit"
        if self._runs >= self._limits.runs:
            return "runs"
        if time.monotonic() - self._begun >= self._limits.age:
            return "age"
        memory = _resident()
        # The first run loads what the later ones use.
        self._memory = self._memory or memory
        return "memory" if memory - self._memory > self._limits.memory else ""


def _containers(values: Mapping[str, Any]) -> Iterable[Any]:
    """Those that could be changed in place."""
    return [each for name, each in values.items() if isinstance(each, (list, dict, set)) and name not in _CHANGING]


def _is_changed(values: Mapping[str, object], known: dict[str, object]) -> bool:
    """True if a module's attributes have changed by more than imports and copies account for."""
    new = {name: values[name] for name in values.keys() - known.keys()}
    if not all(name in _CHANGING or isinstance(each, ModuleType) for name, each in new.items()):
        return True
    known.update(new)
    known.update({name: values[name] for name in _OF_IMPORTS if name in values})
    return values != known


def _is_filled(value: object) -> bool:
    return isinstance(value, (dict, set))


def _empty_like(cache: Any) -> Any:
    return type(cache)(cache.default_factory) if hasattr(cache, "default_factory") else type(cache)()


def _libraries() -> Iterator[str]:
    """Folders of code that is installed: Python's, packages', this program's."""
    paths = {*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")), site.getusersitepackages()}
    paths |= {path for path in sys.path if Path(path).name in ("site-packages", "dist-packages", "lib-dynload")}
    paths.add(str(PACKAGE / "runner"))
    for path in paths:
        yield os.path.join(path, "")
        yield os.path.join(os.path.realpath(path), "")


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _had_children() -> bool:
    """End the processes that a run has left, and return True if there were any.

    Those that have lost their parent are children of this process.
    """
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    processes.end_descendants()
    return True


def _has_threads() -> bool:
    for pause in _THREAD_EXIT_WAITS:
        time.sleep(pause)
        if threading.active_count() != 1:
            return True
        if len(os.listdir("/proc/self/task")) == 1:
            return False
    return True


def _descriptors(kept: Collection[int]) -> Mapping[int, str]:
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        # That of the listing itself is no more.
        with contextlib.suppress(OSError):
            if number not in kept:
                found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def _process() -> tuple[object, ...]:
    """The state that the kernel and the interpreter keep of this process, as far as a run can change it."""
    return (
        *(os.getresuid(), os.getresgid(), os.getgroups(), os.getpriority(os.PRIO_PROCESS, 0), os.getsid(0), os.getpgrp()),
        locale.setlocale(locale.LC_ALL),
        time.tzname,
        socket.getdefaulttimeout(),
        *(sys.getrecursionlimit(), sys.getswitchinterval(), sys.gettrace(), sys.getprofile()),
        *(sys.excepthook, sys.displayhook, threading.excepthook, sys.unraisablehook),
        *(tuple(map(id, sys.meta_path)), tuple(map(id, sys.path_hooks))),
        (logging.root.level, tuple(logging.root.handlers), logging.root.manager.disable),
        importlib.__import__,
    )


def _limits() -> tuple[object, ...]:
    return tuple(map(resource.getrlimit, _LIMITS))


def _resident() -> int:
    """Bytes."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
