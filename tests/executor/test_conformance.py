"""The warm way gives what the plain way gives: the same events, with the same data and text, in the same order."""

import asyncio
import json
import random
import re
import shutil
import subprocess as subprocesses
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.driver import Cluster
from devkit.devcluster import Cluster as Devcluster
from runner.executor import cold
from runner.executor.jobs import Execute, ExecutorError, Job, JobEvent, Limits, fold
from runner.executor.warm import executor as warm_executor
from runner.executor.warm.executor import WarmExecutor
from runner.resource.metadata import GroupVersionKind, ObjectKey

# What differs from run to run, wherever it stands.
_VOLATILE = {
    *("uuid", "created", "pid", "runner_ident", "parent_uuid", "playbook_uuid", "play_uuid", "task_uuid", "start", "end"),
    *("duration", "counter", "delta", "jid", "ansible_job_id", "results_file", "atime", "ctime", "mtime", "nlink", "inode"),
    *("resourceVersion", "uid", "creationTimestamp", "managedFields", "time"),
    # Of what is created: its controllers are at work on it meanwhile.
    *("status", "deployment.kubernetes.io/revision"),
}
_TEXTS = (
    (re.compile(r"j\d+\.\d+"), "JID"),
    (re.compile(r"'audit-id': '[-\w]+'|\w{3}, \d\d \w{3} \d{4}"), "ID"),
    (re.compile(r"0x[0-9a-f]+"), "ADDRESS"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "UUID"),
    # The folder of a run.
    (re.compile(r"/run-\d+/"), "/run/"),
    (re.compile(r"ansible-(tmp|local)-[-\w.]+(/tmp\w+)?"), "TMP"),
    # A traceback leads through the wrapper that ansible-core puts around a module, until 2.18; also as it stands in JSON.
    (re.compile(r"(?:\\n|\n)  File (?:(?!(?:\\n|\n)\S).)*", re.DOTALL), ""),
    # One run may begin before midnight and the other after it.
    (re.compile(r"(\d{4}-\d\d-\d\d )?\d+:\d\d:\d\d(\.\d+)?"), "TIME"),
)

LOCAL = """
# words
- name: Say
  ansible.builtin.debug: {msg: "hello {{ number }} {{ fallback }}"}
- name: Loop
  ansible.builtin.debug: {msg: "{{ item.a }}"}
  loop: [{a: 1}, {a: 2}]
  loop_control: {label: "{{ item.a }}"}
# handlers
- name: Notify
  ansible.builtin.command: "true"
  notify: handled
# block
- name: Remember
  ansible.builtin.set_fact: {x: "{{ number | int + 1 }}"}
- name: Block
  block:
    - name: Fail
      ansible.builtin.fail: {msg: no}
    - ansible.builtin.debug: {msg: never}
  rescue:
    - ansible.builtin.debug: {var: ansible_failed_result.msg}
  always:
    - ansible.builtin.assert: {that: [x | int == number | int + 1]}
# keywords
- name: Of a block
  ignore_errors: "{{ number | int > 0 }}"
  become: false
  tags: [outer]
  environment: {FOO: "{{ number }}"}
  block:
    - name: Inherited
      ansible.builtin.shell: echo $FOO; exit 3
      tags: [inner]
      timeout: "{{ omit }}"
      diff: "{{ omit }}"
      no_log: "{{ number == 'x' }}"
      run_once: "yes"
    - name: No number
      ansible.builtin.debug: {msg: no}
      poll: "{{ fallback }}"
    - block:
        - name: No such user
          ansible.builtin.debug: {msg: no}
          remote_user: "{{ nothing_here }}"
      rescue:
        - ansible.builtin.debug: {msg: rescued}
    - ansible.builtin.import_role: {name: other}
    - ansible.builtin.include_role: {name: other}
  when: number is defined
# programs
- name: Ignored
  ansible.builtin.command: "sh -c 'echo out; echo err >&2; exit 3'"
  ignore_errors: true
  register: result
- name: Environment
  ansible.builtin.shell: echo $FOO
  environment: {FOO: bar}
  register: said
  changed_when: false
- ansible.builtin.debug: {var: said.stdout}
# files
- name: Template
  ansible.builtin.template: {src: t.j2, dest: "{{ out }}/t.txt", mode: "0644"}
  diff: true
  notify: handled
- name: Check
  ansible.builtin.copy: {content: "x {{ number }}", dest: "{{ out }}/c.txt"}
  check_mode: true
# until and include
- name: Until
  ansible.builtin.command: "true"
  register: tried
  until: tried.rc == 0
  retries: 2
- name: Include
  ansible.builtin.include_tasks: more.yml
  loop: [1, 2]
  loop_control: {loop_var: outer}
- ansible.builtin.import_tasks: imported.yml
# own module
- name: Own module
  own: {value: "{{ number }}"}
# own filter
- name: Own filter
  ansible.builtin.debug: {msg: "{{ 'abc' | shout }}"}
# modules of this program
- name: Hidden
  ansible.builtin.debug: {msg: hidden}
  no_log: true
- name: Come again
  operator_sdk.util.requeue_after: {time: 5m}
- name: Bad argument
  operator_sdk.util.requeue_after: {time: soon}
  ignore_errors: true
- name: Unknown argument
  operator_sdk.util.requeue_after: {tim: soon}
  ignore_errors: true
# skipped and flushed
- name: Skipped
  ansible.builtin.debug: {msg: no}
  when: false
- ansible.builtin.meta: flush_handlers
# undefined
- name: Undefined
  ansible.builtin.debug: {msg: "{{ nothing_here }}"}
  ignore_errors: true
- name: Delegated
  ansible.builtin.command: echo delegated
  delegate_to: other
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
# asynchronous
- name: Asynchronous
  ansible.builtin.command: sleep 1
  async: 20
  poll: 1
# stat and lookups
- name: Stat
  ansible.builtin.stat: {path: "{{ role_path }}/files/t.txt", get_attributes: false}
  no_log: true
- name: Lookups
  ansible.builtin.debug: {msg: "{{ lookup('file', 't.txt') }}"}
# hosts
- name: Another host
  ansible.builtin.add_host: {name: extra, groups: [more], word: "{{ number }}"}
- name: By its group
  ansible.builtin.group_by: {key: "number_{{ number }}"}
- name: Groups
  ansible.builtin.debug: {msg: "{{ groups }} {{ hostvars.extra.word }}"}
# roles
- name: Another role
  ansible.builtin.include_role: {name: other}
  vars: {fallback: given}
- name: The same at once
  ansible.builtin.import_role: {name: other, tasks_from: more}
- name: The same for some
  ansible.builtin.include_role: {name: other, tasks_from: more}
  loop: [a, b]
  loop_control: {loop_var: letter}
# own plugins
- name: Own lookup
  ansible.builtin.debug: {msg: "{{ lookup('thrice', 'abc') }}"}
- name: Own action
  twice: {text: "{{ number }}"}
- name: Own test
  ansible.builtin.debug: {msg: even}
  when: (number | int + 1) is even_number
# failures
- name: By its page
  ansible.builtin.uri: {url: "file:///nowhere", return_content: true}
  ignore_errors: true
- name: As somebody else
  ansible.builtin.command: id -un
  become: true
  become_method: ansible.builtin.su
  become_user: nobody_there
  changed_when: false
  ignore_errors: true
- name: Asserted in vain
  ansible.builtin.assert: {that: [number == '8'], fail_msg: "it is {{ number }}", quiet: true}
  ignore_errors: true
# handlers notified twice
- name: End of the host
  ansible.builtin.meta: noop
- name: Twice as a handler
  ansible.builtin.command: "true"
  notify: [handled, heard]
- name: Notify again
  ansible.builtin.command: "true"
  notify: handled
"""
CLUSTER = """
# elsewhere
- name: Elsewhere, with all that it takes to get there
  kubernetes.core.k8s_info: {api_version: v1, kind: Secret, name: none, host: "http://127.0.0.1:19", api_key: nobody}
  ignore_errors: true
  register: elsewhere
- ansible.builtin.assert: {that: elsewhere is failed and 'port=19' in elsewhere.msg ~ elsewhere.module_stderr | default('')}
# objects
- name: Make
  kubernetes.core.k8s: &made
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: made, namespace: "{{ namespace }}"}
      data: {number: "{{ number }}"}
  diff: true
- name: Make again
  kubernetes.core.k8s: *made
- name: Would change
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: made, namespace: "{{ namespace }}"}
      data: {number: other}
  check_mode: true
- name: From a template
  kubernetes.core.k8s:
    template: map.yml.j2
- name: Look
  kubernetes.core.k8s_info: {api_version: v1, kind: ConfigMap, name: made, namespace: "{{ namespace }}"}
  register: found
- ansible.builtin.assert: {that: "found.resources[0].data.number == number"}
- name: Many
  kubernetes.core.k8s:
    definition: {apiVersion: v1, kind: ConfigMap, metadata: {name: "{{ item }}", namespace: "{{ namespace }}"}}
  loop: [a, b]
# refused
- name: Refused
  kubernetes.core.k8s:
    definition: {apiVersion: v1, kind: ConfigMap, metadata: {name: "NOT A NAME", namespace: "{{ namespace }}"}}
  ignore_errors: true
- name: No such kind
  kubernetes.core.k8s_info: {api_version: nowhere.example.com/v1, kind: Nothing}
  ignore_errors: true
# hidden and defaults
- name: Hidden
  kubernetes.core.k8s_info: {api_version: v1, kind: ConfigMap, name: made, namespace: "{{ namespace }}"}
  no_log: true
- name: Other defaults
  module_defaults: {kubernetes.core.k8s_info: {api_version: v1, kind: ConfigMap, namespace: "{{ namespace }}"}}
  block:
    - kubernetes.core.k8s_info: {name: a}
# a deployment
- name: A Deployment
  kubernetes.core.k8s:
    definition:
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: scaled, namespace: "{{ namespace }}", annotations: {mine: kept}}
      spec: &paused
        replicas: 0
        selector: {matchLabels: {app: scaled}}
        template: {metadata: {labels: {app: scaled}}, spec: {containers: [{name: a, image: a}]}}
- name: Scale
  kubernetes.core.k8s_scale: &scale
    {api_version: apps/v1, kind: Deployment, name: scaled, namespace: "{{ namespace }}", replicas: 1, wait: false}
- name: Scale again
  kubernetes.core.k8s_scale: *scale
- name: Exec in what is not there
  kubernetes.core.k8s_exec: {namespace: "{{ namespace }}", pod: none, command: ls}
  ignore_errors: true
# in the background
- name: In the background
  kubernetes.core.k8s_info: {api_version: v1, kind: ConfigMap, name: made, namespace: "{{ namespace }}"}
  async: 60
  poll: 2
  ignore_errors: true
# patches
- name: A chart
  kubernetes.core.helm_template: {chart_ref: ./nowhere}
  ignore_errors: true
- name: A patch
  kubernetes.core.k8s_json_patch:
    {api_version: v1, kind: ConfigMap, name: made, namespace: "{{ namespace }}", patch: "{{ [add] }}"}
  vars: {add: {op: add, path: /data/b, value: "1"}}
- name: A patch that does not fit
  kubernetes.core.k8s_json_patch:
    {api_version: v1, kind: ConfigMap, name: made, namespace: "{{ namespace }}", patch: "{{ [replace] }}"}
  vars: {replace: {op: replace, path: /x/y, value: 1}}
  ignore_errors: true
# other ways
- name: Of a kubeconfig that is none
  kubernetes.core.k8s_info: {api_version: v1, kind: ConfigMap, kubeconfig: "{{ role_path }}/files/t.txt"}
  ignore_errors: true
- name: Elsewhere
  kubernetes.core.k8s_info: {api_version: v1, kind: Namespace, name: default}
  environment: {K8S_AUTH_KUBECONFIG: /nowhere}
  ignore_errors: true
- name: By a short name
  k8s_info: {api_version: v1, kind: ConfigMap, name: a, namespace: "{{ namespace }}"}
  collections: [kubernetes.core]
# removed
- name: Remove
  kubernetes.core.k8s: {api_version: v1, kind: ConfigMap, name: "{{ item }}", namespace: "{{ namespace }}", state: absent}
  loop: [made, a, b, templated]
- name: Remove the Deployment
  kubernetes.core.k8s: {api_version: apps/v1, kind: Deployment, name: scaled, namespace: "{{ namespace }}", state: absent}
"""
FILES = {
    "tasks/more.yml": """
- ansible.builtin.debug: {msg: "outer {{ outer }}"}
- ansible.builtin.include_vars: {file: words.yml}
""",
    "tasks/imported.yml": '- ansible.builtin.debug: {msg: "{{ word }} {{ fallback }}"}\n',
    "vars/words.yml": "word: hello\n",
    "files/t.txt": "a file\n",
    "defaults/main.yml": "fallback: fell\n",
    "handlers/main.yml": """
- name: handled
  ansible.builtin.debug: {msg: "handled {{ number }} {{ word | default('-') }}"}
- name: another
  listen: heard
  ansible.builtin.debug: {msg: heard}
""",
    "../other/tasks/main.yml": '- ansible.builtin.debug: {msg: "{{ role_name }} {{ number }} {{ fallback }} {{ word }}"}\n',
    "../other/tasks/more.yml": "- ansible.builtin.debug: {msg: \"{{ letter | default('none') }}\"}\n",
    "../other/defaults/main.yml": "fallback: of the other\nword: of the other\n",
    "lookup_plugins/thrice.py": """
from ansible.plugins.lookup import LookupBase

class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        return [term * 3 for term in terms]
""",
    "action_plugins/twice.py": """
from ansible.plugins.action import ActionBase

class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        result["text"] = self._task.args["text"] * 2
        result.update(self._execute_module(module_name="own", module_args={"value": "x"}, task_vars=task_vars))
        return result
""",
    "test_plugins/even.py": """
class TestModule:
    def tests(self):
        return {"even_number": lambda number: number % 2 == 0}
""",
    "templates/t.j2": "text {{ number }} {{ fallback }}\n",
    "templates/map.yml.j2": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: templated, namespace: '{{ namespace }}'}\n",
    "library/own.py": """
from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule(argument_spec={"value": {"type": "str"}}, supports_check_mode=True)
module.warn("a warning of the module")
module.exit_json(changed=True, value=module.params["value"])
""",
    "filter_plugins/shout.py": 'class FilterModule:\n    def filters(self):\n        return {"shout": str.upper}\n',
}


# A role's own Python, which is run in the process.
PYTHON = {name for name in FILES if name.startswith(("lookup_", "action_", "test_", "filter_"))}


def split(tasks: str) -> dict[str, str]:
    """The tasks after each comment, by its text."""
    _, *parts = re.split(r"^# (.+)\n", tasks, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def same_each_time(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: same_each_time(item) for name, item in value.items() if name not in _VOLATILE}
    if isinstance(value, list):
        return [same_each_time(item) for item in value]
    if isinstance(value, str):
        for pattern, text in _TEXTS:
            value = pattern.sub(text, value)
    return value


class Stage:
    """A role, and a place where its runs leave things."""

    def __init__(self, folder: Path, without: Container[str] = ()) -> None:
        self.folder = folder
        self.role = folder / "roles" / "thing"
        self.out = folder / "out"
        for name, text in FILES.items():
            if name not in without:
                self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.role / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    async def events(self, execute: Execute, place: str = "run", **job: Any) -> list[JobEvent]:
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        extra = {"number": "7", "out": str(self.out), **job.pop("extra_vars", {})}
        places = {"folder": self.folder / place, "scratch": self.folder / place / "tmp"}
        shutil.rmtree(self.folder / place, ignore_errors=True)
        (self.folder / place).mkdir()
        made = Job(**{"ident": "it", **places, "role": self.role, "extra_vars": extra, **job})
        return [event async for event in execute(made)]

    async def compared(self, warm: Execute, **job: Any) -> list[JobEvent]:
        """The warm way's events; it is an error if the plain way's are others."""
        ours, plain = await self.events(warm, **job), await self.events(cold.execute, **job)
        for one, other in zip(told(ours), told(plain), strict=True):
            assert one == other
        return ours


def told(events: list[JobEvent]) -> list[Any]:
    # How often a task that takes its time was asked for is a matter of time.
    lasting = [event for event in events if event.event != "runner_on_async_poll"]
    return [same_each_time([event.event, event.stdout, event.data]) for event in lasting]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANSIBLE_GATHERING", "explicit")
    return Stage(tmp_path)


@pytest.mark.parametrize("verbosity", [0, 2])
async def test_what_needs_no_cluster(stage: Stage, verbosity: int) -> None:
    stage.write("tasks/main.yml", LOCAL)
    async with WarmExecutor() as warm:
        events = await stage.compared(warm.execute, verbosity=verbosity)
    outcome = fold(events)
    assert outcome.succeeded
    assert outcome.requeue_after == "5m"


async def test_what_needs_one(stage: Stage, devcluster: Devcluster, namespace: str) -> None:
    stage.write("tasks/main.yml", CLUSTER)
    environment = {name: str(devcluster.kubeconfig) for name in ("KUBECONFIG", "K8S_AUTH_KUBECONFIG")}
    async with WarmExecutor() as warm:
        events = await stage.compared(warm.execute, environment=environment, extra_vars={"namespace": namespace})
    assert fold(events).succeeded


async def test_a_playbook_and_arguments(stage: Stage) -> None:
    play = [
        {"hosts": "localhost", "gather_facts": True, "gather_subset": ["!all", "!min"], "roles": ["thing"]},
        {"hosts": "nowhere", "tasks": []},
        {"hosts": "localhost", "tasks": [{"ansible.builtin.fail": {"msg": "boo"}}, {"ansible.builtin.debug": {}}]},
    ]
    stage.write("tasks/main.yml", "- ansible.builtin.debug: {msg: '{{ extra }} {{ ansible_run_tags }}'}\n  tags: mine\n")
    playbook = stage.folder / "play.yml"
    playbook.write_text(yaml.safe_dump(play))
    async with WarmExecutor() as warm:
        events = await stage.compared(
            warm.execute, role=None, playbook=playbook, arguments="-e extra=given --tags all", verbosity=1
        )
    assert fold(events).messages == ("boo",)


async def write_vaults(stage: Stage) -> str:
    """A role with secrets; the arguments that a run takes to read them."""
    (stage.folder / "password").write_text("open sesame")
    secret = stage.role / "vars" / "secret.yml"
    stage.write("vars/secret.yml", "hidden: treasure\n")
    password = str(stage.folder / "password")
    vault = [str(Path(sys.executable).with_name("ansible-vault")), "encrypt", "--vault-password-file", password]
    await asyncio.to_thread(subprocesses.run, [*vault, str(secret)], check=True, capture_output=True)
    value = await asyncio.to_thread(
        subprocesses.run, [*vault[:1], "encrypt_string", *vault[2:], "pearl"], check=True, capture_output=True, text=True
    )
    stage.write("defaults/main.yml", f"fallback: fell\nalone: {value.stdout}\n")
    stage.write(
        "tasks/main.yml",
        "- ansible.builtin.include_vars: {file: secret.yml}\n- ansible.builtin.debug: {msg: '{{ hidden }} {{ alone }}'}\n",
    )
    return f"--vault-password-file {password}"


async def test_vaults(stage: Stage) -> None:
    """A file that is encrypted as a whole, and a single value; the password's file is named by the operator."""
    arguments = await write_vaults(stage)
    async with WarmExecutor() as warm:
        # Whatever is learned by one run: it needs the password, too.
        for _ in range(2):
            events = await stage.compared(warm.execute, arguments=arguments)
        assert [event.result.get("msg") for event in events if event.task.endswith("debug")][-1] == "treasure pearl"
        without = await stage.compared(warm.execute)
    assert not fold(without).succeeded


async def test_callbacks(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's own callback plugin hears the same."""
    plugin = """
from ansible.plugins.callback import CallbackBase

class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "teller"

    def v2_runner_on_ok(self, result, **kwargs):
        self._display.display("told of " + result._task.get_name())
"""
    (stage.folder / "callbacks").mkdir()
    (stage.folder / "callbacks" / "teller.py").write_text(plugin)
    monkeypatch.setenv("ANSIBLE_CALLBACK_PLUGINS", str(stage.folder / "callbacks"))
    stage.write("tasks/main.yml", "- ansible.builtin.debug: {msg: hello}\n")
    async with WarmExecutor() as warm:
        for _ in range(2):
            events = await stage.compared(warm.execute)
    assert "told of thing : ansible.builtin.debug" in "".join(event.printed for event in events)


async def test_facts(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their values change from one moment to the next; which there are does not."""
    monkeypatch.delenv("ANSIBLE_GATHERING")
    stage.write("tasks/main.yml", "- ansible.builtin.debug: {msg: '{{ ansible_facts.distribution }}'}\n")
    told = []
    async with WarmExecutor() as warm:
        for execute in (warm.execute, cold.execute):
            events = [event for event in await stage.events(execute) if event.event == "runner_on_ok"]
            told.append(([sorted(event.result.get("ansible_facts", {})) for event in events], events[-1].result["msg"]))
    assert told[0] == told[1]
    assert "ansible_distribution" in told[0][0][0]


@pytest.mark.parametrize(
    "tasks",
    ["- no_such_module:\n", "- ansible.builtin.debug: {msg: 'open\n", "nonsense\n"],
    ids=["module", "yaml", "no-list"],
)
async def test_what_cannot_be_played(stage: Stage, tasks: str) -> None:
    stage.write("tasks/main.yml", tasks)
    async with WarmExecutor() as warm:
        events = await stage.compared(warm.execute)
    with pytest.raises(ExecutorError, match="did not receive playbook_on_stats event"):
        fold(events)


async def test_the_artifacts_are_the_same(stage: Stage) -> None:
    stage.write("tasks/main.yml", "- ansible.builtin.debug: {msg: hello}\n")
    found = []
    async with WarmExecutor() as warm:
        for execute in (warm.execute, cold.execute):
            await stage.events(execute)
            artifacts = stage.folder / "run" / "artifacts" / "it"
            files = sorted(path.relative_to(artifacts) for path in artifacts.rglob("*") if path.is_file())
            names = {re.sub(r"(\d+)-[-\w]+\.json", r"\1-UUID.json", str(path)) for path in files}
            command = json.loads((artifacts / "command").read_text())
            texts = {name: (artifacts / name).read_text() for name in ("rc", "status", "stdout")}
            found.append((names, command["command"], command["cwd"], texts))
    for one, other in zip(*found, strict=True):
        assert one == other


# Many runs of a worker


@dataclass
class Case:
    stage: Stage
    job: dict[str, Any] = field(default_factory=dict)
    # Why its worker may end after it.
    reasons: frozenset[str] = frozenset({""})
    plain: Any = None


@dataclass
class Workers:
    """Plays cases in workers of one pool, and the plain way."""

    folder: Path
    warm: WarmExecutor
    # What the fork server has said of each run.
    answers: list[tuple[int, str]]
    # What a run has left outside of its folder.
    left: Callable[[Stage], Awaitable[Any]]

    def case(self, name: str, tasks: str, *reasons: str, files: Mapping[str, str] | None = None, **job: Any) -> Case:
        stage = Stage(self.folder / re.sub(r"\W", "-", name), () if "code" in reasons else PYTHON)
        for path, text in {"tasks/main.yml": tasks, **(files or {})}.items():
            stage.write(path, text)
        return Case(stage, {"verbosity": 1, **job}, frozenset(reasons or {""}))

    async def play(self, cases: Mapping[str, Case], times: int = 3) -> None:
        """Each so many times in a random order, and compare what came of it."""
        for case in cases.values():
            case.plain = await self._came(case, cold.execute, "run")
        names = [name for name in cases for _ in range(times)]
        random.Random(15).shuffle(names)
        number, retired, used = 0, "new", 0
        for count, name in enumerate(names):
            case = cases[name]
            came = await self._came(case, self.warm.execute, f"run-{count}", ident=f"it-{count}", pool="pool")
            number, retired, before = *self.answers[-1], (0 if retired else number)
            assert number == before + 1, name
            assert retired in case.reasons, name
            for one, other in zip(came[0], case.plain[0], strict=True):
                assert one == other, name
            assert came[1] == case.plain[1], name
            used += number > 1
        assert used > len(names) / 2

    async def _came(self, case: Case, execute: Execute, place: str, **job: Any) -> Any:
        events = told(await case.stage.events(execute, place, **case.job, **job))
        return events, await self.left(case.stage)


@pytest.fixture
async def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workers]:
    answers: list[tuple[int, str]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANSIBLE_GATHERING", "explicit")
    monkeypatch.setattr(warm_executor.metrics, "worker_run", lambda number, retired: answers.append((number, retired)))

    async def left(stage: Stage) -> Any:
        return {path.name: path.read_text() for path in stage.out.iterdir()}

    async with WarmExecutor(Limits()) as warm:
        yield Workers(tmp_path, warm, answers, left)


async def test_workers_give_what_the_plain_way_gives(workers: Workers) -> None:
    reasons = {"own filter": ["code", ""], "own plugins": ["code"], "asynchronous": ["", "child"]}
    cases = {name: workers.case(name, tasks, *reasons.get(name, [])) for name, tasks in split(LOCAL).items()}
    broken = {
        "no module": "- no_such_module:\n",
        "no YAML": "- ansible.builtin.debug: {msg: 'open\n",
        "no tasks": "nonsense\n",
    }
    cases |= {name: workers.case(name, tasks, "exit") for name, tasks in broken.items()}
    cases["failed"] = workers.case("failed", "- ansible.builtin.fail: {msg: boo}\n")
    words = cases["words"].stage
    cases["words at length"] = Case(words, {"verbosity": 3})
    cases["words with arguments"] = Case(words, {"arguments": "-e fallback=given --diff"})
    cases["files in check mode"] = Case(cases["files"].stage, {"check": True})
    cases["secret"] = workers.case("vaults", "[]")
    arguments = await write_vaults(cases["secret"].stage)
    cases["secret"].job["arguments"] = arguments
    cases["secret without its password"] = Case(cases["secret"].stage)
    await workers.play(cases)


_KINDS = (GroupVersionKind("", "v1", "ConfigMap"), GroupVersionKind("apps", "v1", "Deployment"))


async def test_workers_give_what_the_plain_way_gives_in_a_cluster(
    workers: Workers, devcluster: Devcluster, namespace: str
) -> None:
    environment = {name: str(devcluster.kubeconfig) for name in ("KUBECONFIG", "K8S_AUTH_KUBECONFIG")}
    async with Cluster.connected(devcluster.kubeconfig) as cluster:

        async def left(_: Stage) -> Any:
            """The objects, which are removed."""
            found = []
            for gvk in _KINDS:
                for item in await cluster.list(gvk, namespace):
                    metadata = item["metadata"]
                    if not metadata["name"].startswith("kube-"):
                        found.append(same_each_time(item))
                        await cluster.delete(gvk, ObjectKey(namespace, metadata["name"]))
            return found

        workers.left = left
        parts = split(CLUSTER)
        made = parts["objects"].partition("- name: Make again")[0]
        cases = {}
        for name, tasks in parts.items():
            first = "" if name in ("elsewhere", "objects", "a deployment", "refused") else made
            reasons = ["", "child"] if name == "in the background" else []
            # What is printed of results has what differs each time.
            how = {"verbosity": 0, "environment": environment, "extra_vars": {"namespace": namespace}}
            cases[name] = workers.case(name, first + tasks, *reasons, **how)
        await workers.play(cases)
