"""What metrics in the Prometheus text format say has happened between two readings of them."""

from __future__ import annotations

import re
from collections import Counter

# The value of each series of a metric, by its labels.
Series = dict[frozenset[tuple[str, str]], float]

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def series(text: str, name: str) -> Series:
    """The series of one metric in the Prometheus text format. A parser of all of it takes seconds for an API server's."""
    return {
        frozenset(_LABEL.findall(match[2] or "")): float(match[3]) for match in _SAMPLE.finditer(text) if match[1] == name
    }


def more(before: Series, after: Series) -> Series:
    found = {labels: value - before.get(labels, 0.0) for labels, value in after.items()}
    return {labels: value for labels, value in found.items() if value}


def requests(before: str, after: str) -> dict[str, int]:
    """How many requests the API server has answered, by verb and resource."""
    found: Counter[str] = Counter()
    name = "apiserver_request_total"
    for labels, count in more(series(before, name), series(after, name)).items():
        given = dict(labels)
        if given.get("resource") and given.get("verb") != "CONNECT":
            subresource = f"/{given['subresource']}" if given.get("subresource") else ""
            found[f"{given['verb']} {given['resource']}{subresource}"] += int(count)
    return dict(found.most_common())


def lists(before: str, after: str) -> dict[str, dict[str, int]]:
    """Lists by resource: how many the API server's watch cache has answered, and how many etcd had to."""
    names = {"watch_cache": "apiserver_cache_list_total", "etcd": "apiserver_storage_list_total"}
    found: dict[str, dict[str, int]] = {}
    for by, name in names.items():
        for labels, count in more(series(before, name), series(after, name)).items():
            given = dict(labels)
            resource = given.get("resource") or given.get("resource_prefix", "").strip("/").rpartition("/")[2]
            by_server = found.setdefault(resource, {})
            by_server[by] = by_server.get(by, 0) + int(count)
    return found
