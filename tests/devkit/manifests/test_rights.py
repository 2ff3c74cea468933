"""Which rights a project's text shows."""

from __future__ import annotations

import pytest
import yaml

from devkit.manifests.command import ROLE, generate
from runner.config.settings import Settings
from runner.errors import ConfigurationError
from tests.devkit.manifests.conftest import Write, generated

TASKS = "roles/thing/tasks/main.yml"
# What the runner itself takes for a Thing.
BASE = {" events": "create patch", "test.example.com things": "get list watch", "test.example.com things/status": "update"}
CREATED = "create get list patch watch"


def rights() -> tuple[dict[str, str], list[str]]:
    """(`GROUP RESOURCE` → verbs, without the runner's own; what was not decided)."""
    result = generated()
    found = {}
    for rule in yaml.safe_load(ROLE.read_text())["rules"]:
        for resource in rule["resources"]:
            names = "".join(f" {name}" for name in rule.get("resourceNames", ()))
            key = f"{rule['apiGroups'][0]} {resource}{names}"
            assert key not in found, "each resource has one rule"
            found[key] = " ".join(rule["verbs"])
    return {key: verbs for key, verbs in found.items() if BASE.get(key) != verbs}, [
        f"{at.rpartition(':')[2]} {what}" for at, what in result.undecided
    ]


VARIABLE = "_test_example_com_thing"
DEPLOYMENT = "definition: {apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}"


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (f"kubernetes.core.k8s: {{{DEPLOYMENT}}}", {"apps deployments": CREATED}),
        (f"k8s: {{{DEPLOYMENT}, state: absent}}", {"apps deployments": "delete get"}),
        (f"k8s: {{{DEPLOYMENT}, state: patched}}", {"apps deployments": "get patch"}),
        (f"k8s: {{{DEPLOYMENT}, apply: true}}", {"apps deployments": CREATED}),
        (f"k8s: {{{DEPLOYMENT}, force: true}}", {"apps deployments": "create delete get list update watch"}),
        (
            f"k8s: {{{DEPLOYMENT}, state: \"{{{{ 'present' if x else 'absent' }}}}\"}}",
            {"apps deployments": "create delete get list patch watch"},
        ),
        ("k8s: {kind: Secret, name: a, state: absent}", {" secrets": "delete get"}),
        ("k8s: {kind: Pod, state: absent, label_selectors: [a=b]}", {" pods": "delete list"}),
        ("k8s: {kind: Pod, state: absent, namespace: a, delete_all: true}", {" pods": "delete get list"}),
        ("k8s: {definition: {kind: Pod, metadata: {generateName: a-}}}", {" pods": "create list watch"}),
        ("k8s: {kind: Namespace, name: a}", {" namespaces": "create get patch"}),
        ("k8s: {kind: Event, name: a}", {" events": "create get patch"}),
        (
            "k8s: {definition: {apiVersion: authorization.k8s.io/v1, kind: SubjectAccessReview}}",
            {"authorization.k8s.io subjectaccessreviews": "create"},
        ),
        (
            "k8s: {definition: [{kind: Secret}, {apiVersion: v1, kind: List, items: [{kind: Service}]}]}",
            {" secrets": CREATED, " services": CREATED},
        ),
        (
            "k8s: {definition: \"apiVersion: v1\\nkind: Secret\\n---\\nkind: ConfigMap\\nmetadata: {name: '{{ x }}'}\\n\"}",
            {" secrets": CREATED, " configmaps": CREATED},
        ),
        ("kubernetes.core.k8s_info: {kind: Pod}", {" pods": "list"}),
        ("k8s_info: {kind: Pod, name: a}", {" pods": "get"}),
        ("k8s_info: {kind: Pod, name: '{{ x | default(omit) }}'}", {" pods": "get list"}),
        ("k8s_info: {kind: Pod, wait: true}", {" pods": "get list"}),
        ("k8s_info: {api_version: networking.k8s.io/v1, kind: Ingress}", {"networking.k8s.io ingresses": "list"}),
        ("k8s_info: {kind: endpoints, name: a}", {" endpoints": "get"}),
        (
            "k8s_scale: {api_version: apps/v1, kind: Deployment, name: a, replicas: 1}",
            {"apps deployments": "get", "apps deployments/scale": "patch"},
        ),
        ("k8s_scale: {api_version: batch/v1, kind: Job, name: a, replicas: 1}", {"batch jobs": "get patch"}),
        ("k8s_exec: {pod: a, namespace: b, command: c}", {" pods": "get", " pods/exec": "create get"}),
        ("k8s_exec: {pod: a, namespace: b, container: d, command: c}", {" pods/exec": "create get"}),
        ("k8s_cp: {pod: a, namespace: b}", {" pods": "get", " pods/exec": "create get"}),
        ("k8s_log: {name: a}", {" pods/log": "get"}),
        (
            "k8s_log: {api_version: apps/v1, kind: Deployment, name: a}",
            {" pods": "list", " pods/log": "get", "apps deployments": "get"},
        ),
        ("k8s_drain: {name: a}", {" nodes": "get patch", " pods": "get list", " pods/eviction": "create"}),
        ("k8s_drain: {name: a, state: cordon}", {" nodes": "get patch"}),
        ("k8s_taint: {name: a}", {" nodes": "get patch"}),
        ("k8s_json_patch: {kind: Node, name: a, patch: []}", {" nodes": "get patch"}),
        (
            "k8s_rollback: {api_version: apps/v1, kind: DaemonSet, name: a}",
            {"apps daemonsets": "get patch", "apps controllerrevisions": "list"},
        ),
        ("k8s_service: {name: a, ports: []}", {" services": CREATED}),
        ("k8s_cluster_info: {}", {}),
        (
            "operator_sdk.util.k8s_status: {api_version: a.io/v1, kind: Own, name: x}",
            {"a.io owns": "get", "a.io owns/status": "patch"},
        ),
        (
            f"k8s_status: {{api_version: '{{{{ {VARIABLE}.apiVersion }}}}', kind: '{{{{ {VARIABLE}.kind }}}}'}}",
            {"test.example.com things/status": "patch update"},
        ),
        ("k8s_status: {kind: Own, replace: true}", {" owns": "get", " owns/status": "update"}),
        (
            "k8s_event: {name: a, involvedObject: {apiVersion: v1, kind: Pod}}",
            {" events": "create get patch", " pods": "get"},
        ),
        ("requeue_after: {time: 1m}", {}),
        ("ansible.builtin.command: {cmd: ls}", {}),
        ("action: kubernetes.core.k8s_info kind=Pod name=a", {" pods": "get"}),
        ("debug: {msg: \"{{ query('kubernetes.core.k8s', kind='Pod', namespace=x) }}\"}", {" pods": "list"}),
        (
            "fail: {}\n  when: lookup('k8s', api_version='apps/v1', kind='Deployment', resource_name=x) | length == 0",
            {"apps deployments": "get"},
        ),
    ],
)
def test_what_a_task_asks_for(write: Write, task: str, expected: dict[str, str]) -> None:
    write({TASKS: f"- {task}\n"})
    assert rights() == (expected, [])


def test_granting_takes_what_is_granted(write: Write) -> None:
    write({TASKS: "- k8s: {api_version: rbac.authorization.k8s.io/v1, kind: Role, name: a}\n"})
    found, (undecided,) = rights()
    assert found == {"rbac.authorization.k8s.io roles": CREATED}
    assert "bind and escalate" in undecided


@pytest.mark.parametrize(
    ("keys", "task", "expected"),
    [
        ("manageStatus: false", "", {}),
        (
            "finalizer: {name: example.com/x, vars: {a: b}}",
            "",
            {"things": "get list patch watch", "things/status": "update"},
        ),
        (
            "watchDependentResources: false",
            "k8s: {kind: Pod, name: a}",
            {"things/status": "update", "pods": "create get patch"},
        ),
        (
            "blacklist: [{version: v1, kind: Pod}]",
            "k8s: {kind: Pod, name: a}",
            {"things/status": "update", "pods": "create get patch"},
        ),
        ("watchClusterScopedResources: true", "k8s: {kind: Node, name: a}", {"things/status": "update", "nodes": CREATED}),
        (
            "watchRelatedResources: [{version: v1, kind: Secret, byName: true}]",
            "",
            {"things/status": "update", "secrets": "list watch"},
        ),
        (
            "selector: {}",
            "k8s: {definition: {kind: Pod, metadata: {ownerReferences: [{blockOwnerDeletion: true}]}}}",
            {"things/status": "update", "things/finalizers": "update", "pods": CREATED},
        ),
    ],
    ids="no-status finalizer no-dependents blacklist cluster-scoped related blocking".split(),
)
def test_what_the_watch_says_counts(write: Write, keys: str, task: str, expected: dict[str, str]) -> None:
    watch = f"[{{group: test.example.com, version: v1, kind: Thing, role: thing, {keys}}}]"
    write({"watches.yaml": watch, TASKS: f"- {task}\n" if task else ""})
    rights()
    rules = yaml.safe_load(ROLE.read_text())["rules"]
    found = {resource: " ".join(rule["verbs"]) for rule in rules for resource in rule["resources"]}
    assert found == {"events": "create patch", "things": "get list watch", **expected}


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("rbac:groups=apps,verbs=get", r"main.yml:1: \+rolerunner:rbac: needs resources="),
        ("rbac:groups=apps,resource=a,verbs=get", r"has no resource; known here"),
        ("minimum=1", r"main.yml:1: \+rolerunner:minimum: is for argument specs"),
    ],
    ids="incomplete unknown elsewhere".split(),
)
def test_a_broken_declaration(write: Write, marker: str, message: str) -> None:
    write({TASKS: f"# +rolerunner:{marker}\n- debug: {{}}\n"})
    with pytest.raises(ConfigurationError, match=message):
        generate(Settings(), {})
