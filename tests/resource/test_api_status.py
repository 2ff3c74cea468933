import json
from typing import Any

import pytest

from runner.resource.api_status import readable, remedy, sentence

STATUS = {
    **{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"},
    **{"message": 'namespaces "a\'b" not found', "reason": "NotFound", "details": {"name": "x"}, "code": 404},
}
SENTENCE = 'NotFound: namespaces "a\'b" not found'
TEXT = json.dumps(STATUS, separators=(",", ":")) + "\n"
ADVICE = "must be text: quote a literal, and end a template with `| string`"


@pytest.mark.parametrize(
    "shown",
    [
        TEXT,
        str(TEXT.encode()),
        json.dumps(STATUS, indent=2),
        str(STATUS),
        f"(404)\nReason: Not Found\nHTTP response headers: HTTPHeaderDict({{'a': 'b'}})\nHTTP response body: {TEXT}\n",
        f"(404)\nReason: Not Found\nHTTP response body: {TEXT.encode()!r}\n",
    ],
    ids=["json", "bytes", "indented", "python", "exception", "exception with bytes"],
)
def test_a_status_object_becomes_a_sentence(shown: str) -> None:
    assert readable(f"Failed to create object: {shown}") == f"Failed to create object: {SENTENCE}"
    assert readable(f"Failed twice: {shown} and {shown}").count(SENTENCE) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no Status here",
        '{"kind":"Status"',
        "{'kind': 'Status', 'x': }",
        "b'Status \\xff'",
        '{"kind":"Status"' * 1000,
        "{" * 9,
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert readable(text) == text


def test_a_status_need_not_have_everything() -> None:
    assert readable('{"kind":"Status","message":"storage is (re)initializing","code":429}') == "storage is (re)initializing"
    assert readable('{"kind":"Status","code":500}') == "HTTP 500"


def test_what_the_server_repeats_of_an_object_is_left_out() -> None:
    whole = json.dumps(json.dumps({"data": {"password": "x" * 300}}))
    status = {"kind": "Status", "message": f"patch: Invalid value: {whole}: json: no", "reason": "Invalid"}
    assert readable(json.dumps(status)) == 'Invalid: patch: Invalid value: "…": json: no'


# As kube-apiserver 1.36 says it.
GO = 'X in version "v1" cannot be handled as a X: json: cannot unmarshal {} into Go struct field {} of type string'
CRD = "Widget.ex.com \"w\" is invalid: [spec.l[0].v: Invalid value: \"boolean\": spec.l[0].v in body must be of type string: \"boolean\", spec.x: Invalid value: \"integer\": spec.x in body must be of type string: \"integer\"]"  # fmt: skip  # noqa: E501
APPLY = (
    "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): errors:\n"
    '  .spec.containers[name="x y"].env[name="B"].value: expected string, got &value.valueUnstructured{Value:2}\n'
    "  .data.flag: expected string, got &value.valueUnstructured{Value:true}"
)
MAP: dict[str, Any] = {
    "kind": "ConfigMap",
    "metadata": {"name": 7},
    "data": {"size": 5, "text": "x", "flag": True, "rate": 1.5},
}
MASKED = {"kind": "Secret", "stringData": {"port": "******** (a number)", "password": "********"}}
POD: dict[str, Any] = {"kind": "Pod", "spec": {"replicas": 3, "containers": [{"env": [{"value": "a"}, {"value": 2}]}]}}


@pytest.mark.parametrize(
    ("message", "definition", "fields"),
    [
        (GO.format("number", "ConfigMap.data"), MAP, "ConfigMap data.size (a number), data.rate (a number)"),
        (GO.format("bool", "ConfigMap.data"), MAP, "ConfigMap data.flag (a boolean)"),
        (GO.format("number", "ConfigMap.data"), "kind: ConfigMap\ndata: {size: 5}\n", "ConfigMap data.size (a number)"),
        (GO.format("number", "ConfigMap.data"), [{"kind": "Pod"}, MAP], "data.size (a number), data.rate (a number)"),
        (GO.format("number", "ObjectMeta.metadata.name"), MAP, "ConfigMap metadata.name (a number)"),
        (GO.format("number", "EnvVar.spec.containers.env.value"), POD, "Pod spec.containers[0].env[1].value (a number)"),
        (GO.format("number", "EnvVar.value"), POD, "Pod spec.containers[0].env[1].value (a number)"),
        (GO.format("number", "ConfigMap.data"), None, "data (a number)"),
        (GO.format("number", "ConfigMap.data"), [{"op": "add", "path": "/data/size", "value": 5}], "data.size (a number)"),
        (GO.format("number", "Secret.stringData"), MASKED, "Secret stringData.port (a number)"),
        ("cannot convert float64 to string", {"a": 1.5, "b": True}, "a (a number)"),
        ("cannot convert bool to string", None, "a field (a boolean)"),
        (CRD, {"kind": "Widget"}, "Widget spec.l[0].v (a boolean), spec.x (a number)"),
        ("x .a:b.c: expected string, got &value.valueUnstructured{Value:2}", None, "a:b.c (a number)"),
        (APPLY, POD, 'Pod spec.containers[name="x y"].env[name="B"].value (a number), data.flag (a boolean)'),
    ],
)  # fmt: skip
def test_a_number_where_text_has_to_be_is_named_with_what_to_do(message: str, definition: Any, fields: str) -> None:
    told = remedy(message, [definition])
    assert told.startswith(f"{fields} {ADVICE}")
    assert "2.19" in told


def test_many_fields_are_named_in_part() -> None:
    told = remedy(GO.format("number", "ConfigMap.data"), [{"data": {f"k{number}": number for number in range(25)}}])
    assert "data.k9 (a number) and 15 more must" in told


@pytest.mark.parametrize(
    "message",
    [
        "",
        'namespaces "string" not found',
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        'spec.x: Invalid value: "string": spec.x in body must be of type integer: "string"',
        ".data.x: expected list, got &value.valueUnstructured{Value:5}",
    ],
)
def test_other_refusals_have_no_remedy(message: str) -> None:
    assert remedy(message, [MAP]) == ""


def test_definitions_of_any_kind_are_borne() -> None:
    message = GO.format("number", "ConfigMap.data")
    loop: dict[str, Any] = {"kind": 5}
    loop["self"] = loop
    for definition in ("{{{", "a: &a [*a]", "[" * 5000, "x: !!python/object/apply:os.system [id]", loop, 5, [[MAP]], {}):
        assert remedy(message, [definition])


@pytest.mark.parametrize(
    "part", ["x", " .[", "b'{", "{'kind': 'Status'", '{"kind":"Status"', '"', "(404)\nReason: ", ": Invalid value: "]
)
def test_texts_that_go_on_and_on_are_borne(part: str) -> None:
    """However long, only their beginnings are looked at; more of this in tests/control/test_failures.py."""
    text = "Status string " + part * (400_000 // len(part))
    assert readable(text) == text
    assert remedy(text, [MAP]) == ""


@pytest.mark.parametrize("end", ["", "\\", '\\"', "x"])
def test_a_string_without_an_end_stays(end: str) -> None:
    """That this ends shows that it is not looked at from each of its quotes again: otherwise an hour."""
    message = '"' + '\\"' * 400_000 + end
    assert sentence({"message": message}) == message
    assert readable(f"{{'kind': 'Status', {message}") == f"{{'kind': 'Status', {message}"


@pytest.mark.parametrize(
    "text", ["{'kind': 'Status', []: 1}", "{'kind': 'Status', {}: 1}", "b'{\\x Status'"], ids=["list", "dict", "escape"]
)
def test_what_python_cannot_read_stays(text: str) -> None:
    assert readable(f"Tier {text} is not supported") == f"Tier {text} is not supported"


def test_a_status_far_into_a_text_stays() -> None:
    far = "x" * 100_000 + TEXT
    assert readable(TEXT + far) == f"{SENTENCE}\n{far}".strip()


def test_yaml_that_says_a_thing_many_times_names_it_once() -> None:
    aliases = "- &a {kind: A, b: 1}\n- &b [*a, *a]\n- [*b, *b]\n---\nkind: A\nc: 2\n"
    assert remedy("cannot convert int64 to string", [aliases]).startswith(f"b (a number), c (a number) {ADVICE}")


def test_braces_in_keys_are_shown() -> None:
    definition = {"a{b}": {"{0.real}": [5]}}
    assert remedy("cannot convert int64 to string", [definition]).startswith(f"a{{b}}.{{0.real}}[0] (a number) {ADVICE}")
