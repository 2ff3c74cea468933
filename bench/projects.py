"""Operators to be measured: a role for Memcached, of as many tasks and objects as one likes.

Each makes a Deployment of the CR's name and size, which is what the drivers wait for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from bench.driver import MEMCACHED

META = {"name": "{{ ansible_operator_meta.name }}", "namespace": "{{ ansible_operator_meta.namespace }}"}
LABELS = {"app": "{{ ansible_operator_meta.name }}"}
DEPLOYMENT_TASK = {
    "name": "The Deployment",
    "kubernetes.core.k8s": {
        "definition": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": META,
            "spec": {
                "replicas": "{{ size }}",
                "selector": {"matchLabels": LABELS},
                "template": {
                    "metadata": {"labels": LABELS},
                    "spec": {"containers": [{"name": "memcached", "image": "memcached:1.6"}]},
                },
            },
        }
    },
}
TEMPLATE = """
apiVersion: v1
kind: ConfigMap
metadata:
  name: "{{ ansible_operator_meta.name }}-{{ number }}"
  namespace: "{{ ansible_operator_meta.namespace }}"
data:
{% for key in range(3) %}
  key-{{ key }}: "{{ size | string | upper }}"
{% endfor %}
"""


def config_map(name: str) -> dict[str, Any]:
    metadata = {**META, "name": "{{ ansible_operator_meta.name }}-" + name}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"size": "{{ size | string }}"}}


def _another(number: int) -> dict[str, Any]:
    """A task beside the Deployment's: in turn of a template, of a loop, one that reads, and a plain one."""
    name = f"Task {number}"
    match number % 4:
        case 0:
            return {"name": name, "kubernetes.core.k8s": {"template": "map.yml.j2"}, "vars": {"number": number}}
        case 1:
            looped = {"definition": config_map(f"{number}-{{{{ item }}}}")}
            return {"name": name, "kubernetes.core.k8s": looped, "loop": ["a", "b"]}
        case 2:
            return {"name": name, "kubernetes.core.k8s_info": {"api_version": "apps/v1", "kind": "Deployment", **META}}
        case _:
            return {"name": name, "kubernetes.core.k8s": {"definition": config_map(str(number))}, "when": "size | int >= 0"}


def write(folder: Path, *, tasks: int = 1, dependents: int = 0) -> Path:
    """A project of a role with so many tasks of kubernetes.core, and one more that makes so many ConfigMaps at once."""
    content = [DEPLOYMENT_TASK, *(_another(number) for number in range(tasks - 1))]
    if dependents:
        maps = [config_map(f"dependent-{number}") for number in range(dependents)]
        content.append({"name": "Dependents", "kubernetes.core.k8s": {"definition": maps}})
    role = folder / "roles" / "memcached"
    (role / "tasks").mkdir(parents=True)
    (role / "templates").mkdir()
    (role / "templates" / "map.yml.j2").write_text(TEMPLATE)
    (role / "tasks" / "main.yml").write_text(yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False))
    watch = {"group": MEMCACHED.group, "version": MEMCACHED.version, "kind": MEMCACHED.kind, "role": "memcached"}
    (folder / "watches.yaml").write_text(yaml.safe_dump([watch]))
    return folder
