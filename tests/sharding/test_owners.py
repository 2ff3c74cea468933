"""How long CRs have no shard is counted from the end of the old one to the label of a new one."""

from tests.sharding.owners import Owners

SHARD, DRAIN = "shard.alpha.sharding.timebertt.dev/ring", "drain.alpha.sharding.timebertt.dev/ring"


def test_gaps() -> None:
    now = 0.0
    owners = Owners("ring", lambda: now)
    owners.saw("one", {})
    owners.saw("two", {SHARD: "a"})
    assert owners.unowned == {"one", "two"}
    now = 1.0
    owners.works("a")
    assert (owners.unowned, owners.of("a"), owners.gaps) == ({"one"}, {"two"}, [1.0])
    now = 3.0
    owners.saw("one", {SHARD: "a"})
    assert (owners.unowned, owners.gaps) == (set(), [1.0, 3.0])

    # A shard that is to let it go, and one that is not there yet, do nothing for it.
    owners.saw("one", {SHARD: "a", DRAIN: "true"})
    now = 4.0
    owners.saw("one", {SHARD: "b"})
    assert owners.unowned == {"one"}
    now = 5.0
    owners.works("b")
    assert owners.gaps == [1.0, 3.0, 2.0]

    owners.ends("b")
    owners.saw("one", None)
    assert (owners.unowned, owners.of("b")) == (set(), set())
