"""requirements.yml, compared with what is here."""

from __future__ import annotations

import pytest

from devkit.check import requirements
from devkit.check.findings import Finding
from runner.executor.content import Collection
from tests.devkit.check.conftest import Write, told

HERE = {"a.b": Collection(version="5.1.0", path="")}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("a.b", []),
        ("{name: a.b, version: 5.1.0}", []),
        ("{name: a.b, version: '>=5,<6'}", []),
        ("{name: a.b, version: '*'}", []),
        ("{name: 'https://example.com/a.b.git', type: git, version: main}", []),
        (
            "{name: 'https://example.com/a.b.git', type: git, version: v4.0.0}",
            ["a.b v4.0.0 is asked for, and 5.1.0 is here"],
        ),
        ("{name: a.b, version: '>=6'}", ["a.b >=6 is asked for, and 5.1.0 is here"]),
        ("{name: a.c, version: '1'}", ["a.c 1 is not here, so that its plugins are not checked"]),
        ("{source: https://example.com/a-c-1.0.0.tar.gz}", ["a.c is not here, so that its plugins are not checked"]),
        ("{name: 'https://example.com/something'}", []),
        ("[1]", []),
        ("{name: ./a.b}", []),
    ],
    ids=[*("name", "exact", "range", "any", "branch", "tag", "newer", "missing", "archive", "address", "odd", "folder")],
)
def test_what_is_asked_for(item: str, expected: list[str], write: Write) -> None:
    findings: list[Finding] = []
    found = requirements.read(write({"requirements.yml": f"collections:\n- {item}\n"}), findings)
    lines = told(requirements.compare(found, HERE))
    assert [line.split(": ", 1)[1].partition(",")[0] for line in lines] == [text.partition(",")[0] for text in expected]
    assert all(line.startswith("warning requirements.yml:2: ") for line in lines)
    assert all(text in line for text, line in zip(expected, lines, strict=True))
    assert findings == []


def test_roles_are_known_by_name(write: Write) -> None:
    folder = write({"requirements.yml": "roles: [one, {name: two, src: x}]\n"})
    assert requirements.read(folder, []).roles == {"one", "two"}
    assert requirements.read(write({"requirements.yml": "- one\n"}), []).roles == {"one"}


def test_a_file_that_cannot_be_read_is_a_finding(write: Write) -> None:
    findings: list[Finding] = []
    requirements.read(write({"requirements.yml": "collections: ["}), findings)
    assert "no valid YAML" in told(findings)[0]
