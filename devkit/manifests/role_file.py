"""Updates the file of the operator's ClusterRole: a section of it is generated, and all around that stays.

Next on the way: `devkit.manifests.command`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from devkit.manifests.markers import YamlFile
from devkit.manifests.rights import Right
from devkit.yaml_nodes import entry, pairs, plain
from runner.errors import ConfigurationError

_BEGIN = "# +rolerunner:rules:begin"
_END = "# +rolerunner:rules:end"
_NOTE = ", written by `rolerunner manifests`; rules of your own go before or behind"
_NEW = """apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: manager-role
rules:
"""


def update(path: Path, rights: Iterable[Right]) -> str:
    """The text of the role's file with these rights in their section; what else it says stays. Raises ConfigurationError."""
    if not path.exists():
        return _NEW + _section(rights, "  ")
    file = YamlFile(path)
    lines = file.text.splitlines(keepends=True)
    begin, end = (next((number for number, line in enumerate(lines) if mark in line), None) for mark in (_BEGIN, _END))
    if begin is not None and end is not None and begin < end:
        indent = lines[begin].partition("#")[0]
    elif begin is not None or end is not None:
        raise ConfigurationError(f"{file.name}: of {_BEGIN} and {_END} one is missing; take the other out, too")
    else:
        rules_key, rules_node = _rules(file)
        if rules_node.flow_style:
            if rules_node.value:
                raise ConfigurationError(f"{file.at(rules_node)}: rules: write them as a block, each beginning with '- '")
            number = rules_key.start_mark.line
            lines[number] = lines[number].replace("[]", "").rstrip() + "\n"
            begin, indent = number + 1, " " * (rules_key.start_mark.column + 2)
        else:
            begin, indent = _last_line(rules_node) + 1, " " * rules_node.start_mark.column
            lines[begin - 1] = lines[begin - 1].rstrip("\n") + "\n"
        end = begin - 1
    return "".join([*lines[:begin], _section(rights, indent), *lines[end + 1 :]])


def _section(rights: Iterable[Right], indent: str) -> str:
    lines = [f"{_BEGIN}{_NOTE}"]
    for rule in rules(rights):
        keys = [f"{name}: [{', '.join(map(_quoted, values))}]" for name, values in rule.items()]
        lines += [f"- {keys[0]}", *(f"  {key}" for key in keys[1:])]
    return "".join(f"{indent}{line}\n" for line in [*lines, _END])


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[A-Za-z][\w./-]*", word) else f'"{word}"'


def _rules(file: YamlFile) -> tuple[yaml.Node, yaml.SequenceNode]:
    for root in file.roots:
        if plain(entry(root, "kind")) in ("ClusterRole", "Role"):
            for name, key, value in pairs(root):
                if name == "rules" and isinstance(value, yaml.SequenceNode):
                    return key, value
            raise ConfigurationError(f"{file.at(root)}: has no list of rules; add `rules: []`")
    raise ConfigurationError(f"{file.name}: holds no ClusterRole or Role; remove the file, or write one into it")


def _last_line(node: yaml.Node) -> int:
    """The last line of a node's own text; a block's end mark is only where the next begins."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.line)


def rules(rights: Iterable[Right]) -> list[dict[str, list[str]]]:
    """The rights as rules: those resources of a group together that have the same verbs."""
    verbs: dict[tuple[str, str, tuple[str, ...]], set[str]] = {}
    for right in rights:
        verbs.setdefault((right.group, right.resource, right.names), set()).add(right.verb)
    together: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (group, resource, names), allowed in sorted(verbs.items()):
        together.setdefault((group, tuple(sorted(allowed)), names), []).append(resource)
    return [
        {
            "apiGroups": [group],
            "resources": resources,
            **({"resourceNames": list(names)} if names else {}),
            "verbs": list(allowed),
        }
        for (group, allowed, names), resources in together.items()
    ]
