"""How panels become Grafana's JSON. Whether they name what there is: tests/monitoring."""

from __future__ import annotations

import json

import yaml

from devkit.scaffolding import dashboards

PANEL = {
    "title": "Waiting",
    "unit": "short",
    "description": "What waits.",
    "queries": [{"expr": "sum(workqueue_depth{$here})", "legend": "all"}, {"expr": "a{$here}", "legend": "a"}],
}


def test_each_file_becomes_one() -> None:
    made = dashboards.rendered()
    assert {name.removesuffix(".json") for name in made} == {path.stem for path in dashboards.SOURCES.iterdir()}
    assert all(json.loads(text)["panels"] for text in made.values())


def test_nothing_that_a_file_says_is_ignored() -> None:
    """A key that nobody reads is a slip of the pen."""
    for path in dashboards.SOURCES.iterdir():
        source = yaml.safe_load(path.read_text())
        assert set(source) <= {"title", "uid", "description", "of", "variables", "rows"}
        for row in source["rows"]:
            assert set(row) == {"title", "panels"}
            for panel in row["panels"]:
                assert set(panel) >= set(PANEL)
                assert set(panel) - set(PANEL) <= {"type", "width", "alarm", "least", "text", "stack", "max", "repeat"}
                for query in panel["queries"]:
                    assert set(query) == {"expr", "legend"}


def test_a_panel() -> None:
    _, panel = dashboards._panels([{"title": "Row", "panels": [PANEL]}])
    assert (panel["type"], panel["gridPos"]) == ("timeseries", {"h": 8, "w": 24, "x": 0, "y": 1})
    assert [target["refId"] for target in panel["targets"]] == ["A", "B"]
    assert panel["targets"][0]["expr"] == ('sum(workqueue_depth{namespace="$namespace", job="$job", pod=~"$pod"})')
    assert panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "none"
    assert "repeat" not in panel


def test_what_a_panel_may_have() -> None:
    (_, stat, graph) = dashboards._panels(
        [
            {
                "title": "Row",
                "panels": [{**PANEL, "type": "stat", "alarm": 5, "text": "name"}, {**PANEL, "stack": True, "max": 1}],
            }
        ]
    )
    assert [step["value"] for step in stat["fieldConfig"]["defaults"]["thresholds"]["steps"]] == [None, 5]
    assert stat["options"]["textMode"] == "name"
    (_, least) = dashboards._panels([{"title": "Row", "panels": [{**PANEL, "type": "stat", "least": 1}]}])
    steps = [(step["color"], step["value"]) for step in least["fieldConfig"]["defaults"]["thresholds"]["steps"]]
    assert steps == [("red", None), ("green", 1)]
    assert (stat["targets"][0]["instant"], graph["targets"][0]["instant"]) == (True, False)
    assert graph["fieldConfig"]["defaults"]["max"] == 1
    assert graph["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"


def test_the_grid() -> None:
    rows = [
        {"title": "One", "panels": [PANEL] * 4},
        {"title": "Two", "panels": [{**PANEL, "width": 20}, {**PANEL, "width": 6}]},
    ]
    places = [(place["x"], place["y"], place["w"]) for place in (panel["gridPos"] for panel in dashboards._panels(rows))]
    assert places == [(0, 0, 24), (0, 1, 8), (8, 1, 8), (16, 1, 8), (0, 9, 8), (0, 17, 24), (0, 18, 20), (0, 26, 6)]
