"""The bench measures operators in turn, cleans up after itself when interrupted, and what it looks on at is as it is."""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
from pathlib import Path

import pytest

from bench.driver import FREE_PORTS, PATIENCE, ROOT, RUN, Cluster, Followed, Operator, serving_seconds, until
from bench.figures import FIGURES
from devkit.devcluster import Cluster as Devcluster
from runner.resource.metadata import ObjectKey
from tests.behaviour.test_dependents import CONFIG_MAP
from tests.conftest import alive


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_an_interrupted_bench_leaves_no_operator(by: signal.Signals, devcluster: Devcluster, tmp_path: Path) -> None:
    environ = {"KUBECONFIG": str(devcluster.kubeconfig), "TMPDIR": str(tmp_path)}
    bench = Operator([sys.executable, "-m", "bench", "--crs=1"], folder=ROOT, log=tmp_path / "log", environ=environ)

    async def operator() -> list[int]:
        assert bench.process.poll() is None, bench.output
        found = []
        for pid in bench.processes():
            # One may end meanwhile.
            with contextlib.suppress(OSError):
                if pid != bench.process.pid and b"--runs-dir" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    async def ended() -> bool:
        return not alive(started)

    try:
        started = await until(operator, "the bench started an operator")
        os.kill(bench.process.pid, by)
        code = bench.wait()
        await until(ended, "the operator ended with the bench")
    finally:
        bench.kill()
    assert code != 0
    assert "Traceback" not in bench.output
    if by != signal.SIGKILL:
        assert not list(tmp_path.glob("rolerunner-bench-*"))


async def test_what_is_followed_is_as_it_is(world: Cluster, one: ObjectKey) -> None:
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}}
    attended: list[None] = []
    async with world.following(CONFIG_MAP, one.namespace) as there:
        await world.create(config_map, one.namespace)
        await there.until(lambda objects: one in objects, "it is there")
        await world.delete(CONFIG_MAP, one)
        await there.until(lambda objects: one not in objects, "it is gone")
        with pytest.raises(AssertionError, match="not within 0 s: it is back"):
            await there.until(
                lambda objects: one in objects, "it is back", patience=0.1, attend=lambda: attended.append(None)
            )
    assert attended


@pytest.mark.parametrize("turns", range(6))
async def test_who_is_cancelled_as_news_come_ends(turns: int) -> None:
    """`turns`: of the event loop, between the news and the cancellation."""
    news = asyncio.Event()
    waiting = asyncio.create_task(Followed({}, news).until(lambda _: False, "never"))
    for _ in range(3):
        await asyncio.sleep(0)
    news.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([waiting])
    assert waiting.cancelled()


async def test_what_does_not_end_says_where_it_stands(tmp_path: Path) -> None:
    code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(600)"
    process = Operator([sys.executable, "-c", code], folder=tmp_path, log=tmp_path / "log", environ={})

    async def ready() -> bool:
        return "ready" in process.output

    try:
        await until(ready, "it has begun")
        # Or it has just said so.
        with pytest.raises(AssertionError, match=r'File "<string>", line [34]'):
            process.wait(1)
    finally:
        process.kill()


async def test_operators_are_measured_in_turn(devcluster: Devcluster, tmp_path: Path) -> None:
    own = shlex.join([*RUN, *FREE_PORTS, f"--runs-dir={tmp_path / 'runs'}"])
    operators = [own, f"env ANSIBLE_FORKS=1 {own}"]
    command = [sys.executable, "-m", "bench", "--crs=2", "--changes=2", "--rounds=2", "--facts=without"]
    command += [f"--operator={operator}" for operator in operators] + [f"--json={tmp_path / 'figures.json'}"]
    environ = {"KUBECONFIG": str(devcluster.kubeconfig), "TMPDIR": str(tmp_path)}
    bench = Operator(command, folder=ROOT, log=tmp_path / "log", environ=environ)
    try:
        assert await asyncio.to_thread(bench.wait, 2 * PATIENCE) == 0, bench.output
    finally:
        bench.kill()
    begun = [line.partition(": ")[2] for line in bench.output.splitlines() if line.startswith("  round ")]
    assert begun == operators * 2
    measured = json.loads((tmp_path / "figures.json").read_text())["operators"]
    # What the API server takes is not known of a cluster that others have started.
    known = FIGURES.keys() - {"burst_cpu_ms", "burst_api_cpu_ms", "pass_cpu_ms", "pass_api_cpu_ms"}
    for found, operator in zip(measured, operators, strict=True):
        assert (found["operator"], found["facts"]) == (operator, "without")
        assert [figures.keys() for figures in found["rounds"]] == [known] * 2
        assert found["medians"]["pass_reconciles"] >= 1
        assert found["ratios_to_first"].keys() == known


async def test_an_operator_takes_its_own_code_and_its_end_is_told(devcluster: Devcluster, tmp_path: Path) -> None:
    environ = {"KUBECONFIG": str(devcluster.kubeconfig), "TMPDIR": str(tmp_path), "PYTHONPATH": ""}
    operator = "sh -c 'echo path: [$PYTHONPATH], gathering: [$ANSIBLE_GATHERING]; exit 3'"
    command = [sys.executable, "-m", "bench", "--rounds=1", f"--operator={operator}", "--facts=without"]
    bench = Operator(command, folder=ROOT, log=tmp_path / "log", environ=environ)
    try:
        assert await asyncio.to_thread(bench.wait) == 1
    finally:
        bench.kill()
    assert "the operator ended with exit code 3\npath: [], gathering: [explicit]" in bench.output


async def test_what_the_api_server_takes_is_told_of_an_own_cluster(devcluster: Devcluster) -> None:
    assert (serving_seconds(devcluster) or 0) > 0
    assert serving_seconds(None) is None
