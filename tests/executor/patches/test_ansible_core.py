"""The ansible-core and the kubernetes.core that are installed are known: no part of a run goes the slow way."""

import copy
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ansible.executor.process.worker")

from ansible.parsing.dataloader import DataLoader

from runner.executor.patches import ansible_core

if ansible_core.TAGS:
    from ansible._internal._datatag._tags import Origin
from runner.executor.environment import environment, has_tags

LOADED = """
import sys
from runner.executor.jobs import Limits
from runner.executor.warm.forkserver import environment_of_a_run

with environment_of_a_run(sys.argv[1]):
    from runner.executor.warm.worker import LoadedAnsible

    warm = LoadedAnsible(Limits())
print(sorted(warm.inline), warm.left_out)
"""


def loaded(folder: Path, before: str = "") -> str:
    """What is called in the process, and the patches that are left out, of an Ansible that is loaded after `before`."""
    told = subprocess.run(
        [sys.executable, "-c", before + LOADED, str(folder)],
        env={**os.environ, **environment()},
        check=True,
        capture_output=True,
        text=True,
    )
    return told.stdout.strip()


def test_no_part_of_a_run_goes_the_slow_way(tmp_path: Path) -> None:
    assert loaded(tmp_path) == "['kubernetes.core', 'operator_sdk.util'] {}"


def test_whether_strings_carry_tags_is_known_without_ansible() -> None:
    assert has_tags() == (importlib.util.find_spec("ansible._internal") is not None)


# What is encrypted needs no password to be parsed.
VAULTED = "!vault '$ANSIBLE_VAULT;1.1;AES256\n\n  6162'"


def deep_copied(content: Any) -> Any:
    ansible_core.share_leaves()
    return copy.deepcopy(content)


@pytest.mark.parametrize("copied", [ansible_core.copied, deep_copied], ids=["copied", "deepcopy"])
def test_a_copy_of_parsed_yaml_is_independent_and_knows_where_it_is_from(copied: Callable[[Any], Any]) -> None:
    text = "a: [{b: !unsafe c, d: 2026-01-01}, [1, 2.5, true, null]]\n3: x\n"
    content = DataLoader().load(text, file_name="/some/file.yml")
    one, another = copied(content), copied(content)
    assert one == content
    one["a"][0]["b"] = "changed"
    one["a"][1].append("more")
    assert another == content != one
    for part, of in ((one, content), (one["a"], content["a"]), (one["a"][0], content["a"][0])):
        assert type(part) is type(of)
        assert where(part) == where(of)
        assert "/some/file.yml" in repr(where(part))
    assert another["a"][0]["b"] is content["a"][0]["b"]


def where(part: Any) -> Any:
    return Origin.get_tag(part) if ansible_core.TAGS else part.ansible_pos


@pytest.mark.parametrize("text", [f"a: [{{b: {VAULTED}}}]", VAULTED], ids=["value", "alone"])
def test_encrypted_values_are_not_copied(text: str) -> None:
    """They hold what they were decrypted to; until ansible-core 2.18 the passwords of whom parsed them."""
    content = DataLoader().load(text)
    assert not ansible_core.is_plain(content)
    assert not ansible_core.is_plain([content])


@pytest.mark.parametrize("value", [set(), {"a": {1}}, [object()], {("a",): 1}, (1,)], ids=repr)
def test_what_is_not_known_is_not_copied(value: Any) -> None:
    assert not ansible_core.is_plain(value)
