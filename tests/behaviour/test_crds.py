"""CRDs come and go while the runner runs."""

import uuid

from bench.driver import Cluster, condition, until
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.behaviour.test_runs import SAY_HELLO, counted
from tests.conftest import Project, crd, lines, thing

CRD = GroupVersionKind("apiextensions.k8s.io", "v1", "CustomResourceDefinition")


async def test_a_crd_arrives_late_goes_and_comes_back(project: Project, world: Cluster, one: ObjectKey) -> None:
    gvk = GroupVersionKind(f"g{uuid.uuid4().hex[:8]}.example.com", "v1", "Late")
    project.role(SAY_HELLO)
    project.watch(gvk)
    operator = await project.start()
    definition = crd(gvk)
    key = ObjectKey("", definition["metadata"]["name"])
    await world.install(definition)
    await world.create(thing("one", gvk), one.namespace)
    await counted(operator, "one", 1)
    await world.delete(CRD, key)

    async def gone() -> bool:
        return await world.get(CRD, key) is None

    await until(gone, "the CRD is gone")
    await world.install(definition)
    await world.create(thing("two", gvk), one.namespace)
    await counted(operator, "two", 1)
    # The same name again: another object, so a run.
    await world.create(thing("one", gvk), one.namespace)
    await counted(operator, "one", 2)

    async def said() -> bool:
        return condition(await world.get(gvk, one), "Successful").get("status") == "True"

    await until(said, "the CR's status says so")
    assert "Traceback" not in operator.output
    # At most because kopf overlooked that the CRD came; a CRD that goes is no reason.
    assert all("has come" in line["reason"] for line in lines(operator, "Watching is started again"))
    await world.delete(CRD, key)
