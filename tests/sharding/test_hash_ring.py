"""Shards have shares that are even enough, and one that comes or goes moves its own alone."""

from collections import Counter

from tests.sharding.hash_ring import HashRing, hash_ring

KEYS = [f"example.com/Thing/default/thing-{number}" for number in range(10_000)]


def test_no_shard_is_nobodys() -> None:
    assert HashRing(()).shard(KEYS[0]) == ""


def test_shares_are_even_enough() -> None:
    ring = HashRing(f"shard-{number}" for number in range(8))
    shares = Counter(map(ring.shard, KEYS))
    assert len(shares) == 8
    assert max(shares.values()) < 2 * min(shares.values())


def test_a_shard_that_comes_takes_from_the_others_and_no_more() -> None:
    few, more = HashRing("abc"), HashRing("cabd")
    moved = [key for key in KEYS if few.shard(key) != more.shard(key)]
    assert {more.shard(key) for key in moved} == {"d"}
    assert len(KEYS) / 8 < len(moved) < len(KEYS) / 2
    # All at once or one by one, in any order, are the same.
    assert [hash_ring(frozenset("abcd")).shard(key) for key in KEYS] == [more.shard(key) for key in KEYS]
