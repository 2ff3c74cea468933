import asyncio
import json
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from runner.executor import environment
from runner.executor.environment import has_tags, put_inputs, temporary, write_inputs
from runner.executor.jobs import Job


@pytest.mark.parametrize(
    ("upper", "lower", "told"),
    [
        (None, None, ("127.0.0.1", "127.0.0.1")),
        (".svc,10.0.0.0/8", None, (".svc,10.0.0.0/8,127.0.0.1",) * 2),
        (None, ".svc", (".svc,127.0.0.1",) * 2),
        (".svc", ".local", (".svc,127.0.0.1", ".local,127.0.0.1")),
        ("127.0.0.1,.svc", "", ("127.0.0.1,.svc", "127.0.0.1")),
        ("*", None, ("*", "*")),
    ],
)
def test_no_http_proxy_between_a_run_and_the_runner(
    upper: str | None, lower: str | None, told: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    for name, given in (("NO_PROXY", upper), ("no_proxy", lower)):
        monkeypatch.delenv(name, raising=False) if given is None else monkeypatch.setenv(name, given)
    made = environment.environment()
    assert (made["NO_PROXY"], made["no_proxy"]) == told


def test_without_an_http_proxy_nothing_says_that_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roles hand NO_PROXY on to what they make, as eda-server-operator does."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert {"NO_PROXY", "no_proxy"}.isdisjoint(environment.environment())


@pytest.mark.parametrize("is_big", [False, True], ids=["small", "big"])
async def test_many_variables_are_written_beside_the_event_loop(
    tmp_path: Path, is_big: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[bool] = []
    written = environment._write_inputs
    monkeypatch.setattr(
        environment,
        "_write_inputs",
        lambda job: (where.append(threading.current_thread() is threading.main_thread()), written(job)),
    )
    places = {"folder": tmp_path / "it", "scratch": tmp_path / "tmp", "role": tmp_path / "role"}
    await put_inputs(Job(ident="it", **places, extra_vars={"a": 1}, is_big=is_big))
    assert json.loads((tmp_path / "it" / "env" / "extravars").read_text()) == {"a": 1}
    assert where == [not is_big]


async def test_a_run_that_is_ended_while_its_inputs_are_written_leaves_nobody_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    written = environment._write_inputs

    def write(job: Job) -> None:
        begun.set()
        go_on.wait()
        written(job)

    monkeypatch.setattr(environment, "_write_inputs", write)
    places = {"folder": tmp_path / "it", "scratch": tmp_path / "tmp", "role": tmp_path / "role"}
    putting = asyncio.create_task(put_inputs(Job(ident="it", **places, is_big=True)))
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
    environment.write_inputs(Job(ident="it", folder=tmp_path / "it", scratch=scratch, role=tmp_path / "role"))
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


def test_an_ansible_cfg_that_has_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "ANSIBLE_LOCAL_TEMP"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "ansible.cfg"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANSIBLE_CONFIG", str(config))
    scratch = {"TMPDIR": "/run/it", "ANSIBLE_LOCAL_TEMP": "/run/it"}
    config.write_text("[defaults]\n")
    assert temporary("/run/it") == scratch

    config.write_text("[defaults]\nlocal_tmp = /elsewhere\n")
    assert temporary("/run/it") == {"TMPDIR": "/run/it"}

    config.unlink()
    monkeypatch.chdir(tmp_path)
    assert temporary("/run/it") == scratch
