"""A kind's CustomResourceDefinition, from the argument specs of what its watches run.

Next on the way: `devkit.manifests.crd_file`, which brings it into the file that is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import UnionType
from typing import Any

import yaml

from devkit.manifests.markers import Marker, YamlFile
from devkit.scaffolding.naming import plural_of
from devkit.yaml_nodes import entry, pairs, plain
from runner.config import argument_specs
from runner.config.watches import Watch
from runner.errors import ConfigurationError
from runner.resource.metadata import Object
from runner.resource.parameters import field_of, is_reserved, own_variables

Schema = dict[str, Any]

# Ansible's types, as the API server knows them. What Ansible would convert (a number in quotes, say) is not taken.
_ANYTHING: Schema = {"x-kubernetes-preserve-unknown-fields": True}
_TYPES: Mapping[str, Schema] = {
    **{"str": {"type": "string"}, "path": {"type": "string"}, "int": {"type": "integer"}, "float": {"type": "number"}},
    **{"bool": {"type": "boolean"}, "bytes": {"x-kubernetes-int-or-string": True}},
    **{"bits": {"x-kubernetes-int-or-string": True}, "dict": {"type": "object", **_ANYTHING}, "raw": _ANYTHING},
    **{"json": _ANYTHING, "jsonarg": _ANYTHING, "list": {"type": "array", "items": _ANYTHING}},
}
_PYTHON: Mapping[str, type | UnionType] = {
    **{"str": str, "path": str, "int": int, "float": int | float, "bool": bool, "dict": dict, "list": list}
}
# A marker's name → the schema's keyword, and how the value is read.
_FIELD_MARKERS: Mapping[str, tuple[str, Callable[[Marker], object]]] = {
    **{name: (name, Marker.number) for name in ("minimum", "maximum", "multipleOf")},
    **{name: (name, Marker.flag) for name in ("exclusiveMinimum", "exclusiveMaximum", "nullable")},
    **{name: (name, Marker.count) for name in ("minLength", "maxLength", "minItems", "maxItems")},
    **{name: (name, Marker.count) for name in ("minProperties", "maxProperties")},
    **{name: (name, Marker.string) for name in ("pattern", "format")},
    "listType": ("x-kubernetes-list-type", Marker.string),
    "listMapKeys": ("x-kubernetes-list-map-keys", Marker.words),
    "mapType": ("x-kubernetes-map-type", Marker.string),
    "embeddedResource": ("x-kubernetes-embedded-resource", Marker.flag),
    "preserveUnknownFields": ("x-kubernetes-preserve-unknown-fields", Marker.flag),
}
# These change what the option itself becomes.
_OPTION_MARKERS = ("name", "ignore", "values", "intOrString")
# O(option), V(value) and their like in descriptions.
_MARKUP = re.compile(r"\b(?:[BIUCVOEMLP]|RV)\(([^)]*)\)")
_VERSION = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")

# A new CRD's status: the operator's conditions, and whatever else the role writes.
_STATUS: Schema = {
    "description": "What the operator has seen and done.",
    "type": "object",
    "properties": {
        "conditions": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "status"],
                "properties": {
                    **{name: {"type": "string"} for name in ("type", "status", "reason", "message")},
                    "lastTransitionTime": {"type": "string", "format": "date-time"},
                },
                **_ANYTHING,
            },
        },
        "observedGeneration": {"type": "integer", "format": "int64"},
    },
    **_ANYTHING,
}


class ArgumentSpecs:
    """The argument specs of a watch: its options as an OpenAPI schema, and the markers of the kind."""

    def __init__(self, watch: Watch, file: YamlFile, main: yaml.Node, markers: list[Marker]) -> None:
        self.watch = watch
        self.file = file
        self.main = main
        self.kind_markers = [marker for marker in markers if marker.name != "rbac"]
        # Whether the spec is nothing but the options; known once there is a schema.
        self.is_closed = True
        # Filled in from elsewhere, so that a CR has no say in them.
        self._provided = {*watch.vars, *own_variables(watch.gvk)}
        self._defaulted = argument_specs.own_variables(watch.content.role).keys()

    @classmethod
    def of(cls, watch: Watch) -> ArgumentSpecs | None:
        """The argument specs of what a watch runs, if it has any. Raises ConfigurationError."""
        path = argument_specs.find(role=watch.content.role, playbook=watch.content.playbook)
        if path is None:
            return None
        file = YamlFile(path)
        root = file.roots[0] if file.roots else None
        for name, key, value in pairs(root):
            if name == "argument_specs":
                markers = file.markers(key)
                for entry_point, main_key, main in pairs(value):
                    if entry_point == "main":
                        return cls(watch, file, main, [*markers, *file.markers(main_key)])
        return None

    @property
    def description(self) -> str:
        return _text(plain(entry(self.main, "description")) or plain(entry(self.main, "short_description")))

    def schema(self, existing: Object) -> Schema:
        """The schema of the CR's spec. `existing` is the CRD's schema of it so far, whose spellings are kept."""
        options = entry(self.main, "options")
        schema = self._object(options, existing, top=True) if list(pairs(options)) else {"type": "object", **_ANYTHING}
        for marker in [marker for marker in self.kind_markers if marker.name in _FIELD_MARKERS]:
            self.kind_markers.remove(marker)
            keyword, read = _FIELD_MARKERS[marker.name]
            schema[keyword] = read(marker)
        self.is_closed = "x-kubernetes-preserve-unknown-fields" not in schema
        for marker in self.file.claim_all():
            if marker.name != "rbac":
                raise marker.error("is about nothing; write it directly above an option or above `main:`")
        return schema

    def _object(self, options: yaml.Node | None, existing: Object, *, top: bool = False) -> Schema:
        known = existing.get("properties") or {}
        required, properties = [], {}
        for variable, key, option in pairs(options):
            at, markers = self.file.at(key), {marker.name: marker for marker in self.file.markers(key)}
            if not isinstance(option, yaml.MappingNode):
                raise ConfigurationError(f"{at}: {variable}: expected an option's type, description and the like")
            for marker in markers.values():
                if marker.name.removeprefix("items:") not in _FIELD_MARKERS and marker.name not in _OPTION_MARKERS:
                    names = ", ".join(sorted((*_FIELD_MARKERS, *_OPTION_MARKERS)))
                    raise marker.error(f"unknown here; an option takes, also with items: before them: {names}")
            hidden = top and (variable in self._provided or is_reserved(variable))
            if hidden or ("ignore" in markers and markers["ignore"].flag()):
                continue
            name = self._name(variable, markers.get("name"), known, at)
            if name in properties:
                raise ConfigurationError(f"{at}: {variable}: another option is {name} in a CR, too; rename one of them")
            properties[name] = self._option(variable, option, markers, known.get(name) or {}, at)
            if plain(entry(option, "required")) is True and not (top and variable in self._defaulted):
                required.append(name)
        schema: Schema = {"type": "object"}
        if required:
            schema["required"] = required
        return {**schema, "properties": properties}

    def _name(self, variable: str, marker: Marker | None, known: Object, at: str) -> str:
        snake = self.watch.snake_case_parameters
        try:
            given = [marker.string()] if marker else []
            name = field_of(variable, [*given, *known], snake_case=snake)
        except ValueError as error:
            raise ConfigurationError(f"{at}: {variable}: {error}; rename the option") from error
        if marker and name != marker.string():
            raise marker.error(f"a CR's field of this name does not become the variable {variable}")
        return name

    def _option(self, variable: str, option: yaml.Node, markers: Mapping[str, Marker], existing: Object, at: str) -> Schema:
        given = {name: plain(value) for name, _, value in pairs(option) if name != "options"}
        kind = given.get("type") or "str"
        options = entry(option, "options")
        schema: Schema = {}
        if text := _text(given.get("description")):
            schema["description"] = text
        schema |= self._typed(variable, kind, options, existing, at)
        choices, elements = given.get("choices"), given.get("elements")
        for word, values in (
            ("choices", choices or ()),
            ("default", [given["default"]] if given.get("default") is not None else ()),
        ):
            of = elements or "raw" if kind == "list" and word == "choices" else kind
            for value in values:
                if not isinstance(value, _PYTHON.get(of, object)) or (of in ("int", "float") and isinstance(value, bool)):
                    hint = "; put it in quotes" if of == "str" else ""
                    raise ConfigurationError(f"{at}: {variable}: {word}: {value!r} is no {of}{hint}")
        if kind == "list":
            if elements:
                inner = existing.get("items") or {}
                schema["items"] = self._typed(variable, elements, options, inner, at)
            if choices:
                schema["items"] = {**schema["items"], "enum": choices}
        elif choices:
            schema["enum"] = choices
        if given.get("default") is not None:
            schema["default"] = given["default"]
        if "values" in markers:
            marker = markers["values"]
            schema.pop("x-kubernetes-preserve-unknown-fields", None)
            schema["additionalProperties"] = self._typed(variable, marker.string(), None, {}, marker.at)
        if "intOrString" in markers and markers["intOrString"].flag():
            schema = {name: value for name, value in schema.items() if name != "type" and value is not True}
            schema["x-kubernetes-int-or-string"] = True
        for name, marker in markers.items():
            if name in _OPTION_MARKERS:
                continue
            keyword, read = _FIELD_MARKERS[name.removeprefix("items:")]
            target = schema
            if name.startswith("items:"):
                if "items" not in schema:
                    raise marker.error(f"{variable} is no list")
                target = schema["items"] = dict(schema["items"])
            target[keyword] = read(marker)
        return schema

    def _typed(self, variable: str, kind: str, options: yaml.Node | None, existing: Object, at: str) -> Schema:
        if kind not in _TYPES:
            raise ConfigurationError(f"{at}: {variable}: unknown type {kind!r}; known: {', '.join(sorted(_TYPES))}")
        if kind == "dict" and options is not None and list(pairs(options)):
            return self._object(options, existing)
        return dict(_TYPES[kind])


def definition(specs: Sequence[ArgumentSpecs], existing: Object) -> Schema:
    """The CRD for a kind's argument specs, one for each watched version. Raises ConfigurationError."""
    gvk = specs[0].watch.gvk
    spec = existing.get("spec") or {}
    known = {version["name"]: version for version in spec.get("versions") or ()}
    asked: dict[str, Schema] = {}
    flags: dict[str, Marker] = {}
    names: Schema = {}
    scope = spec.get("scope") or "Namespaced"
    for one in specs:
        of_version = _of_version(one, known.get(one.watch.gvk.version) or {})
        asked[one.watch.gvk.version] = of_version
        scope = _apply(one.kind_markers, of_version, names, flags) or scope
    for one in specs:
        for marker in one.kind_markers:
            if marker.name == "version" and marker.fields["name"] not in asked:
                # It has no watch of its own: it looks as the one whose specs name it.
                asked[marker.fields["name"]] = {**asked[one.watch.gvk.version], "name": marker.fields["name"]}
    storage = _storage(asked, flags, known)
    for name, of_version in asked.items():
        _flag(of_version, flags.get(name), known.get(name) or {}, storage=storage)
    before = spec.get("names") or {}
    lower = gvk.kind.lower()
    defaults = {"listKind": f"{gvk.kind}List", "plural": plural_of(gvk.kind), "singular": lower}
    names = {"kind": gvk.kind, **{name: before.get(name) or value for name, value in defaults.items()}, **names}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.{gvk.group}"},
        "spec": {"group": gvk.group, "names": names, "scope": scope, "versions": list(asked.values())},
    }


def _apply(markers: Iterable[Marker], version: Schema, names: Schema, flags: dict[str, Marker]) -> str:
    """Apply a kind's markers to its version and names; `flags` are those of versions. The scope, if one of them says it."""
    scope, columns = "", []
    for marker in markers:
        match marker.name:
            case "scope" if marker.string() in ("Namespaced", "Cluster"):
                scope = marker.string()
            case "scope":
                raise marker.error("is Namespaced or Cluster")
            case "plural" | "singular" | "listKind":
                names[marker.name] = marker.string()
            case "shortNames" | "categories":
                names[marker.name] = marker.words()
            case "scale":
                version["subresources"]["scale"] = _scale(marker)
            case "printcolumn":
                columns.append(_column(marker))
            case "version":
                marker.only("name", "served", "storage", "deprecated", "warning", required=("name",))
                flags[marker.fields["name"]] = marker
            case _:
                raise marker.error(f"unknown here; a kind takes: {', '.join(KIND_MARKERS)}, and rbac")
    if columns:
        version["additionalPrinterColumns"] = columns
    return scope


KIND_MARKERS = ("scope", "plural", "singular", "listKind", "shortNames", "categories", "scale", "printcolumn", "version")


def _of_version(specs: ArgumentSpecs, existing: Object) -> Schema:
    root = (existing.get("schema") or {}).get("openAPIV3Schema") or {}
    known = root.get("properties") or {}
    spec = specs.schema(known.get("spec") or {})
    schema: Schema = {"description": specs.description} if specs.description else {}
    schema["type"] = "object"
    if spec.get("required"):
        schema["required"] = ["spec"]
    schema["properties"] = {"spec": spec}
    if "status" not in known:
        schema["properties"]["status"] = _STATUS
    # Served and stored as `_flag` says; they stand here for the order in the file.
    found: Schema = {"name": specs.watch.gvk.version, "served": True, "storage": False, "subresources": {}}
    found["schema"] = {"openAPIV3Schema": schema}
    if specs.watch.manage_status:
        found["subresources"]["status"] = {}
    return found


def _scale(marker: Marker) -> dict[str, str]:
    marker.only("spec", "status", "selector", required=("spec", "status"))
    paths = {"specReplicasPath": marker.fields["spec"], "statusReplicasPath": marker.fields["status"]}
    return {**paths, **({"labelSelectorPath": marker.fields["selector"]} if "selector" in marker.fields else {})}


def _column(marker: Marker) -> Schema:
    marker.only("name", "type", "jsonPath", "description", "format", "priority", required=("name", "type", "jsonPath"))
    column: Schema = dict(marker.fields)
    if "priority" in column:
        try:
            column["priority"] = int(column["priority"])
        except ValueError as error:
            raise marker.error("priority is a whole number") from error
    return column


def _storage(asked: Mapping[str, Schema], flags: Mapping[str, Marker], known: Object) -> str:
    """The storage version: the one that a marker or the CRD names, or the most mature."""
    said = [name for name, marker in flags.items() if "storage" in marker.fields and marker.field_flag("storage")]
    if len(said) > 1:
        raise flags[said[1]].error(f"only one version is stored, and {said[0]} is already")
    refused = {name for name, marker in flags.items() if "storage" in marker.fields} - set(said)
    stored = [name for name, version in known.items() if version.get("storage") and name not in refused]
    candidates = sorted({*asked, *known} - refused, key=_maturity)
    if not candidates:
        raise next(iter(flags.values())).error("some version has to be stored")
    return (said or stored or candidates[-1:])[0]


def _maturity(version: str) -> tuple[int, int, int, str]:
    """Kubernetes' order of versions: v2 over v1 over v1beta2 over v1alpha1 over anything else."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return (0, 0, 0, version)
    stage = {None: 3, "beta": 2, "alpha": 1}[found[2]]
    return (stage, int(found[1]), int(found[3] or 0), version)


def _flag(version: Schema, marker: Marker | None, existing: Object, *, storage: str) -> None:
    fields = marker.fields if marker else {}
    version["served"] = marker.field_flag("served") if marker and "served" in fields else existing.get("served", True)
    version["storage"] = version["name"] == storage
    if marker and "deprecated" in fields:
        version["deprecated"] = marker.field_flag("deprecated")
    if "warning" in fields:
        version["deprecationWarning"] = fields["warning"]


def _text(value: object) -> str:
    """A description, which may be a list of paragraphs, without Ansible's markup."""
    paragraphs = value if isinstance(value, list) else [value] if value else []
    return "\n".join(_MARKUP.sub(r"\1", str(paragraph)).strip() for paragraph in paragraphs)
