"""The ansible-core and the kubernetes.core that are installed are known: no part of a run goes the slow way."""

import importlib.util
import os
import subprocess
import sys

import pytest

pytest.importorskip("ansible.executor.process.worker")

from ansible.parsing.dataloader import DataLoader

from runner.executor import ansible_core
from runner.executor.orders import environment, has_tags

LOADED = """
from runner.executor.jobs import Limits
from runner.executor.worker import Warm

warm = Warm(Limits())
print(sorted(warm.inline), warm.left_out)
"""


def test_no_part_of_a_run_goes_the_slow_way() -> None:
    told = subprocess.run(
        [sys.executable, "-c", LOADED], env={**os.environ, **environment()}, check=True, capture_output=True, text=True
    )
    assert told.stdout.strip() == "['kubernetes.core', 'operator_sdk.util'] {}"


def test_whether_strings_carry_tags_is_known_without_ansible() -> None:
    assert has_tags() == (importlib.util.find_spec("ansible._internal") is not None)


@pytest.mark.skipif(ansible_core.TAGS, reason="from ansible-core 2.19 on no value holds passwords")
def test_encrypted_values_hold_the_passwords_of_whom_parsed_them() -> None:
    text = "a: [{b: !vault '$ANSIBLE_VAULT;1.1;AES256\n\n  6162'}]\nc: plain\n"
    content = DataLoader().load(text)
    assert ansible_core.has_vault_values(content)
    assert not ansible_core.has_vault_values({"c": content["c"], "d": [1]})
