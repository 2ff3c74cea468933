"""Results and facts are copied and searched by fast functions; ansible-core does so several times for each task.

Functions of ansible-core that make a clean copy of what a module gave, for the usual case: plain JSON of which nothing
has to be removed but Ansible's own notes. Anything else takes ansible-core's way, with its words.

`cleaning` saves nothing of a run of one task, 8.8 ms (21 %) if it gathers facts, 4.3 (3 %) of ten tasks.
"""

from __future__ import annotations

import importlib
import itertools
import marshal
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ansible import constants
from ansible.executor import task_executor, task_result
from ansible.module_utils import basic
from ansible.plugins.loader import connection_loader
from ansible.utils import vars as vars_
from ansible.vars import clean, manager

from runner.errors import RolerunnerError
from runner.executor.patches import ansible_core, tasks
from runner.executor.patches.registry import Patch, expect

_SCALARS = frozenset({str, int, float, bool, type(None)})
# What ansible-core notes down in a result.
_NOTE = "_ansible_"
_IN_ANY = _NOTE.encode()
# What of a task looks at its variables when it has run.
_LOOKING = ("changed_when", "failed_when", "until", "retries", "loop", "loop_with")


class _NotPlain(RolerunnerError):
    """The value is not plain JSON, and is for ansible-core's own function."""


def verify() -> None:
    expect(clean.clean_facts, "facts")
    expect(clean.namespace_facts, "facts")
    expect(clean.strip_internal_keys, "dirty", "exceptions")
    expect(basic.remove_values, "value", "no_log_strings")
    if ansible_core.TAGS:
        expect(vars_.transform_to_native_types, "value", "redact")
    expect(connection_loader.all)
    if manager.clean_facts is not clean.clean_facts:
        raise LookupError("facts are cleaned elsewhere")
    _ = constants.MAGIC_VARIABLE_MAPPING, constants.COMMON_CONNECTION_VARS, connection_loader._extra_dirs
    _ = constants.RESTRICTED_RESULT_KEYS


def apply() -> None:
    manager.clean_facts = clean_facts(clean.clean_facts)
    # Until ansible-core 2.20.
    if getattr(task_executor, "clean_facts", None) is clean.clean_facts:
        task_executor.clean_facts = unless_unseen(manager.clean_facts)
        task_executor.namespace_facts = unless_unseen(clean.namespace_facts)
    if hasattr(task_result, "strip_internal_keys"):
        task_result.strip_internal_keys = strip_internal_keys(task_result.strip_internal_keys)
    basic.remove_values = remove_values(basic.remove_values)
    if ansible_core.TAGS:
        vars_.transform_to_native_types = transform_to_native_types(vars_.transform_to_native_types)


def clean_facts(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`ansible.vars.clean.clean_facts`, which `original` is, for facts none of which may be one of Ansible's variables."""

    def cleaned(facts: Any) -> Any:
        try:
            if _may_be_restricted(facts):
                return original(facts)
            return _copy(facts, _is_note)
        except (_NotPlain, TypeError, AttributeError, RecursionError):
            return original(facts)

    return cleaned


def unless_unseen(function: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """`function` makes variables of a task's facts, for the task itself: none, where it looks at none afterwards."""

    def made(facts: Any) -> dict[str, Any]:
        task = getattr(tasks.TaskInProcess.current, "_task", None)
        if type(facts) is not dict or not facts or task is None or any(getattr(task, name) for name in _LOOKING):
            return function(facts)
        # Of the others it would be said that they are removed.
        is_fine = all(type(name) is str for name in facts) and not _may_be_restricted(facts)
        return {} if is_fine else function(facts)

    return made


def strip_internal_keys(original: Callable[..., Any]) -> Callable[..., Any]:
    """`ansible.vars.clean.strip_internal_keys`, which `original` is, for results with notes at the usual places alone."""

    def stripped(dirty: Any, exceptions: Any = None) -> Any:
        if type(dirty) is dict:
            for part in (dirty, dirty.get("ansible_facts")):
                if type(part) is dict:
                    for name in [name for name in part if _is_note(name) and name not in (exceptions or ())]:
                        del part[name]
            try:
                if _IN_ANY not in marshal.dumps(list(dirty.values())):
                    return dirty
            except ValueError:
                pass
        return original(dirty, exceptions)

    return stripped


def remove_values(original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`ansible.module_utils.basic.remove_values`, which `original` is, for results in which nothing is secret."""

    def removed(value: Any, no_log_strings: Any) -> Any:
        if no_log_strings:
            return original(value, no_log_strings)
        try:
            return _copy(value, None, strict=True)
        except (_NotPlain, RecursionError):
            return original(value, no_log_strings)

    return removed


def transform_to_native_types(original: Callable[..., Any]) -> Callable[..., Any]:
    """`ansible.utils.vars.transform_to_native_types`, which `original` is, for results that are plain throughout."""

    def transformed(value: Any, redact: bool = True) -> Any:
        try:
            return _copy(value, None, strict=True)
        except (_NotPlain, RecursionError):
            return original(value, redact)

    return transformed


def _is_note(name: Any) -> bool:
    return isinstance(name, str) and name.startswith(_NOTE)


def _copy(value: Any, left_out: Callable[[Any], bool] | None, *, strict: bool = False) -> Any:
    """Without the keys to be left out. Raises _NotPlain for other containers; if strict, for other values and keys."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict:
        if strict and not _SCALARS.issuperset(map(type, value)):
            raise _NotPlain
        return {
            name: item if type(item) in _SCALARS else _copy(item, left_out, strict=strict)
            for name, item in value.items()
            if left_out is None or not left_out(name)
        }
    if kind is list:
        return [item if type(item) in _SCALARS else _copy(item, left_out, strict=strict) for item in value]
    if strict or (isinstance(value, (Mapping, Sequence)) and not isinstance(value, str)):
        raise _NotPlain
    return value


# By the folders of a role's connection plugins, whose names count: names, and what names begin with.
_known: dict[tuple[str, ...], tuple[frozenset[str], tuple[str, ...]]] = {}


def _may_be_restricted(facts: Any) -> bool:
    """True if ansible-core may remove one of these facts by its name."""
    folders = tuple(connection_loader._extra_dirs)
    if folders not in _known:
        connections = [PurePath(path).stem for path in connection_loader.all(path_only=True)]
        names = {
            *itertools.chain.from_iterable(constants.MAGIC_VARIABLE_MAPPING.values()),
            *constants.COMMON_CONNECTION_VARS,
            *constants.RESTRICTED_RESULT_KEYS,
            # Until ansible-core 2.20.
            *getattr(constants, "INTERNAL_RESULT_KEYS", ()),
        }
        _known[folders] = frozenset(names), tuple(f"ansible_{kind}_" for kind in ["become", *connections])
    exactly, beginnings = _known[folders]
    return not exactly.isdisjoint(facts) or any(
        name.startswith(beginnings) or name.endswith(("_interpreter", "_interpreter\n")) for name in facts
    )


def verify_told() -> None:
    if ansible_core.TAGS:
        expect(_engine().transform, "self", "variable")


def apply_told() -> None:
    """Print plain results (`-vv`) without templating them: saves 1.4 ms (5 %) of a run of one task that gathers facts."""
    if not ansible_core.TAGS:
        return
    engine = _engine()
    transform = engine.transform

    def transformed(self: Any, variable: Any) -> Any:
        try:
            return _copy(variable, None, strict=True)
        except (_NotPlain, RecursionError):
            return transform(self, variable)

    engine.transform = transformed


def _engine() -> Any:
    return importlib.import_module("ansible._internal._templating._engine").TemplateEngine


PATCHES = (Patch("cleaning", verify, apply), Patch("results told", verify_told, apply_told))
