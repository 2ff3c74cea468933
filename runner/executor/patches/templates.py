"""Templates that an earlier run has compiled are not compiled again; nor are filters of Jinja's own searched for in files,
nor keywords templated that a task does not have.

What Jinja makes of a template depends on its text, on a few settings, and on two things about the filters and tests in it:
how they want to be called, and, where all of a filter's arguments are constants, what it gives. A template of which the
latter is true is compiled each time; of the others it is noted how their filters and tests were called, which has to be
the same now.

`templates` saves 1.5 ms (7 %) of a run of one task, 16 (13 %) of ten.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import ansible.template
from ansible.playbook.base import FieldAttributeBase
from ansible.playbook.block import Block
from ansible.playbook.handler import Handler
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins.loader import Jinja2Loader, filter_loader, test_loader
from jinja2 import nodes
from jinja2.environment import Environment, TemplateExpression
from jinja2.exceptions import TemplateSyntaxError
from jinja2.filters import FILTERS
from jinja2.tests import TESTS
from jinja2.utils import _PassArg

from runner.executor.patches import ansible_core
from runner.executor.patches.registry import Patch, bounded, expect

if ansible_core.TAGS:
    from ansible._internal._templating import _jinja_bits

# Until 2.18 in another module.
AnsibleEnvironment: Any = _jinja_bits.AnsibleEnvironment if ansible_core.TAGS else ansible.template.AnsibleEnvironment

# Compiled templates, of some KB each.
_MOST = 2000

# What of an environment's settings a template may be compiled otherwise for: ansible-core lets a template change them.
_SETTINGS = (
    *("block_start_string", "block_end_string", "variable_start_string", "variable_end_string"),
    *("comment_start_string", "comment_end_string", "line_statement_prefix", "line_comment_prefix"),
    *("trim_blocks", "lstrip_blocks", "newline_sequence", "keep_trailing_newline"),
)

# (what it is, its text, whether backslashes are escaped, settings)
Key = tuple[str, str, bool | None, tuple[Any, ...]]
# (whether it is a filter, its name, how it wants to be called)
Use = tuple[bool, str, str | None]


class Compiled:
    """The templates that this process has compiled."""

    def __init__(self) -> None:
        self._known: dict[Key, tuple[CodeType, tuple[Use, ...]]] = {}
        # Of the template that is being compiled: what it uses; None if it is not to be kept.
        self._uses: set[Use] | None = None
        self._code: CodeType | None = None

    def find(self, key: Key, environment: Any) -> CodeType | None:
        known = self._known.get(key)
        if known is None or any(_use(environment, *use[:2]) != use for use in known[1]):
            return None
        return known[0]

    @contextmanager
    def compiling(self, key: Key) -> Iterator[None]:
        """While a template is compiled, which tells what comes of it by the methods below."""
        self._uses, self._code = set(), None
        try:
            yield
            if self._uses is not None and self._code is not None:
                self._known[key] = self._code, tuple(sorted(self._uses, key=repr))
                bounded(self._known, _MOST)
        finally:
            self._uses = None

    def used(self, environment: Any, template: nodes.Template) -> None:
        if self._uses is not None:
            found = template.find_all((nodes.Filter, nodes.Test))
            self._uses |= {_use(environment, isinstance(node, nodes.Filter), node.name) for node in found}

    def made(self, code: CodeType) -> None:
        self._code = code

    def evaluated(self) -> None:
        """A filter or test was called while compiling: what it gave is part of the code."""
        self._uses = None


def _use(environment: Any, is_filter: bool, name: str) -> Use:
    try:
        function = (environment.filters if is_filter else environment.tests).get(name)
    except TemplateSyntaxError:
        # Until ansible-core 2.18, of a name that is not known.
        function = None
    how = _PassArg.from_obj(function) if function is not None else None
    return is_filter, name, "missing" if function is None else how.name if how else None


def verify_names() -> None:
    expect(Jinja2Loader.get_with_context, "self", "name")
    expect(Jinja2Loader._ensure_non_collection_wrappers, "self")
    _ = filter_loader._cached_non_collection_wrappers


def apply_names() -> None:
    """Do not search files for Jinja's own filters and tests: 0 to 1.6 ms less for one task, 9 to 35 for ten."""
    get_with_context = Jinja2Loader.get_with_context
    in_vain = {
        (loader.type, name): found
        for loader, names in ((filter_loader, FILTERS), (test_loader, TESTS))
        for name in names
        # Others, such as "==", are not looked for.
        if name.isidentifier() and (found := loader.get_with_context(name)).object is None
    }

    def known(self: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        found = in_vain.get((self.type, name))
        if found is not None:
            # A role's or playbook's own come first.
            self._ensure_non_collection_wrappers(*args, **kwargs)
            if name not in self._cached_non_collection_wrappers:
                return found
        return get_with_context(self, name, *args, **kwargs)

    Jinja2Loader.get_with_context = known


# What has keywords, and whether those count here that are not always looked at; the others' are for what is in them.
_WITH_KEYWORDS: dict[Any, bool] = {Task: True, Handler: True, PlayContext: True, Block: False}


def verify_keywords() -> None:
    expect(FieldAttributeBase.post_validate, "self", "templar")
    for kind, counts in _WITH_KEYWORDS.items():
        for attribute in kind.fattributes.values():
            _ = attribute.static, attribute.always_post_validate, attribute.required, attribute.isa
        if ansible_core.TAGS and kind._post_validate_object is not counts:
            raise LookupError(f"other keywords of a {kind.__name__} count")
    if hasattr(type(vars(FieldAttributeBase)["fattributes"]), "__set__"):
        raise LookupError("all objects of a kind have the same keywords")


def apply_keywords() -> None:
    """Do not template keywords that a task does not have, or numbers: saves 0.6 ms of a run of one task, 3 of ten."""
    post_validate = FieldAttributeBase.post_validate
    relevant = {
        kind: {
            name: attribute
            for name, attribute in kind.fattributes.items()
            if counts or attribute.always_post_validate or attribute.required or (attribute.static and name != "vars")
        }
        for kind, counts in _WITH_KEYWORDS.items()
    }

    def validated(self: Any, templar: Any) -> None:
        if (keywords := relevant.get(type(self))) is None:
            post_validate(self, templar)
            return
        self.fattributes = _Some((name, each) for name, each in keywords.items() if not _is_final(self, name, each))
        self.fattributes.owner = type(self)
        try:
            post_validate(self, templar)
        finally:
            del self.fattributes

    FieldAttributeBase.post_validate = validated


class _Some(dict[str, Any]):
    """The keywords to go through; those of the class, if one is asked for."""

    owner: Any

    def __missing__(self, name: str) -> Any:
        return self.owner.fattributes[name]


def _is_final(owner: Any, name: str, attribute: Any) -> bool:
    """True if a keyword's value needs no templating; then the owner has the value already, inherited or not."""
    value = getattr(owner, name)
    kind = type(value)
    if value is None:
        return not attribute.required
    if attribute.static:
        return name == "vars" or (kind in (list, dict) and not value)
    if hasattr(owner, f"_post_validate_{name}"):
        return False
    if kind is list and not value and attribute.isa == "list":
        value = []
    elif (kind, attribute.isa) not in _SIMPLE and not (_is_text(value) and attribute.isa == "string"):
        return False
    setattr(owner, name, value)
    return True


_SIMPLE = frozenset({(bool, "bool"), (int, "int")})


def _is_text(value: Any) -> bool:
    """Until ansible-core 2.18 a text may stand for a value to be left out."""
    return ansible_core.TAGS and type(value) is str and "{" not in value


def verify() -> None:
    """LookupError or AttributeError where this ansible-core or Jinja compiles templates in another way."""
    expect(Environment.compile, "self", "source", "name", "filename", "raw", "defer_init")
    expect(Environment._generate, "self", "source", "name", "filename", "defer_init")
    expect(AnsibleEnvironment.compile_expression, "self", "source")
    expect(nodes._FilterTestCommon.as_const, "self", "eval_ctx")
    if AnsibleEnvironment.compile is not Environment.compile:
        raise LookupError("ansible-core compiles templates in a way of its own")
    _ = AnsibleEnvironment.template_class.from_code
    if ansible_core.TAGS and (unknown := set(_jinja_bits._TEMPLATE_OVERRIDE_FIELD_NAMES) - set(_SETTINGS)):
        raise LookupError(f"templates may have other settings: {', '.join(sorted(unknown))}")
    if ansible_core.TAGS:
        _ = _jinja_bits._TemplateCompileContext.current


def _key(environment: Any, what: str, source: str) -> Key:
    context = _jinja_bits._TemplateCompileContext.current(optional=True) if ansible_core.TAGS else None
    settings = tuple(getattr(environment, name) for name in _SETTINGS)
    return what, str.__str__(source), context and context.escape_backslashes, settings


def apply() -> None:
    kept = Compiled()
    compile_template, generate = Environment.compile, Environment._generate
    compile_expression = AnsibleEnvironment.compile_expression
    as_const = nodes._FilterTestCommon.as_const

    def compiled(self: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
        if type(self) is not AnsibleEnvironment or args or kwargs:
            return compile_template(self, source, *args, **kwargs)
        if not isinstance(source, str):
            # An expression's.
            made = compile_template(self, source)
            kept.made(made)
            return made
        code = kept.find(this := _key(self, "template", source), self)
        if code is None:
            with kept.compiling(this):
                made = compile_template(self, source)
                kept.made(made)
                return made
        return code

    def expression(self: Any, source: str, undefined_to_none: bool = True) -> Any:
        code = kept.find(this := _key(self, "expression", source), self)
        if code is None:
            with kept.compiling(this):
                return compile_expression(self, source, undefined_to_none)
        template = self.template_class.from_code(self, code, self.make_globals(None), None)
        return TemplateExpression(template, undefined_to_none)

    def generated(self: Any, source: nodes.Template, *args: Any, **kwargs: Any) -> Any:
        kept.used(self, source)
        return generate(self, source, *args, **kwargs)

    def constant(self: Any, eval_ctx: Any = None) -> Any:
        value = as_const(self, eval_ctx)
        kept.evaluated()
        return value

    for owner, name, method in (
        (Environment, "compile", compiled),
        (Environment, "_generate", generated),
        (AnsibleEnvironment, "compile_expression", expression),
        (nodes._FilterTestCommon, "as_const", constant),
    ):
        setattr(owner, name, method)


PATCHES = (
    Patch("templates", verify, apply),
    Patch("names of filters", verify_names, apply_names),
    Patch("keywords", verify_keywords, apply_keywords),
)
