"""Python packages that plugins need."""

from __future__ import annotations

import pytest

from devkit.check import packages
from devkit.check.dockerfile import Dockerfile
from devkit.check.tasks import Location
from tests.devkit.check.conftest import told

PLACE = Location(file="a.yml", line=3)
DOCKERFILE = Dockerfile(file="Dockerfile", instructions=())


def compared(kind: str, full: str, *dockerfiles: Dockerfile, core: tuple[int, int] = (2, 18)) -> list[str]:
    name = full.rpartition(".")[2]
    return told(list(packages.compare([(kind, full, name, PLACE)], dockerfiles, core)))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules that can be imported."""
    found: set[str] = set()
    monkeypatch.setattr(packages, "_importable", found.__contains__)
    return found


@pytest.mark.parametrize(
    ("kind", "full", "package"),
    [
        ("filter", "community.general.json_query", "jmespath"),
        ("filter", "ansible.utils.ipaddr", "netaddr"),
        ("module", "community.postgresql.postgresql_db", "psycopg2-binary"),
        ("module", "community.general.ldap_entry", "python-ldap"),
        ("filter", "ansible.builtin.password_hash", "passlib"),
    ],
)
def test_one_that_is_not_here_is_an_error(kind: str, full: str, package: str, here: set[str]) -> None:
    (line,) = compared(kind, full, DOCKERFILE)
    assert line.startswith(
        f"error a.yml:3: the {kind} {full.rpartition('.')[2]} needs the Python package {package}, which is"
    )
    assert line.endswith(f"add `RUN python3 -m pip install {package}` to the Dockerfile")


@pytest.mark.parametrize(
    ("kind", "full"),
    [
        ("module", "kubernetes.core.k8s"),
        ("module", "kubernetes.core.k8s_json_patch"),
        ("module", "community.crypto.x509_certificate"),
        ("module", "community.docker.docker_container"),
        ("filter", "ansible.builtin.upper"),
        ("module", "community.general.ini_file"),
    ],
)
def test_what_the_image_has_or_nothing_needs_is_no_finding(kind: str, full: str, here: set[str]) -> None:
    assert compared(kind, full, DOCKERFILE) == []


@pytest.mark.parametrize("package", ["psycopg2-binary", "psycopg2", "psycopg"])
def test_what_the_dockerfile_installs_is_no_finding(package: str, here: set[str]) -> None:
    dockerfile = Dockerfile(file="Dockerfile", instructions=(), python_packages=frozenset({package}))
    assert compared("module", "community.postgresql.postgresql_db", dockerfile) == []


def test_one_that_only_a_developer_has_is_a_warning(here: set[str]) -> None:
    here.add("jmespath")
    (line,) = compared("filter", "community.general.json_query", DOCKERFILE)
    assert line.startswith("warning a.yml:3: ")
    # Without a Dockerfile this is the image.
    assert compared("filter", "community.general.json_query") == []


def test_pythons_own_crypt_and_a_newer_ansible_core_need_no_passlib(here: set[str]) -> None:
    full = "ansible.builtin.password_hash"
    assert compared("filter", full, DOCKERFILE, core=(2, 20)) == []
    here.add("crypt")
    assert compared("filter", full, DOCKERFILE) == []


def test_the_image_has_what_rolerunner_requires() -> None:
    assert packages.image() >= {"ansible-core", "kubernetes", "jinja2", "requests", "cryptography"}
    assert not packages.image() & {"pytest", "molecule", "ansible"}
