"""What comes of several rounds of the bench."""

import json

import pytest

from bench.figures import FIGURES, GROUPS, Measured, as_json, of_burst, table

FIRST = Measured("one --flag", "with", [{"burst_per_s": 10.0}, {"burst_per_s": 20.0}, {"burst_per_s": 12.0}])
SECOND = Measured("another", "with", [{"burst_per_s": 5.0}, {"burst_per_s": 5.0}, {"burst_per_s": 6.0}])


def row(text: str, name: str) -> list[str]:
    """The cells of a figure, the first time that it is in a table."""
    line = next(line for line in text.splitlines() if line.startswith(FIGURES[name]))
    return line.removeprefix(FIGURES[name]).replace(" ×", "×").split()


def test_medians() -> None:
    assert FIRST.medians == {"burst_per_s": 12.0}


def test_a_ratio_is_the_median_of_what_the_rounds_say() -> None:
    """Not of the medians: what happens on the machine in a round happens to all that are measured in it."""
    assert SECOND.ratios(FIRST) == {"burst_per_s": 0.5}
    assert FIRST.ratios(FIRST) == {"burst_per_s": 1.0}


@pytest.mark.parametrize("other", [{}, {"burst_per_s": 0.0}], ids=["not measured", "nothing"])
def test_there_is_no_ratio_to_what_is_not_there(other: dict[str, float]) -> None:
    assert Measured("one", "with", [{"burst_per_s": 1.0}]).ratios(Measured("another", "with", [other])) == {}


def test_what_a_reconcile_takes() -> None:
    figures = of_burst("pass", {"api": 0.2, "runner": 0.1, "runs": 0.7}, reconciles=20, crs=10)
    assert figures.pop("pass_cpu_ms") == pytest.approx(50)
    assert figures == {"pass_reconciles": 2, "pass_api_cpu_ms": 10, "pass_runner_cpu_ms": 5, "pass_runs_cpu_ms": 35}
    assert figures.keys() < FIGURES.keys()


def test_there_is_no_sum_where_a_group_is_not_known() -> None:
    assert of_burst("burst", {"runner": 0.1, "runs": 0.7}, reconciles=10, crs=10).keys() == {
        "burst_reconciles",
        "burst_runner_cpu_ms",
        "burst_runs_cpu_ms",
    }


def test_the_table() -> None:
    text = table([FIRST, SECOND])
    assert text.splitlines()[:2] == ["[1] one --flag", "[2] another"]
    assert text.splitlines()[3].split() == ["with", "facts", "[1]", "[2]", "[2]/[1]"]
    assert row(text, "burst_per_s") == ["12.0", "5.00", "0.500×"]
    assert row(text, "burst_cpu_ms") == ["–", "–", "–"]
    assert all(heading in text for heading in GROUPS.values())


def test_a_table_with_facts_and_without() -> None:
    without = [Measured(one.operator, "without", [{"burst_per_s": 100.0}]) for one in (FIRST, SECOND)]
    text = table([FIRST, SECOND, *without])
    assert text.count("[1] one --flag") == 1
    _, _, second = text.partition("without facts")
    assert row(second, "burst_per_s") == ["100", "100", "1.00×"]


def test_one_operator_has_nothing_to_be_compared_with() -> None:
    assert row(table([FIRST]), "burst_per_s") == ["12.0"]


def test_json_has_the_rounds_as_well() -> None:
    without = Measured("another", "without", [{"burst_per_s": 1 / 3}])
    first, second, third = json.loads(json.dumps(as_json([FIRST, SECOND, without])))
    assert (first["operator"], first["facts"], first["medians"]) == ("one --flag", "with", {"burst_per_s": 12.0})
    assert second["ratios_to_first"] == {"burst_per_s": 0.5}
    assert [one["burst_per_s"] for one in second["rounds"]] == [5.0, 5.0, 6.0]
    assert (third["facts"], third["ratios_to_first"]) == ("without", {"burst_per_s": 1.0})
    assert third["medians"] == {"burst_per_s": 0.3333}
