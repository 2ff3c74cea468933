import asyncio
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from runner.executor import cold, run_folder
from runner.executor.environment import has_tags
from runner.executor.jobs import Execute, Job, fold
from runner.executor.run_folder import ArtifactsError, RunFolders, link_latest, prepare, rotate, settle, write_inputs
from runner.executor.warm.executor import WarmExecutor

CR = ("example.com", "v1", "Thing", "default", "one")
CLUSTER_CR = ("example.com", "v1", "Thing", "", "fleet")


def with_a_run(folder: Path, *, of: str = "x", size: int = 0) -> Path:
    (folder / "env").mkdir(parents=True, exist_ok=True)
    (folder / "env" / "extravars").touch()
    run = folder / "artifacts" / of
    run.mkdir(parents=True)
    (run / "job_events").mkdir()
    (run / "stdout").write_bytes(b"x" * size)
    return run


def test_one_folder_a_cr_found_and_removed(tmp_path: Path) -> None:
    folders = RunFolders(tmp_path / "runs")
    for parts in (CR, CLUSTER_CR):
        with_a_run(folders.folder(parts))
    assert folders.root.stat().st_mode & 0o777 == 0o700
    assert set(folders.left_over(CR[:3])) == {("default", "one"), ("fleet",)}
    folders.remove(CR)
    assert set(folders.left_over(CR[:3])) == {("fleet",)}
    folders.remove(CLUSTER_CR)
    assert [path.name for path in folders.root.iterdir()] == [".lock"]
    folders.close()


def test_crs_with_the_names_of_what_a_folder_holds_are_crs(tmp_path: Path) -> None:
    folders = RunFolders(tmp_path)
    names = ("artifacts", "env", "project", "latest", "run-1")
    runs = [with_a_run(folders.folder((*CR[:4], name)), size=1000) for name in names]
    assert set(folders.left_over(CR[:3])) == {("default", name) for name in names}
    assert folders.bound(len(names) * 100_000) == 0
    os.utime(runs[0], (1, 1))
    taken = sum(path.stat().st_blocks * 512 for run in runs for path in (run, *run.iterdir()))
    assert folders.bound(taken - 1) == 1
    assert [run.exists() for run in runs] == [False, True, True, True, True]
    assert (folders.folder((*CR[:4], "artifacts")) / "env" / "extravars").exists()
    folders.close()


def test_two_runners_do_not_share_a_root(tmp_path: Path) -> None:
    first = RunFolders(tmp_path)
    with pytest.raises(ArtifactsError, match=r"in use by another runner.*--runs-dir"):
        RunFolders(tmp_path)
    first.close()
    RunFolders(tmp_path).close()


def test_a_root_that_cannot_be_made_is_told_with_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactsError, match="--runs-dir"):
        RunFolders(tmp_path / "file" / "runs")


def test_the_oldest_artifacts_go_and_latest_stays(tmp_path: Path) -> None:
    for number in range(5):
        run = tmp_path / "artifacts" / f"run{number}"
        run.mkdir(parents=True)
        os.utime(run, (number, number))
        link_latest(tmp_path, run.name)
    rotate(tmp_path, 0)
    assert len(list((tmp_path / "artifacts").iterdir())) == 6
    rotate(tmp_path, 2)
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {"run3", "run4", "latest"}
    assert (tmp_path / "artifacts" / "latest").resolve().name == "run4"


async def test_a_run_may_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tasks = tmp_path / "roles" / "thing" / "tasks" / "main.yml"
    tasks.parent.mkdir(parents=True)
    tasks.write_text("- ansible.builtin.debug: {msg: hello}\n")
    role, folder = tasks.parent.parent, tmp_path / "run"

    async def leaves(execute: Execute, keep: int | None) -> list[str]:
        events = [
            event
            async for event in execute(
                Job(ident="it", folder=folder, scratch=tmp_path / "tmp", role=role, max_artifacts=keep)
            )
        ]
        assert fold(events).ok >= 1
        return sorted(path.name for path in (folder / "artifacts").iterdir())

    async with WarmExecutor() as warm:
        for execute in (warm.execute, cold.execute):
            assert await leaves(execute, 1) == ["it", "latest"]
            (folder / "artifacts" / "latest").unlink()
            assert await leaves(execute, None) == []


def test_the_oldest_artifacts_of_all_go_first(tmp_path: Path) -> None:
    folders = RunFolders(tmp_path / "runs")
    # As a CR may be called.
    odd = (*CR[:4], "artifacts")
    (folders.folder(odd) / "env").mkdir(parents=True)
    (folders.running / "run-1" / "tmp" / "job_events").mkdir(parents=True)
    for age, parts in enumerate((odd, CLUSTER_CR, CR, CLUSTER_CR)):
        run = folders.folder(parts) / "artifacts" / f"run{age}"
        (run / "job_events").mkdir(parents=True)
        (run / "stdout").write_bytes(b"x" * 100_000)
        for path in (run / "stdout", run / "job_events", run):
            os.utime(path, (age, age))
        link_latest(folders.folder(parts), run.name)
    assert folders.bound(1_000_000) == 0
    assert folders.bound(250_000) == 2
    left = {path.name for path in folders.root.rglob("run?")}
    assert (folders.folder(odd) / "env").is_dir()
    assert (folders.running / "run-1" / "tmp" / "job_events").is_dir()
    assert left == {"run2", "run3"}
    assert folders.bound(0) == 2
    folders.close()


async def test_artifacts_are_looked_at_only_if_there_may_be_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be millions of files, at which an operator that does nothing would look again and again."""
    monkeypatch.setattr(run_folder, "_BOUND_AFTER", 0.0)
    folders, asked, looked = RunFolders(tmp_path / "runs"), asyncio.Queue[bool](), 0

    def count(size: int) -> int:
        nonlocal looked
        looked += 1
        return 0

    def ask() -> bool:
        grown = RunFolders.may_have_grown(folders)
        asked.put_nowait(grown)
        return grown

    monkeypatch.setattr(folders, "bound", count)
    monkeypatch.setattr(folders, "may_have_grown", ask)
    looking = asyncio.create_task(folders.keep_below(1))
    try:
        # An earlier process may have left too much.
        assert [await asked.get() for _ in range(3)] == [True, False, False]
        folders.folder(CR)
        while not await asked.get():
            assert looked == 1
        assert not await asked.get()
    finally:
        looking.cancel()
        await asyncio.wait([looking])
    assert looked == 2
    folders.close()


def test_there_may_be_more_artifacts_while_a_run_is_on_and_after_it(tmp_path: Path) -> None:
    folders = RunFolders(tmp_path / "runs")
    assert [folders.may_have_grown() for _ in range(2)] == [True, False]
    (folders.running / "run-1").mkdir(parents=True)
    assert [folders.may_have_grown() for _ in range(2)] == [True, True]
    (folders.running / "run-1").rmdir()
    assert [folders.may_have_grown() for _ in range(2)] == [True, False]
    folders.close()


def test_what_runs_of_a_killed_process_have_left_goes_at_the_next_start(tmp_path: Path) -> None:
    first = RunFolders(tmp_path / "runs")
    (first.running / "run-1" / "tmp").mkdir(parents=True)
    (first.running / "run-1" / "kubeconfig").write_text("{}")
    first.close()
    second = RunFolders(tmp_path / "runs")
    assert not second.running.exists()
    second.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give something away")
@pytest.mark.parametrize("place", ["ansible-operator/runner", "ansible-operator"], ids=["above", "itself"])
@pytest.mark.parametrize("is_link", [False, True], ids=["folder", "link"])
def test_another_users_folder_in_a_shared_one_is_not_taken(tmp_path: Path, place: str, is_link: bool) -> None:
    shared, root = tmp_path / "tmp", tmp_path / "tmp" / place
    shared.mkdir()
    shared.chmod(0o1777)
    theirs = shared / "ansible-operator"
    if is_link:
        (tmp_path / "elsewhere").mkdir()
        theirs.symlink_to(tmp_path / "elsewhere")
    else:
        theirs.mkdir()
    os.chown(theirs, 65534, -1, follow_symlinks=False)
    with pytest.raises(ArtifactsError, match=r"belongs to another user.*--runs-dir"):
        RunFolders(root)


def test_settling_tells_what_it_cannot_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settle(tmp_path / "nothing", "it", 1)
    assert "Old artifacts could not be removed" in caplog.messages


@pytest.mark.parametrize("is_big", [False, True], ids=["small", "big"])
async def test_many_variables_are_written_beside_the_event_loop(
    tmp_path: Path, is_big: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[bool] = []
    written = run_folder._write_inputs
    monkeypatch.setattr(
        run_folder,
        "_write_inputs",
        lambda job: (where.append(threading.current_thread() is threading.main_thread()), written(job)),
    )
    places = {"folder": tmp_path / "it", "scratch": tmp_path / "tmp", "role": tmp_path / "role"}
    await prepare(Job(ident="it", **places, extra_vars={"a": 1}, is_big=is_big))
    assert json.loads((tmp_path / "it" / "env" / "extravars").read_text()) == {"a": 1}
    assert where == [not is_big]


async def test_a_run_that_is_ended_while_its_inputs_are_written_leaves_nobody_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    written = run_folder._write_inputs

    def write(job: Job) -> None:
        begun.set()
        go_on.wait()
        written(job)

    monkeypatch.setattr(run_folder, "_write_inputs", write)
    places = {"folder": tmp_path / "it", "scratch": tmp_path / "tmp", "role": tmp_path / "role"}
    putting = asyncio.create_task(prepare(Job(ident="it", **places, is_big=True)))
    await asyncio.to_thread(begun.wait)
    putting.cancel()
    await asyncio.sleep(0)
    assert not putting.done()
    go_on.set()
    await asyncio.wait({putting})
    assert putting.cancelled()
    assert (tmp_path / "it" / "env" / "extravars").exists()


def read(folder: Path) -> Any:
    """What Ansible knows of its hosts by this inventory."""
    command = [str(Path(sys.executable).with_name("ansible-inventory")), "--inventory", str(folder), "--list"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout)


@pytest.mark.parametrize("choice", ["", "environment", "configuration"])
def test_the_inventory_says_the_same_in_each_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ANSIBLE_INVENTORY", "ANSIBLE_CONFIG", "ANSIBLE_REMOTE_TEMP", "ANSIBLE_REMOTE_TMP"):
        monkeypatch.delenv(name, raising=False)
    # There is no YAML among them.
    if choice == "environment":
        monkeypatch.setenv("ANSIBLE_INVENTORY_ENABLED", "ini")
    if choice == "configuration":
        (tmp_path / "ansible.cfg").write_text("[inventory]\nenable_plugins = ini\n")
        monkeypatch.setenv("ANSIBLE_CONFIG", str(tmp_path / "ansible.cfg"))
    scratch = tmp_path / "with a space"
    write_inputs(Job(ident="it", folder=tmp_path / "it", scratch=scratch, role=tmp_path / "role"))
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ansible_remote_tmp": str(scratch),
    }
    found = read(tmp_path / "it" / "inventory")
    assert found["_meta"]["hostvars"] == {"localhost": variables}
    assert found["ungrouped"] == {"hosts": ["localhost"]}
    assert found["all"]["children"] == ["ungrouped"]


def places(tmp_path: Path) -> dict[str, Path]:
    return {"folder": tmp_path / "it", "scratch": tmp_path / "tmp", "role": tmp_path / "roles" / "role"}


def test_what_an_earlier_run_has_left_in_the_inputs_places_is_replaced(tmp_path: Path) -> None:
    write_inputs(Job(ident="one", **places(tmp_path), arguments="--tags one", extra_vars={"a": 1}))
    write_inputs(Job(ident="two", **{**places(tmp_path), "role": tmp_path / "others" / "role"}, arguments="--tags three"))

    folder = tmp_path / "it"
    assert (folder / "env" / "cmdline").read_text() == "--tags three"
    assert json.loads((folder / "env" / "extravars").read_text()) == {}
    assert (folder / "project" / "roles").readlink() == tmp_path / "others"


def test_inputs_that_somebody_has_changed_are_put_right(tmp_path: Path) -> None:
    job = Job(ident="one", **places(tmp_path), arguments="--tags one")
    write_inputs(job)
    folder = tmp_path / "it"
    (folder / "env" / "cmdline").write_text("--tags one --check")
    (folder / "project" / "roles").unlink()
    (folder / "inventory" / "hosts").unlink()
    (folder / "artifacts").rmdir()

    write_inputs(job)

    assert (folder / "env" / "cmdline").read_text() == "--tags one"
    assert (folder / "project" / "roles").readlink() == tmp_path / "roles"
    assert "localhost" in (folder / "inventory" / "hosts").read_text()
    assert (folder / "artifacts").is_dir()


def test_inputs_are_their_owners_alone(tmp_path: Path) -> None:
    write_inputs(Job(ident="one", **places(tmp_path)))

    made = [tmp_path / "it", tmp_path / "tmp", *(tmp_path / "it").rglob("*")]
    assert {path.name: path.lstat().st_mode & 0o077 for path in made if not path.is_symlink()} == {
        path.name: 0 for path in made if not path.is_symlink()
    }


def test_variables_are_written_as_json_has_them(tmp_path: Path) -> None:
    """The data of a CR may hold what orjson refuses, and the watch's own variables what JSON has not."""
    data = {"large": 2**70, "lone": "\ud800", "text": "é\u2028"}
    write_inputs(Job(ident="one", **places(tmp_path), data=data, extra_vars={"number": math.inf}))

    unsafe = "__ansible_unsafe"
    assert json.loads((tmp_path / "it" / "env" / "extravars").read_text()) == {
        "large": 2**70 if has_tags() else {unsafe: 2**70},
        **{"lone": {unsafe: "\ud800"}, "text": {unsafe: "é\u2028"}},
        "number": math.inf,
    }
