"""YAML nodes, whatever stands in them."""

from __future__ import annotations

import pytest
import yaml

from devkit import yaml_nodes

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


def test_tags_do_nothing_and_their_text_is_no_template() -> None:
    root = yaml.compose("- !!python/object/apply:os.system [exit]\n- !unsafe '{{ a }}'\n- '{{ b }}'\n")
    assert [node.value for node in yaml_nodes.scalars(root)] == ["exit", "{{ b }}"]


@pytest.mark.parametrize("text", [LAUGHS, "&a [*a, x, *a]", "&a {b: *a, c: x}"], ids=["laughs", "itself", "mapping"])
def test_aliases_are_looked_at_once(text: str) -> None:
    root = yaml.compose(text)
    assert sum(node.value == "x" for node in yaml_nodes.scalars(root)) <= 2


def test_merge_keys_bring_entries_and_own_ones_win() -> None:
    root = yaml.compose("base: &b {a: 1, b: 2}\nboth:\n  <<: [*b, {c: 3}]\n  a: 9\nself: &s\n  <<: *s\n  a: 1\n")
    assert {name: value.value for name, _, value in yaml_nodes.pairs(yaml_nodes.entry(root, "both"))} == {
        "a": "9",
        "b": "2",
        "c": "3",
    }
    assert [name for name, *_ in yaml_nodes.pairs(yaml_nodes.entry(root, "self"))] == ["a"]


def test_what_is_no_mapping_has_no_entries() -> None:
    assert yaml_nodes.pairs(None) == []
    assert yaml_nodes.pairs(yaml.compose("[a]")) == []
    assert yaml_nodes.entry(yaml.compose("{a: {b: c}}"), "a", "b", "c") is None
