"""Checks a CR against the argument specs of its role or playbook, without a run.

Most of it the API server refuses by the CRD's schema (`rolerunner manifests`). What is left is for here: rules between
options (required_if, mutually_exclusive and the like), and CRDs that are older than the role, or let everything pass.
Values are judged by Ansible's own code. What cannot be judged before the role's variables are templated is left to the
run, in which Ansible checks a role's specs once more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from runner.config import argument_specs
from runner.errors import ConfigurationError
from runner.json_codec import JsonMapping, mapping

# Fields that are given → (variable → what it is called among them). ValueError: no field can be it.
KeysOf = Callable[[Iterable[str]], Callable[[str], str]]

# What is told of a CR, whose words are in it: problems, and characters of each.
_MOST_PROBLEMS, _LONGEST_PROBLEM = 50, 1000
# Longer texts are no value of these types. Ansible's reading of some takes time that grows with the square of the length.
_SHORT_TYPES, _LONGEST_SHORT = frozenset(("int", "float", "bool", "bits", "bytes")), 256

_TYPES = frozenset("str path int float bool bytes bits dict raw json jsonarg list".split())
_CLASS = re.compile(r"<class '(\w+)'>")
# Something the role gives itself.
_SOMETHING = object()


@dataclass(frozen=True, slots=True)
class _Specs:
    main: JsonMapping
    # What the role gives itself, and whether it may get more from elsewhere.
    own: frozenset[str]
    complete: bool


class Arguments:
    """Argument specs, read once until their files change, and the check of a CR against them."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[tuple[object, ...], _Specs | None]] = {}

    def problems(
        self,
        *,
        role: Path | None,
        playbook: Path | None,
        given: Mapping[str, object],
        others: Collection[str],
        keys_of: KeysOf,
        templates: bool,
        complete: bool,
    ) -> list[str]:
        """The problems, a short line each, `spec.FIELD: REASON`, and not too many; none without specs that can be read.

        `given` is the CR's spec; `others` are variables that come from elsewhere and go before it. `templates`: strings of
        the CR may be templates. `complete`: there are no more variables than these and the role's own. May be called in
        threads; `given` is of a size that `parameters.check_size` lets pass.
        """
        specs = self._specs(role, playbook)
        if specs is None:
            return []
        main = {**specs.main, "options": {name: each for name, each in specs.main["options"].items() if name not in others}}
        check = _Check(keys_of, templates=templates)
        found = check.level(main, given, "spec", own=specs.own, complete=complete and specs.complete, top=True)
        lines = [
            line if len(line) <= _LONGEST_PROBLEM else f"{line[:_LONGEST_PROBLEM]}…"
            for line in islice(found, _MOST_PROBLEMS)
        ]
        return [*lines, *(["there are more problems than these"] if next(found, None) is not None else [])]

    def _specs(self, role: Path | None, playbook: Path | None) -> _Specs | None:
        path = argument_specs.find(role=role, playbook=playbook)
        if path is None:
            return None
        folders = [role / folder for folder in ("defaults", "vars", "meta")] if role else []
        files = [path, *(file for folder in ("defaults", "vars", "meta") for file in argument_specs.files(role, folder))]
        signature = (*files, *(_changed(file) for file in (*files, *folders)))
        if path not in self._read or self._read[path][0] != signature:
            self._read[path] = (signature, _load(path, role))
        return self._read[path][1]


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _load(path: Path, role: Path | None) -> _Specs | None:
    try:
        main = mapping(mapping(mapping(argument_specs.read(path)).get("argument_specs")).get("main"))
        own = frozenset(argument_specs.own_variables(role))
        meta = [mapping(argument_specs.read(file)) for file in argument_specs.files(role, "meta")]
    except ConfigurationError:
        # Ansible says it best.
        return None
    if not _is_sound(main.get("options")):
        return None
    return _Specs(main, own, complete=not any(each.get("dependencies") for each in meta))


def _is_sound(options: object) -> bool:
    return isinstance(options, dict) and all(
        isinstance(option, dict)
        and option.get("type", "str") in _TYPES
        and option.get("elements", "str") in _TYPES
        and (option.get("options") is None or _is_sound(option["options"]))
        for option in options.values()
    )


class _Check:
    def __init__(self, keys_of: KeysOf, *, templates: bool) -> None:
        self._keys_of = keys_of
        self._templates = templates

    def level(
        self,
        spec: JsonMapping,
        given: Mapping[str, object],
        at: str,
        *,
        own: Collection[str] = (),
        complete: bool = True,
        top: bool = False,
    ) -> Iterator[str]:
        """The problems of one mapping and of all inside it. `spec` has its options and the rules between them."""
        key_of = self._keys_of(given)
        names = {variable: _name(variable, key_of) for variable in spec["options"]}
        present: dict[str, object] = {names[variable]: _SOMETHING for variable in own if variable in names}
        for variable, option in spec["options"].items():
            name = names[variable]
            for alias in option.get("aliases") or ():
                if name not in given and (other := _name(alias, key_of)) in given:
                    given = {name if key == other else key: value for key, value in given.items()}
            if given.get(name) is not None:
                present[name] = given[name]
                yield from self._option(name, option, given[name], f"{at}.{name}")
            elif option.get("required") and complete and name not in present:
                yield f"{at}.{name}: required"
        if not top:
            known = set(names.values())
            for name in given:
                if name not in known:
                    yield f"{at}.{name}: unknown; known here: {', '.join(sorted(known))}"
        yield from self._between(spec, names, present, at)

    def _option(self, name: str, option: JsonMapping, value: object, at: str) -> Iterator[str]:
        if self._templates and _has_template(value):
            return
        if (type_ := _overlong(option, value)) is not None:
            yield f"{at}: a text of more than {_LONGEST_SHORT} characters is no {type_}"
            return
        # Slow to import, and not needed where no role has argument specs.
        from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

        shallow = {key: option[key] for key in ("type", "elements", "choices") if option.get(key) is not None}
        messages = ArgumentSpecValidator({name: shallow}).validate({name: value}).error_messages
        for message in messages:
            # Until ansible-core 2.18 a type is told as Python shows it.
            told = _CLASS.sub(r"\1", message)
            yield f"{at}: {'not as its argument spec says (no_log)' if option.get('no_log') else told}"
        if messages or not option.get("options"):
            return
        if isinstance(value, dict):
            yield from self.level(option, value, at)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, dict):
                    yield from self.level(option, item, f"{at}[{index}]")

    def _between(self, spec: JsonMapping, names: Mapping[str, str], present: Mapping[str, object], at: str) -> Iterator[str]:
        """The rules between options, in Ansible's words and the CR's names."""
        from ansible.module_utils.common import validation

        defaults = {
            names[variable]: option["default"]
            for variable, option in spec["options"].items()
            if option.get("default") is not None and names[variable] not in present
        }
        for rule, check, parameters in (
            ("mutually_exclusive", validation.check_mutually_exclusive, present),
            ("required_together", validation.check_required_together, {**defaults, **present}),
            ("required_one_of", validation.check_required_one_of, {**defaults, **present}),
            ("required_if", validation.check_required_if, {**defaults, **present}),
            ("required_by", validation.check_required_by, {**defaults, **present}),
        ):
            terms = spec.get(rule)
            if not terms:
                continue
            try:
                check(_renamed(rule, terms, names), parameters)
            except TypeError as error:
                yield f"{at}: {error}"


def _name(variable: str, key_of: Callable[[str], str]) -> str:
    try:
        return key_of(variable)
    except ValueError:
        return variable


def _overlong(option: JsonMapping, value: object) -> str | None:
    """The type of which a text, or an item of a list or of a comma list, is far too long to be."""
    type_, elements = option.get("type", "str"), option.get("elements")
    if type_ in _SHORT_TYPES:
        return type_ if isinstance(value, str) and len(value) > _LONGEST_SHORT else None
    if type_ == "list" and elements in _SHORT_TYPES:
        items = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else ()
        return elements if any(isinstance(item, str) and len(item) > _LONGEST_SHORT for item in items) else None
    return None


def _renamed(rule: str, terms: Any, names: Mapping[str, str]) -> Any:
    """The rule's terms with the CR's names. In required_if, the second is a value."""

    def name(term: object) -> Any:
        if isinstance(term, list | tuple):
            return [name(item) for item in term]
        return names.get(term, term) if isinstance(term, str) else term

    if rule == "required_by":
        return {name(key): name(value) for key, value in terms.items()}
    if rule == "required_if":
        return [[name(item[0]), item[1], *map(name, item[2:])] for item in terms]
    return name(terms)


def _has_template(value: object) -> bool:
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str) and ("{{" in value or "{%" in value):
            return True
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
    return False
