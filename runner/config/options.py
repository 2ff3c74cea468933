"""Declaration of a flag or an environment variable: its name, which values it takes, its default and what it is for.

The fields of `runner.config.settings.Settings` are declared so. click's options, the reading of the values and the tables in
docs/reference.md are made of the declarations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec

import click

from runner.resource.metadata import parse_duration

P = ParamSpec("P")

Convert = Callable[[Any], Any]
# Of the flags, by click's names for them.
Values = Mapping[str, Any]


class Duration(click.ParamType[float]):
    """A Go duration above zero, or from zero on; its value is seconds."""

    name = "duration"

    def __init__(self, *, or_zero: bool = False) -> None:
        self._or_zero = or_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = value if isinstance(value, float) else parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds < 0 or (seconds == 0 and not self._or_zero):
            self.fail(f"{value!r} is {'below' if self._or_zero else 'not above'} zero", param, ctx)
        return seconds


class ZapLevel(click.ParamType[str]):
    """zap's level as one of ours: its numbers are debug levels."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        level = str(value).lower()
        if level.isascii() and level.isdigit() and level.strip("0"):
            return "debug"
        if level not in _ZAP_LEVELS:
            self.fail(f"{value!r} is none of {', '.join(_ZAP_LEVELS)}, nor a number above zero", param, ctx)
        return _ZAP_LEVELS[level]


_ZAP_LEVELS = {"debug": "debug", "info": "info", "error": "error", "panic": "critical"}


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of `rolerunner run`, with its default as a user would write it.

    `convert` makes the setting of click's value; a ValueError of it is told after the flag's name. An `old_name` is taken
    with a warning.
    """

    name: str
    type: click.ParamType[Any]
    help: str | None = None
    _: dataclasses.KW_ONLY
    default: str | int | bool | None = None
    convert: Convert = lambda value: value
    old_name: str = ""
    hidden: bool = False

    @property
    def setting(self) -> object:
        """The default as a setting."""
        return self.convert(None if self.default is None else self.type.convert(self.default, None, None))

    def options(self) -> list[Callable[[Callable[..., None]], Callable[..., None]]]:
        """click's options of it: one, and one more for an old name."""
        more: dict[str, Any] = {"type": self.type, "default": self.default}
        if self.type is click.BOOL:
            # As in Go: `--x`, `--x=true` or `--x=false`.
            more |= {"is_flag": False, "flag_value": "true", "metavar": "[=BOOLEAN]"}
        shown = self.default not in (None, "")
        option = click.option(self.name, **more, show_default=shown, help=self.help, hidden=self.hidden)
        return [option, *([click.option(self.old_name, **more, hidden=True)] if self.old_name else [])]


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable of `rolerunner run`. A value of which `convert` raises ValueError counts as none."""

    name: str
    help: str
    convert: Convert
    hidden: bool = False

    @property
    def setting(self) -> object:
        """The setting where the variable is not set."""
        return self.convert("")


def _as_field(make: Callable[P, Flag | Variable]) -> Callable[P, Any]:
    """The field of a dataclass that is the value of what is declared so."""

    def field(*args: P.args, **kwargs: P.kwargs) -> Any:
        made = make(*args, **kwargs)
        return dataclasses.field(default_factory=lambda: made.setting, metadata={"declared": (made,)})

    return field


flag, variable = _as_field(Flag), _as_field(Variable)


def several(*flags: Flag, default: Callable[[], object]) -> Any:
    """The field of a dataclass that is made of several flags' values."""
    return dataclasses.field(default_factory=default, metadata={"declared": flags})


def declared_in(declaring: type) -> dict[str, tuple[Flag | Variable, ...]]:
    """The flags or the variable of each of a dataclass's fields, by the fields' names."""
    return {field.name: field.metadata["declared"] for field in dataclasses.fields(declaring) if field.metadata}


def parameter(name: str) -> str:
    """click's name for the value of a flag."""
    return name.removeprefix("--").replace("-", "_")
