from time import process_time

import pytest

from runner.resource.selectors import Requirement, Selector, label_selector

LONG = 256 * 1024


@pytest.mark.parametrize(
    ("text", "requirements"),
    [
        ("", []),
        ("a=b", [("a", "In", ("b",))]),
        (" a == b , c != d ", [("a", "In", ("b",)), ("c", "NotIn", ("d",))]),
        ("a,!b, ! c", [("a", "Exists", ()), ("b", "DoesNotExist", ()), ("c", "DoesNotExist", ())]),
        ("a in ( b , , c)", [("a", "In", ("b", "", "c"))]),
        ("x.org/a notin(b),d=", [("x.org/a", "NotIn", ("b",)), ("d", "In", ("",))]),
        ("a  ", [("a", "Exists", ())]),
    ],
)
def test_a_selector_as_the_api_writes_it(text: str, requirements: list[tuple[str, str, tuple[str, ...]]]) -> None:
    selector = label_selector(text)
    assert selector is not None
    assert list(selector.requirements) == [Requirement(*each) for each in requirements]


@pytest.mark.parametrize("text", ["a in b", "a in (b", "a=b c", "-a", "a=b,", "a in (b c)", "a > 5"])
def test_what_is_not_understood_is_none(text: str) -> None:
    assert label_selector(text) is None


@pytest.mark.parametrize(
    ("before", "pump", "after"),
    [("a in (", " ", "!"), ("a in (", ", ", "!"), ("a in (", "b,", "!"), ("a", " ", "!"), ("", " ", "!"), ("", "a", "!")],
    ids=["spaces", "empty-values", "values", "spaces-behind", "spaces-before", "name"],
)
def test_what_is_not_understood_is_read_once(before: str, pump: str, after: str) -> None:
    since = process_time()
    assert label_selector(before + pump * (LONG // len(pump)) + after) is None
    assert process_time() - since < 5


@pytest.mark.parametrize("text", ["", "a in (b)", "a in (b,c),d notin (e)", "x/y,!z"])
def test_a_selector_is_written_as_a_query_has_it(text: str) -> None:
    selector = label_selector(text)
    assert selector is not None
    assert str(selector) == text


def test_two_selectors_select_what_both_do() -> None:
    one, other = Selector((Requirement("a", "In", ("b",)),)), Selector((Requirement("c", "Exists", ()),))
    both = one & other
    assert [both.matches_labels(labels) for labels in ({"a": "b"}, {"c": ""}, {"a": "b", "c": ""})] == [False, False, True]
