"""A worker, a fork of the warm process that plays jobs: it does what ansible-runner and ansible-playbook do.

The command, the environment and the working directory are ansible-runner's; the command is called instead of started.
ansible-runner's callback plugin and its filter make the events out of what is displayed, as they do for a process;
only the data that they exchange through files is kept in memory. Between two jobs `runner.executor.warm.reset` puts
the process back.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import ansible_runner
import yaml
from ansible import constants
from ansible.cli.playbook import PlaybookCLI
from ansible.plugins.loader import callback_loader, init_plugin_loader, module_loader
from ansible.utils import color
from ansible_runner.utils import OutputEventFilter

from runner.executor.environment import LOCAL_TEMP, restored_environ, set_environ
from runner.executor.jobs import Job, JobMessage, Limits
from runner.executor.patches import (
    ansible_core,
    callers,
    facts,
    files,
    kubernetes_core,
    modules,
    registry,
    results,
    tasks,
    templates,
    tmpdirs,
)
from runner.executor.recorder import Recorder
from runner.executor.run_folder import write_inputs
from runner.executor.warm import callbacks, reset
from runner.json_codec import JsonObject

# Seconds.
_GATHERING = 120
# Events after which another one comes at once, or the end: they are sent together with it.
_FOLLOWED_AT_ONCE = frozenset({
    *("playbook_on_start", "playbook_on_play_start", "playbook_on_task_start", "playbook_on_stats"),
    *("runner_on_ok", "runner_on_skipped", "runner_on_failed", "verbose"),
})  # fmt: skip
# Characters of what a run has left.
_LONGEST_FOUND = 200
# Bytes of a message of the fork server.
_ORDER = 1024
# Seconds without a job after which garbage is collected; the number of objects that runs may leave until then.
_COLLECT_AFTER, _LEFT = 0.05, 10_000

# Whose modules are called in the process. What they keep between two calls that a later one could stumble over is the
# Kubernetes client's default, which `patches.kubernetes_core` resets; where it cannot, all take ansible-core's way.
COLLECTIONS = frozenset({"kubernetes.core", "operator_sdk.util"})

# Parts that a worker must know to be put back; the others are for speed.
_NEEDED_BY_WORKERS = frozenset({"workers", "connections", "tasks", "modules", "temporary folders"})

# Something of everything that most runs need: facts, a condition, a loop, a template, modules.
_WARM_UP = """
- ansible.builtin.gather_facts: {gather_subset: ["!all", "!min", env]}
- ansible.builtin.set_fact: {numbers: "{{ [1, 2] | map('int') | list }}"}
- ansible.builtin.debug: {msg: "{{ item | to_json }}"}
  loop: "{{ numbers }}"
  when: numbers | default([]) | length == 2
  changed_when: true
  notify: handled
- block:
    - ansible.builtin.fail: {msg: "{{ lookup('template', 'text.j2') }}"}
  rescue:
    - ansible.builtin.debug: {var: ansible_failed_result.msg}
- ansible.builtin.include_tasks: more.yml
"""
_WARM_UP_MORE = {
    "handlers/main.yml": "- {name: handled, ansible.builtin.debug: {msg: handled}}\n",
    "tasks/more.yml": "- operator_sdk.util.requeue_after: {time: 1s}\n",
    "templates/text.j2": "{% for n in numbers %}{{ n }}{% endfor %}",
    "defaults/main.yml": "word: hello\n",
    "meta/argument_specs.yml": "argument_specs: {main: {options: {word: {type: str}}}}\n",
}
# What is loaded if it is there, each by asking a server that is not: it gets far enough to have imported what it needs.
_OTHER_MODULES = ("kubernetes.core.k8s", "kubernetes.core.k8s_info", "operator_sdk.util.k8s_status")
_WARM = "warm"
_NOWHERE = "http://127.0.0.1:9"


class LoadedAnsible:
    """Ansible, loaded and patched: made in the fork server, in the environment of a run; used in its workers.

    `left_out`: the patches that could not be applied, and why.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Each run's own attempt would be told as a warning.
        warnings.filterwarnings("ignore", message="AnsibleCollectionFinder has already been configured")
        init_plugin_loader()
        # It wraps what displays, and is itself to be wrapped by patches.
        callback_loader.get("awx_display", class_only=True)
        left_out, connections = registry.install([kubernetes_core.PATCH])
        # Those of them whose modules are called in the process.
        self.inline = frozenset() if left_out else COLLECTIONS
        others, installed = registry.install(
            [
                *(tasks.PATCH, tmpdirs.PATCH, modules.patch(self.inline)),
                # Until 2.18 ansible-core does not collect callers.
                *([callers.PATCH] if ansible_core.TAGS else []),
                *(facts.PATCH, *templates.PATCHES, *files.PATCHES, *results.PATCHES, reset.PATCH),
            ]
        )
        self.left_out = {**left_out, **others}
        self._facts: facts.Facts | None = installed.get("facts")
        # In the fork server's own folder.
        self._facts_file = Path(tempfile.gettempdir()) / "facts"
        self._parsed: files.Parsed | None = installed.get("parsing")
        self._connections: kubernetes_core.Connections | None = connections.get("connections")

    def warm_up(self) -> None:
        """Load what runs need, by playing a first one. Its traces are removed."""
        with tempfile.TemporaryDirectory(prefix="rolerunner-warm-") as folder:
            role = Path(folder) / "roles" / "warm"
            first = [*yaml.safe_load(_WARM_UP), *_asking_nobody(Path(folder) / "kubeconfig")]
            for name, text in {**_WARM_UP_MORE, "tasks/main.yml": json.dumps(first)}.items():
                (role / name).parent.mkdir(parents=True, exist_ok=True)
                (role / name).write_text(text)
            job = Job(ident=_WARM, folder=Path(folder) / "run", role=role, scratch=Path(folder) / "tmp")
            write_inputs(job)
            told: list[str] = []
            where, outputs = os.getcwd(), (sys.stdout, sys.stderr)
            places = tempfile.tempdir, constants.DEFAULT_LOCAL_TMP
            try:
                message: JobMessage = {**job.message(), "gather_facts": False}
                with restored_environ(), callbacks.none_of_the_users():
                    code, _, printed = _run(message, Recorder(message, told.append), lambda: None)
            finally:
                os.chdir(where)
                sys.stdout, sys.stderr = outputs
                tempfile.tempdir, constants.DEFAULT_LOCAL_TMP = places
            if code != 0 or not any('"playbook_on_stats"' in event for event in told):
                raise RuntimeError(f"the warm-up run failed: {printed}")
        ansible_core.forget_run()
        callbacks.drop()
        if self._parsed is not None:
            self._parsed.end_run()
        # Where what a run does is not as known, each job has a process of its own.
        self._baseline = None if self.left_out.keys() & _NEEDED_BY_WORKERS else reset.Baseline(self.inline)

    def facts_are_due(self) -> bool:
        """A run has found its facts old: return whether to gather them now."""
        return self._facts is not None and self._facts.is_due()

    def gather_facts(self) -> None:
        """Gather facts for the runs to come, in a fork that does nothing else."""
        assert self._facts is not None
        # Somewhere on the machine something may hang.
        signal.alarm(_GATHERING)
        self._facts.gather(self._facts_file)

    def serve(self, server: socket.socket) -> None:
        """Play jobs, whose connections come through the fork server's socket, until it closes or the worker is retired."""
        # A short life, in which what lives on is looked through again and again for little.
        gc.set_threshold(50_000, 20, 100)
        if self._baseline is not None:
            self._baseline.begin()
        uses = reset.Uses(self._limits)
        while True:
            told, connections = _next(server)
            if not connections:
                return
            with socket.socket(fileno=connections[0]) as connection, connection.makefile("rw", encoding="utf-8") as stream:
                code = self._play(stream)
            retired, found = ("isolated", "") if not json.loads(told)["again"] else self._put_back(uses.reason(code))
            with contextlib.suppress(BrokenPipeError):
                # That nobody is there any more, is seen where the next job should come from.
                answer = {"retired": retired, "found": found[:_LONGEST_FOUND], "old_facts": self._has_old_facts()}
                server.send(json.dumps(answer).encode())
            if retired:
                return
            if self._parsed is not None:
                self._parsed.end_run()
            # Between two runs there is hardly anything else to look through, and what is large goes early.
            objects, passes, _ = gc.get_count()
            if passes or objects > _LEFT:
                gc.collect()

    def _has_old_facts(self) -> bool:
        return self._facts is not None and self._facts.are_old()

    def _put_back(self, reason: str) -> tuple[str, str]:
        """Put the process back, unless there is a reason to end it.

        The reason why it plays no other job, empty if it does; and what the run has left, if that is the reason and known.
        """
        if reason or self._baseline is None:
            return reason or "unknown", ""
        if self._connections is not None:
            self._connections.end_run()
        self._baseline.restore()
        reason = self._baseline.difference(self._connections.descriptors() if self._connections is not None else ())
        return reason, self._baseline.found if reason else ""

    def _play(self, stream: TextIO) -> int | None:
        """Play the job that comes through the stream, and send its events there; its exit code, if it has one."""
        message: JobMessage = json.loads(stream.readline())
        if self._parsed is not None:
            self._parsed.own_folder = message["folder"]
        if self._facts is not None:
            self._facts.refresh(self._facts_file)
        if self._connections is not None:
            self._connections.own = message["environment"].get(kubernetes_core.KUBECONFIG)

        def tell(line: str) -> None:
            stream.write(line + "\n")

        recorder = Recorder(message, tell)
        try:
            code, has_events, printed = _run(message, recorder, stream.flush)
        except Exception:
            # Of the runner's own code: a playbook's failure is a result.
            tell(json.dumps({"done": 1, "printed": recorder.masked(traceback.format_exc())[-4000:]}))
            return None
        # A failed play is a result, told by its events; without any event there was none.
        done = 0 if has_events else code
        tell(json.dumps({"done": done, "printed": "" if done == 0 else printed[-4000:]}))
        return code


def _next(server: socket.socket) -> tuple[bytes, list[int]]:
    """Wait for the fork server's message and the next job's connection. If none comes soon, collect garbage meanwhile."""
    if not select.select([server], [], [], _COLLECT_AFTER)[0]:
        gc.collect()
    told, connections, _, _ = socket.recv_fds(server, _ORDER, 1)
    return told, connections


def _asking_nobody(kubeconfig: Path) -> list[JsonObject]:
    """Tasks of the modules that are there to be loaded; with the kubeconfig that they take, written."""
    config = {
        "clusters": [{"name": "none", "cluster": {"server": _NOWHERE}}],
        "users": [{"name": "none", "user": {"username": "none", "password": "none"}}],
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
        "current-context": "none",
    }
    kubeconfig.write_text(json.dumps(config))
    arguments = {
        "api_version": "v1",
        "kind": "ConfigMap",
        "name": "none",
        "namespace": "none",
        "kubeconfig": str(kubeconfig),
    }
    found = [name for name in _OTHER_MODULES if module_loader.find_plugin_with_context(name).resolved]
    return [{name: arguments, "ignore_errors": True} for name in found]


def _run(message: JobMessage, recorder: Recorder, flush: Callable[[], None]) -> tuple[int, bool, str]:
    """The exit code of ansible-playbook, whether there were events, and what it printed."""
    config = ansible_runner.interface.init_runner(**recorder.arguments()).config
    (recorder.artifacts / "job_events").mkdir(mode=0o700, parents=True, exist_ok=True)
    command = {"command": config.command, "cwd": config.cwd, "env": config.env}
    recorder.keep("stderr", "")
    recorder.keep("command", json.dumps(recorder.redacted(command)))
    set_environ(config.env)
    os.chdir(config.cwd)
    events = _Events(recorder, config.ident, flush)
    screen = OutputEventFilter(None, events, suppress_ansible_output=True)
    sys.stdout, sys.stderr = _Terminal(screen), _Terminal(screen)
    color.ANSIBLE_COLOR = _has_colours()
    tempfile.tempdir = os.environ.get("TMPDIR")
    local = message["environment"].get(LOCAL_TEMP) or Path(constants.DEFAULT_LOCAL_TMP).parent
    constants.DEFAULT_LOCAL_TMP = tempfile.mkdtemp(prefix="ansible-local-", dir=local)
    sys.argv = [shutil.which(config.command[0]) or config.command[0], *config.command[1:]]
    try:
        PlaybookCLI.cli_executor(sys.argv)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stderr.flush()
        sys.stdout.close()
        events.close()
        _remove(constants.DEFAULT_LOCAL_TMP)
        if message["ident"] != _WARM:
            atexit._run_exitfuncs()
    printed = recorder.close()
    recorder.keep("rc", str(code))
    recorder.keep("status", "successful" if code == 0 else "failed")
    return code, events.count > 0, printed


def _remove(folder: str) -> None:
    try:
        # Most runs leave it empty.
        os.rmdir(folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


def _has_colours() -> bool:
    """True if ansible-playbook would print in colours on ansible-runner's terminal, which a worker does not have."""
    if constants.ANSIBLE_FORCE_COLOR or constants.ANSIBLE_NOCOLOR:
        return bool(constants.ANSIBLE_FORCE_COLOR)
    try:
        import curses
    except ImportError:
        return True
    try:
        curses.setupterm(fd=2)
        return curses.tigetnum("colors") >= 0
    except curses.error:
        return False


Mark = dict[str, str]


class _Terminal:
    """Standard output or error of a run, with as much of a terminal as ansible-core and the callback plugin use."""

    encoding, errors = "utf-8", "replace"

    def __init__(self, screen: OutputEventFilter) -> None:
        self._screen = screen
        # Each of the two outputs keeps what it has until a line is complete: that decides which of them is first.
        self._kept: list[str | Mark] = []
        self._at_once = bool(os.environ.get("PYTHONUNBUFFERED"))

    def write(self, text: str) -> int:
        self._kept.append(text)
        if self._at_once or "\n" in text or "\r" in text:
            self.flush()
        return len(text)

    def mark(self, event: Mark) -> None:
        """Mark where the text of an event begins and, without a uuid, where it ends; elsewhere escape sequences do."""
        self._kept.append(event)
        if self._at_once:
            self.flush()

    def flush(self) -> None:
        kept, self._kept = self._kept, []
        for part in kept:
            if isinstance(part, str):
                self._screen.write(part.replace("\n", "\r\n"))
            else:
                before, self._screen._buffer = self._screen._buffer.getvalue(), io.StringIO()
                self._screen._emit_event(before, dict(part))

    def isatty(self) -> bool:
        return True

    def close(self) -> None:
        self.flush()
        self._screen.close()


class _Events:
    """The events of a run: texts from ansible-runner's filter, joined with the data of its callback plugin."""

    def __init__(self, recorder: Recorder, ident: str, flush: Callable[[], None]) -> None:
        self.count = 0
        self._recorder = recorder
        self._flush = flush
        self._ident = ident
        plugin = callback_loader.get("awx_display", class_only=True)
        module = plugin.v2_playbook_on_start.__globals__
        self._encode: Callable[[object], str] = module["AnsibleJSONEncoderLocal"]().encode
        self._aside: dict[str, str] = {}
        self._plugin, self._begin, self._context = plugin, plugin.__init__, module["event_context"]
        context, begin = self._context, self._begin
        context.cache = self
        # What is displayed before the callback plugin is loaded, which it long is here, is told without its marks.
        context.dump = lambda *_, **__: None

        def mark(output: Any, data: Mark, flush: bool = False) -> None:
            getattr(output, "real", output).mark(data)
            if flush:
                output.flush()

        def begun(callback: Any) -> None:
            context.dump = mark
            begin(callback)

        plugin.__init__ = begun

    def close(self) -> None:
        """Remove what the plugin has of the run."""
        self._plugin.__init__ = self._begin
        self._context.cache = None
        self._context._global_ctx.clear()

    def set(self, key: str, value: JsonObject) -> None:
        """Keep the data of an event, for the callback plugin. It is encoded at once, as its objects go on changing."""
        self._aside[key.removeprefix(":1:ev-")] = self._encode(value)

    def __call__(self, event: JsonObject) -> None:
        """Take an event with its text from the filter."""
        if "uuid" not in event:
            return
        self.count += 1
        event["runner_ident"] = self._ident
        aside = self._aside.pop(event["uuid"], None)
        if aside is None:
            text = json.dumps({**event, "created": datetime.now(UTC).isoformat()})
        else:
            # Large, often, and an object that has all but these.
            rest = {name: value for name, value in event.items() if name not in ("uuid", "event")}
            text = f"{aside[:-1]}, {json.dumps(rest)[1:]}"
        text = self._recorder.record(text, event["stdout"])
        self._recorder.keep_event(event["counter"], event["uuid"], text)
        if event.get("event") not in _FOLLOWED_AT_ONCE:
            self._flush()
