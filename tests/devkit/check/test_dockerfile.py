"""What an operator's Dockerfile says."""

from __future__ import annotations

from pathlib import Path

import pytest

from devkit.check import dockerfile
from devkit.check.dockerfile import Dockerfile
from devkit.check.findings import Finding
from tests.devkit.check.conftest import Write, told

BASE = "registry.example.com/operator-framework/ansible-operator"


def read(folder: Path) -> Dockerfile:
    findings: list[Finding] = []
    (found,) = dockerfile.read(folder, findings)
    assert findings == []
    return found


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (f"{BASE}:v1.42.3", (2, 18)),
        (f"{BASE}:v1.37.1", (2, 18)),
        (f"{BASE}:v1.37.0", (2, 17)),
        (f"{BASE}:v1.36", (2, 17)),
        (f"{BASE}:v1.34.2", (2, 15)),
        (f"{BASE}:v1.20.0", None),
        (f"{BASE}:latest", None),
        (f"{BASE}:v2.0.0", None),
        ("registry.example.com/openshift4/ose-ansible-rhel9-operator:v4.19", None),
        ("rolerunner", None),
    ],
)
def test_the_ansible_core_of_an_image(image: str, expected: tuple[int, int] | None) -> None:
    assert dockerfile.image_core(image) == expected


@pytest.mark.parametrize(
    ("files", "base"),
    [
        ({"Dockerfile": f"FROM {BASE}:v1.40.0\n"}, f"{BASE}:v1.40.0"),
        ({"Dockerfile": f"ARG TAG=v1.40.0\nFROM {BASE}:${{TAG}}\n"}, f"{BASE}:v1.40.0"),
        (
            {"Dockerfile": "ARG TAG\nFROM ${REPO}:$TAG\nCOPY roles/ .\n", "Makefile": f"TAG ?= v1.40.0\nREPO = {BASE}\n"},
            f"{BASE}:v1.40.0",
        ),
        ({"Dockerfile": f"FROM golang AS build\nFROM --platform=linux/amd64 {BASE}:v1.40.0\n"}, f"{BASE}:v1.40.0"),
        ({"build/Dockerfile": "FROM rolerunner\nCOPY watches.yaml .\n"}, "rolerunner"),
        ({"Containerfile": "ARG A\nFROM $A\nCOPY watches.yaml .\n"}, "$A"),
    ],
    ids=["plain", "default", "makefile", "stages", "folder", "unknown"],
)
def test_the_base_image(files: dict[str, str], base: str, write: Write) -> None:
    assert read(write(files)).base == base


def test_a_bundles_dockerfile_is_none(write: Write) -> None:
    assert dockerfile.read(write({"Dockerfile": "FROM scratch\nCOPY bundle/manifests /manifests/\n"}), []) == []


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("pip install jmespath", {"jmespath"}),
        ("pip3 install --no-cache-dir 'jmespath>=1.0' Net_Addr[x]==1", {"jmespath", "net-addr"}),
        ("python3 -m pip install -i https://example.com jmespath", {"jmespath"}),
        ("set -e && PIP_X=1 /usr/bin/python3.12 -m pip install jmespath && rm -rf /tmp", {"jmespath"}),
        ("--mount=type=cache,target=/c pip install -r ${HOME}/requirements.txt", {"netaddr", "psycopg2"}),
        ("pip install --upgrade pip \\\n # why\n && pip install \\\n   jmespath", {"pip", "jmespath"}),
        ("python3 setup.py install", set()),
        ("pip uninstall -y jmespath", set()),
        ("dnf install -y jmespath", set()),
        ("echo 'open", set()),
    ],
    ids=["plain", "options", "index", "chain", "file", "lines", "setup", "uninstall", "dnf", "quote"],
)
def test_python_packages(command: str, expected: set[str], write: Write) -> None:
    text = f"FROM rolerunner\nRUN {command}\n"
    assert read(write({"Dockerfile": text, "requirements.txt": "# a\nnetaddr\npsycopg2>=2\n"})).python_packages == expected


@pytest.mark.parametrize(
    ("entry_point", "expected"),
    [
        ('ENTRYPOINT ["/tini", "--", "/usr/local/bin/ansible-operator", "run", "--a=b", "--c"]', ("--a=b", "--c")),
        ("ENTRYPOINT /tini -- ansible-operator run --a=b", ("--a=b",)),
        ('CMD ["--a=b"]', ("--a=b",)),
        ('CMD ["/bin/bash"]', None),
        ("CMD [1]", None),
        ("CMD 'open", None),
    ],
    ids=["json", "shell", "flags", "other", "numbers", "quote"],
)
def test_arguments_of_the_operator(entry_point: str, expected: tuple[str, ...] | None, write: Write) -> None:
    found = read(write({"Dockerfile": f"FROM rolerunner\n{entry_point}\n"})).arguments
    assert found == (((2, expected),) if expected else ())


def test_what_is_otherwise_on_rolerunners_image(write: Write) -> None:
    copied = "RUN cp /etc/ansible/ansible.cfg /x\nCOPY ansible.cfg /etc/ansible/ansible.cfg\n"
    text = f"FROM {BASE}:v1.34.2\nRUN microdnf update -y\n{copied}"
    found = read(write({"Dockerfile": text}))
    first, second, third = told(list(dockerfile.compare(found, (2, 19))))
    assert first.startswith("warning Dockerfile:1: the operator is written for ansible-core 2.15")
    assert first.endswith("build rolerunner's image with ANSIBLE_CORE=2.16")
    assert second.startswith("warning Dockerfile:2: microdnf: ")
    assert third.startswith("warning Dockerfile:3: /etc/ansible/ansible.cfg is not in rolerunner's image")


def test_the_same_ansible_core_is_no_finding(write: Write) -> None:
    assert list(dockerfile.compare(read(write({"Dockerfile": f"FROM {BASE}:v1.42.3\n"})), (2, 18))) == []
