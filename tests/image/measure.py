"""What the image is made of and how long it takes until it is ready: `python -m tests.image.measure`, for docs/image.md."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from pathlib import Path

import aiohttp
import click
import yaml

from bench.driver import Cluster, tidy_on_sigterm, until
from devkit.devcluster import Cluster as Devcluster
from tests.conftest import lines
from tests.image.containers import NEWEST, ROOT, Container, Storage
from tests.image.test_image import ARGUMENTS, flattened

PACKAGES = "/opt/rolerunner/lib/python3*/site-packages"
# By the first that a file's path begins with.
PARTS = (
    ("kubernetes (the client)", f"{PACKAGES}/kubernetes/"),
    ("ansible-core", f"{PACKAGES}/ansible/"),
    ("cryptography", f"{PACKAGES}/cryptography/"),
    ("aiohttp", f"{PACKAGES}/aiohttp/"),
    ("pydantic", f"{PACKAGES}/pydantic"),
    ("kopf", f"{PACKAGES}/kopf/"),
    ("pip", f"{PACKAGES}/pip"),
    ("the runner itself", f"{PACKAGES}/runner/"),
    ("all other Python packages", "/opt/rolerunner/"),
    ("kubernetes.core", "/usr/share/ansible/"),
    ("tini", "/tini"),
)
# Every file once, with its size; those of Python's that are compiled end in .pyc.
LIST = "find / -xdev -type f -printf '%s %p\\n'"
STARTS = 5


def main() -> None:
    tidy_on_sigterm()
    with Storage() as storage:
        base = storage.base()
        image = storage.build("measured", BASE_IMAGE=base, COLLECTIONS="pypi", ANSIBLE_CORE=NEWEST)
        before, after = sizes(storage, base), sizes(storage, image)
        rows: dict[str, list[int]] = {"the base image": [sum(before.values()), 0]}
        for path, size in after.items():
            if before.get(path) == size:
                continue
            name = next((name for name, prefix in PARTS if is_below(path, prefix)), "the example operator, and the rest")
            row = rows.setdefault(name, [0, 0])
            row[0] += size
            row[1] += size if path.endswith(".pyc") else 0
        rows["all of it"] = [sum(row[column] for row in rows.values()) for column in (0, 1)]
        for name, (size, compiled) in sorted(rows.items(), key=lambda row: -row[1][0]):
            click.echo(f"| {name} | {size / 1e6:.1f} | {compiled / 1e6:.1f} |")
        archive = storage.folder / "image.tar"
        storage.run("push", "--quiet", image, f"oci-archive:{archive}")
        click.echo(f"compressed, as it is pulled: {archive.stat().st_size / 1e6:.1f} MB")
        asyncio.run(starts(storage, image))


async def starts(storage: Storage, image: str) -> None:
    """From the start of the container's first process to the first 200 of /readyz."""
    with Devcluster.start() as devcluster:
        async with Cluster.connected(devcluster.kubeconfig) as world:
            for path in sorted((ROOT / "crds").glob("*.yaml")):
                await world.install(yaml.safe_load(path.read_text()))
        kubeconfig = flattened(devcluster, storage.folder)
        found: list[tuple[float, float]] = []
        for _ in range(STARTS):
            container = storage.start(image, *ARGUMENTS, kubeconfig=kubeconfig, read_only=True)
            found.append(await ready(container))
            container.stop()
        for what, seconds in zip(("start to ready", "of processor time"), zip(*found, strict=True), strict=True):
            each = ", ".join(f"{one:.1f}" for one in sorted(seconds))
            click.echo(f"{what}: {statistics.median(seconds):.1f} s (each of {STARTS}: {each})")


async def ready(container: Container) -> tuple[float, float]:
    """Seconds on the clock, and of processors."""

    async def serving() -> str:
        return str(next(iter(lines(container, "Serving health probes")), {}).get("address", ""))

    address = await until(serving, "the probes are served")
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        while True:
            async with session.get(f"http://{address}/readyz") as answer:
                if answer.status == 200:
                    break
            await asyncio.sleep(0.01)
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    first, tick = container.first(), os.sysconf("SC_CLK_TCK")
    # Times in ticks: its start since the machine's, and what each process and its children that are gone have used.
    started, used = ticks(first)[19], sum(sum(ticks(pid)[11:15]) for pid in container.processes() if pid >= first)
    return now - started / tick, used / tick


def ticks(pid: int) -> list[int]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [0, *map(int, fields[1:])]


def sizes(storage: Storage, image: str) -> dict[str, int]:
    container = storage.run("from", image)
    said = storage.run("run", "--isolation=chroot", "--user=0:0", container, "--", "sh", "-c", LIST)
    storage.run("rm", container)
    return {path: int(size) for size, _, path in (line.partition(" ") for line in said.splitlines())}


def is_below(path: str, prefix: str) -> bool:
    head, star, tail = prefix.partition("*")
    if not star:
        return path.startswith(prefix)
    return path.startswith(head) and tail in path


if __name__ == "__main__":
    main()
