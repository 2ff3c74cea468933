from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from devkit.dev.view import View


def record(event: str, name: str = "one", **fields: Any) -> dict[str, Any]:
    return {"level": "info", "event": event, "kind": "Thing", "namespace": "here", "name": name, **fields}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


RAN = record("run_succeeded", ok=2, changed=1, failures=0)


def plain(view: View, width: int = 80, height: int = 24) -> list[str]:
    """The lines of the table on a terminal of this size."""
    out = io.StringIO()
    Console(file=out, width=width, height=height, color_system=None).print(view.table(width, height))
    return out.getvalue().splitlines()


def test_the_table_has_each_cr_its_task_and_its_last_result() -> None:
    view = View(Terminal(), title="dev")
    view.handle(record("run_started"))
    view.handle(record("task_started", task="Make it"))
    view.handle(record("run_started", name="two"))
    view.handle(record("run_succeeded", name="two", ok=2, changed=1, failures=0))
    view.handle(record("run_started", name="three"))
    view.handle(record("task_started", name="three", task="Break it"))
    view.handle(record("run_failed", name="three", failures=1))
    _, title, *rows = plain(view)
    assert title.strip() == "dev: 1 running, 1 ok, 1 failed. Ctrl-C ends it."
    assert rows[0].startswith("● Thing here/one    Make it ")
    assert rows[1].startswith("✓ Thing here/two    ok 2, changed 1, failed 0 ")
    assert rows[2].startswith("✗ Thing here/three  in task 'Break it' ")
    view.handle(record("cr_gone"))
    assert len(plain(view)) == 4


def test_the_table_has_the_dashboard_s_link_once_there_is_one() -> None:
    view = View(Terminal(), title="dev")
    view.handle(record("run_started"))
    assert not any("Dashboard" in line for line in plain(view))
    view.link = "http://127.0.0.1:1/?key=k"
    _, _, link, row = plain(view)
    assert link.strip() == "Dashboard: http://127.0.0.1:1/?key=k"
    assert "Thing here/one" in row


@pytest.mark.parametrize(("width", "height"), [(80, 24), (30, 6), (10, 3)], ids=["usual", "small", "tiny"])
def test_the_table_fits_its_terminal(width: int, height: int) -> None:
    view = View(Terminal(), title="dev")
    for number in range(40):
        view.handle(record("run_started", name=f"a-rather-long-name-{number}"))
    lines = plain(view, width, height)
    # An empty line, a title, at least one row, and how many more there are.
    assert len(lines) <= max(4, height - 1)
    assert all(cell_len(line) <= width for line in lines)
    assert lines[-1].startswith("  and ")
    assert lines[-1].endswith("more") or width < 25


def test_without_a_terminal_there_are_lines_and_no_table() -> None:
    out = io.StringIO()
    view = View(out, title="dev")
    view.handle(record("run_started"))
    view.handle(RAN)
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
    view.handle(failed)
    view.handle(failed)
    assert out.getvalue().count("Thing here/one: task 'Make it' failed, roles/a/main.yml:3\n    no\n    really\n") == 1
    view.repeat_errors()
    view.handle(failed)
    assert out.getvalue().count("failed, roles/a/main.yml:3") == 2


def test_the_table_is_drawn_over_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    view = View(out, title="dev")
    view.draw()
    view.say("something")
    # An empty line and a title, up and away; and the table again, below what was said.
    before, _, after = out.getvalue().partition("something")
    assert before.count("\x1b[1A\x1b[2K") == after.count("\x1b[1A\x1b[2K") == 1
    assert "dev: no CR yet" in after
    view.close()
