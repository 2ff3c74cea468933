"""What a role gets to see of its CR: the variables of a run.

A CR is written by people who may create CRs, not by people who may write roles. So its strings are data and never become
templates, and its fields never become variables by which Ansible itself is steered.

Next on the way: `runner.executor.jobs`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runner.resource.metadata import GroupVersionKind, Object, ObjectKey

# Variables by which Ansible finds hosts, files and roles: a CR setting one would steer how the role runs rather than what
# it does. Everything `ansible_…` is reserved beside these. Words like `name`, `port`, `tags` or `environment` are not: they
# are keywords of plays, as variables they mean nothing to Ansible, and CRs use them.
_RESERVED = frozenset(
    """
    delegated_vars group_names groups hostvars inventory_dir inventory_file inventory_hostname inventory_hostname_short
    omit play_hosts playbook_dir role_name role_names role_path vars
    """.split()
)
_RESERVED_PREFIXES = ("ansible_", "_ansible_", "__ansible_")

# Ansible's own marks in JSON ({"__ansible_vault": …}): a CR's mapping with such a key would not stay a mapping.
_MARK_PREFIX = "__ansible_"
# A field with such a name can be no variable's, and a list of all variables' names would have a template in it.
_TEMPLATE = "{"

_NUMBERS = re.compile(r"([a-zA-Z])(\d+)([a-zA-Z](\d+))")
_WORDS = ("HTTP", "URL", "IP")


# How deep a CR may be nested. The recursions here and Ansible's own go further, Python's ends near 1,000.
_DEPTH_LIMIT = 100


class Unusable(ValueError):
    """A CR that cannot be made into variables; `str()` says why, to whoever wrote it."""


def check_size(obj: Object) -> None:
    """Raises Unusable for an object that is nested too deeply."""
    level: list[Any] = [obj]
    for _ in range(_DEPTH_LIMIT):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, Mapping) else value)
            if isinstance(item, Mapping | list)
        ]
        if not level:
            return
    raise Unusable(f"nested more than {_DEPTH_LIMIT} levels deep; make it flatter")


@dataclass(frozen=True, slots=True)
class Parameters:
    """The variables of a run, and the paths of the CR's fields that were left out of them.

    What is in `data` is never a template, what is in `extra_vars` may be one. No name is in both.
    """

    data: Mapping[str, Any]
    extra_vars: Mapping[str, Any]
    dropped: tuple[str, ...]


def to_snake(name: str) -> str:
    """camelCase → snake_case, letter for letter as the Go operator's paramconv does it, its oddities included: roles
    name these variables."""
    text = _NUMBERS.sub(r"\1 \2 \3", name).strip(" ")
    if not text:
        return name
    prefix = "_" if "A" <= text[0] <= "Z" else ""
    text = _isolate_words(text)
    words: list[str] = []
    word = ""
    for index, letter in enumerate(text):
        following = text[index + 1] if index + 1 < len(text) else ""
        if word and word[-1] != "_" and _case_changes(letter, following):
            if _is_upper(letter):
                words.append(word.lower())
                word = letter
            else:
                words.append((word + letter).lower())
                word = ""
        elif letter in " _-":
            words.append(word.lower())
            word = ""
        else:
            word += letter
    words.append(word.lower())
    joined = "_".join(words)
    return joined if words[0].upper() in _WORDS else prefix + joined


def to_camel(variable: str) -> str:
    """A field's name that `to_snake` turns into this variable. ValueError if there is none."""
    first, *others = (variable.removeprefix("_") if variable.startswith("_") else variable).split("_")
    capital = str.title if variable.startswith("_") else str
    candidate = capital(first) + "".join(word[:1].upper() + word[1:] for word in others)
    for name in (candidate, variable):
        if to_snake(name) == variable:
            return name
    raise ValueError(f"no field of a CR becomes the variable {variable}")


def field_of(variable: str, fields: Iterable[str], *, snake_case: bool) -> str:
    """What this variable is called among the fields of a CR, or would be called. ValueError if it cannot be one."""
    if not snake_case:
        return variable
    return next((name for name in fields if to_snake(name) == variable), "") or to_camel(variable)


def build(
    *,
    gvk: GroupVersionKind,
    obj: Object,
    watch_vars: Mapping[str, Any],
    snake_case: bool,
    mark_unsafe: bool,
) -> Parameters:
    """The variables for a run of `obj`: later ones win.

    Spec fields, `ansible_operator_meta`, `_<group>_<kind>` (the whole object), `_<group>_<kind>_spec`, the watch's vars.
    Only the watch's vars may hold templates, unless the watch says `markUnsafe: false`.
    """
    spec = obj.get("spec")
    spec = spec if isinstance(spec, Mapping) else {}
    dropped: list[str] = []
    fields: dict[str, Any] = {}
    for name, value in spec.items():
        variable = to_snake(name) if snake_case else name
        if is_reserved(variable) or _TEMPLATE in variable:
            dropped.append(f"spec.{name}")
        else:
            fields[variable] = _snake_keys(value) if snake_case else value
    key = variable_name(gvk)
    whole = _without_marks(obj, "", dropped)
    whole.setdefault("spec", {})
    at = ObjectKey.of(obj)
    data = {
        **_without_marks(fields, "spec", []),
        "ansible_operator_meta": {"name": at.name, "namespace": at.namespace},
        key: whole,
        f"{key}_spec": _without_marks(spec, "spec", []),
    }
    data = {name: value for name, value in data.items() if name not in watch_vars}
    left_out = tuple(dict.fromkeys(dropped))
    if mark_unsafe:
        return Parameters(data=data, extra_vars=watch_vars, dropped=left_out)
    return Parameters(data={}, extra_vars={**data, **watch_vars}, dropped=left_out)


def variable_name(gvk: GroupVersionKind) -> str:
    """`_cache_example_com_memcached`: the variable which holds the whole CR."""
    return f"_{gvk.group}_{gvk.kind.lower()}".replace(".", "_").replace("-", "_")


def own_variables(gvk: GroupVersionKind) -> tuple[str, ...]:
    """Those that every run has, whatever its CR says."""
    key = variable_name(gvk)
    return ("ansible_operator_meta", key, f"{key}_spec")


def is_reserved(variable: str) -> bool:
    return variable in _RESERVED or variable.startswith(_RESERVED_PREFIXES)


def _snake_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {to_snake(name): _snake_keys(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_snake_keys(item) for item in value]
    return value


def _without_marks(value: Any, path: str, dropped: list[str]) -> Any:
    """A copy without the keys that Ansible's JSON loader takes as its own marks."""
    if isinstance(value, Mapping):
        kept = {}
        for name, item in value.items():
            at = f"{path}.{name}" if path else name
            if name.startswith(_MARK_PREFIX):
                dropped.append(at)
            else:
                kept[name] = _without_marks(item, at, dropped)
        return kept
    if isinstance(value, list):
        return [_without_marks(item, f"{path}[{index}]", dropped) for index, item in enumerate(value)]
    return value


def _isolate_words(text: str) -> str:
    """`egressIP` → `egress_IP`, `egressIPs` → `egress_IPS`: words that the case rule alone would tear apart."""
    for word in _WORDS:
        start = text.find(word)
        if start < 0:
            continue
        end = start + len(word)
        before, after = text[:start], text[end:]
        if not after:
            text = f"{before}_{word}"
        elif after[0] == "s":
            text = _join(before, f"{word}S", after[1:])
        else:
            text = _join(before, word, after)
    return text


def _join(before: str, word: str, after: str) -> str:
    return "_".join(part for part in (before, word, after) if part)


def _is_upper(letter: str) -> bool:
    return "A" <= letter <= "Z"


def _case_changes(letter: str, following: str) -> bool:
    lower_next = "a" <= following <= "z"
    upper_next = "A" <= following <= "Z"
    return (_is_upper(letter) and lower_next) or ("a" <= letter <= "z" and upper_next)
