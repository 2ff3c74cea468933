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
    required: true
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
    description: Fields of the status. May hold C(conditions), if O(conditions) is not given.
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
        description: When the condition last changed its status, as in RFC 3339. By default it is now when it does.
        type: str
  replace:
    description: Make the status exactly what is given, instead of adding to it.
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

import copy
import datetime

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
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


def argument_spec():
    spec = copy.deepcopy(AUTH_ARG_SPEC)
    spec.update(
        {
            "api_version": {"type": "str", "required": True, "aliases": ["api", "version"]},
            "kind": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "namespace": {"type": "str"},
            "status": {"type": "dict"},
            "conditions": {"type": "list", "elements": "dict", "options": CONDITION_SPEC},
            "replace": {"type": "bool", "default": False, "aliases": ["force"]},
            "replace_lists": {"type": "bool", "default": False},
        }
    )
    return spec


def desired(existing, status, conditions, replace, now):
    """The whole status that the object shall have."""
    result = dict(status) if replace else patched(existing, status)
    if conditions:
        kept = [] if replace else [item for item in existing.get("conditions") or [] if isinstance(item, dict)]
        result["conditions"] = merged(kept, conditions, now)
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


def run(module, client):
    from kubernetes.dynamic.exceptions import ConflictError, DynamicApiError, NotFoundError

    params = module.params
    place = "%s %s" % (params["kind"], "/".join(filter(None, (params["namespace"], params["name"]))))
    status = dict(params["status"] or {})
    if params["conditions"] is not None and "conditions" in status:
        module.fail_json(msg="conditions are given twice: as `conditions` and inside `status`; keep one of them")
    given = params["conditions"] if params["conditions"] is not None else status.pop("conditions", None)
    try:
        conditions = [checked(condition) for condition in given or []]
    except (AttributeError, TypeError, ValueError) as error:
        module.fail_json(msg="conditions: %s" % error)

    resource = client.resource(params["kind"], params["api_version"])
    address = {"name": params["name"], "namespace": params["namespace"]}
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    for attempt in range(TRIES):
        try:
            existing = client.get(resource, **address).to_dict()
        except NotFoundError:
            module.fail_json(msg="%s does not exist, so its status cannot be written" % place)
        before = existing.get("status") or {}
        after = desired(before, status, conditions, params["replace"], now)
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
            module.fail_json(msg="the status of %s could not be written: %s" % (place, error.summary()), error=error.status)
        module.exit_json(changed=True, result=answer.to_dict(), diff=difference(before, after))


def difference(before, after):
    return {"before": {"status": before}, "after": {"status": after}}


def main():
    module = AnsibleK8SModule(module_class=AnsibleModule, argument_spec=argument_spec(), supports_check_mode=True)
    # Imports the client, whose absence the module has complained about by now.
    from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
    from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException

    try:
        run(module, get_api_client(module))
    except CoreException as error:
        module.fail_from_exception(error)


if __name__ == "__main__":
    main()
