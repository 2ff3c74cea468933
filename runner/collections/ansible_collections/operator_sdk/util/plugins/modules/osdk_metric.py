#!/usr/bin/python
# -*- coding: utf-8 -*-

from __future__ import annotations

DOCUMENTATION = r"""
module: osdk_metric
short_description: Bring a metric of the role's own to the operator
version_added: "0.5.0"
author: rolerunner
description:
  - Makes a Prometheus metric, or changes one that is there. The operator serves it at C(/metrics) beside its own.
  - Exactly one of O(counter), O(gauge), O(histogram) and O(summary) is given. An empty one makes the metric and leaves its
    value alone. A metric keeps its type and its description for as long as the operator runs.
options:
  name:
    description: The metric's name.
    type: str
    required: true
  description:
    description: What it measures, for people.
    type: str
    required: true
  address:
    description: Where the operator takes metrics, as C(--role-metrics-bind-address) has it.
    type: str
    default: http://localhost:5050/metrics
  counter:
    description: A value that only goes up.
    type: dict
    suboptions:
      increment:
        description: Add one.
        type: bool
      add:
        description: Add this; not negative.
        type: float
  gauge:
    description: A value that goes up and down. Of several changes the first in the order of this list is made.
    type: dict
    suboptions:
      increment:
        description: Add one.
        type: bool
      decrement:
        description: Subtract one.
        type: bool
      add:
        description: Add this.
        type: float
      subtract:
        description: Subtract this.
        type: float
      set:
        description: Make it this.
        type: float
      set_to_current_time:
        description: Make it the time, in seconds since 1970.
        type: bool
  histogram:
    description: How often values came, in buckets from 0.005 to 10.
    type: dict
    suboptions:
      observe:
        description: The value that came.
        type: float
  summary:
    description: How often values came, and their sum.
    type: dict
    suboptions:
      observe:
        description: The value that came.
        type: float
"""

EXAMPLES = r"""
- name: Count the backups
  operator_sdk.util.osdk_metric:
    name: memcached_backups_total
    description: Backups that were made
    counter:
      increment: true

- name: Say how many pods are ready
  operator_sdk.util.osdk_metric:
    name: memcached_ready_pods
    description: Pods that are ready
    gauge:
      set: "{{ ready | int }}"
"""

RETURN = r"""
status_code:
  description: The HTTP status with which the metric was refused.
  returned: when it was refused
  type: int
"""

import json
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.converters import to_text
from ansible.module_utils.urls import fetch_url

TYPES = {
    "counter": {"increment": {"type": "bool"}, "add": {"type": "float"}},
    "gauge": {
        "increment": {"type": "bool"},
        "decrement": {"type": "bool"},
        "add": {"type": "float"},
        "subtract": {"type": "float"},
        "set": {"type": "float"},
        "set_to_current_time": {"type": "bool"},
    },
    "histogram": {"observe": {"type": "float"}},
    "summary": {"observe": {"type": "float"}},
}

ARGUMENT_SPEC = {
    "name": {"type": "str", "required": True},
    "description": {"type": "str", "required": True},
    "address": {"type": "str", "default": "http://localhost:5050/metrics"},
    **{name: {"type": "dict", "options": options} for name, options in TYPES.items()},
}


def main():
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        supports_check_mode=True,
        required_one_of=[tuple(TYPES)],
        mutually_exclusive=[tuple(TYPES)],
    )
    if module.check_mode:
        module.exit_json(changed=True)
    payload = {"name": module.params["name"], "description": module.params["description"]}
    for name in TYPES:
        if module.params[name] is not None:
            payload[name] = {key: value for key, value in module.params[name].items() if value is not None}
    address = module.params["address"]
    # A proxy that the pod has for the world outside does not lead back into the pod.
    own = urlsplit(address).hostname in ("localhost", "127.0.0.1", "::1")
    response, info = fetch_url(
        module,
        address,
        data=json.dumps(payload),
        headers={"Content-Type": "application/json"},
        method="POST",
        use_proxy=not own,
    )
    if info["status"] <= 0:
        module.fail_json(msg="%s takes no metrics: %s; see the operator's --role-metrics-bind-address" % (address, info["msg"]))
    if info["status"] != 200:
        body = to_text(info.get("body") or b"").strip()
        module.fail_json(msg=body or info["msg"], status_code=info["status"])
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
