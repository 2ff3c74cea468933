"""Recognises filters and tests of a role that keep state at most in their own modules, which are dropped after a run.

Most are a few functions of strings and numbers. What imports other modules than the usual ones for that, or sets something
of objects that are not its own, may change or keep something. This is for mistakes: who writes roles is trusted.
"""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Iterator

_MODULES = frozenset({
    *("__future__", "abc", "base64", "binascii", "collections", "collections.abc", "copy", "dataclasses", "datetime"),
    *("enum", "fnmatch", "functools", "hashlib", "hmac", "ipaddress", "itertools", "json", "math", "operator", "re"),
    *("string", "textwrap", "time", "typing", "unicodedata", "urllib.parse", "uuid"),
    *("ansible.errors", "ansible.module_utils._text", "ansible.module_utils.common.text.converters"),
})  # fmt: skip
# By these, objects of others can be found and changed.
_FUNCTIONS = frozenset({
    *("setattr", "delattr", "getattr", "globals", "locals", "vars", "exec", "eval", "compile", "open", "input"),
    *("breakpoint", "__import__"),
})  # fmt: skip


def is_harmless(path: str) -> bool:
    """True for a Python file of that kind; false for one that cannot be read or parsed."""
    try:
        state = os.stat(path)
    except OSError:
        return False
    return _is_harmless(path, state.st_mtime_ns, state.st_size, state.st_ino)


@functools.lru_cache(maxsize=100)
def _is_harmless(path: str, *_: int) -> bool:
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return False
    imported = set(_imported(tree))
    return all(_is_allowed(node, imported) for node in ast.walk(tree))


def _imported(tree: ast.AST) -> Iterator[str]:
    """Names that stand for what other modules have."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield (alias.asname or alias.name).partition(".")[0]


def _is_allowed(node: ast.AST, imported: set[str]) -> bool:
    match node:
        case ast.Import():
            return all(alias.name in _MODULES for alias in node.names)
        case ast.ImportFrom():
            return node.level == 0 and node.module in _MODULES and all(alias.name != "*" for alias in node.names)
        case ast.Name(id=name, ctx=ast.Load()):
            return name not in _FUNCTIONS and not name.startswith("__builtins")
        case ast.Name(id=name):
            return name != "self" and name not in imported
        case ast.Attribute(value=ast.Name(id="self")):
            return True
        case ast.Attribute():
            # Of others nothing is set, and nothing private is looked at.
            return isinstance(node.ctx, ast.Load) and not node.attr.startswith("_")
        case ast.Subscript(ctx=ast.Store() | ast.Del()):
            return _root(node) not in imported
        case ast.ClassDef():
            return not node.keywords and all(isinstance(base, ast.Name) and base.id == "object" for base in node.bases)
        case _:
            return True


def _root(node: ast.AST) -> str:
    while isinstance(node, (ast.Subscript, ast.Attribute, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""
