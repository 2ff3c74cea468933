"""Reads a tasks file, playbook or template: the plugins that it names, its includes, and its conditions.

What is collected here is not judged here: whether a name is a keyword or a module, and what a condition means, depends on
the ansible-core that is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import yaml
from jinja2 import nodes

from devkit.check import expressions
from devkit.check.expressions import Unparsable
from devkit.check.findings import Finding, Level
from devkit.check.sources import Source
from devkit.yaml_nodes import entry, items, line_of, pairs, scalar, scalars

_CONDITIONS = frozenset({"when", "until", "failed_when", "changed_when", "that", "break_when"})
# Of a task's arguments in one line.
_MAX_WORDS = 2000
_BLOCKS = ("block", "rescue", "always")
_TASK_LISTS = ("pre_tasks", "tasks", "post_tasks", "handlers")
_DEFINITIONS = ("definition", "resource_definition", "inline")
# The kinds whose parts `env`, `args`, `command` and `nodeSelector` hold text.
_WORKLOADS = frozenset("CronJob DaemonSet Deployment Job Pod ReplicaSet StatefulSet".split())
_TEXT_MAPPINGS = frozenset({"labels", "annotations", "matchLabels"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A line of a file, and the `collections:` that count there."""

    file: str
    line: int
    collections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Use:
    """A plugin or role that is named: `kind` is one of runner.executor.content.KINDS."""

    kind: str
    name: str
    location: Location


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a play, block or task (`kind`), each with its line; of a task one of them is its module."""

    kind: str
    names: tuple[tuple[str, int], ...]
    location: Location


@dataclass(frozen=True, slots=True)
class Include:
    """An include or import: `kind` is role, tasks or playbook. The name may be a template."""

    kind: str
    name: str
    location: Location
    tasks_from: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """An expression that has to be true or false: `types` are those of its result, as far as the text tells.

    `embedded` is how it has templates in it: not at all (""), as a whole ("whole"), within quotes ("quoted"), or in a way
    that leaves no expression ("mixed").
    """

    location: Location
    types: frozenset[str]
    embedded: str = ""


@dataclass(frozen=True, slots=True)
class TextField:
    """A text field of a Kubernetes object, whose template may give something else; `certain` if it always does."""

    location: Location
    path: str
    types: frozenset[str]
    certain: bool


@dataclass(frozen=True, slots=True)
class Sum:
    """A `+` in a template, with text on one of its sides, and `other` on the other one."""

    location: Location
    other: nodes.Expr


@dataclass(slots=True)
class Reading:
    """The contents of the files that were read."""

    uses: list[Use] = field(default_factory=list)
    keys: list[Keys] = field(default_factory=list)
    includes: list[Include] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    fields: list[TextField] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    # What variables are set to by templates that are one expression; nothing known of one of them is an empty set.
    assigned: dict[str, list[frozenset[str]]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


class TaskReader:
    """Reads files into a `Reading`. `variables` are the types of names whose values are written down, such as defaults."""

    def __init__(
        self, reading: Reading, *, collections: tuple[str, ...] = (), variables: Mapping[str, str] | None = None
    ) -> None:
        self.reading = reading
        self._collections = collections
        self._variables = variables or {}
        self._file = ""
        # Nodes of the file that were looked at: an alias may lead to one many times, or into itself.
        self._seen: set[int] = set()
        self._scanned: set[int] = set()

    def playbook(self, source: Source) -> None:
        self._begin(source.name)
        for play in (play for root in source.roots for play in items(root)):
            self._play(play)

    def tasks(self, source: Source) -> None:
        self._begin(source.name)
        for root in source.roots:
            self._tasks(root, self._collections)

    def values(self, source: Source) -> None:
        """A file of variables."""
        self._begin(source.name)
        for root in source.roots:
            self._templates(root)
            self._assigned(root)

    def role_meta(self, source: Source) -> None:
        """A role's meta/main.yml, for its dependencies."""
        self._begin(source.name)
        for root in source.roots:
            self._roles(entry(root, "dependencies"), self._collections)

    def template(self, name: str, text: str) -> None:
        """A template's text; where Jinja does not take it, that is a warning, as it may be no template."""
        self._begin(name)
        tree = expressions.parse(text)
        if isinstance(tree, Unparsable):
            self._warn(tree.line, f"no template that Jinja takes: {tree.reason}")
        else:
            self._named(tree, lambda line: line)

    def _begin(self, file: str) -> None:
        self._file = file
        self._seen.clear()
        self._scanned.clear()

    def _play(self, play: yaml.Node) -> None:
        if not isinstance(play, yaml.MappingNode) or self._again(play):
            return
        found = pairs(play)
        imported = next((value for name, _, value in found if _short(name) == "import_playbook"), None)
        collections = _collections(play) or self._collections
        self._conditions_of(play)
        if imported is not None:
            self._include("playbook", scalar(imported), play, collections)
            return
        self._keys("play", play, collections)
        for name, _, value in found:
            if name in _TASK_LISTS:
                self._tasks(value, collections)
            elif name == "roles":
                self._roles(value, collections)
            else:
                self._values(name, value)

    def _roles(self, node: yaml.Node | None, collections: tuple[str, ...]) -> None:
        for item in items(node):
            name = scalar(item) or scalar(entry(item, "role")) or scalar(entry(item, "name"))
            # A dependency that has `src` is one for ansible-galaxy.
            if entry(item, "src") is None:
                self._include("role", name, item, collections)
            self._templates(item)
            self._assigned(entry(item, "vars"))
            self._conditions_of(item)

    def _tasks(self, node: yaml.Node | None, collections: tuple[str, ...]) -> None:
        for task in items(node):
            if not isinstance(task, yaml.MappingNode) or self._again(task):
                continue
            inner = _collections(task) or collections
            self._conditions_of(task)
            if entry(task, "block") is None:
                self._task(task, inner)
                continue
            self._keys("block", task, inner)
            for name, _, value in pairs(task):
                if name in _BLOCKS:
                    self._tasks(value, inner)
                elif name not in _CONDITIONS:
                    self._values(name, value)

    def _task(self, task: yaml.Node, collections: tuple[str, ...]) -> None:
        self._keys("task", task, collections)
        for name, key, value in pairs(task):
            short = _short(name)
            if name.startswith("with_"):
                self._use("lookup", name.removeprefix("with_"), key, ())
            elif name in ("action", "local_action"):
                words = (scalar(value) or scalar(entry(value, "module")) or "").split()
                if words and not expressions.is_template(words[0]):
                    self._use("module", words[0], key, collections)
            elif short in ("include_tasks", "import_tasks", "include_role", "import_role"):
                self._include_of(short, task, key, value, collections)
            elif short in ("assert", "loop_control"):
                self._conditions_of(value)
            elif short in ("set_fact", "vars"):
                self._assigned(value)
            elif short == "debug" and (shown := scalar(entry(value, "var"))) and not expressions.is_template(shown):
                tree = expressions.parse_expression(shown)
                if not isinstance(tree, Unparsable):
                    self._named(tree, _always(line_of(entry(value, "var") or key)))
            elif short.rpartition(".")[2] == "k8s":
                self._definitions(value)
            if name not in _CONDITIONS:
                self._templates(value, without=_CONDITIONS if short in ("assert", "loop_control") else frozenset())

    def _include_of(
        self, short: str, task: yaml.Node, key: yaml.Node, value: yaml.Node, collections: tuple[str, ...]
    ) -> None:
        what, given = ("name", "role") if short.endswith("role") else ("file", "tasks")
        free = scalar(value)
        is_short = free and len(free) < _MAX_WORDS and not expressions.is_template(free)
        named = dict(re.findall(r"(\w+)=(\S+)", free)) if free and is_short else {}
        name = named.get(what) or free or scalar(entry(value, what)) or scalar(entry(task, "args", what))
        if name and not expressions.is_template(name):
            name = name.split()[0] if name.split() else name
        tasks_from = named.get("tasks_from") or scalar(entry(value, "tasks_from")) or ""
        self._include(given, name, key, collections, tasks_from=tasks_from)

    def _include(
        self, kind: str, name: str | None, node: yaml.Node, collections: tuple[str, ...], *, tasks_from: str = ""
    ) -> None:
        if name:
            self.reading.includes.append(Include(kind, name, self._location(line_of(node), collections), tasks_from))

    def _keys(self, kind: str, node: yaml.Node, collections: tuple[str, ...]) -> None:
        names = tuple((name, line_of(key)) for name, key, _ in pairs(node))
        self.reading.keys.append(Keys(kind, names, self._location(line_of(node), collections)))

    def _use(self, kind: str, name: str, node: yaml.Node, collections: tuple[str, ...]) -> None:
        self.reading.uses.append(Use(kind, name, self._location(line_of(node), collections)))

    def _templates(self, node: yaml.Node | None, *, without: frozenset[str] = frozenset()) -> None:
        """The plugins that templates anywhere inside name; keys in `without` have been looked at."""
        parts = [value for name, _, value in pairs(node) if name not in without] if without else [node]
        for part in parts:
            for found in scalars(part, self._scanned):
                if not expressions.is_template(found.value):
                    continue
                tree = expressions.parse(found.value)
                line = _lines_of(found)
                if isinstance(tree, Unparsable):
                    self._warn(line(tree.line), f"no template that Jinja takes: {tree.reason}")
                else:
                    self._named(tree, line)

    def _named(self, tree: nodes.Template, line: Callable[[int], int]) -> None:
        for kind, name, at in expressions.named(tree):
            self.reading.uses.append(Use(kind, name, self._location(line(at))))
        for at, other in expressions.sums_with_text(tree):
            self.reading.sums.append(Sum(self._location(line(at)), other))

    def _values(self, name: str, node: yaml.Node) -> None:
        """A keyword of a play or block."""
        self._templates(node)
        if name == "vars":
            self._assigned(node)

    def _assigned(self, node: yaml.Node | None) -> None:
        """Variables that are set here."""
        for name, _, value in pairs(node):
            text = scalar(value) or ""
            tree = expressions.parse(text) if expressions.is_template(text) else None
            types = expressions.types(expressions.expression(tree), {}) if isinstance(tree, nodes.Template) else frozenset()
            self.reading.assigned.setdefault(name, []).append(types)

    def _conditions_of(self, node: yaml.Node) -> None:
        for name, _, value in pairs(node):
            if name in _CONDITIONS:
                for each in items(value) or [value]:
                    self._condition(each)

    def _condition(self, node: yaml.Node) -> None:
        text = scalar(node)
        if text is None or not text.strip() or node.tag == "tag:yaml.org,2002:bool" or self._again(node):
            return
        text, location = text.strip(), self._location(line_of(node))
        embedded = ""
        if expressions.is_template(text):
            tree = expressions.parse(text)
            if not isinstance(tree, Unparsable) and expressions.expression(tree) is not None:
                embedded = "whole"
            else:
                # Templates within quotes leave an expression.
                inner, tree = tree, expressions.parse_expression(text)
                embedded = "mixed" if isinstance(tree, Unparsable) or "{%" in text else "quoted"
                if not isinstance(inner, Unparsable):
                    self._named(inner, _always(location.line))
        else:
            tree = expressions.parse_expression(text)
        if isinstance(tree, Unparsable):
            if not embedded:
                self._warn(location.line, f"no condition that Jinja takes: {tree.reason}")
            types: frozenset[str] = frozenset()
        else:
            self._named(tree, _always(location.line))
            types = expressions.types(expressions.expression(tree), {})
        self.reading.conditions.append(Condition(location, types, embedded))

    def _definitions(self, arguments: yaml.Node) -> None:
        for name in _DEFINITIONS:
            given = entry(arguments, name)
            for definition in items(given) or filter(None, [given]):
                if isinstance(definition, yaml.MappingNode) and not self._again(definition):
                    for path, node in text_fields(definition):
                        self._text_field(path, node)

    def _text_field(self, path: str, node: yaml.ScalarNode) -> None:
        if not expressions.is_template(node.value):
            return
        tree = expressions.parse(node.value)
        found = None if isinstance(tree, Unparsable) else expressions.expression(tree)
        wrong = {expressions.NUMBER, expressions.BOOLEAN}
        types = expressions.types(found, self._variables) & wrong
        if types:
            alone = expressions.types(found, {})
            certain = (
                bool(alone) and alone <= wrong and isinstance(found, nodes.Filter) and found.name in ("int", "float", "bool")
            )
            self.reading.fields.append(TextField(self._location(line_of(node)), path, types, certain))

    def _location(self, line: int, collections: tuple[str, ...] = ()) -> Location:
        return Location(file=self._file, line=line, collections=collections)

    def _warn(self, line: int, message: str) -> None:
        self.reading.findings.append(Finding(Level.WARNING, self._file, line, message))

    def _again(self, node: yaml.Node) -> bool:
        """True for a node that was looked at before."""
        seen = id(node) in self._seen
        self._seen.add(id(node))
        return seen


def text_fields(definition: yaml.Node) -> Iterator[tuple[str, yaml.ScalarNode]]:
    """(path, node) of the scalars in a Kubernetes object that the API server takes as text only."""
    kind = scalar(entry(definition, "kind"))
    texts = {"ConfigMap": "data", "Secret": "stringData"}.get(kind or "")
    waiting: list[tuple[str, str, yaml.Node]] = [("", "", definition)]
    seen: set[int] = set()
    while waiting:
        path, key, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for name, _, value in pairs(node):
            inner = f"{path}.{name}" if path else name
            of_text = key in _TEXT_MAPPINGS or path == texts or (key == "nodeSelector" and kind in _WORKLOADS)
            if isinstance(value, yaml.ScalarNode) and of_text:
                yield inner, value
            elif name in ("env", "args", "command") and kind in _WORKLOADS:
                for item in items(value):
                    found = entry(item, "value") if name == "env" else item
                    if isinstance(found, yaml.ScalarNode):
                        yield f"{inner}[].value" if name == "env" else f"{inner}[]", found
            else:
                waiting.append((inner, name, value))
        waiting += [(f"{path}[]", "", item) for item in items(node)]


def _short(name: str) -> str:
    return name.removeprefix("ansible.builtin.").removeprefix("ansible.legacy.")


def _collections(node: yaml.Node) -> tuple[str, ...]:
    given = entry(node, "collections")
    return tuple(filter(None, map(scalar, items(given) or ([given] if given is not None else []))))


def _always(line: int) -> Callable[[int], int]:
    """For a text that has one line of the file."""
    return lambda _: line


def _lines_of(node: yaml.ScalarNode) -> Callable[[int], int]:
    """From a line of a scalar's text to the file's: only literal blocks keep their lines."""
    start = line_of(node)
    return (lambda line: start + line) if node.style == "|" else (lambda _: start)
