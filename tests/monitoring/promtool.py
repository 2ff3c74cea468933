"""promtool, which checks Prometheus' rules and plays them: found on $PATH or in the cache, or built from its Go module.

The module and its checksums stand in `build/go.mod` and `build/go.sum`. `python -m tests.monitoring.promtool` builds it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from devkit.devcluster import binaries

_BUILD = Path(__file__).parent / "build"
_PACKAGE = "github.com/prometheus/prometheus/cmd/promtool"
# What finds targets in clouds is half of it, and checks no rule.
_TAGS = "remove_all_sd"
# Seconds. It takes a minute and a half on two cores.
_PATIENCE = 540


def find() -> Path | None:
    """The program; None where it is not, and there is no Go to build it with. Raises Failed."""
    if on_path := shutil.which("promtool"):
        return Path(on_path)
    target = _cache() / "promtool"
    if target.exists():
        return target
    go = shutil.which("go")
    if go is None:
        return None
    # Another process may be at it.
    with binaries._locked(target.parent):
        for partial in target.parent.glob(f"{binaries._PARTIAL}*"):
            shutil.rmtree(partial, ignore_errors=True)
        if not target.exists():
            _build(go, target)
    return target


def _cache() -> Path:
    """A folder for this version, outside of the checkout."""
    (version,) = (
        line.split()[1] for line in (_BUILD / "go.mod").read_text().splitlines() if "/prometheus/prometheus " in line
    )
    return binaries.cache_dir().parent / f"promtool-{version.removeprefix('v')}"


def _build(go: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=binaries._PARTIAL) as partial:
        # go writes next to go.mod, which is not to be changed.
        source = shutil.copytree(_BUILD, Path(partial) / "source")
        made = Path(partial) / "promtool"
        command = [go, "build", "-mod=readonly", "-trimpath", "-tags", _TAGS, "-ldflags", "-s -w", "-o", str(made), _PACKAGE]
        environ = {**os.environ, "CGO_ENABLED": "0"}
        done = subprocess.run(
            command, cwd=source, env=environ, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
        if done.returncode:
            raise binaries.Failed(f"promtool cannot be built: {done.stderr[-2000:]}")
        made.replace(target)


if __name__ == "__main__":
    sys.stdout.write(f"{find() or 'There is neither promtool nor Go'}\n")
