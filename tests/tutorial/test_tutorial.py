"""Runs docs/tutorial.md: its commands in their order, its files where it says, and checks the output that it shows.

A block of `sh` is run in bash, in the folder and with the exported variables of the previous one. A block of `yaml` after
"`PATH`:" is written to that file. Each line of a `text` block has to be in the output of the commands before it. Comments in
the page add: `needs: NAME`: skipped where that is missing; `stays until it says: TEXT`: keeps running until `Ctrl-C`.
Each block is a test that depends on those before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import runner
from bench.driver import FREE_PORTS, ROOT, RUN, Operator, until
from tests.conftest import alive
from tests.image import containers

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(
    r"(?:`(?P<path>[\w./-]+)`:\n\n)?(?:<!-- (?P<notes>[^\n]*) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$"
    r"|<!-- (?P<end>Ctrl-C) -->",
    re.MULTILINE | re.DOTALL,
)

# Seconds in which what has been ended may still end.
_GRACE = 30.0

# The parts of an image or a control plane may have to be downloaded.
pytestmark = pytest.mark.timeout(1800)


# Why what the page needs is missing on this machine, by the page's names; empty if it is not.
MISSING = {
    "image": containers.missing(),
    "galaxy": "collections come from the `ansible` package in tests",
}


@dataclass(frozen=True, slots=True)
class Block:
    kind: str
    text: str
    path: str = ""
    needs: tuple[str, ...] = ()
    stays_until: str = ""


def blocks(page: str) -> list[Block]:
    found = []
    for match in BLOCK.finditer(page):
        notes = dict(note.strip().split(": ", 1) for note in (match["notes"] or "").split(";") if note)
        found.append(
            Block(
                kind=match["kind"] or match["end"],
                text=match["text"] or "",
                path=match["path"] or "",
                needs=found[-1].needs
                if match["kind"] == "text"
                else tuple(filter(None, notes.get("needs", "").split(", "))),
                stays_until=notes.get("stays until it says", ""),
            )
        )
    return found


class Shell:
    """A user's shell, with a cluster of its own once the page starts one."""

    def __init__(self, folder: Path) -> None:
        self.failed = False
        self.printed = ""
        self.staying: Operator | None = None
        # What is ended at the end, last in first out.
        self._stack = contextlib.ExitStack()
        self._images: containers.Storage | None = None
        self._folder = folder
        # Where the last block ended, and with which variables.
        self._state = folder / "state.sh"
        self._state.write_text(f"cd {shlex.quote(str(folder))}\n")
        environ = {name: value for name, value in os.environ.items() if name not in ("KUBECONFIG", "VIRTUAL_ENV")}
        programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        state = str(folder / "cluster")
        self._environ = {**environ, "PATH": programs, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": state}
        self._stack.callback(self._bash, "rolerunner devcluster down")

    def run(self, block: Block) -> None:
        if "image" in block.needs and not self._images:
            self._make_base_image()
        state = shlex.quote(str(self._state))
        keep = f'{{ export -p; printf "cd %q\\n" "$PWD"; }} > {state}'
        done = self._bash(f"set -euo pipefail\n. {state}\n{block.text}\n{keep}")
        self.printed = done.stdout
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr
        assert "Warning:" not in done.stderr, done.stderr
        if block.text.startswith("make deploy"):
            self._run_pods()

    def stay(self, block: Block) -> None:
        command = ["bash", "-c", f". {shlex.quote(str(self._state))}\nexec {block.text}"]
        log = self._folder / "staying.log"
        self.staying = Operator(command, folder=self._folder, log=log, environ={**self._environ, "PYTHONUNBUFFERED": "1"})
        staying = self.staying

        async def has_said() -> bool:
            assert staying.process.poll() is None, staying.output
            return block.stays_until in staying.output

        asyncio.run(until(has_said, f"{block.text.strip()} says: {block.stays_until}"))

    def interrupt(self) -> None:
        if self.staying:
            below = self.staying.processes()
            self.staying.process.send_signal(signal.SIGINT)
            assert self.staying.wait() == 0, self.staying.output

            async def gone() -> bool:
                return not alive(below)

            asyncio.run(until(gone, "all that it started has ended as well", patience=_GRACE))
            self.staying = None

    def write(self, block: Block) -> None:
        path = Path(self._bash(f". {shlex.quote(str(self._state))}\npwd").stdout.strip(), block.path)
        assert path.exists(), f"{path}: the page changes a file that is not there"
        path.write_text(block.text)

    def close(self) -> None:
        if self.staying:
            self.staying.kill()
        self._stack.close()

    def _bash(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", script], env=self._environ, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )

    def _make_base_image(self) -> None:
        """The engine's image, and a container tool that needs no daemon."""
        self._images = self._stack.enter_context(containers.Storage())
        name = f"rolerunner:{runner.__version__}"
        how = {"BASE_IMAGE": self._images.base(), "COLLECTIONS": "pypi", "ANSIBLE_CORE": containers.NEWEST}
        self._images.build(name, target="runner", **how)
        tool = self._folder / "container-tool"
        command = shlex.join([*containers.NAMESPACES, *self._images.builder()])
        tool.write_text(f'#!/bin/sh\n[ "$1" = build ] && shift && exec {command} "$@"\n')
        tool.chmod(0o755)
        self._environ["CONTAINER_TOOL"] = str(tool)

    def _run_pods(self) -> None:
        """Run the deployed operator here, with its ServiceAccount's rights, as the cluster's pods are only simulated."""
        state = f". {shlex.quote(str(self._state))}\n"
        (deployment,) = json.loads(self._bash(f"{state}kubectl get deploy -A -l control-plane -o json").stdout)["items"]
        namespace, pod = deployment["metadata"]["namespace"], deployment["spec"]["template"]["spec"]
        config = json.loads(self._bash(f"{state}kubectl config view --raw --flatten -o json").stdout)
        token = self._bash(f"{state}kubectl create token -n {namespace} {pod['serviceAccountName']}").stdout.strip()
        config["users"][0]["user"] = {"token": token}
        kubeconfig = self._folder / "account.kubeconfig"
        kubeconfig.write_text(json.dumps(config))
        (container,) = pod["containers"]
        environ = {item["name"]: item["value"] for item in container["env"]}
        # Of a repeated flag the last one is used.
        arguments = [*container["args"], *FREE_PORTS, "--metrics-secure=false", "--metrics-require-rbac=false"]
        arguments.append(f"--leader-election-namespace={namespace}")
        running: Operator | containers.Container
        if self._images:
            name = f"localhost/{container['image']}"
            running = self._images.start(name, *arguments, kubeconfig=kubeconfig, read_only=True, **environ)
        else:
            running = Operator(
                [*RUN, *arguments, f"--runs-dir={self._folder / 'runs'}"],
                folder=Path(self._bash(f"{state}pwd").stdout.strip()),
                log=self._folder / "pods.log",
                # A leader that is undeployed loses its Lease and ends at once; its temporary files go with its container.
                environ={**self._environ, **environ, "KUBECONFIG": str(kubeconfig), "TEMP": str(self._folder)},
            )
        self._stack.callback(running.kill)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    made = Shell(tmp_path_factory.mktemp("tutorial"))
    yield made
    made.close()


def test_all_of_the_page_is_understood() -> None:
    found = blocks(PAGE)
    assert len(found) == PAGE.count("```") // 2 + PAGE.count("<!-- Ctrl-C -->")
    assert {block.kind for block in found} == {"sh", "yaml", "text", "Ctrl-C"}
    assert {need for block in found for need in block.needs} <= MISSING.keys()
    assert [block.text for block in found if block.kind == "yaml" and not block.path] == []


def _name(block: Block) -> str:
    return f"{block.path or block.kind}: {block.text.splitlines()[0] if block.text else ''}"


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=_name(block), marks=[pytest.mark.image] if "image" in block.needs else [])
        for block in blocks(PAGE)
    ],
)
def test_it_works(block: Block, shell: Shell) -> None:
    """In the page's order, as each block depends on those before it."""
    if shell.failed:
        pytest.skip("an earlier block has failed")
    if reasons := [MISSING[need] for need in block.needs if MISSING[need]]:
        pytest.skip("; ".join(reasons))
    shell.failed = True
    if block.kind == "Ctrl-C":
        shell.interrupt()
    elif block.kind == "text":
        assert [line for line in block.text.splitlines() if line not in shell.printed] == [], shell.printed
    elif block.kind == "yaml":
        shell.write(block)
    elif block.stays_until:
        shell.stay(block)
    else:
        shell.run(block)
    shell.failed = False
