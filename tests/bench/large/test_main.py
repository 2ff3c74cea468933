import json
import sys
from pathlib import Path

from bench.driver import PATIENCE, ROOT, Operator, until
from devkit.devcluster import Cluster as Devcluster


async def test_a_small_cluster_is_measured(devcluster: Devcluster, tmp_path: Path) -> None:
    environ = {"KUBECONFIG": str(devcluster.kubeconfig), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "bench.large", "--crs=20", "--idle=1", "--window=1"]
    bench = Operator(command, folder=ROOT, log=tmp_path / "log", environ=environ)

    async def ended() -> bool:
        return bench.process.poll() is not None

    try:
        await until(ended, "the bench ends", patience=2 * PATIENCE)
    finally:
        bench.kill()
    assert bench.process.returncode == 0, bench.output
    figures = next(
        json.loads(line) for line in bench.output.splitlines() if line.startswith('{"crs": 20') and "idle" in line
    )
    assert figures["start"]["reconciles"] + figures["pass"]["reconciles"] >= 20
    assert figures["start"]["requests"]["LIST pairs"] >= 1
    assert figures["pass"]["new_crs"]["count"] >= 1
    # On a machine that is very slow the next pass has begun by then.
    assert figures["idle"]["reconciles"] == 0 or figures["pass"]["all_s"] > 15
    assert "| CRs | 20 |" in bench.output
