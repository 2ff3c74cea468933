"""Facts of the machine that take long to gather are gathered in a process of their own, not in the runs.

What changes by itself (time, memory, load, uptime, how full a mount is, the environment, the user, local facts) is gathered
by each run. What depends on how the machine is built (devices, mounts, network, distribution …) a run takes from a file.
The fork server has it written again when a run has asked for facts and had some that were more than a minute old. What has
not been gathered yet, or not for an hour, a run gathers itself.

Saves 190 ms of a run of one task that gathers facts.
"""

from __future__ import annotations

import json
import marshal
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from ansible.module_utils import basic
from ansible.module_utils.facts import ansible_collector, default_collectors, timeout
from ansible.module_utils.facts.hardware import linux
from ansible.module_utils.facts.hardware.linux import LinuxHardware
from ansible.module_utils.facts.namespace import PrefixFactNamespace
from ansible.module_utils.facts.utils import get_mount_size
from ansible.modules import setup

from runner.executor.patches import ansible_core
from runner.executor.patches.registry import Patch, expect
from runner.private_files import write_private

# Seconds.
_AGE, _OLDEST = 60.0, 3600.0
# The collectors that start processes, look for programs, go through many files or take a long text apart, by the names that
# `gather_subset` has for them.
_SLOW = frozenset("network lsb platform distribution caps chroot virtual pkg_mgr cmdline service_mgr systemd".split())
# And of what is called hardware, which is much else.
_SLOW_HARDWARE = ("get_mount_facts", "get_device_facts", "get_dmi_facts", "get_lvm_facts", "get_sysinfo_facts")
# Collectors and methods that ansible-core has only since 2.17 or 2.18.
_NEWER = frozenset({"systemd", "get_sysinfo_facts"})


class Facts:
    """By what was asked: what it gave, and when."""

    def __init__(self) -> None:
        # Marshalled, which is quicker to copy.
        self._kept: dict[str, bytes] = {}
        self._gathered = -_OLDEST
        # Of the file that these are from: its number and time.
        self._stored: tuple[int, int] | None = None
        self._begun = -_OLDEST
        # Whether this run has asked.
        self._asked = False
        # In the process that gathers.
        self._recording = False

    def is_due(self) -> bool:
        """In the fork server, when a run has found its facts old: whether to gather, which is then not due for a while."""
        if time.monotonic() - self._begun < _AGE:
            return False
        self._begun = time.monotonic()
        return True

    def gather(self, path: Path) -> None:
        """Gather facts and write them to the file, in a process that does nothing else."""
        self._recording = True
        self._kept.clear()
        collector = ansible_collector.get_ansible_collector(
            all_collector_classes=default_collectors.collectors,
            # Collectors look for what others have found by the names that it has here.
            namespace=PrefixFactNamespace(namespace_name="ansible", prefix="ansible_"),
            gather_subset=["all"],
            gather_timeout=10,
        )
        collector.collect(module=_module())
        self.store(path)

    def store(self, path: Path) -> None:
        """Write what was gathered, for workers to `refresh` theirs from."""
        fresh = path.with_name(f".{path.name}-{os.getpid()}")
        # The clock is the machine's.
        write_private(fresh, marshal.dumps((time.monotonic(), self._kept)))
        fresh.replace(path)

    def refresh(self, path: Path) -> None:
        """Before a run: take what another process has gathered since the last time, if it has."""
        self._asked = False
        try:
            found = os.stat(path)
            state = found.st_ino, found.st_mtime_ns
            if state != self._stored:
                self._gathered, self._kept = marshal.loads(path.read_bytes())
                self._stored = state
        except (OSError, ValueError, TypeError, EOFError):
            # None has, or it is gone. Each run gathers for itself then, or goes on with what there is.
            return

    def are_old(self) -> bool:
        """After a run: whether it has asked for facts, and had old ones or none."""
        return self._asked and time.monotonic() - self._gathered > _AGE

    def knows(self, what: str) -> bool:
        return not self._recording and what in self._kept and time.monotonic() - self._gathered < _OLDEST

    def ask(self, what: str, gather: Any) -> Any:
        self._asked = True
        if self.knows(what):
            return marshal.loads(self._kept[what])
        found = gather()
        if self._recording and _is_whole(found):
            # As it is now: the caller goes on working with it. Of the sets and views in it the module would make lists, too.
            self._kept[what] = marshal.dumps(json.loads(json.dumps(found, default=list)))
        return found


def _module() -> Any:
    """The module that gathers facts, as collectors want to have it, with its own defaults."""
    with ansible_core.module_arguments({}, "legacy"):
        return basic.AnsibleModule(argument_spec=_ARGUMENTS)


_ARGUMENTS = {
    "gather_timeout": {"type": "int", "default": 10},
    "gather_subset": {"type": "list", "elements": "str", "default": ["all"]},
    "filter": {"type": "list", "elements": "str", "default": []},
    "fact_path": {"type": "path", "default": "/etc/ansible/facts.d"},
}


def verify() -> None:
    names = {collector.name for collector in default_collectors.collectors}
    if missing := _SLOW - _NEWER - names:
        raise LookupError(f"no such facts: {', '.join(sorted(missing))}")
    expect(
        ansible_collector.get_ansible_collector,
        *("all_collector_classes", "namespace", "gather_subset", "gather_timeout"),
    )
    for collector in default_collectors.collectors:
        expect(collector.collect, "self", "module", "collected_facts")
    for name in _SLOW_HARDWARE:
        if name not in _NEWER or hasattr(LinuxHardware, name):
            expect(getattr(LinuxHardware, name), "self")
    expect(linux.get_best_parsable_locale, "module")
    expect(get_mount_size, "mountpoint")
    ansible_core.verify_modules()
    _ = setup.main, timeout.DEFAULT_GATHER_TIMEOUT


def apply() -> Facts:
    kept = Facts()
    # Before any is replaced: some have their method from others.
    methods = {collector: collector.collect for collector in default_collectors.collectors if collector.name in _SLOW}
    for collector, collect in methods.items():
        _keep_collector(kept, collector, collect)
    for name in filter(partial(hasattr, LinuxHardware), _SLOW_HARDWARE):
        _keep_hardware(kept, name)
    locale = linux.get_best_parsable_locale
    linux.get_best_parsable_locale = lambda module, *args, **kwargs: kept.ask(
        "locale", lambda: locale(module, *args, **kwargs)
    )
    return kept


def _keep_collector(kept: Facts, collector: Any, collect: Any) -> None:
    def kept_collect(self: Any, module: Any = None, collected_facts: Any = None) -> Any:
        return kept.ask(
            f"{collector.__module__}.{collector.__qualname__}",
            lambda: collect(self, module=module, collected_facts=collected_facts),
        )

    collector.collect = kept_collect


def _keep_hardware(kept: Facts, name: str) -> None:
    method = getattr(LinuxHardware, name)

    def kept_method(self: Any) -> Any:
        found = kept.ask(f"hardware.{name}", lambda: method(self))
        mounts = found.get("mounts")
        if mounts and kept.knows(f"hardware.{name}"):
            _measure(mounts)
        return found

    setattr(LinuxHardware, name, kept_method)


def _measure(mounts: list[dict[str, Any]]) -> None:
    """Their sizes as they are now. Where one hangs, all keep those that they had."""
    sizes: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: sizes.extend(get_mount_size(mount["mount"]) for mount in mounts), daemon=True)
    thread.start()
    thread.join(timeout.DEFAULT_GATHER_TIMEOUT)
    if not thread.is_alive():
        for mount, size in zip(mounts, sizes, strict=False):
            mount.update(size)


def _is_whole(found: Any) -> bool:
    """True if the facts are complete: a mount that did not answer in time has a note instead of its sizes."""
    mounts = found.get("mounts") or () if isinstance(found, dict) else ()
    return all(isinstance(mount, dict) and "note" not in mount for mount in mounts)


PATCH = Patch("facts", verify, apply)
