"""Set up sharding in a cluster: the ControllerRing, and a sharder as a process, be it the stand-in or the sharder itself.

The sharder itself listens on the port 9443, always; of it there can be one on a machine.

Next on the way: `tests.sharding.sharder`, the stand-in.
"""

from __future__ import annotations

import base64
import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trustme
import yaml

from bench.driver import ROOT, Cluster, Operator, until
from runner.kube.client import Conflict, NotFound
from runner.resource.metadata import ObjectKey
from runner.resource.sharding import CONTROLLER_RING
from tests.sharding.manifests import controller_ring, ring_crd

_PORT = 9443


async def install(
    cluster: Cluster, ring: str, resources: Mapping[str, Sequence[str]], *, crds: Path | None = None, **spec: Any
) -> None:
    """Create a ring of main kinds with those that they control, as in {"things.example.com": ("configmaps",)}.

    `crds`: the file of the sharder's own CRD, or a folder with it, in place of ours.
    """
    await cluster.install(ring_crd() if crds is None else _crd_of(crds))
    await cluster.create(controller_ring(ring, resources, **spec))


def _crd_of(path: Path) -> dict[str, Any]:
    for file in sorted(path.glob("*.yaml")) if path.is_dir() else [path]:
        for document in yaml.safe_load_all(file.read_text()):
            if document and document["kind"] == "CustomResourceDefinition":
                made: dict[str, Any] = document
                return made
    raise FileNotFoundError(f"{path}: no CustomResourceDefinition is there")


def start(
    kubeconfig: Path, folder: Path, *, executable: Path | None = None, sync_period: float = 300.0, name: str = "sharder"
) -> Operator:
    """Start the stand-in, or the sharder itself if its executable is named. Its log is `folder`/`name`.log."""
    if executable is None:
        command = [sys.executable, "-m", "tests.sharding.sharder", f"--sync-period={sync_period}"]
    else:
        command = [str(executable), f"--config={_configuration(folder / name, sync_period)}"]
    return Operator(command, folder=ROOT, log=folder / f"{name}.log", environ={"KUBECONFIG": str(kubeconfig)})


def _configuration(folder: Path, sync_period: float) -> Path:
    """Write the sharder's configuration, and the certificate of its webhook."""
    folder.mkdir(exist_ok=True)
    ca = trustme.CA()
    certificate = ca.issue_cert("127.0.0.1")
    (folder / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(folder / "tls.key")
    bundle = base64.b64encode(ca.cert_pem.bytes()).decode()
    configuration = {
        "apiVersion": "config.sharding.timebertt.dev/v1alpha1",
        "kind": "SharderConfig",
        "leaderElection": {"leaderElect": False},
        "health": {"bindAddress": "0"},
        "metrics": {"bindAddress": "0"},
        "controller": {"sharder": {"syncPeriod": f"{sync_period}s"}},
        "webhook": {
            "server": {"certDir": str(folder)},
            "config": {"clientConfig": {"url": f"https://127.0.0.1:{_PORT}", "caBundle": bundle}},
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(configuration))
    return path


async def ready(cluster: Cluster, ring: str, *, shards: int = 0) -> None:
    """Await that a sharder serves the ring, and that so many shards (at least 0) are available."""

    async def is_ready() -> bool:
        found = await cluster.get(CONTROLLER_RING, ObjectKey("", ring)) or {"metadata": {}}
        status = found.get("status") or {}
        conditions = [each for each in status.get("conditions") or () if each["type"] == "Ready"]
        is_current = status.get("observedGeneration") == found["metadata"].get("generation")
        is_served = bool(conditions) and is_current and conditions[0]["status"] == "True"
        return is_served and status["availableShards"] >= shards

    await until(is_ready, f"the ring {ring} is served, with {shards} shards", interval=0.2)


async def uninstall(cluster: Cluster, ring: str) -> None:
    """Remove a ring and its webhook. The CRD stays, and the labels of objects."""
    await cluster.delete(CONTROLLER_RING, ObjectKey("", ring))
    # The garbage collector would do it, too, some time later.
    with contextlib.suppress(NotFound, Conflict):
        path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/controllerring-{ring}"
        await cluster.client.delete(path)
