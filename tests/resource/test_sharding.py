"""The labels of kubernetes-controller-sharding."""

from __future__ import annotations

import pytest

from runner.resource.sharding import Shard, is_labelled

SHARD = Shard(ring="thing-operator", name="thing-operator-1")
LABEL, DRAIN = "shard.alpha.sharding.timebertt.dev/thing-operator", "drain.alpha.sharding.timebertt.dev/thing-operator"


@pytest.mark.parametrize(
    ("labels", "own", "draining"),
    [
        ({LABEL: "thing-operator-1"}, True, False),
        ({LABEL: "thing-operator-1", DRAIN: ""}, True, True),
        ({LABEL: "thing-operator-2"}, False, False),
        ({}, False, False),
        ({"shard.alpha.sharding.timebertt.dev/another": "thing-operator-1"}, False, False),
    ],
    ids=["its own", "asked to stop with it", "another shard's", "nobody's", "another ring's"],
)
def test_a_shard_knows_its_objects_by_their_labels(labels: dict[str, str], own: bool, draining: bool) -> None:
    obj = {"metadata": {"name": "one", "labels": labels}}
    assert (SHARD.selector.matches(obj), SHARD.is_draining(obj)) == (own, draining)


@pytest.mark.parametrize(
    ("labels", "expected"), [({LABEL: "x"}, True), ({DRAIN: "true"}, False), ({"app": "x"}, False), ({}, False)], ids=repr
)
def test_what_a_sharder_has_labelled_is_known(labels: dict[str, str], expected: bool) -> None:
    assert is_labelled({"metadata": {"labels": labels}}) is expected


def test_the_selector_is_a_querys() -> None:
    assert str(SHARD.selector) == f"{LABEL} in (thing-operator-1)"
