"""The image, built from the Dockerfile: what is in it, and that its operator works, whoever runs it."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import runner
from bench.driver import MEMCACHED, Cluster, condition, until
from devkit.devcluster import Cluster as Devcluster
from runner.loop_lag import HELD_UP
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.conftest import held_up, lines
from tests.image.containers import NEWEST, ROOT, Container, Storage, missing

pytestmark = [
    pytest.mark.image,
    # The first test's, which builds everything.
    pytest.mark.timeout(1800),
]

PINS = (ROOT / "requirements-ansible-core.txt").read_text()
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
def base(storage: Storage) -> str:
    return storage.base()


@pytest.fixture(scope="module")
def image(storage: Storage, base: str) -> str:
    """The example operator's, for which kubernetes.core comes from PyPI."""
    return storage.build("memcached-operator", BASE_IMAGE=base, COLLECTIONS="pypi", ANSIBLE_CORE=NEWEST)


@pytest.fixture(scope="module", params=[NEWEST, "2.18"])
def core(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(storage: Storage, base: str, core: str, request: pytest.FixtureRequest) -> str:
    """The example operator's image with this ansible-core."""
    if core == NEWEST:
        return str(request.getfixturevalue("image"))
    return storage.build(f"memcached-operator-{core}", BASE_IMAGE=base, COLLECTIONS="pypi", ANSIBLE_CORE=core)


@pytest.fixture
def kubeconfig(devcluster: Devcluster, tmp_path: Path) -> Path:
    return flattened(devcluster, tmp_path)


def flattened(devcluster: Devcluster, folder: Path) -> Path:
    """The cluster's kubeconfig with all that it names in itself."""
    command = [str(devcluster.kubectl), "--kubeconfig", str(devcluster.kubeconfig), "config", "view", "--raw", "--flatten"]
    path = folder / "kubeconfig"
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return path


@pytest.mark.parametrize(
    ("arguments", "tags"),
    [((), ["", "-ansible2.21"]), (("CORE=2.18",), ["-ansible2.18"])],
    ids=["the-newest", "another"],
)
def test_its_tags_say_which_ansible_core(arguments: tuple[str, ...], tags: list[str]) -> None:
    done = subprocess.run(["make", "--dry-run", "image", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    assert re.findall(r"--tag (\S+)", done.stdout) == [f"rolerunner:{runner.__version__}{tag}" for tag in tags]


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
    *lines_said, asked = said(storage, image, look).splitlines()
    assert "Nothing to do." in asked
    tools = ("ansible-galaxy", "ansible-playbook", "rolerunner", "pip")
    assert lines_said == [
        "collections: kubernetes/core operator_sdk/util",
        "tools: " + " ".join(f"/opt/rolerunner/bin/{tool}" for tool in tools),
        "writable: /opt/ansible /run/lock /tmp /var/tmp",
    ]


def test_its_ansible_core(storage: Storage, engine: str, core: str) -> None:
    assert storage.config(engine)["Labels"]["io.rolerunner.ansible-core"] == core
    (pin,) = re.findall(rf"^ansible-core==({core}\.\S+)", PINS, re.MULTILINE)
    assert f"ansible [core {pin}]" in said(storage, engine, "ansible --version")


def test_what_the_go_operators_image_has_beside_it(storage: Storage, engine: str) -> None:
    packages = "/opt/rolerunner/lib/python3.11/site-packages"
    look = """
for python in /usr/local/bin/python3 /usr/bin/python3 python3; do
    $python -c 'import kubernetes, requests, yaml; print(*(module.__path__[0] for module in (kubernetes, requests, yaml)))'
    $python -m pip --version
done
ls /usr/local/bin
echo $USER_NAME $USER_UID
ansible-config dump --only-changed
ansible-inventory --list
"""
    told = said(storage, engine, look)
    assert told.count(" ".join(f"{packages}/{name}" for name in ("kubernetes", "requests", "yaml"))) == 3
    assert told.count(f" from {packages}/pip ") == 3
    assert {"ansible-galaxy", "ansible-operator", "ansible-playbook", "ansible-runner", "pip3"} <= set(told.split())
    assert "ansible 1001\n" in told
    assert "DEFAULT_ROLES_PATH(/etc/ansible/ansible.cfg) = ['/opt/ansible/roles']" in told
    assert "DEFAULT_MODULE_PATH(/etc/ansible/ansible.cfg) = ['/usr/share/ansible/openshift']" in told
    assert '"ansible_connection": "local"' in told


@pytest.mark.parametrize("user", ["1001", "123456:0"], ids=["its-own-user", "any-user-of-group-0"])
def test_a_collection_of_the_operators_own_is_taken(storage: Storage, engine: str, user: str) -> None:
    """In HOME, where ansible-galaxy puts it; the image has another version of it."""
    bring = """
set -e
cd /tmp
ansible-galaxy collection init kubernetes.core >/dev/null
cd kubernetes/core
sed -i 's/^version:.*/version: 3.2.0/' galaxy.yml
mkdir plugins/modules
cat > plugins/modules/k8s_info.py <<END
import sys, kubernetes
from ansible.module_utils.basic import AnsibleModule
AnsibleModule({}).exit_json(msg="own, by " + sys.executable)
END
ansible-galaxy collection build >/dev/null
ansible-galaxy collection install --offline kubernetes-core-3.2.0.tar.gz >/dev/null
ansible-galaxy collection list kubernetes.core
ansible localhost -m kubernetes.core.k8s_info -e ansible_python_interpreter=/usr/local/bin/python3
"""
    told = said(storage, engine, bring, user=user)
    where = [told.index(text) for text in ("/opt/ansible/.ansible/collections", "3.2.0", "/usr/share/ansible/collections")]
    assert where == sorted(where)
    assert "own, by /usr/local/bin/python3" in told


def test_pip_installs_for_the_python_of_roles(storage: Storage, image: str) -> None:
    install = """
set -e
cd /tmp
python3 - <<END
from zipfile import ZipFile
with ZipFile("own-1-py3-none-any.whl", "w") as wheel:
    wheel.writestr("own.py", "")
    wheel.writestr("own-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: own\\nVersion: 1")
    wheel.writestr("own-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any")
    wheel.writestr("own-1.dist-info/RECORD", "")
END
for pip in pip3 'python3 -m pip' '/usr/local/bin/python3 -m pip'; do
    $pip install --quiet own-1-py3-none-any.whl
    for python in python3 /usr/local/bin/python3; do $python -c 'import own; print(own.__file__)'; done
    $pip uninstall --quiet --yes own
done
"""
    assert said(storage, image, install, user="0").count("/opt/rolerunner/lib/python3.11/site-packages/own.py") == 6


def test_a_base_image_whose_python_is_not_for_an_ansible_core(storage: Storage, base: str) -> None:
    with pytest.raises(RuntimeError, match=r"ansible-core 2\.21 is not for Python 3\.11\.\d+: choose another BASE_IMAGE"):
        storage.build("refused", target="runner", BASE_IMAGE=base, ANSIBLE_CORE="2.21")


@pytest.mark.parametrize(
    ("user", "read_only"),
    [("", False), ("123456:0", False), ("1000660000:0", True)],
    ids=["its-own-user", "any-user-of-group-0", "read-only-root"],
)
async def test_its_operator_works(
    storage: Storage, engine: str, kubeconfig: Path, devcluster: Devcluster, namespace: str, user: str, read_only: bool
) -> None:
    async with Cluster.connected(devcluster.kubeconfig) as world:
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            await world.install(yaml.safe_load(path.read_text()))
        container = storage.start(
            engine, *ARGUMENTS, kubeconfig=kubeconfig, user=user, read_only=read_only, WATCH_NAMESPACE=namespace
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
    assert held_up(container.log) == []
    # By the machine it may have been.
    others = [line for line in container.output.splitlines() if HELD_UP not in line]
    for sign in ("Traceback", "Read-only file system", "Permission denied", '"level":"error"', '"level":"warning"'):
        assert [line for line in others if sign in line] == []


def said(storage: Storage, image: str, script: str, *, user: str = "1001") -> str:
    """What a shell in a new container says."""
    container = storage.run("from", image)
    return storage.run("run", "--isolation=chroot", f"--user={user}", container, "--", "sh", "-c", script)


async def watching(container: Container) -> None:
    async def watches() -> bool:
        assert container.process.poll() is None, container.output
        return bool(lines(container, "Watching"))

    await until(watches, "the operator watches")


async def succeeded(world: Cluster, gvk: GroupVersionKind, key: ObjectKey) -> bool:
    return condition(await world.get(gvk, key), "Successful").get("status") == "True"


async def reaped(container: Container) -> bool:
    return not any(state == "Z" or command.startswith("sleep") for state, command in container.processes().values())
