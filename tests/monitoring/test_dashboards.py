"""The dashboards of config/grafana: they name series and labels that the runner has, and show each of its series."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bench.driver import ROOT
from devkit.scaffolding.dashboards import OWN_SERIES
from tests.monitoring import files, queries

DASHBOARDS = files.dashboards()
PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}") for name, found in DASHBOARDS.items() for panel in files.panels(found)
]
# Of those that Grafana knows.
UNITS = {"short", "s", "ops", "reqps", "percentunit", "bytes"}


@pytest.mark.parametrize("path", files.expected(), ids=lambda path: path.name)
def test_the_example_has_what_new_projects_have(path: Path) -> None:
    assert path.read_text() == files.expected()[path], "write it with `python -m tests.monitoring`"


def test_there_are_no_others() -> None:
    assert {path for path in files.expected() if path.suffix == ".json"} == set((ROOT / "config" / "grafana").iterdir())


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_s_queries_name_what_the_runner_has(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert legend <= queries.labels(target["expr"]), target["expr"]
        # Lines of one panel that have the same legend cannot be told apart.
        aggregated = queries.labels(target["expr"]) - queries.TARGET
        assert aggregated <= legend, target["expr"]


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_is_of_the_chosen_operator_alone(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        found = queries.selected(target["expr"])
        assert found
        for each in found:
            wanted = {("namespace", "=", "$namespace"), ("pod", "=~", "$pod")}
            wanted.add(("container", "=", "manager") if each.name in queries.KUBELET else ("job", "=", "$job"))
            assert wanted <= set(each.matchers), target["expr"]


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 20
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert {str(target["datasource"]) for target in panel["targets"]} == {str(panel["datasource"])}
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert len(set(legends)) == len(legends)
    assert all(legends)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_variables_are_there_and_in_an_order_that_works(name: str) -> None:
    dashboard, known = DASHBOARDS[name], {"__rate_interval"}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            assert set(re.findall(r"\$(\w+)", query)) <= known, query
            (series, label) = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()  # type: ignore[union-attr]
            assert label in queries.labels(series) | {"__name__"}, query
        known.add(variable["name"])
    used = {
        name
        for panel in files.panels(dashboard)
        for target in panel["targets"]
        for name in re.findall(r"\$(\w+)", target["expr"])
    }
    assert used <= known
    # One that no query has would change nothing.
    assert known - used <= {"datasource", "__rate_interval"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_their_place(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_names_of_their_own() -> None:
    for key in ("uid", "title"):
        assert len({dashboard[key] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)
    for dashboard in DASHBOARDS.values():
        numbers = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(numbers)) == len(numbers)


def test_each_series_of_the_runner_is_shown() -> None:
    shown = {
        each.name
        for dashboard in DASHBOARDS.values()
        for panel in files.panels(dashboard)
        for target in panel["targets"]
        for each in queries.selected(target["expr"])
    }
    # Of a histogram one of its three is enough.
    base = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in queries.exposed()} - base == set()


def test_only_what_roles_report_is_taken_for_that() -> None:
    assert [name for name in queries.exposed() if not re.fullmatch(OWN_SERIES, name)] == []
    assert not re.fullmatch(OWN_SERIES, "role_backups_total")
