"""/metrics as a scraper sees it, with what roles bring to it, and who may see it."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from bench.driver import Cluster, Operator, until
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.behaviour.test_runs import counted
from tests.conftest import THING, Project, lines, thing

CORE_EVENT = GroupVersionKind("", "v1", "Event")
RBAC = "rbac.authorization.k8s.io"

SERVED = "--metrics-bind-address=127.0.0.1:0"
TAKEN = "--role-metrics-bind-address=127.0.0.1:0"

ROLE = """
- name: Count
  operator_sdk.util.osdk_metric:
    address: "{{ address }}"
    name: role_backups_total
    description: Backups that were made
    counter:
      increment: true
- name: Set
  operator_sdk.util.osdk_metric:
    address: "{{ address }}"
    name: role_ready_pods
    description: Pods that are ready
    gauge:
      set: "{{ ready }}"
- name: Observe
  operator_sdk.util.osdk_metric:
    address: "{{ address }}"
    name: role_backup_seconds
    description: How long backups take
    histogram:
      observe: 0.3
- name: Sum up
  operator_sdk.util.osdk_metric:
    address: "{{ address }}"
    name: role_backup_bytes
    description: How large backups are
    summary:
      observe: 42
- name: Collide
  operator_sdk.util.osdk_metric:
    address: "{{ address }}"
    name: workqueue_depth
    description: Not mine
    gauge:
      set: 1
  register: refused
  failed_when: refused.status_code != 400 or 'there is a metric of this name already' not in refused.msg
- name: Say nothing in check mode
  operator_sdk.util.osdk_metric:
    address: "{{ address }}"
    name: role_dry
    description: Not made
    counter: {}
  check_mode: true
- name: Tell
  operator_sdk.util.k8s_event:
    name: "{{ ansible_operator_meta.name }}.backup"
    namespace: "{{ ansible_operator_meta.namespace }}"
    reason: BackupDone
    message: The backup is in the bucket
    involvedObject:
      apiVersion: test.example.com/v1
      kind: Thing
      name: "{{ ansible_operator_meta.name }}"
      namespace: "{{ ansible_operator_meta.namespace }}"
"""


TURNS = 'controller_runtime_reconcile_total{controller="thing-v1-controller",result="requeue_after"}'
ROLES = "Taking the roles' metrics"


def address(operator: Operator, message: str) -> str:
    return str(lines(operator, message)[0]["address"])


async def scraped(operator: Operator, token: str | None = None, *, tls: bool = False) -> tuple[int, str]:
    url = f"{'https' if tls else 'http'}://{address(operator, 'Serving metrics')}/metrics"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # It is a certificate of the runner's own.
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers, ssl=not tls) as answer:
        return answer.status, await answer.text()


async def test_what_roles_bring_is_served_beside_the_runners_own(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(ROLE)
    project.watch()
    operator = await project.start(SERVED, TAKEN)
    where = f"http://{address(operator, ROLES)}/metrics"
    await world.create(thing(address=where, ready=3), one.namespace)
    await counted(operator, "one", 1)
    await world.patch(THING, one, {"spec": {"ready": 0}})
    await counted(operator, "one", 2)
    # Time for what the Event, which counts up, might have caused: it is no dependent.
    await world.create(thing("two", address=where, ready=0), one.namespace)
    await counted(operator, "two", 1)

    async def settled() -> str | None:
        # A reconcile ends a little after its run.
        status, text = await scraped(operator)
        assert status == 200
        return text if f"{TURNS} 3.0" in text else None

    text = await until(settled, "the third reconcile has ended")
    shown = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    expected = {
        "role_backups_total": 3,
        "role_ready_pods": 0,
        'role_backup_seconds_bucket{le="0.25"}': 0,
        'role_backup_seconds_bucket{le="0.5"}': 3,
        "role_backup_seconds_count": 3,
        "role_backup_bytes_sum": 126,
        "role_backup_bytes_count": 3,
        TURNS: 3,
        'controller_runtime_reconcile_total{controller="thing-v1-controller",result="error"}': 0,
        'controller_runtime_reconcile_time_seconds_count{controller="thing-v1-controller"}': 3,
        'workqueue_work_duration_seconds_count{controller="thing-v1-controller",name="thing-v1-controller"}': 3,
        'workqueue_depth{controller="thing-v1-controller",name="thing-v1-controller",priority="0"}': 0,
        'ansible_operator_reconciles_count{GVK="test.example.com/v1, Kind=Thing"}': 3,
    }
    assert {name: float(shown.get(name, "nan")) for name in expected} == expected
    assert "role_dry" not in text
    event = await world.get(CORE_EVENT, ObjectKey(one.namespace, "one.backup"))
    assert event is not None
    assert (event["count"], event["reason"]) == (2, "BackupDone")
    obj = await world.get(THING, one)
    assert obj is not None
    assert event["involvedObject"]["uid"] == obj["metadata"]["uid"]


async def test_what_goes_wrong_is_counted(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("- ansible.builtin.fail:\n    msg: no\n")
    project.watch()
    operator = await project.start(SERVED)
    await world.create(thing(), one.namespace)
    name = 'controller="thing-v1-controller"'

    async def errors() -> bool:
        _, text = await scraped(operator)
        return all(
            re.search(rf"^{series}{{{labels}}} [1-9]", text, re.MULTILINE)
            for series, labels in (
                ("controller_runtime_reconcile_errors_total", name),
                ("controller_runtime_reconcile_total", f'{name},result="error"'),
                ("workqueue_retries_total", f'{name},name="thing-v1-controller"'),
                ("ansible_operator_reconcile_result", 'GVK="test.example.com/v1, Kind=Thing",result="failed"'),
                ("rest_client_requests_total", 'code="200",host="127.0.0.1:[0-9]+",method="GET"'),
                ("rest_client_requests_total", 'code="201",host="127.0.0.1:[0-9]+",method="POST"'),
            )
        )

    await until(errors, "the failure is counted")


async def test_only_who_may_read_metrics_sees_them(project: Project, world: Cluster, namespace: str) -> None:
    project.role("[]")
    project.watch()
    token = await account(world, namespace)
    operator = await project.start(SERVED, "--metrics-secure", "--metrics-require-rbac", "--log-level=debug")
    assert await scraped(operator, tls=True) == (401, "Unauthorized")
    assert await scraped(operator, "made-up", tls=True) == (401, "Unauthorized")
    user = f"system:serviceaccount:{namespace}:scraper"
    assert await scraped(operator, token, tls=True) == (403, f"Authorization denied for user {user}")
    operator.stop()
    # The refusal counts for half a minute; a new runner has none.
    async with may_read_metrics(world, namespace):
        operator = await project.start(SERVED, "--metrics-secure", "--metrics-require-rbac", "--log-level=debug")

        async def seen() -> bool:
            status, text = await scraped(operator, token, tls=True)
            return status == 200 and "ansible_operator_build_info{" in text

        await until(seen, "the scraper sees the metrics")
    for started in project.operators:
        assert token not in started.output
        assert "made-up" not in started.output


async def test_a_port_in_use_is_one_clear_error(project: Project) -> None:
    project.role("[]")
    project.watch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        operator = await project.start(f"--role-metrics-bind-address=localhost:{port}", wait=False)
        assert await asyncio.to_thread(operator.wait) == 1
    assert f"Error: --role-metrics-bind-address localhost:{port} cannot be listened on: " in operator.output
    assert "Traceback" not in operator.output


async def account(world: Cluster, namespace: str) -> str:
    """A token of the ServiceAccount `scraper`, which may do nothing."""
    await world.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "scraper"}}, namespace)
    answer = await world.client.post(
        f"/api/v1/namespaces/{namespace}/serviceaccounts/scraper/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    )
    return str(answer["status"]["token"])


@asynccontextmanager
async def may_read_metrics(world: Cluster, namespace: str) -> AsyncIterator[None]:
    """`scraper` has the ClusterRole that Prometheus needs."""
    name = f"metrics-reader-{namespace}"
    meta = {"apiVersion": f"{RBAC}/v1", "metadata": {"name": name}}
    rules = [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
    await world.create({**meta, "kind": "ClusterRole", "rules": rules})
    await world.create(
        {
            **meta,
            "kind": "ClusterRoleBinding",
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "scraper", "namespace": namespace}],
        }
    )
    try:
        yield
    finally:
        for kind in ("ClusterRoleBinding", "ClusterRole"):
            await world.delete(GroupVersionKind(RBAC, "v1", kind), ObjectKey("", name))
