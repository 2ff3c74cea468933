"""Jinja expressions, as far as their text tells: the plugins that they name, and the type of their result.

Templates are parsed by Jinja's own parser and never rendered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jinja2
from jinja2 import nodes

# With a line's end behind it an expression is text, as for ansible-core.
_JINJA = jinja2.Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"], keep_trailing_newline=True)
# `#jinja2: variable_start_string:'[%', …` in a template's first line.
_HEADER = re.compile(r"#jinja2:(.*)")
_DELIMITER = re.compile(r"""(\w+_string)\s*:\s*(['"])(.*?)\2""")
# Of parts of an expression that its type depends on.
_MAX_DEPTH = 12
_LOOKUPS = ("lookup", "query", "q")
# Filters that apply the filter or test that is named by this argument.
_APPLIED = {
    **{"map": (0, "filter"), "select": (0, "test"), "reject": (0, "test")},
    **{"selectattr": (1, "test"), "rejectattr": (1, "test")},
}

NUMBER, TEXT, LIST, MAPPING, BOOLEAN, NONE = "a number", "text", "a list", "a mapping", "true or false", "none"
_RESULTS: Mapping[str, str] = {
    **dict.fromkeys("count float human_to_bytes int length log pow root round sum wordcount".split(), NUMBER),
    **dict.fromkeys(
        """
        b64decode b64encode basename capitalize center checksum comment dirname escape expanduser format hash human_readable
        indent join lower md5 password_hash quote realpath regex_escape regex_replace regex_search relpath replace sha1
        strftime string striptags title to_json to_nice_json to_nice_yaml to_uuid to_yaml trim truncate type_debug upper
        urlencode wordwrap
        """.split(),
        TEXT,
    ),
    **dict.fromkeys(
        """
        batch dict2items dictsort difference flatten groupby intersect list map product regex_findall reject rejectattr
        select selectattr slice sort split subelements symmetric_difference union unique zip zip_longest
        """.split(),
        LIST,
    ),
    **dict.fromkeys(("combine", "items2dict"), MAPPING),
    "bool": BOOLEAN,
}
_METHODS: Mapping[str, str] = {
    **dict.fromkeys(("find", "rfind", "count", "index"), NUMBER),
    **dict.fromkeys("capitalize format join lower lstrip replace rstrip strip title upper".split(), TEXT),
    **dict.fromkeys("items keys split splitlines values".split(), LIST),
    **dict.fromkeys("endswith isalnum isalpha isdigit islower isnumeric isupper startswith".split(), BOOLEAN),
}


class Named(NamedTuple):
    """A filter, test or lookup in a template, and the template's line."""

    kind: str
    name: str
    line: int


@dataclass(frozen=True, slots=True)
class Unparsable:
    """The reason why Jinja does not parse a template, and the template's line."""

    reason: str
    line: int


def is_template(text: str) -> bool:
    return "{{" in text or "{%" in text


def parse(source: str) -> nodes.Template | Unparsable:
    """Parse a template."""
    environment = _JINJA
    header = _HEADER.match(source)
    if header:
        given = {name: value for name, _, value in _DELIMITER.findall(header[1])}
        known = {"block_start_string", "block_end_string", "variable_start_string", "variable_end_string"}
        chosen = {name: value for name, value in given.items() if name in known and value}
        try:
            environment = _JINJA.overlay(**chosen) if chosen else environment
        except (AssertionError, ValueError) as error:
            return Unparsable(str(error), 1)
    try:
        return environment.parse(source)
    except jinja2.TemplateSyntaxError as error:
        return Unparsable(error.message or "syntax error", error.lineno)
    except (RecursionError, MemoryError, ValueError, OverflowError, SyntaxError):
        return Unparsable("it is nested too deeply, or has a constant that cannot be", 1)


def parse_expression(source: str) -> nodes.Template | Unparsable:
    """An expression without braces, as conditions are."""
    return parse(f"{{{{ {source} }}}}")


def expression(tree: nodes.Template) -> nodes.Node | None:
    """The expression where the whole template is one, whose result therefore keeps its type."""
    if len(tree.body) != 1 or not isinstance(tree.body[0], nodes.Output):
        return None
    parts = tree.body[0].nodes
    return parts[0] if len(parts) == 1 and not isinstance(parts[0], nodes.TemplateData) else None


def named(tree: nodes.Template) -> list[Named]:
    """The filters, tests and lookups that a template names literally."""
    return list(_named(tree))


def _named(tree: nodes.Template) -> Iterator[Named]:
    for node in _walk(tree):
        match node:
            case nodes.Filter():
                yield Named("filter", node.name, node.lineno)
                position, kind = _APPLIED.get(node.name, (0, ""))
                if kind and len(node.args) > position and isinstance(node.args[position], nodes.Const):
                    value = node.args[position].value  # type: ignore[attr-defined]
                    if isinstance(value, str):
                        yield Named(kind, value, node.lineno)
            case nodes.Test():
                yield Named("test", node.name, node.lineno)
            case nodes.Call(node=nodes.Name(name=name)) if name in _LOOKUPS and node.args:
                if isinstance(node.args[0], nodes.Const) and isinstance(node.args[0].value, str):
                    yield Named("lookup", node.args[0].value, node.lineno)


def _walk(tree: nodes.Node) -> Iterator[nodes.Node]:
    """Iterate over all nodes, without recursion."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.iter_child_nodes())


def sums_with_text(tree: nodes.Template) -> list[tuple[int, nodes.Expr]]:
    """(line, other side) of each `+` that has text on one side, and something of unknown type on the other."""
    found = []
    for node in _walk(tree):
        if isinstance(node, nodes.Add):
            left, right = types(node.left, {}), types(node.right, {})
            if {left, right} == {frozenset({TEXT}), frozenset()}:
                found.append((node.lineno, node.right if left else node.left))
    return found


def types(node: nodes.Node | None, variables: Mapping[str, str], depth: int = 0) -> frozenset[str]:
    """The possible types of an expression's result; none where the text does not tell, or only far inside.

    `variables` are the types of names.
    """

    def inner(*parts: nodes.Node | None) -> frozenset[str]:
        return frozenset().union(*(types(part, variables, depth + 1) for part in parts))

    if depth > _MAX_DEPTH:
        return frozenset()
    match node:
        case nodes.Const():
            return frozenset({_of_constant(node.value)})
        case nodes.Name():
            return frozenset({variables[node.name]}) if node.name in variables else frozenset()
        case nodes.Not() | nodes.Compare() | nodes.Test():
            return frozenset({BOOLEAN})
        case nodes.And() | nodes.Or():
            # The result is one of both operands.
            return inner(node.left, node.right)
        case nodes.CondExpr():
            return inner(node.expr1, node.expr2)
        case nodes.List() | nodes.Tuple():
            return frozenset({LIST})
        case nodes.Dict():
            return frozenset({MAPPING})
        case nodes.Concat():
            return frozenset({TEXT})
        case nodes.Add() | nodes.Mod() | nodes.Mul():
            return inner(node.left, node.right) - {NONE, BOOLEAN}
        case nodes.Sub() | nodes.Div() | nodes.FloorDiv() | nodes.Pow() | nodes.Neg() | nodes.Pos():
            return frozenset({NUMBER})
        case nodes.Filter():
            return _of_filter(node, inner)
        case nodes.Call():
            return _of_call(node)
    return frozenset()


def _of_constant(value: object) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return BOOLEAN
    return NUMBER if isinstance(value, int | float) else TEXT


def _of_filter(node: nodes.Filter, inner: Callable[..., frozenset[str]]) -> frozenset[str]:
    name = node.name.removeprefix("ansible.builtin.")
    if name in ("default", "d"):
        # Without an argument it is the empty text.
        fallback = inner(*node.args[:1]) if node.args or node.kwargs else frozenset({TEXT})
        return inner(node.node) | fallback
    if name == "ternary":
        return inner(*node.args[:3])
    if name == "mandatory":
        return inner(node.node)
    return frozenset({_RESULTS[name]}) if name in _RESULTS else frozenset()


def _of_call(node: nodes.Call) -> frozenset[str]:
    if isinstance(node.node, nodes.Name):
        if node.node.name in ("query", "q", "range"):
            return frozenset({LIST})
        first = node.args[0] if node.args else None
        if node.node.name == "lookup" and isinstance(first, nodes.Const):
            name = str(first.value).removeprefix("ansible.builtin.")
            # Of several terms the results are joined; with `wantlist` they are not.
            return frozenset({TEXT}) if name in ("env", "pipe", "password") and not node.kwargs else frozenset()
    elif isinstance(node.node, nodes.Getattr) and node.node.attr in _METHODS:
        return frozenset({_METHODS[node.node.attr]})
    return frozenset()
