import hashlib
import http.server
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.driver import ROOT
from devkit.devcluster import binaries
from devkit.devcluster.binaries import PROGRAMS, cache_dir, download, find
from devkit.devcluster.errors import DevclusterError

# Stands in for the Go toolchain: notes that it was called, and writes a program where it is told to.
FAKE_GO = """#!/bin/sh
echo "$*" >> {log}
while [ $# -gt 0 ]; do [ "$1" = -o ] && target=$2; shift; done
{body}
printf '#!/bin/sh\\n' > "$target"
"""
SLOW = "touch {started}; sleep 600"


def environ_with_path(**more: str) -> dict[str, str]:
    """This environment, in which the package is found wherever the process starts."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing is found: no cache, no Go; only the shell's own programs."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "sleep", "touch"):
        (tools / name).symlink_to(shutil.which(name) or "")
    return {"PATH": str(tools), "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}


def fake_go(environ: dict[str, str], log: Path, body: str = ":") -> None:
    go = Path(environ["PATH"]) / "go"
    go.write_text(FAKE_GO.format(log=log, body=body))
    go.chmod(0o755)


def test_kubebuilder_assets_come_first_then_the_cache(bare: dict[str, str], tmp_path: Path) -> None:
    assets, cache = tmp_path / "assets", cache_dir(bare)
    for folder in (assets, cache):
        folder.mkdir(parents=True)
    for program in PROGRAMS:
        for folder in (assets, cache):
            if folder is cache or program.name in ("etcd", "kube-apiserver", "kubectl"):
                (folder / program.name).write_text("")
                (folder / program.name).chmod(0o755)
    found = find(lambda _: None, {**bare, "KUBEBUILDER_ASSETS": str(assets)})
    assert {name for name, path in found.items() if path.parent == assets} == {"etcd", "kube-apiserver", "kubectl"}
    assert {path.parent for path in found.values()} == {assets, cache}


def test_on_the_path_only_the_right_version_is_taken(bare: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    fake_go(bare, log)
    for program in PROGRAMS:
        path = Path(bare["PATH"]) / program.name
        version = "Kubernetes v1.20.0" if program.name == "kube-scheduler" else f"Kubernetes {program.accepts}9"
        path.write_text(f"#!/bin/sh\necho '{version}'\n")
        path.chmod(0o755)
    found = find(lambda _: None, bare)
    assert {name for name, path in found.items() if path.parent != Path(bare["PATH"])} == {"kube-scheduler"}
    assert log.read_text().count("build") == 1


def test_what_is_missing_is_built_once_and_told(bare: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    fake_go(bare, log)
    said: list[str] = []
    found = find(said.append, bare)
    assert set(found) == {program.name for program in PROGRAMS}
    assert said[0] == "[1/6] etcd: building from its Go module …"
    assert said[1].startswith("[1/6] etcd: building from its Go module: done after ")
    assert find(said.append, bare) == found
    assert log.read_text().count("build -mod=readonly") == len(PROGRAMS)
    assert "gitVersion=v1.36.2" in log.read_text()


def test_two_processes_at_once_build_once(bare: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    fake_go(bare, log, "sleep 0.2")
    code = "import os; from devkit.devcluster.binaries import find; print(len(find(lambda _: None, os.environ)))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env={**bare, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in processes] == ["6\n", "6\n"]
    assert log.read_text().count("build") == len(PROGRAMS)


def test_an_interrupted_build_leaves_nothing_half_done(bare: dict[str, str], tmp_path: Path) -> None:
    started = tmp_path / "started"
    fake_go(bare, tmp_path / "log", SLOW.format(started=started))
    code = "import os; from devkit.devcluster.binaries import find; find(lambda _: None, os.environ)"
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**bare, "PYTHONPATH": str(ROOT)}, start_new_session=True
    ) as process:
        while not started.exists():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    assert not (cache_dir(bare) / "etcd").exists()
    fake_go(bare, tmp_path / "log")
    assert (find(lambda _: None, bare)["etcd"]).exists()
    assert [path.name for path in cache_dir(bare).iterdir() if path.name.startswith(".partial")] == []


def test_where_nothing_can_be_had_one_error_says_what_to_do(bare: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str) -> bytes:
        raise binaries.Failed(f"{url}: no route to host")

    monkeypatch.setattr(binaries, "_fetch", unreachable)
    with pytest.raises(DevclusterError) as caught:
        find(lambda _: None, bare)
    text = str(caught.value)
    assert text.startswith("etcd is not on this machine.")
    for part in (
        "KUBEBUILDER_ASSETS (not set)",
        str(cache_dir(bare)),
        "No Go toolchain on PATH",
        "no route to host",
        "set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver",
        "install Go",
        "where the official releases can be downloaded",
    ):
        assert part in text


def test_a_build_that_fails_says_why(bare: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str) -> bytes:
        raise binaries.Failed("offline")

    monkeypatch.setattr(binaries, "_fetch", unreachable)
    fake_go(bare, tmp_path / "log", "echo 'go: module lookup failed' >&2; exit 1")
    with pytest.raises(DevclusterError, match="Building from its Go module failed: go: module lookup failed"):
        find(lambda _: None, bare)


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server of release files on loopback: its URL, and the folder it serves."""
    folder = tmp_path / "releases"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        serving.join()


def test_a_release_is_downloaded_and_its_checksum_verified(releases: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = releases
    (folder / "kwok").write_bytes(b"a program")
    (folder / "kwok.sha256").write_text(hashlib.sha256(b"a program").hexdigest())
    program = replace(PROGRAMS[-1], release=f"{url}/kwok", checksum=f"{url}/kwok.sha256")
    download(program, tmp_path / "kwok")
    assert (tmp_path / "kwok").read_bytes() == b"a program"
    (folder / "kwok").write_bytes(b"another one")
    with pytest.raises(binaries.Failed, match="damaged or tampered with"):
        download(program, tmp_path / "second")
    assert not (tmp_path / "second").exists()
    with pytest.raises(binaries.Failed, match=r"(?i)not found"):
        download(replace(program, release=f"{url}/nowhere"), tmp_path / "second")


def test_a_program_is_taken_out_of_its_archive(releases: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = releases
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo("etcd-v3/etcd")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"etcd"))
    (folder / "etcd-v3.tar.gz").write_bytes(archive.getvalue())
    sums = f"{'0' * 64}  other.tar.gz\n{hashlib.sha256(archive.getvalue()).hexdigest()}  etcd-v3.tar.gz\n"
    (folder / "SHA256SUMS").write_text(sums)
    download(replace(PROGRAMS[0], release=f"{url}/etcd-v3.tar.gz", checksum=f"{url}/SHA256SUMS"), tmp_path / "etcd")
    assert (tmp_path / "etcd").read_bytes() == b"etcd"
