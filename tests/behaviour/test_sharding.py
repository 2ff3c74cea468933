"""Several runners share the CRs: as shards of a ring, to which a sharder assigns them, or by label selectors.

In most of these tests the test itself is the sharder; in the others it is the stand-in of `tests.sharding`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bench.driver import Cluster, Operator, condition, until
from devkit.devcluster import Cluster as Devcluster
from runner.control.status import INTERRUPTED
from runner.kube.lease import LEASE
from runner.resource.metadata import ObjectKey, labels_of
from runner.resource.sharding import RING_LABEL, Shard
from tests.behaviour.test_leader_election import (
    LONG,
    SHORT,
    SHORT_SECONDS,
    SLEEP,
    all_ended,
    ended,
    expire,
    said,
    sleeping,
)
from tests.behaviour.test_lifecycle import WAIT_FOR_FILE, gone, made
from tests.behaviour.test_resilience import run
from tests.behaviour.test_runs import commands, counted, succeeded
from tests.conftest import THING, Project, lines, paths_below, thing
from tests.sharding import setup
from tests.sharding.leases import SHARDER

# Its message says which state of the spec was run.
SAY_VALUE = """
- name: Say the value
  ansible.builtin.debug:
    msg: "value {{ value | default('none') }}"
"""


@pytest.fixture
def ring(namespace: str) -> str:
    """The name of a ring that no other test has."""
    return namespace


@pytest.fixture
async def sharder(world: Cluster, devcluster: Devcluster, ring: str, tmp_path: Path) -> AsyncIterator[Operator]:
    """The stand-in, for Things of the test's namespace."""
    here = {"matchLabels": {"kubernetes.io/metadata.name": ring}}
    await setup.install(world, ring, {"things.test.example.com": ()}, namespaceSelector=here)
    # What its webhook was not asked about in time is assigned soon after.
    started = setup.start(devcluster.kubeconfig, tmp_path, sync_period=5)
    try:
        await setup.ready(world, ring)
        yield started
    finally:
        started.kill()
        await setup.uninstall(world, ring)


async def shard(project: Project, name: str, *flags: str, runs: str = "", wait: bool = True) -> Operator:
    """A shard of the test's ring, with a folder for its runs of its own."""
    return await project.start(
        f"--controller-ring={project.namespace}",
        f"--shard-name={name}",
        f"--leader-election-namespace={project.namespace}",
        f"--runs-dir={project.runs / (runs or name)}",
        *flags,
        wait=wait,
    )


async def assign(world: Cluster, key: ObjectKey, shard: str | None, *, drain: bool = False) -> dict[str, Any]:
    """Label a CR as the sharder does. None: both labels are removed."""
    labels = Shard(key.namespace, "")
    asked = {labels.label: shard, labels.drain_label: "true" if drain else None}
    return await world.patch(THING, key, {"metadata": {"labels": asked}})


async def create(world: Cluster, key: ObjectKey, shard: str, **spec: Any) -> None:
    obj = thing(key.name, **spec)
    obj["metadata"]["labels"] = {Shard(key.namespace, "").label: shard}
    await world.create(obj, key.namespace)


async def let_go(world: Cluster, key: ObjectKey) -> dict[str, Any]:
    """The CR, as soon as its shard has removed both labels."""

    async def unlabelled() -> dict[str, Any] | None:
        obj = await world.get(THING, key)
        assert obj is not None
        return None if labels_of(obj) else obj

    return await until(unlabelled, f"{key} is let go")


async def shard_lease(world: Cluster, namespace: str, name: str) -> dict[str, Any]:
    found = await world.get(LEASE, ObjectKey(namespace, name))
    assert found is not None
    return found


async def all_of(world: Cluster, ring: str, name: str) -> None:
    """Wait until all CRs are one shard's."""

    async def moved() -> bool:
        labels = [labels_of(obj) for obj in await world.list(THING, ring)]
        return all(each.get(Shard(ring, "").label) == name for each in labels)

    await until(moved, f"all CRs are {name}'s")


async def later(world: Cluster, operator: Operator, namespace: str, **labels: str) -> None:
    """Wait until an operator has run a CR that is made now: it has then seen whatever happened before."""
    obj = thing("later")
    obj["metadata"]["labels"] = labels
    await world.create(obj, namespace)
    await counted(operator, "later", 1)


def folders(project: Project, shard: str, name: str = "one") -> list[Path]:
    """What a shard has kept of its runs of a CR."""
    return [path for path in paths_below(project.runs / shard) if path.name == name and path.is_dir()]


async def test_a_shard_has_a_lease_and_the_crs_with_its_label(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SAY_VALUE)
    project.watch()
    await create(world, one, "a")
    await create(world, ObjectKey(one.namespace, "two"), "b")
    await world.create(thing("three"), one.namespace)
    operator = await shard(project, "a", *LONG)
    await counted(operator, "one", 1)
    await create(world, ObjectKey(one.namespace, "four"), "a")
    await counted(operator, "four", 1)
    assert {line["name"] for line in lines(operator, "Running")} == {"one", "four"}

    lease = await shard_lease(world, one.namespace, "a")
    assert labels_of(lease) == {RING_LABEL: one.namespace}
    assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseDurationSeconds"]) == ("a", 7200)
    assert await asyncio.to_thread(operator.stop) == 0
    assert (await shard_lease(world, one.namespace, "a"))["spec"]["holderIdentity"] == ""
    assert "Traceback" not in operator.output


@pytest.mark.usefixtures("sharder")
async def test_shards_share_the_crs_and_one_that_ends_leaves_them_at_once(
    project: Project, world: Cluster, one: ObjectKey, ring: str
) -> None:
    project.role(SAY_VALUE)
    project.watch()
    # Whatever happens has waited for no Lease.
    first = await shard(project, "a", *LONG)
    await setup.ready(world, ring, shards=1)
    names = {f"thing-{number}" for number in range(20)}
    for name in names:
        await world.create(thing(name), ring)
    for name in names:
        await counted(first, name, 1)

    second = await shard(project, "b", *LONG)

    async def shared() -> dict[str, str] | None:
        of = {obj["metadata"]["name"]: labels_of(obj) for obj in await world.list(THING, ring)}
        is_settled = all(set(labels) == {Shard(ring, "").label} for labels in of.values())
        shards = {name: labels[Shard(ring, "").label] for name, labels in of.items() if labels}
        return shards if is_settled and set(shards.values()) == {"a", "b"} else None

    shards = await until(shared, "the CRs are shared by both")
    for name, of in shards.items():
        await counted(second if of == "b" else first, name, 1)
        before = len(lines(first, "Run succeeded", name=name)), len(lines(second, "Run succeeded", name=name))
        await world.patch(THING, ObjectKey(ring, name), {"spec": {"value": 1}})
        await counted(second if of == "b" else first, name, before[of == "b"] + 1)
        assert len(lines(first if of == "b" else second, "Running", name=name)) == before[of != "b"]
    assert {name for name, of in shards.items() if of == "a"}.isdisjoint(line["name"] for line in lines(second, "Running"))

    assert await asyncio.to_thread(first.stop) == 0
    await all_of(world, ring, "b")
    for name in names:
        await counted(second, name, 1)
    assert lines(first, "The CR is gone") == lines(second, "The CR is gone") == []
    assert "Traceback" not in first.output + second.output


@pytest.mark.usefixtures("sharder")
async def test_the_crs_of_a_shard_that_was_killed_go_to_the_other(
    project: Project, world: Cluster, one: ObjectKey, ring: str
) -> None:
    project.role(SLEEP)
    project.watch()
    first = await shard(project, "a", *LONG)
    await setup.ready(world, ring, shards=1)
    await world.create(thing(), ring)
    processes = await sleeping(first)
    project.role(SAY_VALUE)
    first.process.kill()
    first.process.wait()
    await all_ended(processes)
    await shard(project, "b", *LONG)
    await expire(world, ring, "a")
    await all_of(world, ring, "b")
    await succeeded(world, one)
    lease = await shard_lease(world, ring, "a")
    assert lease["spec"]["holderIdentity"] == SHARDER


async def test_a_cr_is_let_go_after_the_run_that_is_on(project: Project, world: Cluster, one: ObjectKey) -> None:
    started, go_on = project.folder / "started", project.folder / "go-on"
    project.role(f"- ansible.builtin.file: {{path: {started}, state: touch}}\n" + WAIT_FOR_FILE)
    project.watch(vars={"file": str(go_on)})
    first, second = await shard(project, "a", *LONG), await shard(project, "b", *LONG)
    await create(world, one, "a")
    await made(started)
    await assign(world, one, "a", drain=True)
    # It would be run for this as soon as the run ends.
    await world.patch(THING, one, {"spec": {"value": 1}})
    labels = labels_of(await world.get(THING, one) or {})
    assert set(labels) == {Shard(one.namespace, "").label, Shard(one.namespace, "").drain_label}
    go_on.touch()
    obj = await let_go(world, one)
    # The run has ended before, and its status was written.
    assert condition(obj, "Running")["reason"] == "Successful"
    assert len(lines(first, "Run succeeded")) == len(lines(first, "Running")) == 1

    assert obj["metadata"]["generation"] == 2
    await assign(world, one, "b")
    await succeeded_with(world, one, 2)
    assert len(lines(second, "Run succeeded")) == 1
    await later(world, first, one.namespace, **{Shard(one.namespace, "").label: "a"})
    assert len(lines(first, "Running", name="one")) == 1


async def test_a_run_that_goes_on_for_too_long_is_ended(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SLEEP)
    project.watch()
    operator = await shard(project, "a", *LONG, "--graceful-shutdown-timeout=1s")
    await create(world, one, "a")
    await sleeping(operator)
    await assign(world, one, "a", drain=True)
    obj = await let_go(world, one)
    assert not any("sleep\x00600" in command for command in commands(operator))
    assert condition(obj, "Failure")["message"] == INTERRUPTED
    assert len(lines(operator, "A run is ended, as its CR goes to another shard")) == 1
    # The shard itself goes on.
    project.role(SAY_VALUE)
    await later(world, operator, one.namespace, **{Shard(one.namespace, "").label: "a"})
    assert len(lines(operator, "Running", name="one")) == 1


@pytest.mark.parametrize("drained", [False, True], ids=["moved", "drained"])
async def test_a_cr_that_goes_to_another_shard_is_not_gone(
    project: Project, world: Cluster, one: ObjectKey, drained: bool
) -> None:
    cleaned = project.folder / "cleaned"
    project.role(SAY_VALUE)
    project.role(f"- ansible.builtin.file: {{path: {cleaned}, state: touch}}\n", name="clean")
    project.watch(finalizer={"name": "example.com/clean", "role": "clean"})
    first, second = await shard(project, "a", *LONG), await shard(project, "b", *LONG)
    await create(world, one, "a")
    await succeeded(world, one)
    if drained:
        await assign(world, one, "a", drain=True)
        await let_go(world, one)
        # Logged when the API server's answer is here; the cluster shows it before.
        await counted(first, "one", 1, "The CR is let go to another shard")
    await assign(world, one, "b")
    await counted(second, "one", 1)
    await later(world, first, one.namespace, **{Shard(one.namespace, "").label: "a"})
    assert folders(project, "a") != []
    assert lines(first, "The CR is gone") == []
    assert not cleaned.exists()
    obj = await succeeded(world, one)
    assert obj["metadata"]["finalizers"] == ["example.com/clean"]  # type: ignore[index]
    assert {each["type"] for each in obj["status"]["conditions"]} == {"Running", "Successful", "Failure"}  # type: ignore[index]

    await world.delete(THING, one)
    await gone(world, one)
    await counted(second, "one", 1, "The CR is gone")
    assert cleaned.exists()
    assert folders(project, "b") == []
    assert lines(first, "The CR is gone", name="one") == []


async def test_an_edit_during_the_move_is_not_lost(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SAY_VALUE)
    # Nothing but the edit itself can cause its run.
    project.watch(reconcilePeriod="10h")
    first, second = await shard(project, "a", *LONG), await shard(project, "b", *LONG)
    await create(world, one, "a", value=1)
    await succeeded(world, one)
    await assign(world, one, "a", drain=True)
    await let_go(world, one)
    await world.patch(THING, one, {"spec": {"value": 2}})
    await assign(world, one, "b")

    async def served() -> bool:
        obj = await world.get(THING, one) or {}
        return bool(obj["status"].get("observedGeneration") == 2) and bool(
            condition(obj, "Running")["reason"] == "Successful"
        )

    await until(served, "the edit is served by the new shard")
    # And back: what the first one knows of the CR is from before.
    await assign(world, one, None)
    await world.patch(THING, one, {"spec": {"value": 1}})
    await assign(world, one, "a")
    await succeeded_with(world, one, 3)
    assert len(lines(first, "Run succeeded", name="one")) == 2
    assert len(lines(second, "Running", name="one")) == 1


async def test_a_shard_whose_lease_the_sharder_has_ends_at_once(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SLEEP)
    project.watch()
    operator = await shard(project, "a", *LONG)
    await create(world, one, "a")
    processes = await sleeping(operator)
    await world.patch(LEASE, ObjectKey(one.namespace, "a"), {"spec": {"holderIdentity": SHARDER}})
    assert await ended(operator) == 1
    (line,) = lines(operator, "The shard's lease is lost")
    assert (line["level"], line["reason"]) == ("error", f"the lease is held by {SHARDER}")
    await all_ended(processes)
    assert (await shard_lease(world, one.namespace, "a"))["spec"]["holderIdentity"] == SHARDER


async def test_of_two_processes_with_a_shards_name_one_works(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SAY_VALUE)
    project.watch()
    await create(world, one, "a")
    first = await shard(project, "a", *SHORT)
    await counted(first, "one", 1)
    second = await shard(project, "a", *SHORT, runs="second", wait=False)
    waiting = await said(second, "Waiting for the lease")
    assert waiting["holder"].startswith("a ")
    begun = datetime.now(UTC)

    async def for_long() -> bool:
        renewed = (await shard_lease(world, one.namespace, "a"))["spec"]["renewTime"]
        return datetime.fromisoformat(renewed) - begun > timedelta(seconds=SHORT_SECONDS + 1)

    await until(for_long, "the Lease is renewed for longer than it would last by itself")
    await world.patch(THING, one, {"spec": {"value": 1}})
    await counted(first, "one", 2)
    assert lines(second, "Running") == lines(second, "In the ring") == []
    first.process.kill()
    first.process.wait()
    await expire(world, one.namespace, "a")
    await said(second, "In the ring")
    await world.patch(THING, one, {"spec": {"value": 2}})
    await succeeded_with(world, one, 3)


async def succeeded_with(world: Cluster, key: ObjectKey, generation: int) -> None:
    async def served() -> bool:
        obj = await world.get(THING, key) or {}
        return bool((obj.get("status") or {}).get("observedGeneration") == generation)

    await until(served, f"{key} was run in its generation {generation}")


async def test_runners_share_crs_by_label_selectors(
    project: Project, world: Cluster, one: ObjectKey, tmp_path: Path
) -> None:
    project.role(SAY_VALUE)
    project.watch(reconcilePeriod="10h")
    first, second = [
        await project.start(f"--watch-label-selector={selector}", f"--runs-dir={project.runs / name}")
        for name, selector in (("a", "tier=a"), ("b", "tier in (b, c),!paused"))
    ]
    obj = thing()
    obj["metadata"]["labels"] = {"tier": "a"}
    await world.create(obj, one.namespace)
    await world.create(thing("nobodys"), one.namespace)
    await counted(first, "one", 1)

    # It goes to the other, with an edit on the way.
    await world.patch(THING, one, {"metadata": {"labels": {"tier": "none"}}})
    await world.patch(THING, one, {"spec": {"value": 1}})
    await world.patch(THING, one, {"metadata": {"labels": {"tier": "c"}}})
    await succeeded_with(world, one, 2)
    await counted(second, "one", 1)
    await later(world, first, one.namespace, tier="a")
    assert len(lines(first, "Running", name="one")) == 1
    assert folders(project, "a") != []
    assert lines(first, "The CR is gone") == []

    # One that no selector has is left alone, and is run again when it comes back.
    await world.patch(THING, one, {"metadata": {"labels": {"paused": "yes"}}})
    await world.patch(THING, one, {"spec": {"value": 2}})
    await world.patch(THING, one, {"metadata": {"labels": {"paused": None}}})
    await succeeded_with(world, one, 3)
    assert {line["name"] for line in [*lines(first, "Running"), *lines(second, "Running")]} == {"one", "later"}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param(["--controller-ring=r", "--leader-elect", "--leader-election-id=x"], "exclude each other", id="leader"),
        pytest.param([f"--controller-ring={'r' * 64}"], "at most 63", id="long-ring"),
        pytest.param(["--controller-ring=r", "--shard-name=A_b"], "--shard-name 'A_b' cannot be used", id="shard-name"),
        pytest.param(["--shard-name=a"], "give --controller-ring as well", id="no-ring"),
        pytest.param(["--watch-label-selector=a b"], "'a b' is no label selector", id="selector"),
        pytest.param(["--controller-ring=r", "--shard-name=a"], "name it with --leader-election-namespace", id="namespace"),
    ],
)
async def test_flags_that_cannot_be_used(project: Project, world: Cluster, flags: list[str], expected: str) -> None:
    project.role(SAY_VALUE)
    project.watch()
    result = await asyncio.to_thread(run, project, *flags, POD_NAMESPACE="")
    assert result.returncode != 0
    assert expected in result.stderr
    assert len([line for line in result.stderr.splitlines() if "Error" in line]) == 1
    assert "Traceback" not in result.stderr
