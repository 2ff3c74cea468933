"""The warm process and its children: how they end, and what is left when one of them does not end by itself."""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.driver import until
from runner.executor import cold, guarded, processes
from runner.executor.environment import has_tags
from runner.executor.jobs import ExecutorError, Job, JobEvent, fold
from runner.executor.run_folder import write_inputs
from runner.executor.warm import executor as warm_executor
from runner.executor.warm.executor import WarmExecutor
from tests.conftest import alive

DAWDLE = """
- ansible.builtin.shell: |
    echo $$ > {folder}/pids
    sleep 3600 &
    echo $! >> {folder}/pids
    setsid sleep 3600 &
    echo $! >> {folder}/pids
    wait
"""


class Stage:
    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self.scratch = scratch
        self.count = 0

    def role(self, tasks: str) -> None:
        path = self.folder / "roles" / "thing" / "tasks" / "main.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tasks.format(folder=self.folder))

    def job(self) -> Job:
        self.count += 1
        folder = self.folder / "runs" / str(self.count)
        scratch = self.scratch / str(self.count)
        return Job(ident=f"job-{self.count}", folder=folder, role=self.folder / "roles" / "thing", scratch=scratch)

    async def played(self, warm: WarmExecutor, pool: str = "") -> list[JobEvent]:
        return [event async for event in warm.execute(replace(self.job(), pool=pool))]

    async def pids(self) -> list[int]:
        """Those of the role's processes, when all have been started."""

        async def written() -> list[int] | None:
            with contextlib.suppress(OSError):
                found = [int(line) for line in (self.folder / "pids").read_text().split()]
                return found if len(found) == 3 else None
            return None

        return await until(written, "the role's processes run")

    async def ended(self, pids: list[int]) -> None:
        async def gone() -> bool:
            return not alive(pids)

        await until(gone, "the processes have ended")


@pytest.fixture
def stage(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANSIBLE_GATHERING", "explicit")
    return Stage(tmp_path, scratch)


def guard_pid(warm: WarmExecutor) -> int:
    assert warm._server is not None
    return warm._server._guarded.process.pid


def server_pid(warm: WarmExecutor) -> int:
    return processes._descendants(guard_pid(warm), deep=False)[0]


async def test_a_role_edited_on_disk_counts_from_the_next_run_on(stage: Stage) -> None:
    async with WarmExecutor() as warm:
        for word in ("one", "two"):
            stage.role(f"- ansible.builtin.debug: {{{{msg: {word}}}}}\n")
            events = await stage.played(warm)
            assert [event.result["msg"] for event in events if event.event == "runner_on_ok"] == [word]


async def test_a_run_without_descriptors_fails_and_its_worker_is_not_used_again(stage: Stage) -> None:
    """Ansible's strategies pass over a task that cannot be started, and the play ends well."""
    stage.role("- ansible.builtin.debug:\n")
    async with WarmExecutor() as warm:
        assert fold(await stage.played(warm, "pool")).ok == 1
        server = server_pid(warm)
        workers = processes._descendants(server, deep=False)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        await stage.ended(workers)
        limits = resource.prlimit(server, resource.RLIMIT_NOFILE)
        used = max(map(int, os.listdir(f"/proc/{server}/fd")))
        for more in range(1, 8):
            resource.prlimit(server, resource.RLIMIT_NOFILE, (used + more, limits[1]))
            with contextlib.suppress(ExecutorError):
                assert fold(await stage.played(warm, "pool")).ok == 1
        resource.prlimit(server, resource.RLIMIT_NOFILE, limits)
        assert fold(await stage.played(warm, "pool")).ok == 1


async def test_several_at_once(stage: Stage) -> None:
    stage.role("- ansible.builtin.command: sleep 1\n")
    async with WarmExecutor() as warm:
        runs = await asyncio.gather(*(stage.played(warm) for _ in range(3)))
    assert all(fold(events).succeeded for events in runs)


async def test_a_run_that_is_given_up_ends_with_all_its_processes(stage: Stage) -> None:
    stage.role(DAWDLE)
    async with WarmExecutor() as warm:
        async with asyncio.TaskGroup() as tasks:
            run = tasks.create_task(stage.played(warm))
            pids = await stage.pids()
            run.cancel()
        assert alive(pids) == []
        # The next one is not touched by it.
        stage.role("- ansible.builtin.debug:\n")
        assert fold(await stage.played(warm)).succeeded


async def test_what_a_run_leaves_behind_ends_with_it(stage: Stage) -> None:
    stage.role("- ansible.builtin.shell: setsid sleep 3600 >/dev/null 2>&1 & echo $! > {folder}/pid\n")
    async with WarmExecutor() as warm:
        assert fold(await stage.played(warm)).succeeded
        assert alive([int((stage.folder / "pid").read_text())]) == []


async def test_a_child_that_dies_fails_its_own_run_only(stage: Stage) -> None:
    async with WarmExecutor() as warm:
        # A lookup runs in the process that plays.
        stage.role("""- ansible.builtin.debug: {{msg: "{{{{ lookup('pipe', 'kill -9 $PPID') }}}}"}}\n""")
        with pytest.raises(ExecutorError, match="its process was killed \\(signal 9\\), perhaps for want of memory"):
            await stage.played(warm)
        before = server_pid(warm)
        stage.role("- ansible.builtin.debug:\n")
        assert fold(await stage.played(warm)).succeeded
        assert server_pid(warm) == before


async def spare(warm: WarmExecutor, *, instead_of: int = 0) -> int:
    """The process id of the fork that waits for the next job."""

    async def waiting() -> int:
        return next((pid for pid in processes._descendants(server_pid(warm)) if pid != instead_of), 0)

    return await until(waiting, "a fork waits for the next job")


async def player(stage: Stage, warm: WarmExecutor) -> int:
    """The process id of the fork that plays a job."""
    stage.role("""- ansible.builtin.debug: {{msg: "{{{{ lookup('pipe', 'echo $PPID') }}}}"}}\n""")
    events = await stage.played(warm)
    return next(int(event.result["msg"]) for event in events if event.event == "runner_on_ok")


async def test_a_fork_waits_for_the_next_job(stage: Stage) -> None:
    async with WarmExecutor() as warm:
        first = await spare(warm)
        assert await player(stage, warm) == first
        second = await spare(warm, instead_of=first)
        assert await player(stage, warm) == second
    assert alive([second]) == []


async def test_a_waiting_fork_that_dies_is_not_missed(stage: Stage) -> None:
    async with WarmExecutor() as warm:
        first = await spare(warm)
        os.kill(first, signal.SIGKILL)
        await stage.ended([first])
        assert await player(stage, warm) != first
        # There is another after the next job, and not at once: what has killed it may do so again.
        await spare(warm)


async def test_a_waiting_fork_ends_with_the_warm_process(stage: Stage) -> None:
    async with WarmExecutor() as warm:
        first = await spare(warm)
        os.kill(server_pid(warm), signal.SIGKILL)
        await stage.ended([first])


async def test_a_warm_process_that_dies_is_replaced(stage: Stage) -> None:
    stage.role(DAWDLE)
    async with WarmExecutor() as warm:
        run = asyncio.create_task(stage.played(warm))
        pids = await stage.pids()
        os.kill(server_pid(warm), signal.SIGKILL)
        with pytest.raises(ExecutorError, match="its process has died"):
            await run
        # Before it is told: the next run is not beside it.
        assert alive(pids) == []
        stage.role("- ansible.builtin.debug:\n")
        assert fold(await stage.played(warm)).succeeded


async def test_all_ends_with_the_executor(stage: Stage) -> None:
    stage.role(DAWDLE)
    async with WarmExecutor() as warm:
        run = asyncio.create_task(stage.played(warm))
        pids = await stage.pids()
    with pytest.raises(ExecutorError):
        await run
    await stage.ended(pids)


# Where a run has its temporary files: the controller's, a module's, and a program's.
PLACES = """
- ansible.builtin.copy: {{content: x, dest: '{folder}/x'}}
  register: copied
- operator_sdk.util.requeue_after: {{time: 1s}}
- ansible.builtin.command: mktemp
  register: made
- ansible.builtin.debug: {{msg: "{{{{ copied.src }}}} {{{{ made.stdout }}}} {{{{ lookup('env', 'TMPDIR') }}}}"}}
"""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose path is as short as that of a run in the product, and a home that is watched."""
    for name in ("TMPDIR", "ANSIBLE_LOCAL_TEMP", "ANSIBLE_REMOTE_TEMP", "ANSIBLE_REMOTE_TMP", "ANSIBLE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        monkeypatch.setenv("HOME", folder)
        yield Path(folder)


@pytest.mark.parametrize("name", ["warm", "subprocess"])
async def test_temporary_files_stand_in_the_runs_folder(stage: Stage, short: Path, name: str) -> None:
    stage.role(PLACES)
    scratch = short / "run"
    async with WarmExecutor() as warm:
        execute = warm.execute if name == "warm" else cold.execute
        events = [event async for event in execute(replace(stage.job(), scratch=scratch))]
        assert fold(events).succeeded
        said = next(event.result["msg"] for event in events if event.task.endswith("debug") and "msg" in event.result)
        assert all(Path(word).is_relative_to(scratch) for word in said.split()), said
        # Nothing elsewhere.
        assert list((short / ".ansible").glob("tmp/*")) == []
    # mktemp's own file is left there, and goes with the folder.
    assert [path.name[:4] for path in scratch.iterdir()] == ["tmp."]


@pytest.mark.parametrize("name", ["warm", "subprocess"])
async def test_the_users_own_places_count(stage: Stage, short: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(short / "own"))
    (short / "own").mkdir()
    (stage.folder / "ansible.cfg").write_text(f"[defaults]\nremote_tmp = {short}/remote\nlocal_tmp = {short}/local\n")
    stage.role(PLACES)
    async with WarmExecutor() as warm:
        execute = warm.execute if name == "warm" else cold.execute
        events = [event async for event in execute(replace(stage.job(), scratch=short / "run"))]
        said = next(event.result["msg"] for event in events if event.task.endswith("debug") and "msg" in event.result)
    found = [str(Path(word).relative_to(short)).split("/")[0] for word in said.split()]
    assert found == ["remote", "own", "own"]
    assert (short / "local").is_dir()


async def test_a_warm_process_that_is_killed_leaves_no_folder(
    stage: Stage, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    stage.role(DAWDLE)
    async with WarmExecutor() as warm:
        run = asyncio.create_task(stage.played(warm))
        await stage.pids()
        os.kill(server_pid(warm), signal.SIGKILL)
        await asyncio.wait({run})
        assert isinstance(run.exception(), ExecutorError)
    assert list(short.glob("rolerunner-warm-*")) == []
    assert list(short.glob(".ansible/tmp/ansible-local-*")) == []


async def test_a_warm_process_that_does_not_answer_is_replaced(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.role(DAWDLE)
    async with WarmExecutor() as warm:
        run = asyncio.create_task(stage.played(warm))
        pids = await stage.pids()
        before = server_pid(warm)
        os.kill(before, signal.SIGSTOP)
        # Not earlier nor for longer: one that is only slow answers in its time.
        with monkeypatch.context() as patch:
            patch.setattr(warm_executor, "_ASKING", 0.2)
            with pytest.raises(ExecutorError, match="its process has died"):
                await run
        assert alive([*pids, before]) == []
        stage.role("- ansible.builtin.debug:\n")
        assert fold(await stage.played(warm)).succeeded
        assert warm.healthy


async def test_a_run_that_is_given_up_ends_though_nothing_answers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_executor, "_RUN_END_TIMEOUT", 1.0)
    monkeypatch.setattr(guarded, "_GRACE", 1.0)
    stage.role(DAWDLE)
    async with WarmExecutor() as warm:
        run = asyncio.create_task(stage.played(warm))
        pids = await stage.pids()
        before = [server_pid(warm), guard_pid(warm)]
        for pid in before:
            os.kill(pid, signal.SIGSTOP)
        run.cancel()
        await asyncio.wait({run})
        assert alive([*pids, *before]) == []


async def test_it_is_not_healthy_while_nothing_answers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async with WarmExecutor() as warm:
        assert warm.healthy
        before = server_pid(warm)
        os.kill(guard_pid(warm), signal.SIGSTOP)
        os.kill(before, signal.SIGSTOP)
        monkeypatch.setattr(warm_executor, "_ASKING", 0.1)

        async def told() -> bool:
            return not warm.healthy

        await until(told, "it is not healthy")


async def test_it_is_healthy_though_the_run_that_had_it_started_was_ended(stage: Stage) -> None:
    warm = WarmExecutor()
    run = asyncio.create_task(stage.played(warm))

    async def starting() -> bool:
        return warm._starting.locked()

    await until(starting, "it is started", interval=0)
    run.cancel()
    await asyncio.wait({run})
    assert run.cancelled()
    assert warm.healthy


async def test_a_full_control_socket_is_waited_for(stage: Stage) -> None:
    stage.role("- ansible.builtin.debug:\n")
    async with WarmExecutor() as warm:
        before, server = server_pid(warm), warm._server
        assert server is not None
        os.kill(before, signal.SIGSTOP)
        while not server._is_waiting_for_room:
            server._tell({"ping": 0})
        run = asyncio.create_task(stage.played(warm))
        await asyncio.sleep(0)
        os.kill(before, signal.SIGCONT)
        assert fold(await run).succeeded
        assert server_pid(warm) == before


async def test_a_fork_server_that_has_too_many_files_open_fails_a_run_only(stage: Stage) -> None:
    stage.role("- ansible.builtin.debug:\n")
    async with WarmExecutor() as warm:
        before = server_pid(warm)
        await spare(warm)
        limits = resource.prlimit(before, resource.RLIMIT_NOFILE)
        resource.prlimit(before, resource.RLIMIT_NOFILE, (3, limits[1]))
        with pytest.raises(ExecutorError, match="its process could not be made: Too many open files"):
            await stage.played(warm)
        resource.prlimit(before, resource.RLIMIT_NOFILE, limits)
        assert fold(await stage.played(warm)).succeeded
        assert server_pid(warm) == before


async def test_a_run_is_ended_before_others_when_memory_runs_out(stage: Stage) -> None:
    stage.role(DAWDLE)
    async with WarmExecutor() as warm:
        run = asyncio.create_task(stage.played(warm))
        pid, *_ = await stage.pids()
        assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) > int(Path("/proc/self/oom_score_adj").read_text())
        run.cancel()
        await asyncio.wait({run})


@pytest.mark.parametrize("name", ["warm", "subprocess"])
async def test_no_room_for_the_inputs_is_told_as_such(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    (folder / "env").mkdir(parents=True)
    # Every write to it finds the disk full.
    (folder / "env" / "extravars").symlink_to("/dev/full")
    execute = WarmExecutor().execute if name == "warm" else cold.execute
    with pytest.raises(ExecutorError, match=r"could not be written: No space left on device.*--runs-dir"):
        async for _ in execute(Job(ident="it", folder=folder, scratch=tmp_path / "tmp", role=tmp_path)):
            pass


@pytest.mark.parametrize("name", ["warm", "subprocess"])
async def test_too_many_open_files_are_told_as_such(stage: Stage, name: str) -> None:
    stage.role("- ansible.builtin.debug:\n")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with WarmExecutor() as warm:
        execute = warm.execute if name == "warm" else cold.execute
        job = stage.job()
        write_inputs(job)
        # Nothing that is collected meanwhile may make room.
        gc.collect()
        lowest = os.dup(0)
        os.close(lowest)
        # A file or two are needed on the way there.
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
        try:
            with pytest.raises(ExecutorError, match=r"Too many open files.*ulimit -n"):
                async for _ in execute(job):
                    pass
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        events = [event async for event in execute(stage.job())]
    assert fold(events).succeeded


@pytest.mark.parametrize("name", ["warm", "subprocess"])
async def test_an_event_that_is_too_long_is_cut(stage: Stage, name: str) -> None:
    stage.role("""
- ansible.builtin.debug: {{msg: "{{{{ 'abcdefghij' * 600000 }}}}"}}
- ansible.builtin.fail: {{msg: "{{{{ 'abcdefghij' * 600000 }}}} is the end"}}
""")
    async with WarmExecutor() as warm:
        execute = warm.execute if name == "warm" else cold.execute
        events = [event async for event in execute(stage.job())]
    outcome = fold(events)
    assert outcome.failures == 1
    # ansible-runner itself leaves out a result that is as long, and not what is printed of it, if anything (from 2.19 on).
    told = "[cut here: " if has_tags() else "unknown playbook failure in task"
    assert told in outcome.messages[0]
    assert max(len(event.stdout) for event in events) < 100_000


async def test_a_traceback_of_the_runners_own_shows_no_secret(stage: Stage) -> None:
    stage.role("- ansible.builtin.debug:\n")
    async with WarmExecutor() as warm:
        # ansible-runner cannot make out what to do with it.
        job = replace(stage.job(), secrets=("s3cr3t-t0ken",), arguments="'s3cr3t-t0ken")
        with pytest.raises(ExecutorError) as told:
            async for _ in warm.execute(job):
                pass
    assert "Traceback" in str(told.value)
    assert "s3cr3t-t0ken" not in str(told.value)
