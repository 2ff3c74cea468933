"""The shards of a simulation, as processes that come and go.

Next on the way: `bench.scale.shard`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.driver import FREE_PORTS, Operator, one_role_project
from bench.scale.shard import FOLDER, LOCKS, RUN_SECONDS
from runner.resource.metadata import GroupVersionKind

KIND = GroupVersionKind("scale.example.com", "v1", "Simulated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the shards are like. Times are in seconds; `at_once`: how many runs a shard makes at once."""

    run_seconds: float = 1.0
    at_once: int = 4
    lease_duration: float = 15.0
    renew_deadline: float = 10.0


class Shards:
    """The shards that work, by name; those that have ended have left."""

    def __init__(self, kubeconfig: Path, folder: Path, namespace: str, ring: str, options: Options) -> None:
        self.working: dict[str, Operator] = {}
        self._ending: list[Operator] = []
        self._folder = folder
        self._number = 0
        self._command = [
            *(sys.executable, "-m", "bench.scale.shard", *FREE_PORTS, f"--controller-ring={ring}"),
            *("--log-format=json", f"--leader-election-namespace={namespace}", "--run-artifacts=false"),
            f"--max-concurrent-reconciles={options.at_once}",
            f"--leader-elect-lease-duration={options.lease_duration}s",
            f"--leader-elect-renew-deadline={options.renew_deadline}s",
        ]
        self._environ = {
            **{"KUBECONFIG": str(kubeconfig), "WATCH_NAMESPACE": namespace},
            **{FOLDER: str(folder), RUN_SECONDS: str(options.run_seconds)},
        }
        (folder / LOCKS).mkdir()
        one_role_project(folder, KIND, [])

    def add(self) -> str:
        """Start one more; its name."""
        self._number += 1
        name = f"shard-{os.getpid()}-{self._number}"
        command = [*self._command, f"--shard-name={name}", f"--runs-dir={self._folder / name}"]
        log = self._folder / f"{name}.log"
        self.working[name] = Operator(command, folder=self._folder, log=log, environ=self._environ)
        return name

    def end(self) -> str:
        """Ask the one that has been there the longest to end; its name."""
        name = next(iter(self.working))
        operator = self.working.pop(name)
        operator.process.send_signal(signal.SIGTERM)
        self._ending.append(operator)
        return name

    def kill(self) -> str:
        """End the one that has been there the longest, by SIGKILL; its name."""
        name = next(iter(self.working))
        self.working.pop(name).kill()
        return name

    async def ended(self) -> None:
        """Await the end of those that were asked to."""
        while self._ending:
            await asyncio.to_thread(self._ending.pop().wait)

    def kill_all(self) -> None:
        for operator in (*self.working.values(), *self._ending):
            operator.kill()

    def check(self) -> None:
        """Raises AssertionError if one has ended by itself."""
        for name, operator in self.working.items():
            if operator.process.poll() is not None:
                raise AssertionError(f"the shard {name} ended\n{operator.output[-2000:]}")

    def processor_seconds(self) -> float:
        return sum(sum(operator.processor_seconds()) for operator in self.working.values())

    def memory(self) -> float:
        """MB of a shard, on average; pages that several share are counted once."""
        return sum(operator.memory()["pss_mb"] for operator in self.working.values()) / len(self.working)
