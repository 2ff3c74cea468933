"""What is computed of the journal of runs, and of the CRs' labels."""

from pathlib import Path

import pytest

from bench.scale.journal import (
    Entry,
    Gap,
    Journal,
    Ownership,
    Reader,
    RunEvent,
    gaps,
    moved,
    next_runs,
    rate,
    shares,
    spread,
)

BEGIN, END, CUT, OVERLAP = RunEvent


def test_the_journal_is_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    one, another, reader = Journal(path), Journal(path), Reader(path)
    entries = [Entry(1.5, BEGIN, "a", "x"), Entry(2.0, OVERLAP, "b", "x"), Entry(2.5, END, "a", "x")]
    one.add(entries[0])
    assert reader.update() == entries[:1]
    another.add(entries[1])
    one.add(entries[2])
    with open(path, "a") as file:
        file.write('{"at": 3')
    assert reader.update() == entries[1:]
    assert reader.update() == []
    assert reader.entries == entries
    one.close()
    another.close()


def test_the_rate_counts_runs_that_ended_until_the_last_did() -> None:
    entries = [Entry(0.5, END, "a", "x"), Entry(3.0, END, "a", "x"), Entry(5.0, END, "b", "y"), Entry(9.0, CUT, "b", "z")]
    assert rate(entries, 1.0) == 2 / 4
    assert rate(entries, 6.0) == 0


@pytest.mark.parametrize(
    ("ownerships", "gone", "found"),
    [
        pytest.param([(0, "a"), (5, "b")], (), {}, id="moved without a gap"),
        pytest.param([(0, "a"), (5, "b")], ("a",), {"x": Gap(2, 5, 3)}, id="its shard has gone"),
        pytest.param([(0, "a"), (3, ""), (5, "b")], (), {"x": Gap(3, 5, 2)}, id="no label"),
        pytest.param([(0, "a"), (3, "a", True), (5, "b")], (), {"x": Gap(3, 5, 2)}, id="its shard is to let it go"),
        pytest.param([(0, "a"), (3, ""), (4, "b"), (6, ""), (7, "c")], (), {"x": Gap(3, 7, 2)}, id="several times"),
        pytest.param([(0, ""), (1, "a")], (), {}, id="before"),
        pytest.param([(0, ""), (4, "a")], (), {"x": Gap(2, 4, 2)}, id="before and after"),
        pytest.param([(0, "a"), (3, "")], (), {}, id="still without"),
    ],
)
def test_how_long_a_cr_was_without_an_owner(
    ownerships: list[tuple[float, str]], gone: tuple[str, ...], found: dict[str, Gap]
) -> None:
    of_another = [Ownership(1, "y", "b")]
    of_the_cr = [Ownership(at, "x", *labels) for at, *labels in ownerships]
    assert gaps([*reversed(of_the_cr), *of_another], 2, gone) == found


def test_the_next_run_is_the_new_owners() -> None:
    entries = [
        *(Entry(1, BEGIN, "b", "x"), Entry(4, BEGIN, "a", "x"), Entry(6, BEGIN, "b", "x"), Entry(8, BEGIN, "b", "x")),
        *(Entry(5, END, "b", "y"), Entry(7, BEGIN, "b", "z")),
    ]
    assert next_runs(entries, {"x": 3, "y": 3}, {"x": "b", "y": "b", "z": "b"}) == {"x": 3}


def test_shares_are_of_the_mean_and_a_shard_may_have_none() -> None:
    assert shares({"x": "a", "y": "a", "z": "b"}, ["a", "b", "c"]) == [0, 1, 2]


def test_what_has_moved() -> None:
    assert moved({"x": "a", "y": "a"}, {"x": "a", "y": "b", "z": "a"}) == {"y", "z"}


def test_the_spread() -> None:
    assert spread([3, 1, 2]) == (1, 2, 3)
    assert spread([]) == (0, 0, 0)
