"""Grafana dashboards: the JSON that Grafana imports, made of the panels in `templates/dashboards`.

A file there says what is shown: rows of panels, each with its queries in PromQL, its unit and its description. `$here` in a
query are the matchers that each of them has. What Grafana needs beyond that (the grid, the variables, the data source) is
the same for all, and made here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

SOURCES = Path(__file__).parent / "templates" / "dashboards"

Json = dict[str, Any]

_DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
# What `$here` stands for. A scrape without one of these labels has an empty one.
_TARGET = 'namespace="$namespace", job="$job"'
_HERE = f'{_TARGET}, pod=~"$pod"'
# Of Grafana 10.0 and newer.
_SCHEMA, _GRAFANA = 38, "10.0.0"
# Columns of Grafana's grid; height of a panel in its rows.
_COLUMNS, _HEIGHT, _STAT_HEIGHT = 24, 8, 4

# The runner's own series, and what Prometheus adds: whatever else is scraped comes from roles.
OWN_SERIES = (
    "(ansible_operator|controller_runtime|workqueue|rest_client|leader_election|process|rolerunner|scrape)_.+"
    "|ALERTS.*|up|.+_(bucket|created)"
)
# The variables that a file may ask for: their label in Grafana, and the series and label whose values they may have.
_VARIABLES = {
    "controller": ("Controller", "controller_runtime_max_concurrent_reconciles{$here}", "controller"),
    "kind": ("Kind", "rolerunner_custom_resources{$here}", "GVK"),
    "metric": ("Metric", f'{{$here, __name__!~"{OWN_SERIES}"}}', "__name__"),
}


def rendered() -> dict[str, str]:
    """The dashboards' JSON by the names of their files."""
    return {f"{path.stem}.json": _text(yaml.safe_load(path.read_text())) for path in sorted(SOURCES.glob("*.yaml"))}


def _text(source: Mapping[str, Any]) -> str:
    return json.dumps(_dashboard(source), indent=2, ensure_ascii=False) + "\n"


def _dashboard(source: Mapping[str, Any]) -> Json:
    return {
        "__requires": [
            {"type": "grafana", "id": "grafana", "name": "Grafana", "version": _GRAFANA},
            {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
        ],
        "uid": source["uid"],
        "title": source["title"],
        "description": source["description"],
        "tags": ["rolerunner", "operator"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": _SCHEMA,
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [
            {
                "title": "Dashboards of operators",
                "type": "dashboards",
                "tags": ["rolerunner"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": list(_variables(source))},
        "panels": list(_panels(source["rows"])),
    }


def _variables(source: Mapping[str, Any]) -> Iterator[Json]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "refresh": 1,
    }
    series = source["of"]
    yield _variable("namespace", "Namespace", series, "namespace", several=False)
    yield _variable("job", "Job", f'{series}{{namespace="$namespace"}}', "job", several=False)
    yield _variable("pod", "Pod", f"{series}{{{_TARGET}}}", "pod")
    for name in source.get("variables", ()):
        yield _variable(name, *_VARIABLES[name])


def _variable(name: str, title: str, series: str, label: str, *, several: bool = True) -> Json:
    query = f"label_values({series.replace('$here', _HERE)}, {label})"
    choice: Json = {"multi": several, "includeAll": several}
    if several:
        # A repeated panel is repeated for each value, and `.+` is none.
        choice |= {"current": {"text": ["All"], "value": ["$__all"]}} | ({} if name == "metric" else {"allValue": ".*"})
    return {
        "name": name,
        "label": title,
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{name}"},
        # When the dashboard is opened, and when its time is changed.
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        **choice,
    }


def _panels(rows: Sequence[Mapping[str, Any]]) -> Iterator[Json]:
    number, top = 0, 0
    for row in rows:
        number += 1
        place = {"h": 1, "w": _COLUMNS, "x": 0, "y": top}
        yield {"id": number, "type": "row", "title": row["title"], "collapsed": False, "gridPos": place, "panels": []}
        top, left, tallest = top + 1, 0, 0
        for panel in row["panels"]:
            number += 1
            height = _STAT_HEIGHT if panel.get("type") == "stat" else _HEIGHT
            width = panel.get("width", _COLUMNS // min(3, len(row["panels"])))
            if left + width > _COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            yield _panel(panel, number, {"h": height, "w": width, "x": left, "y": top})
            left, tallest = left + width, max(tallest, height)
        top += tallest


def _panel(panel: Mapping[str, Any], number: int, place: Mapping[str, int]) -> Json:
    kind = panel.get("type", "timeseries")
    made: Json = {
        "id": number,
        "type": kind,
        "title": panel["title"],
        "description": panel["description"],
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(panel, kind), "overrides": []},
        "options": _stat_options(panel) if kind == "stat" else _graph_options(),
        "targets": [_target(query, chr(ord("A") + order), kind) for order, query in enumerate(panel["queries"])],
    }
    if "repeat" in panel:
        made |= {"repeat": panel["repeat"], "repeatDirection": "h", "maxPerRow": 3}
    return made


def _target(query: Mapping[str, str], letter: str, kind: str) -> Json:
    return {
        "refId": letter,
        "datasource": _DATASOURCE,
        "expr": query["expr"].replace("$here", _HERE),
        "legendFormat": query["legend"],
        "editorMode": "code",
        "instant": kind == "stat",
        "range": kind != "stat",
    }


def _defaults(panel: Mapping[str, Any], kind: str) -> Json:
    # Red from `alarm` on, or below `least`.
    steps: list[Json] = [{"color": "red" if "least" in panel else "green", "value": None}]
    if "alarm" in panel:
        steps.append({"color": "red", "value": panel["alarm"]})
    if "least" in panel:
        steps.append({"color": "green", "value": panel["least"]})
    defaults: Json = {
        "unit": panel["unit"],
        "min": 0,
        "color": {"mode": "thresholds" if kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if "max" in panel:
        defaults["max"] = panel["max"]
    if kind == "timeseries":
        stacked = bool(panel.get("stack"))
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if stacked else 5,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        }
    return defaults


def _graph_options() -> Json:
    return {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _stat_options(panel: Mapping[str, Any]) -> Json:
    return {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": panel.get("text", "auto"),
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
    }
