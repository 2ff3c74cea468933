"""A user's callback plugins in workers: each run has its own, as in a process of its own; the warm-up has none."""

import logging
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.executor import cold
from runner.executor.jobs import JobEvent, fold
from runner.executor.warm import executor as warm_executor
from runner.executor.warm.executor import WarmExecutor
from tests.executor.test_conformance import Stage, told

# Keeps something of the run in its module, its class and itself, and writes down each run that it hears of.
PLUGIN = """
import os, socket
from ansible import context
from ansible.plugins.callback import CallbackBase

arguments = dict(context.CLIARGS)
plays = []

class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "teller"
    heard = []

    def __init__(self):
        super().__init__()
        self.left = socket.socket()

    def v2_playbook_on_play_start(self, play):
        plays.append(play.get_name())
        files = sorted(os.path.basename(path) for path in play._loader._FILE_CACHE)
        self._display.display(f"tags {sorted(arguments['tags'])}, check {arguments['check']}, plays {plays}, files {files}")

    def v2_runner_on_ok(self, result, **kwargs):
        self.heard.append(result._task.get_name())

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self.heard.append("failed " + result._task.get_name())

    def v2_runner_item_on_ok(self, result):
        self.heard.append(f"item {result._result['item']}")

    def v2_playbook_on_stats(self, stats):
        self._display.display(f"heard {self.heard}, {stats.summarize('localhost')}")
        with open(os.environ["HEARD"], "a") as file:
            file.write(f"{self.heard}\\n")
"""
TASKS = """
- name: Loop
  ansible.builtin.debug: {msg: "{{ item }}"}
  loop: [1, 2]
- name: Hidden
  ansible.builtin.debug: {msg: secret}
  no_log: true
- name: Fail
  ansible.builtin.fail: {msg: boo}
  when: number == '8'
"""


@dataclass
class Played:
    """Runs in workers of one pool; `answers`: of each, its number in its worker, and why that one was ended."""

    stage: Stage
    answers: list[tuple[int, str]]
    heard: Path
    count: int = 0

    async def compared(self, warm: WarmExecutor, **job: object) -> list[JobEvent]:
        """The events of a run in a worker, which are those of the plain way."""
        self.count += 1
        ours = await self.stage.events(warm.execute, f"run-{self.count}", pool="pool", **job)
        for one, other in zip(told(ours), told(await self.stage.events(cold.execute, **job)), strict=True):
            assert one == other
        return ours


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    answers: list[tuple[int, str]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANSIBLE_GATHERING", "explicit")
    monkeypatch.setenv("HEARD", str(tmp_path / "heard"))
    monkeypatch.setattr(warm_executor.metrics, "worker_run", lambda number, retired: answers.append((number, retired)))
    stage = Stage(tmp_path)
    stage.write("tasks/main.yml", TASKS)
    return Played(stage, answers, tmp_path / "heard")


def install(played: Played, monkeypatch: pytest.MonkeyPatch, text: str, *, library: bool) -> Path:
    """The plugin, in a package that is installed, or in a folder of the project."""
    packages = played.stage.folder / "site-packages"
    folder = packages / "teller" / "callbacks" if library else played.stage.folder / "callbacks"
    folder.mkdir(parents=True)
    path = folder / "teller.py"
    path.write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.setenv("ANSIBLE_CALLBACK_PLUGINS", str(folder))
    return path


@pytest.mark.parametrize("library", [True, False], ids=["installed", "of the project"])
async def test_each_run_has_its_own(played: Played, monkeypatch: pytest.MonkeyPatch, library: bool) -> None:
    install(played, monkeypatch, PLUGIN, library=library)
    async with WarmExecutor() as warm:
        assert not played.heard.exists()
        events = await played.compared(warm, arguments="--tags all")
        printed = "".join(event.printed for event in events)
        assert "check False, plays ['localhost']" in printed
        assert "heard ['item 1', 'item 2', 'thing : Loop', 'thing : Hidden']" in printed
        events = await played.compared(warm, arguments="--check --tags all,mine", extra_vars={"number": "8"})
        assert "check True, plays ['localhost']" in "".join(event.printed for event in events)
        assert fold(events).messages == ("boo",)
        await played.compared(warm)
    # Each, with either executor, and the warm-up not at all.
    assert len(played.heard.read_text().splitlines()) == 2 * played.count
    assert played.answers == ([(1, ""), (2, ""), (3, "")] if library else [(1, "code")] * 3)


async def test_what_it_leaves_running_ends_the_worker_and_is_told_once(
    played: Played, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = "import threading\nthreading.Thread(target=threading.Event().wait, name='of the teller', daemon=True).start()\n"
    install(played, monkeypatch, server + PLUGIN, library=True)
    caplog.set_level(logging.INFO, warm_executor.__name__)
    async with WarmExecutor() as warm:
        for _ in range(2):
            await played.compared(warm)
    assert played.answers == [(1, "thread")] * 2
    (line,) = [record for record in caplog.records if "left something" in record.message]
    assert (line.reason, line.found) == ("thread", "of the teller")  # type: ignore[attr-defined]


async def test_a_plugin_of_the_project_is_named(
    played: Played, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = install(played, monkeypatch, PLUGIN, library=False)
    caplog.set_level(logging.INFO, warm_executor.__name__)
    async with WarmExecutor() as warm:
        await played.compared(warm)
    assert [record.found for record in caplog.records if "left something" in record.message] == [str(path)]  # type: ignore[attr-defined]


async def test_one_that_cannot_be_loaded_is_told_by_each_run(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    install(played, monkeypatch, PLUGIN.replace("super().__init__()", "raise ValueError('no server')"), library=True)
    async with WarmExecutor() as warm:
        for _ in range(2):
            events = await played.compared(warm)
            assert fold(events).succeeded
            assert "no server" in "".join(event.printed for event in events)


@pytest.mark.parametrize("name", ["minimal", "ansible.posix.json", "ansible.posix.debug"])
async def test_other_outputs(played: Played, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What the warm-up prints may be of any form."""
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", name)
    async with WarmExecutor() as warm:
        for _ in range(2):
            assert fold(await played.compared(warm)).succeeded


async def test_those_of_collections(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_CALLBACKS_ENABLED", "community.general.context_demo")
    async with WarmExecutor() as warm:
        for _ in range(2):
            assert "--- ARGS" in "".join(event.printed for event in await played.compared(warm))
    assert played.answers == [(1, "code")] * 2
