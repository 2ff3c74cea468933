"""Consistent hashing: when a shard comes or goes, only its own share of the objects moves.

Next on the way: `tests.sharding.assignment`.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
from collections.abc import Iterable

# How often each shard is on the ring: the more, the more even are the shares.
_TOKENS = 100


class HashRing:
    """The available shards on a ring of hashes; each key is that shard's which comes next."""

    def __init__(self, shards: Iterable[str]) -> None:
        self._shards = {_hash(f"{shard}{number}"): shard for shard in shards for number in range(_TOKENS)}
        self._tokens = sorted(self._shards)

    def shard(self, key: str) -> str:
        """The shard of a key; empty if there is none."""
        if not self._tokens:
            return ""
        index = bisect.bisect_left(self._tokens, _hash(key))
        return self._shards[self._tokens[index % len(self._tokens)]]


@functools.lru_cache(maxsize=16)
def hash_ring(shards: frozenset[str]) -> HashRing:
    """The ring of these shards, which are asked for with each object that is written."""
    return HashRing(shards)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
