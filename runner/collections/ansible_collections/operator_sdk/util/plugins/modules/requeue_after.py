#!/usr/bin/python
# -*- coding: utf-8 -*-

from __future__ import annotations

DOCUMENTATION = r"""
module: requeue_after
short_description: Ask the operator for another run of this custom resource after a time
version_added: "0.1.0"
author: rolerunner
description:
  - When the run has ended, and ended well, the operator waits for this time instead of its reconcile period.
  - Of several such tasks in a run the last counts.
options:
  time:
    description: The time to wait, as a Go duration.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Look again in a minute, while replicas are still coming
  operator_sdk.util.requeue_after:
    time: 1m
  when: ready < size
"""

RETURN = r"""
period:
  description: The time to wait.
  returned: always
  type: str
  sample: 1m
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.operator_sdk.util.plugins.module_utils.durations import check


def main():
    module = AnsibleModule(argument_spec={"time": {"type": "str", "required": True}}, supports_check_mode=True)
    try:
        period = check(module.params["time"])
    except ValueError as error:
        module.fail_json(msg="time: %s" % error)
    module.exit_json(changed=False, period=period)


if __name__ == "__main__":
    main()
