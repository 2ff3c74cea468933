"""Objects below config/ and its like."""

from __future__ import annotations

import pytest

from devkit.check import manifests
from devkit.check.dockerfile import Dockerfile
from tests.devkit.check.conftest import Write, told

CRD = """
kind: CustomResourceDefinition
spec:
  group: example.com
  names: {kind: Thing}
  versions:
  - schema:
      openAPIV3Schema:
        properties:
          spec:
            properties:
              maxSize: {type: integer}
              ansibleConnection: {type: string}
              name: {type: string}
"""
DEPLOYMENT = """
kind: Deployment
spec:
  template:
    spec:
      containers:
      - name: kube-rbac-proxy
        args: [--secure-listen-address=x, --v=0]
      - name: manager
        args:
        - --leader-elect
        - {argument}
"""
WATCHED = {("example.com", "Thing"): False}


def compared(write: Write, files: dict[str, str], watched: dict[tuple[str, str], bool] = WATCHED) -> list[str]:
    return told(list(manifests.compare(manifests.read(write(files)), watched, [])))


def test_the_types_of_a_kinds_fields(write: Write) -> None:
    found = manifests.read(write({"config/crd/bases/a.yaml": CRD}))
    assert found.variables() == {"maxSize": "a number", "max_size": "a number"}


def test_fields_that_are_ansibles_own_variables(write: Write) -> None:
    sample = "apiVersion: example.com/v1\nkind: Thing\nspec:\n  name: a\n  ansible_python_interpreter: b\n"
    crd, own = compared(write, {"config/crd/bases/a.yaml": CRD, "config/samples/a.yaml": sample})
    assert crd.startswith(
        "warning config/crd/bases/a.yaml:13: spec.ansibleConnection would become a variable of Ansible's own"
    )
    assert own.startswith("warning config/samples/a.yaml:5: spec.ansible_python_interpreter would become")
    assert compared(write, {}, {}) == []


@pytest.mark.parametrize(("templates", "expected"), [(False, 1), (True, 0)], ids=["data", "templates"])
def test_templates_in_a_sample(templates: bool, expected: int, write: Write) -> None:
    files = {"config/samples/a.yaml": "apiVersion: example.com/v1\nkind: Thing\nspec:\n  a: [b, '{{ c }}']\n"}
    found = compared(write, files, {("example.com", "Thing"): templates})
    assert len(found) == expected
    assert all("config/samples/a.yaml:4: a template in a CR is text here; set markUnsafe: false" in line for line in found)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--ansible-log-events=xyz", "'xyz' is not one of"),
        ("--max-concurrent-reconciles=0", "0 is not in the range"),
        ("--reconcile-period=soon", "soon"),
        ("--nope", "--nope: no flag of rolerunner run; remove it"),
        ("--config=a", "--config: no flag of rolerunner run; remove it"),
        ("--ansible-log-events=Tasks", ""),
        ("--watches-file=./$(WATCHES_FILE)", ""),
        ("--metrics-require-rbac", ""),
        ("--help", ""),
        ("--zap-log-level=info", ""),
    ],
)
def test_flags_that_are_refused(argument: str, message: str, write: Write) -> None:
    found = compared(write, {"config/manager/manager.yaml": DEPLOYMENT.replace("{argument}", argument)})
    assert len(found) == bool(message)
    for line in found:
        assert line.startswith("error config/manager/manager.yaml:12: ")
        assert message in line


def test_flags_in_a_dockerfile(write: Write) -> None:
    dockerfile = Dockerfile(file="Dockerfile", instructions=(), arguments=((7, ("--ansible-verbosity=9",)),))
    (finding,) = manifests.compare(manifests.read(write({})), {}, [dockerfile])
    assert told([finding])[0].startswith("error Dockerfile:7: Invalid value for '--ansible-verbosity'")


def test_files_that_are_not_deployed_or_no_yaml_are_left_out(write: Write) -> None:
    text = DEPLOYMENT.replace("{argument}", "--nope")
    kustomization = "resources:\n- used.yaml\n#- unused.yaml\n"
    files = {
        "config/a/kustomization.yaml": kustomization,
        "config/a/unused.yaml": text,
        "config/b/chart.yaml": "{{ if }}",
        "config/c/deep.yaml": "[" * 10_000,
    }
    assert compared(write, files) == []
    assert len(compared(write, {"config/a/used.yaml": text})) == 1
