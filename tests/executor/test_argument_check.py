"""What a CR says against argument specs: the field in the CR's own spelling, and the reason."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from time import process_time
from typing import Any

import pytest
import yaml

from runner.executor.argument_check import Arguments
from runner.resource.parameters import fields_by_variable

KEYS_OF = functools.partial(fields_by_variable, snake_case=True)


def options(tmp_path: Path, main: Any, **files: str) -> Path:
    role = tmp_path / "role"
    for name, text in {"meta/argument_specs": yaml.safe_dump({"argument_specs": {"main": main}}), **files}.items():
        path = role / f"{name.replace('__', '/')}.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return role


def problems(role: Path | None, given: dict[str, Any], arguments: Arguments | None = None, **changes: Any) -> list[str]:
    usual: dict[str, Any] = {"playbook": None, "others": (), "keys_of": KEYS_OF, "templates": False, "complete": True}
    return (arguments or Arguments()).problems(role=role, given=given, **{**usual, **changes})


TLS = {
    "tls_setup": {
        "type": "dict",
        "options": {
            "mode_name": {"choices": ["terminate", "passthrough"], "default": "passthrough"},
            "secret_name": {},
            "secret_key": {},
            "issuer": {"required": False},
        },
        "required_if": [["mode_name", "terminate", ["secret_name"]]],
        "required_together": [["secret_name", "secret_key"]],
        "mutually_exclusive": [["issuer", "secret_name"]],
        "required_by": {"issuer": ["mode_name"]},
    }
}
PORTS = {
    "ports": {"type": "list", "elements": "dict", "options": {"port_number": {"type": "int", "required": True}, "name": {}}}
}


@pytest.mark.parametrize(
    ("spec", "given", "expected"),
    [
        ({"size": {"type": "int", "required": True}}, {}, ["spec.size: required"]),
        ({"pod_size": {"type": "int"}}, {"podSize": "x"}, ["spec.podSize: argument 'podSize' is of type str"]),
        ({"size": {"type": "int"}}, {"size": "3"}, []),
        ({"mode": {"choices": ["a"]}}, {"mode": "b"}, ["spec.mode: value of mode must be one of: a, got: b"]),
        ({"size": {"type": "int"}}, {"other": "anything"}, []),
        ({"size": {"type": "int"}}, {"size": None}, []),
        ({"key": {"type": "int", "no_log": True}}, {"key": "hidden"}, ["spec.key: not as its argument spec says (no_log)"]),
        (TLS, {"tlsSetup": {"modeName": "terminate"}}, ["spec.tlsSetup: modeName is terminate but all of the following"]),
        (
            TLS,
            {"tlsSetup": {"secretName": "s"}},
            ["spec.tlsSetup: parameters are required together: secretName, secretKey"],
        ),
        (
            TLS,
            {"tlsSetup": {"secretName": "s", "secretKey": "k", "issuer": "i"}},
            ["spec.tlsSetup: parameters are mutually exclusive: issuer|secretName"],
        ),
        (TLS, {"tlsSetup": {"secretname": "s"}}, ["spec.tlsSetup.secretname: unknown; known here: issuer, modeName"]),
        (TLS, {"tlsSetup": {"issuer": "i"}}, []),
        ({"a": {"type": "dict", "options": {"b": {"required": True, "aliases": ["bb"]}}}}, {"a": {"bb": "x"}}, []),
        (PORTS, {"ports": [{"portNumber": 1}, {"name": "a"}]}, ["spec.ports[1].portNumber: required"]),
        (PORTS, {"ports": [{"portNumber": "a"}]}, ["spec.ports[0].portNumber: argument 'portNumber'"]),
        (PORTS, {"ports": ["a"]}, ["spec.ports: Elements value for option 'ports' is of type str"]),
    ],
    ids=(
        "required type convertible choice unknown null no-log required-if together exclusive nested-unknown by-default "
        "alias list-required list-type elements"
    ).split(),
)
def test_problems(tmp_path: Path, spec: Any, given: dict[str, Any], expected: list[str]) -> None:
    found = problems(options(tmp_path, {"options": spec}), given)
    assert len(found) == len(expected)
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(beginning)


def test_rules_of_the_entry_point(tmp_path: Path) -> None:
    role = options(tmp_path, {"options": {"from_url": {}, "from_file": {}}, "required_one_of": [["from_url", "from_file"]]})
    assert problems(role, {}) == ["spec: one of the following is required: fromUrl, fromFile"]
    assert problems(role, {"fromFile": "a"}) == []


@pytest.mark.parametrize(
    ("files", "changes"),
    [
        ({"defaults__main": "size: 1\n"}, {}),
        ({"vars__main": "size: !vault 1\n"}, {}),
        ({}, {"others": ("size",)}),
        ({"meta__main": "dependencies: [other]\n"}, {}),
        ({}, {"complete": False}),
    ],
    ids=["default", "role-variable", "watch-variable", "from-a-dependency", "from-ansible-args"],
)
def test_what_may_come_from_elsewhere_is_not_missed(tmp_path: Path, files: dict[str, str], changes: dict[str, Any]) -> None:
    role = options(tmp_path, {"options": {"size": {"type": "int", "required": True}}}, **files)
    assert problems(role, {}, **changes) == []


def test_a_template_is_for_the_run_to_judge(tmp_path: Path) -> None:
    role = options(tmp_path, {"options": {"size": {"type": "int"}}})
    assert problems(role, {"size": "{{ 3 }}"}, templates=True) == []
    assert len(problems(role, {"size": "{{ 3 }}"}, templates=False)) == 1


@pytest.mark.parametrize(
    "text", ["a: [", "[]", "argument_specs: {main: {options: [a]}}", "argument_specs: {main: {options: {a: {type: odd}}}}"]
)
def test_specs_that_cannot_be_read_are_for_ansible_to_tell(tmp_path: Path, text: str) -> None:
    role = options(tmp_path, {})
    (role / "meta" / "argument_specs.yml").write_text(text)
    assert problems(role, {"a": 1}) == []


def test_without_specs_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert problems(tmp_path, {"a": 1}) == []
    assert problems(None, {"a": 1}) == []


def test_a_playbooks_specs_stand_beside_it(tmp_path: Path) -> None:
    (tmp_path / "play.argument_specs.yml").write_text("argument_specs: {main: {options: {size: {required: true}}}}")
    assert problems(None, {}, playbook=tmp_path / "play.yml") == ["spec.size: required"]


def test_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    arguments = Arguments()
    role = options(tmp_path, {"options": {"size": {"required": True}}})
    assert problems(role, {}, arguments) == ["spec.size: required"]
    options(tmp_path, {"options": {}})
    os.utime(role / "meta" / "argument_specs.yml", ns=(1, 1))
    assert problems(role, {}, arguments) == []
    options(tmp_path, {"options": {"size": {"required": True}}}, defaults__main="size: 1\n")
    assert problems(role, {}, arguments) == []


MANY = {
    "items": {
        "type": "list",
        "elements": "dict",
        "options": {f"{letter}_option": {"required": letter == "a"} for letter in "abcdefghijklmnopqrstuvwxyz"},
    }
}


@pytest.mark.parametrize(
    ("spec", "given", "lines"),
    [
        ({f"option_number_{n}": {} for n in range(300)}, {f"fieldNumber{n}": n for n in range(49_000)}, 0),
        (MANY, {"items": [{}] * 49_000}, 51),
        (MANY, {"items": [{"aOption": "x"}] * 24_000}, 0),
        ({"a": {"type": "dict", "options": {"b": {}}}}, {"a": {f"c{n}": 1 for n in range(49_000)}}, 51),
        ({"a": {"type": "bytes"}}, {"a": "1" * 256 * 1024 + "!"}, 1),
        ({"a": {"type": "bits"}}, {"a": " " * 256 * 1024 + "!"}, 1),
        ({"a": {"type": "int"}}, {"a": "1" * 256 * 1024}, 1),
        ({"a": {"type": "float"}}, {"a": "1" * 256 * 1024}, 1),
        ({"a": {"type": "bool"}}, {"a": "t" * 256 * 1024}, 1),
        ({"a": {"type": "list", "elements": "bytes"}}, {"a": ["1MB", "1" * 256 * 1024 + "!"]}, 1),
        ({"a": {"type": "list", "elements": "bytes"}}, {"a": "1MB," + "1" * 256 * 1024 + "!"}, 1),
        ({"a": {"type": "dict"}}, {"a": "a=b " * 64 * 1024}, 0),
        ({"a": {"type": "dict"}}, {"a": "{" * 256 * 1024}, 1),
        ({"a": {"type": "jsonarg"}}, {"a": "[" * 256 * 1024}, 0),
        ({"a": {"choices": ["b"]}}, {"a": "x" * 1024 * 1024}, 1),
        ({"a": {"type": "list", "elements": "dict"}}, {"a": ["x" * 1000] * 1000}, 51),
    ],
    ids=(
        "fields items items-right unknown bytes bits int float bool bytes-listed bytes-by-comma pairs bad json choice long"
    ).split(),
)
def test_the_largest_crs_take_no_more_time_than_their_size(
    tmp_path: Path, spec: dict[str, Any], given: dict[str, Any], lines: int
) -> None:
    role = options(tmp_path, {"options": spec})
    before = process_time()
    found = problems(role, given)
    # What grows faster than a CR's size takes minutes, some of it hours.
    assert process_time() - before < 45
    assert len(found) == lines
    assert sum(map(len, found)) < 60_000


def test_a_template_is_found_at_any_depth(tmp_path: Path) -> None:
    role = options(tmp_path, {"options": {"a": {"type": "dict", "options": {}}}})
    value: Any = "{{ 3 }}"
    for _ in range(5000):
        value = [{"a": value}]
    assert problems(role, {"a": {"b": value}}, templates=True) == []
