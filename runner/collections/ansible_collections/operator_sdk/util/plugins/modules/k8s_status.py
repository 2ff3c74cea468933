#!/usr/bin/python
# -*- coding: utf-8 -*-

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s_status
short_description: Write the status of a custom resource
version_added: "0.1.0"
author: rolerunner
description:
  - Sets fields of the status subresource of an object. Fields that are not named stay as they are.
  - Conditions are merged by their types, and stamped with the time when their status changes.
  - Writes nothing when nothing would change.
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
options:
  api_version:
    description: The object's apiVersion.
    type: str
    default: v1
    aliases: [api, version]
  kind:
    description: The object's kind.
    type: str
    required: true
  name:
    description: The object's name.
    type: str
    required: true
  namespace:
    description: The object's namespace; absent for cluster-scoped objects.
    type: str
  status:
    description:
      - Fields of the status. May hold C(conditions), if O(conditions) is not given; those are merged by their types as
        well, and left to the API server to check.
    type: dict
  conditions:
    description: Conditions to merge into those of the status.
    type: list
    elements: dict
    suboptions:
      type:
        description: Which condition.
        type: str
        required: true
      status:
        description: V("True"), V("False") or V("Unknown"); truth values are taken too.
        type: raw
        required: true
      reason:
        description: One word in CamelCase.
        type: str
      message:
        description: For people.
        type: str
      lastHeartbeatTime:
        description: When the condition was last looked at, as in RFC 3339.
        type: str
      lastTransitionTime:
        description:
          - When the condition last changed its status, as in RFC 3339. By default it is now when it does. A condition in
            which nothing else is new keeps the time that it has.
        type: str
  replace:
    description: Make the status exactly what is given, instead of adding to it. Other conditions go, too.
    type: bool
    default: false
    aliases: [force]
  replace_lists:
    description:
      - How lists other than conditions change makes no difference to the API, which replaces a list as a whole. Kept for
        roles that say it.
    type: bool
    default: false
requirements:
  - python >= 3.9
  - kubernetes >= 24.2.0
"""

EXAMPLES = r"""
- name: Say which pods there are
  operator_sdk.util.k8s_status:
    api_version: cache.example.com/v1alpha1
    kind: Memcached
    name: "{{ ansible_operator_meta.name }}"
    namespace: "{{ ansible_operator_meta.namespace }}"
    status:
      nodes: "{{ pods }}"

- name: Say that it is available
  operator_sdk.util.k8s_status:
    api_version: cache.example.com/v1alpha1
    kind: Memcached
    name: "{{ ansible_operator_meta.name }}"
    namespace: "{{ ansible_operator_meta.namespace }}"
    conditions:
      - type: Available
        status: "True"
        reason: MinimumReplicasAvailable
        message: All pods are up
"""

RETURN = r"""
result:
  description: The object with its new status.
  returned: success
  type: dict
"""

from ansible_collections.operator_sdk.util.plugins.module_utils.cluster import execute, now, refused, rfc3339
from ansible_collections.operator_sdk.util.plugins.module_utils.conditions import checked, merged

# How often a replacement is tried against others' writes.
TRIES = 5

CONDITION_SPEC = {
    "type": {"type": "str", "required": True},
    "status": {"type": "raw", "required": True},
    "reason": {"type": "str"},
    "message": {"type": "str"},
    "lastHeartbeatTime": {"type": "str"},
    "lastTransitionTime": {"type": "str"},
}

ARGUMENT_SPEC = {
    "api_version": {"type": "str", "default": "v1", "aliases": ["api", "version"]},
    "kind": {"type": "str", "required": True},
    "name": {"type": "str", "required": True},
    "namespace": {"type": "str"},
    "status": {"type": "dict"},
    "conditions": {"type": "list", "elements": "dict", "options": CONDITION_SPEC},
    "replace": {"type": "bool", "default": False, "aliases": ["force"]},
    "replace_lists": {"type": "bool", "default": False},
}


def desired(existing, status, conditions, replace, time):
    """The whole status that the object shall have."""
    result = dict(status) if replace else patched(existing, status)
    if conditions:
        kept = [item for item in existing.get("conditions") or [] if isinstance(item, dict)]
        types = {condition["type"] for condition in conditions}
        whole = merged(kept, conditions, time)
        result["conditions"] = [item for item in whole if item.get("type") in types] if replace else whole
    return result


def patched(existing, changes):
    """As the API server does a JSON merge patch."""
    result = dict(existing)
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            current = result.get(name)
            result[name] = patched(current if isinstance(current, dict) else {}, value)
        else:
            result[name] = value
    return result


def are_conditions(value):
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and item.get("type") for item in value)


def run(module, client):
    from kubernetes.dynamic.exceptions import ConflictError, DynamicApiError, NotFoundError

    params = module.params
    place = "%s %s" % (params["kind"], "/".join(filter(None, (params["namespace"], params["name"]))))
    status = dict(params["status"] or {})
    if params["conditions"] and status.get("conditions"):
        module.fail_json(msg="conditions are given twice: as `conditions` and inside `status`; keep one of them")
    try:
        conditions = [checked(condition) for condition in params["conditions"] or []]
    except (TypeError, ValueError) as error:
        module.fail_json(msg="conditions: %s" % error)
    # A kind may have something of its own under that name.
    if are_conditions(status.get("conditions")):
        conditions = status.pop("conditions")

    resource = client.resource(params["kind"], params["api_version"])
    address = {"name": params["name"], "namespace": params["namespace"]}
    time = rfc3339(now())
    for attempt in range(TRIES):
        try:
            existing = client.get(resource, **address).to_dict()
        except NotFoundError as error:
            refused(module, "%s does not exist, so its status cannot be written" % place, error)
        before = existing.get("status") or {}
        after = desired(before, status, conditions, params["replace"], time)
        if after == before:
            module.exit_json(changed=False, result=existing)
        if module.check_mode:
            module.exit_json(changed=True, result=dict(existing, status=after), diff=difference(before, after))
        if "status" not in resource.subresources:
            module.fail_json(msg="%s has no status subresource; add `subresources: {status: {}}` to its CRD" % place)
        try:
            if params["replace"]:
                answer = resource.status.replace(body=dict(existing, status=after), **address)
            else:
                body = {"apiVersion": params["api_version"], "kind": params["kind"], "metadata": {"name": params["name"]}}
                # The merge patch names what changes. Conditions are a list, which it replaces as a whole.
                body["status"] = dict(status, conditions=after["conditions"]) if conditions else status
                if conditions:
                    body["metadata"]["resourceVersion"] = existing["metadata"]["resourceVersion"]
                answer = resource.status.patch(body=body, content_type="application/merge-patch+json", **address)
        except ConflictError:
            if attempt < TRIES - 1:
                continue
            module.fail_json(msg="the status of %s was written by others at the same time, again and again" % place)
        except DynamicApiError as error:
            refused(module, "the status of %s could not be written" % place, error)
        module.exit_json(changed=True, result=answer.to_dict(), diff=difference(before, after))


def difference(before, after):
    return {"before": {"status": before}, "after": {"status": after}}


def main():
    execute(run, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
