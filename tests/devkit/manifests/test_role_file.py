"""What survives in the operator's role."""

from __future__ import annotations

import pytest
import yaml

from devkit.manifests.command import ROLE, generate
from runner.config.settings import Settings
from runner.errors import ConfigurationError
from tests.devkit.manifests.conftest import Write, generated
from tests.devkit.manifests.test_rights import TASKS

OWN = """\
# Ours.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: mine}
rules:
    # Why.
    - {apiGroups: [""], resources: [secrets], verbs: ["*"]}
    - apiGroups: [apps]
      resources: [deployments]
      verbs:
        - get
# The end.
---
kind: Other
"""


def test_rules_of_ones_own_stay(write: Write) -> None:
    write({TASKS: "- k8s_info: {kind: Pod, name: a}\n", str(ROLE): OWN})
    generated()
    text = ROLE.read_text()
    head, _, rest = text.partition("    # +rolerunner:rules:begin")
    section, _, tail = rest.partition("    # +rolerunner:rules:end\n")
    assert head + tail == OWN
    assert '    - apiGroups: [""]\n      resources: [pods]\n      verbs: [get]\n' in section
    assert len(next(iter(yaml.safe_load_all(text)))["rules"]) == 6
    write({TASKS: "- k8s_info: {kind: Node, name: a}\n"})
    generated()
    assert ROLE.read_text() == text.replace("pods", "nodes")


def test_an_empty_list_is_filled(write: Write) -> None:
    write({TASKS: "", str(ROLE): "kind: ClusterRole\nrules: []\nmetadata: {name: a}\n"})
    generated()
    role = yaml.safe_load(ROLE.read_text())
    assert [role["metadata"], len(role["rules"])] == [{"name": "a"}, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Role\nrules: [{verbs: [get]}]\n", r"role.yaml:2: rules: write them as a block"),
        ("kind: Role\n", r"role.yaml:1: has no list of rules"),
        ("kind: RoleBinding\n", r"role.yaml: holds no ClusterRole or Role"),
        ("kind: Role\nrules:\n# +rolerunner:rules:begin\n", r"role.yaml: of # .* one is missing"),
        ("kind: [", r"role.yaml:1: no valid YAML"),
    ],
    ids="flow none other half broken".split(),
)
def test_a_role_that_cannot_be_written_into(write: Write, text: str, message: str) -> None:
    write({TASKS: "", str(ROLE): text})
    with pytest.raises(ConfigurationError, match=message):
        generate(Settings(), {})
