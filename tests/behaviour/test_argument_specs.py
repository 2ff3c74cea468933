"""A CR that its argument specs refuse and its CRD does not: told on the CR, and nothing is run."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

from bench.driver import Cluster, condition, until
from runner.resource.metadata import ObjectKey
from tests.behaviour.test_runs import SAY_HELLO, counted, events, failed, succeeded
from tests.conftest import THING, Project, lines, thing

SPECS = dedent("""
    argument_specs:
      main:
        options:
          pod_count: {type: int, required: true}
          tls_setup:
            type: dict
            options: {mode: {choices: [terminate, none]}, secret_name: {}}
            required_if: [[mode, terminate, [secret_name]]]
""")


async def test_a_cr_that_breaks_what_the_schema_cannot_say_is_not_run(
    project: Project, world: Cluster, one: ObjectKey
) -> None:
    project.role(SAY_HELLO)
    meta = project.folder / "roles" / "thing" / "meta"
    meta.mkdir()
    (meta / "argument_specs.yml").write_text(SPECS)
    project.watch(finalizer={"name": "example.com/clean", "vars": {"cleaning": "yes"}})
    operator = await project.start()
    await world.create(thing(podCount="many", tlsSetup={"mode": "terminate"}), one.namespace)
    obj: dict[str, Any] = await until(lambda: failed(world, one), "the status tells the failure")
    first, second = condition(obj, "Failure")["message"].splitlines()
    assert first.startswith("spec.podCount: ")
    assert second.startswith("spec.tlsSetup: mode is terminate but")
    assert second.endswith("secretName")
    assert obj["status"]["observedGeneration"] == 1
    # Nothing was made for it that would have to be cleaned up.
    assert "finalizers" not in obj["metadata"]
    # A CR that comes later has been reconciled, and this one has not been again.
    await world.create(thing("two", podCount=1), one.namespace)
    await counted(operator, "two", 1)
    assert lines(operator, "Running", name="one") == []
    # It is logged after the status was written, and posted after that.
    (event,) = await until(lambda: events(world, one.namespace, "one"), "an Event tells it")
    assert event["reason"] == "InvalidSpec"
    assert len(lines(operator, condition(obj, "Failure")["message"], name="one")) == 1

    await world.patch(THING, one, {"spec": {"podCount": 2, "tlsSetup": {"secretName": "s"}}})
    await succeeded(world, one)
    await world.patch(THING, one, {"spec": {"podCount": "many"}})
    await until(lambda: failed(world, one), "the status tells the failure")
    # Its deletion is not stood in the way of: that is for the finalizer's run.
    await world.patch(THING, one, {"spec": {"podCount": 3}})
    await world.delete(THING, one)

    async def gone() -> bool:
        return await world.get(THING, one) is None

    await until(gone, "the CR is gone")
