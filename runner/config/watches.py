"""watches.yaml → a tuple of `Watch`: which kind is mapped to which role or playbook, and how.

A key of that file is declared here, once: most of them as a field of `Watch`, with its default, its type of value and what
it is for; the JSON schema and the documentation are made of that. Every mistake in the file is found in one go, and each is
told with file, line, key and remedy.

Next on the way: `runner.kube.primaries`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import yaml

from runner.config import keys, related, yaml_files
from runner.config.keys import FILLED_TEXT, NAME, TEXT, Key, ListOf, Structure, Value, keys_of
from runner.config.related import Mapper
from runner.config.settings import MAX_VERBOSITY, Settings, search_paths
from runner.config.yaml_nodes import DEEPEST, Fields, Nodes, is_empty, is_null, one_line
from runner.errors import ConfigurationError
from runner.json_codec import JsonMapping
from runner.resource.metadata import GroupVersionKind, quoted
from runner.resource.selectors import EVERYTHING, Requirement, Selector

# The CRs' annotations that a watch may allow, by the names that `allowAnnotations` has for them, and those that count
# unless it says otherwise: the Go operator's. Who writes a CR should not decide by default whether it is enforced.
ANNOTATIONS = ("reconcile-period", "max-runner-artifacts", "verbosity", "dry-run")
DEFAULT_ANNOTATIONS = frozenset(ANNOTATIONS[:3])

DEFAULT_MAX_RUNNER_ARTIFACTS = 20

# $VAR and ${VAR}, as Go's os.Expand takes them.
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))")

# The keys of values that are no dataclass's fields one by one.
_GROUP = Key("group", TEXT, "The kind's API group; nothing for the core group.")
_VERSION = Key("version", NAME, "The kind's API version, such as v1alpha1.", required=True)
_KIND = Key("kind", NAME, "The kind, such as Memcached.", required=True)
_GVK = Structure((_GROUP, _VERSION, _KIND))
_ROLE = Key("role", TEXT, "A role's name, path, or NAMESPACE.COLLECTION.ROLE.")
_PLAYBOOK = Key("playbook", TEXT, "A playbook's path; goes before a role.")
_ONE_CONTENT = [{"required": [_ROLE.name]}, {"required": [_PLAYBOOK.name]}]
_VARS_HELP = "Variables for the role or playbook, over those of the CR."

_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
_LABEL = Key("key", NAME, required=True)
_OPERATOR = Key("operator", Value("operator", {"enum": list(_OPERATORS)}, TEXT.convert), required=True)
_VALUES = Key("values", keys.TEXTS)
_REQUIREMENT = Structure((_LABEL, _OPERATOR, _VALUES))
_MATCH_LABELS = Key("matchLabels", keys.TEXT_BY_NAME, "The labels, with their values.")
_MATCH_EXPRESSIONS: Key[object] = Key(
    "matchExpressions", ListOf(_REQUIREMENT), "Requirements as in a Kubernetes label selector."
)
_SELECTOR = Structure((_MATCH_LABELS, _MATCH_EXPRESSIONS))


def _by_name(value: object) -> Mapper:
    if value is not True:
        raise ValueError(f"expected true, found {quoted(value)}; leave it out where objects do not have their CR's name")
    return related.by_name()


def _mapper(by: Callable[[str], Mapper]) -> Value[Mapper]:
    return Value(FILLED_TEXT.name, FILLED_TEXT.schema, lambda value: by(FILLED_TEXT.convert(value)))


_MAPPERS = (
    Key("byLabel", _mapper(related.by_label), "The label whose value is the CR's name."),
    Key(
        "byAnnotation",
        _mapper(related.by_annotation),
        "The annotation whose value is the CR's NAME, or a comma list; without a namespace also NAMESPACE/NAME.",
    ),
    Key("byName", Value("true", {"const": True}, _by_name), "The CR has the object's own name."),
    Key(
        "byExpression",
        _mapper(related.by_expression),
        "A Jinja expression over `object` and `crs` that comes to CRs, or to their names.",
    ),
)


class WatchesError(ConfigurationError):
    """The watches file cannot be used. Each of `problems` is one line: `FILE:LINE: KEY: what is wrong and what to do`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A role's folder or a playbook's file, absolute; exactly one in a watch that could be loaded."""

    role: Path | None = None
    playbook: Path | None = None

    @property
    def path(self) -> Path | None:
        return self.playbook or self.role


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalizer:
    """A finalizer and what it runs. Without content of its own it runs the watch's, with `vars` on top."""

    name: str
    content: Content | None = None
    vars: Annotated[JsonMapping, Key("vars", keys.VARIABLES, _VARS_HELP)] = field(default_factory=dict, hash=False)


_FINALIZER_NAME = Key("name", NAME, "Such as example.com/cleanup.", required=True)
_FINALIZER_VARS = keys_of(Finalizer)["vars"]
_FINALIZER = Structure(
    (_FINALIZER_NAME, _ROLE, _PLAYBOOK, _FINALIZER_VARS), {"anyOf": [*_ONE_CONTENT, {"required": [_FINALIZER_VARS.name]}]}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Related:
    """A kind that is not owned: a change of such an object requeues the CRs that `mapper` finds."""

    gvk: GroupVersionKind
    selector: Annotated[Selector, Key("selector", _SELECTOR, "Only objects with these labels.")] = EVERYTHING
    mapper: Mapper


_RELATED = Structure(
    (*_GVK.keys, *keys_of(Related).values(), *_MAPPERS), {"oneOf": [{"required": [mapper.name]} for mapper in _MAPPERS]}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """An entry of watches.yaml, defaults filled in. Durations are seconds."""

    gvk: GroupVersionKind
    content: Content
    vars: Annotated[JsonMapping, Key("vars", keys.VARIABLES, _VARS_HELP)] = field(default_factory=dict, hash=False)
    # 0: not by itself.
    reconcile_period: Annotated[
        float, Key("reconcilePeriod", keys.DURATION, "How often each CR is reconciled. Default: --reconcile-period.")
    ]
    # None: never.
    timeout: Annotated[
        float | None, Key("timeout", keys.DURATION, "When a run is ended and counts as failed. Default: --run-timeout.")
    ] = None
    max_runner_artifacts: Annotated[
        int, Key("maxRunnerArtifacts", keys.COUNT, "Of how many runs the artifacts are kept for each CR.")
    ] = DEFAULT_MAX_RUNNER_ARTIFACTS
    allow_annotations: Annotated[
        frozenset[str], Key("allowAnnotations", keys.some_of(ANNOTATIONS), "Which annotations of a CR count.")
    ] = DEFAULT_ANNOTATIONS
    manage_status: Annotated[
        bool, Key("manageStatus", keys.BOOLEAN, "Write the conditions Running, Successful and Failure to the CR's status.")
    ] = True
    mark_unsafe: Annotated[bool, Key("markUnsafe", keys.BOOLEAN, "Take the CR's strings as data, never as templates.")] = (
        True
    )
    snake_case_parameters: Annotated[
        bool, Key("snakeCaseParameters", keys.BOOLEAN, "Hand the spec's fields over in snake_case.")
    ] = True
    watch_dependents: Annotated[
        bool, Key("watchDependentResources", keys.BOOLEAN, "Reconcile a CR when something that its role created changes.")
    ] = True
    watch_cluster_scoped: Annotated[
        bool, Key("watchClusterScopedResources", keys.BOOLEAN, "The same for cluster-scoped things of namespaced CRs.")
    ] = False
    watch_annotations: Annotated[
        bool, Key("watchAnnotationsChanges", keys.BOOLEAN, "Reconcile a CR when only its annotations change.")
    ] = False
    related: Annotated[
        tuple[Related, ...],
        Key(
            "watchRelatedResources",
            ListOf(_RELATED),
            "Further kinds, not owned, whose changes cause reconciles of the CRs that they are mapped to.",
        ),
    ] = ()
    blacklist: Annotated[
        frozenset[GroupVersionKind], Key("blacklist", ListOf(_GVK), "Kinds that are not watched as dependents.")
    ] = frozenset()
    finalizer: Annotated[
        Finalizer | None,
        Key(
            "finalizer",
            _FINALIZER,
            "What runs before a CR may go. Without a role or a playbook, the watch's, with these vars.",
        ),
    ] = None
    selector: Annotated[Selector, Key("selector", _SELECTOR, "Only CRs with these labels.")] = EVERYTHING
    max_concurrent_reconciles: int
    verbosity: int
    # Another watch has the same kind and version, in another group.
    has_namesake: bool = False

    def __hash__(self) -> int:
        # It is a key in what is looked up again and again; hardly two watches have one kind, and a text knows its hash.
        return hash(self.gvk.kind)

    @property
    def controller(self) -> str:
        """The watch's name in metrics: the Go operator's, with the group where that would be two watches'."""
        group = [self.gvk.group or "core"] if self.has_namesake else []
        return "-".join((self.gvk.kind, self.gvk.version, *group, "controller")).lower()


# An entry of the file.
WATCH = Structure((*_GVK.keys, _ROLE, _PLAYBOOK, *keys_of(Watch).values()), {"anyOf": _ONE_CONTENT})
_PLAIN = {name: key for name, key in keys_of(Watch).items() if isinstance(key.type, Value)}


def load(settings: Settings, environ: Mapping[str, str]) -> tuple[Watch, ...]:
    """Read the settings' watches file. Raises WatchesError with all of its mistakes."""
    try:
        text = yaml_files.read_text(settings.watches_file, remedy="; name the file with --watches-file")
    except ConfigurationError as error:
        raise WatchesError([str(error)]) from error
    return parse(text, settings=settings, environ=environ)


def parse(text: str, *, settings: Settings, environ: Mapping[str, str]) -> tuple[Watch, ...]:
    """The watches in `text`, the content of the settings' watches file. Raises WatchesError."""
    file = settings.watches_file
    reader = _Reader(settings, environ)
    try:
        root = yaml.compose(_expand(text, environ), Loader=yaml.SafeLoader)
        reader.nodes.check(root)
        watches = reader.read(root) if not reader.nodes.problems else ()
    except yaml.YAMLError as error:
        raise WatchesError([one_line(str(yaml_files.invalid(file, error)))]) from error
    except RecursionError as error:
        raise WatchesError([f"{file}: nested too deep; more than {DEEPEST} levels are never read"]) from error
    except Exception as error:  # PyYAML raises what it stumbles over: KeyError of `!!bool x`, IndexError of `!!int ''`.
        raise WatchesError([one_line(f"{file}: cannot be read: {type(error).__name__}: {error}")]) from error
    if reader.nodes.problems:
        raise WatchesError(reader.nodes.problems)
    names = Counter(watch.controller for watch in watches)
    return tuple(replace(watch, has_namesake=names[watch.controller] > 1) for watch in watches)


def _expand(text: str, environ: Mapping[str, str]) -> str:
    """The text with its variables replaced; unset ones stay, written `${VAR}`, as in the Go operator."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return environ.get(name, f"${{{name}}}")

    return _VARIABLE.sub(value, text)


class _Reader:
    """Reads the watches of a file, whose mistakes are in `nodes.problems`."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.settings = settings
        self.environ = environ
        self.nodes = Nodes(settings.watches_file)

    def read(self, root: yaml.Node | None) -> tuple[Watch, ...]:
        if not isinstance(root, yaml.SequenceNode):
            at = f":{root.start_mark.line + 1}" if root is not None else ""
            self.nodes.problems.append(
                f"{self.settings.watches_file}{at}: expected a list of watches, each beginning with '- '"
            )
            return ()
        watches = []
        lines: dict[GroupVersionKind, int] = {}
        for node in root.value:
            watch = self._watch(node)
            if watch is None:
                continue
            if watch.gvk in lines:
                self.nodes.problem(node, "kind", f"{watch.gvk} is watched twice, first on line {lines[watch.gvk]}; keep one")
            lines.setdefault(watch.gvk, node.start_mark.line + 1)
            watches.append(watch)
        if not root.value:
            self.nodes.problem(root, "watches", "the list is empty; add a watch with version, kind and a role or a playbook")
        return tuple(watches)

    def _watch(self, node: yaml.Node) -> Watch | None:
        fields = self.nodes.mapping(node, "watch", WATCH)
        if fields is None:
            return None
        before = len(self.nodes.problems)
        gvk = self._gvk(node, fields)
        content = self._content(node, fields, required=True)
        plain: dict[str, Any] = {name: self.nodes.take(fields, key, key.default) for name, key in _PLAIN.items()}
        # Zero and none at all are the same for the Go operator.
        plain["reconcile_period"] = plain["reconcile_period"] or self.settings.reconcile_period
        plain["timeout"] = plain["timeout"] or self.settings.run_timeout
        plain["max_runner_artifacts"] = plain["max_runner_artifacts"] or DEFAULT_MAX_RUNNER_ARTIFACTS
        plain["vars"] = plain["vars"] or {}
        watch = Watch(
            **plain,
            gvk=gvk,
            content=content,
            selector=self._selector(fields),
            related=tuple(filter(None, map(self._related, self.nodes.items(fields, "watchRelatedResources")))),
            blacklist=frozenset(filter(None, map(self._blacklisted, self.nodes.items(fields, "blacklist")))),
            finalizer=self._finalizer(fields.get("finalizer")),
            max_concurrent_reconciles=_limit(gvk, self.settings, self.environ),
            verbosity=_verbosity(gvk, self.settings, self.environ),
        )
        return watch if len(self.nodes.problems) == before else None

    def _gvk(self, node: yaml.Node, fields: Fields) -> GroupVersionKind:
        group, version, kind = (self.nodes.take(fields, key, "") for key in _GVK.keys)
        for key, value in ((_VERSION, version), (_KIND, kind)):
            # One that is no text has been complained about already.
            if not value and (key.name not in fields or is_empty(fields[key.name])):
                text = f"missing or empty; every watch needs a {key.name}"
                self.nodes.problem(fields.get(key.name, node), key.name, text)
        return GroupVersionKind(group, version, kind)

    def _content(self, node: yaml.Node, fields: Fields, *, required: bool) -> Content:
        role, playbook = self.nodes.take(fields, _ROLE, ""), self.nodes.take(fields, _PLAYBOOK, "")
        if playbook:
            path = Path.cwd() / playbook
            if not _is(Path.is_file, path):
                self.nodes.problem(fields["playbook"], "playbook", f"{playbook} was not found as a file; looked for {path}")
            return Content(playbook=path)
        elif role:
            places = role_places(role, self.settings, self.environ)
            found = next((place for place in places if _is(Path.is_dir, place)), None)
            if found is None:
                looked = ", ".join(str(place) for place in places)
                remedy = "set ANSIBLE_ROLES_PATH or ANSIBLE_COLLECTIONS_PATH if it stands elsewhere"
                self.nodes.problem(fields["role"], "role", f"{role} was not found; looked for {looked}; {remedy}")
            return Content(role=found)
        if required and not {"role", "playbook"} & fields.keys():
            self.nodes.problem(node, "role", "neither role nor playbook is given; name the one that this kind runs")
        elif required:
            self.nodes.problem(fields.get("role") or fields["playbook"], "role", "empty; name a role or a playbook")
        return Content()

    def _finalizer(self, node: yaml.Node | None) -> Finalizer | None:
        if node is None or is_null(node):
            return None
        fields = self.nodes.mapping(node, "finalizer", _FINALIZER)
        if fields is None:
            return None
        name = self.nodes.take(fields, _FINALIZER_NAME, "")
        if not name:
            self.nodes.problem(node, "finalizer.name", "missing or empty; it needs a name such as example.com/cleanup")
        variables: JsonMapping = self.nodes.take(fields, _FINALIZER_VARS, {})
        content = self._content(node, fields, required=not variables)
        return Finalizer(name=name, content=content if content.path else None, vars=variables)

    def _selector(self, fields: Fields) -> Selector:
        node = fields.get("selector")
        if node is None or is_null(node):
            return EVERYTHING
        fields = self.nodes.mapping(node, "selector", _SELECTOR) or {}
        equal = self.nodes.take(fields, _MATCH_LABELS, {})
        requirements = [Requirement(label, "In", (value,)) for label, value in equal.items()]
        requirements += filter(None, map(self._requirement, self.nodes.items(fields, _MATCH_EXPRESSIONS.name)))
        for requirement in requirements:
            if not requirement.is_valid:
                self.nodes.problem(
                    node, "selector", f"{requirement} cannot be a selector of labels: correct its key or values"
                )
        return Selector(tuple(requirements))

    def _requirement(self, node: yaml.Node) -> Requirement | None:
        where = "selector.matchExpressions"
        fields = self.nodes.mapping(node, where, _REQUIREMENT)
        if fields is None:
            return None
        label, operator = self.nodes.take(fields, _LABEL, ""), self.nodes.take(fields, _OPERATOR, "")
        values = self.nodes.take(fields, _VALUES, [])
        if not label or operator not in _OPERATORS:
            self.nodes.problem(node, where, f"needs a key and one of the operators {', '.join(_OPERATORS)}")
        elif (operator in ("In", "NotIn")) != bool(values):
            self.nodes.problem(node, where, "values go with In and NotIn, and only with these")
        else:
            return Requirement(label, operator, tuple(values))
        return None

    def _blacklisted(self, node: yaml.Node) -> GroupVersionKind | None:
        fields = self.nodes.mapping(node, "blacklist", _GVK)
        return None if fields is None else self._gvk(node, fields)

    def _related(self, node: yaml.Node) -> Related | None:
        where = "watchRelatedResources"
        fields = self.nodes.mapping(node, where, _RELATED)
        if fields is None:
            return None
        before = len(self.nodes.problems)
        gvk, selector = self._gvk(node, fields), self._selector(fields)
        given = [key for key in _MAPPERS if key.name in fields]
        mapper = self.nodes.take(fields, given[0], None) if len(given) == 1 else None
        if mapper is None and len(self.nodes.problems) == before:
            names = ", ".join(key.name for key in _MAPPERS)
            self.nodes.problem(node, where, f"needs exactly one of {names}, to say which CRs an object concerns")
        return Related(gvk=gvk, selector=selector, mapper=mapper) if mapper is not None else None


def _is(what: Callable[[Path], bool], path: Path) -> bool:
    try:
        return what(path)
    except (OSError, ValueError):
        # Longer than a name can be, not readable, or with a character that no name has.
        return False


def role_places(role: str, settings: Settings, environ: Mapping[str, str]) -> list[Path]:
    """The folders in which a role is looked for, in the Go operator's order."""
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
