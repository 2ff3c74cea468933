"""What a reader sees of findings."""

from __future__ import annotations

import pytest

from devkit.check.findings import Finding, Level, Report

ERROR = Finding(Level.ERROR, "roles/a/tasks/main.yml", 3, "no filter nope")
WARNING = Finding(Level.WARNING, "Dockerfile", 1, "another ansible-core")


def report(*findings: Finding, folder: str = ".") -> Report:
    return Report(folder=folder, context="Compared.", findings=findings)


@pytest.mark.parametrize(
    ("findings", "summary"),
    [
        ((), "Nothing found: nothing was found that keeps this operator from running"),
        ((WARNING,), "1 warning: nothing was found that keeps this operator from running"),
        ((WARNING, ERROR), "1 error, 1 warning: this operator would not run here"),
        ((ERROR, ERROR), "1 error: this operator would not run here"),
    ],
    ids=["none", "warning", "error", "the-same-twice"],
)
def test_the_last_line_counts_and_decides(findings: tuple[Finding, ...], summary: str) -> None:
    assert report(*findings).text().splitlines()[-1] == summary
    assert report(*findings).as_dict()["summary"] == summary


def test_errors_come_first_and_paths_lead_to_the_file() -> None:
    lines = report(WARNING, ERROR, folder="operators/one").text().splitlines()
    assert lines[2] == "operators/one/roles/a/tasks/main.yml:3: error: no filter nope"
    assert lines[4] == "operators/one/Dockerfile:1: warning: another ansible-core"


def test_what_is_said_of_many_lines_is_said_once() -> None:
    many = [Finding(Level.NOTE, "a.yml", line, "the same") for line in range(1, 21)]
    (line,) = [line for line in report(*many).text().splitlines() if "the same" in line]
    assert line == "a.yml:1: note: the same (also lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13 and 7 more)"
    assert len(report(*many).as_dict()["findings"]) == 20


def test_what_is_said_of_many_files_is_said_once() -> None:
    many = [Finding(Level.NOTE, f"{number:02}.yml", 1, "the same") for number in range(22)]
    lines = report(*many).text().splitlines()
    assert lines[2:4] == ["note, in 22 files: the same", "  00.yml:1"]
    assert "  and 2 further files; --output json names them" in lines


def test_a_file_as_a_whole_has_no_line() -> None:
    assert "a.yml: error: is no file" in report(Finding(Level.ERROR, "a.yml", 0, "is no file")).text()


def test_names_in_files_do_nothing_to_a_terminal() -> None:
    text = report(Finding(Level.ERROR, "a.yml", 1, "no module \x1b[2J\ud800\n" + "x" * 5000)).text()
    assert "\\x1b[2J\\ud800\\n" in text
    assert len(text) < 1000
    assert text.encode()
