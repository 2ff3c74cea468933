"""k8s_event as a role calls it: by ansible-playbook, against the devcluster."""

from pathlib import Path
from typing import Any

import pytest

from bench.driver import Cluster
from devkit.devcluster import Cluster as Devcluster
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.collections.test_modules import play
from tests.conftest import THING, crd, thing

EVENT = GroupVersionKind("", "v1", "Event")
WIDE_THING = GroupVersionKind("test.example.com", "v1", "WideThing")


def k8s_event(namespace: str, name: str = "backup", **options: Any) -> dict[str, Any]:
    said = {} if options.get("state") == "absent" else {"reason": "BackupDone", "message": "It is in the bucket"}
    return {"operator_sdk.util.k8s_event": {"name": name, "namespace": namespace, **said, **options}}


async def test_an_event_counts_up_and_begins_anew_with_another_reason(
    world: Cluster, devcluster: Devcluster, namespace: str, one: ObjectKey, tmp_path: Path
) -> None:
    uid = (await world.create(thing(), namespace))["metadata"]["uid"]
    about = {"apiVersion": THING.api_version, "kind": THING.kind, "name": "one", "namespace": namespace}
    whole = {
        "involvedObject": about,
        "type": "Warning",
        "reportingComponent": "example.com/thing",
        "source": {"component": "thing"},
    }
    dry, first, second, third, fourth, other = play(
        tmp_path,
        devcluster,
        [
            {**k8s_event(namespace, **whole), "check_mode": True},
            k8s_event(namespace, **whole),
            k8s_event(namespace, **whole, merge_type=["merge"]),
            k8s_event(namespace, **whole, merge_type=["json", "merge"]),
            {**k8s_event(namespace, **whole), "check_mode": True},
            k8s_event(namespace, **{**whole, "type": "Normal"}, reason="BackupGone", message="It was taken away"),
        ],
    )
    results = (dry, first, second, third, fourth, other)
    assert [result.get("msg") for result in results] == [None] * 6
    assert [result["changed"] for result in results] == [True] * 6
    assert [result["result"]["count"] for result in results] == [1, 1, 2, 3, 4, 1]
    event = third["result"]
    assert {name: event["involvedObject"][name] for name in about} == about
    assert event["involvedObject"]["uid"] == uid
    assert event["firstTimestamp"] == first["result"]["firstTimestamp"]
    assert event["metadata"]["uid"] == first["result"]["metadata"]["uid"]
    assert (event["type"], event["reportingComponent"], event["source"]) == (
        "Warning",
        "example.com/thing",
        {"component": "thing"},
    )
    found = await world.get(EVENT, ObjectKey(namespace, "backup"))
    assert found is not None
    assert (found["count"], found["reason"], found["message"], found["type"]) == (
        1,
        "BackupGone",
        "It was taken away",
        "Normal",
    )


async def test_an_event_may_have_the_time_in_its_name_and_may_be_removed(
    world: Cluster, devcluster: Devcluster, namespace: str, tmp_path: Path
) -> None:
    one, two, removed, again, dry, which = play(
        tmp_path,
        devcluster,
        [
            k8s_event(namespace, appendTimestamp=True),
            k8s_event(namespace),
            k8s_event(namespace, state="absent"),
            k8s_event(namespace, state="absent"),
            {**k8s_event(namespace, name="{{ result_0.result.metadata.name }}", state="absent"), "check_mode": True},
            k8s_event(namespace, state="absent", appendTimestamp=True),
        ],
    )
    (event,) = await world.list(EVENT, namespace)
    assert event["metadata"]["name"] == one["result"]["metadata"]["name"]
    assert event["metadata"]["name"].startswith("backup.20")
    assert (two["result"]["metadata"]["name"], two["result"]["type"]) == ("backup", "Normal")
    assert [result["changed"] for result in (removed, again, dry)] == [True, False, True]
    assert again["result"] == {}
    assert "needs the Event's whole name" in which["msg"]


@pytest.mark.parametrize("given", [None, ""], ids=["absent", "empty"])
async def test_an_event_about_something_without_a_namespace(
    world: Cluster, devcluster: Devcluster, namespace: str, tmp_path: Path, given: str | None
) -> None:
    await world.install(crd(WIDE_THING, scope="Cluster"))
    name = f"{namespace}-wide"
    uid = (await world.create(thing(name, WIDE_THING)))["metadata"]["uid"]
    about = {"apiVersion": WIDE_THING.api_version, "kind": WIDE_THING.kind, "name": name}
    if given is not None:
        about["namespace"] = given
    good, unknown, forgotten = play(
        tmp_path,
        devcluster,
        [
            k8s_event("", name=name, involvedObject=about),
            k8s_event(namespace, involvedObject={**about, "apiVersion": "nothing.example.com/v1"}),
            {"operator_sdk.util.k8s_event": {"name": "x", "namespace": namespace}},
        ],
    )
    assert good["result"]["metadata"]["namespace"] == "default"
    assert good["result"]["involvedObject"]["uid"] == uid
    assert "namespace" not in good["result"]["involvedObject"]
    # Nobody knows such a kind; the Event says what it was told.
    assert unknown["result"]["involvedObject"]["namespace"] == namespace
    assert "state is present but all of the following are missing" in forgotten["msg"]
    await world.delete(EVENT, ObjectKey("default", name))
    await world.delete(WIDE_THING, ObjectKey("", name))


async def test_what_the_api_server_refuses_is_told_in_its_words(
    world: Cluster, devcluster: Devcluster, namespace: str, tmp_path: Path
) -> None:
    elsewhere = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "namespace": "elsewhere"}
    (bad,) = play(tmp_path, devcluster, [k8s_event(namespace, involvedObject=elsewhere)])
    assert bad["msg"].startswith(f"the Event {namespace}/backup could not be written: ")
    assert "does not match event.namespace" in bad["msg"]
    assert bad["error"]["status"] == 422
