"""What the modules that speak to the cluster have in common."""

from __future__ import annotations

import datetime

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule


def execute(run, argument_spec: dict, **options) -> None:
    """Call `run(module, client)` with the arguments of the connection besides its own; errors become the task's."""
    spec = {**AUTH_ARG_SPEC, **argument_spec}
    module = AnsibleK8SModule(module_class=AnsibleModule, argument_spec=spec, supports_check_mode=True, **options)
    # Imports the client, whose absence the module has complained about by now.
    from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
    from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException
    from kubernetes.dynamic.exceptions import DynamicApiError, ResourceNotFoundError

    try:
        run(module, get_api_client(module))
    except CoreException as error:
        module.fail_from_exception(error)
    except ResourceNotFoundError:
        module.fail_json(msg="the cluster has no kind %(kind)s in %(api_version)s" % module.params)
    except DynamicApiError as error:
        refused(module, "the API server refused", error)


def refused(module, what: str, error) -> None:
    """Fail with what the API server said."""
    module.fail_json(
        msg="%s: %s" % (what, error.summary()),
        error={"status": error.status, "reason": error.reason, "body": error.summary()},
    )


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def rfc3339(time: datetime.datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
