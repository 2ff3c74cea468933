"""The table of figures: all of them are there, and only what a sample leaves out may be missing."""

from __future__ import annotations

import copy

import pytest

from bench.large.probes import served
from bench.large.subject import Figures, Sample, used
from bench.large.table import table

MEMORY = {"runner_mb": 60.5, "all_mb": 270.0}


def sample(at: float, *, runs_cpu: float = 0.0, reconciles: float = 0.0) -> Sample:
    lags = {frozenset({("le", bound)}): at for bound in ("0.05", "+Inf")}
    return Sample(at, at / 100, runs_cpu, reconciles, delayed=0, waiting=0, active=0, lags=lags)


def phase(*, begun: float, ended: float, reconciles: int) -> Figures:
    after = sample(ended, runs_cpu=reconciles / 25, reconciles=reconciles)
    requests = {"PUT pairs/status": reconciles, "LIST pairs": 3}
    return {**used(sample(begun), after), **MEMORY, "requests": requests}


@pytest.fixture
def figures() -> Figures:
    """Of one size, as `bench.large.course` makes them."""
    return {
        "crs": 1000,
        "sample_s": None,
        "ready_s": 2.25,
        "start": {**phase(begun=0, ended=4, reconciles=7), "lists": {}, "first_new_cr_s": 2.5},
        "pass": {**phase(begun=4, ended=54, reconciles=1000), "new_crs": served([0.1, 0.3]), "all_s": 54.0},
        "idle": phase(begun=60, ended=120, reconciles=0),
        "periodic": {**phase(begun=120, ended=180, reconciles=900), "new_crs": served([0.2])},
    }


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each row, those of two with the same heading one after the other."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        heading, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found.setdefault(heading, []).extend(cells)
    return found


def test_each_figure_is_there(figures: Figures) -> None:
    found = rows(table([figures]))
    assert [heading for heading, cells in found.items() if any("-" in cell for cell in cells)] == ["---"]
    assert found["CRs"] == ["1,000"]
    assert found["all CRs are found, s"] == ["4"]
    assert found["… requests to the API server; a second"] == ["10; 2"]
    assert found["… event loop late, at most, s"] == ["0.05"]
    assert found["first new CR is served, after the start of the process, s"] == ["2.5"]
    assert found["pass after the start, CRs per second"] == ["20.0"]
    assert found["… processor time each, the runner's own; runs, ms"] == ["0.5; 40.0", "0.7; 40.0"]
    assert found["… processors in use by the operator"] == ["0.81", "0.61"]
    assert found["… a new CR meanwhile: median, longest, s"] == ["0.2, 0.3", "0.2, 0.2"]
    assert found["idle: processor time of all processes, s per minute"] == ["0.6"]


@pytest.fixture
def sampled(figures: Figures) -> Figures:
    """The same, of a part of the first pass."""
    part = copy.deepcopy(figures)
    part["sample_s"] = 10.0
    del part["idle"], part["periodic"], part["pass"]["all_s"]
    return part


def test_a_sample_leaves_out_what_comes_after_it(figures: Figures, sampled: Figures) -> None:
    found = rows(table([figures, sampled]))
    assert found["CRs"] == ["1,000", "1,000"]
    assert found["all CRs are reconciled, s"] == ["54.0", "-"]
    assert found["pass after the start, CRs per second"] == ["20.0", "20.0"]
    assert found["idle: processor time of all processes, s per minute"] == ["0.6", "-"]
    assert found["periodic pass, CRs per second"] == ["15.0", "-"]


def test_there_may_be_no_reconcile_and_no_new_cr(sampled: Figures) -> None:
    sampled["pass"] = {**phase(begun=4, ended=4.01, reconciles=0), "new_crs": served([])}
    sampled["start"]["first_new_cr_s"] = None
    found = rows(table([sampled]))
    assert found["pass after the start, CRs per second"] == ["-"]
    assert found["… processors in use by the operator"] == ["-", "-"]
    assert found["first new CR is served, after the start of the process, s"] == ["-"]


@pytest.mark.parametrize(
    ("of", "name"),
    [("", "ready_s"), ("", "idle"), ("", "periodic"), ("start", "first_new_cr_s"), ("pass", "all_s"), ("pass", "new_crs")],
)
def test_a_figure_that_was_renamed_is_noticed(figures: Figures, of: str, name: str) -> None:
    renamed = figures[of] if of else figures
    renamed[f"new_{name}"] = renamed.pop(name)
    with pytest.raises(KeyError, match=name):
        table([figures])


def test_in_a_sample_it_is_noticed_as_well(sampled: Figures) -> None:
    del sampled["pass"]["runner_mb"]
    with pytest.raises(KeyError, match="runner_mb"):
        table([sampled])
