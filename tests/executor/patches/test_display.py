"""What is spared in what displays is not missed."""

import inspect
from typing import Any

import pytest

pytest.importorskip("ansible_runner")

from ansible import constants
from ansible.utils.display import Display

from runner.executor.patches import display


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [(("said",), {}), (("said", "a host", 3), {}), (("said",), {"caplevel": 1, "host": "a host"})],
    ids=["defaults", "by place", "by name"],
)
def test_what_a_function_is_called_with(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    def verbose(msg: str, host: str | None = None, caplevel: int = 2) -> None:
        pass

    bound = inspect.signature(verbose).bind(*args, **kwargs)
    bound.apply_defaults()
    assert display.arguments(display.parameters(verbose), *args, **kwargs) == bound.arguments


def test_debugging_is_told_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(Display, "debug", lambda self, msg, host=None: told.append((msg, host)))
    module: dict[str, Any] = {"_getsignature": None, "_getcallargs": None}
    monkeypatch.setattr(display, "_module", lambda: module)
    display.apply()
    for debug in (False, True):
        monkeypatch.setattr(constants, "DEFAULT_DEBUG", debug)
        Display().debug(f"said {debug}", host="a host")
    assert told == [("said True", "a host")]
    assert module == {"_getsignature": display.parameters, "_getcallargs": display.arguments}
