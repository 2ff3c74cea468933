"""Ansible content that is installed here, as ansible-core finds it: modules, filters, tests, lookups, roles, collections.

`ask` starts a process of its own, in the project's folder: ansible-core reads ansible.cfg there when it is imported, the
caller stays quick to import, and what a plugin does while it is loaded stays in that process. A project's own filters in the
paths of its ansible.cfg are imported there, as a run would do.

One JSON object goes to its standard input, `{"queries": [[KIND, NAME, [COLLECTION, …]], …]}`; one comes from its standard
output, with the fields of `Content`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from runner.errors import ConfigurationError
from runner.executor.environment import environment
from runner.json_codec import JsonObject

KINDS = ("module", "filter", "test", "lookup", "role")
_TIMEOUT = 300
# What plugin_routing calls them in a collection's meta/runtime.yml.
_ROUTING = {"module": ("action", "modules"), "filter": ("filter",), "test": ("test",), "lookup": ("lookup",)}


class Query(NamedTuple):
    """A name as a task has it, and the `collections:` of that task, by which only modules and roles are found."""

    kind: str
    name: str
    collections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """`resolved` is the full name, or empty where nothing was found: then `redirect` is the name that this one stands for,
    and `removed` says that it was taken away, where that is known."""

    resolved: str = ""
    redirect: str = ""
    removed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """An installed collection; `dependencies` are those that its installation brings along."""

    version: str
    path: str
    dependencies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The installed content: `core` is ansible-core's version, `keywords` are those of a play, a block and a task."""

    core: str
    keywords: Mapping[str, frozenset[str]]
    collections: Mapping[str, Collection] = field(default_factory=dict)
    roles_path: tuple[str, ...] = ()
    answers: Mapping[Query, Answer] = field(default_factory=dict)

    @property
    def minor(self) -> tuple[int, ...]:
        """2.18.19 as (2, 18)."""
        return tuple(int(part) for part in self.core.split(".")[:2])


def ask(queries: Iterable[Query], *, folder: Path, environ: Mapping[str, str]) -> Content:
    """Look the names up as a run in `folder` would. Raises ConfigurationError if ansible-core does not start."""
    asked = list(dict.fromkeys(queries))
    given = {**environ, **environment(), "ANSIBLE_DEPRECATION_WARNINGS": "false", "PYTHONWARNINGS": "ignore"}
    # -P: a file of the project is never imported in the place of a library.
    command = [sys.executable, "-P", "-m", "runner.executor.content"]
    request = json.dumps({"queries": asked})
    try:
        done = subprocess.run(
            command, input=request, cwd=folder, env=given, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        remedy = "does a plugin of the project hang?"
        raise ConfigurationError(f"ansible-core did not answer within {_TIMEOUT} s; {remedy}") from error
    try:
        found = json.loads(done.stdout)
    except ValueError as error:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ConfigurationError(f"ansible-core cannot be started here: {said[-1] if said else done.returncode}") from error
    return Content(
        core=found["core"],
        keywords={name: frozenset(words) for name, words in found["keywords"].items()},
        collections={
            name: Collection(version=item["version"], path=item["path"], dependencies=tuple(item["dependencies"]))
            for name, item in found["collections"].items()
        },
        roles_path=tuple(found["roles_path"]),
        answers=dict(zip(asked, (Answer(*answer) for answer in found["answers"]), strict=True)),
    )


def _main() -> None:
    # What ansible-core or a plugin prints is not the answer.
    answers_to = os.dup(1)
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    from ansible.plugins.loader import init_plugin_loader

    # Collections next to a playbook are found too.
    folders = [folder / "collections" for folder in (Path.cwd(), Path.cwd() / "playbooks")]
    init_plugin_loader([str(folder) for folder in folders if folder.is_dir()])
    found = {**_installed(), "answers": [_answer(Query(*query)) for query in request["queries"]]}
    with open(answers_to, "w", encoding="utf-8") as stream:
        json.dump(found, stream)


def _installed() -> JsonObject:
    from ansible import constants
    from ansible.playbook.block import Block
    from ansible.playbook.handler import Handler
    from ansible.playbook.play import Play
    from ansible.playbook.task import Task
    from ansible.release import __version__
    from ansible.utils.collection_loader import AnsibleCollectionConfig

    return {
        "core": __version__,
        # `user` is an older word for remote_user.
        "keywords": {
            "play": [*Play.fattributes, "user"],
            "block": list(Block.fattributes),
            "task": [*Task.fattributes, *Handler.fattributes, "local_action"],
        },
        "collections": _collections(Path(path) for path in AnsibleCollectionConfig.collection_paths),
        "roles_path": list(constants.DEFAULT_ROLES_PATH),
    }


def _collections(paths: Iterable[Path]) -> JsonObject:
    """By name; of two with one name the first is found."""
    found: JsonObject = {}
    for path in paths:
        root = path if path.name == "ansible_collections" else path / "ansible_collections"
        for folder in sorted(root.glob("*/*/")):
            name = f"{folder.parent.name}.{folder.name}"
            if name not in found and (folder / "plugins").is_dir() | (folder / "roles").is_dir():
                found[name] = {"path": str(folder), **_manifest(folder)}
    return found


def _manifest(folder: Path) -> JsonObject:
    import yaml

    try:
        if (folder / "MANIFEST.json").is_file():
            info = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))["collection_info"]
        else:
            info = yaml.safe_load((folder / "galaxy.yml").read_text(encoding="utf-8"))
        return {"version": str(info["version"]), "dependencies": list(info.get("dependencies") or {})}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return {"version": "", "dependencies": []}


def _answer(query: Query) -> tuple[str, str, str]:
    from ansible.errors import AnsiblePluginRemovedError

    try:
        resolved = _resolve(query)
    except AnsiblePluginRemovedError as error:
        return "", "", str(error).splitlines()[0].removeprefix("[DEPRECATED]: ")
    except Exception:  # Loaders raise what the plugins of a file raise.
        resolved = ""
    return (resolved, "", "") if resolved else ("", _redirect(query), "")


def _resolve(query: Query) -> str:
    from ansible.plugins import loader

    if query.kind == "role":
        from ansible.utils.collection_loader._collection_finder import _get_collection_role_path

        found = _get_collection_role_path(query.name, list(query.collections))
        return str(found[0]) if found else ""
    if query.kind in ("filter", "test"):
        from jinja2 import filters, tests

        own = filters.FILTERS if query.kind == "filter" else tests.TESTS
        if query.name.removeprefix("ansible.builtin.") in own:
            return f"ansible.builtin.{query.name.removeprefix('ansible.builtin.')}"
        of_kind = loader.filter_loader if query.kind == "filter" else loader.test_loader
        plugin = of_kind.get_with_context(query.name).object
        return str(getattr(plugin, "ansible_name", "") or query.name) if plugin else ""
    loaders = [loader.lookup_loader] if query.kind == "lookup" else [loader.action_loader, loader.module_loader]
    for each in loaders:
        # As for a task, what is neither in a collection of the list nor written in full is ansible-core's or the project's.
        listed = [*query.collections, "ansible.legacy"] if query.collections else None
        context = each.find_plugin_with_context(query.name, ignore_deprecated=True, collection_list=listed)
        if context.resolved:
            return str(context.resolved_fqcn or query.name)
    return ""


def _redirect(query: Query) -> str:
    """The target of a name that was not found, by its collection's routing; it may be missing too."""
    from ansible.utils.collection_loader._collection_finder import _get_collection_metadata

    parts = query.name.split(".")
    collection, name = (".".join(parts[:2]), ".".join(parts[2:])) if len(parts) > 2 else ("ansible.builtin", query.name)
    try:
        routing = _get_collection_metadata(collection).get("plugin_routing", {})
    except Exception:  # Of a collection that is not here, or whose metadata are broken.
        return ""
    entries = (routing.get(kind, {}).get(name) or {} for kind in _ROUTING.get(query.kind, ()))
    return next((str(entry["redirect"]) for entry in entries if entry.get("redirect")), "")


if __name__ == "__main__":
    _main()
