"""An interrupted bench cleans up after itself, and what it looks on at is as it is."""

import os
import signal
import sys
from pathlib import Path

import pytest

from bench.driver import PATIENCE, ROOT, Cluster, Operator, until
from runner.devcluster import Cluster as Devcluster
from runner.resource.metadata import ObjectKey
from tests.behaviour.test_dependents import CONFIG_MAP
from tests.conftest import alive


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_an_interrupted_bench_leaves_no_operator(by: signal.Signals, devcluster: Devcluster, tmp_path: Path) -> None:
    environ = {"KUBECONFIG": str(devcluster.kubeconfig), "TMPDIR": str(tmp_path)}
    bench = Operator([sys.executable, "-m", "bench", "--crs=1"], folder=ROOT, log=tmp_path / "log", environ=environ)

    async def operator() -> list[int]:
        assert bench.process.poll() is None, bench.output
        children = [pid for pid in bench.processes() if pid != bench.process.pid]
        return [pid for pid in children if b"--runs-dir" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    async def ended() -> bool:
        return not alive(started)

    try:
        started = await until(operator, "the bench started an operator")
        os.kill(bench.process.pid, by)
        code = bench.process.wait(PATIENCE)
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
