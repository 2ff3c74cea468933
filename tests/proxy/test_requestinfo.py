import pytest

from runner.proxy.requestinfo import RequestInfo, parse


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/version", RequestInfo()),
        ("/openapi/v3/apis/apps/v1", RequestInfo()),
        ("/api", RequestInfo()),
        ("/api/v1", RequestInfo("v1")),
        ("/api/v1/pods", RequestInfo("v1", "", "pods")),
        ("/api/v1/namespaces", RequestInfo("v1", "", "namespaces")),
        ("/api/v1/namespaces/x", RequestInfo("v1", "", "namespaces", "x")),
        ("/api/v1/namespaces/x/finalize", RequestInfo("v1", "", "namespaces", "x", "finalize")),
        ("/api/v1/namespaces/x/pods/y/log", RequestInfo("v1", "x", "pods", "y", "log")),
        # Its names are not those of a path that was taken apart after it was unquoted.
        ("/api/v1/namespaces/x/configmaps/y%2Fstatus", RequestInfo("v1", "x", "configmaps", "y/status")),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/a%3Ab",
            RequestInfo("rbac.authorization.k8s.io/v1", "", "clusterroles", "a:b"),
        ),
        ("/api/v1/watch/namespaces/x/pods/y", RequestInfo()),
        ("/api/v1/namespaces/x/services/y/proxy/a/b", RequestInfo("v1", "x", "services", "y", "proxy/a/b")),
        ("/apis/apps/v1/namespaces/d/deployments", RequestInfo("apps/v1", "d", "deployments")),
        ("/apis/apps/v1/namespaces/d/deployments/x/status", RequestInfo("apps/v1", "d", "deployments", "x", "status")),
    ],
)
def test_what_a_path_asks_for(path: str, expected: RequestInfo) -> None:
    assert parse(path) == expected
    assert parse(path).is_resource is bool(expected.plural)
