"""The objects of sharding: a ControllerRing, its CRD, and the webhook that the sharder keeps for it.

Next on the way: `tests.sharding.sharder`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from bench.driver import crd
from runner.resource.metadata import Object
from runner.resource.sharding import CONTROLLER_RING, RING_LABEL
from runner.resource.sharding import Shard as Labels
from tests.sharding.assignment import resources_of

WEBHOOK = "/webhooks/sharder/controllerring/"
# By default a ring is for all namespaces but these.
EXCLUDED = ("kube-system", "sharding-system")
_NAMESPACES = {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": list(EXCLUDED)}]}
_TEXT = {"type": "string"}


def ring_crd() -> dict[str, Any]:
    """The CRD of ControllerRing, with what the stand-in and the runner read."""
    names = {"group": _TEXT, "resource": _TEXT}
    controlled = {"type": "object", "required": list(names), "properties": names}
    main = {**controlled, "properties": {**names, "controlledResources": _list(controlled)}}
    selector = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    spec = {"type": "object", "properties": {"resources": _list(main), "namespaceSelector": selector}}
    made = crd(CONTROLLER_RING, scope="Cluster")
    schema = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    # It is part of the names of labels, which have no more room.
    name = {**_TEXT, "maxLength": 63}
    schema["properties"] |= {"spec": spec, "metadata": {"type": "object", "properties": {"name": name}}}
    return made


def _list(items: Mapping[str, Any]) -> dict[str, Any]:
    keys = ["group", "resource"]
    return {"type": "array", "items": items, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys}


def controller_ring(name: str, resources: Mapping[str, Sequence[str]], **spec: Any) -> dict[str, Any]:
    """A ring of main kinds, each with those that its objects control: {"things.example.com": ("configmaps",)}."""
    mains = [
        {**_of(main), "controlledResources": [_of(each) for each in controlled]} for main, controlled in resources.items()
    ]
    return {
        "apiVersion": CONTROLLER_RING.api_version,
        "kind": CONTROLLER_RING.kind,
        "metadata": {"name": name},
        "spec": {"resources": mains, **spec},
    }


def _of(plural_and_group: str) -> dict[str, str]:
    plural, _, group = plural_and_group.partition(".")
    return {"group": group, "resource": plural}


def webhook_configuration(ring: Object, *, url: str, ca: bytes) -> dict[str, Any]:
    """The webhook of a ring, which goes with it. `url` is the sharder's, `ca` the CA of its certificate in PEM."""
    name = ring["metadata"]["name"]
    owner = {"apiVersion": CONTROLLER_RING.api_version, "kind": CONTROLLER_RING.kind, "name": name}
    rule = {"operations": ["CREATE", "UPDATE"], "apiVersions": ["*"], "scope": "*"}
    unassigned = {"matchExpressions": [{"key": Labels(name, "").label, "operator": "DoesNotExist"}]}
    webhook = {
        "name": "sharder.sharding.timebertt.dev",
        "clientConfig": {"url": f"{url}{WEBHOOK}{name}", "caBundle": base64.b64encode(ca).decode()},
        "namespaceSelector": (ring.get("spec") or {}).get("namespaceSelector") or _NAMESPACES,
        "objectSelector": unassigned,
        # What it does not answer for is assigned later.
        "failurePolicy": "Ignore",
        # The sharder's own are 5, which a machine that stalls may take.
        "timeoutSeconds": 30,
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "rules": [{**rule, "apiGroups": [each.group], "resources": [each.plural]} for each in resources_of(ring)],
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {
            "name": f"controllerring-{name}",
            "labels": {RING_LABEL: name},
            "ownerReferences": [{**owner, "uid": ring["metadata"]["uid"], "controller": True}],
        },
        "webhooks": [webhook],
    }
