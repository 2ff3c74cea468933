from pathlib import Path

import pytest

from devkit.scaffolding.yaml_edit import add
from runner.errors import ConfigurationError

WHERE = Path("file.yaml")
ITEM = "- new: 1\n  more: 2\n"

# name: (text before, key, text after)
CASES = {
    "empty file": ("", "", ITEM),
    "comments only": ("# mine\n", "", f"# mine\n{ITEM}"),
    "a document's beginning only": ("---\n# mine\n", "", f"---\n# mine\n{ITEM}"),
    "an empty list": ("# mine\n[]\n# end\n", "", f"# mine\n{ITEM}# end\n"),
    "an empty list with a comment": ("[] # mine\n", "", f"{ITEM}# mine\n"),
    "a list": ("- old: 1\n", "", f"- old: 1\n{ITEM}"),
    "no newline at the end": ("- old: 1", "", f"- old: 1\n{ITEM}"),
    "comments after a list": ("- old: 1\n# end\n", "", f"- old: 1\n{ITEM}# end\n"),
    "comments of the last item": ("- old: 1\n  # older: 2\n\n# end\n", "", f"- old: 1\n  # older: 2\n{ITEM}\n# end\n"),
    "a block of text": ("- old: |\n    a\n\n    b\n", "", f"- old: |\n    a\n\n    b\n{ITEM}"),
    "a flow at the end": ("- old: {a: [1,\n  2]}  # mine\n", "", f"- old: {{a: [1,\n  2]}}  # mine\n{ITEM}"),
    "an alias at the end": ("- &a {x: 1}\n- old:\n    y: *a\n", "", f"- &a {{x: 1}}\n- old:\n    y: *a\n{ITEM}"),
    "nothing at the end": ("- old:\n", "", f"- old:\n{ITEM}"),
    "line ends of Windows": ("- old: 1\r\n", "", "- old: 1\r\n- new: 1\r\n  more: 2\r\n"),
    "no key": ("a: 1\n# end\n", "key", f"a: 1\n# end\nkey:\n{ITEM}"),
    "an empty key": ("key:  # mine\na: 1\n", "key", f"key:  # mine\n{ITEM}a: 1\n"),
    "a key with an empty list": ("key: []  # mine\na: 1\n", "key", f"key:  # mine\n{ITEM}a: 1\n"),
    "a list that is indented": ("key:\n  - old\na: 1\n", "key", "key:\n  - old\n  - new: 1\n    more: 2\na: 1\n"),
    "comments between": ("key:\n- old  # mine\n# of a\na: 1\n", "key", f"key:\n- old  # mine\n{ITEM}# of a\na: 1\n"),
    "the second document": ("a: 1\n---\nkey:\n- 1\n---\nb: 1\n", "key", f"a: 1\n---\nkey:\n- 1\n{ITEM}---\nb: 1\n"),
    "a list in a mapping": (
        *("a: 1\nspec:\n  list:\n  - old: 1\n  b: 2\nc: 3\n", "spec.list"),
        "a: 1\nspec:\n  list:\n  - old: 1\n  - new: 1\n    more: 2\n  b: 2\nc: 3\n",
    ),
    "an empty list in a mapping": (
        *("spec:\n  list: []  # mine\n  b: 2\n", "spec.list"),
        "spec:\n  list:  # mine\n  - new: 1\n    more: 2\n  b: 2\n",
    ),
    "there already": ("key:\n- {more: 2, new: 1}\n", "key", "key:\n- {more: 2, new: 1}\n"),
}


@pytest.mark.parametrize(("before", "key", "after"), CASES.values(), ids=CASES)
def test_an_item_goes_in_and_all_else_stays(before: str, key: str, after: str) -> None:
    assert add(before, ITEM, key=key, where=WHERE) == after
    assert add(after, ITEM, key=key, where=WHERE) == after


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[old]\n", ""),
        ("key: {a: 1}\n", "key"),
        ("a: 1\n", ""),
        ("- 1\n", "key"),
        ("key: [a,\n  b]\n", "key"),
        ("text\n", ""),
        ("text\n", "key"),
        ("spec: {a: 1}\n", "spec.list"),
        ("spec:\n- a\n", "spec.list"),
    ],
    ids=[
        *("flow", "mapping", "mapping for a list", "list for a mapping", "flow of two lines", "text", "text with key"),
        *("no such key in a mapping", "list on the way"),
    ],
)
def test_what_is_no_plain_list_is_to_be_added_to_by_hand(text: str, key: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^file\.yaml: .* by hand:\n- new: 1\n"):
        add(text, ITEM, key=key, where=WHERE)


def test_a_file_that_is_no_yaml_is_told_with_its_line() -> None:
    with pytest.raises(ConfigurationError, match=r"^file\.yaml:2: cannot be added to: .*; correct it first"):
        add("a: 1\n- b\n", ITEM, key="a", where=WHERE)
