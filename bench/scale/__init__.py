"""Shards of a ring, simulated: `python -m bench.scale`. Next on the way: `bench.scale.course`."""
