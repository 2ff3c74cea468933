"""What a worker keeps for later runs changes nothing of what they give: what is edited, or differs each time, counts."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runner.executor import cold
from runner.executor.jobs import Execute, Job, fold
from runner.executor.warm.executor import WarmExecutor


class Stage:
    """A role whose runs are played one after the other by one worker."""

    def __init__(self, folder: Path, warm: WarmExecutor) -> None:
        self.warm = warm
        self.role = folder / "roles" / "thing"
        self._folder = folder
        self._count = 0

    def write(self, name: str, text: str) -> Path:
        path = self.role / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    async def said(self, execute: Execute | None = None, **extra_vars: Any) -> list[Any]:
        """What the role's `debug` tasks have said in one run."""
        self._count += 1
        places = {"folder": self._folder / "run", "scratch": self._folder / "tmp"}
        job = Job(ident=f"i{self._count}", **places, role=self.role, extra_vars=extra_vars, pool="thing")
        events = [event async for event in (execute or self.warm.execute)(job)]
        assert fold(events).succeeded, [event.printed for event in events]
        return [event.result["msg"] for event in events if event.event == "runner_on_ok" and "msg" in event.result]


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANSIBLE_GATHERING", "explicit")
    async with WarmExecutor() as warm:
        yield Stage(tmp_path, warm)


def age(path: Path) -> None:
    """As if written long ago: what is younger is not kept."""
    os.utime(path, (1_000_000_000, 1_000_000_000))


async def test_an_edit_counts_though_time_and_size_are_the_same(stage: Stage) -> None:
    said = []
    for word in ("one", "two", "six"):
        age(stage.write("tasks/main.yml", f"- ansible.builtin.debug: {{msg: {word}}}\n"))
        # Once to learn it, once to know it.
        said += [await stage.said(), await stage.said()]
    assert said == [[word] for word in ("one", "one", "two", "two", "six", "six")]


async def test_a_file_that_goes_is_gone(stage: Stage) -> None:
    stage.write("tasks/main.yml", "- ansible.builtin.debug: {msg: \"{{ word | default('none') }}\"}\n")
    defaults = stage.write("defaults/main.yml", "word: some\n")
    age(defaults)
    assert [await stage.said(), await stage.said()] == [["some"], ["some"]]
    defaults.unlink()
    assert await stage.said() == ["none"]


async def test_a_file_that_is_read_twice_in_a_run_is_what_it_is_both_times(stage: Stage) -> None:
    stage.write(
        "tasks/main.yml",
        """
- ansible.builtin.include_vars: {file: words.yml}
- ansible.builtin.set_fact: {words: "{{ words + ['more'] }}"}
- ansible.builtin.debug: {msg: "{{ words }}"}
- ansible.builtin.include_vars: {file: words.yml, name: again}
- ansible.builtin.debug: {msg: "{{ again.words }}"}
""",
    )
    age(stage.write("vars/words.yml", "words: [a]\n"))
    for _ in range(3):
        assert await stage.said() == [["a", "more"], ["a"]]


@pytest.mark.parametrize(
    ("template", "differs"),
    [
        pytest.param("{{ 1000000000 | random }}", True, id="constant-arguments"),
        pytest.param("{{ now(fmt='%s.%f') }}", True, id="function"),
        pytest.param("{{ [number] | map('string') | join }}", False, id="variable"),
        pytest.param("{% for n in [1, 2] %}{{ n }}{% endfor %}", False, id="statement"),
        pytest.param("back\\\\slash {{ 'a\\\\b' | length }}", False, id="backslashes"),
    ],
)
async def test_a_template_gives_each_time_what_it_would(stage: Stage, template: str, differs: bool) -> None:
    stage.write("tasks/main.yml", json.dumps([{"ansible.builtin.debug": {"msg": template}}]))
    plain = await stage.said(cold.execute, number=5)
    said = [(await stage.said(number=5))[0] for _ in range(3)]
    assert len(set(said)) == (3 if differs else 1)
    if not differs:
        assert said[0] == plain[0]


async def test_a_roles_own_filter_may_change_and_may_be_named_like_jinjas(stage: Stage) -> None:
    def filters(word: str, decorator: str = "") -> None:
        code = f"""
from jinja2 import pass_environment
{decorator}
def shout(*args):
    return "{word} " + str(args[-1])
class FilterModule:
    def filters(self):
        return {{"shout": shout, "upper": shout}}
"""
        stage.write("filter_plugins/shout.py", code)

    stage.write(
        "tasks/main.yml",
        "- ansible.builtin.debug: {msg: \"{{ word | shout }} {{ word | upper }} {{ 'b' | upper }}\"}\n",
    )
    said = []
    # Of other lengths: by their time alone Python does not tell two versions of one second apart.
    for word, decorator in (("one", ""), ("three", ""), ("eleven", "@pass_environment")):
        filters(word, decorator)
        said += [(await stage.said(word="a"))[0] for _ in range(2)]
    assert said == [f"{word} a {word} a {word} b" for word in ("one", "one", "three", "three", "eleven", "eleven")]
    # Elsewhere the name is Jinja's again.
    (stage.role / "filter_plugins" / "shout.py").unlink()
    stage.write("tasks/main.yml", "- ansible.builtin.debug: {msg: \"{{ 'b' | upper }}\"}\n")
    assert await stage.said() == ["B"]


async def test_facts_that_are_kept_are_those_of_this_machine_and_the_others_are_of_now(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANSIBLE_GATHERING")
    names = ("distribution", "hostname", "architecture", "virtualization_type", "pkg_mgr", "processor_vcpus", "devices")
    kept = ", ".join(f"ansible_facts.{name}" for name in names)
    now = "ansible_facts.date_time.iso8601_micro, ansible_facts.env.HOME, ansible_facts.memtotal_mb, ansible_facts.user_id"
    mounts = "ansible_facts.mounts | map(attribute='mount') | sort"
    tasks = [{"ansible.builtin.debug": {"msg": f"{{{{ [[{kept}, {mounts}], [{now}]] }}}}"}}]
    stage.write("tasks/main.yml", json.dumps(tasks))
    plain = (await stage.said(cold.execute))[0]
    async with WarmExecutor() as warm:
        said = [(await stage.said(warm.execute))[0] for _ in range(5)]
    assert all(one[0] == plain[0] for one in said)
    assert all(one[1][1:] == plain[1][1:] for one in said)
    assert len({one[1][0] for one in said}) == len(said)
