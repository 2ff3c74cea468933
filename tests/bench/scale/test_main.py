"""The simulation in its smallest form, and its tables."""

from pathlib import Path

from bench.scale.__main__ import as_json, bursts_table, events_table, simulate
from bench.scale.course import Burst, Event
from bench.scale.shards import Options
from devkit.devcluster import Cluster as Devcluster


async def test_shards_come_and_go(devcluster: Devcluster, tmp_path: Path) -> None:
    # A shard that is only slow is not to lose its Lease.
    options = Options(run_seconds=0.1, lease_duration=10, renew_deadline=8)
    course = await simulate(
        devcluster.kubeconfig, None, tmp_path, crs=12, numbers=[2], events_at=2, options=options, edits=4, quiet=1
    )
    (burst,) = course.bursts
    assert (burst.shards, burst.api_cores, sum(burst.shares)) == (2, None, 2)
    assert burst.per_second > 0
    assert [(event.name, event.shards) for event in course.events] == [
        *(("SIGKILL", 2), ("one more", 1), ("SIGTERM", 2), ("one more", 1)),
    ]
    # Where nothing was moved, it is 0.
    assert [event.seconds > 0 for event in course.events] == [event.moved > 0 for event in course.events]
    assert any(event.moved for event in course.events)
    assert as_json(course)["overlaps"] == 0


def test_the_tables() -> None:
    def burst(shards: int, per_second: float) -> Burst:
        shares = [0.5, 2.0] if shards > 1 else [1.0]
        return Burst(shards=shards, per_second=per_second, shares=shares, shards_cores=0.25, api_cores=None, shard_mb=60)

    heads, _, *rows = bursts_table([burst(4, 6.0), burst(1, 2.0)]).splitlines()
    assert heads.startswith("| shards | reconciles a second |")
    assert rows == [
        "| 1 | 2.0 | 1.00 | 100 % | 1.00 to 1.00 | 100 % | 0.25 | – | 60 |",
        "| 4 | 6.0 | 3.00 | 75 % | 0.50 to 2.00 | 50 % | 0.25 | – | 60 |",
    ]
    spread = (0.0, 1.0, 2.0)
    event = Event(name="SIGKILL", shards=4, moved=2, ideal=3, seconds=2, without_owner=spread, next_run=spread, runs_cut=0)
    row = events_table([event]).splitlines()[-1]
    assert row == "| SIGKILL, 4 before | 2 (3) | 2.0 | 0.0 / 1.0 / 2.0 | 0.0 / 1.0 / 2.0 | 0 |"
