"""Images built and containers run where there is neither a registry nor a container engine: debootstrap, buildah, chroot.

Everything happens in mount and PID namespaces of its own and in one folder, so that nothing outlives the process that
began it: the kernel ends the namespaces with their first process, which ends with ours, and a janitor takes the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from devkit.devcluster.binaries import cache_dir
from runner.executor.processes import die_with_parent

ROOT = Path(__file__).parent.parent.parent
# The newest ansible-core for the Python of the base image that is made here.
NEWEST = "2.19"
# python3-venv is what a Python image has by itself.
SUITE, PACKAGES = "bookworm", "python3,python3-venv"
# Seconds; the network may be slow.
PATIENCE = 120.0

NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

# What an image of Debian for containers is without; and what is of the machine that it was made on.
_LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache", "var/lib/apt/lists")

_MAKE_BASE = f"""
set -e
root=$1 target=$2
debootstrap --variant=minbase --include={PACKAGES} {SUITE} "$root"
cd "$root"
rm -rf {" ".join(f"{folder}/*" for folder in _LEFT_OUT)} dev/* etc/hostname etc/resolv.conf
tar -cf "$target" .
"""

# A root file system that nobody can write to but for /tmp, as `readOnlyRootFilesystem` and an emptyDir make it, and the
# command as process 1. It begins with a child that is nobody's, as roles leave some. Arguments: user:group, the working
# directory, the kubeconfig, and the command.
_READ_ONLY = """
user=$1 folder=$2 kubeconfig=$3
shift 3
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/mnt"
install -m 644 "$kubeconfig" "$root/mnt/kubeconfig"
mount --rbind /dev "$root/dev"
exec unshare --pid --fork --mount-proc="$root/proc" chroot --userspec="$user" "$root" \\
    sh -c 'cd "$0" && (sleep 1 &) && exec "$@"' "$folder" env -i "$@"
"""


def missing() -> str:
    """What there is not here of what images need, as a sentence; empty if it is all there."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "images are built by root on Linux"
    lacking = [program for program in ("buildah", "debootstrap", "unshare") if not shutil.which(program)]
    if not lacking and subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode:
        return "images need the right to make namespaces"
    return f"images need {', '.join(lacking)}" if lacking else ""


class Container:
    """A container's command as a process. Its output goes to `log`; it ends with this process at the latest."""

    def __init__(self, command: Sequence[str], *, log: Path) -> None:
        self.log = log
        self.process = _begun(command, log)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def processes(self) -> dict[int, tuple[str, str]]:
        """(state, command line) of each process below this one, by its id on this machine."""
        parents: dict[int, int] = {}
        found: dict[int, tuple[str, str]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    name, _, rest = (entry / "stat").read_text().rpartition(")")
                    command = (entry / "cmdline").read_text().replace("\0", " ").strip() or name.partition("(")[2]
                    parents[int(entry.name)] = int(rest.split()[1])
                    found[int(entry.name)] = (rest.split()[0], command)
        below = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in below} - below:
            below |= more
        return {pid: found[pid] for pid in below if pid in found}

    def first(self, program: str = "/tini") -> int:
        """The process that is the container's first, by its id on this machine."""
        (first,) = [pid for pid, (_, command) in self.processes().items() if command.startswith(f"{program} ")]
        return first

    def stop(self) -> int:
        """As a kubelet does: SIGTERM to the command's first process. Its exit code."""
        os.kill(self.first(), signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


class Storage:
    """Images and containers in a folder of their own, while it is entered (`with`)."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rolerunner-images-"))
        self._containers: list[Container] = []

    def __enter__(self) -> Self:
        # Whatever still writes there is being ended as well.
        self._janitor = subprocess.Popen(
            ["sh", "-c", 'cat; until rm -rf --one-file-system "$1"; do sleep 1; done', "sh", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        for container in self._containers:
            container.kill()
        assert self._janitor.stdin is not None
        self._janitor.stdin.close()
        self._janitor.wait()

    def buildah(self, *arguments: str) -> list[str]:
        where = ("--root", str(self.folder / "root"), "--runroot", str(self.folder / "run"))
        return ["buildah", *where, "--storage-driver", "overlay", *arguments]

    def run(self, *arguments: str) -> str:
        """What buildah says. RuntimeError, with what it complained of, if it does not succeed."""
        return _said(self.buildah(*arguments), self.folder / "buildah.log")

    def base(self) -> str:
        """The name of an image of Debian with Python; made if the cache does not have it."""
        cached = cache_dir().parent / f"debian-{SUITE}-python.tar"
        if not cached.exists():
            cached.parent.mkdir(parents=True, exist_ok=True)
            root = self.folder / "base"
            _said(["sh", "-c", _MAKE_BASE, "sh", str(root), str(self.folder / "base.tar")], self.folder / "base.log")
            shutil.rmtree(root)
            partial = cached.with_name(f".{self.folder.name}.partial")
            try:
                shutil.move(self.folder / "base.tar", partial)
                partial.replace(cached)
            finally:
                partial.unlink(missing_ok=True)
        container = self.run("from", "scratch")
        self.run("add", "--quiet", container, str(cached), "/")
        self.run("commit", "--quiet", "--rm", container, f"{SUITE}-python")
        return f"localhost/{SUITE}-python"

    def builder(self) -> list[str]:
        """The command that builds an image; with how this machine reaches the packages that go into it."""
        pip = Path.home() / ".cache" / "pip"
        pip.mkdir(parents=True, exist_ok=True)
        volumes = [f"{path}:{path}:ro" for path in ("/etc/ssl/certs", "/etc/pip.conf") if Path(path).exists()]
        flags = [f"--volume={volume}" for volume in (*volumes, f"{pip}:/root/.cache/pip:rw")]
        return self.buildah("bud", "--isolation=chroot", *flags)

    def build(self, name: str, *, target: str = "example", **arguments: str) -> str:
        """The Dockerfile's image `target`; its name. `arguments` are build arguments."""
        flags = [f"--target={target}", *(f"--build-arg={key}={value}" for key, value in arguments.items())]
        _said([*self.builder(), *flags, f"--tag={name}", str(ROOT)], self.folder / f"{name}.log")
        return f"localhost/{name}"

    def config(self, image: str) -> dict[str, Any]:
        """User, Env, Entrypoint and so on."""
        config: dict[str, Any] = json.loads(self.run("inspect", "--type=image", image))["OCIv1"]["config"]
        return config

    def start(
        self, image: str, *arguments: str, kubeconfig: Path, user: str = "", read_only: bool = False, **environ: str
    ) -> Container:
        """The image's entry point with these arguments, as `user` (uid:gid) or the image's own."""
        config = self.config(image)
        container = self.run("from", image)
        readable = self.folder / f"{container}.kubeconfig"
        readable.write_bytes(kubeconfig.read_bytes())
        readable.chmod(0o644)
        command = [*config["Entrypoint"], *arguments]
        variables = {"KUBECONFIG": "/mnt/kubeconfig", **environ}
        if read_only:
            script = f"set -e\nroot=$({shlex.join(self.buildah('mount', container))})\n{_READ_ONLY}"
            all_variables = [*config["Env"], *(f"{name}={value}" for name, value in variables.items())]
            whose = user or f"{config['User']}:0"
            started = ["sh", "-c", script, "sh", whose, config["WorkingDir"], str(readable), *all_variables, *command]
        else:
            flags = [f"--env={name}={value}" for name, value in variables.items()]
            flags += [f"--user={user}"] if user else []
            flags += [f"--volume={readable}:/mnt/kubeconfig:ro"]
            started = self.buildah("run", "--isolation=chroot", *flags, container, "--", *command)
        made = Container(started, log=self.folder / f"{container}.out")
        self._containers.append(made)
        return made


def _begun(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """A process in namespaces of its own, which end with this process at the latest."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            [*NAMESPACES, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )


def _said(command: Sequence[str], log: Path) -> str:
    """What a process prints until its end. RuntimeError if that is no good one."""
    before = log.stat().st_size if log.exists() else 0
    process = _begun(command, log)
    try:
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    text = log.read_bytes()[before:].decode(errors="replace")
    if code:
        raise RuntimeError(f"{shlex.join(command)} ended with {code}:\n{text[-4000:]}")
    return text.strip()
