"""The resource that an HTTP request addresses, parsed from its path.

As k8s.io/apiserver's RequestInfo, for the part of it that the proxy has to understand.

Next on the way: `runner.proxy.call`.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """The parts of a path. `plural` is empty for what is not a resource: discovery, /version, /openapi."""

    api_version: str = ""
    namespace: str = ""
    plural: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def is_resource(self) -> bool:
        return bool(self.plural)


def parse(path: str) -> RequestInfo:
    """`/apis/apps/v1/namespaces/default/deployments/x/status` → its parts. `path` as it was sent, without the query."""
    match [unquote(part) for part in path.split("/") if part]:
        case ["api", version, *rest]:
            api_version = version
        case ["apis", group, version, *rest]:
            api_version = f"{group}/{version}"
        case _:
            return RequestInfo()
    if rest[:1] == ["watch"]:
        # An old way to watch, which has the resource's path behind it. Nothing here has to know more of it.
        return RequestInfo()
    namespace = ""
    # A namespace is itself a resource: /api/v1/namespaces/NAME, and its subresources.
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    plural, name, *subresource = (*rest, "", "")[: max(2, len(rest))]
    return RequestInfo(api_version, namespace, plural, name, "/".join(subresource))
