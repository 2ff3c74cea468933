"""An operator's folder as its image and its Deployment make it a running operator: files, environment, flags, CRDs, sample.

Read where the operator itself says it: the Dockerfile's COPY, ENV and ENTRYPOINT; the env and args of the manager's
container, in a Deployment or a ClusterServiceVersion; config/crd and config/samples. What a RUN does is not done.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.compat.operators.description import Description, DescriptionError

# The image's home folder, Python and Ansible configuration, which roles and manifests name.
HOME, PYTHON, CONFIGURATION = "/opt/ansible", "/usr/local/bin/python3", "/etc/ansible/ansible.cfg"

_DOCKERFILES = ("Dockerfile", "build/Dockerfile", "Containerfile", "build/Containerfile")
_DEPLOYMENTS = ("config/manager", "config/default", "config", "deploy", "manifests", "bundle/manifests")
_CRDS = ("config/crd/bases", "config/crd", "crds", "deploy/crds", "bundle/manifests")
_SAMPLES = ("config/samples", "deploy/crds", "examples", "deploy")

# The trial gives its own, or needs none.
_OTHERS_FLAGS = re.compile(
    r"--(leader-elect.*|enable-leader-election|health-probe-bind-address|metrics-.*|proxy-port|config|enable-http2)(=.*|$)"
)
_VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}|\$(\w+)")
_MANAGER_VARIABLE = re.compile(r"\$\((\w+)\)")

# Names of numbers that are meant to be changed.
_SIZES = re.compile(r"(size|replicas|count)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What the operator's own files say of how it is run. `copies`: (source in the folder, place below HOME)."""

    folder: Path
    watches: str
    copies: tuple[tuple[str, str], ...]
    environment: Mapping[str, str]
    flags: tuple[str, ...]
    # Of the manager's pod.
    labels: Mapping[str, str]
    crds: tuple[Mapping[str, Any], ...]
    sample: Mapping[str, Any]
    objects: tuple[Mapping[str, Any], ...]
    # To be merged into the CR; None where nothing to change is known.
    change: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class _Built:
    """What a Dockerfile says."""

    copies: tuple[tuple[str, str], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()


def read(folder: Path, description: Description) -> Image:
    """What the folder and the description say together. DescriptionError where they do not suffice."""
    built = _dockerfile(folder)
    manager = _manager(folder, description)
    environment = {
        **{name: value for name, value in built.environment.items() if name not in ("HOME", "PATH")},
        **manager.environment,
        **{name: value for name, value in description.environment.items() if value is not None},
    }
    for name, value in description.environment.items():
        if value is None:
            environment.pop(name, None)
    flags = [expand(flag, environment) for flag in (*_operator_flags(built.entrypoint), *_operator_flags(manager.command))]
    watches = _watches_file(folder, description, flags, built.copies)
    flags = [flag for flag in flags if not _OTHERS_FLAGS.match(flag) and not flag.startswith("--watches-file")]
    kinds = _kinds(folder / _source(watches, built.copies))
    crds = _crds(folder, description, kinds)
    sample, others = _sample(folder, description, kinds)
    sample = merged(sample, {"spec": description.spec}) if description.spec else sample
    return Image(
        folder=folder,
        watches=watches,
        copies=built.copies,
        environment=environment,
        flags=(*flags, *description.flags),
        labels=manager.labels,
        crds=tuple(crds),
        sample=sample,
        objects=(*others, *description.objects),
        change=({"spec": description.change} if description.change else None) if description.changes else _change(sample),
    )


def build(image: Image, home: Path, *, python: str, description: Description) -> None:
    """Make the image's home folder, with this machine's paths where the files name the image's."""
    if image.copies:
        home.mkdir(parents=True)
        for source, target in image.copies:
            _copy(image.folder / source, home / target)
    else:
        shutil.copytree(image.folder, home, ignore=shutil.ignore_patterns(".git"), symlinks=True)
    if not (home / "ansible.cfg").exists():
        (home / "ansible.cfg").write_text(f"[defaults]\nroles_path = {HOME}/roles\n")
    given = {text: instead.format(python=python, home=home) for text, instead in description.replace.items()}
    replace(home, relocations(home, python) | given)


def relocations(home: Path, python: str) -> dict[str, str]:
    """The image's paths, and where they are on this machine."""
    return {CONFIGURATION: str(home / "ansible.cfg"), PYTHON: python, HOME: str(home)}


def replace(folder: Path, texts: Mapping[str, str]) -> None:
    """Replace texts in all files that have one of them; what is no text stays."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            changed = content
            for old, new in texts.items():
                changed = changed.replace(old.encode(), new.encode())
            if changed != content and b"\0" not in content:
                path.write_bytes(changed)


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Kubernetes' `$(NAME)` of a container's args."""
    return _MANAGER_VARIABLE.sub(lambda found: environment.get(found[1], found[0]), text)


def merged(obj: Any, patch: Any) -> Any:
    """A JSON merge patch, applied."""
    if not (isinstance(obj, Mapping) and isinstance(patch, Mapping)):
        return patch
    result = {name: value for name, value in obj.items() if patch.get(name, value) is not None}
    for name, value in patch.items():
        if value is not None:
            result[name] = merged(obj.get(name), value) if isinstance(value, Mapping) else value
    return result


def documents(place: Path) -> Iterator[dict[str, Any]]:
    """Objects of a YAML file, or of all that are below a folder. What is a template or no YAML is passed over in folders."""
    if place.is_dir():
        for path in sorted(place.rglob("*.y*ml"), key=_by_version):
            if path.name != "kustomization.yaml":
                try:
                    yield from documents(path)
                except DescriptionError:
                    continue
        return
    try:
        for document in yaml.safe_load_all(place.read_text()):
            if isinstance(document, dict) and document.get("kind"):
                yield document
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DescriptionError(f"{place}: {error}") from error


def _by_version(path: Path) -> list[tuple[int, str]]:
    """2.9.0 before 2.10.0."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _dockerfile(folder: Path) -> _Built:
    path = next((folder / name for name in _DOCKERFILES if (folder / name).is_file()), None)
    return parse_dockerfile(path.read_text(), folder) if path else _Built()


def parse_dockerfile(text: str, folder: Path) -> _Built:
    """The last stage's COPYs from the folder to below HOME, its ENV, and its ENTRYPOINT with CMD."""
    copies: list[tuple[str, str]] = []
    variables: dict[str, str] = {"HOME": HOME}
    environment: dict[str, str] = {}
    entrypoint: list[str] = []
    command: list[str] = []
    workdir = HOME
    for instruction, rest in _instructions(text):
        if instruction == "FROM":
            copies, environment, entrypoint, command, workdir = [], {}, [], [], HOME
        elif instruction == "ARG":
            name, _, value = rest.partition("=")
            variables.setdefault(name.strip(), value.strip().strip("\"'"))
        elif instruction == "ENV":
            for name, value in _assignments(rest):
                variables[name] = environment[name] = _substituted(value, variables)
        elif instruction == "WORKDIR":
            workdir = os.path.join(workdir, _substituted(rest, variables))
        elif instruction in ("COPY", "ADD") and "--from=" not in rest:
            *sources, target = _words(_substituted(rest, variables))
            copies += _copied(folder, sources, os.path.join(workdir, target))
        elif instruction == "ENTRYPOINT":
            entrypoint = _words(rest)
        elif instruction == "CMD":
            command = _words(rest)
    return _Built(tuple(copies), environment, (*entrypoint, *command))


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction:
            yield instruction.upper(), rest.strip()


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    words = shlex.split(text)
    if words and "=" not in words[0]:
        yield words[0], " ".join(words[1:])
        return
    for word in words:
        name, _, value = word.partition("=")
        yield name, value


def _substituted(text: str, variables: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: variables.get(found[1] or found[3]) or found[2] or "", text)


def _words(text: str) -> list[str]:
    if text.lstrip().startswith("["):
        try:
            return [str(word) for word in json.loads(text)]
        except ValueError:
            return []
    return [word for word in shlex.split(text) if not word.startswith("--ch")]


def _copied(folder: Path, sources: Sequence[str], target: str) -> Iterator[tuple[str, str]]:
    if target != HOME and not target.startswith(HOME + "/"):
        if target != CONFIGURATION:
            return
        target = f"{HOME}/ansible.cfg"
    below = os.path.relpath(target, HOME)
    for pattern in sources:
        for source in sorted(folder.glob(pattern.lstrip("./"))) if pattern.strip("./") else [folder]:
            # A folder's content is copied, a file as the target, or into it.
            into = target.endswith("/") or target == HOME or len(sources) > 1 or "*" in pattern
            place = os.path.join(below, source.name) if source.is_file() and into else below
            yield str(source.relative_to(folder)), os.path.normpath(place)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _source(place: str, copies: Sequence[tuple[str, str]]) -> str:
    """Where in the folder a file of the image comes from."""
    for source, target in reversed(copies):
        if place == target:
            return source
        if place.startswith(target.rstrip("/") + "/"):
            return os.path.join(source, os.path.relpath(place, target))
    return place


def _operator_flags(words: Sequence[str]) -> list[str]:
    """Flags of `run` out of a command line, each as one word."""
    flags: list[str] = []
    for word in words:
        if word.startswith("-"):
            flags.append(word)
        elif flags and "=" not in flags[-1] and flags[-1] != "--":
            flags[-1] += f"={word}"
    return [flag for flag in flags if flag != "--"]


def _watches_file(folder: Path, description: Description, flags: Sequence[str], copies: Sequence[tuple[str, str]]) -> str:
    named = [flag.partition("=")[2] for flag in flags if flag.startswith("--watches-file")]
    watches = os.path.normpath(description.watches or (named[-1] if named else "watches.yaml"))
    watches = os.path.relpath(watches, HOME) if watches.startswith(HOME) else watches
    if not (folder / _source(watches, copies)).is_file():
        raise DescriptionError(f"{folder}: there is no {watches}; a description may name the watches file (watches: …)")
    return watches


def _kinds(watches: Path) -> list[tuple[str, str]]:
    """(group, kind) of each watch."""
    content = yaml.safe_load(watches.read_text()) or []
    if not (isinstance(content, list) and all(isinstance(watch, dict) for watch in content)):
        raise DescriptionError(f"{watches}: a list of watches is expected")
    return [(str(watch.get("group") or ""), str(watch.get("kind"))) for watch in content]


@dataclass(frozen=True, slots=True)
class _Manager:
    """What the manager's pod says, in a Deployment or a ClusterServiceVersion."""

    environment: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


def _manager(folder: Path, description: Description) -> _Manager:
    """The manager's pod; with nothing in it where no Deployment is found."""
    for place in [description.deployment] if description.deployment else _DEPLOYMENTS:
        if (folder / place).exists():
            pods = [(document["kind"], pod) for document in documents(folder / place) if (pod := _pod(document))]
            # Of a bundle's ClusterServiceVersions the newest counts.
            chosen = next((pod for kind, pod in pods if kind == "Deployment"), pods[-1][1] if pods else None)
            if chosen:
                # The container that is no sidecar: the one with variables, or the first.
                containers = chosen["spec"]["containers"]
                container = next((item for item in containers if item.get("env")), containers[0])
                return _Manager(
                    {entry["name"]: _value(entry) for entry in container.get("env") or ()},
                    tuple(str(word) for word in (*(container.get("command") or ()), *(container.get("args") or ()))),
                    (chosen.get("metadata") or {}).get("labels") or {},
                )
    if description.deployment:
        raise DescriptionError(f"{folder / description.deployment}: there is no Deployment in it")
    return _Manager()


def _value(entry: Mapping[str, Any]) -> str:
    """A variable's value; `{namespace}` and `{name}` stand for the pod's, which the trial knows."""
    if "valueFrom" not in entry:
        return str(entry.get("value") or "")
    place = ((entry["valueFrom"] or {}).get("fieldRef") or {}).get("fieldPath", "")
    return POD_NAME if place == "metadata.name" else POD_NAMESPACE


# No text of a variable's own.
POD_NAME, POD_NAMESPACE = "\0name", "\0namespace"


def _pod(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A Deployment's pod template, if it has containers."""
    spec = document.get("spec") or {}
    if document.get("kind") == "ClusterServiceVersion":
        deployments = ((spec.get("install") or {}).get("spec") or {}).get("deployments") or [{}]
        spec = deployments[0].get("spec") or {}
    elif document.get("kind") != "Deployment":
        return None
    template: Mapping[str, Any] = spec.get("template") or {}
    return template if (template.get("spec") or {}).get("containers") else None


def _crds(folder: Path, description: Description, kinds: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The CRDs of the watched kinds, and whatever others are in the same places."""
    for place in [description.crds] if description.crds else [(name,) for name in _CRDS]:
        found: dict[str, dict[str, Any]] = {}
        for name in place:
            if description.crds and not (folder / name).exists():
                raise DescriptionError(f"{folder}: there is no {name}, which the description names for its CRDs")
            if (folder / name).exists():
                for document in documents(folder / name):
                    if document["kind"] == "CustomResourceDefinition":
                        found[document["metadata"]["name"]] = document
        if found:
            return list(found.values())
    if any("." in group and not group.endswith(".k8s.io") for group, _ in kinds):
        raise DescriptionError(f"{folder}: no CRDs in {', '.join(_CRDS)}; a description may name their place (crds: […])")
    return []


def _sample(
    folder: Path, description: Description, kinds: Sequence[tuple[str, str]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The CR of the first watched kind that has a sample, and the other objects of its file."""
    files = [folder / description.sample] if description.sample else _sample_files(folder)
    for wanted in kinds:
        for path in files:
            try:
                objects = list(documents(path))
            except DescriptionError:
                if description.sample:
                    raise
                continue
            for number, obj in enumerate(objects):
                group = str(obj.get("apiVersion", "")).rpartition("/")[0]
                if (group, obj["kind"]) == wanted and (group, obj["kind"]) != ("", "Secret"):
                    return obj, objects[:number] + objects[number + 1 :]
    where = description.sample or ", ".join(_SAMPLES)
    raise DescriptionError(f"{folder}: no sample of a watched kind in {where}; a description may name one (sample: FILE)")


def _sample_files(folder: Path) -> list[Path]:
    """In the order of config/samples' kustomization, then by name."""
    files: list[Path] = []
    for name in _SAMPLES:
        place = folder / name
        listed = place / "kustomization.yaml"
        if listed.is_file():
            content = yaml.safe_load(listed.read_text()) or {}
            files += [place / entry for entry in content.get("resources") or () if (place / entry).is_file()]
        files += [path for path in sorted(place.rglob("*.y*ml")) if path.name != "kustomization.yaml" and path not in files]
    return files


def _change(sample: Mapping[str, Any]) -> dict[str, Any] | None:
    """A merge patch that makes a number of the spec one larger: of replicas if there is such a field, else the first."""
    numbers = list(_numbers(sample.get("spec") or {}, ()))
    if not numbers:
        return None
    path, value = next(((path, value) for path, value in numbers if _SIZES.search(path[-1])), numbers[0])
    patch: Any = value + 1
    for name in reversed(("spec", *path)):
        patch = {name: patch}
    return dict(patch)


def _numbers(value: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    for name, inner in value.items():
        if isinstance(inner, int) and not isinstance(inner, bool):
            yield (*path, str(name)), inner
        elif isinstance(inner, Mapping):
            yield from _numbers(inner, (*path, str(name)))
