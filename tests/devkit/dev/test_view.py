from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click
import pytest

from devkit.dev.view import View


def record(event: str, name: str = "one", **fields: Any) -> dict[str, Any]:
    return {"level": "info", "event": event, "kind": "Thing", "namespace": "here", "name": name, **fields}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


RAN = record("run_succeeded", ok=2, changed=1, failures=0)


def plain(view: View, width: int = 80, height: int = 24) -> list[str]:
    return [click.unstyle(line) for line in view.table(width, height)]


def test_the_table_has_each_cr_its_task_and_its_last_result() -> None:
    view = View(Terminal(), title="dev")
    view.hear(record("run_started"))
    view.hear(record("task_started", task="Make it"))
    view.hear(record("run_started", name="two"))
    view.hear(record("run_succeeded", name="two", ok=2, changed=1, failures=0))
    view.hear(record("run_started", name="three"))
    view.hear(record("task_started", name="three", task="Break it"))
    view.hear(record("run_failed", name="three", failures=1))
    _, title, *rows = plain(view)
    assert title == "dev: 1 running, 1 ok, 1 failed. Ctrl-C ends it."
    assert rows[0].startswith("● Thing here/one    Make it ")
    assert rows[1].startswith("✓ Thing here/two    ok 2, changed 1, failed 0 ")
    assert rows[2].startswith("✗ Thing here/three  in task 'Break it' ")
    view.hear(record("cr_gone"))
    assert len(plain(view)) == 4


@pytest.mark.parametrize(("width", "height"), [(80, 24), (30, 6), (10, 3)], ids=["usual", "small", "tiny"])
def test_the_table_fits_its_terminal(width: int, height: int) -> None:
    view = View(Terminal(), title="dev")
    for number in range(40):
        view.hear(record("run_started", name=f"a-rather-long-name-{number}"))
    lines = plain(view, width, height)
    # An empty line, a title, at least one row, and how many more there are.
    assert len(lines) <= max(4, height - 1)
    assert all(len(line) < width or width < 25 for line in lines)
    assert lines[-1].endswith("more")


def test_without_a_terminal_there_are_lines_and_no_table() -> None:
    out = io.StringIO()
    view = View(out, title="dev")
    view.hear(record("run_started"))
    view.hear(RAN)
    view.draw()
    assert "\x1b" not in out.getvalue()
    first, second = out.getvalue().splitlines()
    assert first.endswith(" Thing here/one: running")
    assert "Thing here/one: ok in " in second
    assert second.endswith("(ok 2, changed 1, failed 0)")


def test_a_failure_is_told_once_with_its_place_until_something_is_done_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = io.StringIO()
    view = View(out, title="dev")
    failed = record("task_failed", level="error", task="Make it", at=f"{tmp_path}/roles/a/main.yml:3", error="no\nreally")
    view.hear(failed)
    view.hear(failed)
    assert out.getvalue().count("Thing here/one: task 'Make it' failed, roles/a/main.yml:3\n    no\n    really\n") == 1
    view.listen_anew()
    view.hear(failed)
    assert out.getvalue().count("failed, roles/a/main.yml:3") == 2


def test_the_table_is_drawn_over_the_one_before() -> None:
    out = Terminal()
    view = View(out, title="dev")
    view.draw()
    view.say("something")
    assert "\x1b[2F\x1b[J" in out.getvalue()
