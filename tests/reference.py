"""The tables of docs/reference.md, made of the declarations of flags, variables and keys of watches.yaml.

`python -m tests.reference` writes them into the page; tests/test_docs.py fails while the page has others.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator

from bench.driver import ROOT
from runner.config.flags import FLAGS
from runner.config.keys import ListOf, Structure
from runner.config.options import Flag, Variable, declared_in
from runner.config.settings import Settings
from runner.config.watches import WATCH

PAGE = ROOT / "docs" / "reference.md"
# Of a default that click does not know.
_IN_HELP = re.compile(r"\s+\[default: (.*)\]$")


def _table(*rows: Iterable[str]) -> str:
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * head.count(" | ") + "---|", *rest])


def _shown(default: object) -> str:
    if default is None or default == "":
        return ""
    if isinstance(default, list):
        return ", ".join(map(_shown, default))
    return f"`{str(default).lower() if isinstance(default, bool) else str(default).replace(tempfile.gettempdir(), '/tmp')}`"


def _flag(flag: Flag) -> tuple[str, str, str]:
    told = _IN_HELP.search(flag.help or "")
    return f"`{flag.name}`", told[1] if told else _shown(flag.default), _IN_HELP.sub("", flag.help or "")


def _rows(structure: Structure, place: str = "") -> Iterator[tuple[str, str, str, str]]:
    """A row for each key that says what it is for, and for those within it."""
    for key in structure.keys:
        inner, name = key.type, place + key.name
        kind = "list" if isinstance(inner, ListOf) else "mapping" if isinstance(inner, Structure) else inner.name
        if key.help:
            yield f"`{name}`", kind, _shown(key.shown_default), key.help
        if isinstance(inner, ListOf):
            yield from _rows(inner.items, f"{name}[].")
        elif isinstance(inner, Structure):
            yield from _rows(inner, f"{name}.")


def tables() -> dict[str, str]:
    """Each table's Markdown by the name that the page has for it."""
    variables = [
        each
        for declared in declared_in(Settings).values()
        for each in declared
        if isinstance(each, Variable) and not each.hidden
    ]
    return {
        "flags": _table(("flag", "default", "what it is for"), *(_flag(flag) for flag in FLAGS if not flag.hidden)),
        "variables": _table(("variable", "what it is for"), *((f"`{each.name}`", each.help) for each in variables)),
        "keys": _table(("key", "value", "default", "what it is for"), *_rows(WATCH)),
    }


def filled(page: str) -> str:
    """The page with the tables between its markers."""
    for name, table in tables().items():
        begin, end = f"<!-- {name}: python -m tests.reference -->\n", f"<!-- end of {name} -->\n"
        head, _, rest = page.partition(begin)
        page = f"{head}{begin}\n{table}\n\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
