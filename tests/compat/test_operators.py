"""`python -m tests.compat.operators`: what it makes of an operator's folder, how it compares, and a small operator's way."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from devkit.devcluster import Cluster as Devcluster
from tests.compat.operators import comparison, description, image, trial
from tests.compat.operators.__main__ import compared as compared_courses
from tests.compat.operators.__main__ import own, table, try_out
from tests.compat.operators.comparison import Difference, Expected, Identity
from tests.compat.operators.description import Description, DescriptionError
from tests.conftest import THING, crd


def obj(kind: str, name: str, namespace: str = "a", **content: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, **content.pop("metadata", {})}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}


def secret(name: str, namespace: str, **values: str) -> dict[str, Any]:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return obj("Secret", name, namespace, data=data)


def compared(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> list[Difference]:
    """One engine's objects in namespace a, and the other's in b."""
    return comparison.compare(comparison.normalize(left, "a-namespace"), comparison.normalize(right, "b-namespace"))


def one(namespace: str, **content: Any) -> dict[str, Any]:
    return obj("ConfigMap", "settings", namespace, **content)


class TestComparison:
    def test_what_the_cluster_makes_up_is_no_difference(self) -> None:
        def made(namespace: str, uid: str, time: str, hashed: str, ip: str, port: int) -> list[dict[str, Any]]:
            own = {"apiVersion": "v1", "kind": "Thing", "name": "one", "uid": uid}
            return [
                one(
                    namespace,
                    metadata={"uid": uid, "resourceVersion": time, "creationTimestamp": time, "ownerReferences": [own]},
                    data={"host": f"web.{namespace}.svc", "made": f"at {time}", "id": uid, "pod": f"web-{hashed}-x{port}"},
                ),
                obj(
                    "Pod",
                    f"web-{hashed}-x{port}",
                    namespace,
                    metadata={"generateName": f"web-{hashed}-", "labels": {"pod-template-hash": hashed}},
                    spec={"nodeName": hashed},
                    status={"phase": "Running", "podIP": ip},
                ),
                obj("ReplicaSet", f"web-{hashed}", namespace, metadata={"labels": {"pod-template-hash": hashed}}),
                obj(
                    "Service",
                    "web",
                    namespace,
                    spec={"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "nodePort": port}]},
                ),
                obj("Event", f"web.{hashed}", namespace),
            ]

        left = made(
            "a-namespace", "0e2b27b3-5a9b-4f0b-9d1c-5f6a7b8c9d0e", "2026-01-02T03:04:05Z", "7d4b9c", "10.0.0.7", 30001
        )
        right = made(
            "b-namespace",
            "9d8c7b6a-5f6a-4f0b-9d1c-0e2b27b35a9b",
            "2026-02-03T04:05:06.123456Z",
            "58f6d9c7b",
            "10.0.0.9",
            30002,
        )
        assert compared(left, right) == []

    def test_what_is_only_there_once_and_what_differs_is_told_by_object_and_field(self) -> None:
        left = [one("a-namespace", data={"size": "1", "color": "red"}), obj("Service", "web", "a-namespace")]
        right = [one("b-namespace", data={"size": "2", "color": "red"}), obj("Job", "init", "b-namespace")]
        namespace = comparison.NAMESPACE
        assert compared(left, right) == [
            Difference(Identity("ConfigMap", namespace, "settings"), "data.size", "1", "2"),
            Difference(Identity("Job", namespace, "init"), "", "not there", "there"),
            Difference(Identity("Service", namespace, "web"), "", "there", "not there"),
        ]

    def test_a_generated_password_is_followed_to_where_it_is_used(self) -> None:
        def made(namespace: str, password: str, level: str) -> list[dict[str, Any]]:
            settings = f"PASSWORD = '{password}'\nLEVEL = '{level}'\n"
            return [
                secret("password", namespace, password=password),
                secret("settings", namespace, settings=settings),
                one(namespace, data={"url": f"postgres://user:{password}@db"}),
            ]

        left = made("a-namespace", "hT5wqLr8ZyNc2VbD", "info")
        assert compared(left, made("b-namespace", "P0oKd3mXs9QaJe7u", "info")) == []
        assert [
            (d.identity.name, d.field) for d in compared(left, made("b-namespace", "P0oKd3mXs9QaJe7u", "debugging"))
        ] == [("settings", "data.settings")]

    @pytest.mark.parametrize(
        ("mine", "theirs", "generated"),
        [
            pytest.param("hT5wqLr8ZyNc2VbD", "P0oKd3mXs9QaJe7u", True, id="passwords"),
            pytest.param("hT5wqLr8ZyNc2VbD", "P0oKd3mXs9QaJe7", False, id="another length"),
            pytest.param("awx-postgres-15", "awx-postgres-16", False, id="much alike"),
            pytest.param("debug", "error", False, id="short words"),
            pytest.param("0123456789abcdef", "P0oKd3mXs9QaJe7u", False, id="another alphabet"),
            pytest.param("-----BEGIN RSA KEY-----\nx", "-----BEGIN RSA KEY-----\nyyy", True, id="keys"),
            pytest.param("-----BEGIN RSA KEY-----\nx", "-----BEGIN EC KEY-----\nyyy", False, id="keys of another kind"),
        ],
    )
    def test_what_counts_as_generated(self, mine: str, theirs: str, generated: bool) -> None:
        assert comparison.is_generated(mine, theirs) is generated

    def test_a_secrets_values_are_never_shown(self) -> None:
        left, right = [secret("s", "a-namespace", key="manager")], [secret("s", "b-namespace", key="administrator")]
        text = comparison.report(compared(left, right), "ours", "theirs")
        assert "data.key" in text
        assert "manager" not in text
        assert "administrator" not in text

    def test_neither_are_they_in_the_copy_that_kubectl_apply_keeps(self) -> None:
        def made(namespace: str, value: str) -> list[dict[str, Any]]:
            applied = secret("s", namespace, key=value)
            copy = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(applied)}
            return [{**applied, "metadata": {**applied["metadata"], "annotations": copy}}]

        assert compared(made("a-namespace", "hT5wqLr8ZyNc2VbD"), made("b-namespace", "P0oKd3mXs9QaJe7u")) == []
        differences = compared(made("a-namespace", "manager"), made("b-namespace", "administrator"))
        text = comparison.report(differences, "ours", "theirs")
        assert len(differences) == 2
        assert "manager" not in text
        assert base64.b64encode(b"manager").decode() not in text

    def test_a_statefulsets_pods_have_names_of_their_own(self) -> None:
        def made(namespace: str, *numbers: int) -> list[dict[str, Any]]:
            owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "1"}
            metadata = {"generateName": "db-", "ownerReferences": [owner]}
            return [obj("Pod", f"db-{number}", namespace, metadata=metadata) for number in numbers]

        assert [d.identity.name for d in compared(made("a-namespace", 0, 1), made("b-namespace", 0))] == ["db-1"]

    def test_hashes_of_what_is_generated_are_no_difference(self) -> None:
        def made(namespace: str, digest: str) -> list[dict[str, Any]]:
            return [one(namespace, metadata={"annotations": {"checksum": f"sha256:{digest}"}})]

        assert compared(made("a-namespace", "ab" * 32), made("b-namespace", "cd" * 32)) == []
        assert compared(made("a-namespace", "ab" * 32), made("b-namespace", "cd" * 16)) != []

    def test_named_items_are_told_by_their_names_and_their_order_counts(self) -> None:
        def made(namespace: str, *variables: str) -> list[dict[str, Any]]:
            return [one(namespace, env=[{"name": name, "value": name.lower()} for name in variables])]

        assert [
            (d.field, d.left, d.right) for d in compared(made("a-namespace", "A", "B"), made("b-namespace", "B", "A"))
        ] == [("env.(order)", "A, B", "B, A")]
        assert [d.field for d in compared(made("a-namespace", "A", "B"), made("b-namespace", "B"))] == ["env.A"]

    def test_an_expected_difference_is_told_apart(self) -> None:
        differences = compared([one("a-namespace", data={"x": "1"})], [one("b-namespace", data={"x": "2"})])
        rule = Expected("ConfigMap/set*", "data.*", "a reason")
        assert comparison.sort_out(differences, [rule]) == ([], [(differences[0], rule)])
        assert comparison.sort_out(differences, [Expected("Secret/*", "*", "another")]) == (differences, [])

    def test_objects_elsewhere_count_if_they_are_new_or_changed(self) -> None:
        before = comparison.normalize([obj("ClusterRole", "old", ""), obj("ClusterRole", "same", "")], "a-namespace")
        now = [obj("ClusterRole", "old", "", rules=[1]), obj("ClusterRole", "same", ""), obj("ClusterRole", "new", "")]
        changed = comparison.changed_since(before, comparison.normalize(now, "a-namespace"))
        assert sorted(identity.name for identity in changed) == ["new", "old"]


DOCKERFILE = """
FROM registry.example.com/other AS builder
COPY everything /opt/ansible
FROM registry.example.com/operator-framework/ansible-operator:v1.42.3
# A comment
ARG VERSION=1.2
ENV VERSION=${VERSION} \\
    COLOR="dark red"
ENV OLD form
COPY --chown=1001:0 watches.yaml ${HOME}/watches.yaml
COPY roles/ ${HOME}/roles/
COPY play*.yml requirements.yml ./
COPY ansible.cfg /etc/ansible/ansible.cfg
COPY --from=builder /x ${HOME}/x
COPY elsewhere /usr/bin/elsewhere
RUN something
ENTRYPOINT ["/tini", "--", "/usr/local/bin/ansible-operator", "run", "--watches-file=./watches.yaml"]
"""

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: controller-manager}
spec:
  template:
    metadata: {labels: {version: v1}}
    spec:
      containers:
      - {name: sidecar, image: x}
      - name: manager
        args: [--leader-elect, --leader-election-id=x, --max-concurrent-reconciles, "3", "--ansible-args=$(ARGS)"]
        env:
        - {name: ARGS, value: --check}
        - {name: WATCH_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
"""

ROLE = """
- name: A password
  kubernetes.core.k8s_info:
    api_version: v1
    kind: Secret
    name: password
    namespace: "{{ ansible_operator_meta.namespace }}"
  register: known
- name: A new one, if there is none
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: Secret
      metadata: {name: password, namespace: "{{ ansible_operator_meta.namespace }}"}
      stringData: {password: "{{ lookup('password', '/dev/null length=24') }}"}
  when: not known.resources
- name: What the CR wants
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: "{{ ansible_operator_meta.name }}", namespace: "{{ ansible_operator_meta.namespace }}"}
      data: {size: "{{ size | string }}", home: /opt/ansible, color: "{{ lookup('env', 'COLOR') }}"}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small operator in the Operator SDK's form."""
    folder = tmp_path / "small-operator"
    kind = {"group": THING.group, "version": THING.version, "kind": THING.kind}
    sample = {"apiVersion": THING.api_version, "kind": THING.kind, "metadata": {"name": "sample"}, "spec": {"size": 3}}
    files = {
        "Dockerfile": DOCKERFILE,
        "ansible.cfg": "[defaults]\nroles_path = /opt/ansible/roles\n",
        "watches.yaml": yaml.safe_dump([{**kind, "role": "thing"}]),
        "roles/thing/tasks/main.yml": ROLE,
        "requirements.yml": "",
        "config/manager/manager.yaml": DEPLOYMENT.replace("--check", ""),
        "config/crd/bases/thing.yaml": yaml.safe_dump(crd(THING)),
        "config/samples/kustomization.yaml": "resources: [thing.yaml]\n",
        "config/samples/thing.yaml": yaml.safe_dump(sample),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


class TestImage:
    def test_a_dockerfile_says_what_is_where(self, folder: Path) -> None:
        (folder / "play.yml").touch()
        built = image.parse_dockerfile(DOCKERFILE, folder)
        assert built.copies == (
            ("watches.yaml", "watches.yaml"),
            ("roles", "roles"),
            ("play.yml", "play.yml"),
            ("requirements.yml", "requirements.yml"),
            ("ansible.cfg", "ansible.cfg"),
        )
        assert built.environment == {"VERSION": "1.2", "COLOR": "dark red", "OLD": "form"}
        assert built.entrypoint[-1] == "--watches-file=./watches.yaml"

    def test_a_project_of_the_operator_sdk_needs_no_description(self, folder: Path) -> None:
        (folder / "config/manager/manager.yaml").write_text(DEPLOYMENT)
        made = image.read(folder, Description())
        assert made.watches == "watches.yaml"
        assert made.flags == ("--max-concurrent-reconciles=3", "--ansible-args=--check")
        assert made.environment["POD_NAME"] == image.POD_NAME
        assert made.environment["WATCH_NAMESPACE"] == image.POD_NAMESPACE
        assert made.labels == {"version": "v1"}
        assert [crd["metadata"]["name"] for crd in made.crds] == ["things.test.example.com"]
        assert made.sample["metadata"]["name"] == "sample"
        assert made.change == {"spec": {"size": 4}}

    def test_a_description_says_what_is_otherwise(self, folder: Path) -> None:
        (folder / "others.yaml").write_text((folder / "watches.yaml").read_text())
        given = {
            "watches": "others.yaml",
            "spec": {"size": 1, "more": {"a": 1}},
            "change": None,
            "environment": {"COLOR": None},
        }
        made = image.read(folder, description.parse(given, "given"))
        assert made.watches == "others.yaml"
        assert made.sample["spec"] == {"size": 1, "more": {"a": 1}}
        assert made.change is None
        assert "COLOR" not in made.environment

    def test_the_home_folder_has_this_machines_paths(self, folder: Path, tmp_path: Path) -> None:
        made, home = image.read(folder, Description()), tmp_path / "home"
        image.build(
            made, home, python="/a/python", description=description.parse({"replace": {"dark": "{python}"}}, "given")
        )
        assert f"home: {home}" in (home / "roles/thing/tasks/main.yml").read_text()
        assert not (home / "config").exists()

    @pytest.mark.parametrize(
        ("missing", "told"),
        [
            pytest.param("watches.yaml", "no watches.yaml", id="watches"),
            pytest.param("config/crd/bases/thing.yaml", "no CRDs", id="CRDs"),
            pytest.param("config/samples/thing.yaml", "no sample", id="sample"),
        ],
    )
    def test_what_is_not_there_is_named(self, folder: Path, missing: str, told: str) -> None:
        (folder / missing).unlink()
        with pytest.raises(DescriptionError, match=told):
            image.read(folder, Description())

    def test_a_number_that_is_a_size_is_changed_first(self) -> None:
        assert image._change({"spec": {"port": 80, "web": {"replicas": 1}}}) == {"spec": {"web": {"replicas": 2}}}
        assert image._change({"spec": {"debug": True}}) is None


class TestDescription:
    def test_those_that_are_there_can_be_read(self) -> None:
        for path in description.FOLDER.glob("*.yaml"):
            description.load(path)

    @pytest.mark.parametrize("name", ["kiali", "kiali-operator", "my_kiali.git"])
    def test_it_is_found_by_the_folders_name(self, name: str) -> None:
        found = description.find(Path("/somewhere") / name)
        assert found is not None
        assert found.name == "kiali.yaml"

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            pytest.param([], "a mapping is expected", id="a list"),
            pytest.param({"watch": "x"}, "unknown key 'watch'", id="an unknown key"),
            pytest.param({"crds": "x"}, "crds must be a list", id="another type"),
            pytest.param({"expected": [{"object": "x"}]}, "object, field and why", id="half a rule"),
        ],
    )
    def test_a_mistake_is_named(self, content: Any, told: str) -> None:
        with pytest.raises(DescriptionError, match=told):
            description.parse(content, "given")


def cr(running: str, successful: str, **status: Any) -> dict[str, Any]:
    completion = status.pop("completion", "1")
    conditions = [
        {"type": "Running", "status": "True", "reason": running, "ansibleResult": {"completion": completion}},
        {"type": "Successful", "status": successful, "reason": "Successful"},
    ]
    return {"metadata": {"generation": 2}, "status": {"conditions": conditions, **status}}


class TestSuccess:
    def test_a_run_that_is_on_or_failed_is_none(self) -> None:
        assert trial.is_successful(cr("Successful", "True"))
        assert not trial.is_successful(cr("Running", "False"))
        assert not trial.is_successful({"metadata": {}})
        assert not trial.is_successful(None)

    def test_a_change_is_observed_by_its_generation_or_by_another_result(self) -> None:
        before = trial.result(cr("Successful", "True"))
        assert not trial.observes(cr("Successful", "True", observedGeneration=1, completion="2"), 2, before)
        assert trial.observes(cr("Successful", "True", observedGeneration=2), 2, before)
        assert not trial.observes(cr("Successful", "True"), 2, before)
        assert trial.observes(cr("Successful", "True", completion="2"), 2, before)


async def test_a_small_operator_with_both_executors(folder: Path, tmp_path: Path, devcluster: Devcluster) -> None:
    """Made, changed and deleted by each; they leave the same, but for the password that is made at random."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # Whatever else listens on this machine meanwhile.
    engines = [
        replace(engine, flags=(*engine.flags, "--role-metrics-bind-address=0"))
        for engine in (own(executor, tmp_path / "runs") for executor in ("warm", "subprocess"))
    ]
    courses = await try_out(
        engines,
        devcluster.kubeconfig,
        image=image.read(folder, Description()),
        description=Description(),
        scratch=scratch,
        timeout=300,
        rest=0.5,
    )
    assert [course.error for course in courses] == ["", ""]
    warm, plain = (course.phases for course in courses)
    assert list(warm) == list(plain) == ["first", "changed", "deleted"]
    identity = Identity("ConfigMap", comparison.NAMESPACE, "sample")
    assert warm["changed"].left[identity]["data"]["size"] == "4"
    assert warm["changed"].left[identity]["data"]["color"] == "dark red"
    assert identity not in warm["deleted"].left
    passwords = [phases["first"].left[Identity("Secret", comparison.NAMESPACE, "password")] for phases in (warm, plain)]
    assert json.dumps(passwords[0]) != json.dumps(passwords[1])
    # It tells them. What a status says of the last run may differ where one of them has run once more.
    assert compared_courses(courses, Description()) == 0
    assert table("small", courses, changes=True).count("rolerunner") == 2
