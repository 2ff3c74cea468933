"""The modules as a role calls them: by ansible-playbook, against the devcluster."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from bench.driver import Cluster
from devkit.devcluster import Cluster as Devcluster
from runner.executor.environment import COLLECTIONS
from runner.resource.metadata import ObjectKey
from tests.conftest import THING, thing

sys.path.append(str(COLLECTIONS))

Results = list[dict[str, Any]]


def play(folder: Path, devcluster: Devcluster, tasks: list[dict[str, Any]]) -> Results:
    """What each of the tasks gave, failed ones as well."""
    names = [f"result_{number}" for number in range(len(tasks))]
    steps = [{**task, "register": name, "ignore_errors": True} for task, name in zip(tasks, names, strict=True)]
    content = "{{ [" + ", ".join(names) + "] | to_json }}"
    steps.append({"ansible.builtin.copy": {"content": content, "dest": str(folder / "results.json")}})
    variables = {"ansible_python_interpreter": sys.executable}
    plays = [{"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": steps}]
    (folder / "play.yml").write_text(yaml.safe_dump(plays))
    subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local", "play.yml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS), "K8S_AUTH_KUBECONFIG": str(devcluster.kubeconfig)},
        check=True,
        timeout=300,
        capture_output=True,
    )
    results: Results = json.loads((folder / "results.json").read_text())
    return results


def k8s_status(namespace: str, name: str = "one", **options: Any) -> dict[str, Any]:
    address = {"api_version": THING.api_version, "kind": THING.kind, "name": name, "namespace": namespace}
    return {"operator_sdk.util.k8s_status": {**address, **options}}


async def test_status_is_added_to_and_written_only_when_it_changes(
    world: Cluster, devcluster: Devcluster, namespace: str, one: ObjectKey, tmp_path: Path
) -> None:
    await world.create(thing(), namespace)
    ready = {"type": "Ready", "status": "True", "reason": "Done"}
    synced = {"type": "Synced", "status": False}
    # What the kind's own schema allows in a condition is the API server's to say.
    odd = {"type": "Odd", "status": "True", "reason": "not one word", "further": 1}
    first, again, dry, second, free, replaced, replaced_again = play(
        tmp_path,
        devcluster,
        [
            k8s_status(namespace, status={"nodes": ["a"], "deep": {"x": 1}}, conditions=[ready]),
            k8s_status(namespace, status={"nodes": ["a"]}, conditions=[ready]),
            {**k8s_status(namespace, status={"nodes": ["z"]}), "check_mode": True},
            k8s_status(namespace, status={"deep": {"y": 2}}, conditions=[synced]),
            k8s_status(namespace, status={"conditions": [odd]}, conditions=[]),
            k8s_status(namespace, status={"only": "this"}, conditions=[synced], force=True),
            k8s_status(namespace, status={"only": "this"}, conditions=[synced], force=True),
        ],
    )
    results = (first, again, dry, second, free, replaced, replaced_again)
    assert [result["changed"] for result in results] == [True, False, True, True, True, True, False]
    assert first["result"]["metadata"]["resourceVersion"] == again["result"]["metadata"]["resourceVersion"]
    status = second["result"]["status"]
    assert (status["nodes"], status["deep"]) == (["a"], {"x": 1, "y": 2})
    assert [(item["type"], item["status"]) for item in status["conditions"]] == [("Ready", "True"), ("Synced", "False")]
    assert status["conditions"][0] == first["result"]["status"]["conditions"][0]
    assert free["result"]["status"]["conditions"][:2] == status["conditions"]
    assert odd.items() <= free["result"]["status"]["conditions"][2].items()
    found = await world.get(THING, one)
    assert found is not None
    assert found["status"] == {"only": "this", "conditions": [status["conditions"][1]]}


async def test_the_status_of_a_core_kind_needs_no_api_version(
    world: Cluster, devcluster: Devcluster, namespace: str, tmp_path: Path
) -> None:
    address = {"kind": "Namespace", "name": namespace}
    condition = {"type": "Ready", "status": "True"}
    (result,) = play(tmp_path, devcluster, [{"operator_sdk.util.k8s_status": {**address, "conditions": [condition]}}])
    assert condition.items() <= result["result"]["status"]["conditions"][0].items()


async def test_mistakes_are_told_in_a_sentence(
    world: Cluster, devcluster: Devcluster, namespace: str, tmp_path: Path
) -> None:
    await world.create(thing(), namespace)
    ready = [{"type": "Ready", "status": "True"}]
    twice, missing, unknown, bad, duration, good = play(
        tmp_path,
        devcluster,
        [
            k8s_status(namespace, status={"conditions": ready}, conditions=ready),
            k8s_status(namespace, name="nobody", status={"x": 1}),
            k8s_status(namespace, kind="Nothing", status={"x": 1}),
            k8s_status(namespace, conditions=[{"type": "Ready", "status": "perhaps"}]),
            {"operator_sdk.util.requeue_after": {"time": "soon"}},
            {"operator_sdk.util.requeue_after": {"time": "1m30s"}},
        ],
    )
    assert all(result["failed"] for result in (twice, missing, unknown, bad, duration))
    assert "conditions are given twice" in twice["msg"]
    assert f"Thing {namespace}/nobody does not exist" in missing["msg"]
    assert missing["error"]["status"] == 404
    assert unknown["msg"] == f"the cluster has no kind Nothing in {THING.api_version}"
    assert "must be one of True, False, Unknown" in bad["msg"]
    assert "'soon' is no duration" in duration["msg"]
    assert (good["period"], good["changed"]) == ("1m30s", False)


def test_the_arguments_are_those_that_roles_have() -> None:
    def documented(name: str) -> dict[str, Any]:
        """Of the module, and of those of its arguments that have some, by their names."""
        module = importlib.import_module(f"ansible_collections.operator_sdk.util.plugins.modules.{name}")
        options = yaml.safe_load(module.DOCUMENTATION)["options"]
        accepted = module.ARGUMENT_SPEC
        assert names(options, "suboptions") == names(accepted, "options")
        for option, spec in options.items():
            for key in ("required", "default", "aliases", "choices", "elements", "type"):
                assert spec.get(key, None) == accepted[option].get(key, None), (name, option, key)
        return names(options, "suboptions")

    def names(options: dict[str, Any], below: str) -> dict[str, Any]:
        return {name: names(option[below], below) if below in option else {} for name, option in options.items()}

    def plain(text: str) -> dict[str, Any]:
        return {name: {} for name in text.split()}

    assert documented("k8s_status") == {
        **plain("api_version kind name namespace status replace replace_lists"),
        "conditions": plain("type status reason message lastHeartbeatTime lastTransitionTime"),
    }
    assert documented("k8s_event") == {
        **plain("state name namespace merge_type message reason type reportingComponent appendTimestamp"),
        "source": plain("component"),
        "involvedObject": plain("apiVersion kind name namespace"),
    }
    assert documented("osdk_metric") == {
        **plain("name description address"),
        "counter": plain("increment add"),
        "gauge": plain("set increment decrement add subtract set_to_current_time"),
        "histogram": plain("observe"),
        "summary": plain("observe"),
    }
