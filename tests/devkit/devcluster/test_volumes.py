from pathlib import Path
from typing import Any

import pytest

from devkit.devcluster import Cluster
from devkit.devcluster.supervisor import PROVISIONER
from devkit.devcluster.volumes import volume
from tests.devkit.devcluster.test_cluster import PATIENCE, apply, kubectl, until


def claim(*modes: str, name: str = "claim", **spec: Any) -> dict[str, Any]:
    resources = {"requests": {"storage": "3Gi"}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": [*modes], "resources": resources, **spec},
    }


def storage_class(name: str, **fields: str) -> dict[str, Any]:
    made = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": PROVISIONER}
    return {**made, "metadata": {"name": name}, **fields}


def bound(devcluster: Cluster, namespace: str, name: str = "claim") -> str:
    """The claim's volume, once it is bound."""
    of = ("-n", namespace, f"persistentvolumeclaim/{name}")
    kubectl(devcluster, "wait", *of, "--for=jsonpath={.status.phase}=Bound", f"--timeout={PATIENCE}s")
    return kubectl(devcluster, "get", *of, "-o", "jsonpath={.spec.volumeName}")


@pytest.mark.parametrize(
    ("modes", "spec"),
    [
        pytest.param(["ReadWriteOnce"], {}, id="ReadWriteOnce"),
        pytest.param(["ReadWriteMany"], {}, id="ReadWriteMany"),
        pytest.param(["ReadWriteOnce", "ReadOnlyMany"], {}, id="two"),
        pytest.param(["ReadWriteOncePod"], {"volumeMode": "Block"}, id="Block"),
    ],
)
def test_a_claim_is_bound_and_its_volume_goes_with_it(
    devcluster: Cluster, namespace: str, tmp_path: Path, modes: list[str], spec: dict[str, str]
) -> None:
    apply(devcluster, namespace, tmp_path, claim(*modes, **spec))
    name = bound(devcluster, namespace)
    kubectl(devcluster, "-n", namespace, "delete", "persistentvolumeclaim/claim", f"--timeout={PATIENCE}s")
    until(lambda: name not in kubectl(devcluster, "get", "persistentvolumes", "-o", "name"), "the volume is gone")


def test_a_stateful_set_with_claims_becomes_ready(devcluster: Cluster, namespace: str, tmp_path: Path) -> None:
    container = {"name": "main", "image": "x", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    labels = {"app": "db"}
    spec = {
        "serviceName": "db",
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        "volumeClaimTemplates": [claim("ReadWriteOnce", name="data")],
    }
    apply(
        devcluster,
        namespace,
        tmp_path,
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": spec},
    )
    kubectl(devcluster, "-n", namespace, "rollout", "status", "statefulset/db", f"--timeout={PATIENCE}s")
    assert bound(devcluster, namespace, "data-db-0") != bound(devcluster, namespace, "data-db-1")


def test_a_class_may_keep_volumes_and_wait_for_pods(devcluster: Cluster, namespace: str, tmp_path: Path) -> None:
    name = f"late-{namespace}"
    late = storage_class(name, reclaimPolicy="Retain", volumeBindingMode="WaitForFirstConsumer")
    uses = [{"name": "data", "persistentVolumeClaim": {"claimName": "claim"}}]
    spec = {"containers": [{"name": "main", "image": "x"}], "volumes": uses}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
    apply(devcluster, namespace, tmp_path, late, claim("ReadWriteOnce", storageClassName=name), pod)
    kept = bound(devcluster, namespace)
    kubectl(devcluster, "-n", namespace, "wait", "pod/pod", "--for=condition=Ready", f"--timeout={PATIENCE}s")
    kubectl(devcluster, "-n", namespace, "delete", "pod/pod", "persistentvolumeclaim/claim", f"--timeout={PATIENCE}s")
    released = ("--for=jsonpath={.status.phase}=Released", f"--timeout={PATIENCE}s")
    kubectl(devcluster, "wait", f"persistentvolume/{kept}", *released)
    kubectl(devcluster, "delete", f"storageclass/{name}", f"persistentvolume/{kept}", f"--timeout={PATIENCE}s")


def test_claims_are_bound_after_the_api_server_was_away(own_cluster: Cluster, tmp_path: Path) -> None:
    own_cluster.stop_apiserver()
    own_cluster.start_apiserver()
    apply(own_cluster, "default", tmp_path, claim("ReadWriteMany"))
    bound(own_cluster, "default")


def test_a_volume_is_as_its_claim_asks() -> None:
    asked = claim("ReadWriteMany", storageClassName="standard")
    asked["metadata"] |= {"namespace": "here", "uid": "1-2-3"}
    made = volume(asked, "Retain")
    assert made["metadata"]["name"] == "pvc-1-2-3"
    assert made["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "capacity": {"storage": "3Gi"},
        "claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": "here",
            "name": "claim",
            "uid": "1-2-3",
        },
        "hostPath": {"path": "/devcluster/pvc-1-2-3"},
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "standard",
        "volumeMode": "Filesystem",
    }
