"""Reads the tasks of roles and playbooks, and resolves their templates as far as the text alone tells.

Nothing is run. A template is resolved if its names have one literal value: of vars and defaults, the items of a loop, the
CR's own kind. Everything else is `Unknown`, and what needs it cannot be decided.

Next on the way: `devkit.manifests.rights`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2 import nodes

from devkit.manifests.markers import YamlFile
from devkit.yaml_nodes import entry, items, pairs, plain
from runner.config import argument_specs
from runner.config.settings import Settings
from runner.config.watches import Content, Watch, role_places
from runner.errors import RolerunnerError
from runner.resource.parameters import is_reserved, variable_name

_JINJA = jinja2.Environment()
_COLLECTIONS = ("ansible.builtin.", "ansible.legacy.", "kubernetes.core.", "community.kubernetes.", "operator_sdk.util.")
_INCLUDES = ("include_tasks", "import_tasks", "include_role", "import_role", "include_vars")
_LOOPS = ("loop", "with_items", "with_list", "with_flattened")
# Of a task, but not its module.
_KEYWORDS = frozenset({"name", "when", "register", "vars", "args", "tags", "notify", "environment", "module_defaults"})
# Their values are expressions without braces.
_BARE = frozenset({"when", "until", "that", "failed_when", "changed_when"})

Scope = Mapping[str, object]
ModuleDefaults = Mapping[str, Mapping[str, object]]


class Unknown(RolerunnerError):
    """A value that the text does not tell; `str()` is the expression."""


@dataclass(frozen=True, slots=True)
class LookupFile:
    """The result of `lookup('template', …)` or `lookup('file', …)`, whose own variables are not resolved."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """The context of a task: the variables in scope, and the folders in which its files are looked up."""

    file: YamlFile
    scope: Scope
    role: Path | None
    # The playbook's or role's folder, in which relative files are looked up last.
    base: Path
    defaults: ModuleDefaults = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """A task with its module and arguments, one for each item of its loop. Names of well-known collections are left out."""

    context: TaskContext
    node: yaml.Node
    module: str
    arguments: Mapping[str, object]
    declared: bool

    @property
    def at(self) -> str:
        return self.context.file.at(self.node)


@dataclass(frozen=True, slots=True)
class Template:
    """A template outside of any arguments, which may look something up."""

    context: TaskContext
    node: yaml.Node
    source: str
    declared: bool


class RoleReader:
    """Reads the role or playbook of a watch, with these of its variables; `options` are those that its CRs set.

    `undecided` grows by (FILE:LINE, what) for files that cannot be found from the text.
    """

    def __init__(
        self,
        watch: Watch,
        content: Content,
        variables: Scope,
        *,
        settings: Settings,
        environ: Mapping[str, str],
        options: set[str],
    ) -> None:
        self.undecided: list[tuple[str, str]] = []
        # All that was read, for the markers in them.
        self.files: dict[Path, YamlFile] = {}
        self._content = content
        self._settings = settings
        self._environ = environ
        # A CR may set these, whatever a role says of them.
        self._options = options - variables.keys()
        # These have no other value anywhere.
        own = {"apiVersion": watch.gvk.api_version, "kind": watch.gvk.kind}
        self._fixed: Scope = {variable_name(watch.gvk): own, **variables}
        self._stack: list[Path] = []

    def read(self) -> Iterator[Task | Template]:
        if self._content.playbook:
            yield from self._playbook(self._content.playbook)
        elif self._content.role:
            yield from self._role(self._content.role)

    def _playbook(self, path: Path) -> Iterator[Task | Template]:
        file = self._yaml_file(path)
        scope = {**self._fixed, "playbook_dir": str(path.parent)}
        context = TaskContext(file=file, scope=scope, role=None, base=path.parent)
        for root in file.roots:
            for play in items(root):
                if (imported := _either(play, "import_playbook")) is not None:
                    for other in self._files(context, imported, ("",), node=play):
                        yield from self._once(other, self._playbook(other))
                    continue
                inner = self._enter(context, play)
                for name, _, value in pairs(play):
                    if name in ("pre_tasks", "tasks", "post_tasks", "handlers"):
                        yield from self._tasks(inner, value)
                    elif name == "vars":
                        yield from self._templates(inner, value, declared=False)
                    elif name == "roles":
                        for item in items(value):
                            yield from self._named_role(inner, item, _role_name(item))

    def _role(
        self,
        role: Path,
        *,
        outer: Scope | None = None,
        given: Scope | None = None,
        begin: str = "",
        defaults: ModuleDefaults | None = None,
    ) -> Iterator[Task | Template]:
        own = self._without_options(argument_specs.own_variables(role))
        scope = {**(outer or {}), **own, **(given or {}), **self._fixed, "role_path": str(role)}

        def places(folder: str) -> Iterator[TaskContext]:
            for path in argument_specs.files(role, folder):
                yield TaskContext(file=self._yaml_file(path), scope=scope, role=role, base=role, defaults=defaults or {})

        for context in (*places("defaults"), *places("vars")):
            for root in context.file.roots:
                yield from self._templates(context, root, declared=False)
        for context in places("meta"):
            for root in context.file.roots:
                for item in items(entry(root, "dependencies")):
                    yield from self._named_role(context, item, _role_name(item))
        tasks = [role / "tasks" / f"{begin or 'main'}{ending}" for ending in ("", ".yml", ".yaml")]
        for path in [*filter(Path.is_file, tasks)][:1] + list(argument_specs.files(role, "handlers")):
            inside = TaskContext(file=self._yaml_file(path), scope=scope, role=role, base=role, defaults=defaults or {})
            yield from self._once(path, self._task_file(inside))

    def _task_file(self, context: TaskContext) -> Iterator[Task | Template]:
        for root in context.file.roots:
            yield from self._tasks(context, root)

    def _tasks(self, context: TaskContext, tasks: yaml.Node | None) -> Iterator[Task | Template]:
        for node in items(tasks):
            names = {name for name, _, _ in pairs(node)}
            inner = self._enter(context, node)
            if "block" in names:
                for name, _, value in pairs(node):
                    if name in ("block", "rescue", "always"):
                        yield from self._tasks(inner, value)
                    elif name in ("vars", "when"):
                        yield from self._templates(inner, value, declared=False, bare=name in _BARE)
                continue
            # The markers stay unclaimed, for the reader of their rights.
            declared = bool(context.file.about(node))
            for item in self._loop(inner, node):
                # A CR's own values come before an item's.
                looped = replace(inner, scope={**inner.scope, **item, **self._fixed})
                yield from self._task(looped, node, declared)

    def _task(self, context: TaskContext, node: yaml.Node, declared: bool) -> Iterator[Task | Template]:
        yield from self._templates(context, node, declared=declared)
        for name, _, value in pairs(node):
            if name in _KEYWORDS or name in _LOOPS:
                continue
            module, arguments = _call(name, plain(value))
            extra = plain(entry(node, "args"))
            arguments = {**_defaults(context.defaults, module), **(extra if isinstance(extra, dict) else {}), **arguments}
            if module in _INCLUDES:
                yield from self._include(context, node, module, arguments)
            else:
                yield Task(context, node, module, arguments, declared)

    def _include(
        self, context: TaskContext, node: yaml.Node, module: str, arguments: Mapping[str, object]
    ) -> Iterator[Task | Template]:
        if module.endswith("_role"):
            yield from self._named_role(context, node, arguments.get("name"), begin=arguments.get("tasks_from", ""))
        elif module.endswith("_tasks"):
            given = arguments.get("file", arguments.get("_raw"))
            for path in self._files(context, given, ("", "tasks"), node=node):
                yield from self._once(path, self._task_file(replace(context, file=self._yaml_file(path))))

    def _named_role(
        self, context: TaskContext, node: yaml.Node, given: object, begin: object = ""
    ) -> Iterator[Task | Template]:
        try:
            name, begin = str(resolve(given, context)), str(resolve(begin, context))
        except Unknown as unknown:
            self._say(context, node, f"which role this is: {unknown}")
            return
        around = [context.role.parent / name] if context.role else []
        around += [context.base / "roles" / name, *role_places(name, self._settings, self._environ)]
        role = next(filter(Path.is_dir, around), None)
        if role is None:
            self._say(context, node, f"role {name} was not found; what it does is not known")
            return
        variables = plain(entry(node, "vars"))
        variables = self._without_options(variables) if isinstance(variables, dict) else {}
        inside = self._role(role, outer=context.scope, given=variables, begin=begin, defaults=context.defaults)
        yield from self._once(role, inside)

    def _files(self, context: TaskContext, given: object, folders: Sequence[str], *, node: yaml.Node) -> Iterator[Path]:
        try:
            yield found(str(resolve(given, context)), context, folders)
        except Unknown as unknown:
            self._say(context, node, f"which file this is: {unknown}")

    def _say(self, context: TaskContext, node: yaml.Node, what: str) -> None:
        if not context.file.about(node):
            self.undecided.append((context.file.at(node), what))

    def _once(self, path: Path, inside: Iterator[Task | Template]) -> Iterator[Task | Template]:
        """Iterate over what a file has, unless it includes itself."""
        if path not in self._stack:
            self._stack.append(path)
            yield from inside
            self._stack.pop()

    def _enter(self, context: TaskContext, node: yaml.Node) -> TaskContext:
        """The context inside a play, block or task, with its variables and module defaults."""
        scope, defaults = context.scope, context.defaults
        given = plain(entry(node, "vars"))
        if isinstance(given, dict):
            scope = {**scope, **self._without_options(given), **self._fixed}
        module_defaults = plain(entry(node, "module_defaults"))
        if isinstance(module_defaults, dict):
            defaults = {**defaults, **{name: value for name, value in module_defaults.items() if isinstance(value, dict)}}
        return replace(context, scope=scope, defaults=defaults)

    def _loop(self, context: TaskContext, node: yaml.Node) -> list[dict[str, object]]:
        """The variables of each iteration of a task's loop; without a known loop, one iteration that sets none."""
        given = next((value for name, _, value in pairs(node) if name in _LOOPS), None)
        variable = plain(entry(entry(node, "loop_control"), "loop_var")) or "item"
        if given is None:
            return [{}]
        try:
            values = resolve(plain(given), context)
        except Unknown:
            values = None
        return [{str(variable): value} for value in values] if isinstance(values, list) else [{}]

    def _templates(self, context: TaskContext, node: yaml.Node, *, declared: bool, bare: bool = False) -> Iterator[Template]:
        """Iterate over the templates inside a node, without those of other tasks."""
        if isinstance(node, yaml.ScalarNode):
            if "k8s" in node.value and ("{{" in node.value or bare):
                yield Template(
                    context, node, f"{{{{ {node.value} }}}}" if bare and "{{" not in node.value else node.value, declared
                )
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                yield from self._templates(context, item, declared=declared, bare=bare)
        else:
            for name, _, value in pairs(node):
                yield from self._templates(context, value, declared=declared, bare=name in _BARE)

    def _without_options(self, variables: Mapping[str, object]) -> dict[str, object]:
        """The variables without those that a CR can set."""
        return {name: value for name, value in variables.items() if name not in self._options or is_reserved(name)}

    def _yaml_file(self, path: Path) -> YamlFile:
        if path not in self.files:
            self.files[path] = YamlFile(path)
        return self.files[path]


def resolve(value: object, context: TaskContext) -> object:
    """The value of a template, as far as the text tells. Raises Unknown."""
    if value is None:
        raise Unknown("nothing is said")
    if not isinstance(value, str) or ("{{" not in value and "{%" not in value):
        return value
    try:
        body = _JINJA.parse(value).body
    except jinja2.TemplateError as error:
        raise Unknown(value) from error
    parts = [part for output in body for part in (output.nodes if isinstance(output, nodes.Output) else [output])]
    try:
        if len(parts) == 1:
            return _evaluate(parts[0], context)
        return "".join(str(_evaluate(part, context)) for part in parts)
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Unknown(value.strip()) from error
    except Unknown as error:
        raise Unknown(value.strip()) from error


def _evaluate(node: nodes.Node, context: TaskContext) -> Any:
    match node:
        case nodes.Const():
            return node.value
        case nodes.TemplateData():
            return node.data
        case nodes.Name():
            return resolve(context.scope[node.name], context)
        case nodes.Getattr():
            return resolve(_evaluate(node.node, context)[node.attr], context)
        case nodes.Getitem():
            return resolve(_evaluate(node.node, context)[_evaluate(node.arg, context)], context)
        case nodes.List():
            return [_evaluate(item, context) for item in node.items]
        case nodes.Dict():
            return {_evaluate(pair.key, context): _evaluate(pair.value, context) for pair in node.items}
        case nodes.Concat():
            return "".join(str(_evaluate(item, context)) for item in node.nodes)
        case nodes.Add():
            return _evaluate(node.left, context) + _evaluate(node.right, context)
        case nodes.Call() if (looked_up := lookup(node)) and looked_up[0] in ("template", "file"):
            name = str(_evaluate(looked_up[1][0], context))
            return LookupFile(found(name, context, ("templates" if looked_up[0] == "template" else "files", "")))
        case nodes.Filter(name="from_yaml" | "from_yaml_all" | "list" | "string" | "trim" | "indent"):
            return _evaluate(node.node, context)  # type: ignore[arg-type]
        case nodes.Filter(name="lower" | "upper"):
            return getattr(str(_evaluate(node.node, context)), node.name)()  # type: ignore[arg-type]
    raise Unknown


def lookup(node: nodes.Node) -> tuple[str, list[nodes.Expr], dict[str, nodes.Expr]] | None:
    """(plugin, arguments, named arguments) of a call of lookup, query or q."""
    if not isinstance(node, nodes.Call) or not isinstance(node.node, nodes.Name):
        return None
    if node.node.name not in ("lookup", "query", "q") or not node.args or not isinstance(node.args[0], nodes.Const):
        return None
    return short(str(node.args[0].value)), node.args[1:], {keyword.key: keyword.value for keyword in node.kwargs}


def lookups(text: Template) -> Iterator[tuple[str, dict[str, object]]]:
    """(plugin, named arguments as far as they are known) of the lookups in a template; None for what is not known."""
    try:
        tree = _JINJA.parse(text.source)
    except jinja2.TemplateError:
        return
    for call in tree.find_all(nodes.Call):
        if looked_up := lookup(call):
            named: dict[str, object] = {}
            for name, value in looked_up[2].items():
                try:
                    named[name] = _evaluate(value, text.context)
                except (Unknown, LookupError, TypeError, AttributeError):
                    named[name] = "{{ … }}"
            yield looked_up[0], named


def found(name: str, context: TaskContext, folders: Sequence[str]) -> Path:
    """A file that a task names, where Ansible looks for it. Raises Unknown."""
    roots = [context.file.path.parent, *([context.role] if context.role else []), context.base]
    if "playbook_dir" in context.scope:
        roots.append(Path(str(context.scope["playbook_dir"])))
    places = (root / folder / name for root in roots for folder in folders)
    path = next(filter(Path.is_file, places), None)
    if path is None:
        raise Unknown(f"{name} was not found")
    return path


def short(module: str) -> str:
    """A module's name without the collections that this knows."""
    return next((module.removeprefix(prefix) for prefix in _COLLECTIONS if module.startswith(prefix)), module)


def _call(name: str, value: object) -> tuple[str, dict[str, object]]:
    """The module and its arguments, in whichever way they are written."""
    if name in ("action", "local_action"):
        if isinstance(value, dict):
            rest = dict(value)
            return short(str(rest.pop("module", ""))), rest
        name, _, value = str(value).partition(" ")
    if isinstance(value, dict):
        return short(name), value
    if not isinstance(value, str):
        return short(name), {}
    try:
        words = shlex.split(value)
    except ValueError:
        words = []
    named = dict(word.split("=", 1) for word in words if re.match(r"\w+=", word))
    return short(name), {**named, "_raw": value, "_free": next((word for word in words if "=" not in word), None)}


_GROUP = frozenset({"k8s", "k8s_exec", "k8s_info", "k8s_log", "k8s_scale", "k8s_service", "k8s_cp", "k8s_drain"})


def _defaults(defaults: ModuleDefaults, module: str) -> dict[str, object]:
    """The module_defaults of a module; its own come before its group's."""
    result: dict[str, object] = {}
    for name, values in defaults.items():
        if name.startswith("group/") and short(name.removeprefix("group/")) == "k8s" and module in _GROUP:
            result |= values
    for name, values in defaults.items():
        if short(name) == module:
            result |= values
    return result


def _role_name(node: yaml.Node) -> object:
    given = plain(node)
    return (given.get("role") or given.get("name")) if isinstance(given, dict) else given


def _either(node: yaml.Node, name: str) -> object:
    """A keyword, with or without its collection."""
    return plain(entry(node, name) or entry(node, f"ansible.builtin.{name}"))
