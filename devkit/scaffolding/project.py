"""An operator's project: its tree as `init` makes it, and what `create api` adds.

The tree is that of the Operator SDK's Ansible projects, PROJECT included, so that either tool finds its way in the
other's. All texts are made and checked before the first file is written. No file is ever overwritten: new ones are created
where there are none, and `yaml_edit` adds to the user's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2
import yaml

import runner
from devkit.scaffolding import dashboards, yaml_edit
from devkit.scaffolding.naming import NAME, Api, check_word
from runner.config import argument_specs, yaml_files
from runner.errors import ConfigurationError

TEMPLATES = Path(__file__).parent / "templates"
_LAYOUT = "ansible.sdk.operatorframework.io"
# The longest name made from a project's is that plus "-metrics-service", and a Service has 63 characters.
_NAME_LIMIT = 47
_DOMAIN = re.compile(r"([a-z0-9]([-a-z0-9]*[a-z0-9])?)(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
# With a group's and a plural's 63 before it, a CRD's name still has less than 253.
_DOMAIN_LIMIT = 120
_RESERVED = re.compile(r"(^|\.)(k8s|kubernetes)\.io$")
# What a new repository may have in it.
_HARMLESS = re.compile(r"\..*|LICENSE.*|.*\.md")

# Delimiters that do not collide with Ansible's, so that a template reads as the file that it becomes.
_JINJA = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    undefined=jinja2.StrictUndefined,
    autoescape=False,
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
    variable_start_string="[[",
    variable_end_string="]]",
    block_start_string="[%",
    block_end_string="%]",
    comment_start_string="[#",
    comment_end_string="#]",
)

# Texts by path, relative to the project's folder.
Files = dict[Path, str]


@dataclass(frozen=True, slots=True)
class Scaffolded:
    """The files that a command created, updated or left as they were, relative to the project's folder."""

    created: tuple[Path, ...] = ()
    updated: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Project:
    """The content of PROJECT. `resources` are the project's kinds, in kubebuilder's form."""

    domain: str
    name: str
    resources: tuple[Mapping[str, str], ...] = ()


def load(folder: Path) -> Project:
    """Read a folder's PROJECT. Raises ConfigurationError."""
    path = folder / "PROJECT"
    if not path.exists():
        raise ConfigurationError(f"{path} is not there: change to a project's folder, or begin one with `rolerunner init`")
    try:
        data = yaml.safe_load(_read(path))
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"{yaml_files.invalid(path, error)}; correct it, or take it from your history") from error
    data = data if isinstance(data, dict) else {}
    resources = data.get("resources") or []
    for key, expected, fits in (
        ("version", "'3'", str(data.get("version")) == "3"),
        ("layout", f"a list with {_LAYOUT}/v1", _LAYOUT in str(data.get("layout"))),
        ("domain", "a domain, such as example.com", isinstance(data.get("domain"), str)),
        ("projectName", "a name", isinstance(data.get("projectName"), str)),
        ("resources", "a list", isinstance(resources, list) and all(isinstance(item, dict) for item in resources)),
    ):
        if not fits:
            raise ConfigurationError(f"{path}: {key}: expected {expected}, found {data.get(key)!r}; correct it")
    return Project(data["domain"], data["projectName"], tuple(resources))


def init(folder: Path, *, domain: str, name: str) -> Scaffolded:
    """Make a project in a folder that is empty but for what a new repository has. Without a name, it has the folder's."""
    chosen = name or folder.absolute().name.lower()
    for flag, word in (("--domain", domain), ("--project-name", chosen)):
        check_word(flag, word)
    if len(domain) > _DOMAIN_LIMIT or not _DOMAIN.fullmatch(domain):
        raise ConfigurationError(f"--domain {domain!r}: write a domain in lower case, such as example.com")
    if _RESERVED.search(domain):
        raise ConfigurationError(f"--domain {domain!r}: only Kubernetes itself may have kinds there; write one of your own")
    if len(chosen) > _NAME_LIMIT or not NAME.fullmatch(chosen):
        given = f"--project-name {name!r}" if name else f"--project-name is not given, and the folder's name is {chosen!r}"
        raise ConfigurationError(f"{given}: give one of a-z, then also 0-9 and -, with at most {_NAME_LIMIT} characters")
    files = _rendered("project", Path(), project=Project(domain, chosen), runner_version=runner.__version__)
    files |= {Path("config/grafana", name): text for name, text in dashboards.rendered().items()}
    if (folder / "PROJECT").exists():
        raise ConfigurationError(f"{folder / 'PROJECT'}: this is a project already; add to it with `rolerunner create api`")
    present = sorted(path.name for path in folder.iterdir())
    if strange := [entry for entry in present if not _HARMLESS.fullmatch(entry)]:
        raise ConfigurationError(
            f"{folder.absolute()} is not empty, it has {', '.join(strange[:5])}; make the project in a new folder"
        )
    kept = tuple(path for path in files if (folder / path).exists())
    return _write(folder, {path: text for path, text in files.items() if path not in kept}, {}, kept=kept)


def create_api(folder: Path, project: Project, api: Api, *, role: bool, playbook: bool) -> Scaffolded:
    """Add a kind, with a role, a playbook, a playbook that plays the role, or what is there by its name already.

    Its CRD, and the rights that it needs, are written by `manifests`.
    """
    for other in project.resources:
        if (other.get("group"), other.get("kind")) == (api.group, api.kind):
            crd = f"config/crd/bases/{api.full_group}_{other.get('plural') or api.plural}.yaml"
            raise ConfigurationError(
                f"{folder / 'PROJECT'}: it has the kind {api.kind} of {api.full_group} already, in {other.get('version')}; "
                f"choose another --kind, or add a version to {crd}"
            )
    what, runs = _content(folder, api, role=role, playbook=playbook)
    specs = runs / "meta" / "argument_specs.yml" if what == "role" else runs.with_suffix(".argument_specs.yml")
    names = {"api": api, "project": project, "role": role, "playbook": playbook, "what": what, "runs": runs, "specs": specs}
    sample = f"{api.group}_{api.version}_{api.singular}.yaml"
    crd = f"{api.full_group}_{api.plural}.yaml"
    users = {f"{api.name}_{who}_role.yaml": f"api/{who}_role.yaml" for who in ("admin", "editor", "viewer")}
    new = {
        Path("config/samples", sample): _render("api/sample.yaml", **names),
        Path("molecule/default/tasks", f"{api.name}_test.yml"): _render("api/test.yml", **names),
        **{Path("config/rbac", file): _render(template, **names) for file, template in users.items()},
    }
    if role:
        new |= _rendered("api/role", Path("roles", api.name), **names)
    if playbook:
        new[Path("playbooks", f"{api.name}.yml")] = _render("api/playbook.yml", **names)
    if not _has_specs(what, folder / runs):
        new[specs] = _render("api/argument_specs.yml", **names)
    changed: Files = {}
    for file, key, items in (
        *_additions_to_the_ring(folder, names),
        ("config/crd/kustomization.yaml", "resources", [f"- bases/{crd}\n"]),
        ("config/samples/kustomization.yaml", "resources", [f"- {sample}\n"]),
        ("config/rbac/kustomization.yaml", "resources", [f"- {file}\n" for file in users]),
        ("watches.yaml", "", [_render("api/watch.yaml", **names)]),
        # Last, so that a project whose disk was full in between can be tidied up and told again.
        ("PROJECT", "resources", [_render("api/resource.yaml", **names)]),
    ):
        path = folder / file
        text = _read(path) if path.exists() else _render(f"project/{file}", project=project)
        if file == "watches.yaml":
            _refuse_second_watch(text, path, api)
        for item in items:
            text = yaml_edit.add(text, item, key=key, where=path)
        changed[Path(file)] = text
    scaffolded = _write(folder, new, changed)
    # `manifests` puts CRDs into the first of its folders that is there.
    (folder / "config/crd/bases").mkdir(exist_ok=True)
    return scaffolded


def _additions_to_the_ring(folder: Path, names: Mapping[str, object]) -> Iterator[tuple[str, str, list[str]]]:
    """A kind's entries in the files of config/sharded, which not every project has: (file, key, items)."""
    if (folder / "config/sharded").is_dir():
        for file, key, template in (
            ("controller_ring.yaml", "spec.resources", "api/ring_resource.yaml"),
            ("shard_role.yaml", "rules", "api/shard_rule.yaml"),
            ("sharder_role.yaml", "rules", "api/sharder_rule.yaml"),
        ):
            yield f"config/sharded/{file}", key, [_render(template, **names)]


def _content(folder: Path, api: Api, *, role: bool, playbook: bool) -> tuple[str, Path]:
    """The watch's key (`role` or `playbook`) and the path of what is run."""
    role_folder, playbook_file = Path("roles", api.name), Path("playbooks", f"{api.name}.yml")
    for wanted, path, flag in ((role, role_folder, "--generate-role"), (playbook, playbook_file, "--generate-playbook")):
        if wanted and (folder / path).exists():
            raise ConfigurationError(
                f"{folder / path} is there already; leave out {flag} to use it as it is, or move it away"
            )
    if playbook or (not role and (folder / playbook_file).exists()):
        return "playbook", playbook_file
    if not role and not (folder / role_folder).exists():
        raise ConfigurationError(
            f"there is nothing for {api.kind} to run: give --generate-role or --generate-playbook, "
            f"or bring {role_folder} or {playbook_file}"
        )
    return "role", role_folder


def _has_specs(what: str, path: Path) -> bool:
    found = argument_specs.find(**{"role": None, "playbook": None, what: path})
    content = argument_specs.read(found) if found else None
    return isinstance(content, dict) and "argument_specs" in content


def _refuse_second_watch(text: str, path: Path, api: Api) -> None:
    for watch in yaml_edit.documents(text, path)[:1]:
        for entry in watch if isinstance(watch, list) else ():
            if isinstance(entry, dict) and (entry.get("group"), entry.get("kind")) == (api.full_group, api.kind):
                raise ConfigurationError(
                    f"{path}: {api.kind} of {api.full_group} is watched already; remove that watch first"
                )


def _render(template: str, **names: object) -> str:
    return _JINJA.get_template(template).render(names)


def _rendered(below: str, to: Path, **names: object) -> Files:
    """Render a folder of templates, for the same paths below `to`."""
    paths = sorted(path for path in (TEMPLATES / below).rglob("*") if path.is_file())
    return {
        to / path.relative_to(TEMPLATES / below): _render(path.relative_to(TEMPLATES).as_posix(), **names) for path in paths
    }


def _read(path: Path) -> str:
    """Read a file with its line ends as they are. Raises ConfigurationError."""
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error


def _write(folder: Path, new: Files, changed: Files, *, kept: tuple[Path, ...] = ()) -> Scaffolded:
    """Write the files. Raises ConfigurationError, and writes nothing if one of the new files exists."""
    if there := sorted(str(folder / path) for path in new if (folder / path).exists()):
        raise ConfigurationError(f"{', '.join(there)}: there already, and not overwritten; move it away first")
    updated = tuple(path for path, text in changed.items() if not (folder / path).exists() or _read(folder / path) != text)
    try:
        for path in (*new, *updated):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with open(folder / path, "x" if path in new else "w", encoding="utf-8", newline="") as file:
                file.write((new if path in new else changed)[path])
    except OSError as error:
        raise ConfigurationError(f"{error.filename}: cannot be written: {error.strerror}") from error
    return Scaffolded(tuple(new), updated, kept)
