"""The dashboards' and alerts' queries against what a real operator serves."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from bench.driver import Cluster, until
from devkit.scaffolding.dashboards import OWN_SERIES
from runner.resource.metadata import ObjectKey
from tests.behaviour.test_metrics_served import ROLES, address, scraped
from tests.behaviour.test_runs import counted, failed
from tests.conftest import Project, thing
from tests.monitoring import files, queries

ROLE = """
- operator_sdk.util.osdk_metric:
    address: "{{ metrics }}"
    name: role_backups_total
    description: Backups that were made
    counter: {increment: true}
- ansible.builtin.fail: {msg: no}
  when: fails
"""
# Series that an operator has only in trouble.
TROUBLE = {"rolerunner_slow_parts"}
# Labels whose values name a trouble.
OF_TROUBLE = frozenset({"code", "reason"})


def all_queries() -> Iterator[str]:
    """As Grafana and Prometheus send them, with all values of each variable."""
    for dashboard in files.dashboards().values():
        for panel in files.panels(dashboard):
            for target in panel["targets"]:
                yield re.sub(r"\$(controller|kind)\b", ".*", target["expr"])
    for alert in files.alerts():
        yield alert["expr"]


async def test_an_operator_serves_what_is_asked_for(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(ROLE)
    project.watch()
    operator = await project.start(
        "--leader-elect",
        "--leader-election-id=it",
        f"--leader-election-namespace={project.namespace}",
        "--metrics-bind-address=127.0.0.1:0",
        "--role-metrics-bind-address=127.0.0.1:0",
        "--worker-max-runs=1",
    )
    metrics = f"http://{address(operator, ROLES)}/metrics"
    await world.create(thing(metrics=metrics, fails=True), one.namespace)
    await until(lambda: failed(world, one), "its role has failed")
    await world.create(thing("two", metrics=metrics, fails=False), one.namespace)
    await counted(operator, "two", 1)

    wanted = {each for query in all_queries() for each in queries.selected(query)}
    wanted = {each for each in wanted if each.name and each.name not in TROUBLE | queries.KUBELET.keys()}
    assert len(wanted) > 50
    left = set(wanted)

    async def are_all_there() -> bool:
        """A reconcile's last series comes a little after its run."""
        nonlocal left
        _, text = await scraped(operator)
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        ignored = queries.TARGET | OF_TROUBLE
        left = {each for each in wanted if not any(each.matches(s.name, s.labels, ignored) for s in samples)}
        return not left

    try:
        await until(are_all_there, "each query finds series")
    except AssertionError as error:
        raise AssertionError(sorted(f"{each.name} {each.matchers}" for each in left)) from error
    _, text = await scraped(operator)
    # What the dashboard of roles' metrics shows is what the role has reported, and nothing else.
    names = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    assert {name for name in names if not re.fullmatch(OWN_SERIES, name)} == {"role_backups_total"}
