"""pytest fixtures with a real control plane: `devcluster`, for the session, and `namespace`, for a test.

Loaded by pytest by itself wherever rolerunner is installed; costs nothing until a fixture is asked for.
"""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from devkit.devcluster import Cluster

# Seconds.
_PATIENCE = 120


@pytest.fixture(scope="session")
def devcluster_exec_dir() -> Path | None:
    """To be overridden: the folder of programs that stand in for those of containers."""
    return None


@pytest.fixture(scope="session")
def devcluster(devcluster_exec_dir: Path | None) -> Iterator[Cluster]:
    """A cluster for all tests of the session; gone afterwards, however the session ends."""
    from devkit.devcluster import Cluster

    with Cluster.start(exec_dir=devcluster_exec_dir) as cluster:
        yield cluster


@pytest.fixture
def namespace(devcluster: Cluster) -> Iterator[str]:
    """A fresh namespace, in which pods can be made. Its removal is begun, not awaited."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    kubectl = [str(devcluster.kubectl), "--kubeconfig", str(devcluster.kubeconfig)]
    subprocess.run([*kubectl, "create", "namespace", name], check=True, capture_output=True)
    deadline = time.monotonic() + _PATIENCE
    account = [*kubectl, "get", "serviceaccount", "default", "--namespace", name]
    while subprocess.run(account, capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, "the namespace got no default ServiceAccount"
        time.sleep(0.05)
    yield name
    subprocess.run([*kubectl, "delete", "namespace", name, "--wait=false"], check=True, capture_output=True)
