"""Every error of the engine and the kit stands in one tree, and the tree is drawn."""

from __future__ import annotations

import ast
import builtins
import re

from bench.driver import ROOT
from runner import errors
from runner.kube.client import KubeError


def bases() -> dict[str, set[str]]:
    """The classes of runner and devkit by name, with the names of their bases."""
    found: dict[str, set[str]] = {}
    for path in [*(ROOT / "runner").rglob("*.py"), *(ROOT / "devkit").rglob("*.py")]:
        if not {"collections", "templates"} & set(path.relative_to(ROOT).parts):
            classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
            found |= {node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases} for node in classes}
    return found


def test_every_error_derives_from_the_base_and_is_drawn() -> None:
    found = bases()
    exceptions = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)}
    tree = {errors.RolerunnerError.__name__}
    while more := {name for name, above in found.items() if above & tree} - tree:
        tree |= more
    assert {name for name, above in found.items() if above & exceptions} <= tree
    drawings = f"{errors.__doc__}{KubeError.__doc__}"
    assert set(re.findall(r"^[ │├└─]*(?:├── |└── )(\w+)", drawings, re.MULTILINE)) | {"RolerunnerError"} == {
        name for name in tree if not name.startswith("_")
    }
