"""The differences between the supported versions of ansible-core, in the private names and forms that patches use.

Two families: until 2.18 a string that must not be templated is marked (`AnsibleUnsafe`); from 2.19 on a string that may be
is tagged. The patches ask here for what differs and are the same for both.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import json
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from ansible.executor.process import worker
from ansible.module_utils import basic
from ansible.parsing.dataloader import DataLoader
from ansible.utils.context_objects import GlobalCLIArgs
from ansible.utils.vars import load_extra_vars, load_options_vars

from runner.errors import RolerunnerError
from runner.executor.environment import has_tags

# Whether strings carry tags: ansible-core from 2.19 on.
TAGS = has_tags()

# What parsed YAML is made of.
_LEAVES: frozenset[type] = frozenset({str, bytes, int, float, bool, type(None), datetime.date, datetime.datetime})
_MAPPINGS: frozenset[type] = frozenset({dict})
_SEQUENCES: frozenset[type] = frozenset({list})

if TAGS:
    from ansible.module_utils._internal import _traceback
    from ansible.module_utils._internal._ansiballz import _loader as ansiballz
    from ansible.module_utils._internal._datatag import AnsibleTaggedObject, _AnsibleTagsMapping
    from ansible.parsing.vault import VaultSecretsContext

    _TAGGED = AnsibleTaggedObject._tagged_type_map
    _LEAVES |= {_TAGGED[kind] for kind in _LEAVES if kind in _TAGGED}
    _MAPPINGS |= {_TAGGED[dict]}
    _SEQUENCES |= {_TAGGED[list]}
else:
    from ansible.module_utils.common.json import AnsibleJSONEncoder
    from ansible.parsing.ajson import AnsibleJSONDecoder
    from ansible.parsing.yaml.objects import AnsibleMapping, AnsibleSequence, AnsibleUnicode
    from ansible.utils.unsafe_proxy import AnsibleUnsafeBytes, AnsibleUnsafeText

    _LEAVES |= {AnsibleUnicode, AnsibleUnsafeText, AnsibleUnsafeBytes}
    _MAPPINGS |= {AnsibleMapping}
    _SEQUENCES |= {AnsibleSequence}


# Module-level variables with what the first module of a process was given.
OF_A_MODULE: tuple[tuple[Any, str], ...] = (
    ((basic, "_PARSED_MODULE_ARGS"), (_traceback, "_module_tracebacks_enabled_events")) if TAGS else ()
)


def forget_run() -> None:
    """Reset what a process has once, so that the next run can make its own: command line, its variables, vault secrets."""
    GlobalCLIArgs._Singleton__instance = None
    load_extra_vars.extra_vars = load_options_vars.options_vars = None
    if TAGS:
        VaultSecretsContext._current = None
    else:
        AnsibleJSONDecoder._vaults.clear()


def copied(content: Any) -> Any:
    """A copy of parsed YAML: new containers, with the tags or positions that they have; what nobody changes is shared.

    Raises NotPlain where there is anything else in it. An encrypted value is: it holds what it was decrypted to, or, until
    2.18, the passwords of the run that parsed it.
    """
    kind = type(content)
    if kind in _LEAVES:
        return content
    if not _LEAVES.issuperset(map(type, content)) if kind in _MAPPINGS else kind not in _SEQUENCES:
        raise NotPlain
    made: Any
    if kind in _MAPPINGS:
        made = {name: item if type(item) in _LEAVES else copied(item) for name, item in content.items()}
    else:
        made = [item if type(item) in _LEAVES else copied(item) for item in content]
    if kind in (dict, list):
        return made
    made = kind(made)
    if TAGS:
        made._ansible_tags_mapping = content._ansible_tags_mapping
    else:
        vars(made).update(vars(content))
    return made


def is_plain(content: Any) -> bool:
    """True if it can be `copied`."""
    try:
        copied(content)
    except NotPlain:
        return False
    return True


def share_leaves() -> None:
    """Have `copy.deepcopy` share strings that have tags or positions, as it shares plain ones, and the tags themselves."""
    for kind in [*_LEAVES, *([_AnsibleTagsMapping] if TAGS else [])]:
        if kind.__module__ not in ("builtins", "datetime"):
            kind.__deepcopy__ = lambda self, memo: self


class NotPlain(RolerunnerError):
    """A value to be copied has other types than those that are known."""


def verify_copied() -> None:
    """LookupError where parsed YAML is made of other things."""
    content = DataLoader().load("a: [1, {b: c, d: !unsafe e}]")
    if not is_plain(content):
        raise LookupError("parsed YAML is made of other types")


def verify_modules() -> None:
    """LookupError or AttributeError where modules get their arguments in another way."""
    _ = basic._ANSIBLE_ARGS
    if TAGS:
        _ = basic._ANSIBLE_PROFILE, basic._json.get_module_encoder, ansiballz._handle_exception
    else:
        _ = basic._load_params, AnsibleJSONEncoder


@contextlib.contextmanager
def module_arguments(arguments: dict[str, Any], profile: str) -> Iterator[None]:
    """Give a module that is called meanwhile these arguments. `profile` is the module's serialization profile."""
    if TAGS:
        encoder = basic._json.get_module_encoder(profile, basic._json.Direction.CONTROLLER_TO_MODULE)
        text = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}, cls=encoder)
        basic._ANSIBLE_PROFILE = profile
    else:
        text = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}, cls=AnsibleJSONEncoder, vault_to_text=True)
    basic._ANSIBLE_ARGS = text.encode()
    try:
        yield
    finally:
        basic._ANSIBLE_ARGS = None
        if TAGS:
            basic._ANSIBLE_PROFILE = None


def profile(form: Any) -> str:
    """The serialization profile of a module, from what `modify_module` returned; empty until 2.18, which has none."""
    return form.serialization_profile if TAGS else ""


def report_crash(error: Exception, profile: str) -> None:
    """End a module that raised: print what ansible-core's wrapper prints for it, and exit."""
    if TAGS:
        ansiballz._handle_exception(error, profile)
    traceback.print_exception(error)
    raise SystemExit(1)


def run_task(process: Any, run: Callable[[], None]) -> None:
    """Run a worker's task in this process. `process` is a `WorkerProcess` that was not started."""
    if TAGS:
        with _task_context(process):
            run()
        return
    process._save_stdin()
    real = worker.display
    worker.display = _NoQueue(real)
    try:
        run()
    finally:
        worker.display = real
        process._new_stdin.close()


class _NoQueue:
    """The display of a worker that is no process of its own: what it displays need not be sent to another."""

    def __init__(self, display: Any) -> None:
        self._display = display

    def __getattr__(self, name: str) -> Any:
        return getattr(self._display, name)

    def set_queue(self, queue: Any) -> None:
        pass


def verify_task_context() -> None:
    """LookupError or AttributeError where a worker's task is run in another context."""
    from runner.executor.patches.registry import expect

    if not TAGS:
        expect(worker.WorkerProcess._save_stdin, "self")
        expect(type(worker.display).set_queue, "self", "queue")
        return
    context = importlib.import_module("ansible._internal._task").TaskContext
    if getattr(context, "create", None) is None:
        expect(context, "task")
    else:
        expect(context.create, "task", "task_vars", "host_name")


def _task_context(process: Any) -> Any:
    context = importlib.import_module("ansible._internal._task").TaskContext
    if getattr(context, "create", None) is None:
        return context(process._task)
    return context.create(task=process._task, task_vars=process._task_vars, host_name=process._host.name)
