"""The control plane's programs: found on this machine, built from their Go modules, or downloaded, into a cache.

Looked for in $KUBEBUILDER_ASSETS, the cache, and on $PATH. What is missing is built where there is a Go toolchain (the
modules and their checksums stand in `build/go.mod` and `build/go.sum`), else downloaded from the official releases.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from devkit.devcluster.errors import DevclusterError
from runner.errors import RolerunnerError

KUBERNETES, ETCD, KWOK = "1.36.2", "3.6.8", "0.8.0"

# Tells what is going on: a line of text.
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Program:
    """A program of the control plane: its Go `package`, and the URL of its official `release`, for Go's `{os}` and `{arch}`.

    `checksum` is a URL of a `sha256sum` file that names the download (or holds nothing but the sum). `accepts` is what a
    program found on $PATH has to say of its version.
    """

    name: str
    package: str
    release: str
    checksum: str
    accepts: str


def _kubernetes(name: str) -> Program:
    release = f"https://dl.k8s.io/release/v{KUBERNETES}/bin/{{os}}/{{arch}}/{name}"
    minor = KUBERNETES.rpartition(".")[0]
    return Program(name, f"k8s.io/kubernetes/cmd/{name}", release, release + ".sha256", f"v{minor}.")


_ETCD_RELEASE = f"https://github.com/etcd-io/etcd/releases/download/v{ETCD}"
_KWOK_RELEASE = f"https://github.com/kubernetes-sigs/kwok/releases/download/v{KWOK}"

PROGRAMS = (
    Program(
        "etcd",
        "go.etcd.io/etcd/server/v3",
        f"{_ETCD_RELEASE}/etcd-v{ETCD}-{{os}}-{{arch}}.tar.gz",
        f"{_ETCD_RELEASE}/SHA256SUMS",
        "etcd Version: 3.",
    ),
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kubectl"),
    Program(
        "kwok",
        "sigs.k8s.io/kwok/cmd/kwok",
        f"{_KWOK_RELEASE}/kwok-{{os}}-{{arch}}",
        f"{_KWOK_RELEASE}/kwok-{{os}}-{{arch}}.sha256",
        "kwok version v0.",
    ),
)

_BUILD = Path(__file__).parent / "build"
_PARTIAL = ".partial-"
# Seconds.
_DOWNLOAD_TIMEOUT = 60
_TICK = 15


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rolerunner" / f"kubernetes-{KUBERNETES}_etcd-{ETCD}_kwok-{KWOK}"


def find(report: Report, environ: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """The paths of PROGRAMS by name; missing ones are built or downloaded, in minutes. Raises DevclusterError."""
    cache = cache_dir(environ)
    found = {program.name: _existing(program, cache, environ) for program in PROGRAMS}
    if None in found.values():
        with _locked(cache):
            # Left by a process that was killed: nobody else writes here while the lock is held.
            for partial in cache.glob(f"{_PARTIAL}*"):
                shutil.rmtree(partial, ignore_errors=True)
            # Another process may have been at it while this one waited.
            found = {program.name: _existing(program, cache, environ) for program in PROGRAMS}
            missing = [program for program in PROGRAMS if found[program.name] is None]
            for number, program in enumerate(missing, 1):
                found[program.name] = _get(program, cache, f"[{number}/{len(missing)}] {program.name}", report, environ)
    return {name: path for name, path in found.items() if path is not None}


def _existing(program: Program, cache: Path, environ: Mapping[str, str]) -> Path | None:
    assets = environ.get("KUBEBUILDER_ASSETS")
    for folder in (Path(assets) if assets else None, cache):
        if folder is not None and _is_program(folder / program.name):
            return folder / program.name
    on_path = shutil.which(program.name, path=environ.get("PATH"))
    if on_path and program.accepts in _version(on_path):
        return Path(on_path)
    return None


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _version(path: str) -> str:
    arguments = [path, "version", "--client"] if path.endswith("kubectl") else [path, "--version"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False).stdout
    return ""


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Hold the cache's lock, which the kernel releases when the process dies."""
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _get(program: Program, cache: Path, label: str, report: Report, environ: Mapping[str, str]) -> Path:
    """Build or download one program into the cache: whole, or not at all."""
    reasons = []
    go = shutil.which("go", path=environ.get("PATH"))
    ways: list[tuple[str, Callable[[Path], None]]] = []
    if go:
        ways.append(("building from its Go module", lambda target: _build(program, go, target, environ)))
    else:
        reasons.append("no Go toolchain on PATH to build it with")
    ways.append(("downloading the official release", lambda target: download(program, target)))
    for what, way in ways:
        with tempfile.TemporaryDirectory(dir=cache, prefix=_PARTIAL) as partial:
            target = Path(partial) / program.name
            try:
                with _timed(f"{label}: {what}", report):
                    way(target)
            except Failed as error:
                reasons.append(f"{what} failed: {error}")
                continue
            target.chmod(0o755)
            return target.replace(cache / program.name)
    raise DevclusterError(
        f"{program.name} is not on this machine.\n"
        f"  Looked in: KUBEBUILDER_ASSETS ({environ.get('KUBEBUILDER_ASSETS') or 'not set'}), {cache}, and PATH "
        f"(for version {program.accepts!r}).\n"
        + "".join(f"  {reason[0].upper()}{reason[1:]}.\n" for reason in reasons)
        + "Three ways to go on: set KUBEBUILDER_ASSETS to a folder with "
        f"{', '.join(item.name for item in PROGRAMS)}; install Go (1.26 or newer) and try again; "
        "or try again where the official releases can be downloaded."
    )


class Failed(RolerunnerError):
    """A program could not be built, or not be downloaded."""


def _build(program: Program, go: str, target: Path, environ: Mapping[str, str]) -> None:
    major, minor, _ = KUBERNETES.split(".")
    version = "k8s.io/component-base/version"
    flags = f"-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    # A copy: where this package is installed may not be writable, and go locks the module's folder.
    source = target.parent / "source"
    shutil.copytree(_BUILD, source)
    command = [go, "build", "-mod=readonly", "-trimpath", "-ldflags", flags, "-o", str(target), program.package]
    result = subprocess.run(
        command, cwd=source, env={**environ, "CGO_ENABLED": "0"}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if not line.startswith("go: downloading")]
        raise Failed(" ".join(lines[-5:]) or f"go build exited with {result.returncode}")


def download(program: Program, target: Path) -> None:
    """The official build of a program, its checksum verified, written to `target`. Raises Failed."""
    machine = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    place = {"os": sys.platform, "arch": machine}
    url = program.release.format(**place)
    content = _fetch(url)
    expected = _checksum(_fetch(program.checksum.format(**place)).decode(), url.rpartition("/")[2])
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise Failed(f"{url} has the checksum {actual}, and {expected} was published: it was damaged or tampered with")
    if url.endswith(".tar.gz"):
        content = _member(content, program.name)
    target.write_bytes(content)


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_DOWNLOAD_TIMEOUT) as answer:
            content: bytes = answer.read()
            return content
    except (urllib.error.URLError, OSError) as error:
        raise Failed(f"{url}: {getattr(error, 'reason', error)}") from error


def _checksum(text: str, file_name: str) -> str:
    for line in text.splitlines():
        parts = line.split()
        if len(parts) == 1 or (len(parts) == 2 and parts[1].lstrip("*").rpartition("/")[2] == file_name):
            return parts[0]
    raise Failed(f"no checksum is published for {file_name}")


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile() and member.name.rpartition("/")[2] == name:
                file = tar.extractfile(member)
                if file is not None:
                    return file.read()
    raise Failed(f"the archive holds no {name}")


@contextlib.contextmanager
def _timed(label: str, report: Report) -> Iterator[None]:
    """Report the begin, the progress and the end of a block."""
    begun = time.monotonic()
    over = threading.Event()

    def tick() -> None:
        while not over.wait(_TICK):
            report(f"{label} … {time.monotonic() - begun:.0f} s")

    ticking = threading.Thread(target=tick, daemon=True)
    report(f"{label} …")
    ticking.start()
    outcome = "failed"
    try:
        yield
        outcome = "done"
    finally:
        over.set()
        ticking.join()
        report(f"{label}: {outcome} after {time.monotonic() - begun:.0f} s")
