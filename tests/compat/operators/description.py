"""What is special about an operator: a small YAML file, `descriptions/NAME.yaml` for the operators that were tried.

Every key may be absent; an operator in the Operator SDK's form needs no description at all.

    watches: watches.yaml           # the watches file, as the image has it
    deployment: config/manager      # where its Deployment (or ClusterServiceVersion) is: a file or a folder
    crds: [config/crd/bases]        # files or folders
    sample: config/samples/a.yaml   # the CR; other objects in this file are created before it
    spec: {}                        # merged into the sample's spec
    change: {replicas: 2}           # merged into the spec of the CR that is Successful; null: nothing to change
    environment: {NAME: value}      # beside that of the Dockerfile and the Deployment; null takes a variable away
    flags: [--max-concurrent-reconciles=1]
    replace: {/usr/bin/python3: "{python}"}   # texts of the image that mean something else on this machine
    objects: []                     # created beforehand
    exec: {psql: "#!/bin/sh ...", bash: /bin/bash}   # programs that containers are taken to have: a script or a program
    programs: {tool: "#!/bin/sh ..."}         # programs that the image has and this machine may lack
    services: {/status/: {ok: true}}          # what HTTP services answer, by the end of the path
    expected:                       # what differs between any two installations
    - {object: "Secret/*", field: "data.salt", why: made from the time}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.compat.operators.comparison import Expected

FOLDER = Path(__file__).parent / "descriptions"


class DescriptionError(Exception):
    """The operator's folder or description is not usable; the message says what to correct."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """See the module's docstring. None, or empty: to be found in the operator's folder."""

    watches: str | None = None
    deployment: str | None = None
    crds: tuple[str, ...] = ()
    sample: str | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    change: Mapping[str, Any] | None = None
    # Whether `change` was given: null means that nothing is to be changed.
    changes: bool = False
    environment: Mapping[str, str | None] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    replace: Mapping[str, str] = field(default_factory=dict)
    objects: tuple[Mapping[str, Any], ...] = ()
    exec: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    services: Mapping[str, Any] = field(default_factory=dict)
    expected: tuple[Expected, ...] = ()


_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("watches", "deployment", "sample"), (str,)),
    **dict.fromkeys(("crds", "flags", "objects", "expected"), (list,)),
    **dict.fromkeys(("spec", "environment", "replace", "exec", "programs", "services"), (dict,)),
    "change": (dict, type(None)),
}


def find(operator: Path) -> Path | None:
    """The description of an operator in a folder such as `awx` or `awx-operator`, if it is one of ours."""
    words = re.split(r"[-_.]", operator.name.lower())
    return next((path for path in sorted(FOLDER.glob("*.yaml")) if path.stem in words), None)


def load(path: Path | None) -> Description:
    """A description from its file; the defaults without one. DescriptionError."""
    if path is None:
        return Description()
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise DescriptionError(f"{path}: {error}") from error
    return parse(content or {}, str(path))


def parse(content: Any, where: str) -> Description:
    """A description from its decoded file. DescriptionError."""
    if not isinstance(content, dict):
        raise DescriptionError(f"{where}: a mapping is expected, with some of {', '.join(_TYPES)}")
    for name, value in content.items():
        if name not in _TYPES:
            raise DescriptionError(f"{where}: unknown key {name!r}; the keys are {', '.join(_TYPES)}")
        if not isinstance(value, _TYPES[name]):
            kinds = {str: "text", list: "a list", dict: "a mapping", type(None): "null"}
            raise DescriptionError(f"{where}: {name} must be {' or '.join(kinds[kind] for kind in _TYPES[name])}")
    given: dict[str, Any] = dict(content)
    given["changes"] = "change" in content
    given["environment"] = {
        name: value if value is None else str(value) for name, value in content.get("environment", {}).items()
    }
    for name in ("crds", "flags", "objects"):
        given[name] = tuple(content.get(name, ()))
    try:
        given["expected"] = tuple(Expected(**rule) for rule in content.get("expected", ()))
    except TypeError as error:
        raise DescriptionError(f"{where}: each entry of expected has object, field and why ({error})") from error
    return Description(**given)
