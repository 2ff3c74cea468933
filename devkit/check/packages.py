"""Python packages that plugins need, and whether an operator's image has them."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import metadata

from devkit.check.dockerfile import Dockerfile, distribution
from devkit.check.findings import Finding, Level
from devkit.check.tasks import Location

_ADDRESS_FILTERS = """
    cidr_merge hwaddr ip4_hex ipaddr ipmath ipsubnet ipv4 ipv6 ipwrap macaddr network_in_network network_in_usable
    next_nth_usable nthost previous_nth_usable reduce_on_network slaac usable_range
""".split()


@dataclass(frozen=True, slots=True)
class Need:
    """Plugins, by kind and pattern of their full names, and what they import: one of `modules`, which come with one of
    `packages` of PyPI. From ansible-core `until` on they need it no more."""

    kind: str
    pattern: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    until: tuple[int, int] = (99, 0)


_NEEDS = (
    # JMESPath expressions.
    Need("filter", "community.general.json_query", ("jmespath",), ("jmespath",)),
    # Arithmetic with addresses.
    *(Need("filter", f"ansible.utils.{name}", ("netaddr",), ("netaddr",)) for name in _ADDRESS_FILTERS),
    *(Need("filter", f"ansible.netcommon.{name}", ("netaddr",), ("netaddr",)) for name in _ADDRESS_FILTERS),
    # XML to dictionaries and back.
    Need("filter", "ansible.utils.*_xml", ("xmltodict",), ("xmltodict",)),
    # Its default engine.
    Need("module", "ansible.utils.validate", ("jsonschema",), ("jsonschema",)),
    # Hashes: Python has no crypt from 3.13 on; ansible-core takes the system's library from 2.20 on.
    Need("filter", "ansible.builtin.password_hash", ("passlib",), ("passlib", "crypt"), until=(2, 20)),
    # Drivers of databases.
    Need("module", "community.postgresql.*", ("psycopg2-binary", "psycopg2", "psycopg"), ("psycopg2", "psycopg")),
    Need("module", "community.mysql.*", ("pymysql", "mysqlclient"), ("pymysql", "MySQLdb")),
    Need("module", "community.mongodb.*", ("pymongo",), ("pymongo",)),
    Need("module", "community.general.redis*", ("redis",), ("redis",)),
    # Clients of clouds and servers.
    Need("module", "kubernetes.core.k8s_json_patch", ("jsonpatch",), ("jsonpatch",)),
    Need("module", "kubernetes.core.k8s*", ("kubernetes",), ("kubernetes",)),
    Need("lookup", "kubernetes.core.k8s", ("kubernetes",), ("kubernetes",)),
    Need("module", "amazon.aws.*", ("boto3",), ("boto3",)),
    Need("module", "community.aws.*", ("boto3",), ("boto3",)),
    Need("module", "google.cloud.*", ("google-auth",), ("google.auth",)),
    Need("module", "community.docker.*", ("requests",), ("requests",)),
    Need("module", "community.hashi_vault.*", ("hvac",), ("hvac",)),
    Need("lookup", "community.hashi_vault.*", ("hvac",), ("hvac",)),
    Need("module", "community.general.ldap_*", ("python-ldap",), ("ldap",)),
    # Documents, names and dialogues.
    Need("module", "community.general.xml", ("lxml",), ("lxml",)),
    Need("module", "ansible.builtin.expect", ("pexpect",), ("pexpect",)),
    Need("lookup", "community.general.dig", ("dnspython",), ("dns",)),
    Need("filter", "community.general.jc", ("jc",), ("jc",)),
    # Keys and certificates.
    Need("module", "community.crypto.*", ("cryptography",), ("cryptography",)),
)


def compare(
    plugins: Iterable[tuple[str, str, str, Location]], dockerfiles: Sequence[Dockerfile], core: tuple[int, ...]
) -> Iterator[Finding]:
    """Findings for plugins, given as (kind, full name, name as written, location), whose packages an image lacks."""
    known = image().union(*(dockerfile.python_packages for dockerfile in dockerfiles))
    for kind, full, name, location in plugins:
        for need in _NEEDS:
            if need.kind != kind or not fnmatchcase(full, need.pattern) or core >= need.until or known & set(need.packages):
                continue
            package = need.packages[0]
            remedy = f"add `RUN python3 -m pip install {package}` to the Dockerfile"
            if not any(map(_importable, need.modules)):
                message = f"the {kind} {name} needs the Python package {package}, which is not here; {remedy}"
                yield Finding(Level.ERROR, location.file, location.line, message)
            # Without a Dockerfile this may be the image itself.
            elif dockerfiles and any(not _is_standard(module) for module in need.modules if _importable(module)):
                message = (
                    f"the {kind} {name} needs the Python package {package}, which is here but not in the image; {remedy}"
                )
                yield Finding(Level.WARNING, location.file, location.line, message)


@cache
def image() -> frozenset[str]:
    """The Python packages of rolerunner's image: what rolerunner itself requires, and what these require."""
    found: set[str] = set()
    waiting = ["rolerunner"]
    while waiting:
        name = distribution(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        waiting += [each for each in required if not re.search(r";.*\bextra\s*==", each)]
    return frozenset(found)


@cache
def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _is_standard(module: str) -> bool:
    return module in sys.stdlib_module_names
