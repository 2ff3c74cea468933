"""The alerts of config/prometheus/rules.yaml, played by Prometheus' own promtool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.driver import ROOT
from tests.monitoring import files, promtool, queries

TESTS = Path(__file__).with_name("alerts.yaml")
ALERTS = [pytest.param(alert, id=alert["alert"]) for alert in files.alerts()]
JOB = ("job", "=", "memcached-operator-metrics-service")
# Of the Prometheus object.
MONITORS_KEYS = {"serviceMonitorSelector", "ruleSelector"}
PAGE = files.RUNBOOK.read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the rules as promtool reads them, outside of the Prometheus operator's object, and their tests."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": files.groups()}))
    (tmp_path / "alerts.yaml").write_text(TESTS.read_text())
    return tmp_path


def checked(folder: Path, *arguments: str) -> str:
    program = promtool.find()
    if program is None:
        pytest.skip("there is neither promtool nor Go to build it with")
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_them(folder: Path) -> None:
    said = checked(folder, "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")
    assert f"SUCCESS: {len(ALERTS)} rules found" in said


def test_each_fires_when_it_should_and_not_before(folder: Path) -> None:
    assert "SUCCESS" in checked(folder, "test", "rules", "alerts.yaml")


def test_each_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["promql_expr_test"]]
    for fires in (True, False):
        told = {re.findall(r'alertname="(\w+)"', case["expr"])[0] for case in cases if bool(case["exp_samples"]) is fires}
        assert told == {alert["alert"] for alert in files.alerts()}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_names_what_the_runner_has(alert: dict[str, Any]) -> None:
    labels = queries.labels(alert["expr"])
    for text in alert["annotations"].values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels, text
    # It concerns this operator alone, and each of its namespaces on its own.
    assert all(JOB in each.matchers for each in queries.selected(alert["expr"]))
    assert "job" in labels
    assert "namespace" in labels or "absent" in alert["expr"]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    annotations = alert["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert len(annotations["description"]) > 80
    # A file of the project, and the anchor that GitHub and the site make of its title.
    path, _, anchor = annotations["runbook_url"].partition("#")
    assert (ROOT / path, anchor) == (files.RUNBOOK, alert["alert"].lower())
    assert f"\n## {alert['alert']}\n" in PAGE


def test_the_address_of_the_runbook_is_set_once(tmp_path: Path) -> None:
    """As docs/monitoring.md says; who does it again changes nothing."""
    page = (ROOT / "docs" / "monitoring.md").read_text()
    (command,) = (block for block in re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) if "sed" in block)
    rules = tmp_path / files.RULES.relative_to(ROOT)
    rules.parent.mkdir(parents=True)
    before = files.RULES.read_text()
    rules.write_text(before)
    for _ in range(2):
        subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True)
        found = re.findall(r"runbook_url: (.*)config/prometheus/runbook\.md#", rules.read_text())
        assert found == ["https://git.example.com/team/memcached-operator/blob/main/"] * len(ALERTS)
        assert rules.read_text().replace(found[0], "") == before
    assert list(rules.parent.iterdir()) == [rules]


def test_the_links_of_the_runbook_lead_to_its_alerts() -> None:
    """They are the only ones: a project has no other page."""
    titles = {f"#{alert['alert'].lower()}" for alert in files.alerts()}
    assert set(re.findall(r"\]\(([^)]*)\)", PAGE)) <= titles


def test_the_page_has_no_other_alerts() -> None:
    assert set(re.findall(r"^## (Operator\w+)$", PAGE, re.MULTILINE)) == {alert["alert"] for alert in files.alerts()}


def test_flags_keys_and_log_lines_that_are_named_exist() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "runner").rglob("*.py"))
    pages = PAGE + (ROOT / "docs" / "monitoring.md").read_text()
    texts = [pages.replace("`Failure`", ""), *(alert["annotations"]["description"] for alert in files.alerts())]
    # A log line stands in quotation marks, on the page in a code span.
    name = r"`(--[\w-]+|[a-z]+[A-Z]\w+|[A-Z]\w*(?: [\w']+)+)`|\(\"([^\"]+)\"\)"
    found = {"".join(each) for text in texts for each in re.findall(name, " ".join(text.split()))}
    assert len(found) > 10
    assert {each for each in found if f'"{each}' not in source and each not in MONITORS_KEYS} == set()
