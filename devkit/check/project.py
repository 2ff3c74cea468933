"""A project's folder: what watches.yaml runs, and all roles, playbooks and task files that are reached from there.

Of a role every file is read, as a templated name may choose any of them; `reached` are those that are certain to be used.
Roles of installed collections are another project's.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from devkit.check import expressions, sources
from devkit.check.findings import Finding, Level
from devkit.check.sources import Source, is_file, is_folder, relative
from devkit.check.tasks import Include, Location, Reading, TaskReader, Use
from devkit.yaml_nodes import entry, items, pairs, scalar
from runner.config import watches
from runner.config.settings import Settings
from runner.config.watches import WatchesError, role_places

# Where an operator's image has the project.
IMAGE_HOME = "/opt/ansible"
_ENDINGS = (".yml", ".yaml")
_TEMPLATE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
# Folders of plugins next to roles and playbooks, and the kind of plugins in them.
_PLUGINS = {
    **{"library": "module", "action_plugins": "module", "modules": "module", "filter_plugins": "filter"},
    **{"test_plugins": "test", "lookup_plugins": "lookup"},
}
_TYPES = {
    **{"tag:yaml.org,2002:int": expressions.NUMBER, "tag:yaml.org,2002:float": expressions.NUMBER},
    "tag:yaml.org,2002:bool": expressions.BOOLEAN,
}


@dataclass(slots=True)
class ProjectFiles:
    """The files that were read. `own` are the names of the project's own plugins, by kind."""

    folder: Path
    reading: Reading = field(default_factory=Reading)
    reached: set[str] = field(default_factory=set)
    own: dict[str, set[str]] = field(default_factory=dict)
    # Where names of roles or files are templates, so that what they bring in is not known.
    templated: list[Location] = field(default_factory=list)
    # The watched kinds, as (group, kind), and for each whether its CRs' strings are templates.
    watched: dict[tuple[str, str], bool] = field(default_factory=dict)


def watches_files(folder: Path, given: Path | None) -> list[Path]:
    """The file that is named, else watches.yaml, else every `watches*.yaml`: some operators choose one when they start."""
    if given is not None:
        return [folder / given]
    if (folder / "watches.yaml").exists():
        return [folder / "watches.yaml"]
    return sorted(path for ending in _ENDINGS for path in folder.glob(f"watches*{ending}")) or [folder / "watches.yaml"]


def load(
    folder: Path,
    files: list[Path],
    environ: Mapping[str, str],
    *,
    variables: Mapping[str, str],
    wanted: Collection[str] = (),
) -> ProjectFiles:
    """Read all files that the watches files lead to. The current folder has to be `folder`.

    `variables` are the types of CRs' fields, and `wanted` the collections that requirements.yml asks for, which need not be
    here.
    """
    project = ProjectFiles(folder)
    walk = _Walk(project, environ, variables, wanted)
    for file in files:
        walk.watches(file)
    walk.includes()
    return project


class _Walk:
    def __init__(
        self, project: ProjectFiles, environ: Mapping[str, str], variables: Mapping[str, str], wanted: Collection[str]
    ) -> None:
        self._project = project
        self._folder = project.folder
        # What HOME is in the image is the project's folder.
        self._environ = {**environ, "HOME": str(project.folder)}
        self._variables = variables
        self._wanted = wanted
        self._playbook_folders: list[Path] = []
        # Of files inside a role.
        self._role_of: dict[str, Path] = {}
        self._collections_of: dict[Path, tuple[str, ...]] = {}
        self._types_of: dict[Path, Mapping[str, str]] = {}
        self._read: set[Path] = set()
        # Files of roles that only a templated name may choose.
        self._others: list[tuple[Path, Path]] = []

    def watches(self, file: Path) -> None:
        """Report all that `runner.config.watches` refuses, and read what each watch runs."""
        name = relative(file, self._folder)
        found = sources.read(file, self._folder)
        if isinstance(found, Finding):
            remedy = "" if is_file(file) else "; name the file with --watches-file"
            self._tell(found.level, name, found.line, f"{found.message}{remedy}")
            return
        content = self._local(file.read_text(encoding="utf-8"))
        try:
            watches.parse(content, settings=Settings(watches_file=Path(name)), environ=self._environ)
        except WatchesError as error:
            for problem in error.problems:
                match = re.match(rf"{re.escape(name)}(?::(\d+))?: (.*)", problem, re.DOTALL)
                line, message = (int(match[1] or 0), match[2]) if match else (0, problem)
                role = re.match(r"role: (\w+\.\w+)\.\w+ was not found", message)
                level = Level.WARNING if role and role[1] in self._wanted else Level.ERROR
                self._tell(level, name, line, " ".join(message.split()))
        except (ValueError, TypeError, AttributeError, OSError, RecursionError, yaml.YAMLError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition("\n")[0]
            self._tell(Level.ERROR, name, 0, f"cannot be read: {reason}; write it with plain keys, texts, numbers and lists")
        for root in found.roots:
            for watch in items(root):
                self._watch(watch)

    def _watch(self, watch: yaml.Node) -> None:
        group, kind = (scalar(entry(watch, key)) or "" for key in ("group", "kind"))
        marks = (scalar(entry(watch, "markUnsafe")) or "true").lower() in ("true", "yes", "on")
        self._project.watched[group, kind] = not marks or self._project.watched.get((group, kind), False)
        for content in (watch, entry(watch, "finalizer")):
            playbook, role = (self._expanded(scalar(entry(content, key)) or "") for key in ("playbook", "role"))
            if playbook and is_file(path := self._folder / playbook):
                self._playbook(path)
            elif role and not playbook:
                place = next(filter(is_folder, role_places(role, Settings(), self._environ)), None)
                if place is not None:
                    self._role(place)

    def _expanded(self, text: str) -> str:
        """A path of watches.yaml with its variables replaced."""
        return self._local(_VARIABLE.sub(lambda match: self._environ.get(match[1], match[0]), text))

    def includes(self) -> None:
        """Read the included files, until there are no new ones, then the other files of the roles."""
        done = 0
        includes = self._project.reading.includes
        while done < len(includes) or self._others:
            if done == len(includes):
                self._other(*self._others.pop(0))
                continue
            include = includes[done]
            done += 1
            if include.kind == "role":
                self._include_role(include)
            elif expressions.is_template(include.name):
                self._project.templated.append(include.location)
            elif include.kind == "tasks":
                self._include_tasks(include)
            else:
                self._include_playbook(include)

    def _other(self, path: Path, role: Path) -> None:
        """A file among a role's tasks that nothing includes by name: it may be a template, or variables."""
        if path in self._read:
            return
        found = sources.read(path, self._folder)
        if isinstance(found, Finding):
            self._read.add(path)
            self._template(path, self._reader(role))
        elif all(isinstance(root, yaml.SequenceNode) for root in found.roots):
            self._tasks(path, role)

    def _include_playbook(self, include: Include) -> None:
        path = self._path(include).parent / self._local(include.name)
        if is_file(path):
            self._playbook(path)
        elif include.name.count(".") < 2 or include.name.endswith(_ENDINGS):
            self._not_found(include, f"playbook {include.name} was not found; looked for {relative(path, self._folder)}")

    def _include_tasks(self, include: Include) -> None:
        path, role = self._path(include), self._role_of.get(include.location.file)
        around = [path.parent, *(inner for inner in path.parents if role and inner.is_relative_to(role))]
        around += [role / "tasks", role] if role else []
        for folder in self._playbook_folders:
            around += [folder, folder / "tasks"]
        found = next(filter(is_file, (folder / self._local(include.name) for folder in around)), None)
        if found is None:
            self._not_found(
                include, f"tasks file {include.name} was not found; looked beside this file and in {_shown(role)}"
            )
            return
        known = relative(Path(os.path.normpath(found)), self._folder)
        if include.location.file in self._project.reached:
            self._project.reached.add(known)
        self._tasks(found, role, collections=include.location.collections)

    def _include_role(self, include: Include) -> None:
        role = self._role_of.get(include.location.file)
        roots = [role.parent] if role else []
        for folder in (*self._playbook_folders, self._folder):
            roots += [folder / "roles", folder]
        if expressions.is_template(include.name):
            self._project.templated.append(include.location)
            pattern = re.sub(r"\*+", "*", _TEMPLATE.sub("*", include.name)).strip("/")
            if ".." in pattern or not re.fullmatch(r"[\w*./-]{1,200}", pattern):
                return
            for root in dict.fromkeys([*roots[:1], self._folder / "roles"]):
                for path in sorted(root.glob(pattern)):
                    if is_folder(path / "tasks"):
                        self._role(path)
            return
        # Roles are looked up next to others too; a folder next to a playbook without a role's folders is no role.
        name = self._local(include.name)
        places = [root / name for root in roots] + role_places(name, Settings(), self._environ)
        found = next((Path(os.path.normpath(place)) for place in places if _is_role(place)), None)
        if found is None:
            self._project.reading.uses.append(Use("role", include.name, include.location))
            return
        self._role(found)
        tasks = include.tasks_from or "main"
        if not expressions.is_template(tasks) and not self._reach(found, tasks) and include.tasks_from:
            self._not_found(include, f"role {include.name} has no tasks file {tasks}; correct tasks_from")

    def _reach(self, role: Path, tasks: str) -> bool:
        """Read a role's tasks file, which is certain to be used, unless it is another project's. False if there is none."""
        names = [role / "tasks" / f"{tasks}{ending}" for ending in ("", *_ENDINGS)]
        found = next(filter(is_file, names), None)
        if found is not None and role in self._types_of:
            self._project.reached.add(relative(Path(os.path.normpath(found)), self._folder))
            self._tasks(found, role)
        return found is not None

    def _playbook(self, path: Path) -> None:
        path = Path(os.path.normpath(path))
        if path in self._read:
            return
        self._read.add(path)
        if path.parent not in self._playbook_folders:
            self._playbook_folders.append(path.parent)
            self._plugins(path.parent)
        self._project.reached.add(relative(path, self._folder))
        found = self._source(path)
        if found is None:
            return
        if not any(isinstance(root, yaml.SequenceNode) for root in found.roots):
            self._tell(Level.ERROR, found.name, 1, "no playbook: expected a list of plays, each beginning with '- '")
            return
        self._reader().playbook(found)

    def _role(self, role: Path) -> None:
        role = Path(os.path.normpath(role))
        if role in self._read or "ansible_collections" in role.parts:
            return
        self._read.add(role)
        self._plugins(role)
        meta = next(filter(is_file, (role / "meta" / f"main{ending}" for ending in _ENDINGS)), None)
        meta_source = self._source(meta) if meta else None
        roots = meta_source.roots if meta_source else ()
        collections = tuple(name for root in roots for name in map(scalar, items(entry(root, "collections"))) if name)
        self._collections_of[role] = collections
        values = [
            found
            for kind in ("defaults", "vars")
            for path in _files(role / kind)
            if (found := self._source(path)) is not None
        ]
        self._types_of[role] = {**self._variables, **_types(values)}
        reader = self._reader(role)
        for found in values:
            reader.values(found)
        if meta_source:
            self._role_of[meta_source.name] = role
            self._project.reached.add(meta_source.name)
            reader.role_meta(meta_source)
        self._others += [(path, role) for path in _files(role / "tasks")]
        self._reach(role, "main")
        for path in _files(role / "handlers"):
            self._project.reached.add(relative(path, self._folder))
            self._tasks(path, role)
        for path in sorted((role / "templates").rglob("*")):
            self._template(path, reader)

    def _tasks(self, path: Path, role: Path | None, *, collections: tuple[str, ...] = ()) -> None:
        path = Path(os.path.normpath(path))
        if path in self._read:
            return
        self._read.add(path)
        if role:
            self._role_of[relative(path, self._folder)] = role
        found = self._source(path)
        if found is not None:
            self._reader(role, collections).tasks(found)

    def _template(self, path: Path, reader: TaskReader) -> None:
        if not is_file(path) or path.stat().st_size > sources.MAX_BYTES:
            return
        content = sources.text(path, self._folder)
        if isinstance(content, str) and expressions.is_template(content):
            reader.template(relative(path, self._folder), content)

    def _reader(self, role: Path | None = None, collections: tuple[str, ...] = ()) -> TaskReader:
        """A reader for files of this role, or of none; `collections` are those of the file that includes this one."""
        if role is None:
            return TaskReader(self._project.reading, collections=collections, variables=self._variables)
        return TaskReader(self._project.reading, collections=self._collections_of[role], variables=self._types_of[role])

    def _source(self, path: Path) -> Source | None:
        found = sources.read(path, self._folder)
        if isinstance(found, Finding):
            self._project.reading.findings.append(found)
            return None
        return found

    def _plugins(self, folder: Path) -> None:
        """Add the names of plugins next to a role or playbook."""
        for name, kind in _PLUGINS.items():
            names = self._project.own.setdefault(kind, set())
            for path in sorted((folder / name).glob("*")):
                names.add(path.stem)
                if kind in ("filter", "test") and path.suffix == ".py":
                    content = sources.text(path, self._folder)
                    if isinstance(content, str):
                        names |= _words(content)

    def _path(self, include: Include) -> Path:
        return self._folder / include.location.file

    def _local(self, text: str) -> str:
        """Paths of the image are those of the project, where this is not the image."""
        return text if str(self._folder) == IMAGE_HOME else text.replace(f"{IMAGE_HOME}/", f"{self._folder}/")

    def _not_found(self, include: Include, message: str) -> None:
        certain = include.location.file in self._project.reached
        self._tell(Level.ERROR if certain else Level.WARNING, include.location.file, include.location.line, message)

    def _tell(self, level: Level, file: str, line: int, message: str) -> None:
        self._project.reading.findings.append(Finding(level, file, line, message))


def _files(folder: Path) -> Iterator[Path]:
    """The YAML files of a role's folder."""
    yield from sorted(path for path in folder.rglob("*") if path.suffix in _ENDINGS and is_file(path))


def _is_role(path: Path) -> bool:
    return any(is_folder(path / name) for name in ("tasks", "meta", "defaults", "handlers", "vars"))


def _types(values: list[Source]) -> dict[str, str]:
    """The types of variables whose values are plain numbers or booleans."""
    found: dict[str, str] = {}
    for name, value in ((name, value) for source in values for root in source.roots for name, _, value in pairs(root)):
        kind = _TYPES.get(value.tag) if isinstance(value, yaml.ScalarNode) else None
        # A later file, which wins, may have text.
        if kind:
            found[name] = kind
        else:
            found.pop(name, None)
    return found


def _words(code: str) -> set[str]:
    """The string constants and keyword names in a plugin file, which include the names of its filters or tests."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
    return found


def _shown(role: Path | None) -> str:
    return f"{role.name}/tasks" if role else "the playbooks' folders"
