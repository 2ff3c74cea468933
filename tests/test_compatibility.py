"""docs/compatibility.md has a row for everything that users of ansible-operator may rely on, and each row its test."""

import re
from pathlib import Path

import pytest
import yaml

from bench.driver import ROOT
from runner import metrics
from runner.config import annotations, watches
from tests.test_cli import OWN_FLAGS, PEERS_FLAGS

PAGE = (ROOT / "docs" / "compatibility.md").read_text()
ROWS = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in PAGE.splitlines() if line.startswith("| ")]
MODULES = sorted((ROOT / "runner/collections/ansible_collections/operator_sdk/util/plugins/modules").glob("[!_]*.py"))


def told() -> set[str]:
    """Everything that the first cells of the tables name."""
    return {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[0])}


def arguments(module: Path) -> set[str]:
    """The options of a module, by its own documentation."""
    (text,) = re.findall(r'^DOCUMENTATION = r?"""(.*?)"""', module.read_text(), re.MULTILINE | re.DOTALL)
    return set(yaml.safe_load(text)["options"])


def test_every_watches_key_has_a_row() -> None:
    assert told() >= set(watches.WATCH.names)


def test_every_flag_has_a_row() -> None:
    assert told() >= PEERS_FLAGS | OWN_FLAGS


def test_every_annotation_has_a_row() -> None:
    assert {annotations.PREFIX + name for name, *_ in annotations._OVERRIDES} <= told()


def test_every_series_has_a_row() -> None:
    assert {family.name for family in metrics.REGISTRY.collect()} <= {name.removesuffix("_total") for name in told()}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_module_argument_has_a_row(path: Path) -> None:
    rows = [row for row in ROWS if row[0] == f"`{path.stem}`"]
    assert set(re.findall(r"`([^`]+)`", " ".join(row[2] for row in rows))) >= arguments(path)


def test_every_row_is_shown_by_a_test_that_exists() -> None:
    missing = []
    for row in ROWS:
        if len(row) < 4 or row[3] in ("shown by", "---"):
            continue
        references = re.findall(r"`([\w/.]+)(?:::(\w+))?`", row[3])
        if not references and row[1] != "absent":
            missing.append(row[0])
        for file, name in references:
            path = ROOT / "tests" / file
            if not path.exists() or (name and f"def {name}(" not in path.read_text()):
                missing.append(f"{file}::{name}")
    assert missing == []
