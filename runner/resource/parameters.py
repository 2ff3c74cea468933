"""The variables of a run, made of its CR.

A CR is written by people who may create CRs, not by people who may write roles. So its strings are data and never become
templates, and its fields never become variables by which Ansible itself is steered.

Next on the way: `runner.executor.jobs`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runner.errors import RolerunnerError
from runner.json_codec import JsonMapping, JsonObject
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey

# Variables of Ansible by their names.
Variables = JsonMapping

# Variables by which Ansible finds hosts, files and roles: a CR setting one would steer how the role runs rather than what
# it does. Everything `ansible_…` is reserved as well. Words like `name`, `port`, `tags` or `environment` are not: they
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

# What is handed to a role: values in all of a CR, and levels of them. The API server takes 1.5 MB and 10,000 levels, which
# neither Python's JSON nor Ansible could cope with.
MOST_VALUES, MOST_LEVELS = 50_000, 100
# Fields that are left out: how many are logged, and how much of each path.
_MOST_DROPPED, _LONGEST_PATH = 10, 200

_NUMBERS = re.compile(r"([a-zA-Z])(\d+)([a-zA-Z](\d+))")
# Up to this length a name is remembered with its variable.
_SHORT = 64
_WORDS = ("HTTP", "URL", "IP")


class Unusable(RolerunnerError):
    """A CR from which no variables can be made; `str()` says why, for its condition."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """The variables of a run, and the paths of the CR's fields that were left out of them, each cut, and not too many.

    What is in `data` is never a template, what is in `extra_vars` may be one. No name is in both.
    """

    data: Variables
    extra_vars: Variables
    dropped: tuple[str, ...]


def to_snake(name: str) -> str:
    """camelCase → snake_case, letter for letter as the Go operator's paramconv does it, its oddities included: roles
    name these variables."""
    return _snake_of_short(name) if len(name) <= _SHORT else _snake(name)


def _snake(name: str) -> str:
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


# A CR has the same fields at each run.
_snake_of_short = functools.lru_cache(maxsize=4096)(_snake)


def to_camel(variable: str) -> str:
    """A field's name that `to_snake` turns into this variable. ValueError if there is none."""
    first, *others = (variable.removeprefix("_") if variable.startswith("_") else variable).split("_")
    capital = str.title if variable.startswith("_") else str
    candidate = capital(first) + "".join(word[:1].upper() + word[1:] for word in others)
    for name in (candidate, variable):
        if to_snake(name) == variable:
            return name
    raise ValueError(f"no field of a CR becomes the variable {variable}")


def fields_by_variable(fields: Iterable[str], *, snake_case: bool) -> Callable[[str], str]:
    """Maps a variable to the field of a CR that becomes it, of these or a new one. ValueError if there can be none.

    The fields' names are looked at once, however many variables are asked for.
    """
    if not snake_case:
        return lambda variable: variable
    # Of two that become the same variable, the first.
    found = {to_snake(name): name for name in reversed(list(fields))}
    return lambda variable: found.get(variable) or _to_camel(variable)


# The variables are those of argument specs, and asked for again and again.
_to_camel = functools.lru_cache(maxsize=4096)(to_camel)


def field_of(variable: str, fields: Iterable[str], *, snake_case: bool) -> str:
    """As `fields_by_variable`, of one variable."""
    return fields_by_variable(fields, snake_case=snake_case)(variable)


def check_size(obj: Object) -> None:
    """Raise Unusable for a CR of more values or levels than a role is given. Looks at each value once, not recursively."""
    left, levels = MOST_VALUES, 0
    level: list[Any] = [obj]
    while level:
        levels += 1
        following: list[Any] = []
        for value in level:
            left -= len(value)
            if left < 0:
                raise Unusable(f"The CR has more than {MOST_VALUES} fields and list items, too many to be handed to a role")
            following += [
                item for item in (value if isinstance(value, list) else value.values()) if isinstance(item, (list, dict))
            ]
        if following and levels >= MOST_LEVELS:
            raise Unusable(f"The CR is nested more than {MOST_LEVELS} levels deep, too deep to be handed to a role")
        level = following


def build(
    *,
    gvk: GroupVersionKind,
    obj: Object,
    watch_vars: Variables,
    snake_case: bool,
    mark_unsafe: bool,
) -> Parameters:
    """The variables for a run of `obj`: later ones win.

    Spec fields, `ansible_operator_meta`, `_<group>_<kind>` (the whole object), `_<group>_<kind>_spec`, the watch's vars.
    Only the watch's vars may hold templates, unless the watch says `markUnsafe: false`. Raises Unusable, as `check_size`.
    May be called in a thread: the largest CR takes some tenths of a second.
    """
    check_size(obj)
    spec = obj.get("spec")
    spec = spec if isinstance(spec, Mapping) else {}
    # In order, each once.
    dropped: dict[str, None] = {}
    fields: JsonObject = {}
    for name, value in spec.items():
        variable = to_snake(name) if snake_case else name
        if is_reserved(variable) or _TEMPLATE in variable:
            _drop(dropped, _below("spec", name))
        else:
            fields[variable] = _snake_keys(value) if snake_case else value
    key = variable_name(gvk)
    whole = _without_marks(dict(obj), "", dropped)
    whole.setdefault("spec", {})
    at = ObjectKey.of(obj)
    data = {
        **_without_marks(fields, "spec", {}),
        "ansible_operator_meta": {"name": at.name, "namespace": at.namespace},
        key: whole,
        f"{key}_spec": whole["spec"] if isinstance(whole["spec"], dict) else {},
    }
    data = {name: value for name, value in data.items() if name not in watch_vars}
    left_out = tuple(dropped)
    if mark_unsafe:
        return Parameters(data=data, extra_vars=watch_vars, dropped=left_out)
    return Parameters(data={}, extra_vars={**data, **watch_vars}, dropped=left_out)


def variable_name(gvk: GroupVersionKind) -> str:
    """`_cache_example_com_memcached`: the variable which holds the whole CR."""
    return f"_{gvk.group}_{gvk.kind.lower()}".replace(".", "_").replace("-", "_")


def own_variables(gvk: GroupVersionKind) -> tuple[str, ...]:
    """The variables that every run has, whatever its CR says."""
    key = variable_name(gvk)
    return ("ansible_operator_meta", key, f"{key}_spec")


def is_reserved(variable: str) -> bool:
    return variable in _RESERVED or variable.startswith(_RESERVED_PREFIXES)


def _snake_keys(value: object) -> Any:
    if isinstance(value, dict):
        return {to_snake(name): _snake_keys(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_snake_keys(item) for item in value]
    return value


def _drop(dropped: dict[str, None], path: str) -> None:
    if len(dropped) < _MOST_DROPPED:
        dropped[path] = None
    else:
        dropped["…"] = None


def _below(path: str, name: str) -> str:
    """The path of a field; once it is too long it stays as it is, so that it takes no time at each field below."""
    if len(path) > _LONGEST_PATH:
        return path
    path = f"{path}.{name}" if path else name
    return path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}…"


def _without_marks(value: object, path: str, dropped: dict[str, None]) -> Any:
    """A copy without the keys that Ansible's JSON loader takes as its own marks."""
    if isinstance(value, dict):
        kept = {}
        for name, item in value.items():
            at = _below(path, name)
            if name.startswith(_MARK_PREFIX):
                _drop(dropped, at)
            else:
                kept[name] = _without_marks(item, at, dropped)
        return kept
    if isinstance(value, list):
        return [
            _without_marks(item, path if len(path) > _LONGEST_PATH else f"{path}[{index}]", dropped)
            for index, item in enumerate(value)
        ]
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
