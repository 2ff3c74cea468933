"""The least RBAC rights that an operator needs: the runner's own, and those of the tasks in its roles and playbooks.

What each module asks of the API server was read in kubernetes.core and operator_sdk.util; the runner's part is that of
`kube.primaries`, `kube.informer` and `control.reconciler`. Discovery needs no rule: every account may do that.

Next on the way: `devkit.manifests.role_file`, which writes them down.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from devkit.manifests.markers import Marker, YamlFile
from devkit.manifests.role_reader import LookupFile, RoleReader, Task, Template, Unknown, found, lookups, resolve
from devkit.scaffolding.naming import plural_of
from runner.config import argument_specs
from runner.config.settings import Settings
from runner.config.watches import Watch
from runner.resource.metadata import GroupKind, GroupVersionKind, Object, split_api_version

# Kubernetes' own kinds whose plural is no English one.
_PLURALS = {
    **{GroupKind("", "Endpoints"): "endpoints", GroupKind("metrics.k8s.io", "PodMetrics"): "pods"},
    **{GroupKind("metrics.k8s.io", "NodeMetrics"): "nodes"},
    GroupKind("security.openshift.io", "SecurityContextConstraints"): "securitycontextconstraints",
}
# Owned by a namespaced CR these are found over the whole cluster, and that only if the watch asks for it.
_CLUSTER_SCOPED = frozenset(
    """
    Namespace Node PersistentVolume ClusterRole ClusterRoleBinding CustomResourceDefinition StorageClass PriorityClass
    IngressClass RuntimeClass ValidatingWebhookConfiguration MutatingWebhookConfiguration ValidatingAdmissionPolicy
    ValidatingAdmissionPolicyBinding APIService CSIDriver CSINode VolumeAttachment CertificateSigningRequest FlowSchema
    PriorityLevelConfiguration Project SecurityContextConstraints
    """.split()
)
_GRANTING = frozenset({"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"})
# Programs that speak to the API server with the run's kubeconfig.
_PROGRAMS = re.compile(r"\b(kubectl|oc|helm|istioctl|kustomize|k9s|argocd|flux)\b")
_COMMANDS = ("command", "shell", "raw", "script", "expect")
_HEAD = re.compile(r"^(apiVersion|kind):[ \t]*(.*?)[ \t]*(?:#.*)?$", re.MULTILINE)
# Of a template's text, beyond statements and comments.
_SAYS_SOMETHING = re.compile(r"^(?!\s*#)(?!\s*$)(?!\s*\{%(?!-?\s*(?:include|import)))", re.MULTILINE)
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """A verb on a resource, which may be `pods/log`; without `names`, on any object."""

    group: str
    resource: str
    verb: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kinds:
    """The plurals of the project's own kinds, and those of them that are cluster-scoped."""

    plurals: Mapping[GroupKind, str]
    cluster_scoped: frozenset[GroupKind] = frozenset()

    def plural(self, kind: GroupKind) -> str:
        known = self.plurals.get(kind) or _PLURALS.get(kind)
        # kubernetes.core takes a resource's own name for a kind, too.
        return known or (kind.kind if kind.kind.islower() and kind.kind.endswith("s") else plural_of(kind.kind))

    def is_namespaced(self, kind: GroupKind) -> bool:
        return kind not in self.cluster_scoped and kind.kind not in _CLUSTER_SCOPED


@dataclass(slots=True)
class Needs:
    """The rights, and (FILE:LINE, what) for tasks whose rights the text does not tell."""

    rights: set[Right] = field(default_factory=set)
    undecided: list[tuple[str, str]] = field(default_factory=list)

    def add(self, group: str, resource: str, *verbs: str) -> None:
        self.rights |= {Right(group, resource, verb) for verb in verbs}


def needs(
    watches: Iterable[Watch],
    kinds: Kinds,
    *,
    settings: Settings,
    environ: Mapping[str, str],
    options: Callable[[Watch], set[str]],
) -> Needs:
    """The rights that the operator of these watches needs. Raises ConfigurationError.

    `options`: the variables that a watch's CRs set.
    """
    result = Needs()
    for watch in watches:
        _runner(watch, kinds, result)
        contents = [(watch.content, watch.vars)]
        if watch.finalizer:
            contents.append((watch.finalizer.content or watch.content, {**watch.vars, **watch.finalizer.vars}))
        for content, variables in contents:
            reader = RoleReader(watch, content, variables, settings=settings, environ=environ, options=options(watch))
            for item in reader.read():
                _TaskRights(watch, kinds, result).add(item)
            result.undecided += reader.undecided
            specs = argument_specs.find(role=content.role, playbook=content.playbook)
            files = {**reader.files, **({specs: YamlFile(specs)} if specs else {})}
            for path, file in files.items():
                for marker in file.claim_all():
                    if marker.name == "rbac":
                        result.rights |= set(_declared(marker))
                    elif path != specs:
                        raise marker.error("is for argument specs; among tasks there is only +rolerunner:rbac:…")
    result.undecided = list(dict.fromkeys(result.undecided))
    return result


def _runner(watch: Watch, kinds: Kinds, result: Needs) -> None:
    """Add the rights that the runner itself needs for a watch."""
    group, plural = watch.gvk.group, kinds.plural(watch.gvk.group_kind)
    result.add(group, plural, "get", "list", "watch")
    if watch.finalizer:
        result.add(group, plural, "patch")
    if watch.manage_status:
        result.add(group, f"{plural}/status", "update")
    result.add("", "events", "create", "patch")
    for related in watch.related:
        result.add(related.gvk.group, kinds.plural(related.gvk.group_kind), "list", "watch")


def _declared(marker: Marker) -> Iterator[Right]:
    marker.only("groups", "resources", "verbs", "resourceNames", required=("resources", "verbs"))
    lists = {name: value.split(";") for name, value in marker.fields.items()}
    names = tuple(sorted(lists.get("resourceNames", ())))
    # kubebuilder's word for the core group is taken, too.
    groups = ["" if group in ("core", '""') else group for group in lists.get("groups", [""])]
    for group in groups:
        for resource in lists["resources"]:
            yield from (Right(group, resource, verb, names) for verb in lists["verbs"])


class _TaskRights:
    """Adds the rights that a watch's tasks need."""

    def __init__(self, watch: Watch, kinds: Kinds, result: Needs) -> None:
        self._watch = watch
        self._kinds = kinds
        self._result = result

    def add(self, item: Task | Template) -> None:
        if isinstance(item, Template):
            for plugin, named in lookups(item):
                if plugin == "k8s":
                    self._looked_up(item, named)
            return
        if item.module in _MODULES:
            _MODULES[item.module](self, item)
        elif item.module in _FIXED:
            for resource, verbs in _FIXED[item.module].items():
                self._result.add("", resource, *verbs)
        elif item.module.startswith(("helm", "kubectl", "community.okd.", "redhat.openshift.")) or _is_own(item):
            self._undecided(item, f"what {item.module} does")
        elif item.module in _COMMANDS:
            text = " ".join(str(value) for value in item.arguments.values())
            if program := _PROGRAMS.search(text):
                self._undecided(item, f"what {program[0]} does")

    def _undecided(self, item: Task | Template, what: str) -> None:
        if not item.declared:
            self._result.undecided.append((item.context.file.at(item.node), what))

    def _looked_up(self, text: Template, named: Mapping[str, object]) -> None:
        if "src" in named or "resource_definition" in named:
            self._undecided(text, "what this lookup reads")
        elif "cluster_info" not in named:
            task = Task(text.context, text.node, "k8s", {**named, "name": named.get("resource_name")}, text.declared)
            for gvk in self._kind(task):
                self._allow(gvk, *_reading(task))

    def _kind(self, task: Task, default: object = None) -> list[GroupVersionKind]:
        """The kind that a task names by its arguments; none if the text does not tell."""
        api_version = _first(task.arguments, "api_version", "api", "version") or "v1"
        return self._gvk(task, task.arguments.get("kind", default), api_version)

    def _gvk(self, task: Task, kind: object, api_version: object) -> list[GroupVersionKind]:
        values = []
        for name, value in (("kind", kind), ("apiVersion", api_version)):
            try:
                values.append(str(resolve(value, task.context)))
            except Unknown as unknown:
                self._undecided(task, f"{name}: {unknown}")
                return []
        group, version = split_api_version(values[1])
        return [GroupVersionKind(group, version, values[0])]

    def _allow(self, gvk: GroupVersionKind, *verbs: str, subresource: str = "") -> None:
        plural = self._kinds.plural(gvk.group_kind)
        self._result.add(gvk.group, f"{plural}/{subresource}" if subresource else plural, *verbs)

    # Each of these is one module.

    def k8s(self, task: Task) -> None:
        if _may(task, "delete_all", default=False) != {False}:
            for gvk in self._kind(task):
                self._allow(gvk, "list", "get", "delete")
            return
        for gvk, named, has_generated_name in self._definitions(task):
            if gvk.kind.endswith("Review"):
                self._allow(gvk, "create")
                continue
            states = _may(task, "state", default="present")
            if None in states:
                states = {"present", "absent"}
            if "present" in states:
                self._created(task, gvk, has_generated_name=has_generated_name)
            if "patched" in states:
                self._allow(gvk, "get", "patch")
            if "absent" in states:
                self._allow(gvk, "delete", *(["get"] if named else ["list"]))

    def _created(self, task: Task, gvk: GroupVersionKind, *, has_generated_name: bool) -> None:
        self._allow(gvk, "create")
        if not has_generated_name:
            self._allow(gvk, "get")
            forced = _may(task, "force", default=False)
            # A replacement takes the owner off, and OwnerReferencesPermissionEnforcement lets only those who may delete.
            self._allow(gvk, *_changing(forced), *(["delete"] if forced != {False} else []))
        if gvk.kind in _GRANTING:
            self._undecided(
                task, f"what a {gvk.kind} may grant: the operator needs the same rights, or the verbs bind and escalate"
            )
        if gvk.group_kind == GroupKind("", "Event") or not self._watch.watch_dependents or gvk in self._watch.blacklist:
            return
        cluster_scoped_owner = not self._kinds.is_namespaced(self._watch.gvk.group_kind)
        if self._kinds.is_namespaced(gvk.group_kind) or cluster_scoped_owner or self._watch.watch_cluster_scoped:
            # What it owns is watched.
            self._allow(gvk, "list", "watch")

    def _definitions(self, task: Task) -> list[tuple[GroupVersionKind, bool, bool]]:
        """(kind, has a name, whose name the server generates) of each object that a task is about."""
        arguments = task.arguments
        named = arguments.get("name") is not None
        generated = not named and arguments.get("generate_name") is not None
        given = _first(arguments, "definition", "resource_definition", "inline")
        sources: list[object] = []
        if given is not None:
            sources = given if isinstance(given, list) else [given]
        elif arguments.get("src") is not None:
            sources = [("files", arguments["src"])]
        elif arguments.get("template") is not None:
            templates = arguments["template"]
            sources = [("templates", item) for item in (templates if isinstance(templates, list) else [templates])]
        else:
            named = named or arguments.get("label_selectors") is None
            return [(gvk, named, generated) for gvk in self._kind(task)]
        result = []
        for source in sources:
            for obj in self._objects(task, source):
                metadata = obj.get("metadata")
                metadata = metadata if isinstance(metadata, dict) else {"name": "?"}
                by_server = not named and (generated or ("generateName" in metadata and "name" not in metadata))
                kind, version = obj.get("kind", arguments.get("kind")), obj.get("apiVersion", arguments.get("api_version"))
                if "blockOwnerDeletion" in str(obj) and _blocks(obj):
                    # OwnerReferencesPermissionEnforcement lets only those hold up the owner's deletion who may do this.
                    self._allow(self._watch.gvk, "update", subresource="finalizers")
                result += [(gvk, True, by_server) for gvk in self._gvk(task, kind, version or "v1")]
        return result

    def _objects(self, task: Task, source: object) -> Iterator[Object]:
        """The objects that a definition, template or file has, as far as their kinds go."""
        try:
            if isinstance(source, tuple):
                folder, name = source
                name = name.get("path") if isinstance(name, dict) else name
                source = LookupFile(found(str(resolve(name, task.context)), task.context, (folder, "")))
            elif isinstance(source, str) and not _HEAD.search(source):
                source = resolve(source, task.context)
        except Unknown as unknown:
            self._undecided(task, f"which objects this is about: {unknown}")
            return
        if isinstance(source, LookupFile):
            text = source.path.read_text(encoding="utf-8", errors="replace")
            self.add(Template(task.context, task.node, text, task.declared))
            yield from self._written(task, text)
        elif isinstance(source, str):
            yield from self._written(task, source)
        elif isinstance(source, list):
            for item in source:
                yield from self._objects(task, item)
        elif isinstance(source, dict) and str(source.get("kind", "")) == "List" and isinstance(source.get("items"), list):
            for item in source["items"]:
                yield from self._objects(task, item)
        elif isinstance(source, dict):
            yield source

    def _written(self, task: Task, text: str) -> Iterator[Object]:
        """The objects in a template's text, by the lines that say what they are."""
        for part in re.split(r"^---.*$", _COMMENT.sub("", text), flags=re.MULTILINE):
            heads = [
                (name, value[1:-1] if re.fullmatch(r"'.*'|\".*\"", value) else value) for name, value in _HEAD.findall(part)
            ]
            versions = [value for name, value in heads if name == "apiVersion"]
            names = [value for name, value in heads if name == "kind"]
            if "List" in names or len(versions) > len(names) or (not names and _SAYS_SOMETHING.search(part)):
                self._undecided(task, "which objects this template has")
                continue
            for index, name in enumerate(names):
                obj = {"kind": name, **({"apiVersion": versions[min(index, len(versions) - 1)]} if versions else {})}
                if re.search(r"blockOwnerDeletion:\s*(true|yes)", part, re.IGNORECASE):
                    obj["blockOwnerDeletion"] = True
                generated = re.search(r"^  generateName:", part, re.MULTILINE) and not re.search(
                    r"^  name:", part, re.MULTILINE
                )
                yield {**obj, **({"metadata": {"generateName": "?"}} if generated else {})}

    def k8s_info(self, task: Task) -> None:
        for gvk in self._kind(task):
            self._allow(gvk, *_reading(task))
            if _may(task, "wait", default=False) != {False}:
                self._allow(gvk, "get")

    def k8s_scale(self, task: Task) -> None:
        for gvk, named, _ in self._definitions(task):
            self._allow(gvk, "get", *([] if named else ["list"]))
            self._allow(gvk, "patch", subresource="" if gvk.kind == "Job" else "scale")

    def k8s_json_patch(self, task: Task) -> None:
        for gvk in self._kind(task):
            self._allow(gvk, "get", "patch")

    def k8s_rollback(self, task: Task) -> None:
        for gvk in self._kind(task):
            self._allow(gvk, "patch", *_reading(task))
            self._result.add("apps", "controllerrevisions" if gvk.kind == "DaemonSet" else "replicasets", "list")

    def k8s_service(self, task: Task) -> None:
        self.k8s(replace(task, arguments={**task.arguments, "kind": "Service", "api_version": "v1"}))

    def k8s_exec(self, task: Task) -> None:
        # By a websocket: a GET, which newer servers take for a creation as well.
        self._result.add("", "pods/exec", "create", "get")
        if task.arguments.get("container") is None:
            self._result.add("", "pods", "get")

    def k8s_log(self, task: Task) -> None:
        self._result.add("", "pods/log", "get")
        if task.arguments.get("label_selectors") is not None:
            self._result.add("", "pods", "list")
        if _may(task, "all_containers", default=False) != {False}:
            self._result.add("", "pods", "get")
        for gvk in self._kind(task, default="Pod"):
            if gvk.kind != "Pod":
                self._allow(gvk, "get")
                self._result.add("", "pods", "list")

    def k8s_drain(self, task: Task) -> None:
        self._result.add("", "nodes", "get", "patch")
        if "drain" in (states := _may(task, "state", default="drain")) or None in states:
            self._result.add("", "pods", "get", "list")
            options = task.arguments.get("delete_options")
            if isinstance(options, dict) and options.get("disable_eviction"):
                self._result.add("", "pods", "delete")
            else:
                self._result.add("", "pods/eviction", "create")

    def k8s_status(self, task: Task) -> None:
        for gvk in self._kind(task):
            self._allow(gvk, "get")
            name = "replace" if "replace" in task.arguments else "force"
            self._allow(gvk, *_changing(_may(task, name, default=False)), subresource="status")

    def k8s_event(self, task: Task) -> None:
        absent = _may(task, "state", default="present") == {"absent"}
        self._result.add("", "events", "get", *(["delete"] if absent else ["create", "patch"]))
        about = task.arguments.get("involvedObject")
        if isinstance(about, dict):
            for gvk in self._gvk(task, about.get("kind"), about.get("apiVersion")):
                self._allow(gvk, "get")


# Modules whose rights depend on their arguments.
_MODULES: Mapping[str, Callable[[_TaskRights, Task], None]] = {
    **{
        method.__name__: method
        for method in (
            *(_TaskRights.k8s, _TaskRights.k8s_service, _TaskRights.k8s_info, _TaskRights.k8s_scale),
            *(_TaskRights.k8s_json_patch, _TaskRights.k8s_rollback, _TaskRights.k8s_exec, _TaskRights.k8s_log),
            *(_TaskRights.k8s_drain, _TaskRights.k8s_status, _TaskRights.k8s_event),
        )
    },
    "community.okd.k8s": _TaskRights.k8s,
    "redhat.openshift.k8s": _TaskRights.k8s,
}
# (resource of the core group, verbs) of those that always do the same.
_FIXED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    **{"k8s_cp": {"pods": ("get",), "pods/exec": ("create", "get")}, "k8s_taint": {"nodes": ("get", "patch")}},
    **{"helm_template": {}, "helm_pull": {}, "helm_repository": {}, "helm_plugin": {}, "helm_plugin_info": {}},
    "helm_registry_auth": {},
}


def _reading(task: Task) -> list[str]:
    """The verbs of a read, by name or of a list; of both where the name may be left out."""
    name = task.arguments.get("name")
    if name is None or name == "":
        return ["list"]
    return ["get", "list"] if isinstance(name, str) and re.search(r"\bomit\b", name) else ["get"]


def _may(task: Task, name: str, *, default: object) -> set[object]:
    """The possible values of an argument; None among them stands for any."""
    value = task.arguments.get(name, default)
    try:
        value = resolve(value, task.context)
    except Unknown:
        words = set(re.findall(r"['\"](\w+)['\"]", str(value)))
        return words & {"present", "absent", "patched"} or {None}
    truths = {"true": True, "yes": True, "false": False, "no": False}
    return {truths.get(value.lower(), value) if isinstance(value, str) else value}


def _changing(replaces: set[object]) -> list[str]:
    """The verbs of a change, as a whole if `replaces`, in part if not."""
    return [verb for verb, unless in (("update", {False}), ("patch", {True})) if replaces != unless]


def _first(arguments: Mapping[str, object], *names: str) -> object:
    return next((arguments[name] for name in names if arguments.get(name) is not None), None)


def _blocks(value: object) -> bool:
    if isinstance(value, dict):
        return value.get("blockOwnerDeletion") is True or any(map(_blocks, value.values()))
    return isinstance(value, list) and any(map(_blocks, value))


def _is_own(task: Task) -> bool:
    """A module that the role or the project brings along, of which nothing is known."""
    folders = [task.context.base / "library", *([task.context.role / "library"] if task.context.role else [])]
    return any((folder / f"{task.module}.py").is_file() for folder in folders)
