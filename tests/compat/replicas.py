"""Two replicas and a loop of SIGKILLs: `python -m tests.compat.replicas --rounds 20`.

Each round makes some CRs, kills the leader in the middle of their runs, starts another in its place, and waits until the
one that takes over has reconciled every CR. Checked are the runs' own records (each run writes down, ten times a second, for
whom it works), the Lease, and the processes: no two replicas may have been at work or have held the Lease at once, what a
killed leader ran must have ended before the next one led, and no CR may be left behind. Ends with 1 if it is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bench.driver import Cluster, Operator, condition, tidy_on_sigterm, until
from devkit.devcluster import Cluster as Devcluster
from runner.kube.lease import LEASE
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.conftest import THING, Project, alive, crd, lines, thing

NAMESPACE = "default"
LEASE_SECONDS, DEADLINE_SECONDS = 4, 3
FLAGS = (
    *("--leader-elect", "--leader-election-id=replicas", f"--leader-election-namespace={NAMESPACE}"),
    *(f"--leader-elect-lease-duration={LEASE_SECONDS}s", f"--leader-elect-renew-deadline={DEADLINE_SECONDS}s"),
    "--max-concurrent-reconciles=2",
)
CRS = 3
# For about as long as a run's own work takes, it says every tenth of a second: time, replica, CR.
ROLE = """
- ansible.builtin.shell: |
    for beat in $(seq 15)
    do echo "$(date +%s.%N) $REPLICA {{ ansible_operator_meta.name }}" >> {{ records }}; sleep 0.1
    done
- kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata:
        name: "{{ ansible_operator_meta.name }}"
        namespace: "{{ ansible_operator_meta.namespace }}"
      data:
        round: "round {{ round }}"
"""


@dataclass(frozen=True, slots=True)
class Beat:
    """A run's sign of life, in seconds since 1970, as are all times here: they are of one machine."""

    at: float
    replica: str
    cr: str


@dataclass(frozen=True, slots=True)
class Tenure:
    """From when a replica said that it leads to when it was killed; `processes_until` is when the last of its runs ended."""

    replica: str
    begun: float
    killed: float
    processes_until: float


class Replicas:
    def __init__(self, world: Cluster, project: Project) -> None:
        self._world = world
        self._project = project
        self._numbers = itertools.count(1)
        self.records = project.folder / "records"
        self.records.touch()
        self.running: dict[str, Operator] = {}
        self.holders: list[tuple[int, str]] = []
        self.tenures: list[Tenure] = []
        self.takeovers: list[float] = []
        self.violations: list[str] = []
        self.runs_killed = 0

    async def start(self) -> None:
        name = f"replica-{next(self._numbers)}"
        self.running[name] = await self._project.start(
            *FLAGS, f"--runs-dir={self._project.runs / name}", wait=False, REPLICA=name
        )

    async def leader(self) -> str:
        async def one() -> str | None:
            for operator in self.running.values():
                assert operator.process.poll() is None, operator.output
            leaders = [name for name, operator in self.running.items() if lines(operator, "Leading")]
            if len(leaders) > 1:
                self.violations.append(f"{' and '.join(leaders)} lead at once")
            return leaders[0] if leaders else None

        return await until(one, "one leads", interval=0.02)

    def beats(self) -> list[Beat]:
        rows = [line.split() for line in self.records.read_text().splitlines()]
        return [Beat(float(at), replica, cr) for at, replica, cr in rows]

    async def watch_the_lease(self) -> None:
        """Note each holder, with how many there were before it."""
        while True:
            found = await self._world.get(LEASE, ObjectKey(NAMESPACE, "replicas"))
            if found:
                seen = (found["spec"]["leaseTransitions"], found["spec"]["holderIdentity"])
                if not self.holders or self.holders[-1] != seen:
                    self.holders.append(seen)
            await asyncio.sleep(0.05)

    async def round(self, number: int, chance: random.Random) -> str:
        leader = await self.leader()
        names = [f"round-{number}-{letter}" for letter in "abcdef"[:CRS]]
        for name in names:
            await self._world.create(thing(name, round=number), NAMESPACE)

        async def at_work() -> bool:
            return any(beat.replica == leader and beat.cr in names for beat in self.beats())

        await until(at_work, f"{leader} is at work")
        await asyncio.sleep(chance.uniform(0, 2))
        await self._kill(leader)
        await self.start()
        successor = await self.leader()
        begun = led_since(self.running[successor])
        last = self.tenures[-1]
        self.takeovers.append(begun - last.killed)
        if last.processes_until >= begun:
            self.violations.append(f"processes of {leader} lived on when {successor} led")
        await self._reconciled(names, number)
        for name in names:
            await self._world.delete(THING, ObjectKey(NAMESPACE, name))
        ended = last.processes_until - last.killed
        return f"{leader} killed, its runs ended after {ended:.2f} s, {successor} leads after {self.takeovers[-1]:.2f} s"

    async def _kill(self, leader: str) -> None:
        operator = self.running.pop(leader)
        below = [pid for pid in operator.processes() if pid != operator.process.pid]
        self.runs_killed += bool(below)
        begun = led_since(operator)
        operator.process.kill()
        killed = time.time()
        operator.process.wait()

        async def gone() -> bool:
            return not alive(below)

        await until(gone, f"the processes of {leader} have ended", interval=0.005)
        self.tenures.append(Tenure(leader, begun, killed, time.time()))

    async def _reconciled(self, names: Sequence[str], number: int) -> None:
        async def done() -> bool:
            for name in names:
                obj = await self._world.get(THING, ObjectKey(NAMESPACE, name))
                made = await self._world.get(GroupVersionKind("", "v1", "ConfigMap"), ObjectKey(NAMESPACE, name))
                if not made or made["data"] != {"round": f"round {number}"}:
                    return False
                if condition(obj, "Running").get("reason") != "Successful":
                    return False
            return True

        try:
            await until(done, f"{', '.join(names)} are reconciled", interval=0.2)
        except AssertionError as error:
            self.violations.append(str(error))

    def judge(self) -> list[str]:
        """All that was not as it must be."""
        found = list(self.violations)
        spans: dict[str, tuple[float, float]] = {}
        for beat in self.beats():
            first, last = spans.get(beat.replica, (beat.at, beat.at))
            spans[beat.replica] = (min(first, beat.at), max(last, beat.at))
        for (one, (_, end)), (other, (begin, _)) in itertools.pairwise(sorted(spans.items(), key=lambda item: item[1])):
            if begin <= end:
                found.append(f"runs of {one} and {other} were at work at once, for {end - begin:.2f} s")
        for before, after in itertools.pairwise(self.tenures):
            if after.begun <= before.killed:
                found.append(f"{before.replica} and {after.replica} led at once")
        transitions = [number for number, _ in self.holders]
        if transitions != list(range(len(self.holders))) or len(self.holders) != len(self.tenures) + 1:
            found.append(f"the Lease changed hands otherwise than the leaders: {self.holders}")
        return found


def led_since(operator: Operator) -> float:
    return datetime.fromisoformat(lines(operator, "Leading")[0]["ts"]).timestamp()


async def main(rounds: int, seed: int, folder: Path, cluster: Devcluster) -> int:
    chance = random.Random(seed)
    project = Project(folder, cluster.kubeconfig, NAMESPACE)
    project.role(ROLE)
    project.watch(vars={"records": str(folder / "records")})
    async with Cluster.connected(cluster.kubeconfig) as world:
        await world.install(crd(THING))
        replicas = Replicas(world, project)
        watching = asyncio.create_task(replicas.watch_the_lease())
        try:
            await replicas.start()
            await replicas.leader()
            await replicas.start()
            for number in range(1, rounds + 1):
                say(f"round {number}: {await replicas.round(number, chance)}")
            left = await world.list(THING, NAMESPACE)
        finally:
            watching.cancel()
            for operator in project.operators:
                operator.kill()
    violations = replicas.judge()
    if left:
        violations.append(f"{len(left)} CRs could not be deleted")
    for violation in violations:
        say(f"VIOLATION: {violation}")
    times, ends = replicas.takeovers, [tenure.processes_until - tenure.killed for tenure in replicas.tenures]
    figures = {
        "rounds": rounds,
        "crs": rounds * CRS,
        "violations": len(violations),
        "killed_during_runs": replicas.runs_killed,
        "takeover_s": spread(times),
        "runs_ended_after_s": spread(ends),
        "lease_s": LEASE_SECONDS,
        "deadline_s": DEADLINE_SECONDS,
    }
    say(json.dumps(figures))
    return 1 if violations else 0


def spread(values: Sequence[float]) -> dict[str, float]:
    return {name: round(of(values), 2) for name, of in (("min", min), ("median", statistics.median), ("max", max))}


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which the leaders are killed")
    arguments = parser.parse_args()
    tidy_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="replicas-") as place, Devcluster.start() as devcluster:
        sys.exit(asyncio.run(main(arguments.rounds, arguments.seed, Path(place), devcluster)))
