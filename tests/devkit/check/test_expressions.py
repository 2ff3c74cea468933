"""What a Jinja expression's text tells."""

from __future__ import annotations

import pytest

from devkit.check import expressions
from devkit.check.expressions import BOOLEAN, LIST, MAPPING, NONE, NUMBER, TEXT, Unparsable


def types(source: str, **variables: str) -> set[str]:
    tree = expressions.parse_expression(source)
    assert not isinstance(tree, Unparsable), tree.reason
    return set(expressions.types(expressions.expression(tree), variables))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x | length", {NUMBER}),
        ("x | length > 0", {BOOLEAN}),
        ("x is defined", {BOOLEAN}),
        ("not x | length", {BOOLEAN}),
        ("x is defined and x | length", {BOOLEAN, NUMBER}),
        ("x or y", set()),
        ("x | default('')", {TEXT}),
        ("x | default", {TEXT}),
        ("x | default(false)", {BOOLEAN}),
        ("x | default(omit)", set()),
        ("x | default(none)", {NONE}),
        ("x | d([]) | length", {NUMBER}),
        ("(x | default('no')) | bool", {BOOLEAN}),
        ("lookup('env', 'A')", {TEXT}),
        ("lookup('vars', 'a')", set()),
        ("query('items', a)", {LIST}),
        ("x.split(',')", {LIST}),
        ("x.startswith('a')", {BOOLEAN}),
        ("x.get('a')", set()),
        ("x ~ y", {TEXT}),
        ("x + 1", {NUMBER}),
        ("x + y", set()),
        ("x + 'a'", {TEXT}),
        ("[x]", {LIST}),
        ("{'a': x}", {MAPPING}),
        ("'a' if x else 0", {TEXT, NUMBER}),
        ("x | ternary(1, true)", {NUMBER, BOOLEAN}),
        ("x | json_query('a')", set()),
        ("x | ansible.builtin.int", {NUMBER}),
        ("x | selectattr('a') | list", {LIST}),
        ("size", {NUMBER}),
    ],
)
def test_types(source: str, expected: set[str]) -> None:
    assert types(source, size=NUMBER) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ a | b('x') | c }}", {"filter b", "filter c"}),
        ("{% if a is b.c.d %}{{ x is not none }}{% endif %}", {"test b.c.d", "test none"}),
        (
            "{{ lookup('one', x) }}{{ query('two') }}{{ q('three') }}{{ lookup(name) }}",
            {"lookup one", "lookup two", "lookup three"},
        ),
        (
            "{{ x | map('upper') | select('match', 'a') | map(attribute='b') }}",
            {"filter map", "filter upper", "filter select", "test match"},
        ),
        ("{{ x | selectattr('a', 'in', y) | rejectattr('b') }}", {"filter selectattr", "filter rejectattr", "test in"}),
        ("{% filter upper %}a{% endfilter %}{# {{ a | nope }} #}{% raw %}{{ b | nope }}{% endraw %}", {"filter upper"}),
        ("{% do x.append(1) %}{% for a in b %}{% break %}{% endfor %}", set()),
        ("#jinja2: variable_start_string:'[%', variable_end_string:'%]'\n{{ a | no }}[% a | yes %]", {"filter yes"}),
    ],
    ids=["filters", "tests", "lookups", "applied", "attributes", "blocks", "extensions", "header"],
)
def test_names(source: str, expected: set[str]) -> None:
    tree = expressions.parse(source)
    assert not isinstance(tree, Unparsable), tree.reason
    assert {f"{kind} {name}" for kind, name, _ in expressions.named(tree)} == expected


def test_lines_are_those_of_the_template() -> None:
    tree = expressions.parse("a\n{{ b |\n c }}\n{{ d is e }}")
    assert not isinstance(tree, Unparsable)
    assert sorted(expressions.named(tree)) == [("filter", "c", 3), ("test", "e", 4)]


@pytest.mark.parametrize(
    "source",
    [
        *("{{ a", "{% if %}", "{{ .Values.a }}", "{% unknown %}", "{{ '\\x' }}", "{{ " + "9" * 10_000 + " }}"),
        *("{{ " + "(" * 50_000, "{{ " + "[" * 5_000 + "]" * 5_000 + " }}", "{{ " + "not " * 20_000 + "a }}"),
        "#jinja2: variable_start_string:'{%'\n{{ a }}",
    ],
    ids=["open", "if", "go", "tag", "escape", "number", "parentheses", "lists", "not", "header"],
)
def test_what_jinja_does_not_take_is_said(source: str) -> None:
    assert isinstance(expressions.parse(source), Unparsable)


@pytest.mark.parametrize(
    "source",
    ["{{ " + "a." * 20_000 + "b }}", "{{ 1" + "+1" * 5_000 + " }}", "{{ a" + "|b" * 20_000 + " }}"],
    ids=["attributes", "sum", "filters"],
)
def test_a_long_expression_ends(source: str) -> None:
    tree = expressions.parse(source)
    assert not isinstance(tree, Unparsable)
    expressions.named(tree)
    expressions.sums_with_text(tree)
    expressions.types(expressions.expression(tree), {})
