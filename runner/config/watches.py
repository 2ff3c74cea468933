"""watches.yaml → a tuple of `Watch`: which kind is mapped to which role or playbook, and how.

A key of that file, its default and its validation belong here, as do the annotations by which a single CR overrides its
watch. Every mistake in the file is found in one go, and each is told with file, line, key and remedy.

Next on the way: `runner.kube.primaries`.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from runner.config import related
from runner.config.related import Mapper
from runner.config.settings import MAX_VERBOSITY, Settings, search_paths
from runner.errors import ConfigurationError
from runner.resource.metadata import GroupVersionKind, Object, annotations_of, cut, parse_duration, quoted
from runner.resource.selectors import EVERYTHING, Requirement, Selector

# On a CR, with the value "true", and if its watch allows it: its runs are dry runs.
DRY_RUN = "rolerunner.io/dry-run"
_ANNOTATION = "ansible.sdk.operatorframework.io/"

# The CRs' annotations that a watch may allow, by the names that `allowAnnotations` has for them, and those that count
# unless it says otherwise: the Go operator's. Who writes a CR should not decide by default whether it is enforced.
ANNOTATIONS = ("reconcile-period", "max-runner-artifacts", "verbosity", "dry-run")
DEFAULT_ANNOTATIONS = frozenset(ANNOTATIONS[:3])
# How far a CR's annotations go, unless its watch itself goes further: seconds, and runs whose artifacts are kept.
_SHORTEST_PERIOD, _MOST_ARTIFACTS = 1.0, 100

DEFAULT_MAX_RUNNER_ARTIFACTS = 20

# What a file may be made of: YAML's aliases make much of little, and what is read is read recursively.
_MOST_NODES, _DEEPEST, _LONGEST_NUMBER = 100_000, 100, 1000
_LONGEST_PROBLEM = 2000

T = TypeVar("T")

# $VAR and ${VAR}, as Go's os.Expand takes them.
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))")


class WatchesError(ConfigurationError):
    """The watches file cannot be used. Each of `problems` is one line: `FILE:LINE: KEY: what is wrong and what to do`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a run runs: a role's folder or a playbook's file, absolute; exactly one in a watch that could be loaded."""

    role: Path | None = None
    playbook: Path | None = None

    @property
    def path(self) -> Path | None:
        return self.playbook or self.role


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalizer:
    """What runs before a CR may go. Without content of its own, the watch's runs, with `vars` on top."""

    name: str
    content: Content | None = None
    vars: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Related:
    """A kind that is not owned: a change of such an object gives the CRs that `mapper` finds a turn."""

    gvk: GroupVersionKind
    selector: Selector = EVERYTHING
    mapper: Mapper


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One entry of watches.yaml, defaults filled in. Durations are seconds."""

    gvk: GroupVersionKind
    content: Content
    vars: Mapping[str, Any] = field(default_factory=dict, hash=False)
    # 0: not by itself.
    reconcile_period: float
    # When a run is ended; None: never.
    timeout: float | None = None
    manage_status: bool = True
    snake_case_parameters: bool = True
    mark_unsafe: bool = True
    selector: Selector = EVERYTHING
    watch_dependents: bool = True
    watch_cluster_scoped: bool = False
    watch_annotations: bool = False
    related: tuple[Related, ...] = ()
    max_runner_artifacts: int = DEFAULT_MAX_RUNNER_ARTIFACTS
    blacklist: frozenset[GroupVersionKind] = frozenset()
    finalizer: Finalizer | None = None
    max_concurrent_reconciles: int
    verbosity: int
    # Which of the CRs' ANNOTATIONS count.
    allow_annotations: frozenset[str] = DEFAULT_ANNOTATIONS
    # Another watch has the same kind and version, in another group.
    has_namesake: bool = False

    def __hash__(self) -> int:
        # It is a key in what is looked up again and again; hardly two watches have one kind, and a text knows its hash.
        return hash(self.gvk.kind)

    @property
    def controller(self) -> str:
        """What metrics call this watch: the Go operator's name, and with the group where that would mean two."""
        group = [self.gvk.group or "core"] if self.has_namesake else []
        return "-".join((self.gvk.kind, self.gvk.version, *group, "controller")).lower()


def for_cr(watch: Watch, obj: Object) -> tuple[Watch, list[str]]:
    """The watch as this CR's annotations want it, and a sentence about each annotation that does not count as it is."""
    changes: dict[str, Any] = {}
    problems = []
    annotations = annotations_of(obj)
    for name, what, key, convert, within, unit in _OVERRIDES:
        text = annotations.get(_ANNOTATION + name)
        if text is None:
            continue
        if name not in watch.allow_annotations:
            problems.append(_not_allowed(_ANNOTATION + name, name))
            continue
        try:
            wanted = convert(text)
        except ValueError as error:
            problems.append(f"Unable to parse {what} annotation: {error}")
            continue
        counts = changes[key] = within(wanted, watch)
        if counts != wanted:
            problems.append(f"The {what} annotation, {quoted(text)}, goes further than it may; {counts:g}{unit} counts")
    if annotations.get(DRY_RUN) == "true" and not is_dry_run(watch, obj):
        problems.append(_not_allowed(DRY_RUN, "dry-run"))
    return (replace(watch, **changes) if changes else watch), problems


def is_dry_run(watch: Watch, obj: Object) -> bool:
    return "dry-run" in watch.allow_annotations and annotations_of(obj).get(DRY_RUN) == "true"


def _not_allowed(annotation: str, name: str) -> str:
    return f"The annotation {annotation} does not count, as allowAnnotations of the CR's watch is without {name}"


def _whole_number(*, upto: int | None = None) -> Callable[[str], int]:
    def convert(text: str) -> int:
        # Before it is made a number, which takes longer the longer it is.
        if not text.isascii() or not text.isdigit() or len(text) > 9 or (upto is not None and int(text) > upto):
            raise ValueError(f"{quoted(text)} is no whole number from 0" + (f" to {upto}" if upto is not None else ""))
        return int(text)

    return convert


def _period(text: str) -> float:
    seconds = parse_duration(text)
    if seconds < 0:
        raise ValueError(f"{quoted(text)} is below zero")
    return seconds


def _period_within(wanted: float, watch: Watch) -> float:
    # 0: never.
    shortest = min(_SHORTEST_PERIOD, watch.reconcile_period or _SHORTEST_PERIOD)
    return max(wanted, shortest) if wanted else wanted


def _artifacts_within(wanted: int, watch: Watch) -> int:
    # 0 would keep all.
    most = max(_MOST_ARTIFACTS, watch.max_runner_artifacts)
    return min(wanted or most, most)


# Annotation, what it is called, the watch's field, how its text is read, what counts of that within a watch, and its unit.
_OVERRIDES: tuple[tuple[str, str, str, Callable[[str], Any], Callable[[Any, Watch], Any], str], ...] = (
    ("reconcile-period", "reconcile period", "reconcile_period", _period, _period_within, " s"),
    ("max-runner-artifacts", "max runner artifacts", "max_runner_artifacts", _whole_number(), _artifacts_within, ""),
    ("verbosity", "verbosity", "verbosity", _whole_number(upto=MAX_VERBOSITY), lambda wanted, _: wanted, ""),
)


def load(settings: Settings, environ: Mapping[str, str]) -> tuple[Watch, ...]:
    """Read the settings' watches file. Raises WatchesError with all of its mistakes."""
    path = settings.watches_file
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise WatchesError([f"{path}: {error.strerror}; name the file with --watches-file"]) from error
    except UnicodeDecodeError as error:
        raise WatchesError([f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"]) from error
    return parse(text, settings=settings, environ=environ)


def parse(text: str, *, settings: Settings, environ: Mapping[str, str]) -> tuple[Watch, ...]:
    """The watches in `text`, which came from the settings' watches file. Raises WatchesError."""
    file = settings.watches_file
    reader = _Reader(settings, environ)
    try:
        root = yaml.compose(_expand(text, environ), Loader=yaml.SafeLoader)
        reader.check(root)
        watches = reader.read(root) if not reader.problems else ()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise WatchesError([_one_line(f"{file}:{line}: no valid YAML: {error.problem or error.context}")]) from error
    except yaml.YAMLError as error:
        raise WatchesError([_one_line(f"{file}: no valid YAML: {error}")]) from error
    except RecursionError as error:
        raise WatchesError([f"{file}: nested too deep; more than {_DEEPEST} levels are never read"]) from error
    except Exception as error:  # PyYAML raises what it stumbles over: KeyError of `!!bool x`, IndexError of `!!int ''`.
        raise WatchesError([_one_line(f"{file}: cannot be read: {type(error).__name__}: {error}")]) from error
    if reader.problems:
        raise WatchesError(reader.problems)
    names = Counter(watch.controller for watch in watches)
    return tuple(replace(watch, has_namesake=names[watch.controller] > 1) for watch in watches)


def _one_line(text: str) -> str:
    return cut(" ".join(text.split()), _LONGEST_PROBLEM)


def _expand(text: str, environ: Mapping[str, str]) -> str:
    """References to unset variables stay, written `${VAR}`, as in the Go operator."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return environ.get(name, f"${{{name}}}")

    return _VARIABLE.sub(value, text)


class _Reader:
    """Walks the YAML nodes, which know their lines, and collects what is wrong with them."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.settings = settings
        self.environ = environ
        self.problems: list[str] = []

    def problem(self, node: yaml.Node, key: str, text: str) -> None:
        self.problems.append(_one_line(f"{self.settings.watches_file}:{node.start_mark.line + 1}: {key}: {text}"))

    def check(self, root: yaml.Node | None) -> None:
        """What JSON has no value for, and what would take too long to be read, are problems anywhere in the file."""
        # Nodes, with the keys that they stand under, each at every place where an alias has it.
        level: list[tuple[yaml.Node, str]] = [(root, "watches")] if root is not None else []
        seen: set[int] = set()
        left, depth = _MOST_NODES, 0
        while level:
            depth += 1
            following: list[tuple[yaml.Node, str]] = []
            for node, key in level:
                if id(node) not in seen and (wrong := _no_json(node)):
                    self.problem(node, key, wrong)
                seen.add(id(node))
                left -= 1 if isinstance(node, yaml.ScalarNode) else len(node.value) + 1
                if left < 0 or depth > _DEEPEST:
                    why = f"nested more than {_DEEPEST} levels deep" if left >= 0 else "too large, its aliases counted"
                    self.problem(node, key, f"{why}; make it smaller, with no alias to what it is in")
                    return
                if isinstance(node, yaml.SequenceNode):
                    following += [(item, key) for item in node.value]
                elif isinstance(node, yaml.MappingNode):
                    for name, value in node.value:
                        if name.tag in (_TEXT, _MERGE):
                            following.append((value, name.value))
                        elif id(name) not in seen:
                            seen.add(id(name))
                            self.problem(name, _name(name), "a key has to be text; put it in quotes")
            level = following

    def read(self, root: yaml.Node | None) -> tuple[Watch, ...]:
        if not isinstance(root, yaml.SequenceNode):
            at = f":{root.start_mark.line + 1}" if root is not None else ""
            self.problems.append(f"{self.settings.watches_file}{at}: expected a list of watches, each beginning with '- '")
            return ()
        watches = []
        lines: dict[GroupVersionKind, int] = {}
        for node in root.value:
            watch = self.watch(node)
            if watch is None:
                continue
            if watch.gvk in lines:
                self.problem(node, "kind", f"{watch.gvk} is watched twice, first on line {lines[watch.gvk]}; keep one")
            lines.setdefault(watch.gvk, node.start_mark.line + 1)
            watches.append(watch)
        if not root.value:
            self.problem(root, "watches", "the list is empty; add a watch with version, kind and a role or a playbook")
        return tuple(watches)

    def watch(self, node: yaml.Node) -> Watch | None:
        fields = self.mapping(node, "watch", _WATCH_KEYS)
        if fields is None:
            return None
        before = len(self.problems)
        gvk = self.gvk(node, fields)
        content = self.content(node, fields, required=True)
        period = self.take(fields, "reconcilePeriod", _duration, 0.0)
        finalizer = self.finalizer(fields.get("finalizer"))
        artifacts = self.take(fields, "maxRunnerArtifacts", _count, 0)
        watch = Watch(
            gvk=gvk,
            content=content,
            vars=self.take(fields, "vars", _variables, {}),
            reconcile_period=period or self.settings.reconcile_period,
            timeout=self.take(fields, "timeout", _duration, 0.0) or self.settings.run_timeout,
            manage_status=self.take(fields, "manageStatus", _boolean, True),
            snake_case_parameters=self.take(fields, "snakeCaseParameters", _boolean, True),
            mark_unsafe=self.take(fields, "markUnsafe", _boolean, True),
            selector=self.selector(fields.get("selector")),
            watch_dependents=self.take(fields, "watchDependentResources", _boolean, True),
            watch_cluster_scoped=self.take(fields, "watchClusterScopedResources", _boolean, False),
            watch_annotations=self.take(fields, "watchAnnotationsChanges", _boolean, False),
            related=tuple(filter(None, map(self.related, self.items(fields, "watchRelatedResources")))),
            max_runner_artifacts=artifacts or DEFAULT_MAX_RUNNER_ARTIFACTS,
            blacklist=self.blacklist(fields),
            finalizer=finalizer,
            max_concurrent_reconciles=_limit(gvk, self.settings, self.environ),
            verbosity=_verbosity(gvk, self.settings, self.environ),
            allow_annotations=self.take(fields, "allowAnnotations", _annotations, DEFAULT_ANNOTATIONS),
        )
        return watch if len(self.problems) == before else None

    def gvk(self, node: yaml.Node, fields: Mapping[str, yaml.Node]) -> GroupVersionKind:
        group = self.take(fields, "group", _string, "")
        version = self.take(fields, "version", _string, "")
        kind = self.take(fields, "kind", _string, "")
        for key, value in (("version", version), ("kind", kind)):
            # One that is no text has been complained about already.
            if not value and (key not in fields or _is_empty(fields[key])):
                self.problem(fields.get(key, node), key, f"missing or empty; every watch needs a {key}")
        return GroupVersionKind(group, version, kind)

    def content(self, node: yaml.Node, fields: Mapping[str, yaml.Node], *, required: bool) -> Content:
        role, playbook = self.take(fields, "role", _string, ""), self.take(fields, "playbook", _string, "")
        if playbook:
            path = Path.cwd() / playbook
            if not _is(Path.is_file, path):
                self.problem(fields["playbook"], "playbook", f"{playbook} was not found as a file; looked for {path}")
            return Content(playbook=path)
        elif role:
            places = role_places(role, self.settings, self.environ)
            found = next((place for place in places if _is(Path.is_dir, place)), None)
            if found is None:
                looked = ", ".join(str(place) for place in places)
                remedy = "set ANSIBLE_ROLES_PATH or ANSIBLE_COLLECTIONS_PATH if it stands elsewhere"
                self.problem(fields["role"], "role", f"{role} was not found; looked for {looked}; {remedy}")
            return Content(role=found)
        if required and not {"role", "playbook"} & fields.keys():
            self.problem(node, "role", "neither role nor playbook is given; name the one that this kind runs")
        elif required:
            self.problem(fields.get("role") or fields["playbook"], "role", "empty; name a role or a playbook")
        return Content()

    def finalizer(self, node: yaml.Node | None) -> Finalizer | None:
        if node is None or _is_null(node):
            return None
        fields = self.mapping(node, "finalizer", _FINALIZER_KEYS)
        if fields is None:
            return None
        name = self.take(fields, "name", _string, "")
        if not name:
            self.problem(node, "finalizer.name", "missing or empty; it needs a name such as example.com/cleanup")
        variables: Mapping[str, Any] = self.take(fields, "vars", _variables, {})
        content = self.content(node, fields, required=not variables)
        return Finalizer(name=name, content=content if content.path else None, vars=variables)

    def selector(self, node: yaml.Node | None) -> Selector:
        if node is None or _is_null(node):
            return Selector()
        fields = self.mapping(node, "selector", {"matchLabels", "matchExpressions"}) or {}
        requirements: list[Requirement] = []
        equal: dict[str, str] = self.take(fields, "matchLabels", _strings, {})
        requirements += [Requirement(key, "In", (value,)) for key, value in equal.items()]
        requirements += filter(None, map(self.requirement, self.items(fields, "matchExpressions")))
        return Selector(tuple(requirements))

    def requirement(self, node: yaml.Node) -> Requirement | None:
        key = "selector.matchExpressions"
        fields = self.mapping(node, key, {"key", "operator", "values"})
        if fields is None:
            return None
        label = self.take(fields, "key", _string, "")
        operator = self.take(fields, "operator", _string, "")
        values: list[str] = self.take(fields, "values", _string_list, [])
        if not label or operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            self.problem(node, key, "needs a key and one of the operators In, NotIn, Exists, DoesNotExist")
        elif (operator in ("In", "NotIn")) != bool(values):
            self.problem(node, key, "values go with In and NotIn, and only with these")
        else:
            return Requirement(label, operator, tuple(values))
        return None

    def blacklist(self, fields: Mapping[str, yaml.Node]) -> frozenset[GroupVersionKind]:
        kinds = set()
        for item in self.items(fields, "blacklist"):
            found = self.mapping(item, "blacklist", {"group", "version", "kind"})
            if found is not None:
                kinds.add(self.gvk(item, found))
        return frozenset(kinds)

    def related(self, node: yaml.Node) -> Related | None:
        key = "watchRelatedResources"
        fields = self.mapping(node, key, {"group", "version", "kind", "selector", *_MAPPERS})
        if fields is None:
            return None
        before = len(self.problems)
        gvk, selector = self.gvk(node, fields), self.selector(fields.get("selector"))
        given = [name for name in _MAPPERS if name in fields]
        mapper = self.take(fields, given[0], _MAPPERS[given[0]], None) if len(given) == 1 else None
        if mapper is None and len(self.problems) == before:
            self.problem(node, key, f"needs exactly one of {', '.join(_MAPPERS)}, to say which CRs an object concerns")
        return Related(gvk=gvk, selector=selector, mapper=mapper) if mapper is not None else None

    def items(self, fields: Mapping[str, yaml.Node], key: str) -> list[yaml.Node]:
        """The nodes of a list, which may be absent."""
        node = fields.get(key)
        if node is None or _is_null(node):
            return []
        if not isinstance(node, yaml.SequenceNode):
            self.problem(node, key, "expected a list")
            return []
        return list(node.value)

    def mapping(self, node: yaml.Node, key: str, known: set[str]) -> dict[str, yaml.Node] | None:
        """The node's values by key; keys that are unknown or stand twice are problems."""
        if not isinstance(node, yaml.MappingNode):
            self.problem(node, key, f"expected keys and values, found {_found(node)}")
            return None
        fields: dict[str, yaml.Node] = {}
        for name_node, value in self.pairs(node):
            name = str(name_node.value)
            if name not in known:
                self.problem(name_node, name, f"unknown key; known here: {', '.join(sorted(known))}")
            elif name in fields:
                self.problem(name_node, name, "stands twice; keep one")
            else:
                fields[name] = value
        return fields

    def pairs(self, node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
        """Keys and values; those that come by a merge key (`<<: *defaults`) where the mapping itself is without them."""
        own = [(name, value) for name, value in node.value if name.tag != _MERGE]
        names = {name.value for name, _ in own}
        for merge, value in node.value:
            for source in (value.value if isinstance(value, yaml.SequenceNode) else [value]) if merge.tag == _MERGE else ():
                if not isinstance(source, yaml.MappingNode):
                    self.problem(merge, "<<", "expected keys and values, or a list of such")
                    continue
                merged = [(name, item) for name, item in self.pairs(source) if name.value not in names]
                names |= {name.value for name, _ in merged}
                own += merged
        return own

    def take(self, fields: Mapping[str, yaml.Node], key: str, convert: Callable[[Any], T], default: T) -> T:
        node = fields.get(key)
        if node is None or _is_null(node):
            return default
        try:
            return convert(_value(node))
        except ValueError as error:
            self.problem(node, key, str(error))
        except Exception as error:  # An expression's parser, too, raises what it stumbles over.
            self.problem(node, key, f"cannot be used: {type(error).__name__}: {error}")
        return default


_WATCH_KEYS = {
    *("group", "version", "kind", "role", "playbook", "vars", "finalizer", "selector", "blacklist"),
    *("reconcilePeriod", "timeout", "manageStatus", "markUnsafe", "snakeCaseParameters", "maxRunnerArtifacts"),
    *("watchDependentResources", "watchClusterScopedResources", "watchAnnotationsChanges", "watchRelatedResources"),
    "allowAnnotations",
}
_FINALIZER_KEYS = {"name", "role", "playbook", "vars"}


_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
# Tags of what JSON has as well, by the kind of node.
_IN_JSON: Mapping[type[yaml.Node], frozenset[str]] = {
    yaml.ScalarNode: frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")),
    yaml.SequenceNode: frozenset({"tag:yaml.org,2002:seq"}),
    yaml.MappingNode: frozenset({"tag:yaml.org,2002:map"}),
}


def _no_json(node: yaml.Node) -> str:
    """Why this node's own value, whatever is in it, is none of JSON's; empty if it is one."""
    if node.tag not in _IN_JSON[type(node)]:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        return f"a value of the type {quoted(tag)} cannot be handed on; write text, in quotes"
    if node.tag.endswith(("int", "float")) and len(node.value) > _LONGEST_NUMBER:
        return "a number of too many digits"
    if node.tag.endswith("float"):
        try:
            if not math.isfinite(_value(node)):
                return f"the number {node.value} is none of JSON's; put it in quotes if text is meant"
        except ValueError as error:
            return str(error)
    return ""


def _found(node: yaml.Node) -> str:
    try:
        return quoted(_value(node))
    except ValueError:
        return f"what {quoted(node.tag)} would be"


def _name(node: yaml.Node) -> str:
    return node.value if isinstance(node, yaml.ScalarNode) else "key"


def _value(node: yaml.Node) -> Any:
    """The node as plain Python, with the safe types only."""
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_object(node, deep=True)
    except Exception as error:  # As above.
        raise ValueError(f"cannot be read: {error or type(error).__name__}") from error
    finally:
        loader.dispose()
    return value


def _is_null(node: yaml.Node) -> bool:
    return node.tag == "tag:yaml.org,2002:null"


def _is_empty(node: yaml.Node) -> bool:
    return _is_null(node) or node.value == ""


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, found {quoted(value)}; put it in quotes")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, found {quoted(value)}")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"expected a whole number from 0, found {quoted(value)}")
    return value


def _duration(value: Any) -> float:
    if not isinstance(value, str):
        raise ValueError(f"expected a duration such as 30s or 1h5m, found {quoted(value)}; put it in quotes, with its unit")
    seconds = parse_duration(value)
    if seconds < 0:
        raise ValueError(f"expected a duration from 0, found {quoted(value)}")
    return seconds


def _variables(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"expected variables by name, found {quoted(value)}")
    return value


def _annotations(value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not all(name in ANNOTATIONS for name in value):
        raise ValueError(f"expected a list of some of {', '.join(ANNOTATIONS)}; found {quoted(value)}")
    return frozenset(value)


def _strings(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for pair in value.items() for item in pair):
        raise ValueError(f"expected text by name, found {quoted(value)}; put numbers and true/false in quotes")
    return value


def _string_list(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"expected a list of texts, found {quoted(value)}; put numbers and true/false in quotes")
    return value


def _filled(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected text, found {quoted(value)}")
    return value


def _by_name(value: Any) -> Mapper:
    if value is not True:
        raise ValueError(f"expected true, found {quoted(value)}; leave it out where objects do not have their CR's name")
    return related.by_name()


_MAPPERS: Mapping[str, Callable[[Any], Mapper]] = {
    "byLabel": lambda value: related.by_label(_filled(value)),
    "byAnnotation": lambda value: related.by_annotation(_filled(value)),
    "byName": _by_name,
    "byExpression": lambda value: related.by_expression(_filled(value)),
}


def _is(what: Callable[[Path], bool], path: Path) -> bool:
    try:
        return what(path)
    except (OSError, ValueError):
        # Longer than a name can be, not readable, or with a character that no name has.
        return False


def role_places(role: str, settings: Settings, environ: Mapping[str, str]) -> list[Path]:
    """Where a role may stand, in the order of search, which is the Go operator's."""
    if os.path.isabs(role):
        return [Path(role)]
    places = []
    parts = role.split(".")
    if len(parts) == 3:
        namespace, collection, name = parts
        inner = Path("ansible_collections") / namespace / collection / "roles" / name
        places += [path / inner for path in _collection_paths(settings, environ)]
    for path in search_paths(settings.roles_path or environ.get("ANSIBLE_ROLES_PATH", "")):
        places += [path / role, path / "roles" / role]
    return [*places, Path.cwd() / "roles" / role]


def _collection_paths(settings: Settings, environ: Mapping[str, str]) -> list[Path]:
    given = settings.collections_path or environ.get("ANSIBLE_COLLECTIONS_PATH", "")
    return search_paths(given) or [Path("/usr/share/ansible/collections"), Path.home() / ".ansible" / "collections"]


def _limit(gvk: GroupVersionKind, settings: Settings, environ: Mapping[str, str]) -> int:
    for prefix in ("MAX_CONCURRENT_RECONCILES", "WORKER"):
        number = _number(prefix, gvk, environ)
        if number is not None and number > 0:
            return number
    return settings.max_concurrent_reconciles


def _verbosity(gvk: GroupVersionKind, settings: Settings, environ: Mapping[str, str]) -> int:
    number = _number("ANSIBLE_VERBOSITY", gvk, environ)
    return number if number is not None and 0 <= number <= MAX_VERBOSITY else settings.verbosity


def _number(prefix: str, gvk: GroupVersionKind, environ: Mapping[str, str]) -> int | None:
    """The variable `PREFIX_KIND_GROUP`; Go keeps a group's dashes, which no shell can set, so `_` is taken as well."""
    name = f"{prefix}_{gvk.kind}_{gvk.group}".upper().replace(".", "_")
    for spelling in (name, name.replace("-", "_")):
        try:
            return int(environ[spelling])
        except (KeyError, ValueError):
            continue
    return None
