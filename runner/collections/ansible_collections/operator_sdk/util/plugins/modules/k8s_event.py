#!/usr/bin/python
# -*- coding: utf-8 -*-

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s_event
short_description: Tell of something by a Kubernetes Event
version_added: "0.5.0"
author: rolerunner
description:
  - Creates an Event, which C(kubectl describe) and C(kubectl events) show.
  - An Event that is there by this name and with the same reason counts one up, and keeps the time when it came first. With
    another reason it begins anew.
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
options:
  state:
    description: V(absent) removes the Event.
    type: str
    choices: [present, absent]
    default: present
  name:
    description: The Event's name.
    type: str
    required: true
  namespace:
    description:
      - The Event's namespace, which is that of the object that it is about.
      - Empty means V(default), where the Events of cluster-scoped objects are.
    type: str
    required: true
  message:
    description: What happened, for people. Needed unless O(state=absent).
    type: str
  reason:
    description: Why, as one word in CamelCase by custom. Needed unless O(state=absent).
    type: str
  type:
    description: Whether somebody should look at it.
    type: str
    choices: [Normal, Warning]
    default: Normal
  reportingComponent:
    description: Which controller tells this, as C(example.com/controller).
    type: str
  source:
    description: Who tells this.
    type: dict
    suboptions:
      component:
        description: The component's name.
        type: str
        required: true
  involvedObject:
    description:
      - The object that the Event is about. Its uid and resourceVersion are added if it is there and may be read.
    type: dict
    suboptions:
      apiVersion:
        description: The object's apiVersion.
        type: str
        required: true
      kind:
        description: The object's kind.
        type: str
        required: true
      name:
        description: The object's name.
        type: str
        required: true
      namespace:
        description: The object's namespace. By default that of the Event, and none for a cluster-scoped object.
        type: str
  appendTimestamp:
    description: Append the time to the name, so that each time there is an Event of its own.
    type: bool
    default: false
  merge_type:
    description:
      - How an Event that is there is patched, by default V(strategic-merge). Of several the first counts, as the API server takes each of them.
    type: list
    elements: str
    choices: [json, merge, strategic-merge]
requirements:
  - python >= 3.9
  - kubernetes >= 24.2.0
"""

EXAMPLES = r"""
- name: Tell that the backup is done
  operator_sdk.util.k8s_event:
    name: "{{ ansible_operator_meta.name }}.backup"
    namespace: "{{ ansible_operator_meta.namespace }}"
    reason: BackupDone
    message: The backup is in the bucket
    reportingComponent: cache.example.com/memcached
    involvedObject:
      apiVersion: cache.example.com/v1alpha1
      kind: Memcached
      name: "{{ ansible_operator_meta.name }}"
      namespace: "{{ ansible_operator_meta.namespace }}"
"""

RETURN = r"""
result:
  description: The Event, or an empty dictionary if there is none.
  returned: success
  type: dict
"""

from ansible_collections.operator_sdk.util.plugins.module_utils.cluster import execute, now, refused, rfc3339

# How often an Event is counted up against others who do the same.
TRIES = 5

# The longest name that the API server takes.
NAME_LIMIT = 253

CONTENT_TYPES = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic-merge": "application/strategic-merge-patch+json",
}

ARGUMENT_SPEC = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "name": {"type": "str", "required": True},
    "namespace": {"type": "str", "required": True},
    "message": {"type": "str"},
    "reason": {"type": "str"},
    "type": {"type": "str", "choices": ["Normal", "Warning"], "default": "Normal"},
    "reportingComponent": {"type": "str"},
    "source": {"type": "dict", "options": {"component": {"type": "str", "required": True}}},
    "involvedObject": {
        "type": "dict",
        "options": {
            "apiVersion": {"type": "str", "required": True},
            "kind": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "namespace": {"type": "str"},
        },
    },
    "appendTimestamp": {"type": "bool", "default": False},
    "merge_type": {"type": "list", "elements": "str", "choices": list(CONTENT_TYPES)},
}


def run(module, client):
    from kubernetes.dynamic.exceptions import NotFoundError

    params = module.params
    resource = client.resource("Event", "v1")
    address = {"name": params["name"], "namespace": params["namespace"] or "default"}
    if params["state"] == "present":
        module.exit_json(changed=True, result=told(module, client, resource, address).to_dict())
    if params["appendTimestamp"]:
        module.fail_json(msg="state: absent needs the Event's whole name; leave out appendTimestamp")
    try:
        existing = client.get(resource, **address).to_dict()
        client.delete(resource, **address)
    except NotFoundError:
        module.exit_json(changed=False, result={})
    module.exit_json(changed=True, result=existing)


def told(module, client, resource, address):
    """The Event as it is now, made or counted up."""
    from kubernetes.dynamic.exceptions import ConflictError, DynamicApiError, NotFoundError

    params = module.params
    moment = now()
    if params["appendTimestamp"]:
        address = dict(address, name=stamped(address["name"], moment))
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": dict(address),
        "involvedObject": involved(client, params["involvedObject"], address["namespace"]),
        "firstTimestamp": rfc3339(moment),
        "lastTimestamp": rfc3339(moment),
        "count": 1,
    }
    for name in ("message", "reason", "type", "source", "reportingComponent"):
        if params[name] is not None:
            body[name] = params[name]
    place = "the Event %(namespace)s/%(name)s" % address
    merge_type = (params["merge_type"] or ["strategic-merge"])[0]
    try:
        for _ in range(TRIES):
            try:
                existing = client.get(resource, **address)
            except NotFoundError:
                existing = None
            try:
                if existing is None:
                    return client.create(resource, body, namespace=address["namespace"])
                return patched(client, resource, counted(body, existing.to_dict()), merge_type)
            except (ConflictError, NotFoundError):
                # Others wrote or removed it at the same time.
                continue
    except DynamicApiError as error:
        refused(module, "%s could not be written" % place, error)
    module.fail_json(msg="%s was written by others at the same time, again and again" % place)


def counted(body, existing):
    """What the Event that exists shall become."""
    # The version makes the API server refuse a count that somebody else has overtaken.
    body = dict(body, metadata=dict(body["metadata"], resourceVersion=existing["metadata"]["resourceVersion"]))
    if existing.get("reason") == body["reason"]:
        body["count"] = (existing.get("count") or 0) + 1
        body["firstTimestamp"] = existing.get("firstTimestamp") or body["firstTimestamp"]
    return body


def patched(client, resource, body, merge_type):
    change = body
    if merge_type == "json":
        values = {"/metadata/resourceVersion": body["metadata"]["resourceVersion"]}
        values.update({"/" + name: body[name] for name in body if name not in ("apiVersion", "kind", "metadata")})
        change = [{"op": "add", "path": path, "value": value} for path, value in values.items()]
    address = {"name": body["metadata"]["name"], "namespace": body["metadata"]["namespace"]}
    return client.patch(resource, change, content_type=CONTENT_TYPES[merge_type], **address)


def involved(client, given, namespace):
    """The object that the Event is about, with what the cluster knows of it."""
    from kubernetes.dynamic.exceptions import DynamicApiError, ResourceNotFoundError

    if given is None:
        # About nothing in particular; the API server wants the namespaces to agree all the same.
        return {"namespace": namespace}
    found = {name: value for name, value in given.items() if value}
    try:
        resource = client.resource(given["kind"], given["apiVersion"])
    except ResourceNotFoundError:
        return {"namespace": namespace, **found}
    if resource.namespaced:
        found.setdefault("namespace", namespace)
    try:
        metadata = client.get(resource, name=given["name"], namespace=found.get("namespace")).metadata
        found.update(uid=metadata.uid, resourceVersion=metadata.resourceVersion)
    except DynamicApiError:
        # Not there, or not to be read: the Event says what it was told.
        pass
    return found


def stamped(name, moment):
    """The name with the time, of such characters as the API server takes in a name."""
    suffix = moment.strftime(".%Y%m%dt%H%M%S.%f")
    return name[: NAME_LIMIT - len(suffix)] + suffix


def main():
    execute(run, ARGUMENT_SPEC, required_if=[("state", "present", ("message", "reason"))])


if __name__ == "__main__":
    main()
