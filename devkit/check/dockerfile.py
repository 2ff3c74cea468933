"""An operator's Dockerfile: the image that it was built on, what it installs, and what it expects to find there."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from devkit.check import sources
from devkit.check.findings import Finding, Level
from devkit.check.sources import relative

_NAMES = ("Dockerfile", "Containerfile", "build/Dockerfile", "build/Containerfile", "docker/Dockerfile")
_IMAGE = re.compile(r"(?:^|/)(?:ose-)?ansible(?:-rhel\d+)?-operator:v?(\d+)\.(\d+)(?:\.(\d+))?")
_VARIABLE = re.compile(r"\$\{?(\w+)(?::-([^}]*))?\}?")
_PIP = re.compile(r"(?:^|/)(?:pip[\d.]*|python[\d.]*|uv)$")
# The first release of operator-framework's ansible-operator with each ansible-core, from its Pipfile.lock.
_CORES: tuple[tuple[tuple[int, int, int], tuple[int, int]], ...] = (
    ((1, 37, 1), (2, 18)),
    ((1, 36, 0), (2, 17)),
    ((1, 32, 0), (2, 15)),
)
# The oldest ansible-core that rolerunner takes.
_OLDEST = (2, 16)
# What operator-framework's image installs packages with, and rolerunner's has not.
_PACKAGERS = frozenset({"dnf", "microdnf", "yum", "rpm", "subscription-manager"})


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction, its continued lines joined, with the line on which it begins."""

    name: str
    value: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """A parsed Dockerfile. `core` is the ansible-core of its base image, as (2, 18), where that is known."""

    file: str
    instructions: tuple[Instruction, ...]
    base: str = ""
    base_line: int = 0
    core: tuple[int, int] | None = None
    # Names of Python packages that it installs, in lower case with dashes.
    python_packages: frozenset[str] = frozenset()
    # Arguments of `ansible-operator run`, and their line.
    arguments: tuple[tuple[int, tuple[str, ...]], ...] = ()


def read(folder: Path, findings: list[Finding]) -> list[Dockerfile]:
    """The Dockerfiles that are an operator's; others, of bundles and catalogues, have neither watches nor roles."""
    found = []
    for path in (folder / name for name in _NAMES):
        if not sources.is_file(path):
            continue
        text = sources.text(path, folder)
        if isinstance(text, Finding):
            findings.append(text)
        elif re.search(r"ansible-operator|watches|roles|rolerunner", text):
            found.append(_read(path, text, folder))
    return found


def compare(dockerfile: Dockerfile, core: tuple[int, ...]) -> Iterator[Finding]:
    """Findings for what differs on rolerunner's image, which has this ansible-core."""
    if dockerfile.core and dockerfile.core != core:
        theirs, here = ".".join(map(str, dockerfile.core)), ".".join(map(str, core))
        nearest = ".".join(map(str, max(dockerfile.core, _OLDEST)))
        remedy = f"build rolerunner's image with ANSIBLE_CORE={nearest}" if nearest != here else "there is no nearer one"
        yield Finding(
            Level.WARNING,
            dockerfile.file,
            dockerfile.base_line,
            f"the operator is written for ansible-core {theirs} (of {dockerfile.base}), and {here} is here; {remedy}",
        )
    for instruction in dockerfile.instructions:
        if instruction.name not in ("RUN", "COPY", "ADD", "ENV"):
            continue
        used = sorted(_PACKAGERS & {words[0].rpartition("/")[2] for words in _commands(instruction)})
        if used:
            yield Finding(
                Level.WARNING,
                dockerfile.file,
                instruction.line,
                f"{', '.join(used)}: rolerunner's image has apt-get, unless its BASE_IMAGE is another; install with that",
            )


def instructions(text: str) -> Iterator[Instruction]:
    """A Dockerfile's instructions. Comments between continued lines go, as they do for docker."""
    parts: list[str] = []
    begin = 0
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    for number, line in (*((number, line) for number, line in lines if line and not line.startswith("#")), (0, "")):
        begin = begin if parts else number
        parts.append(line.removesuffix("\\").strip())
        if line.endswith("\\"):
            continue
        name, _, value = " ".join(parts).strip().partition(" ")
        if name:
            yield Instruction(name.upper(), value.strip(), begin)
        parts = []


def image_core(image: str) -> tuple[int, int] | None:
    """The ansible-core of a release of operator-framework's ansible-operator; None for another image or release."""
    match = _IMAGE.search(image)
    if not match or "ose-" in match[0]:
        return None
    release = (int(match[1]), int(match[2]), int(match[3] or 0))
    return next((core for first, core in _CORES if release >= first), None) if release < (2, 0, 0) else None


def _read(path: Path, text: str, folder: Path) -> Dockerfile:
    found = tuple(instructions(text))
    variables = {**_makefile(folder), **_arguments(found)}
    base, base_line = "", 0
    packages: set[str] = set()
    runs: list[tuple[int, tuple[str, ...]]] = []
    for each in found:
        if each.name == "FROM":
            words = [word for word in each.value.split() if not word.startswith("--")]
            # Of several stages, the one that is an operator's.
            candidate = _expand(words[0], variables) if words else ""
            if not base or image_core(candidate):
                base, base_line = candidate, each.line
        elif each.name in ("ENTRYPOINT", "CMD"):
            runs.append((each.line, tuple(_run_arguments(each.value))))
        for words in _commands(each):
            packages |= set(_pip_packages(words, folder))
    return Dockerfile(
        file=relative(path, folder),
        instructions=found,
        base=base,
        base_line=base_line,
        core=image_core(base),
        python_packages=frozenset(packages),
        arguments=tuple((line, words) for line, words in runs if words),
    )


def _arguments(found: tuple[Instruction, ...]) -> dict[str, str]:
    """ARGs that have a default."""
    pairs = (each.value.partition("=") for each in found if each.name == "ARG" and "=" in each.value)
    return {name.strip(): value.strip().strip("'\"") for name, _, value in pairs}


def _makefile(folder: Path) -> dict[str, str]:
    """Variables that the Makefile sets to plain text, which it may hand over as build arguments."""
    path = folder / "Makefile"
    text = sources.text(path, folder) if path.is_file() else ""
    if isinstance(text, Finding):
        return {}
    return dict(re.findall(r"^(?:export[ \t]+)?(\w+)[ \t]*[?:]?=[ \t]*([^\s$]+)[ \t]*$", text, re.MULTILINE))


def _expand(text: str, variables: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: variables.get(match[1]) or match[2] or match[0], text)


def _commands(instruction: Instruction) -> Iterator[list[str]]:
    """The commands of a RUN, as words."""
    if instruction.name != "RUN":
        return
    for part in re.split(r"&&|\|\||[;|()]|(?:^|\s)[{}](?=\s|$)", instruction.value):
        try:
            words = shlex.split(part)
        except ValueError:
            words = part.split()
        words = [word for word in words if not re.match(r"--mount=|--network=|\w+=", word) or word.startswith("--index")]
        while words and words[0] in ("set", "sudo", "then", "do", "if", "!", "exec", "-e", "-x", "-ex", "-eux"):
            words = words[1:]
        if words:
            yield words


def _pip_packages(words: list[str], folder: Path) -> Iterator[str]:
    if not _PIP.search(words[0]) or "install" not in words:
        return
    # As a program, or as `python3 -m pip`, `uv pip`.
    if not words[0].rpartition("/")[2].startswith("pip") and "pip" not in words:
        return
    rest = words[words.index("install") + 1 :]
    for position, word in enumerate(rest):
        before = rest[position - 1] if position else ""
        if before in ("-r", "--requirement"):
            path = folder / Path(word).name
            text = sources.text(path, folder) if path.is_file() else ""
            if isinstance(text, str):
                yield from (name for line in text.splitlines() if (name := distribution(line)))
        elif not word.startswith("-") and not before.startswith(("-i", "--index", "--extra", "-c", "--target", "-t")):
            name = distribution(word)
            if name:
                yield name


def distribution(requirement: str) -> str:
    """The name in a requirement such as `jmespath>=1.0`, as PyPI spells it."""
    match = re.match(r"\s*([A-Za-z0-9][\w.-]*)", requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""


def _run_arguments(value: str) -> list[str]:
    """The arguments of `ansible-operator run`, or of a CMD that is flags alone."""
    try:
        words = json.loads(value) if value.startswith("[") else shlex.split(value)
    except ValueError:
        return []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return []
    if "run" in words:
        return words[words.index("run") + 1 :]
    return words if words and all(word.startswith("--") for word in words) else []
