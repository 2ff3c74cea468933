"""The folders of the runs, in ansible-runner's layout: inputs and artifacts, one folder for each CR, owner-only, bounded.

ROOT/GROUP/VERSION/KIND/NAMESPACE/NAME/   env/ inventory/ project/   the inputs of the latest run
                                          artifacts/IDENT/           what a run left
                                          artifacts/latest           a link to the last one
ROOT/.run/                                what lives as long as a run
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from runner.errors import ConfigurationError
from runner.executor.environment import configured, has_tags
from runner.executor.jobs import Job, executor_errors
from runner.json_codec import encode
from runner.private_files import below_shared, owners_of, update_private

logger = logging.getLogger(__name__)

ARTIFACTS = "artifacts"
# How JSON marks a string that Ansible must not template.
_UNSAFE = "__ansible_unsafe"
# By which the user may have chosen where modules have their temporary files.
_REMOTE_TEMP = ("ANSIBLE_REMOTE_TEMP", "ANSIBLE_REMOTE_TMP")
# Seconds between two looks at how much all artifacts take.
_BOUND_AFTER = 60.0


class ArtifactsError(ConfigurationError):
    """The root of the run folders cannot be used; `str()` says why and what to do."""


class RunFolders:
    """The folders below one root, each found by its parts (group, version, kind, namespace, name)."""

    def __init__(self, root: Path) -> None:
        """Take the root, for this process alone. Raises ArtifactsError."""
        try:
            _make_own(root)
            self._lock = open(root / ".lock", "w")  # noqa: SIM115 - held as long as the process lives
        except OSError as error:
            raise ArtifactsError(f"{root}: {error.strerror}; name another folder with --runs-dir") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ArtifactsError(f"{root} is in use by another runner; name another folder with --runs-dir") from error
        # Without links: what reads artifacts follows none, as a run could have made them.
        self.root = root.resolve()
        # Folders that live as long as a run are made here: their paths are short, as programs make sockets below them.
        self.running = root / ".run"
        # What runs of an earlier process have left, which was killed: their kubeconfigs and temporary files.
        shutil.rmtree(self.running, ignore_errors=True)
        # Whether runs may have written artifacts since they were last looked at.
        self._may_have_grown = True

    def folder(self, parts: Sequence[str]) -> Path:
        """The folder of one CR's runs; empty parts (no group, no namespace) are left out."""
        self._may_have_grown = True
        return self.root.joinpath(*filter(None, parts))

    def remove(self, parts: Sequence[str]) -> None:
        folder = self.folder(parts)
        shutil.rmtree(folder, ignore_errors=True)
        for parent in folder.parents:
            if parent == self.root:
                break
            with contextlib.suppress(OSError):
                parent.rmdir()

    async def keep_below(self, size: int) -> NoReturn:
        """Regularly remove the oldest artifacts, of whichever CR, while all of them take more than so many bytes."""
        while True:
            begun = time.monotonic()
            removed = await asyncio.to_thread(self.bound, size) if self.may_have_grown() else 0
            if removed:
                logger.warning("The runs' folder was full; the oldest artifacts were removed", extra={"runs": removed})
            # There may be millions of files.
            await asyncio.sleep(max(_BOUND_AFTER, 20 * (time.monotonic() - begun)))

    def may_have_grown(self) -> bool:
        """True if a run has begun since this was last asked, or was on then or is now: there may be more artifacts."""
        is_running = any(self.running.glob("*"))
        grown, self._may_have_grown = self._may_have_grown or is_running, is_running
        return grown

    def bound(self, size: int) -> int:
        """Remove the oldest artifacts while all take more; return of how many runs."""
        runs = []
        for folder, names, _ in os.walk(self.root):
            # No namespace and no CR is called so, and no run is without.
            if "job_events" in names:
                runs.append(_taken(Path(folder)))
                names.clear()
            elif folder == str(self.root):
                names[:] = [name for name in names if name != self.running.name]
            elif _is_of_cr(Path(folder)):
                names[:] = [ARTIFACTS]
        taken, removed = sum(run[1] for run in runs), 0
        for _, of_run, path in sorted(runs):
            if taken <= size:
                break
            shutil.rmtree(path, ignore_errors=True)
            taken -= of_run
            removed += 1
        return removed

    def left_over(self, kind_parts: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """(namespace, name) or (name,) of each CR of a kind that has a folder here, perhaps from an earlier process."""
        base = self.folder(kind_parts)
        for outer in filter(Path.is_dir, base.glob("*")):
            if _is_of_cr(outer):
                yield (outer.name,)
            else:
                yield from ((outer.name, inner.name) for inner in outer.iterdir() if _is_of_cr(inner))

    def close(self) -> None:
        self._lock.close()


def _is_of_cr(folder: Path) -> bool:
    """True for a CR's folder, False for a namespace's, even if its CRs are called `env` or `artifacts`."""
    return (folder / "env" / "extravars").is_file()


def settle(folder: Path, ident: str, keep: int | None) -> None:
    """After a run: keep what it left, and no more than `keep` runs' (0: all); None: nothing of it. Not in the event loop."""
    if keep is None:
        shutil.rmtree(folder / ARTIFACTS / ident, ignore_errors=True)
        return
    link_latest(folder, ident)
    try:
        rotate(folder, keep)
    except OSError as error:
        logger.warning("Old artifacts could not be removed", extra={"path": str(folder), "error": str(error)})


def link_latest(folder: Path, ident: str) -> None:
    """Point `artifacts/latest` at this run; never without a link in between."""
    latest = folder / ARTIFACTS / "latest"
    fresh = latest.with_name(f".latest-{ident}")
    try:
        fresh.symlink_to(ident)
        fresh.replace(latest)
    except OSError as error:
        logger.warning("The link to the latest artifacts could not be set", extra={"path": str(latest), "error": str(error)})


def rotate(folder: Path, keep: int) -> None:
    """Remove the oldest runs' artifacts beyond `keep`; 0 keeps all."""
    if keep <= 0:
        return
    with os.scandir(folder / ARTIFACTS) as entries:
        runs = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    if len(runs) > keep:
        for _, path in sorted((run.stat(follow_symlinks=False).st_mtime, run.path) for run in runs)[:-keep]:
            shutil.rmtree(path, ignore_errors=True)


def _taken(run: Path) -> tuple[float, int, Path]:
    """The time at which a run last wrote, the bytes that its artifacts take, and their folder."""
    latest, size = 0.0, 0
    for folder, _, names in os.walk(run):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            with contextlib.suppress(OSError):
                found = os.lstat(path)
                latest, size = max(latest, found.st_mtime), size + found.st_blocks * 512
    return latest, size, run


def _make_own(root: Path) -> None:
    """The folder, and those above it that are missing, for this user alone. OSError or ArtifactsError."""
    for path in reversed((root, *root.parents)):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
    # In a world-writable /tmp somebody else may have been there first: with a link, or with a folder above this one.
    for path in (root, *below_shared(root)):
        if not owners_of(path) <= ({os.geteuid()} if path == root else {0, os.geteuid()}):
            raise ArtifactsError(f"{path} belongs to another user; name another folder with --runs-dir")
        mode = path.stat().st_mode
        if path != root and not mode & stat.S_ISVTX and mode & stat.S_IWOTH:
            raise ArtifactsError(f"{path} can be changed by other users; name another folder with --runs-dir")
    root.chmod(0o700)


def write_inputs(job: Job) -> None:
    """Write the inputs of one run over those of an earlier one. Raises ExecutorError."""
    with executor_errors("the inputs of the run could not be written"):
        _write_inputs(job)


async def prepare(job: Job) -> None:
    """Write the inputs, in a thread if that takes a while: it has ended when this has, cancelled or not."""
    if not job.is_big:
        write_inputs(job)
        return
    writing = asyncio.ensure_future(asyncio.to_thread(write_inputs, job))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait({writing})
        raise


def _write_inputs(job: Job) -> None:
    folder, inventory = str(job.folder), f"{job.folder}/inventory"
    _ensure_folder(str(job.scratch))
    # Itself first: those that are made on the way to another have the mode that the umask leaves.
    for path in (folder, f"{folder}/env", f"{folder}/project", f"{folder}/artifacts"):
        _ensure_folder(path)
    update_private(f"{folder}/env/extravars", _variables(job))
    update_private(f"{folder}/env/cmdline", (f"{job.arguments} --check --diff" if job.check else job.arguments).encode())
    if os.environ.get("ANSIBLE_INVENTORY"):
        # Ansible reads the user's where it stands; ansible-runner would take this folder instead.
        shutil.rmtree(inventory, ignore_errors=True)
    else:
        _ensure_folder(inventory)
        update_private(f"{inventory}/hosts", _inventory(job.scratch).encode())
    if job.role:
        # Beside the play, where Ansible looks first, so that the roles path stays the user's; its siblings come along.
        _ensure_link(f"{folder}/project/roles", str(job.role.parent))


def _variables(job: Job) -> bytes:
    """The content of `env/extravars`. No name is both in the data and among the watch's own variables, which may be NaN."""
    parts = (encode(_marked(job.data)), json.dumps(job.extra_vars).encode())
    return b"{%s}" % b",".join(part[1:-1] for part in parts if part != b"{}")


def _ensure_folder(path: str) -> None:
    if not os.path.isdir(path):
        try:
            os.mkdir(path, 0o700)
        except FileNotFoundError:
            Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)


def _ensure_link(path: str, target: str) -> None:
    with contextlib.suppress(OSError):
        if os.readlink(path) == target:
            return
    Path(path).unlink(missing_ok=True)
    os.symlink(target, path)


def _inventory(scratch: Path) -> str:
    """This host, with this Python, as JSON, which Ansible reads first and fastest.

    Its modules have their temporary files in the folder. A variable of the environment would count for all hosts.
    """
    variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    if not any(map(os.environ.get, _REMOTE_TEMP)) and "remote_tmp" not in configured():
        variables["ansible_remote_tmp"] = str(scratch)
    if os.environ.get("ANSIBLE_INVENTORY_ENABLED") or "enable_plugins" in configured("inventory"):
        # The user's own choice of inventory plugins may be without YAML's, which reads JSON.
        return " ".join(["localhost", *(f"{name}={json.dumps(value)}" for name, value in variables.items())]) + "\n"
    return json.dumps({"ungrouped": {"hosts": {"localhost": variables}}})


def _marked(data: Mapping[str, object]) -> dict[str, object]:
    """Variables none of whose strings Ansible may template, in the form that its JSON loader reads."""
    if has_tags():
        return {name: _marked_strings(value) for name, value in data.items()}
    # It marks all there is in it, keys among it, which would otherwise be templates when a role makes values of them.
    return {name: {_UNSAFE: value} for name, value in data.items()}


def _marked_strings(value: object) -> object:
    if isinstance(value, str):
        return {_UNSAFE: value}
    if isinstance(value, dict):
        return {name: _marked_strings(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_marked_strings(item) for item in value]
    return value
