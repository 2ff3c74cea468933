from time import process_time
from typing import Any

import pytest

from runner.resource.metadata import GroupVersionKind
from runner.resource.parameters import (
    MOST_LEVELS,
    MOST_VALUES,
    Parameters,
    Unusable,
    build,
    check_size,
    field_of,
    fields_by_variable,
    is_reserved,
    to_camel,
    to_snake,
    variable_name,
)

MEMCACHED = GroupVersionKind("cache.example.com", "v1alpha1", "Memcached")

# Input=output as the Go operator's paramconv gives it.
SNAKE = """
size=size maxConns=max_conns MaxConns=_max_conns JSONData=_json_data dataJSON=data_json egressIP=egress_ip
egressIPs=egress_ips IPAddress=ip_address podIPs=pod_ips serverURL=server_url URLPath=url_path baseURLs=base_urls
httpPort=http_port HTTPPort=http_port enableHTTP2=enable_http_2 http2Enabled=http2_enabled ABC=_abc aB=ab A=_a a1b2=a_1_b2
foo1bar=foo1bar fooBar1=foo_bar1 foo1Bar2=foo1_bar2 s3Bucket=s3_bucket S3Bucket=_s3_bucket x509Cert=x509_cert
kubernetesAPIServer=kubernetes_api_server myHTTPSServer=my_http_s_server snake_case=snake_case kebab-case=kebab_case
mixed_caseKey=mixed_case_key PascalCase=_pascal_case camelCaseID=camel_case_id IDs=_i_ds userIDs=user_i_ds
v1alpha1=v1alpha1 node10Count=node10_count _private=_private trailing_=trailing_ a__b=a__b TLSConfig=_tls_config
tlsCertPEM=tls_cert_pem oAuth2Token=o_auth2_token ipFamily=ip_family clusterIP=cluster_ip clusterIPs=cluster_ips
""".split()


@pytest.mark.parametrize("pair", SNAKE)
def test_snake_case_is_the_go_operators(pair: str) -> None:
    given, expected = pair.split("=")
    assert to_snake(given) == expected


def cr(**spec: object) -> dict[str, object]:
    return {"kind": "Memcached", "metadata": {"name": "sample", "namespace": "default"}, "spec": spec}


def built(obj: dict[str, object], **options: object) -> Parameters:
    settings = {"watch_vars": {}, "snake_case": True, "mark_unsafe": False, **options}
    return build(gvk=MEMCACHED, obj=obj, **settings)  # type: ignore[arg-type]


def test_a_role_sees_the_fields_the_meta_the_spec_and_the_whole_object() -> None:
    obj = cr(maxConns=5, nested={"innerKey": [{"deepKey": 1}]})
    variables = built(obj, watch_vars={"max_conns": 9, "mine": "x"}).extra_vars
    assert variables == {
        "max_conns": 9,
        "nested": {"inner_key": [{"deep_key": 1}]},
        "mine": "x",
        "ansible_operator_meta": {"name": "sample", "namespace": "default"},
        "_cache_example_com_memcached": obj,
        "_cache_example_com_memcached_spec": {"maxConns": 5, "nested": {"innerKey": [{"deepKey": 1}]}},
    }


def test_without_snake_case_names_stay() -> None:
    variables = built(cr(maxConns=5), snake_case=False).extra_vars
    assert variables["maxConns"] == 5


@pytest.mark.parametrize("obj", [{"metadata": {"name": "s"}}, {"metadata": {"name": "s"}, "spec": "text"}])
def test_an_object_without_a_spec_has_an_empty_one(obj: dict[str, object]) -> None:
    assert built(obj).extra_vars["_cache_example_com_memcached_spec"] == {}


def test_what_the_cr_says_is_data_and_the_watchs_variables_are_not() -> None:
    obj = cr(text="{{ lookup('pipe', 'id') }}", list=["a"], number=1, mine="of the CR")
    parameters = built(obj, mark_unsafe=True, watch_vars={"mine": "{{ size }}"})
    assert parameters.extra_vars == {"mine": "{{ size }}"}
    assert parameters.data == {
        "text": "{{ lookup('pipe', 'id') }}",
        "list": ["a"],
        "number": 1,
        "ansible_operator_meta": {"name": "sample", "namespace": "default"},
        "_cache_example_com_memcached": obj,
        "_cache_example_com_memcached_spec": obj["spec"],
    }


def test_a_field_named_like_a_template_is_no_variable() -> None:
    parameters = built(cr(**{"{{ x }}": 1}), mark_unsafe=True)
    assert parameters.dropped == ("spec.{{ x }}",)
    assert parameters.data["_cache_example_com_memcached_spec"] == {"{{ x }}": 1}
    assert not [name for name in parameters.data if "{" in name]


@pytest.mark.parametrize(
    "name", ["ansibleRemoteTmp", "ansible_connection", "AnsibleRemoteTmp", "hostvars", "inventoryHostname", "vars"]
)
def test_a_field_never_becomes_one_of_ansibles_own_variables(name: str) -> None:
    parameters = built(cr(**{name: "$(id)", "size": 1}))
    assert parameters.dropped == (f"spec.{name}",)
    assert {"size", "ansible_operator_meta"} < parameters.extra_vars.keys()
    assert not [variable for variable in parameters.extra_vars if variable == to_snake(name)]


@pytest.mark.parametrize("name", ["name", "port", "tags", "hosts", "environment", "timeout", "query"])
def test_fields_named_like_a_plays_keywords_pass(name: str) -> None:
    assert built(cr(**{name: 1})).extra_vars[name] == 1


def test_ansibles_marks_inside_a_cr_are_dropped_wherever_they_stand() -> None:
    parameters = built(cr(a={"__ansible_vault": "x", "b": [{"__ansible_type": 1, "c": 2}]}))
    assert parameters.dropped == ("spec.a.__ansible_vault", "spec.a.b[0].__ansible_type")
    assert parameters.extra_vars["a"] == {"b": [{"c": 2}]}
    assert "__ansible" not in str(parameters.extra_vars)


def test_of_many_fields_that_are_left_out_not_all_are_told() -> None:
    parameters = built(cr(**{f"ansible_{number}_{'x' * 1000}": 1 for number in range(1000)}))
    assert len(parameters.dropped) == 11
    assert parameters.dropped[-1] == "…"
    assert sum(map(len, parameters.dropped)) < 2_500


def nested(levels: int, kind: type = dict) -> dict[str, object]:
    """A CR of so many levels, its own and that of its spec among them."""
    value: Any = kind()
    for _ in range(levels - 3):
        value = [value] if kind is list else {"a": value}
    return cr(a=value)


@pytest.mark.parametrize("kind", [dict, list])
def test_a_cr_may_be_nested_but_not_without_end(kind: type) -> None:
    built(nested(MOST_LEVELS, kind))
    for levels in (MOST_LEVELS + 1, 1100, 9_999):
        deep = nested(levels, kind)
        for refuse in (check_size, built):
            with pytest.raises(Unusable, match="nested more than 100 levels deep"):
                refuse(deep)


def test_a_cr_has_room_for_many_fields_but_not_for_any_number() -> None:
    rest = len(cr()) + len(cr()["metadata"])  # type: ignore[arg-type]
    check_size(cr(**{f"f{number}": number for number in range(MOST_VALUES - rest)}))
    for large in (
        cr(a=[1] * MOST_VALUES),
        cr(**{f"f{number}": 1 for number in range(MOST_VALUES)}),
        cr(a=[{}] * MOST_VALUES),
    ):
        for refuse in (check_size, built):
            with pytest.raises(Unusable, match="more than 50000 fields and list items"):
                refuse(large)


LONG = 1024 * 1024


def below_long_names(inner: object) -> dict[str, object]:
    for number in range(50):
        inner = {f"{number}{'x' * 10_000}": inner}
    return cr(a=inner)


@pytest.mark.parametrize(
    "obj",
    [
        cr(**{f"someFieldWithNumber{number}": number for number in range(MOST_VALUES - 10)}),
        below_long_names({f"__ansible_{number}": 1 for number in range(40_000)}),
        below_long_names([[1]] * 20_000),
        *(
            cr(**{pump * (LONG // len(pump)): 1})
            for pump in ("a", "A", "a1", "a1a", "aB", "IP", "_", " ", "1", "{", "HTTPs")
        ),
        cr(**{"a" + "1" * LONG: 1}),
    ],
    ids=[*"many marks lists".split(), *(f"name-{number}" for number in range(12))],
)
def test_the_largest_crs_take_no_more_time_than_their_size(obj: dict[str, object]) -> None:
    before = process_time()
    built(obj)
    # What grows faster than a CR's size takes minutes.
    assert process_time() - before < 20


@pytest.mark.parametrize(
    ("group", "kind", "expected"),
    [("cert-manager.k8s.io", "Issuer", "_cert_manager_k8s_io_issuer"), ("", "Secret", "__secret")],
)
def test_the_variable_of_the_whole_object(group: str, kind: str, expected: str) -> None:
    assert variable_name(GroupVersionKind(group, "v1", kind)) == expected


def test_every_variable_that_steers_a_connection_shell_or_become_plugin_is_reserved() -> None:
    """Asked of ansible-core itself, so that a newer one with a new name is noticed."""
    from ansible import constants
    from ansible.plugins.loader import become_loader, connection_loader, shell_loader

    definitions = [constants.config.get_configuration_definitions()]
    for loader, kind in ((connection_loader, "connection"), (shell_loader, "shell"), (become_loader, "become")):
        plugins = list(loader.all(class_only=True))
        definitions += [constants.config.get_configuration_definitions(kind, plugin._load_name) for plugin in plugins]
    names = {
        entry["name"].partition("[")[0]
        for known in definitions
        for setting in known.values()
        for entry in setting.get("vars") or ()
    }
    assert "ansible_remote_tmp" in names
    # ansible-core's own trial of its configuration is no setting.
    assert {name for name in names if not is_reserved(name)} <= {"_z_test_entry"}


@pytest.mark.parametrize(
    "variable", "size secret_name _foo _foo_bar http_port api_url egress_ip a1_b2 tls_1 x509 node_port2 use_k8s_api".split()
)
def test_the_field_of_a_variable_becomes_it(variable: str) -> None:
    assert to_snake(to_camel(variable)) == variable


def test_a_variable_that_no_field_becomes() -> None:
    with pytest.raises(ValueError, match="no field of a CR becomes the variable SIZE"):
        to_camel("SIZE")


def test_of_two_fields_that_become_one_variable_the_first_is_named() -> None:
    named = fields_by_variable(["podIPs", "pod_ips", "size"], snake_case=True)
    assert [named(variable) for variable in ("pod_ips", "size", "other_one")] == ["podIPs", "size", "otherOne"]


@pytest.mark.parametrize(
    ("fields", "snake_case", "expected"),
    [((), True, "egressIps"), (("egressIPs",), True, "egressIPs"), (("egressIPs",), False, "egress_ips")],
    ids=["unknown", "known", "as-it-is"],
)
def test_a_variable_is_called_as_the_fields_have_it(fields: tuple[str, ...], snake_case: bool, expected: str) -> None:
    assert field_of("egress_ips", fields, snake_case=snake_case) == expected
