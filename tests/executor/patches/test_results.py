"""Facts are copied and looked through as ansible-core does it, only more quickly."""

import datetime
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ansible.vars.clean")

from ansible.module_utils import basic
from ansible.utils import vars as vars_
from ansible.vars import clean

from runner.executor.patches import ansible_core, results, tasks
from runner.executor.patches.results import (
    clean_facts,
    remove_values,
    strip_internal_keys,
    transform_to_native_types,
    unless_unseen,
    verify,
)

if ansible_core.TAGS:
    from ansible.module_utils._internal._datatag import AnsibleTagHelper
    from ansible.module_utils._internal._datatag._tags import Deprecated
    from ansible.parsing.vault import EncryptedString

    def tagged(value: Any) -> Any:
        return AnsibleTagHelper.tag(value, [Deprecated(msg="old")])

    SECRET: Any = EncryptedString(ciphertext="x")
else:
    from ansible.utils.unsafe_proxy import wrap_var as tagged

    SECRET = None

with_tags = pytest.mark.skipif(not ansible_core.TAGS, reason="until ansible-core 2.18 there are no tags")


class Original:
    """Counts how often ansible-core's own function is called."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return self.function(*args)


PLAIN = {
    "ansible_facts": {"ansible_distribution": "Debian", "_ansible_facts_gathered": True},
    "nested": [{"_ansible_no_log": False, "kept": [1, 2.5, None, True, ["x"]]}],
}
TAGGED = tagged({"a": ["b"]})


def check_plain_facts(facts: dict[str, Any]) -> None:
    original = Original(clean.clean_facts)
    assert clean_facts(original)(facts) == clean.clean_facts(facts)
    assert original.calls == 0


def test_plain_facts() -> None:
    check_plain_facts({})
    check_plain_facts({"ansible_distribution": "Debian", "_ansible_facts_gathered": True, "b": PLAIN["nested"]})
    check_plain_facts({"ansible_lo": {"mtu": 1}, "ansible_default_ipv4": {}, "module_setup": True})


@pytest.mark.parametrize(
    "facts",
    [
        {"ansible_python_interpreter": "/bin/false", "a": 1},
        {"ansible_connection": "ssh"},
        {"ansible_ssh_host_key_rsa_public": "AAAA", "ansible_ssh_args": "-x"},
        {"ansible_become_user": "root", "ansible_local_bridge": {}},
        {"ansible_facts": {}, "add_host": 1, "b": {"_ansible_x": 1}},
        {"ansible_discovered_interpreter_python": "x", "ansible_host": "elsewhere"},
        {"a": TAGGED},
        {"a": (1, 2, {"_ansible_x": 1, "b": 2}), "b": {3}},
    ],
    ids=["interpreter", "connection", "ssh", "become", "internal", "host", "tagged", "others"],
)
def test_facts_of_which_something_may_have_to_go(facts: dict[str, Any]) -> None:
    assert clean_facts(clean.clean_facts)(facts) == clean.clean_facts(facts)


def test_what_is_cleaned_is_a_copy() -> None:
    facts = {"a": {"b": [1]}}
    cleaned = clean_facts(clean.clean_facts)(facts)
    cleaned["a"]["b"].append(2)
    assert facts == {"a": {"b": [1]}}


def test_a_result_in_which_nothing_is_secret() -> None:
    original = Original(basic.remove_values)
    assert remove_values(original)(PLAIN, set()) == PLAIN
    assert original.calls == 0
    copied = remove_values(original)(PLAIN, set())
    copied["nested"].clear()
    assert PLAIN["nested"]


def test_a_result_with_a_secret() -> None:
    assert remove_values(basic.remove_values)({"a": "my secret", "n": 7}, {"secret"}) == {"a": "my ********", "n": 7}


@pytest.mark.parametrize(
    "value", [{"a": TAGGED}, {"a": datetime.date(2026, 1, 1)}, {"a": b"bytes"}, {"a": {1}}, {"a": (1,)}]
)
def test_a_result_that_is_not_json(value: Any) -> None:
    assert remove_values(basic.remove_values)(value, set()) == basic.remove_values(value, set())


def test_a_result_that_cannot_be_told() -> None:
    with pytest.raises(TypeError, match="unknown type"):
        remove_values(basic.remove_values)({"a": object()}, set())


@with_tags
def test_a_result_for_callbacks_that_is_plain() -> None:
    original = Original(vars_.transform_to_native_types)
    told = transform_to_native_types(original)(PLAIN)
    assert told == PLAIN
    assert original.calls == 0
    told["nested"].clear()
    assert PLAIN["nested"]


@with_tags
@pytest.mark.parametrize(
    "value",
    [
        {"a": [{"b": TAGGED}], "c": tagged("d")},
        {tagged("name"): 1, 2: {"b": 3}},
        {"a": (1, {"b": "c"}), "d": datetime.date(2026, 1, 1), "e": b"bytes"},
        {"secret": SECRET},
    ],
    ids=["tagged", "keys", "others", "secret"],
)
def test_a_result_for_callbacks_that_is_not_plain(value: Any) -> None:
    told, standard = (
        transform_to_native_types(vars_.transform_to_native_types)(value),
        vars_.transform_to_native_types(value),
    )
    assert told == standard
    # Tagged strings are equal to plain ones.
    assert types(told) == types(standard)


@with_tags
@pytest.mark.parametrize(
    ("value", "calls"),
    [
        (PLAIN, 0),
        ({"a": [{"b": TAGGED}], "c": tagged("d")}, 1),
        ({tagged("name"): 1, 2: {"b": 3}}, 1),
        ({"a": (1, {"b": "c"}), "d": datetime.date(2026, 1, 1)}, 1),
        ({"a": "{{ nothing }}"}, 0),
    ],
    ids=["plain", "tagged", "keys", "others", "template"],
)
def test_a_result_that_is_told_is_as_ansible_core_tells_it(value: Any, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = results._engine()
    standard = engine().transform(value)
    original = Original(engine.transform)
    monkeypatch.setattr(engine, "transform", lambda self, variable: original(self, variable))
    results.apply_told()
    told = engine().transform(value)
    assert (told, types(told)) == (standard, types(standard))
    assert told is not value
    assert original.calls == calls


def types(value: Any) -> Any:
    if isinstance(value, dict):
        return [(type(name), types(item)) for name, item in value.items()]
    return [types(item) for item in value] if isinstance(value, (list, tuple)) else type(value)


LOOKING = {name: None for name in ("changed_when", "failed_when", "until", "retries", "loop", "loop_with")}


@pytest.mark.parametrize(
    ("task", "facts", "is_left_out"),
    [
        ({}, {"ansible_lo": {}}, True),
        ({"changed_when": ["ansible_lo"]}, {"ansible_lo": {}}, False),
        ({"loop": [1, 2]}, {"ansible_lo": {}}, False),
        ({"retries": 2}, {"ansible_lo": {}}, False),
        # A warning would be missing, or an error.
        ({}, {"ansible_lo": {}, "ansible_connection": "ssh"}, False),
        ({}, {"ansible_lo": {}, 7: "seven"}, False),
        ({}, ["no facts"], False),
    ],
    ids=["unseen", "changed when", "loop", "retries", "restricted", "key", "list"],
)
def test_the_variables_of_a_task_that_does_not_look_at_them(
    task: dict[str, Any], facts: Any, is_left_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = SimpleNamespace(_task=SimpleNamespace(**{**LOOKING, **task}))
    monkeypatch.setattr(tasks.TaskInProcess, "current", worker)
    assert unless_unseen(lambda facts: {"made": True})(facts) == ({} if is_left_out else {"made": True})


@pytest.mark.parametrize("exceptions", [(), ("_ansible_no_log",)], ids=["none", "one"])
@pytest.mark.parametrize(
    "result",
    [
        {"_ansible_parsed": True, "_ansible_no_log": False, "ansible_facts": {"_ansible_facts_gathered": True, "a": [{}]}},
        {"results": [{"_ansible_no_log": False, "_ansible_item_label": "x"}], 1: {"_ansible_x": 1}},
        {"ansible_facts": {"a": {"_ansible_x": 1, "b": 2}}, "c": TAGGED, "d": (1, {"_ansible_x": 1}), "e": object},
        {"ansible_facts": "none", "msg": "of _ansible_x"},
        [{"_ansible_x": 1}],
    ],
    ids=["usual", "deeper", "not plain", "text", "list"],
)
def test_notes_are_left_out_of_what_callbacks_get(result: Any, exceptions: Any) -> None:
    standard = clean.strip_internal_keys(clean.module_response_deepcopy(result), exceptions=exceptions)
    mine = clean.module_response_deepcopy(result)
    assert strip_internal_keys(clean.strip_internal_keys)(mine, exceptions=exceptions) is mine
    assert mine == standard


def test_notes_of_a_result_at_the_usual_places_are_not_looked_for_elsewhere() -> None:
    original = Original(clean.strip_internal_keys)
    result = {"_ansible_parsed": True, "ansible_facts": {"_ansible_facts_gathered": True, "a": [{"b": None}]}}
    assert strip_internal_keys(original)(result) == {"ansible_facts": {"a": [{"b": None}]}}
    assert original.calls == 0


def test_this_ansible_core_is_known() -> None:
    verify()
