"""Updates a CRD's file: fields that this command generated are updated or removed, all others stay.

A comment at the file's end records the generated fields by their paths: names that somebody chose follow dots, keywords of
the schema follow colons.

Next on the way: `devkit.manifests.rights`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from devkit.manifests.crd import ArgumentSpecs, Schema, definition
from devkit.manifests.markers import YamlFile
from devkit.yaml_nodes import plain
from runner.errors import ConfigurationError
from runner.resource.metadata import GroupKind, Object

_RECORD = "# Written by `rolerunner manifests`, which keeps what else stands here and updates this:"


def find(folder: Path, kind: GroupKind) -> tuple[Path, Schema] | None:
    """The kind's CRD in the folder, by whatever file name. Raises ConfigurationError."""
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        file = YamlFile(path)
        found = [plain(root) for root in file.roots]
        for crd in found:
            if isinstance(crd, dict) and kind_of(crd) == kind:
                versions = crd["spec"].get("versions") or []
                if not all(isinstance(version, dict) and version.get("name") for version in versions):
                    raise ConfigurationError(f"{file.name}: spec.versions: each needs a name")
                if len(found) > 1:
                    raise ConfigurationError(f"{file.name}: holds more than the CRD of {kind}; give that a file of its own")
                return path, crd
    return None


def kind_of(crd: Object) -> GroupKind | None:
    """The kind that a CRD defines; None for any other object."""
    if crd.get("kind") != "CustomResourceDefinition":
        return None
    try:
        return GroupKind(crd["spec"]["group"], crd["spec"]["names"]["kind"])
    except (KeyError, TypeError):
        return None


def update(text: str, existing: Object, specs: Sequence[ArgumentSpecs]) -> str:
    """The new text of the kind's CRD file; `text` itself if nothing has changed. Raises ConfigurationError."""
    wanted = definition(specs, existing)
    result = merged(existing, wanted, _Recorded(text)) if existing else wanted
    record = _record(wanted)
    if result == existing and text.endswith(record):
        # With the comments that somebody wrote into it.
        return text
    head = re.match(r"(?:(?:#.*|---)\n)*", text)
    # As the file has it so far, so that a diff shows what is new.
    flat = re.search(r"^( *)versions:\n\1- ", text, re.MULTILINE)
    body = yaml.dump(result, Dumper=_Dumper if flat else _Indented, sort_keys=False, allow_unicode=True, width=120)
    return (head[0] if head else "") + body + record


def _record(wanted: Object) -> str:
    """The record of generated fields, a line for each path that has any: `PATH: KEYWORD KEYWORD`. A property has a line."""
    by_parent: dict[str, list[str]] = {}
    for path in map(_short, paths(wanted)):
        parent, separator, word = path.rpartition(":")
        if separator and "." not in word:
            by_parent.setdefault(parent, []).append(word)
    return "\n".join([_RECORD, *(f"#   {parent}: {' '.join(words)}" for parent, words in by_parent.items())]) + "\n"


class _Recorded:
    """The paths of a record."""

    def __init__(self, text: str) -> None:
        record = text.partition(_RECORD)[2]
        lines = (line.removeprefix("#").split() for line in record.splitlines())
        self._lines = {parent.removesuffix(":"): words for parent, *words in filter(None, lines)}

    def __contains__(self, path: object) -> bool:
        parent, separator, word = _short(str(path)).rpartition(":")
        if "." in word or not separator:
            return "." in word and f"{parent}{separator}{word}" in self._lines
        return word in self._lines.get(parent, ())


def _short(path: str) -> str:
    """`v1.spec.size:minimum` for `:spec:versions.v1:schema:openAPIV3Schema:properties.spec:properties.size:minimum`."""
    path = path.removeprefix(":spec").removeprefix(":versions.").removeprefix(":")
    return path.replace(":schema:openAPIV3Schema", "").replace(":properties.", ".")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


class _Indented(_Dumper):
    """Dumps lists with indentation."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


def _represent_list(dumper: yaml.SafeDumper, items: list[object]) -> yaml.Node:
    words = all(not isinstance(item, dict | list) for item in items) and sum(len(str(item)) for item in items) < 80
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=words)


_Dumper.add_representer(str, _represent)
_Dumper.add_representer(list, _represent_list)


def merged(existing: Object, wanted: Object, owned: Container[str]) -> Schema:
    """The existing CRD with all that is `wanted`; removed is what is `owned` (see `paths`) and not wanted any more."""
    asked = _by_name(wanted)
    result: Schema = _merge(_by_name(existing), asked, owned, "", names=False)
    versions = result["spec"]["versions"]
    # Versions that others wrote stay, but for the one thing that there is once only.
    if any(version["storage"] for version in asked["spec"]["versions"].values()):
        for name in versions.keys() - asked["spec"]["versions"].keys():
            versions[name] = {**versions[name], "storage": False}
    result["spec"]["versions"] = list(versions.values())
    return result


def _by_name(crd: Object) -> Schema:
    spec = crd.get("spec") or {}
    return {**crd, "spec": {**spec, "versions": {version["name"]: version for version in spec.get("versions") or ()}}}


def _merge(old: object, new: object, owned: Container[str], at: str, *, names: bool) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    if not names and old.get("type") != new.get("type"):
        # What was said of the old type does not fit.
        return new
    result: Schema = {}
    for key in dict.fromkeys((*old, *new)):
        path = _path(at, key, names=names)
        if not names and key == "required" and isinstance(old.get(key, []), list):
            ours = new.get("properties") or {}
            theirs = [
                name
                for name in old.get(key, ())
                if name not in ours and _path(f"{at}:properties", name, names=True) not in owned
            ]
            result |= {key: both} if (both := [*new.get(key, ()), *theirs]) else {}
        elif key in old and key in new and (names or key != "default"):
            result[key] = _merge(old[key], new[key], owned, path, names=_holds_names(key, names=names))
        elif key in new:
            result[key] = new[key]
        elif path not in owned:
            result[key] = old[key]
    return result


def _holds_names(key: str, *, names: bool) -> bool:
    """True if the keys inside are names that somebody chose, rather than keywords of the schema."""
    return not names and key in ("properties", "versions")


def _path(at: str, key: str, *, names: bool) -> str:
    return f"{at}{'.' if names else ':'}{key}"


def paths(crd: Object) -> Iterator[str]:
    """The paths of a generated CRD that the next one may not have: names after dots, keywords after colons."""

    def walk(node: object, at: str, *, names: bool) -> Iterator[str]:
        if isinstance(node, Mapping) and not at.endswith(":default"):
            for key, value in node.items():
                path = _path(at, key, names=names)
                yield path
                yield from walk(value, path, names=_holds_names(key, names=names))

    spec = _by_name(crd)["spec"]
    yield from (f":spec:names:{word}" for word in ("shortNames", "categories") if word in spec["names"])
    for name, version in spec["versions"].items():
        at = f":spec:versions.{name}"
        yield from (
            f"{at}:{word}" for word in ("additionalPrinterColumns", "deprecated", "deprecationWarning") if word in version
        )
        yield from [f"{at}:subresources:scale"] if "scale" in version["subresources"] else []
        root = version["schema"]["openAPIV3Schema"]
        # The status is a beginning, and the author's from then on.
        properties = {key: value for key, value in root["properties"].items() if key != "status"}
        yield from walk({**root, "properties": properties}, f"{at}:schema:openAPIV3Schema", names=False)


def lets_unknown_pass(crd: Object, specs: Sequence[ArgumentSpecs]) -> bool:
    """True if the CRD keeps unknown fields although the argument specs do not say so."""
    versions = _by_name(crd)["spec"]["versions"]
    word = "x-kubernetes-preserve-unknown-fields"
    roots = [(one, versions[one.watch.gvk.version]["schema"]["openAPIV3Schema"]["properties"]["spec"]) for one in specs]
    return any(word in spec and one.is_closed for one, spec in roots)
