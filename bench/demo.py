"""The main job, told while it happens: `make demo`.

A cluster (one of its own, or that of $KUBECONFIG), the example operator, one Memcached: made, resized, robbed of its
Deployment, deleted. Exits 0 if all of it came true, and leaves nothing running; with KEEP=1 it leaves all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import yaml

from bench.driver import (
    DEPLOYMENT,
    FREE_PORTS,
    MEMCACHED,
    NAMESPACE,
    ROOT,
    RUN,
    Cluster,
    Operator,
    condition,
    memcached,
    prepare,
    tidy_on_sigterm,
    until,
)
from devkit.devcluster import DevclusterError, cluster
from devkit.devcluster.cluster import Cluster as Devcluster
from runner.errors import ConfigurationError
from runner.kube.client import KubeError
from runner.resource.metadata import ObjectKey

NAME, SIZE, NEW_SIZE = "demo", 3, 5
# Seconds a step may take.
PATIENCE = 120.0


class Story:
    """Prints each step with the time it took."""

    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()

    def tell(self, text: str) -> None:
        now = time.monotonic()
        click.echo(f"{click.style('✓', fg='green')} {text:<66} {now - self._last:6.1f} s")
        self._last = now

    def say(self, text: str) -> None:
        click.echo(f"  {text}")

    def end(self) -> None:
        click.echo(f"{click.style('✓', fg='green')} all of it{'':<57} {time.monotonic() - self._begun:6.1f} s")


async def tell(story: Story, world: Cluster, operator: Operator, namespace: str) -> None:
    """The steps. AssertionError or KubeError where one does not come true."""
    key = ObjectKey(namespace, NAME)

    async def deployment(**expected: object) -> bool:
        if operator.process.poll() is not None:
            raise AssertionError(f"the operator ended with exit code {operator.process.returncode}")
        found = await world.get(DEPLOYMENT, key)
        seen = {"uid": found["metadata"]["uid"], **(found.get("status") or {})} if found else {}
        wanted = dict(expected)
        other = wanted.pop("other_than", None)
        return bool(found) and seen["uid"] != other and all(seen.get(name) == value for name, value in wanted.items())

    async def succeeded() -> dict[str, Any] | None:
        found = await world.get(MEMCACHED, key)
        nodes = ((found or {}).get("status") or {}).get("nodes") or ()
        done = condition(found, "Successful").get("status") == "True" and len(nodes) == NEW_SIZE
        return found if done else None

    async def gone() -> bool:
        return await world.get(DEPLOYMENT, key) is None

    await world.create(memcached(NAME, SIZE), namespace)
    story.tell(f"Memcached {key} created, with size {SIZE}")
    await until(lambda: deployment(readyReplicas=SIZE), f"{SIZE} of {SIZE} replicas are ready", patience=PATIENCE)
    story.tell(f"its role made a Deployment: {SIZE}/{SIZE} replicas ready")

    await world.patch(MEMCACHED, key, {"spec": {"size": NEW_SIZE}})
    await until(lambda: deployment(readyReplicas=NEW_SIZE), f"{NEW_SIZE} replicas are ready", patience=PATIENCE)
    story.tell(f"size changed to {NEW_SIZE}: {NEW_SIZE}/{NEW_SIZE} replicas ready")

    found = await world.get(DEPLOYMENT, key)
    assert found is not None, "the Deployment is not there"
    await world.delete(DEPLOYMENT, key)
    await until(
        lambda: deployment(other_than=found["metadata"]["uid"], readyReplicas=NEW_SIZE),
        "the Deployment is back",
        patience=PATIENCE,
    )
    story.tell(f"Deployment deleted by hand: back again, {NEW_SIZE}/{NEW_SIZE}")

    final = await until(succeeded, "the status names all pods", patience=PATIENCE)
    story.tell("its status says so")
    click.echo()
    click.echo("".join(f"    {line}\n" for line in yaml.safe_dump(final["status"], sort_keys=False).splitlines()))
    if os.environ.get("KEEP"):
        return
    await world.delete(MEMCACHED, key)
    story.say("Memcached deleted; Kubernetes' garbage collector takes up to 30 s to learn of a new kind")
    await until(gone, "the Deployment is gone", patience=PATIENCE)
    story.tell("its Deployment is gone as well")


async def play(kubeconfig: Path, folder: Path) -> None:
    story = Story()
    namespace = f"demo-{os.getpid()}"
    async with Cluster.connected(kubeconfig) as world:
        await prepare(world, namespace)
        story.tell(f"CRDs installed, namespace {namespace} made")
        operator = Operator(
            [*RUN, *FREE_PORTS, "--log-format=console", f"--runs-dir={folder / 'runs'}"],
            folder=ROOT,
            log=folder / "operator.log",
            environ={"KUBECONFIG": str(kubeconfig), "WATCH_NAMESPACE": namespace},
            stay=bool(os.environ.get("KEEP")),
        )
        kept = False
        try:
            await tell(story, world, operator, namespace)
            kept = bool(os.environ.get("KEEP"))
        finally:
            if not kept:
                operator.stop()
                operator.kill()
                with contextlib.suppress(KubeError):
                    await world.delete(NAMESPACE, ObjectKey("", namespace))
        story.end()
    if kept:
        given = bool(os.environ.get("KUBECONFIG"))
        look = f"export KUBECONFIG={kubeconfig}" if given else 'eval "$(.venv/bin/rolerunner devcluster env --name demo)"'
        end = "" if given else "; .venv/bin/rolerunner devcluster down --name demo"
        click.echo(f"""
Left running: the operator (process {operator.process.pid}) in namespace {namespace}. To look around:
    {look}
    kubectl --namespace {namespace} get memcached,deployments,pods
    kubectl --namespace {namespace} scale memcached/{NAME} --replicas=2
    less {operator.log}
    find {folder / "runs"} -name stdout
To end it: kill {operator.process.pid}{end}""")


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="rolerunner-demo-"))
    given = os.environ.get("KUBECONFIG")
    keep = bool(os.environ.get("KEEP"))
    tidy_on_sigterm()
    try:
        with contextlib.ExitStack() as stack:
            if given:
                kubeconfig = Path(given)
                click.echo(f"  the cluster of KUBECONFIG ({given})")
            elif keep:
                kubeconfig = cluster.up(cluster.state_dir("demo"), lambda text: click.echo(f"  {text}")).kubeconfig
            else:
                click.echo("  starting a cluster: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kwok")
                kubeconfig = stack.enter_context(Devcluster.start(report=lambda text: click.echo(f"  {text}"))).kubeconfig
            asyncio.run(play(kubeconfig, folder))
    except (AssertionError, KubeError, DevclusterError, ConfigurationError) as error:
        click.echo(f"{click.style('✗', fg='red')} {error}", err=True)
        log = folder / "operator.log"
        if log.exists():
            click.echo("The operator's last words:", err=True)
            click.echo("\n".join(f"    {line}" for line in log.read_text().splitlines()[-30:]), err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("Interrupted", err=True)
        sys.exit(130)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
