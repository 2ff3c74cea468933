"""Dependents in shards: each shard has its own watched by label, and nothing that happens to them is missed."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bench.driver import Cluster, Operator, until
from devkit.devcluster import Cluster as Devcluster
from runner.resource.metadata import GroupVersionKind, Object, ObjectKey, labels_of
from runner.resource.sharding import Shard
from tests.behaviour.test_dependents import CONFIG_MAP, MAKE_CONFIG_MAP, blue
from tests.behaviour.test_runs import counted, succeeded
from tests.conftest import THING, Project, lines, thing
from tests.sharding import setup

RING = "dependents"
LABEL = Shard(RING, "").label


@pytest.fixture
async def ring(world: Cluster, devcluster: Devcluster, namespace: str, tmp_path: Path) -> AsyncIterator[str]:
    """A ring of this namespace, with a sharder."""
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    await setup.install(world, RING, {"things.test.example.com": ["configmaps"]}, namespaceSelector=here)
    sharder = setup.start(devcluster.kubeconfig, tmp_path, sync_period=5)
    try:
        await setup.ready(world, RING)
        yield RING
        assert sharder.process.poll() is None
    finally:
        sharder.kill()
        await setup.uninstall(world, RING)


async def started(project: Project, name: str) -> Operator:
    """A shard, with a folder for runs of its own."""
    runs = tempfile.mkdtemp(prefix=f"runs-{name}-", dir=project.folder)
    flags = (f"--controller-ring={RING}", f"--shard-name={name}", f"--leader-election-namespace={project.namespace}")
    return await project.start(*flags, f"--runs-dir={runs}")


async def assigned(world: Cluster, gvk: GroupVersionKind, key: ObjectKey) -> str:
    """The shard of an object: mostly from its creation on, but the sharder's webhook may have been asked in vain."""

    async def shard() -> str | None:
        return labels_of(await world.get(gvk, key) or {}).get(LABEL)

    return await until(shard, f"{key} is given to a shard")


async def of_each(world: Cluster, namespace: str, *shards: str) -> dict[str, str]:
    """By shard: the name of a new CR of its own."""
    found: dict[str, str] = {}
    for number in range(50):
        made = await world.create(thing(f"thing-{number}"), namespace)
        shard = await assigned(world, THING, ObjectKey.of(made))
        if shard in found:
            await world.delete(THING, ObjectKey.of(made))
        found.setdefault(shard, f"thing-{number}")
        if found.keys() >= set(shards):
            return found
    raise AssertionError(f"all of 50 CRs are given to {list(found)}")


@pytest.fixture
async def late(world: Cluster, namespace: str) -> AsyncIterator[set[ObjectKey]]:
    """The ConfigMaps that had no shard when they were created, as the sharder's webhook was asked in vain."""
    found: set[ObjectKey] = set()

    def notify(before: Object | None, after: Object | None) -> None:
        if before is None and after is not None and LABEL not in labels_of(after):
            found.add(ObjectKey.of(after))

    async with world.following(CONFIG_MAP, namespace, notify):
        yield found


def assert_two_runs(operator: Operator, key: ObjectKey, *, is_late: bool) -> None:
    """One for a CR's creation and one for the change of its ConfigMap.

    One more if the sharder was late: its label is somebody else's change if it comes before the run knows what it has made.
    """
    found = [line["cause"] for line in lines(operator, "Running", name=key.name)]
    expected = [["created", f"ConfigMap {key} changed: data.color"]]
    if is_late:
        labelled = ["created", f"ConfigMap {key} changed during the run"]
        # The test's change may come while that run is on.
        expected += [[*labelled, cause] for cause in (expected[0][1], labelled[1])]
    assert found in expected


async def test_a_shard_watches_its_own_dependents_and_misses_nothing(
    project: Project, world: Cluster, namespace: str, ring: str, late: set[ObjectKey]
) -> None:
    project.role(MAKE_CONFIG_MAP)
    project.watch()
    operators = {name: await started(project, name) for name in ("a", "b")}
    await setup.ready(world, ring, shards=2)
    names = await of_each(world, namespace, "a", "b")
    for shard, operator in operators.items():
        key = ObjectKey(namespace, names[shard])
        await succeeded(world, key)
        made = await blue(world, key)
        (reference,) = made["metadata"]["ownerReferences"]
        assert (reference["name"], reference["controller"]) == (key.name, True)
        assert await assigned(world, CONFIG_MAP, key) == shard
        # Its creation is the run's own, though it comes into a watch by label.
        await world.patch(CONFIG_MAP, key, {"data": {"color": "red"}})
        await blue(world, key)
        await counted(operator, key.name, 2)
        (watching,) = lines(operator, "Watching dependents")
        assert (watching["resource"], watching["selector"]) == ("configmaps.v1", f"{LABEL} in ({shard})")

    # Its CRs and what they own go to the other one.
    moved = ObjectKey(namespace, names["b"])
    own = ObjectKey(namespace, names["a"])
    gone = operators.pop("b")
    gone.stop()
    assert_two_runs(gone, moved, is_late=moved in late)
    await counted(operators["a"], moved.name, 1)

    async def followed() -> dict[str, Any] | None:
        found = await world.get(CONFIG_MAP, moved)
        return found if found and labels_of(found)[LABEL] == "a" else None

    before = await until(followed, "the dependent has followed its CR")
    await world.delete(CONFIG_MAP, moved)
    await blue(world, moved, other_than=before["metadata"]["uid"])
    operator = operators["a"]
    await counted(operator, moved.name, 2)
    assert_two_runs(operator, own, is_late=own in late)
    # Once more if the dependent came while the run that was to look at it was on.
    assert len(lines(operator, "Running", name=moved.name)) in (2, 3)
    assert not lines(operator, "Dependents are watched whole from now on")


async def test_what_was_made_before_sharding_is_watched_as_well(
    project: Project, world: Cluster, namespace: str, ring: str
) -> None:
    project.role(MAKE_CONFIG_MAP)
    project.watch()
    await world.create(thing(), namespace)
    one = ObjectKey(namespace, "one")
    operator = await project.start()
    await counted(operator, "one", 1)
    assert LABEL not in labels_of(await blue(world, one))
    operator.stop()
    operator = await started(project, "a")
    await counted(operator, "one", 1)
    (whole,) = lines(operator, "Dependents are watched whole from now on")
    assert whole["object"] == str(one)
    await world.patch(CONFIG_MAP, one, {"data": {"color": "red"}})
    await blue(world, one)
    await counted(operator, "one", 2)
