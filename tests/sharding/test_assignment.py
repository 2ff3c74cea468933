"""Which objects get which label when they are written, and which are drained or moved when they are looked at."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.sharding.assignment import GroupResource, Shards, Unassignable, hash_key, resources_of
from tests.sharding.hash_ring import hash_ring
from tests.sharding.manifests import controller_ring

SHARD, DRAIN = "shard.alpha.sharding.timebertt.dev/ring", "drain.alpha.sharding.timebertt.dev/ring"
REFERENCE = {"apiVersion": "example.com/v1", "kind": "Thing", "name": "one", "uid": "1"}


def thing(name: str = "one", **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "resourceVersion": "7", "labels": labels}
    return {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": metadata}


def config_map(*references: dict[str, Any], **labels: str) -> dict[str, Any]:
    metadata = {"name": "x", "namespace": "default", "resourceVersion": "7", "labels": labels, "ownerReferences": references}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def shards(*available: str) -> Shards:
    names = frozenset(available)
    return Shards("ring", names, names, hash_ring(names))


def test_what_is_controlled_has_its_controllers_key() -> None:
    key = hash_key(thing(), controlled=False)
    assert key == "example.com/Thing/default/one"
    assert hash_key(config_map({**REFERENCE, "controller": True}), controlled=True) == key
    assert hash_key(config_map(REFERENCE), controlled=True) == ""
    assert hash_key(config_map(), controlled=True) == ""


def test_a_name_that_is_yet_to_be_made_up_is_refused() -> None:
    made_up = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"generateName": "x-"}}
    with pytest.raises(Unassignable):
        hash_key(made_up, controlled=False)


def test_a_rings_kinds() -> None:
    ring = controller_ring("ring", {"things.example.com": ("configmaps", "jobs.batch"), "others.example.com": ()})
    assert resources_of(ring) == [
        GroupResource("example.com", "things"),
        GroupResource("", "configmaps", controlled=True),
        GroupResource("batch", "jobs", controlled=True),
        GroupResource("example.com", "others"),
    ]
    assert resources_of({}) == []


def test_an_object_gets_its_label_when_it_is_written() -> None:
    label = {"op": "add", "path": "/metadata/labels/shard.alpha.sharding.timebertt.dev~1ring", "value": "a"}
    assert shards("a").admitted(thing(), controlled=False) == (label,)
    without = thing()
    del without["metadata"]["labels"]
    assert shards("a").admitted(without, controlled=False) == ({"op": "add", "path": "/metadata/labels", "value": {}}, label)
    # Who has a shard keeps it; and there may be none.
    assert shards("a").admitted(thing(**{SHARD: "b"}), controlled=False) == ()
    assert shards().admitted(thing(), controlled=False) == ()
    assert shards("a").admitted(config_map(), controlled=True) == ()


@pytest.mark.parametrize(
    ("obj", "controlled", "labels"),
    [
        pytest.param(thing(**{SHARD: "a"}), False, None, id="where it has to be"),
        pytest.param(thing(), False, {SHARD: None, DRAIN: None}, id="unassigned"),
        pytest.param(thing(**{SHARD: "gone"}), False, {SHARD: None, DRAIN: None}, id="of a shard that is gone"),
        pytest.param(
            thing(**{SHARD: "gone", DRAIN: "true"}), False, {SHARD: None, DRAIN: None}, id="which was to let it go"
        ),
        pytest.param(
            config_map({**REFERENCE, "controller": True}, **{SHARD: "b"}), True, {SHARD: None, DRAIN: None}, id="controlled"
        ),
        pytest.param(config_map(REFERENCE, **{SHARD: "b"}), True, None, id="owned, not controlled"),
    ],
)
def test_what_is_in_the_wrong_place_is_moved(obj: dict[str, Any], controlled: bool, labels: dict[str, Any] | None) -> None:
    change = shards("a").change(obj, controlled=controlled)
    assert change == (labels and {"metadata": {"resourceVersion": "7", "labels": labels}})


def test_what_a_shard_may_still_work_on_is_only_drained() -> None:
    both = shards("a", "b")
    wanted = both.hashes.shard("example.com/Thing/default/one")
    (other,) = both.available - {wanted}
    change = both.change(thing(**{SHARD: other}), controlled=False)
    assert change == {"metadata": {"resourceVersion": "7", "labels": {DRAIN: "true"}}}
    assert shards(wanted).change(thing(**{SHARD: other}), controlled=False) != change
    assert shards().change(thing(**{SHARD: other}), controlled=False) is None


def test_shards_are_those_whose_leases_are_theirs() -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    stamp = now.isoformat()
    spec = {"leaseDurationSeconds": 10, "acquireTime": stamp, "renewTime": stamp}
    leases = [
        {"metadata": {"name": name}, "spec": {**spec, "holderIdentity": holder}} for name, holder in ("aa", "b-", "cc")
    ]
    found = Shards.of("ring", leases, now)
    assert (found.known, found.available) == ({"a", "b", "c"}, {"a", "c"})
    assert {found.hashes.shard(f"key-{number}") for number in range(100)} == {"a", "c"}
