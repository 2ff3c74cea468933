"""The image, built from the Dockerfile: what is in it, and that its operator works, whoever runs it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bench.driver import MEMCACHED, Cluster, condition, until
from runner.devcluster import Cluster as Devcluster
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.conftest import lines
from tests.image.containers import ROOT, Container, Storage, missing

pytestmark = [
    pytest.mark.image,
    # The first test's, which builds everything.
    pytest.mark.timeout(1800),
]

SETTINGS = GroupVersionKind(MEMCACHED.group, MEMCACHED.version, "MemcachedSettings")
SAMPLES = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "config" / "samples").glob("cache_*.yaml"))]
# Containers share this machine's network.
ARGUMENTS = (
    *("--proxy-port=0", "--health-probe-bind-address=127.0.0.1:0", "--metrics-bind-address=0"),
    *("--role-metrics-bind-address=0", "--log-format=json"),
)


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    lacking = missing()
    if lacking and os.environ.get("CI") == "true":
        pytest.fail(f"{lacking}; .ci/run is to see to it")
    if lacking:
        pytest.skip(lacking)
    with Storage() as made:
        yield made


@pytest.fixture(scope="module")
def image(storage: Storage) -> str:
    """The example operator's, for which kubernetes.core comes from PyPI."""
    return storage.build("memcached-operator", BASE_IMAGE=storage.base(), COLLECTIONS="pypi")


@pytest.fixture
def kubeconfig(devcluster: Devcluster, tmp_path: Path) -> Path:
    return flattened(devcluster, tmp_path)


def flattened(devcluster: Devcluster, folder: Path) -> Path:
    """The cluster's kubeconfig with all that it names in itself."""
    command = [str(devcluster.kubectl), "--kubeconfig", str(devcluster.kubeconfig), "config", "view", "--raw", "--flatten"]
    path = folder / "kubeconfig"
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return path


def test_what_is_in_it(storage: Storage, image: str) -> None:
    config = storage.config(image)
    assert config["User"] == "1001"
    assert config["WorkingDir"] == "/opt/ansible"
    assert config["Entrypoint"][-3:] == ["/usr/local/bin/ansible-operator", "run", "--watches-file=./watches.yaml"]
    look = """
cd /usr/share/ansible/collections/ansible_collections && echo collections: */*
echo tools: $(for tool in ansible-galaxy ansible-playbook rolerunner cc gcc git pip; do command -v $tool; done)
echo writable: $(find / -xdev -type d -writable ! -path '/opt/ansible/*' 2>/dev/null | sort)
echo asked: $(ansible-galaxy collection install operator_sdk.util:0.5.0 'kubernetes.core:>=5')
python -c 'import setuptools' 2>/dev/null && echo setuptools
true
"""
    said = storage.run("run", "--isolation=chroot", storage.run("from", image), "--", "sh", "-c", look)
    *lines_said, asked = said.splitlines()
    assert "Nothing to do." in asked
    assert lines_said == [
        "collections: kubernetes/core operator_sdk/util",
        "tools: /opt/rolerunner/bin/ansible-galaxy /opt/rolerunner/bin/ansible-playbook /opt/rolerunner/bin/rolerunner",
        "writable: /opt/ansible /run/lock /tmp /var/tmp",
    ]


@pytest.mark.parametrize(
    ("user", "read_only"),
    [("", False), ("123456:0", False), ("1000660000:0", True)],
    ids=["its-own-user", "any-user-of-group-0", "read-only-root"],
)
async def test_its_operator_works(
    storage: Storage, image: str, kubeconfig: Path, devcluster: Devcluster, namespace: str, user: str, read_only: bool
) -> None:
    async with Cluster.connected(devcluster.kubeconfig) as world:
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            await world.install(yaml.safe_load(path.read_text()))
        container = storage.start(
            image, *ARGUMENTS, kubeconfig=kubeconfig, user=user, read_only=read_only, WATCH_NAMESPACE=namespace
        )
        await watching(container)
        for sample in SAMPLES:
            await world.create(sample, namespace)
        for sample in SAMPLES:
            gvk, key = GroupVersionKind.of(sample), ObjectKey(namespace, sample["metadata"]["name"])
            await until(lambda gvk=gvk, key=key: succeeded(world, gvk, key), f"{gvk.kind} is as it shall be")
        if read_only:
            # Process 1 takes care of what nobody else does.
            await until(lambda: reaped(container), "what had lost its parent is reaped")
        assert lines(container, "Ansible is warm")
        assert container.stop() == 0
    assert lines(container, "Stopped")
    for sign in ("Traceback", "Read-only file system", "Permission denied", '"level": "error"', '"level": "warning"'):
        assert sign not in container.output


async def watching(container: Container) -> None:
    async def watches() -> bool:
        assert container.process.poll() is None, container.output
        return bool(lines(container, "Watching"))

    await until(watches, "the operator watches")


async def succeeded(world: Cluster, gvk: GroupVersionKind, key: ObjectKey) -> bool:
    return condition(await world.get(gvk, key), "Successful").get("status") == "True"


async def reaped(container: Container) -> bool:
    return not any(state == "Z" or command.startswith("sleep") for state, command in container.processes().values())
