from typing import Any

import pytest

from runner.resource.diff import Action, Change


def obj(kind: str = "ConfigMap", **parts: Any) -> dict[str, Any]:
    metadata = {"name": "one", "namespace": "here", **parts.pop("metadata", {})}
    return {"kind": kind, "apiVersion": "v1", "metadata": metadata, **parts}


COPY = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}


@pytest.mark.parametrize(
    ("before", "after", "is_one"),
    [
        (obj(data={"a": "1"}), obj(data={"a": "1"}), False),
        (obj(data={"a": "1"}), obj(data={"a": "2"}), True),
        (obj(), obj(metadata={"resourceVersion": "2", "generation": 3, "uid": "x", "managedFields": [{}]}), False),
        (obj(), obj(metadata={"annotations": COPY}), False),
        (obj(), obj(metadata={"annotations": {**COPY, "other": "x"}}), True),
        (obj(), obj(status={"ready": True}), False),
        (None, obj(), True),
        (obj(), None, True),
    ],
    ids=["same", "data", "bookkeeping", "kubectl's copy", "annotation", "status", "created", "deleted"],
)
def test_what_counts_as_a_change(before: dict[str, Any] | None, after: dict[str, Any] | None, is_one: bool) -> None:
    assert Change(before=before, after=after).is_one is is_one


def test_the_three_of_them_and_how_they_read() -> None:
    created = Change(before=None, after=obj(data={"a": "1"}))
    assert (created.action, created.title) == (Action.CREATE, "ConfigMap here/one")
    assert created.diff.splitlines()[:3] == ["+apiVersion: v1", "+kind: ConfigMap", "+metadata:"]
    changed = Change(before=obj(data={"a": "1", "b": "1"}), after=obj(data={"a": "2", "b": "1"}))
    assert changed.action is Action.CHANGE
    assert "-  a: '1'\n+  a: '2'\n   b: '1'" in changed.diff
    deleted = Change(before=obj(), after=None)
    assert (deleted.action, deleted.diff) == (Action.DELETE, "")


def test_a_name_that_the_server_will_make() -> None:
    made = {"kind": "Job", "apiVersion": "batch/v1", "metadata": {"generateName": "run-", "namespace": "here"}}
    assert Change(before=None, after=made).title == "Job here/run-…"


def test_a_secret_shows_which_values_are_new_and_none_of_them() -> None:
    before = obj("Secret", data={"same": "c2FtZQ==", "other": "b2xk", "gone": "Z29uZQ=="})
    after = obj("Secret", data={"same": "c2FtZQ==", "other": "bmV3", "more": "bW9yZQ=="}, metadata={"annotations": COPY})
    lines = Change(before=before, after=after).diff.splitlines()
    assert "   same: '********'" in lines
    assert {"-  other: '********'", "+  other: '******** (another value)'"} <= set(lines)
    assert {"-  gone: '********'", "+  more: '********'"} <= set(lines)
    created = Change(before=None, after=obj("Secret", stringData={"password": "geheim"}))
    assert "geheim" not in created.diff
    assert "+  password: '********'" in created.diff
