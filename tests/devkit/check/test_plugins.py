"""Names compared with what is here; ansible-core's answers are made up."""

from __future__ import annotations

import pytest

from devkit.check import plugins, requirements
from runner.executor.content import Answer, Collection, Content
from tests.devkit.check.conftest import Write, loaded, told

FOUND = {
    **{"include_role": "ansible.builtin.include_role", "debug": "ansible.builtin.debug"},
    **{"k8s": "kubernetes.core.k8s", "upper": "ansible.builtin.upper"},
    **{"docker_container": "community.docker.docker_container", "other.kit.x": "other.kit.x"},
}
NOT_FOUND = {
    "json_query": Answer(redirect="community.general.json_query"),
    "ipaddr": Answer(redirect="ansible.netcommon.ipaddr"),
    "include": Answer(removed="has been removed. Use include_tasks."),
}
PACKAGE = "/usr/lib/python3/site-packages/ansible_collections"
COLLECTIONS = {
    "kubernetes.core": Collection(version="5.0.0", path=f"{PACKAGE}/kubernetes/core"),
    "community.docker": Collection(version="4.0.0", path=f"{PACKAGE}/community/docker"),
    "ansible.netcommon": Collection(version="8.0.0", path=f"{PACKAGE}/ansible/netcommon"),
    "other.kit": Collection(version="1.0.0", path="/opt/collections/other/kit", dependencies=("community.docker",)),
}
KEYWORDS = {
    "task": frozenset({"name", "when", "vars", "action", "local_action", "collections"}),
    "block": frozenset({"block", "when", "rescue"}),
    "play": frozenset({"hosts", "tasks", "roles"}),
}


def compared(write: Write, files: dict[str, str]) -> list[str]:
    folder = write(files)
    found = loaded(folder)
    answers = {
        query: Answer(resolved=FOUND[query.name]) if query.name in FOUND else NOT_FOUND.get(query.name, Answer())
        for query in plugins.queries(found)
    }
    content = Content(core="2.18.1", keywords=KEYWORDS, collections=COLLECTIONS, answers=answers)
    return told(plugins.compare(found, content, requirements.read(folder, [])))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("debug: {msg: '{{ a | upper }}'}", None),
        ("debgu: {}", "error :1: no module or keyword debgu is found with ansible-core 2.18.1"),
        ("debug: {}\n  wehn: true", "error :2: no module or keyword wehn is found"),
        ("debug: {msg: '{{ a | nope }}'}", "error :1: no filter nope is found with ansible-core 2.18.1"),
        ("debug: {}\n  when: a is nope", "error :2: no test nope is found"),
        ("debug: {}\n  with_nope: a", "error :2: no lookup nope is found"),
        ("debug: {msg: \"{{ lookup('nope') }}\"}", "error :1: no lookup nope is found"),
        ("include_role: {name: nope}", "error :1: no role nope is found"),
        ("include: a.yml", "error :1: module include: has been removed. Use include_tasks."),
        ("name: nothing", "error :1: a task without a module"),
        ("debug: {}\n  k8s: {}", "error :1: a task with several modules: debug, k8s; keep one"),
        ("action: debug\n  k8s: {}", "error :1: a task with several modules: k8s, action; keep one"),
        ("block: []\n  loop: []", "error :2: loop is no keyword of a block"),
        (
            "debug: {msg: '{{ a | json_query(b) }}'}",
            "error :1: filter json_query, which stands for community.general.json_query, is of a collection that is not "
            "here; add community.general to requirements.yml",
        ),
        (
            "debug: {msg: '{{ a | ipaddr }}'}",
            "error :1: filter ipaddr, which stands for ansible.netcommon.ipaddr, is not in ansible.netcommon 8.0.0",
        ),
        ("nope.nope.x: {}", "error :1: module nope.nope.x is of a collection that is not here; add nope.nope"),
        ("kubernetes.core.x: {}", "error :1: module kubernetes.core.x is not in kubernetes.core 5.0.0"),
        ("docker_container: {}", "warning :1: community.docker is used and no requirements.yml asks for it"),
        ("k8s: {}", None),
        ("other.kit.x: {}", None),
        ("my_module: {msg: '{{ a | my_filter }}'}", None),
        ("asked.for.x: {}", None),
        ("short: {}\n  collections: [asked.for]", None),
        ("'{{ a }}': {}\n  debug: {}", None),
    ],
    ids=[
        *(
            "found",
            "module",
            "keyword",
            "filter",
            "test",
            "loop",
            "lookup",
            "role",
            "removed",
            "none",
            "two",
            "action",
            "block",
        ),
        *("collection", "gone-from-it", "unknown", "not-in-it", "package", "image", "installed", "own", "asked", "short"),
        "template",
    ],
)
def test_names(task: str, expected: str | None, write: Write) -> None:
    files = {
        "roles/thing/tasks/main.yml": f"- {task}\n",
        "roles/thing/library/my_module.py": "",
        "roles/thing/filter_plugins/a.py": "x = {'my_filter': str}\n",
        "requirements.yml": "collections: [asked.for]\n",
    }
    found = compared(write, files)
    if expected is None:
        assert found == []
        return
    (line,) = found
    assert line.replace("roles/thing/tasks/main.yml", "").startswith(expected)


def test_what_a_collection_brings_along_is_asked_for(write: Write) -> None:
    files = {"roles/thing/tasks/main.yml": "- docker_container: {}\n", "requirements.yml": "collections: [other.kit]\n"}
    assert compared(write, files) == []


def test_another_version_of_a_collection_may_have_it(write: Write) -> None:
    asked = "collections: [{name: kubernetes.core, version: 3.2.0}]\n"
    (line,) = compared(write, {"roles/thing/tasks/main.yml": "- kubernetes.core.x: {}\n", "requirements.yml": asked})
    assert line.startswith("warning roles/thing/tasks/main.yml:1: module kubernetes.core.x is not in kubernetes.core 5.0.0")


def test_a_file_that_nothing_includes_is_no_error(write: Write) -> None:
    (line,) = compared(write, {"roles/thing/tasks/unused.yml": "- debgu: {}\n"})
    assert line.startswith("warning roles/thing/tasks/unused.yml:1: no module or keyword debgu")


def test_a_role_that_galaxy_installs_is_a_warning(write: Write) -> None:
    files = {"roles/thing/meta/main.yml": "dependencies: [a.role]\n", "requirements.yml": "roles: [a.role]\n"}
    (line,) = compared(write, files)
    assert line.startswith("warning roles/thing/meta/main.yml:1: role a.role is not here")
