"""What a user notices of runs: when they happen, what the role sees, what the status says."""

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench.driver import Cluster, Operator, condition, until
from runner.executor.environment import has_tags
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.conftest import THING, Project, alive, crd, lines, paths_below, thing

EVENT = GroupVersionKind("events.k8s.io", "v1", "Event")

SAY_HELLO = """
- name: Say hello
  ansible.builtin.debug:
    msg: hello
"""


async def succeeded(world: Cluster, key: ObjectKey, generation: int = 0) -> dict[str, object]:
    """The CR, once its last run, in this generation or any, has succeeded.

    Another one may be about to begin, by whatever causes runs: the status says so only somewhat later.
    """

    async def done() -> dict[str, object] | None:
        obj = await world.get(THING, key)
        running = condition(obj, "Running")
        good = condition(obj, "Successful").get("status") == "True" and running.get("reason") == "Successful"
        return obj if obj and good and generation in (0, obj["status"].get("observedGeneration")) else None

    return await until(done, f"{key} succeeded")


async def events(world: Cluster, namespace: str, name: str) -> list[dict[str, Any]]:
    """The Events about the CR of this name."""
    return [item for item in await world.list(EVENT, namespace) if item["regarding"]["name"] == name]


async def counted(operator: Operator, name: str, count: int, message: str = "Run succeeded") -> None:
    async def enough() -> bool:
        assert operator.process.poll() is None, operator.output
        return len(lines(operator, message, name=name)) >= count

    await until(enough, f"{count} times {message!r} for {name}")


async def test_a_cr_is_run_and_its_status_says_so(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SAY_HELLO)
    project.watch()
    operator = await project.start()
    await world.create(thing(), one.namespace)
    obj = await succeeded(world, one)
    assert condition(obj, "Running") == {
        "type": "Running",
        "status": "True",
        "reason": "Successful",
        "message": "Awaiting next reconciliation",
        "lastTransitionTime": condition(obj, "Running")["lastTransitionTime"],
        "ansibleResult": {
            "ok": 1,
            "changed": 0,
            "skipped": 0,
            "failures": 0,
            "completion": condition(obj, "Running")["ansibleResult"]["completion"],
        },
    }
    assert condition(obj, "Successful")["message"] == "Last reconciliation succeeded"
    assert condition(obj, "Failure")["status"] == "False"
    (line,) = lines(operator, "Run succeeded")
    assert (line["kind"], line["namespace"], line["name"]) == ("Thing", one.namespace, "one")
    assert operator.stop() == 0
    assert "Traceback" not in operator.output


async def test_the_role_sees_the_cr(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("""
- name: Write down what is seen
  ansible.builtin.copy:
    dest: "{{ out }}"
    content: "{{ {'conns': max_conns, 'meta': ansible_operator_meta, 'kind': _test_example_com_thing.kind,
      'spec': _test_example_com_thing_spec, 'mine': mine,
      'environment': query('ansible.builtin.env', 'KUBECONFIG', 'K8S_AUTH_KUBECONFIG', 'OPERATORS_OWN')} | to_json }}"
""")
    project.watch(vars={"mine": "{{ max_conns + 1 }}", "out": str(project.folder / "seen.json")})
    await project.start(OPERATORS_OWN="handed down")
    await world.create(thing(maxConns=4), one.namespace)
    await succeeded(world, one)
    seen = json.loads((project.folder / "seen.json").read_text())
    kubeconfig, of_modules, own = seen.pop("environment")
    assert Path(of_modules).parent == Path(kubeconfig).parent
    assert own == "handed down"
    assert seen == {
        "conns": 4,
        "meta": {"name": "one", "namespace": one.namespace},
        "kind": "Thing",
        "spec": {"maxConns": 4},
        # A number by itself is text until ansible-core 2.18.
        "mine": 5 if has_tags() else "5",
    }
    assert not Path(kubeconfig).exists()


async def test_a_playbook_runs_as_well(project: Project, world: Cluster, one: ObjectKey) -> None:
    (project.folder / "play.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n  tasks:\n" + SAY_HELLO.replace("\n", "\n  ")
    )
    project.watch(playbook="play.yml")
    await project.start()
    await world.create(thing(), one.namespace)
    assert condition(await succeeded(world, one), "Running")["ansibleResult"]["ok"] == 1


async def test_only_a_change_of_the_spec_causes_a_run(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SAY_HELLO)
    project.watch()
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    await world.patch(THING, one, {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}})
    status = await world.path(THING, one) + "/status"
    await world.client.patch(status, {"status": {"mine": "x"}})
    # A second CR's run, begun later, shows that the first had its chance.
    await world.create(thing("two"), one.namespace)
    await succeeded(world, ObjectKey(one.namespace, "two"))
    assert len(lines(operator, "Running", name="one")) == 1
    await world.patch(THING, one, {"spec": {"size": 2}})
    await counted(operator, "one", 2)
    obj = await succeeded(world, one, 2)
    assert obj["status"]["mine"] == "x"  # type: ignore[index]


async def test_changes_during_a_run_cause_exactly_one_more(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("""
- name: Wait until told to go on
  ansible.builtin.wait_for:
    path: "{{ gate }}"
    sleep: 1
    timeout: 170
""")
    gate = project.folder / "gate"
    project.watch(vars={"gate": str(gate)})
    operator = await project.start("--log-level=debug")
    await world.create(thing(), one.namespace)
    await counted(operator, "one", 1, "Running")
    for size in range(3):
        await world.patch(THING, one, {"spec": {"size": size}})
    # Of this the watch tells after all those changes, which have then come during the run.
    await world.create(thing("two"), one.namespace)
    await counted(operator, "two", 1, "Queued")
    gate.touch()
    await counted(operator, "one", 2)
    await world.create(thing("three"), one.namespace)
    await counted(operator, "three", 1)
    assert len(lines(operator, "Running", name="one")) == 2


async def test_a_role_fails_is_mended_and_succeeds(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("""
- name: Try
  ansible.builtin.fail:
    msg: the moon is in the wrong phase
""")
    project.watch()
    operator = await project.start()
    await world.create(thing(), one.namespace)
    # What comes last in a run's log, so that all that is looked at below stands there.
    await counted(operator, "one", 3, "Will be tried again")
    obj = await until(lambda: failed(world, one), "the status tells the failure")
    assert condition(obj, "Failure")["message"] == "the moon is in the wrong phase"
    assert condition(obj, "Failure")["ansibleResult"]["failures"] == 1
    assert condition(obj, "Successful")["status"] == "False"
    task = lines(operator, "Task failed", name="one")[0]
    assert task["task"] == "Try"
    assert task["at"].endswith("roles/thing/tasks/main.yml:2")
    assert task["error"] == "the moon is in the wrong phase"
    waits = [line["after"] for line in lines(operator, "Will be tried again", name="one")]
    assert waits[:3] == [0.005, 0.01, 0.02]

    told = await until(lambda: events(world, one.namespace, "one"), "an Event tells the failure")
    assert told[0]["reason"] == "RunFailed"
    assert told[0]["note"] == "Task 'Try' failed: the moon is in the wrong phase"
    project.role(SAY_HELLO)
    obj = await succeeded(world, one)
    assert condition(obj, "Failure")["status"] == "False"
    assert condition(obj, "Failure")["message"] == ""


async def failed(world: Cluster, key: ObjectKey) -> dict[str, object] | None:
    obj = await world.get(THING, key)
    return obj if condition(obj, "Failure").get("status") == "True" else None


@pytest.mark.parametrize(
    ("tasks", "good"),
    [
        pytest.param("- ansible.builtin.fail:\n  ignore_errors: true\n", True, id="ignored"),
        pytest.param(
            "- block:\n    - ansible.builtin.fail:\n  rescue:\n" + SAY_HELLO.replace("\n", "\n    "), True, id="rescued"
        ),
        pytest.param(
            "- block:\n    - ansible.builtin.fail: {msg: boo}\n  always:\n" + SAY_HELLO.replace("\n", "\n    "),
            False,
            id="always",
        ),
        pytest.param("- ansible.builtin.command: 'sh -c \"echo out >&2; exit 3\"'\n", False, id="command"),
        pytest.param("- no_such_module:\n", False, id="no-play"),
    ],
)
async def test_what_counts_as_a_failure(project: Project, world: Cluster, one: ObjectKey, tasks: str, good: bool) -> None:
    project.role(tasks)
    project.watch()
    await project.start()
    await world.create(thing(), one.namespace)

    async def outcome() -> str | None:
        obj = await world.get(THING, one)
        if condition(obj, "Failure").get("status") == "True":
            return str(condition(obj, "Failure")["message"])
        return "good" if condition(obj, "Successful").get("status") == "True" else None

    said = await until(outcome, "the run has ended")
    assert (said == "good") is good
    expected = {"always": "boo", "command": "out", "no-play": "no_such_module"}
    for name, words in expected.items():
        if name in tasks or (name == "no-play" and "no_such" in tasks):
            assert words in said


SEND = """
- name: Send
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: sent, namespace: "{{ ansible_operator_meta.namespace }}"}
      data:
        text: a
        size: DATA
"""


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        pytest.param(
            """
- name: Several
  ansible.builtin.command: "sh -c 'echo bad {{ item.name }} >&2; exit {{ item.code }}'"
  loop: [{name: a, code: 1}, {name: b, code: 0}, {name: c, code: 2}]
  loop_control: {label: "{{ item.name }}"}
""",
            "{first}\nitem=a: non-zero return code: bad a\nitem=c: non-zero return code: bad c",
            id="loop",
        ),
        pytest.param(
            "- name: Start\n  ansible.builtin.command: /nowhere/program\n",
            "[Errno 2] No such file or directory: b'/nowhere/program'",
            id="cause",
        ),
        pytest.param(
            "- name: Silent\n  silent:\n",
            " in task 'Silent' ({folder}/roles/thing/tasks/main.yml:1)",
            id="silent",
        ),
        pytest.param(
            SEND.replace("DATA", "5"),
            "json: cannot unmarshal number into Go struct field ConfigMap.data of type string\n"
            "ConfigMap data.size (a number) must be text: quote a literal, and end a template with `| string`",
            id="number",
        ),
        pytest.param(
            SEND.replace("DATA", "true") + "    apply: true\n", "ConfigMap data.size (a boolean) must be text", id="boolean"
        ),
        pytest.param(
            SEND.replace("DATA", "5") + "    apply: true\n    server_side_apply: {field_manager: role}\n",
            "ConfigMap data.size (a number) must be text",
            id="server-side apply",
        ),
        pytest.param(
            SEND.replace("DATA", "b") + SEND.replace("DATA", "5"), "ConfigMap data.size (a number) must be text", id="patch"
        ),
    ],
)
async def test_a_failure_says_what_is_wrong_in_condition_event_and_log(
    project: Project, world: Cluster, one: ObjectKey, tasks: str, said: str
) -> None:
    project.role(tasks)
    library = project.folder / "roles/thing/library/silent.py"
    library.parent.mkdir()
    library.write_text("#!/usr/bin/python\nimport json\nprint(json.dumps({'failed': True}))\n# WANT_JSON\n")
    project.watch()
    operator = await project.start()
    await world.create(thing(), one.namespace)
    obj = await until(lambda: failed(world, one), "the status tells the failure")
    told = await until(lambda: events(world, one.namespace, "one"), "an Event tells the failure")
    first = lines(operator, "Task failed", name="one")[0]["error"]
    said = said.format(first=first.partition("\n")[0], folder=project.folder.resolve())
    for text in (condition(obj, "Failure")["message"], told[0]["note"], first):
        # As ansible-core 2.21 says it.
        assert said in text.replace("The command exited with a non-zero return code.", "non-zero return code")
        assert '"Status"' not in text


async def test_the_role_may_ask_to_be_run_again(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("- operator_sdk.util.requeue_after:\n    time: 1s\n")
    project.watch()
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await counted(operator, "one", 3)


def annotated(name: str, **annotations: str) -> dict[str, Any]:
    obj = thing(name)
    prefix = "ansible.sdk.operatorframework.io/"
    obj["metadata"]["annotations"] = {prefix + key.replace("_", "-"): text for key, text in annotations.items()}
    return obj


async def test_a_period_that_is_none_is_told(project: Project, world: Cluster, one: ObjectKey) -> None:
    """A module of the role's own may be called requeue_after, too."""
    project.role("- requeue_after:\n")
    library = project.folder / "roles/thing/library/requeue_after.py"
    library.parent.mkdir()
    library.write_text("""
from ansible.module_utils.basic import AnsibleModule

AnsibleModule(argument_spec={}).exit_json(changed=False, period=5)
""")
    project.watch()
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    text = "The period that requeue_after gave cannot be used: '5' is no duration; write it as 30s, 5m, 1h30m or 10h"
    await until(lambda: events(world, one.namespace, "one"), "an Event tells it")
    assert len(lines(operator, text, name="one")) == 1
    # The reconcile goes on after its Event; the next one of the CR begins when it is over.
    await world.patch(THING, one, {"spec": {"size": 1}})
    await counted(operator, "one", 2)
    assert lines(operator, "Will be tried again") == []


async def test_the_period_and_its_annotation(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SAY_HELLO)
    project.watch(reconcilePeriod="1s")
    operator = await project.start()
    wrong = annotated("wrong", reconcile_period="soon")
    for obj in (annotated("seldom", reconcile_period="1h"), annotated("never", reconcile_period="0"), wrong, thing()):
        await world.create(obj, one.namespace)
    await counted(operator, "one", 3)
    await counted(operator, "wrong", 2)
    for name in ("seldom", "never"):
        await counted(operator, name, 1)
    assert len(lines(operator, "Running", name="seldom")) == 1
    assert len(lines(operator, "Running", name="never")) == 1
    text = "Unable to parse reconcile period annotation: 'soon' is no duration; write it as 30s, 5m, 1h30m or 10h"
    assert len(lines(operator, text, name="wrong")) == 1
    assert [event["reason"] for event in await events(world, one.namespace, "wrong")] == ["BadAnnotation"]


async def test_artifacts_and_verbosity_of_one_cr(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SAY_HELLO)
    project.watch(reconcilePeriod="1s", maxRunnerArtifacts=2)
    operator = await project.start()
    for obj in (annotated("all", max_runner_artifacts="0"), annotated("one", verbosity="3", max_runner_artifacts="some")):
        await world.create(obj, one.namespace)
    for name in ("all", "one"):
        await counted(operator, name, 4)
    operator.stop()

    def artifacts(name: str) -> list[Path]:
        found = project.runs.glob(f"**/{name}/artifacts/*/command")
        return sorted(path for path in found if not path.parent.is_symlink())

    assert len(artifacts("one")) == 2
    assert len(artifacts("all")) >= 4
    (*_, last) = artifacts("one")
    assert "-vvv" in json.loads(last.read_text())["command"]
    assert "-v" not in " ".join(json.loads(artifacts("all")[0].read_text())["command"]).split()


async def test_a_run_that_takes_too_long_is_ended(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(
        """
- name: Dawdle
  ansible.builtin.shell: echo $$ > {{ lookup('env', 'PWD') }}/pids; sleep 3600 & wait
  args: {chdir: "{{ outside }}"}
""".replace("{{ lookup('env', 'PWD') }}", str(project.folder))
    )
    project.watch(timeout="3s", vars={"outside": str(project.folder)})
    operator = await project.start()
    await world.create(thing(), one.namespace)
    text = "The run was ended at its timeout of 3 s, in task 'Dawdle'"

    async def failed() -> bool:
        return condition(await world.get(THING, one), "Failure").get("message") == text

    async def begun() -> int:
        # A run whose time is over before this is tried again, and the next one may just be about to write.
        with contextlib.suppress(OSError, ValueError):
            return int((project.folder / "pids").read_text())
        return 0

    await until(failed, "the condition says so")
    assert lines(operator, "The run came to nothing", error=text)
    shell = await until(begun, "the task's shell was started")
    operator.stop()
    assert alive([shell]) == []


async def test_the_generation_that_was_run_is_observed(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("- ansible.builtin.assert: {that: size | default(0) != 2}")
    project.watch()
    await project.start()
    await world.create(thing(), one.namespace)
    assert (await succeeded(world, one))["status"]["observedGeneration"] == 1  # type: ignore[index]
    await world.patch(THING, one, {"spec": {"size": 2}})

    async def observed() -> bool:
        obj = await world.get(THING, one) or {}
        return bool(condition(obj, "Failure").get("status") == "True" and obj["status"]["observedGeneration"] == 2)

    await until(observed, "a failed run has observed it as well")


@pytest.mark.parametrize("place", [{}, {"observedGeneration": {"type": "string"}}], ids=["none", "another's"])
async def test_a_crd_without_a_place_for_the_generation(
    project: Project, world: Cluster, one: ObjectKey, place: dict[str, Any]
) -> None:
    gvk = GroupVersionKind("test.example.com", "v1", f"Strict{len(place)}")
    strict = crd(gvk)
    conditions = {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    properties = strict["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    properties["status"] = {"type": "object", "properties": {"conditions": conditions, **place}}
    await world.install(strict)
    project.role(SAY_HELLO)
    project.watch(gvk, reconcilePeriod="1s")
    operator = await project.start()
    await world.create(thing(gvk=gvk), one.namespace)
    await counted(operator, "one", 2)
    obj = await world.get(gvk, one)
    assert obj is not None
    assert "observedGeneration" not in obj["status"]
    assert condition(obj, "Running")


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        ((), {}, {"Task": 1, "Debug": 1, "Event": 0, "Ansible's output": 0}),
        (("--ansible-log-events=nothing",), {}, {"Task": 0, "Debug": 0, "Event": 0, "Ansible's output": 0}),
        (("--ansible-log-events=Everything",), {}, {"Task": 0, "Debug": 0, "Event": 8, "Ansible's output": 0}),
        ((), {"ANSIBLE_DEBUG_LOGS": "true"}, {"Task": 1, "Debug": 1, "Event": 0, "Ansible's output": 1}),
    ],
    ids=["tasks", "nothing", "everything", "debug-logs"],
)
async def test_what_of_a_run_is_logged(
    project: Project,
    world: Cluster,
    one: ObjectKey,
    flags: tuple[str, ...],
    environ: dict[str, str],
    expected: dict[str, int],
) -> None:
    project.role(SAY_HELLO + "- name: Think\n  ansible.builtin.assert: {that: true}\n")
    project.watch()
    operator = await project.start(*flags, **environ)
    await world.create(thing(), one.namespace)
    await counted(operator, "one", 1)
    found = {message: len(lines(operator, message, name="one")) for message in expected}
    assert found.pop("Event") >= expected.pop("Event")
    assert found == expected
    for line in lines(operator, "Debug") + lines(operator, "Ansible's output"):
        assert "hello" in line["output"]
        assert "\x1b" not in line["output"]


async def test_what_the_role_writes_to_the_status_stays(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("""
- operator_sdk.util.k8s_status:
    api_version: test.example.com/v1
    kind: Thing
    name: "{{ ansible_operator_meta.name }}"
    namespace: "{{ ansible_operator_meta.namespace }}"
    status: {phase: done}
    conditions:
      - {type: Ready, status: "True", reason: AllWell, message: all is well}
""")
    project.watch()
    await project.start()
    await world.create(thing(), one.namespace)
    obj = await succeeded(world, one)
    assert obj["status"]["phase"] == "done"  # type: ignore[index]
    assert condition(obj, "Ready")["reason"] == "AllWell"


async def test_a_status_that_is_not_managed_is_left_alone(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SAY_HELLO)
    project.watch(manageStatus=False)
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await counted(operator, "one", 1)
    # Its status would be written after the run; the next run begins when that is over.
    await world.patch(THING, one, {"spec": {"size": 1}})
    await counted(operator, "one", 2)
    obj = await world.get(THING, one)
    assert obj is not None
    assert "status" not in obj


async def test_a_selector_chooses(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SAY_HELLO)
    project.watch(selector={"matchLabels": {"mine": "yes"}})
    operator = await project.start()
    await world.create(thing("other"), one.namespace)
    mine = thing()
    mine["metadata"]["labels"] = {"mine": "yes"}
    await world.create(mine, one.namespace)
    await counted(operator, "one", 1)
    assert lines(operator, "Running", name="other") == []
    await world.patch(THING, ObjectKey(one.namespace, "other"), {"metadata": {"labels": {"mine": "yes"}}})
    await counted(operator, "other", 1)


async def test_only_the_named_namespaces_are_watched(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(SAY_HELLO)
    project.watch()
    await world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one.namespace + "-2"}})
    operator = await project.start(WATCH_NAMESPACE=f"{one.namespace},{one.namespace}-2")
    await world.create(thing("elsewhere"), "default")
    await world.create(thing("two"), one.namespace + "-2")
    await world.create(thing(), one.namespace)
    await counted(operator, "one", 1)
    await counted(operator, "two", 1)
    assert lines(operator, "Running", name="elsewhere") == []
    await world.delete(THING, ObjectKey("default", "elsewhere"))


async def test_namespaces_by_pattern(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("""
- kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: made, namespace: "{{ ansible_operator_meta.namespace }}"}
      data: {a: b}
""")
    project.watch()
    prefix = one.namespace
    operator = await project.start(WATCH_NAMESPACE=f"{prefix}-*,!{prefix}-no")
    for end in ("yes", "no", "late"):
        # The last comes while the operator watches already.
        namespace = f"{prefix}-{end}"
        await world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        await world.create(thing(end), namespace)
    await world.create(thing("outside"), prefix)
    for end in ("yes", "late"):
        await counted(operator, end, 1)
    made = ObjectKey(f"{prefix}-late", "made")
    config_map = GroupVersionKind("", "v1", "ConfigMap")
    await world.delete(config_map, made)
    await until(lambda: world.get(config_map, made), "what was deleted is there again")
    assert lines(operator, "Running", name="no") + lines(operator, "Running", name="outside") == []
    for end in ("yes", "no", "late"):
        await world.delete(GroupVersionKind("", "v1", "Namespace"), ObjectKey("", f"{prefix}-{end}"))


async def test_a_finalizer_runs_before_the_cr_goes(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("""
- ansible.builtin.copy:
    dest: "{{ out }}"
    content: "{{ state }}"
""")
    out = project.folder / "state"
    project.watch(
        vars={"state": "present", "out": str(out)}, finalizer={"name": "example.com/clean", "vars": {"state": "absent"}}
    )
    await project.start()
    await world.create(thing(), one.namespace)
    obj = await succeeded(world, one)
    assert obj["metadata"]["finalizers"] == ["example.com/clean"]  # type: ignore[index]
    assert out.read_text() == "present"
    await world.delete(THING, one)

    async def gone() -> bool:
        return await world.get(THING, one) is None

    await until(gone, "the CR is gone")
    assert out.read_text() == "absent"


async def test_run_folders_are_private_bounded_and_go_with_the_cr(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("- operator_sdk.util.requeue_after:\n    time: 100ms\n")
    project.watch(maxRunnerArtifacts=2)
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await counted(operator, "one", 4)
    folder = project.runs / "test.example.com" / "v1" / "Thing" / one.namespace / "one"
    # As they are at one moment: the next runs go on, and remove them.
    with os.scandir(folder / "artifacts") as entries:
        runs = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    # Two kept, and one that may be going on.
    assert 2 <= len(runs) <= 3
    assert (folder / "artifacts" / "latest" / "stdout").exists() or (folder / "artifacts" / "latest").is_symlink()
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "env" / "extravars").stat().st_mode & 0o077 == 0
    await world.delete(THING, one)

    async def gone() -> bool:
        return not folder.exists()

    await until(gone, "the run folder is gone")
    assert not [path for path in paths_below(project.runs) if path.name == "one"]


async def test_sigterm_lets_runs_end_and_ends_those_that_do_not(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("- ansible.builtin.command: sleep 600\n")
    project.watch()
    operator = await project.start("--graceful-shutdown-timeout=2s")
    await world.create(thing(), one.namespace)

    async def sleeping() -> bool:
        return any("sleep\x00600" in command for command in commands(operator))

    await until(sleeping, "the run is under way")
    processes = operator.processes()
    assert await asyncio.to_thread(operator.stop) == 0
    assert alive(processes) == []
    obj = await world.get(THING, one)
    assert condition(obj, "Failure")["status"] == "True"
    assert condition(obj, "Failure")["message"].startswith("The run was stopped before its end")
    assert condition(obj, "Running")["status"] == "False"


async def test_a_killed_runner_leaves_no_process(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("- ansible.builtin.command: sleep 600\n")
    project.watch()
    operator = await project.start()
    await world.create(thing(), one.namespace)

    async def sleeping() -> bool:
        return any("sleep\x00600" in command for command in commands(operator))

    await until(sleeping, "the run is under way")
    processes = operator.processes()
    operator.process.kill()
    operator.process.wait()

    async def gone() -> bool:
        return not alive(processes)

    await until(gone, "the run's processes are gone")


def commands(operator: Operator) -> list[str]:
    found = []
    for pid in operator.processes():
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_text())
        except OSError:
            continue
    return found
