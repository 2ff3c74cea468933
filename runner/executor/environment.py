"""The environment of the processes that play runs, and what the user's environment and ansible.cfg say of it."""

from __future__ import annotations

import configparser
import contextlib
import functools
import importlib.util
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent
# operator_sdk.util, for roles to find without any set-up.
COLLECTIONS = Path(__file__).parent.parent / "collections"
_CALLBACKS = Path(__file__).parent / "callback_plugins"

# Files that ARA's callback plugin would record with a run: its own default, and all of a CR, which is in a run's variables.
_ARA_IGNORED = ("ARA_IGNORED_FILES", ".ansible/tmp,/env/extravars")

_LOOPBACK = "127.0.0.1"
_HTTP_PROXIES = ("http_proxy", "https_proxy", "all_proxy")

# The controller's own temporary files, and the modules'.
LOCAL_TEMP = "ANSIBLE_LOCAL_TEMP"
# Characters. Programs make sockets below it (ssh-agent's takes 35 more), whose paths the kernel bounds at 108.
_LONGEST_TMPDIR = 72


def set_environ(variables: Mapping[str, str]) -> None:
    """Make these the process' environment. What is as it should be, which is most of it, is not set again."""
    now = dict(os.environ)
    for name in now.keys() - variables.keys():
        del os.environ[name]
    for name, value in variables.items():
        if now.get(name) != value:
            os.environ[name] = value


@contextlib.contextmanager
def restored_environ() -> Iterator[None]:
    """Put the process' environment back at the end."""
    before = dict(os.environ)
    try:
        yield
    finally:
        set_environ(before)


@functools.cache
def has_tags() -> bool:
    """True if ansible-core is 2.19 or newer, in which strings carry tags; it is not imported for that."""
    major, minor = metadata.version("ansible-core").split(".")[:2]
    return (int(major), int(minor)) >= (2, 19)


@functools.cache
def _has_ara() -> bool:
    return importlib.util.find_spec("ara") is not None


def environment() -> dict[str, str]:
    """The variables of all runs on top of the runner's own.

    Ansible finds collections on Python's path too. ANSIBLE_COLLECTIONS_PATH is the user's, and so is ansible.cfg, which
    that variable would override. The programs of this Python come first: a runner is often started by its path, from no
    activated venv.
    """
    path = os.pathsep.join(filter(None, (str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    variables = {"PYTHONPATH": python_path(COLLECTIONS), "PATH": path, **_without_proxy(os.environ)}
    name, ignored = _ARA_IGNORED
    if _has_ara() and name not in os.environ and "ignored_files" not in configured("ara"):
        variables[name] = ignored
    if not has_tags():
        # ansible-runner puts its own folder behind it, so that the user's ansible.cfg has no say in this anyway.
        variables["ANSIBLE_CALLBACK_PLUGINS"] = _first(_CALLBACKS, "ANSIBLE_CALLBACK_PLUGINS")
    return variables


def temporary(scratch: str) -> dict[str, str]:
    """The variables by which temporary files are made in this folder, but for those whose place the user has chosen."""
    chosen = {name for name in ("TMPDIR", LOCAL_TEMP) if os.environ.get(name)}
    if "local_tmp" in configured():
        chosen.add(LOCAL_TEMP)
    if len(scratch) > _LONGEST_TMPDIR:
        chosen.add("TMPDIR")
    return {name: scratch for name in ("TMPDIR", LOCAL_TEMP) if name not in chosen}


def configured(section: str = "defaults") -> Collection[str]:
    """The names in a section of the user's ansible.cfg; Ansible decides in the same way which file that is."""
    places = ["ansible.cfg", os.path.expanduser("~/.ansible.cfg"), "/etc/ansible/ansible.cfg"]
    if given := os.environ.get("ANSIBLE_CONFIG"):
        path = os.path.expanduser(given)
        places.insert(0, os.path.join(path, "ansible.cfg") if os.path.isdir(path) else path)
    for place in places:
        with contextlib.suppress(OSError, ValueError):
            found = os.stat(place)
            return _read(os.path.abspath(place), found.st_mtime_ns, found.st_size, found.st_ino).get(section, ())
    return ()


@functools.lru_cache(maxsize=4)
def _read(path: str, *_: int) -> Mapping[str, Collection[str]]:
    """The names in each section of an ansible.cfg, read again when its time, its size or its inode is another."""
    parser = configparser.RawConfigParser(strict=False)
    with contextlib.suppress(OSError, ValueError, configparser.Error):
        parser.read(path, encoding="utf-8")
    return {section: frozenset(parser[section]) for section in parser.sections()}


def _without_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """A cluster's HTTP proxy (HTTP_PROXY, https_proxy …) is not for the runner's own, to which a run sends its token.

    Without such a proxy nothing is added: roles take NO_PROXY for a sign of one, and hand it on to what they make.
    """
    if not any(environ.get(name) or environ.get(name.upper()) for name in _HTTP_PROXIES):
        return {}
    # An empty one counts, too: none but the runner.
    upper, lower = environ.get("NO_PROXY"), environ.get("no_proxy")
    hosts = {"NO_PROXY": (lower or "") if upper is None else upper, "no_proxy": (upper or "") if lower is None else lower}
    # A "*" counts alone only.
    return {
        name: given if given.strip() == "*" or _LOOPBACK in given.split(",") else ",".join(filter(None, (given, _LOOPBACK)))
        for name, given in hosts.items()
    }


def python_path(first: Path) -> str:
    return _first(first, "PYTHONPATH")


def _first(folder: Path, name: str) -> str:
    """The folder, and behind it those that this variable of the runner's environment has."""
    return os.pathsep.join(filter(None, (str(folder), os.environ.get(name, ""))))
