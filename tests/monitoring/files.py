"""The dashboards and alerts of the example operator: the files of `config/`, and what they have to be."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bench.driver import ROOT
from devkit.scaffolding import project

CONFIG = ROOT / "config"
RULES = CONFIG / "prometheus" / "rules.yaml"
RUNBOOK = CONFIG / "prometheus" / "runbook.md"


@functools.cache
def expected() -> Mapping[Path, str]:
    """As `rolerunner init` makes them for an operator of the example's name."""
    with tempfile.TemporaryDirectory() as folder:
        project.init(Path(folder), domain="example.com", name="memcached-operator")
        made = Path(folder) / "config"
        found = [*(made / "grafana").iterdir(), *(made / path.relative_to(CONFIG) for path in (RULES, RUNBOOK))]
        return {CONFIG / path.relative_to(made): path.read_text() for path in found}


def dashboards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((CONFIG / "grafana").glob("*.json"))}


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Without the titles of rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def alerts() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"]]


def groups() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["spec"]["groups"]
    return found
