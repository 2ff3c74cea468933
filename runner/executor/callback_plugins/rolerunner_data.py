"""Until ansible-core 2.18: a string made of a CR's keys, or of variables by way of `hostvars`, stays data.

Ansible marks what must not be templated (`AnsibleUnsafe`), and what is made of it when a template names a variable that has
such a value in it. It does not look at keys, nor into `hostvars`: what a filter makes of these is an ordinary string, which
is run as a template when it is used. This is a callback plugin because those are loaded before any task, by the standard
way as well; it does nothing with events.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible.utils.display import Display

DOCUMENTATION = """
name: rolerunner_data
type: aggregate
short_description: Keeps a custom resource's strings from being run as templates.
description: Loaded by rolerunner; nothing to configure.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "rolerunner_data"
    CALLBACK_NEEDS_ENABLED = False


def is_unsafe(context: Any, value: Any) -> bool:
    """True if anything in the value is marked; replaces `AnsibleContext._is_unsafe`."""
    todo, seen = [value], set()
    while todo:
        each = todo.pop()
        if getattr(each, "__UNSAFE__", False) is True or isinstance(each, (HostVars, HostVarsVars)):
            return True
        if isinstance(each, (str, bytes)) or id(each) in seen:
            continue
        if isinstance(each, Mapping):
            seen.add(id(each))
            todo += each.keys()
            todo += each.values()
        elif isinstance(each, (list, tuple, Set)):
            seen.add(id(each))
            todo += each
    return False


try:
    from ansible.template import AnsibleContext
    from ansible.vars.hostvars import HostVars, HostVarsVars

    _ = AnsibleContext._is_unsafe
except (ImportError, AttributeError) as error:
    # Ansible passes over a plugin that raises an exception, and the run would go on without this.
    Display().error(f"This ansible-core is not as known, and a CR's strings could be run as templates: {error}")
    raise SystemExit(1) from error
AnsibleContext._is_unsafe = is_unsafe
