"""What the tests of the image leave behind, in the worst case: nothing."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.image.containers import PATIENCE, ROOT, missing

pytestmark = [pytest.mark.image, pytest.mark.skipif(bool(missing()), reason=missing())]

# A container with a root of its own that is mounted, and a process in it.
BEGIN = """
import signal, time
from tests.image.containers import Container, Storage
with Storage() as storage:
    name = storage.run("from", "scratch")
    mount = " ".join(storage.buildah("mount", name))
    script = f"cd $({mount}) && mount -t tmpfs {storage.folder.name} . && exec sleep 98765"
    container = Container(["sh", "-c", script], log=storage.folder / "log")
    while not any(command == "sleep 98765" for _, command in container.processes().values()):
        time.sleep(0.05)
    print(container.first("sleep"), storage.folder, flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_a_process_that_is_ended_leaves_nothing(how: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", BEGIN], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid, folder = process.stdout.readline().split()
    assert (Path(folder) / "root").is_dir()
    getattr(process, how)()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + PATIENCE
    while Path(folder).exists() or Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "a folder or a process is left"
        time.sleep(0.05)
    assert Path(folder).name not in Path("/proc/self/mounts").read_text()
