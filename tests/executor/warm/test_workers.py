"""A worker's runs do not see each other, whatever they leave; and how workers are used, and end."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess as subprocesses
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytest_asyncio
import yaml

from bench.driver import until
from runner.executor import processes
from runner.executor.jobs import ExecutorError, Job, JobEvent, Limits, fold
from runner.executor.warm import executor as warm_executor
from runner.executor.warm.executor import ForkServerClient, WarmExecutor
from tests.conftest import alive
from tests.executor.test_conformance import same_each_time

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The worker's own process id.
PID = "{{ lookup('pipe', 'echo $PPID') }}"


@dataclass
class Played:
    """What came of a run; it was the `number`th of its worker, which, for a reason, plays no other."""

    events: list[JobEvent]
    number: int
    retired: str

    @property
    def told(self) -> list[Any]:
        told = [same_each_time([event.event, event.stdout, event.data]) for event in self.events]
        # Each run is another CR's.
        return [json.loads(re.sub(r"/(runs|tmp)/\d+", r"/\1/N", json.dumps(event))) for event in told]

    @property
    def said(self) -> Any:
        """What the last task has said."""
        return next(event.result["msg"] for event in reversed(self.events) if "msg" in event.result)


class Stand:
    def __init__(self, folder: Path, warm: WarmExecutor, answers: list[tuple[int, str]]) -> None:
        self.folder = folder
        self.warm = warm
        self.answers = answers
        self.count = 0

    def write(self, name: str, text: str, role: str = "thing") -> None:
        path = self.folder / "roles" / role / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def job(self, role: str = "thing", **how: Any) -> Job:
        """Each of another CR."""
        self.count += 1
        places = {"folder": self.folder / "runs" / str(self.count), "scratch": self.folder / "tmp" / str(self.count)}
        (self.folder / "tmp").mkdir(exist_ok=True)
        content = {} if "playbook" in how else {"role": self.folder / "roles" / role}
        return Job(**{"ident": f"job-{self.count}", **places, **content, **how})

    async def play(self, pool: str = "pool", **how: Any) -> Played:
        events = [event async for event in self.warm.execute(self.job(pool=pool, **how))]
        return Played(events, *self.answers[-1])


@pytest.fixture(scope="module")
def answers() -> Iterator[list[tuple[int, str]]]:
    """What the fork server has answered, of each run."""
    found: list[tuple[int, str]] = []
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="rr-") as folder:
        patch.chdir(folder)
        patch.setenv("ANSIBLE_GATHERING", "explicit")
        patch.setattr(warm_executor.metrics, "worker_run", lambda number, retired: found.append((number, retired)))
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(answers: list[tuple[int, str]]) -> AsyncIterator[WarmExecutor]:
    async with WarmExecutor(Limits(workers=2)) as warm:
        yield warm


@pytest.fixture
def stand(tmp_path: Path, shared: WarmExecutor, answers: list[tuple[int, str]]) -> Stand:
    return Stand(tmp_path, shared, answers)


@pytest.fixture
def pool(tmp_path: Path) -> str:
    return str(tmp_path)


# One run after another


@dataclass
class Case:
    """The first run does something, then both look."""

    first: str
    look: str = "{{ word | default('nothing') }}"
    files: dict[str, str] = field(default_factory=dict)
    # What each of the two jobs has.
    one: dict[str, Any] = field(default_factory=dict)
    both: dict[str, Any] = field(default_factory=dict)
    # Whether the first one sees something of what it did.
    shows: bool = True
    # Why the worker of the first one ends.
    reason: str = ""


GIVEN = {"given": ["a"], "deep": {"list": ["a"]}}


def in_place(name: str, **how: Any) -> Case:
    """What a template gets may be changed by it. Whether that is seen is not the same in all versions."""
    first = f"- ansible.builtin.debug: {{msg: \"{{{{ {name}.append('left') }}}}\"}}"
    return Case(first, f"{{{{ {name} | string }}}}", shows=False, **how)


CASES = {
    "fact": Case("- ansible.builtin.set_fact: {word: left}"),
    "cached fact": Case("- ansible.builtin.set_fact: {word: left, cacheable: true}", "{{ ansible_facts | string }}"),
    "host": Case("- ansible.builtin.add_host: {name: left, groups: more}", "{{ groups | string }}"),
    "host in place": Case(
        "- ansible.builtin.add_host: {name: localhost, word: left}", "{{ hostvars.localhost.word | default('-') }}"
    ),
    "group": Case("- ansible.builtin.group_by: {key: left}", "{{ groups | string }}"),
    "registered": Case("- {ansible.builtin.command: echo left, register: word}", "{{ word.stdout | default('-') }}"),
    "included vars": Case("- ansible.builtin.include_vars: more.yml", files={"vars/more.yml": "word: left\n"}),
    "another role": Case(
        "- ansible.builtin.include_role: {name: other, public: true}",
        files={"../other/defaults/main.yml": "word: left\n", "../other/tasks/main.yml": "[]\n"},
    ),
    "handlers": Case(
        "- {ansible.builtin.command: 'true', notify: changed}\n- {ansible.builtin.meta: flush_handlers}",
        files={"handlers/main.yml": "- {name: changed, ansible.builtin.set_fact: {word: left}}\n"},
    ),
    "handler not yet run": Case(
        "- {ansible.builtin.command: 'true', notify: changed}",
        files={"handlers/main.yml": "- {name: changed, ansible.builtin.set_fact: {word: left}}\n"},
        shows=False,
    ),
    "statistics": Case("- ansible.builtin.set_stats: {data: {word: left}}", shows=False),
    "environment of a module": Case(
        "- operator_sdk.util.requeue_after: {time: 1s}\n  environment: {ANSIBLE_LEFT: left, TZ: Asia/Tokyo}",
        "{{ lookup('env', 'ANSIBLE_LEFT') }}{{ lookup('env', 'TZ') }}",
        shows=False,
    ),
    "environment of a run": Case("[]", "{{ lookup('env', 'LEFT') }}", one={"environment": {"LEFT": "left"}}),
    "hidden": Case("- {ansible.builtin.debug: {msg: left}, no_log: true}", shows=False),
    "hidden failure": Case(
        "- {operator_sdk.util.requeue_after: {tim: left}, no_log: true, ignore_errors: true}\n"
        "- {operator_sdk.util.requeue_after: {tim: left}, ignore_errors: true}",
        shows=False,
    ),
    "verbosity": Case("[]", "{{ ansible_verbosity }}", one={"verbosity": 4}),
    "arguments": Case("[]", one={"arguments": "-e word=left --diff --tags all --flush-cache --force-handlers"}),
    "check": Case("[]", "{{ ansible_check_mode }}", one={"check": True}),
    "extra vars": Case("[]", one={"extra_vars": {"word": "left"}}),
    "data": Case("[]", one={"data": {"word": "left"}}),
    "secrets": Case("[]", "{{ 'to be seen' }}", one={"secrets": ("to be seen",)}),
    "failure": Case("- ansible.builtin.fail: {msg: left}", shows=False),
    "rescued failure": Case(
        "- block: [{ansible.builtin.fail: {msg: left}}]\n  rescue: [{ansible.builtin.set_fact: {word: left}}]",
    ),
    "time limit": Case("- {ansible.builtin.pause: {seconds: 60}, timeout: 1, ignore_errors: true}", shows=False),
    "time limit of a program": Case(
        # The program has to run by then.
        "- {ansible.builtin.command: sleep 60, timeout: 5, ignore_errors: true}",
        shows=False,
        reason="child",
    ),
    "templates": Case(
        "- ansible.builtin.debug: {msg: \"{{ lookup('template', 'word.j2') }}\"}",
        "{{ lookup('template', 'word.j2') }}",
        {"templates/word.j2": "{% set word = 'left' if act == 'first' %}{{ word | default('-') }}\n"},
    ),
    "undefined": Case("- {ansible.builtin.debug: {msg: '{{ nowhere }}'}, ignore_errors: true}", shows=False),
    "connection": Case(
        "- {ansible.builtin.set_fact: {ansible_connection: local, ansible_become: false, ansible_remote_tmp: /tmp/x}}",
        "{{ ansible_become | default('-') }}",
    ),
    "what is read with a password": Case(
        "- ansible.builtin.debug: {msg: \"{{ lookup('url', 'file:///dev/null', username='u', password='p') }}\"}",
        shows=False,
    ),
    "module defaults": Case(
        "- module_defaults: {ansible.builtin.debug: {msg: left}}\n  block: [{ansible.builtin.debug: }]", shows=False
    ),
    "defaults of a role": in_place("listed", files={"defaults/main.yml": "listed: [a]\n"}),
    "nested defaults of a role": in_place("listed.deep", files={"defaults/main.yml": "listed: {deep: [a]}\n"}),
    "vars of a role": in_place("listed", files={"vars/main.yml": "listed: [a]\n"}),
    "extra vars in place": in_place("given", both={"extra_vars": GIVEN}),
    "nested extra vars in place": in_place("deep.list", both={"extra_vars": GIVEN}),
    "data in place": in_place("given", both={"data": GIVEN}),
    "groups in place": in_place("groups.all"),
    "tags in place": in_place("ansible_run_tags"),
    "hosts in place": in_place("ansible_play_hosts"),
    "roles in place": in_place("ansible_role_names"),
    "Ansible's own defaults in place": in_place("lookup('config', 'VARIABLE_PRECEDENCE', allow_unsafe=true)"),
    "child": Case("- {ansible.builtin.command: sleep 600, async: 600, poll: 0}", shows=False, reason="child"),
    "child of a lookup": Case(
        "- ansible.builtin.debug: {msg: \"{{ lookup('pipe', 'setsid sleep 600 >/dev/null 2>&1 &') }}\"}",
        shows=False,
        reason="child",
    ),
    "nothing can be played": Case("- no_such_module:", shows=False, reason="exit"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_run_does_not_see_the_one_before(stand: Stand, pool: str, case: Case) -> None:
    look = f"- ansible.builtin.debug: {{msg: {json.dumps(case.look)}}}\n"
    stand.write("tasks/main.yml", "- ansible.builtin.include_tasks: '{{ act }}.yml'\n")
    stand.write("tasks/first.yml", (case.first + "\n" if case.first != "[]" else "") + look)
    stand.write("tasks/second.yml", look)
    for name, text in case.files.items():
        stand.write(name, text)

    def job(act: str, **how: Any) -> dict[str, Any]:
        return {
            **case.both,
            **how,
            "extra_vars": {"act": act, **case.both.get("extra_vars", {}), **how.get("extra_vars", {})},
        }

    first = await stand.play(pool, **job("first", **case.one))
    second = await stand.play(pool, **job("second"))
    alone = await stand.play("", **job("second"))
    assert (first.number, first.retired) == (1, case.reason)
    assert (second.number, second.retired) == (1 if case.reason else 2, "")
    assert alone.retired == "isolated"
    assert second.told == alone.told
    assert second.said == alone.said
    # Or nothing is shown here.
    assert not case.shows or first.said != second.said


# Python of the role's own: each leaves something with Python itself.

SIGN = "import builtins\nleft = getattr(builtins, 'left', 0)\nbuiltins.left = left + 1\n"
PLUGINS = {
    "filter": (
        "filter_plugins/own.py",
        "class FilterModule:\n    def filters(self):\n        return {'own': lambda value: left}\n",
        "{{ '' | own }}",
    ),
    "test": (
        "test_plugins/own.py",
        "class TestModule:\n    def tests(self):\n        return {'own': lambda value: left == 0}\n",
        "{{ '' is own }}",
    ),
    "lookup": (
        "lookup_plugins/own.py",
        "from ansible.plugins.lookup import LookupBase\n\nclass LookupModule(LookupBase):\n"
        "    def run(self, terms, variables=None, **kwargs):\n        return [left]\n",
        "{{ lookup('own') }}",
    ),
    "lookup by its full name": (
        "lookup_plugins/own.py",
        "from ansible.plugins.lookup import LookupBase\n\nclass LookupModule(LookupBase):\n"
        "    def run(self, terms, variables=None, **kwargs):\n        return [left]\n",
        "{{ lookup('ansible.legacy.own') }}",
    ),
    "lookup that cannot be loaded": ("lookup_plugins/own.py", "1 / 0\n", "{{ lookup('own', errors='ignore') }}"),
    "filter that cannot be loaded": ("filter_plugins/own.py", "1 / 0\n", "{{ 'x' | upper | ternary(1, 2) }}"),
}


@pytest.mark.parametrize(("name", "code", "use"), PLUGINS.values(), ids=PLUGINS)
async def test_a_roles_own_python_ends_its_worker(stand: Stand, pool: str, name: str, code: str, use: str) -> None:
    stand.write("tasks/main.yml", f"- ansible.builtin.debug: {{msg: {json.dumps(use)}}}\n  ignore_errors: true\n")
    stand.write(name, SIGN + code)
    runs = [await stand.play(pool) for _ in range(2)]
    assert [(run.number, run.retired) for run in runs] == [(1, "code"), (1, "code")]
    assert runs[0].told == runs[1].told


async def test_a_roles_own_action_ends_its_worker(stand: Stand, pool: str) -> None:
    stand.write("tasks/main.yml", "- own:\n")
    stand.write(
        "action_plugins/own.py",
        SIGN + "from ansible.plugins.action import ActionBase\n\nclass ActionModule(ActionBase):\n"
        "    def run(self, tmp=None, task_vars=None):\n        return {'msg': left}\n",
    )
    runs = [await stand.play(pool) for _ in range(2)]
    assert [(run.number, run.retired, run.said) for run in runs] == [(1, "code", 0), (1, "code", 0)]


OPERATORS = {
    "test": ("ANSIBLE_TEST_PLUGINS", *PLUGINS["test"]),
    "filter": ("ANSIBLE_FILTER_PLUGINS", *PLUGINS["filter"]),
    "lookup": ("ANSIBLE_LOOKUP_PLUGINS", *PLUGINS["lookup"]),
    "callback": (
        "ANSIBLE_CALLBACK_PLUGINS",
        "callback_plugins/own.py",
        "from ansible.plugins.callback import CallbackBase\n\nclass CallbackModule(CallbackBase):\n"
        "    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, 'aggregate', 'own'\n"
        "    def v2_playbook_on_start(self, playbook):\n        print(left)\n",
        "x",
    ),
}


@pytest.mark.parametrize(("variable", "name", "code", "use"), OPERATORS.values(), ids=OPERATORS)
async def test_python_that_all_runs_have_ends_each_worker(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, variable: str, name: str, code: str, use: str
) -> None:
    """Of the operator's own folders of plugins. Some of it is loaded before the first worker is forked."""
    monkeypatch.setenv(variable, str(stand.folder / Path(name).parent))
    sign = "mine = {'count': 0}\n\ndef count():\n    mine['count'] += 1\n    return mine['count']\n"
    (stand.folder / name).parent.mkdir()
    (stand.folder / name).write_text(sign + code.replace("left", "count()"))
    stand.write("tasks/main.yml", f"- ansible.builtin.debug: {{msg: {json.dumps(use)}}}\n")
    # The role has plugins, too.
    for kind in ("filter", "lookup", "test"):
        stand.write(f"{kind}_plugins/more.py", "")
    stand = await limited(stand)
    async with stand.warm:
        runs = [await stand.play() for _ in range(3)]
    assert [(run.number, run.retired) for run in runs] == [(1, "code")] * 3
    assert runs[0].told == runs[1].told == runs[2].told


async def test_a_roles_own_modules_do_not(stand: Stand, pool: str) -> None:
    """They are run in processes of their own; and another role's of the same name is another."""
    module = "from ansible.module_utils.basic import AnsibleModule\nAnsibleModule({}).exit_json(msg='%s')\n"
    for role in ("thing", "other"):
        stand.write("tasks/main.yml", "- own:\n", role)
        stand.write("library/own.py", module % role, role)
    runs = [await stand.play(pool, role=role) for role in ("thing", "other", "thing", "other")]
    assert [run.said for run in runs] == ["thing", "other", "thing", "other"]
    assert [run.number for run in runs] == [1, 2, 3, 4]


async def test_another_role_has_its_own_plugins(stand: Stand, pool: str) -> None:
    for role in ("thing", "other"):
        stand.write("tasks/main.yml", "- ansible.builtin.debug: {msg: \"{{ '' | own }} {{ lookup('own') }}\"}\n", role)
        for kind in ("filter", "lookup"):
            name, code, _ = PLUGINS[kind]
            stand.write(name, f"left = '{role}'\n{code}", role)
    runs = [(await stand.play(f"{pool} {role}", role=role)).said for role in ("thing", "other", "thing")]
    assert runs == ["thing thing", "other other", "thing thing"]


# Files


MODULE = "from ansible.module_utils.basic import AnsibleModule\nAnsibleModule({}).exit_json(msg='%s')\n"
EDITED = {
    "tasks": ("tasks/main.yml", "- ansible.builtin.debug: {msg: %s}\n", ""),
    "included tasks": (
        "tasks/more.yml",
        "- ansible.builtin.debug: {msg: %s}\n",
        "- ansible.builtin.include_tasks: more.yml\n",
    ),
    "imported tasks": (
        "tasks/more.yml",
        "- ansible.builtin.debug: {msg: %s}\n",
        "- ansible.builtin.import_tasks: more.yml\n",
    ),
    "template": ("templates/t.j2", "%s", "- ansible.builtin.debug: {msg: \"{{ lookup('template', 't.j2') }}\"}\n"),
    "file": ("files/t", "%s", "- ansible.builtin.debug: {msg: \"{{ lookup('file', 't') }}\"}\n"),
    "defaults": ("defaults/main.yml", "word: %s\n", "- ansible.builtin.debug: {msg: '{{ word }}'}\n"),
    "vars": ("vars/main.yml", "word: %s\n", "- ansible.builtin.debug: {msg: '{{ word }}'}\n"),
    "included vars": (
        "vars/more.yml",
        "word: %s\n",
        "- ansible.builtin.include_vars: more.yml\n- ansible.builtin.debug: {msg: '{{ word }}'}\n",
    ),
    "handlers": (
        "handlers/main.yml",
        "- {name: changed, ansible.builtin.debug: {msg: %s}}\n",
        "- {ansible.builtin.command: 'true', notify: changed}\n",
    ),
    "another role": ("../other/tasks/main.yml", "- ansible.builtin.debug: {msg: %s}\n", "- import_role: {name: other}\n"),
    "module": ("library/own.py", MODULE, "- own:\n"),
}


@pytest.mark.parametrize(("name", "text", "tasks"), EDITED.values(), ids=EDITED)
async def test_a_file_edited_on_disk_counts_from_the_next_run_on(
    stand: Stand, pool: str, name: str, text: str, tasks: str
) -> None:
    stand.write("tasks/main.yml", tasks)
    said = []
    # A file is kept, where it is, once it has been there for a while.
    earlier = 10
    for word in ("one", "two", "two", "six"):
        stand.write(name, text % word)
        path = stand.folder / "roles" / "thing" / name
        os.utime(path, (path.stat().st_mtime - earlier,) * 2)
        run = await stand.play(pool)
        said.append((run.said, run.number, run.retired))
    assert said == [("one", 1, ""), ("two", 2, ""), ("two", 3, ""), ("six", 4, "")]


async def test_plugins_and_modules_that_come_later_are_found(stand: Stand, pool: str) -> None:
    stand.write("tasks/main.yml", "- {own: , ignore_errors: true}\n")
    assert (await stand.play(pool)).retired == "exit"
    stand.write("tasks/main.yml", "- ansible.builtin.debug: {msg: \"{{ 'x' | own }}\"}\n  ignore_errors: true\n")
    before = await stand.play(pool)
    assert (before.number, before.retired) == (1, "")
    name, code, _ = PLUGINS["filter"]
    stand.write(name, "left = 'found'\n" + code)
    stand.write("library/own.py", MODULE % "found")
    after = await stand.play(pool)
    assert (after.said, after.number, after.retired) == ("found", 2, "")
    stand.write(name, "left = 'found anew'\n" + code)
    assert (await stand.play(pool)).said == "found anew"
    stand.write("tasks/main.yml", "- own:\n")
    assert (await stand.play(pool)).said == "found"
    # And gone again.
    shutil.rmtree(stand.folder / "roles" / "thing" / "filter_plugins")
    stand.write("tasks/main.yml", "- ansible.builtin.debug: {msg: \"{{ 'x' | own }}\"}\n  ignore_errors: true\n")
    assert (await stand.play(pool)).told == before.told


async def test_variables_beside_a_playbook_may_come_later(stand: Stand, pool: str) -> None:
    playbook = stand.folder / "plays" / "play.yml"
    playbook.parent.mkdir()
    task = {"ansible.builtin.debug": {"msg": "{{ word | default('-') }} {{ other | default('-') }}"}}
    play = {"hosts": "localhost", "gather_facts": False, "vars_files": [["given.yml", "none.yml"]], "tasks": [task]}
    playbook.write_text(yaml.safe_dump([play]))
    files = {"group_vars/all.yml": "word: group", "host_vars/localhost/a.yml": "word: host", "given.yml": "other: file"}
    (playbook.parent / "none.yml").write_text("{}")
    said = []
    for name, text in ({"": ""} | files).items():
        if name:
            (playbook.parent / name).parent.mkdir(parents=True, exist_ok=True)
            (playbook.parent / name).write_text(text)
        said.append((await stand.play(pool, playbook=playbook)).said)
    for name in reversed(files):
        (playbook.parent / name).unlink()
        last = await stand.play(pool, playbook=playbook)
        said.append(last.said)
    expected = ["- -", "group -", "host -", "host file"]
    assert said == expected + expected[-2::-1]
    assert last.number == len(said)


# What is secret


async def test_vaults(stand: Stand, pool: str) -> None:
    """A file that is encrypted as a whole, and single values: a run without the password does not get them."""
    for name, text in (("password", "open sesame"), ("wrong", "open barley")):
        (stand.folder / name).write_text(text)
    stand.write("vars/secret.yml", "hidden: treasure\n")
    password = ["--vault-password-file", str(stand.folder / "password")]
    vault = [str(Path(sys.executable).with_name("ansible-vault"))]
    secret = str(stand.folder / "roles" / "thing" / "vars" / "secret.yml")
    await asyncio.to_thread(subprocesses.run, [*vault, "encrypt", *password, secret], check=True, capture_output=True)
    made = await asyncio.to_thread(
        subprocesses.run, [*vault, "encrypt_string", *password, "pearl"], check=True, capture_output=True, text=True
    )
    stand.write("defaults/main.yml", f"alone: {made.stdout}\n")
    stand.write("tasks/value.yml", "- ansible.builtin.debug: {msg: '{{ alone }}'}\n")
    stand.write("tasks/file.yml", "- include_vars: secret.yml\n- ansible.builtin.debug: {msg: '{{ hidden }}'}\n")
    stand.write("tasks/main.yml", "- include_tasks: '{{ act }}.yml'\n")
    for name in ("defaults/main.yml", "vars/secret.yml"):
        path = stand.folder / "roles" / "thing" / name
        os.utime(path, (path.stat().st_mtime - 10,) * 2)
    number = 0
    for act, treasure in (("value", "pearl"), ("file", "treasure")):
        for given, gets in (("password", True), ("", False), ("password", True), ("wrong", False), ("", False)):
            arguments = f"--vault-password-file {stand.folder / given}" if given else ""
            how: dict[str, Any] = {"arguments": arguments, "extra_vars": {"act": act}}
            run = await stand.play(pool, **how)
            alone = await stand.play("", **how)
            assert run.told == alone.told
            assert (treasure in json.dumps(run.told)) == gets
            number += 1
            assert run.number == number


class _Cluster(BaseHTTPRequestHandler):
    """As much of an API server as a look at a ConfigMap takes; what it was asked with is the server's `asked`."""

    ANSWERS: ClassVar = {
        "/version": {"major": "1", "minor": "30", "gitVersion": "v1.30.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "groups": []},
        "/api/v1": {
            "kind": "APIResourceList",
            "groupVersion": "v1",
            "resources": [{"name": "configmaps", "kind": "ConfigMap", "namespaced": True, "verbs": ["get", "list"]}],
        },
    }

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        self.server.asked.append(self.headers.get("Authorization"))  # type: ignore[attr-defined]
        answer = self.ANSWERS.get(path, {"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {}, "items": []})
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


async def test_the_token_is_the_runs_own(stand: Stand, pool: str) -> None:
    """By the same path or by another: requests, discovery included, have this run's token, or none."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Cluster)
    server.asked = []  # type: ignore[attr-defined]
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    look = "kubernetes.core.k8s_info: {api_version: v1, kind: ConfigMap, namespace: default}"
    tasks = [
        f"- {look}\n",
        "- ansible.builtin.debug: {msg: \"{{ q('kubernetes.core.k8s', kind='ConfigMap') | length }}\"}\n",
    ]
    stand.write("tasks/main.yml", "".join(tasks))
    try:
        for number, (name, token) in enumerate(
            [("a", "one"), ("a", "two"), ("b", "two"), ("b", "one"), ("a", ""), ("a", "two"), ("a", "two")], 1
        ):
            path = stand.folder / name
            user = {"token": token} if token else {}
            config = {
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "c",
            }
            path.write_text(json.dumps(config))
            server.asked.clear()  # type: ignore[attr-defined]
            run = await stand.play(pool, environment={"KUBECONFIG": str(path), "K8S_AUTH_KUBECONFIG": str(path)})
            assert fold(run.events).succeeded
            assert (run.number, run.retired) == (number, "")
            assert set(server.asked) == {f"Bearer {token}" if token else None}  # type: ignore[attr-defined]
    finally:
        await asyncio.to_thread(server.shutdown)
        serving.join()
        server.server_close()


# How workers are used


async def seen(stand: Stand, pool: str = "pool", **how: Any) -> tuple[int, int, str]:
    """The process id of a run's worker, whose which it was, and why that worker ends."""
    stand.write("tasks/main.yml", f'- ansible.builtin.debug: {{msg: "{PID}"}}\n')
    run = await stand.play(pool, **how)
    return int(run.said), run.number, run.retired


def server_pid(stand: Stand) -> int:
    assert stand.warm._server is not None
    return processes._descendants(stand.warm._server._guarded.process.pid, deep=False)[0]


def workers(stand: Stand) -> list[int]:
    return processes._descendants(server_pid(stand), deep=False)


async def ended(*pids: int) -> None:
    async def gone() -> bool:
        return not alive(list(pids))

    await until(gone, "the processes have ended")


async def limited(stand: Stand, **limits: Any) -> Stand:
    return Stand(stand.folder, WarmExecutor(Limits(**limits)), stand.answers)


async def test_a_worker_plays_one_pools_jobs(stand: Stand) -> None:
    one, two = await seen(stand, "one"), await seen(stand, "two")
    assert one[0] != two[0]
    assert [await seen(stand, "one"), await seen(stand, "two")] == [(one[0], 2, ""), (two[0], 2, "")]


async def test_a_job_without_a_pool_has_a_process_of_its_own(stand: Stand, pool: str) -> None:
    kept, *_ = await seen(stand, pool)
    alone = [await seen(stand, "") for _ in range(2)]
    assert [entry[1:] for entry in alone] == [(1, "isolated")] * 2
    assert len({kept, *(entry[0] for entry in alone)}) == 3
    assert await seen(stand, pool) == (kept, 2, "")
    await ended(*(entry[0] for entry in alone))


async def test_after_so_many_runs(stand: Stand) -> None:
    stand = await limited(stand, runs=2)
    async with stand.warm:
        runs = [await seen(stand) for _ in range(4)]
        assert [run[1:] for run in runs] == [(1, ""), (2, "runs")] * 2
        assert runs[0][0] == runs[1][0] != runs[2][0]
        await ended(runs[0][0], runs[2][0])


async def test_after_so_long(stand: Stand) -> None:
    stand = await limited(stand, age=0.0)
    async with stand.warm:
        assert [(await seen(stand))[1:] for _ in range(2)] == [(1, "age")] * 2


async def test_there_are_no_more_than_so_many(stand: Stand) -> None:
    stand = await limited(stand, workers=2)
    async with stand.warm:
        found = [(await seen(stand, str(number)))[0] for number in range(4)]
        await ended(*found[:2])
        assert alive(found[2:]) == found[2:]
        # The last ones are still of use.
        assert (await seen(stand, "3"))[:2] == (found[3], 2)


async def test_pools_that_come_and_go_leave_nothing(stand: Stand) -> None:
    stand = await limited(stand, workers=2)
    async with stand.warm:
        await seen(stand, "0")
        before = sorted(os.listdir(f"/proc/{server_pid(stand)}/fd"))
        found = [await seen(stand, str(number % 5)) for number in range(10)]
        assert [run[1:] for run in found[1:]] == [(1, "")] * 9

        async def two() -> bool:
            return len(workers(stand)) == 2

        await until(two, "two workers are left")
        # The socket of one more.
        assert len(os.listdir(f"/proc/{server_pid(stand)}/fd")) == len(before) + 1


async def test_those_that_play_are_never_too_many(stand: Stand) -> None:
    stand = await limited(stand, workers=1)
    async with stand.warm:
        stand.write("tasks/main.yml", "- ansible.builtin.command: sleep 1\n")
        runs = await asyncio.gather(*(stand.play(str(number % 2)) for number in range(3)))
        assert all(fold(run.events).succeeded for run in runs)


async def test_a_surplus_ends_after_a_while(stand: Stand) -> None:
    stand = await limited(stand, idle=0.3)
    async with stand.warm:
        # Each waits until all have begun, so that each has a worker of its own.
        meet = "touch $0/begun-$$; until [ $(ls $0 | grep -c begun-) = 3 ]; do sleep 0.1; done"
        task = {"ansible.builtin.command": {"argv": ["sh", "-c", meet, str(stand.folder)]}}
        stand.write("tasks/main.yml", json.dumps([task]))
        await asyncio.gather(*(stand.play() for _ in range(3)))

        async def one() -> bool:
            return len(workers(stand)) == 1

        await until(one, "one worker is left")
        assert (await seen(stand))[1] == 2


async def hanging(stand: Stand, pool: str) -> asyncio.Task[Played]:
    """A run that has begun, and does not end by itself."""
    stand.write("tasks/main.yml", f"- ansible.builtin.shell: touch {stand.folder}/begun; sleep 600\n")
    run = asyncio.create_task(stand.play(pool))

    async def begun() -> bool:
        return (stand.folder / "begun").exists()

    await until(begun, "the run has begun")
    return run


async def test_a_run_that_is_given_up_ends_its_worker(stand: Stand, pool: str) -> None:
    pid, *_ = await seen(stand, pool)
    run = await hanging(stand, pool)
    run.cancel()
    await asyncio.wait({run})
    assert stand.answers[-1] == (2, "died")
    assert alive([pid]) == []
    assert (await seen(stand, pool))[1:] == (1, "")


async def test_an_end_that_comes_late_does_no_harm(stand: Stand, pool: str) -> None:
    pid, *_ = await seen(stand, pool)
    server = stand.warm._server
    assert server is not None
    server._tell({"end": f"job-{stand.count}"})
    assert await seen(stand, pool) == (pid, 2, "")
    # Also while its worker plays another.
    late = f"job-{stand.count}"
    stand.write("tasks/main.yml", f"- ansible.builtin.shell: touch {stand.folder}/begun; sleep 1\n")
    run = asyncio.create_task(stand.play(pool))

    async def begun() -> bool:
        return (stand.folder / "begun").exists()

    await until(begun, "the run has begun")
    server._tell({"end": late})
    assert fold((await run).events).succeeded
    assert stand.answers[-1] == (3, "")


async def test_a_run_is_left_after_its_last_event(stand: Stand, pool: str) -> None:
    """Whoever has seen enough: its worker is used again, or not; the next run is."""
    stand.write("tasks/main.yml", "- ansible.builtin.debug:\n")
    for _ in range(3):
        events = stand.warm.execute(stand.job(pool=pool))
        async for event in events:
            if event.event == "playbook_on_stats":
                break
        await events.aclose()  # type: ignore[attr-defined]
    assert fold((await stand.play(pool)).events).succeeded


async def test_an_idle_worker_that_dies_is_not_missed(stand: Stand, pool: str) -> None:
    pid, *_ = await seen(stand, pool)
    os.kill(pid, signal.SIGKILL)
    await ended(pid)
    assert (await seen(stand, pool))[1:] == (1, "")


async def test_a_job_of_an_idle_worker_that_dies_is_anothers(stand: Stand, pool: str) -> None:
    """It has got the job, and has not begun."""
    pid, *_ = await seen(stand, pool)
    os.kill(pid, signal.SIGSTOP)
    run = asyncio.create_task(seen(stand, pool))
    server = stand.warm._server
    assert server is not None

    async def asked() -> bool:
        return bool(server._playing)

    async def answered() -> bool:
        return server._unanswered == 0

    await until(asked, "the job is on its way")
    server._unanswered = 1
    server._tell({"ping": 1})
    await until(answered, "the fork server has handed it over")
    os.kill(pid, signal.SIGKILL)
    found = await run
    assert found[1:] == (1, "")
    assert await seen(stand, pool) == (found[0], 2, "")


async def test_a_worker_that_dies_while_it_plays_fails_that_run_only(stand: Stand, pool: str) -> None:
    pid, *_ = await seen(stand, pool)
    run = await hanging(stand, pool)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ExecutorError, match="killed"):
        await run
    assert stand.answers[-1] == (2, "died")
    assert (await seen(stand, pool))[1:] == (1, "")


async def test_workers_end_with_the_fork_server(stand: Stand) -> None:
    stand = await limited(stand)
    async with stand.warm:
        found = [(await seen(stand, pool))[0] for pool in ("one", "two")]
        os.kill(server_pid(stand), signal.SIGKILL)
        assert stand.warm._server is not None
        await stand.warm._server.died.wait()
        await ended(*found)
        assert (await seen(stand, "one"))[1:] == (1, "")


async def test_a_worker_that_hangs_when_it_puts_itself_back_is_ended(
    stand: Stand, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short for the worker alone: the fork server has its time to end it.
    usual, end = warm_executor._RUN_END_TIMEOUT, ForkServerClient.end
    monkeypatch.setattr(warm_executor, "_RUN_END_TIMEOUT", 1.0)

    def have_ended(self: ForkServerClient, ident: str) -> None:
        monkeypatch.setattr(warm_executor, "_RUN_END_TIMEOUT", usual)
        end(self, ident)

    monkeypatch.setattr(ForkServerClient, "end", have_ended)
    name, code, use = PLUGINS["filter"]
    stand.write(name, f"import random, time\nleft = 'x'\nrandom.seed = lambda: time.sleep(600)\n{code}")
    stand.write("tasks/main.yml", f"- ansible.builtin.debug: {{msg: {json.dumps(use)}}}\n")
    run = await stand.play(pool)
    assert (run.said, run.number, run.retired) == ("x", 1, "died")
    assert (await seen(stand, pool))[1:] == (1, "")


async def test_many_runs_leave_nothing(stand: Stand, pool: str) -> None:
    """No descriptor, no thread, no child, no memory to speak of: one worker plays them all."""
    stand.write(
        "tasks/main.yml",
        "- ansible.builtin.set_fact: {word: '{{ [1, 2] | map(\"int\") | list }}'}\n"
        "- {ansible.builtin.command: 'true', register: done, loop: [1, 2]}\n"
        "- {operator_sdk.util.requeue_after: {time: 1s}}\n"
        "- {ansible.builtin.fail: , ignore_errors: true}\n",
    )
    runs = [await stand.play(pool) for _ in range(30)]
    assert [(run.number, run.retired) for run in runs] == [(number, "") for number in range(1, 31)]


async def test_a_file_of_which_there_is_something_to_say(stand: Stand, pool: str) -> None:
    """It is read once more between two runs, to be kept, and the second run's events are as if it had not been."""
    for text in ("{msg: {1: a, true: b}}", "{msg: hello}"):
        stand.write("tasks/main.yml", f"- ansible.builtin.debug: {text}\n")
        used, fresh = await stand.play(pool, verbosity=2), await stand.play("", verbosity=2)
        assert used.told == fresh.told
    assert (used.number, fresh.number) == (2, 1)
