"""What a project brings for Ansible itself is heeded: ansible.cfg, inventory, arguments, and files beside its playbooks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.driver import Cluster, condition, until
from runner.control.broken_conditionals import TOLD
from runner.executor.environment import has_tags
from runner.resource.metadata import ObjectKey
from tests.behaviour.test_runs import counted, succeeded
from tests.conftest import THING, Project, lines, thing

FILTER = """
class FilterModule:
    def filters(self):
        return {"shout": str.upper}
"""


def files(project: Project, **texts: str) -> None:
    """Write files of the project; `__` in a name stands for `/`."""
    for name, text in texts.items():
        path = project.folder / name.replace("__", "/")
        path = path.with_name(path.name.replace("_py", ".py").replace("_yml", ".yml").replace("_cfg", ".cfg"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def seen(project: Project) -> object:
    return json.loads((project.folder / "seen").read_text())


def writes(project: Project, expression: str) -> str:
    """A task that writes down what an expression comes to."""
    text = json.dumps("{{ " + expression + " | to_json }}")
    return f"- ansible.builtin.copy:\n    dest: {project.folder / 'seen'}\n    content: {text}\n"


async def test_ansible_cfg_of_the_operators_folder_counts(project: Project, world: Cluster, one: ObjectKey) -> None:
    files(
        project,
        ansible_cfg="[defaults]\nfilter_plugins = ./plugins\nroles_path = ./more\n",
        plugins__shout_py=FILTER,
        more__other__defaults__main_yml="word: hello\n",
    )
    # Its sibling stands beside it, the other where ansible.cfg says.
    project.role("sibling: here\n", name="sibling")
    (project.folder / "roles/sibling/tasks").rename(project.folder / "roles/sibling/defaults")
    project.role(
        "- ansible.builtin.include_role: {name: other, public: true}\n"
        "- ansible.builtin.include_role: {name: sibling, public: true}\n" + writes(project, "[word | shout, sibling]")
    )
    project.watch()
    await project.start()
    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    assert seen(project) == ["HELLO", "here"]


async def test_a_playbook_finds_what_is_beside_it(project: Project, world: Cluster, one: ObjectKey) -> None:
    files(
        project,
        playbooks__play_yml="- hosts: localhost\n  gather_facts: false\n  roles: [plain]\n  tasks:\n"
        "    - ansible.builtin.include_tasks: more.yml\n",
        playbooks__more_yml="- ansible.builtin.include_vars: vars/words.yml\n"
        + writes(project, "[word | shout, plain, playbook_dir]"),
        playbooks__vars__words_yml="word: hello\n",
        playbooks__filter_plugins__shout_py=FILTER,
        roles__plain__defaults__main_yml="plain: found\n",
    )
    project.watch(playbook="playbooks/play.yml")
    await project.start()
    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    assert seen(project) == ["HELLO", "found", str(project.folder / "playbooks")]


@pytest.mark.parametrize(
    "inventory", ["{folder}/inventory", "inventory", "inventory/hosts"], ids=["absolute", "folder", "file"]
)
async def test_an_inventory_of_the_operators_own(project: Project, world: Cluster, one: ObjectKey, inventory: str) -> None:
    files(
        project,
        inventory__hosts="[test]\nhere ansible_connection=local\n\n"
        f"[test:vars]\nansible_python_interpreter={sys.executable}\n",
        inventory__group_vars__test_yml="sentinel: from group_vars\n",
        inventory__host_vars__localhost_yml="never: seen\n",
        play_yml="- hosts: test\n  gather_facts: false\n  tasks:\n"
        "    - ansible.builtin.set_fact: {word: '{{ sentinel }}'}\n"
        "- hosts: localhost\n  gather_facts: false\n  tasks:\n    - ansible.builtin.command: echo hello\n    "
        + writes(project, "[hostvars.here.word, groups.test, size]").replace("\n", "\n    "),
    )
    project.role("- ansible.builtin.debug: {msg: '{{ size }}'}\n")
    project.watch(playbook="play.yml")
    await project.start(ANSIBLE_INVENTORY=inventory.format(folder=project.folder))
    await world.create(thing(size=2), one.namespace)
    obj = await succeeded(world, one)
    assert seen(project) == ["from group_vars", ["here"], 2]
    # The counters are localhost's, as the Go operator counts.
    assert condition(obj, "Running")["ansibleResult"]["ok"] == 2


async def test_a_role_runs_on_localhost_whatever_the_inventory(project: Project, world: Cluster, one: ObjectKey) -> None:
    files(project, hosts="[test]\nelsewhere.example.com\n")
    project.role(writes(project, "[inventory_hostname, groups.test | default('none')]"))
    project.watch()
    operator = await project.start(ANSIBLE_INVENTORY="hosts")
    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    assert seen(project) == ["localhost", ["elsewhere.example.com"]]
    # Without it, what an earlier operator left is of no account.
    assert operator.stop() == 0
    operator = await project.start()
    await counted(operator, "one", 1)
    assert seen(project) == ["localhost", "none"]


def vault(project: Project, text: str) -> str:
    """The text, encrypted with the project's password."""
    password = project.folder / "password"
    password.write_text("abc123\n")
    command = [Path(sys.executable).with_name("ansible-vault"), "encrypt_string", "--vault-password-file", password]
    done = subprocess.run([*command, text, "--name", "word"], check=True, capture_output=True, text=True)
    return done.stdout


async def test_arguments_for_ansible_playbook(project: Project, world: Cluster, one: ObjectKey) -> None:
    files(project, secrets_yml=vault(project, "thisisatest"))
    project.role(
        "- ansible.builtin.include_vars: {file: '{{ where }}'}\n"
        + writes(project, "[word, ansible_run_tags, extra]")
        + "- ansible.builtin.fail:\n  tags: other\n"
    )
    tasks = project.folder / "roles/thing/tasks/main.yml"
    tasks.write_text(tasks.read_text().replace("- ansible.builtin.include", "- tags: mine\n  ansible.builtin.include"))
    tasks.write_text(tasks.read_text().replace("- ansible.builtin.copy", "- tags: mine\n  ansible.builtin.copy"))
    project.watch(vars={"where": str(project.folder / "secrets.yml")})
    # Relative to the operator's folder; the quotes are a manifest's.
    await project.start("--ansible-args='--vault-password-file password --tags mine -e extra=given'")
    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    assert seen(project) == ["thisisatest", ["mine"], "given"]


async def test_a_check_changes_nothing(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(writes(project, "'word'"))
    project.watch()
    await project.start("--ansible-args=--check")
    await world.create(thing(), one.namespace)
    assert condition(await succeeded(world, one), "Running")["ansibleResult"]["changed"] == 1
    assert not (project.folder / "seen").exists()


BROKEN = """
- {name: Number, ansible.builtin.debug: {msg: yes}, when: spec_list | length}
- {name: Skipped, ansible.builtin.debug: {msg: no}, when: "spec_text | default('')"}
"""


@pytest.mark.skipif(not has_tags(), reason="until ansible-core 2.18 every condition is allowed")
async def test_conditions_that_give_no_boolean_are_allowed_and_told_once(
    project: Project, world: Cluster, namespace: str
) -> None:
    project.role(BROKEN)
    project.watch()
    operator = await project.start()
    for name in ("one", "two"):
        await world.create(thing(name, specList=[1], specText=""), namespace)
        await succeeded(world, ObjectKey(namespace, name))
    main = project.folder / "roles/thing/tasks/main.yml"
    (told,) = lines(operator, TOLD)
    assert told["at"] == [f"{main}:2", f"{main}:3"]


@pytest.mark.skipif(not has_tags(), reason="until ansible-core 2.18 every condition is allowed")
async def test_an_operator_may_refuse_them(project: Project, world: Cluster, one: ObjectKey) -> None:
    files(project, ansible_cfg="[defaults]\nallow_broken_conditionals = false\n")
    project.role(BROKEN)
    project.watch()
    await project.start()
    await world.create(thing(specList=[1]), one.namespace)

    async def failed() -> str | None:
        found = condition(await world.get(THING, one), "Failure")
        return found["message"] if found.get("status") == "True" else None

    assert "boolean" in await until(failed, "the run has failed")
