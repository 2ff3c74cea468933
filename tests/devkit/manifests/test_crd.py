"""CRDs from argument specs: what they say, what survives in them, and that a real API server takes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.driver import ROOT, Cluster, until
from devkit.manifests.command import generate
from runner.config.settings import Settings
from runner.errors import ConfigurationError
from runner.kube.client import Invalid, NotFound
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.devkit.manifests.conftest import Write, generated

CRD = Path("crds/test.example.com_things.yaml")
SPECS = "roles/thing/meta/argument_specs.yml"


def specs(options: str, *, kind: str = "") -> str:
    """An argument_specs.yml; both parts are indented here."""
    head = "".join(f"  {line}\n" for line in kind.splitlines())
    body = "".join(f"      {line}\n" for line in options.splitlines())
    return f"argument_specs:\n{head}  main:\n    short_description: A thing\n    options:\n{body}"


def crd() -> dict[str, Any]:
    generated()
    return yaml.safe_load(CRD.read_text())


def spec_of(definition: Mapping[str, Any], version: int = 0) -> dict[str, Any]:
    return definition["spec"]["versions"][version]["schema"]["openAPIV3Schema"]["properties"]["spec"]


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("{}", {"type": "string"}),
        ("{type: int, default: 3}", {"type": "integer", "default": 3}),
        ("{type: float, description: [One., 'See O(b), V(c).']}", {"description": "One.\nSee b, c.", "type": "number"}),
        ("{type: bool, default: false}", {"type": "boolean", "default": False}),
        ("{type: str, choices: [a, b]}", {"type": "string", "enum": ["a", "b"]}),
        ("{type: dict}", {"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
        ("{type: raw}", {"x-kubernetes-preserve-unknown-fields": True}),
        ("{type: bytes}", {"x-kubernetes-int-or-string": True}),
        ("{type: list}", {"type": "array", "items": {"x-kubernetes-preserve-unknown-fields": True}}),
        ("{type: list, elements: int}", {"type": "array", "items": {"type": "integer"}}),
        (
            "{type: list, elements: str, choices: [a], default: [a]}",
            {"type": "array", "items": {"type": "string", "enum": ["a"]}, "default": ["a"]},
        ),
        (
            "{type: list, elements: dict, options: {some_key: {required: true}}}",
            {
                "type": "array",
                "items": {"type": "object", "required": ["someKey"], "properties": {"someKey": {"type": "string"}}},
            },
        ),
    ],
    ids="plain int float bool enum dict raw bytes list elements list-enum list-of-dicts".split(),
)
def test_an_option_becomes_a_schema(write: Write, option: str, expected: dict[str, Any]) -> None:
    write({SPECS: specs(f"x: {option}")})
    assert spec_of(crd())["properties"]["x"] == expected


@pytest.mark.parametrize(
    ("marker", "option", "expected"),
    [
        ("minimum=1", "{type: int}", {"type": "integer", "minimum": 1}),
        ("multipleOf=0.5", "{type: float}", {"type": "number", "multipleOf": 0.5}),
        ("pattern=^a$", "{}", {"type": "string", "pattern": "^a$"}),
        ("items:maxLength=3", "{type: list, elements: str}", {"type": "array", "items": {"type": "string", "maxLength": 3}}),
        ("values=int", "{type: dict}", {"type": "object", "additionalProperties": {"type": "integer"}}),
        ("intOrString", "{}", {"x-kubernetes-int-or-string": True}),
        ("nullable", "{}", {"type": "string", "nullable": True}),
    ],
    ids=lambda value: value if isinstance(value, str) and "{" not in value else "",
)
def test_a_marker_says_what_an_option_cannot(write: Write, marker: str, option: str, expected: dict[str, Any]) -> None:
    write({SPECS: specs(f"# +rolerunner:{marker}\nx: {option}")})
    assert spec_of(crd())["properties"]["x"] == expected


def test_what_a_cr_has_no_say_in_is_not_in_its_schema(write: Write) -> None:
    write(
        {
            "watches.yaml": "[{group: test.example.com, version: v1, kind: Thing, role: thing, vars: {image: x}}]",
            "roles/thing/defaults/main.yml": "port: 80\n",
            SPECS: specs(
                "image: {required: true}\nansible_operator_meta: {type: dict}\nport: {type: int, required: true}\n"
                "# +rolerunner:ignore\nstate: {}"
            ),
        }
    )
    assert spec_of(crd()) == {"type": "object", "properties": {"port": {"type": "integer"}}}


def test_names_are_those_that_become_the_roles_variables(write: Write) -> None:
    write({SPECS: specs("secret_name: {}\n# +rolerunner:name=egressIPs\negress_ips: {}")})
    assert list(spec_of(crd())["properties"]) == ["secretName", "egressIPs"]


def test_without_snake_case_names_are_as_they_are(write: Write) -> None:
    watch = "[{group: test.example.com, version: v1, kind: Thing, role: thing, snakeCaseParameters: false}]"
    write({"watches.yaml": watch, SPECS: specs("secret_name: {}\nsecretKey: {}")})
    assert list(spec_of(crd())["properties"]) == ["secret_name", "secretKey"]


def test_what_a_kind_is_like(write: Write) -> None:
    write(
        {
            SPECS: specs(
                "size: {type: int}",
                kind="# +rolerunner:scope=Cluster\n# +rolerunner:shortNames=th;tg\n# +rolerunner:categories=all\n"
                "# +rolerunner:scale:spec=.spec.size,status=.status.size\n"
                "# +rolerunner:printcolumn:name=Size,type=integer,jsonPath=.spec.size,priority=1",
            )
        }
    )
    spec = crd()["spec"]
    assert spec["scope"] == "Cluster"
    assert spec["names"] == {
        **{"kind": "Thing", "listKind": "ThingList", "plural": "things", "singular": "thing"},
        **{"shortNames": ["th", "tg"], "categories": ["all"]},
    }
    (version,) = spec["versions"]
    assert version["subresources"] == {
        "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"},
        "status": {},
    }
    assert version["additionalPrinterColumns"] == [
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size", "priority": 1}
    ]


def test_several_versions_have_one_storage(write: Write) -> None:
    watches = [{"group": "test.example.com", "version": name, "kind": "Thing", "role": name} for name in ("v1", "v2beta1")]
    marker = "# +rolerunner:version:name=v1alpha1,served=false,deprecated=true,warning=use v1"
    write(
        {
            "watches.yaml": yaml.safe_dump(watches),
            "roles/v1/meta/argument_specs.yml": specs("a: {}", kind=marker),
            "roles/v2beta1/meta/argument_specs.yml": specs("b: {}"),
        }
    )
    versions = {version.pop("name"): version for version in crd()["spec"]["versions"]}
    assert {name: (version["served"], version["storage"]) for name, version in versions.items()} == {
        "v1": (True, True),
        "v2beta1": (True, False),
        "v1alpha1": (False, False),
    }
    assert versions["v1alpha1"]["deprecationWarning"] == "use v1"
    # What is stored stays so until somebody says otherwise.
    (Path("roles/v2beta1/meta/argument_specs.yml")).write_text(
        specs("b: {}", kind="# +rolerunner:version:name=v2beta1,storage=true")
    )
    assert [version["name"] for version in crd()["spec"]["versions"] if version["storage"]] == ["v2beta1"]
    (Path("roles/v2beta1/meta/argument_specs.yml")).write_text(specs("b: {}"))
    assert [version["name"] for version in crd()["spec"]["versions"] if version["storage"]] == ["v2beta1"]


def test_a_kustomize_project_has_its_crds_in_config(write: Write) -> None:
    write({SPECS: specs("a: {}"), "config/crd/bases/.keep": ""})
    assert Path("config/crd/bases/test.example.com_things.yaml") in generated().texts


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ("x: {type: text}", "", r"argument_specs.yml:5: x: unknown type 'text'; known: "),
        ("x: {choices: [on, off]}", "", r":5: x: choices: True is no str; put it in quotes"),
        ("x: {type: int, default: '1'}", "", r":5: x: default: '1' is no int"),
        ("x: int", "", r":5: x: expected an option's type"),
        ("# +rolerunner:minimun=1\nx: {}", "", r":5: \+rolerunner:minimun: unknown here"),
        ("# +rolerunner:minimum=one\nx: {}", "", r":5: \+rolerunner:minimum: expected a number, found 'one'"),
        ("# +rolerunner:items:minLength=1\nx: {}", "", r":5: \+rolerunner:items:minLength: x is no list"),
        ("# +rolerunner:name=other\nx: {}", "", r":5: \+rolerunner:name: a CR's field of this name does not become"),
        ("# +rolerunner:minimum=1\n\nx: {}", "", r":5: \+rolerunner:minimum: is about nothing"),
        ("A_B: {}", "", r":5: A_B: no field of a CR becomes the variable A_B"),
        ("x: {}", "# +rolerunner:scope=Global", r":2: \+rolerunner:scope: is Namespaced or Cluster"),
        ("x: {}", "# +rolerunner:scale:spec=.spec.x", r":2: \+rolerunner:scale: needs status="),
        ("x: {}", "# +rolerunner:sort=x", r":2: \+rolerunner:sort: unknown here; a kind takes"),
    ],
    ids="type boolean-choice default no-mapping unknown number no-list name apart unspeakable scope scale kind".split(),
)
def test_a_mistake_is_one_line_with_its_place(write: Write, options: str, kind: str, message: str) -> None:
    write({SPECS: specs(options, kind=kind)})
    with pytest.raises(ConfigurationError, match=message) as raised:
        generate(Settings(), {})
    assert "\n" not in str(raised.value)


HARD = specs(
    """\
# +rolerunner:pattern=^[a-z]([-a-z0-9]*[a-z0-9])?$
# +rolerunner:maxLength=20
host_name: {type: str, required: true, description: "Where: 'it' is\\nfound."}
size: {type: int, default: 1}  # +rolerunner:minimum=0
mode: {type: str, choices: ["on", "off", standby], default: "on"}
tls:
  type: dict
  options:
    secret_name: {type: str}
    mode: {type: str, choices: [terminate, passthrough], default: terminate}
    versions: {type: list, elements: str, choices: ["1.2", "1.3"], default: ["1.3"]}
  required_if: [[mode, terminate, [secret_name]]]
# +rolerunner:listType=map
# +rolerunner:listMapKeys=name
# +rolerunner:maxItems=3
ports:
  type: list
  elements: dict
  options:
    name: {type: str, required: true}
    # +rolerunner:minimum=1
    # +rolerunner:maximum=65535
    port_number: {type: int, required: true}
    extra: {type: raw}
    deep: {type: dict, options: {deeper: {type: list, elements: dict, options: {deepest: {type: bool}}}}}
labels: {type: dict}  # +rolerunner:values=str
storage: {}  # +rolerunner:intOrString
matrix: {type: list, elements: list}
free: {type: json}
share: {type: float}
"""
)
OTHER = specs(
    "size: {type: int, required: true}\nfrom_: {type: path}\nsome_http_url: {type: str}",
    kind="""\
# +rolerunner:scope=Cluster
# +rolerunner:plural=oxen
# +rolerunner:shortNames=ox;o
# +rolerunner:scale:spec=.spec.size,status=.status.size,selector=.status.selector
# +rolerunner:printcolumn:name=Size,type=integer,jsonPath=.spec.size
# +rolerunner:version:name=v1beta1,deprecated=true
# +rolerunner:version:name=v1,storage=true""",
)


async def installed(world: Cluster, definition: Mapping[str, Any]) -> GroupVersionKind:
    """The API server's own word that the CRD is structural and its names are accepted."""
    gvk = await world.install(definition)
    kind = GroupVersionKind("apiextensions.k8s.io", "v1", "CustomResourceDefinition")

    async def established() -> dict[str, Any]:
        found = await world.get(kind, ObjectKey("", definition["metadata"]["name"]))
        conditions = (found or {}).get("status", {}).get("conditions", ())
        return {condition["type"]: condition for condition in conditions if condition["status"] == "True"}

    async def is_established() -> bool:
        return "Established" in await established()

    await until(is_established, f"{gvk} is established")
    assert "NonStructuralSchema" not in await established()
    return gvk


async def test_the_api_server_takes_a_hard_crd_and_refuses_bad_crs(world: Cluster, namespace: str, write: Write) -> None:
    watch = "[{group: hard.example.com, version: v1, kind: Hard, role: thing}]"
    write({"watches.yaml": watch, SPECS: HARD})
    generated()
    gvk = await installed(world, yaml.safe_load(Path("crds/hard.example.com_hards.yaml").read_text()))
    head = {"apiVersion": gvk.api_version, "kind": gvk.kind}
    good = {
        "hostName": "a",
        "tls": {"secretName": "s"},
        "ports": [{"name": "a", "portNumber": 1, "extra": [1, {"x": "y"}], "deep": {"deeper": [{"deepest": True}]}}],
        "labels": {"a": "b"},
        "storage": 5,
        "matrix": [[1], ["a"]],
        "free": {"any": ["thing"]},
        "share": 0.5,
    }
    created = await world.create({**head, "metadata": {"name": "good"}, "spec": good}, namespace)
    defaulted = {"mode": "terminate", "versions": ["1.3"], "secretName": "s"}
    assert created["spec"] == {**good, "size": 1, "mode": "on", "tls": defaulted}
    for spec, field in (
        ({}, "spec.hostName"),
        ({"hostName": "A"}, "spec.hostName"),
        ({"hostName": "a", "size": -1}, "spec.size"),
        ({"hostName": "a", "size": "1"}, "spec.size"),
        ({"hostName": "a", "mode": "maybe"}, "spec.mode"),
        ({"hostName": "a", "tls": {"versions": ["1.1"]}}, "spec.tls.versions[0]"),
        ({"hostName": "a", "ports": [{"name": "a"}]}, "spec.ports[0].portNumber"),
        ({"hostName": "a", "ports": [{"name": "a", "portNumber": 70000}]}, "spec.ports[0].portNumber"),
        ({"hostName": "a", "ports": [{"name": "a", "portNumber": 1}] * 2}, "spec.ports[1]"),
        ({"hostName": "a", "labels": {"a": 1}}, "spec.labels.a"),
        ({"hostName": "a", "storage": []}, "spec.storage"),
    ):
        with pytest.raises(Invalid) as refused:
            await world.create({**head, "metadata": {"name": "bad"}, "spec": spec}, namespace)
        assert field in str(refused.value), spec


async def test_the_api_server_takes_several_versions_and_scales(world: Cluster, write: Write) -> None:
    watches = [
        {"group": "hard.example.com", "version": version, "kind": "Ox", "role": role}
        for version, role in (("v1", "new"), ("v1alpha1", "old"))
    ]
    write(
        {
            "watches.yaml": yaml.safe_dump(watches),
            "roles/new/meta/argument_specs.yml": OTHER,
            "roles/old/meta/argument_specs.yml": specs("size: {type: int}\ncolour: {choices: [red, brown]}"),
        }
    )
    generated()
    definition = yaml.safe_load(Path("crds/hard.example.com_oxen.yaml").read_text())
    await installed(world, definition)
    old = {"apiVersion": "hard.example.com/v1alpha1", "kind": "Ox", "metadata": {"name": "one"}}
    with pytest.raises(Invalid, match=r"spec\.colour"):
        await world.create({**old, "spec": {"size": 1, "colour": "blue"}})
    await world.create({**old, "spec": {"size": 1, "colour": "red"}})
    path = "/apis/hard.example.com/v1/oxen/one/scale"
    await world.client.patch(path, {"spec": {"replicas": 3}})
    found = await world.get(GroupVersionKind("hard.example.com", "v1beta1", "Ox"), ObjectKey("", "one"))
    assert found is not None
    assert found["spec"]["size"] == 3
    with pytest.raises(NotFound):
        await world.client.get("/apis/hard.example.com/v2/oxen")


async def test_the_api_server_takes_the_examples_crds(world: Cluster, namespace: str) -> None:
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        await installed(world, yaml.safe_load(path.read_text()))
    head = {"apiVersion": "cache.example.com/v1alpha1", "metadata": {"name": "bad"}}
    with pytest.raises(Invalid, match=r"spec\.size"):
        await world.create({**head, "kind": "Memcached", "spec": {"size": -1}}, namespace)
    with pytest.raises(Invalid, match=r"spec\.options"):
        await world.create({**head, "kind": "MemcachedSettings", "spec": {"options": {"m": 64}}}, namespace)
