"""A job on its way to the process that runs it: what is written down for ansible-runner, and what is told directly."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import functools
import json
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from runner.executor.jobs import Job, told_as_executor_error
from runner.json_codec import encode
from runner.private_files import update_private

PACKAGE = Path(__file__).parent.parent.parent
# operator_sdk.util, for roles to find without any set-up.
COLLECTIONS = Path(__file__).parent.parent / "collections"
_CALLBACKS = Path(__file__).parent / "callback_plugins"

_LOOPBACK = "127.0.0.1"
_HTTP_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_UNSAFE = "__ansible_unsafe"

# An event holds a task's whole result; `recording` cuts it where it is longer than this in its line. What is longer than
# the line may be, in bytes, breaks the run.
LONGEST_EVENT = 4 * 1024 * 1024
LONGEST_LINE = 4 * LONGEST_EVENT

# The controller's own temporary files, and the modules'.
LOCAL_TEMP = "ANSIBLE_LOCAL_TEMP"
_REMOTE_TEMP = ("ANSIBLE_REMOTE_TEMP", "ANSIBLE_REMOTE_TMP")
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


def order(job: Job) -> dict[str, Any]:
    """What the process is told, as JSON. Extra vars and arguments are in files, where ansible-runner looks for them."""
    return {
        "ident": job.ident,
        "folder": str(job.folder),
        "role": str(job.role) if job.role else None,
        "playbook": str(job.playbook) if job.playbook else None,
        "gather_facts": os.environ.get("ANSIBLE_GATHERING") != "explicit",
        "environment": {**job.environment, **environment(), **temporary(str(job.scratch))},
        "verbosity": job.verbosity,
        "secrets": job.secrets,
        "names": job.names,
        "artifacts": job.max_artifacts is not None,
    }


@functools.cache
def has_tags() -> bool:
    """Whether the ansible-core that runs use is 2.19 or newer, in which strings carry tags; known without importing it."""
    major, minor = metadata.version("ansible-core").split(".")[:2]
    return (int(major), int(minor)) >= (2, 19)


def _marked(data: Mapping[str, Any]) -> dict[str, Any]:
    """Variables none of whose strings Ansible may template, in the form that its JSON loader reads."""
    if has_tags():
        return {name: _marked_strings(value) for name, value in data.items()}
    # It marks all there is in it, keys among it, which would otherwise be templates when a role makes values of them.
    return {name: {_UNSAFE: value} for name, value in data.items()}


def _marked_strings(value: Any) -> Any:
    if isinstance(value, str):
        return {_UNSAFE: value}
    if isinstance(value, dict):
        return {name: _marked_strings(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_marked_strings(item) for item in value]
    return value


def environment() -> dict[str, str]:
    """What all runs have in their environment beside the runner's own.

    Ansible finds collections on Python's path too. ANSIBLE_COLLECTIONS_PATH is the user's, and so is ansible.cfg, which
    that variable would override. The programs of this Python come first: a runner is often started by its path, from no
    activated venv.
    """
    path = os.pathsep.join(filter(None, (str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    variables = {"PYTHONPATH": python_path(COLLECTIONS), "PATH": path, **_without_proxy(os.environ)}
    if not has_tags():
        # ansible-runner puts its own folder behind it, so that the user's ansible.cfg has no say in this anyway.
        variables["ANSIBLE_CALLBACK_PLUGINS"] = _first(_CALLBACKS, "ANSIBLE_CALLBACK_PLUGINS")
    return variables


def temporary(scratch: str) -> dict[str, str]:
    """The variables by which temporary files are made in this folder, but for those whose place the user has chosen."""
    chosen = {name for name in ("TMPDIR", LOCAL_TEMP) if os.environ.get(name)}
    if "local_tmp" in _configured():
        chosen.add(LOCAL_TEMP)
    if len(scratch) > _LONGEST_TMPDIR:
        chosen.add("TMPDIR")
    return {name: scratch for name in ("TMPDIR", LOCAL_TEMP) if name not in chosen}


def _inventory(scratch: Path) -> str:
    """This host, with this Python, as JSON, which Ansible reads first and fastest.

    Its modules have their temporary files in the folder. A variable of the environment would count for all hosts.
    """
    variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    if not any(map(os.environ.get, _REMOTE_TEMP)) and "remote_tmp" not in _configured():
        variables["ansible_remote_tmp"] = str(scratch)
    if os.environ.get("ANSIBLE_INVENTORY_ENABLED") or "enable_plugins" in _configured("inventory"):
        # The user's own choice of inventory plugins may be without YAML's, which reads JSON.
        return " ".join(["localhost", *(f"{name}={json.dumps(value)}" for name, value in variables.items())]) + "\n"
    return json.dumps({"ungrouped": {"hosts": {"localhost": variables}}})


def _configured(section: str = "defaults") -> Collection[str]:
    """What the user's ansible.cfg has in a section; which file counts, Ansible decides the same way."""
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


def write_inputs(job: Job) -> None:
    """The input folder of one run; what an earlier one left in the same places is replaced. Raises ExecutorError."""
    with told_as_executor_error("the inputs of the run could not be written"):
        _write_inputs(job)


async def put_inputs(job: Job) -> None:
    """`write_inputs`; in a thread if that takes a while. Nothing of it goes on when this has ended, cancelled or not."""
    if not job.is_big:
        write_inputs(job)
        return
    writing = asyncio.ensure_future(asyncio.to_thread(write_inputs, job))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait({writing})
        raise


def _write_inputs(job: Job) -> None:
    folder, inventory = str(job.folder), f"{job.folder}/inventory"
    _be_folder(str(job.scratch))
    # Itself first: those that are made on the way to another have the mode that the umask leaves.
    for path in (folder, f"{folder}/env", f"{folder}/project", f"{folder}/artifacts"):
        _be_folder(path)
    update_private(f"{folder}/env/extravars", _variables(job))
    update_private(f"{folder}/env/cmdline", (f"{job.arguments} --check --diff" if job.check else job.arguments).encode())
    if os.environ.get("ANSIBLE_INVENTORY"):
        # Ansible reads the user's where it stands; ansible-runner would take this folder instead.
        shutil.rmtree(inventory, ignore_errors=True)
    else:
        _be_folder(inventory)
        update_private(f"{inventory}/hosts", _inventory(job.scratch).encode())
    if job.role:
        # Beside the play, where Ansible looks first, so that the roles path stays the user's; its siblings come along.
        _be_link(f"{folder}/project/roles", str(job.role.parent))


def _variables(job: Job) -> bytes:
    """What `env/extravars` has: no name is both in the data and among the watch's own variables, which may be NaN."""
    parts = (encode(_marked(job.data)), json.dumps(job.extra_vars).encode())
    return b"{%s}" % b",".join(part[1:-1] for part in parts if part != b"{}")


def _be_folder(path: str) -> None:
    if not os.path.isdir(path):
        try:
            os.mkdir(path, 0o700)
        except FileNotFoundError:
            Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)


def _be_link(path: str, target: str) -> None:
    with contextlib.suppress(OSError):
        if os.readlink(path) == target:
            return
    Path(path).unlink(missing_ok=True)
    os.symlink(target, path)
