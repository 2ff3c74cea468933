"""Names of modules, filters, tests, lookups and roles, compared with what ansible-core finds here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from devkit.check import expressions
from devkit.check.findings import Finding, Level
from devkit.check.project import ProjectFiles
from devkit.check.requirements import Requirements, satisfies
from devkit.check.sources import is_folder
from devkit.check.tasks import Keys, Location, Use
from runner.executor.content import Answer, Content, Query

# Those of rolerunner's image.
IN_THE_IMAGE = frozenset({"kubernetes.core", "operator_sdk.util"})
_BUILTIN = ("ansible.builtin", "ansible.legacy")
# Keywords by which a task names its module, instead of the module's own name.
_ACTIONS = frozenset({"action", "local_action"})


def queries(project: ProjectFiles) -> set[Query]:
    """The queries for ansible-core. All keys of tasks are asked for, as its answer also tells which are keywords."""
    asked = {_query(use) for use in project.reading.uses}
    for keys in project.reading.keys:
        if keys.kind == "task":
            asked |= {Query("module", name, keys.location.collections) for name, _ in keys.names if _may_be_module(name)}
    return asked


def compare(project: ProjectFiles, content: Content, requirements: Requirements) -> list[Finding]:
    """Findings for plugins that are missing here, or in a collection that the operator's image would not have."""
    comparison = _Comparison(project, content, requirements)
    found = [finding for use in project.reading.uses for finding in comparison.use(use)]
    return found + [finding for keys in project.reading.keys for finding in comparison.keys(keys)]


def resolved(project: ProjectFiles, content: Content) -> Iterator[tuple[str, str, str, Location]]:
    """(kind, full name, name as written, location) of every plugin that was found here."""
    uses = [(use.kind, use.name, use.location) for use in project.reading.uses]
    for keys in project.reading.keys:
        if keys.kind == "task":
            location = keys.location
            uses += [
                ("module", name, Location(file=location.file, line=line, collections=location.collections))
                for name, line in keys.names
                if _may_be_module(name) and name not in content.keywords["task"]
            ]
    for kind, name, location in uses:
        answer = content.answers[Query(kind, name, location.collections)]
        if answer.resolved and name not in project.own.get(kind, ()):
            yield kind, answer.resolved, name, location


class _Comparison:
    def __init__(self, project: ProjectFiles, content: Content, requirements: Requirements) -> None:
        self._project = project
        self._content = content
        self._requirements = requirements
        self._brought = _brought(requirements, content)

    def use(self, use: Use) -> Iterator[Finding]:
        answer = self._content.answers[_query(use)]
        if answer.resolved:
            yield from self._collection(answer.resolved, use.location)
        elif use.kind == "role" and any(is_folder(Path(root) / use.name) for root in self._content.roles_path):
            return
        elif use.kind == "role" and use.name in self._requirements.roles:
            message = (
                f"role {use.name} is not here, so that it is not checked: ansible-galaxy role install -r requirements.yml"
            )
            yield self._finding(Level.WARNING, use.location, message)
        else:
            yield from self._missing(use.kind, use.name, answer, use.location)

    def keys(self, keys: Keys) -> Iterator[Finding]:
        known = self._content.keywords[keys.kind]
        others = [
            (name, line)
            for name, line in keys.names
            if name not in known and not name.startswith("with_") and not expressions.is_template(name)
        ]
        if keys.kind != "task":
            for name, line in others:
                message = f"{name} is no keyword of a {keys.kind}; correct or remove it"
                yield self._finding(Level.ERROR, keys.location, message, line=line)
            return
        modules = [name for name, _ in others if self._is_module(name, keys.location)]
        modules += [name for name, _ in keys.names if name in _ACTIONS]
        if len(modules) > 1:
            yield self._finding(Level.ERROR, keys.location, f"a task with several modules: {', '.join(modules)}; keep one")
        for name, line in others:
            location = Location(file=keys.location.file, line=line, collections=keys.location.collections)
            answer = self._content.answers[Query("module", name, location.collections)]
            if answer.resolved:
                yield from self._collection(answer.resolved, location)
            elif name not in modules:
                yield from self._missing("module", name, answer, location)
        if not others and not modules:
            yield self._finding(Level.ERROR, keys.location, "a task without a module; name one, or remove the task")

    def _is_module(self, name: str, location: Location) -> bool:
        return bool(self._content.answers[Query("module", name, location.collections)].resolved) or self._is_own(
            "module", name
        )

    def _missing(self, kind: str, name: str, answer: Answer, location: Location) -> Iterator[Finding]:
        if self._is_own(kind, name):
            return
        core = self._content.core
        what = "module or keyword" if kind == "module" else kind
        if answer.removed:
            yield self._finding(Level.ERROR, location, f"{kind} {name}: {answer.removed}")
            return
        full = answer.redirect or name
        collection = ".".join(full.split(".")[:2]) if full.count(".") >= 2 else ""
        unknown = [given for given in location.collections if given not in self._content.collections]
        if collection in _BUILTIN:
            collection = ""
        if collection in self._requirements.collections and collection not in self._content.collections:
            # Told once, of requirements.yml.
            return
        if any(given in self._requirements.collections for given in unknown) and not collection:
            return
        level = Level.ERROR
        stands = f"{name}, which stands for {full}," if full != name else name
        if collection and collection not in self._content.collections:
            message = f"{kind} {stands} is of a collection that is not here; add {collection} to requirements.yml"
        elif collection:
            version = self._content.collections[collection].version
            wanted = self._requirements.collections.get(collection)
            if wanted and not satisfies(version, wanted.version):
                # The one that is asked for may have it.
                level = Level.WARNING
            remedy = "ask for a version that has it, or replace it"
            message = f"{kind} {stands} is not in {collection} {version}, which is here; {remedy}"
        else:
            remedy = "correct it, or add its collection to requirements.yml"
            message = f"no {what} {name} is found with ansible-core {core}; {remedy}"
        yield self._finding(level, location, message)

    def _collection(self, full: str, location: Location) -> Iterator[Finding]:
        """A finding for a collection that comes with the `ansible` package, which an image may not have."""
        name = ".".join(full.split(".")[:2])
        here = self._content.collections.get(name)
        if here is None or name in self._brought or name in _BUILTIN or "site-packages/ansible_collections" not in here.path:
            return
        message = f"{name} is used and no requirements.yml asks for it, so that an image would not have it; add it there"
        yield self._finding(Level.WARNING, location, message)

    def _is_own(self, kind: str, name: str) -> bool:
        return name.removeprefix("ansible.legacy.") in self._project.own.get(kind, ())

    def _finding(self, level: Level, location: Location, message: str, *, line: int = 0) -> Finding:
        certain = location.file in self._project.reached or not self._is_tasks_file(location.file)
        return Finding(level if certain else max(level, Level.WARNING), location.file, line or location.line, message)

    def _is_tasks_file(self, file: str) -> bool:
        """True for a file that is used only if something includes it."""
        return "/tasks/" in file or "/handlers/" in file


def _brought(requirements: Requirements, content: Content) -> set[str]:
    """The collections that an image has: those in requirements.yml, and their dependencies."""
    found: set[str] = set()
    waiting = [*requirements.collections, *IN_THE_IMAGE]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            here = content.collections.get(name)
            waiting += here.dependencies if here else ()
    return found


def _query(use: Use) -> Query:
    return Query(use.kind, use.name, use.location.collections)


def _may_be_module(name: str) -> bool:
    return not name.startswith("with_") and not expressions.is_template(name) and name not in _ACTIONS
