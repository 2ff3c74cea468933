"""What roles create: it belongs to the CR, and is repaired when somebody touches it."""

from typing import Any

import pytest

from bench.driver import DEPLOYMENT, MEMCACHED, ROOT, Cluster, condition, example_crds, memcached, until
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.behaviour.test_runs import counted, succeeded
from tests.conftest import THING, Project, crd, lines, paths_below, thing

CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")
SECRET = GroupVersionKind("", "v1", "Secret")
FLEET = GroupVersionKind("test.example.com", "v1", "Fleet")

MAKE_CONFIG_MAP = """
- kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata:
        name: "{{ ansible_operator_meta.name }}"
        namespace: "{{ place | default(ansible_operator_meta.namespace) }}"
      data:
        color: blue
"""


async def blue(world: Cluster, key: ObjectKey, *, other_than: str = "") -> dict[str, Any]:
    async def is_blue() -> dict[str, Any] | None:
        found = await world.get(CONFIG_MAP, key)
        good = found and found["data"]["color"] == "blue" and found["metadata"]["uid"] != other_than
        return found if good else None

    return await until(is_blue, "the ConfigMap is as the role wants it")


async def test_what_a_role_creates_belongs_to_its_cr_and_is_repaired(
    project: Project, world: Cluster, one: ObjectKey
) -> None:
    project.role(MAKE_CONFIG_MAP)
    project.watch()
    operator = await project.start()
    cr = await world.create(thing(), one.namespace)
    made = await blue(world, one)
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "test.example.com/v1", "kind": "Thing", "name": "one", "uid": cr["metadata"]["uid"]}
    ]
    await succeeded(world, one)
    await world.patch(CONFIG_MAP, one, {"data": {"color": "red"}})
    await blue(world, one)
    await world.delete(CONFIG_MAP, one)
    await blue(world, one, other_than=made["metadata"]["uid"])
    assert len(lines(operator, "Watching dependents")) == 1


async def test_what_a_run_itself_writes_causes_no_further_run(project: Project, world: Cluster, one: ObjectKey) -> None:
    """A role that writes something else each time would otherwise be run for ever."""
    project.role("""
- kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata: &named
        name: one
        namespace: "{{ ansible_operator_meta.namespace }}"
      data:
        color: blue
        written: "{{ now(fmt='%s.%f') }}"
- kubernetes.core.k8s:
    state: "{{ item }}"
    definition: {apiVersion: v1, kind: Secret, metadata: *named}
  loop: [present, absent]
""")
    project.watch()
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await counted(operator, "one", 1)
    for runs, size in ((2, 1), (3, 2)):
        await world.patch(THING, one, {"spec": {"size": size}})
        await counted(operator, "one", runs)
    # The watch tells of this after all that the runs have written.
    await world.patch(CONFIG_MAP, one, {"data": {"color": "red"}})
    await blue(world, one)
    await counted(operator, "one", 4)
    await world.patch(CONFIG_MAP, one, {"data": {"color": "green"}})
    await blue(world, one)
    await counted(operator, "one", 5)
    assert len(lines(operator, "Running", name="one")) == 5


async def test_after_a_restart_dependents_are_watched_again(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(MAKE_CONFIG_MAP)
    project.watch()
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    await blue(world, one)
    operator.stop()
    # Gone while nobody looks.
    await world.delete(THING, one)
    await world.create(thing("two"), one.namespace)
    operator = await project.start()
    await counted(operator, "two", 1)
    two = ObjectKey(one.namespace, "two")
    made = await blue(world, two)
    await world.delete(CONFIG_MAP, two)
    await blue(world, two, other_than=made["metadata"]["uid"])

    async def cleared() -> bool:
        return not any(path.name == "one" for path in paths_below(project.runs))

    await until(cleared, "the run folder of the CR that went meanwhile is gone")


ROLE = GroupVersionKind("rbac.authorization.k8s.io", "v1", "ClusterRole")

MAKE_EVERYWHERE = """
- kubernetes.core.k8s:
    definition:
      - &map
        apiVersion: v1
        kind: ConfigMap
        metadata:
          name: one
          namespace: "{{ ansible_operator_meta.namespace }}"
        data:
          color: blue
      - <<: *map
        metadata:
          name: one
          namespace: "{{ other }}"
      - apiVersion: rbac.authorization.k8s.io/v1
        kind: ClusterRole
        metadata:
          name: "{{ ansible_operator_meta.namespace }}"
        rules: []
"""


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_after_a_restart_each_kind_of_dependent_is_repaired(
    project: Project, world: Cluster, one: ObjectKey, end: str
) -> None:
    """Owned by reference, by annotation in another namespace, and by annotation over the whole cluster."""
    other = one.namespace + "-2"
    await world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    project.role(MAKE_EVERYWHERE)
    project.watch(vars={"other": other}, watchClusterScopedResources=True)
    namespaces = f"{one.namespace},{other}"
    operator = await project.start(WATCH_NAMESPACE=namespaces)
    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    operator.stop() if end == "stop" else operator.kill()
    operator = await project.start(WATCH_NAMESPACE=namespaces)
    await counted(operator, "one", 1)
    dependents = [
        (CONFIG_MAP, one),
        (CONFIG_MAP, ObjectKey(other, "one")),
        (ROLE, ObjectKey("", one.namespace)),
    ]
    for kind, key in dependents:
        made = await world.get(kind, key)
        assert made is not None
        await world.delete(kind, key)

        async def again(kind: GroupVersionKind = kind, key: ObjectKey = key, before: str = made["metadata"]["uid"]) -> bool:
            found = await world.get(kind, key)
            return found is not None and found["metadata"]["uid"] != before

        await until(again, f"{kind} {key} is there again")
    await world.delete(THING, one)
    await world.delete(ROLE, ObjectKey("", one.namespace))


@pytest.mark.parametrize("wanted", [True, False])
async def test_cluster_scoped_things_of_a_cr_in_a_namespace(
    project: Project, world: Cluster, one: ObjectKey, wanted: bool
) -> None:
    project.role(MAKE_EVERYWHERE)
    project.watch(vars={"other": one.namespace}, watchClusterScopedResources=wanted)
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    made = await world.get(ROLE, ObjectKey("", one.namespace))
    assert made is not None
    assert made["metadata"]["annotations"]["operator-sdk/primary-resource"] == str(one)
    resources = {line["resource"] for line in lines(operator, "Watching dependents")}
    assert ("clusterroles.rbac.authorization.k8s.io/v1" in resources) is wanted
    await world.delete(ROLE, ObjectKey("", one.namespace))


async def test_without_dependents_nothing_is_repaired(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(MAKE_CONFIG_MAP)
    project.watch(watchDependentResources=False)
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await succeeded(world, one)
    await blue(world, one)
    await world.delete(CONFIG_MAP, one)
    # By the end of another CR's run, news of the deletion would have been there.
    await world.create(thing("two"), one.namespace)
    await counted(operator, "two", 1)
    assert len(lines(operator, "Running", name="one")) == 1
    assert lines(operator, "Watching dependents") == []


async def test_a_cluster_scoped_cr_owns_things_in_namespaces(project: Project, world: Cluster, namespace: str) -> None:
    await world.install(crd(FLEET, scope="Cluster"))
    name = namespace
    project.role(MAKE_CONFIG_MAP.replace("ansible_operator_meta.namespace", "'nowhere'"))
    project.watch(FLEET)
    await project.start()
    await world.create(thing(name, FLEET, place=namespace))
    key = ObjectKey(namespace, name)
    made = await blue(world, key)
    assert made["metadata"]["ownerReferences"][0]["kind"] == "Fleet"
    await world.delete(CONFIG_MAP, key)
    await blue(world, key, other_than=made["metadata"]["uid"])
    await world.delete(FLEET, ObjectKey("", name))


async def test_out_of_reach_of_its_cr_an_annotation_says_whose_it_is(
    project: Project, world: Cluster, one: ObjectKey
) -> None:
    other = one.namespace + "-2"
    await world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    project.role(MAKE_CONFIG_MAP)
    project.watch()
    await project.start(WATCH_NAMESPACE=f"{one.namespace},{other}")
    await world.create(thing(place=other), one.namespace)
    key = ObjectKey(other, "one")
    made = await blue(world, key)
    assert "ownerReferences" not in made["metadata"]
    assert made["metadata"]["annotations"] == {
        "operator-sdk/primary-resource": str(one),
        "operator-sdk/primary-resource-type": "Thing.test.example.com",
    }
    await world.delete(CONFIG_MAP, key)
    await blue(world, key, other_than=made["metadata"]["uid"])


@pytest.fixture
async def example(world: Cluster) -> Cluster:
    for definition in example_crds():
        await world.install(definition)
    return world


async def test_the_example_operator(project: Project, example: Cluster, one: ObjectKey) -> None:
    """The tutorial's story: made, scaled by kubectl's way, repaired, deleted."""
    world = example
    project.folder = ROOT
    operator = await project.start(f"--runs-dir={project.runs}")
    cr = await world.create(memcached("one", 3), one.namespace)

    async def replicas(count: int, other_than: str = "") -> dict[str, Any]:
        async def ready() -> dict[str, Any] | None:
            found = await world.get(DEPLOYMENT, one)
            if not found or found["metadata"]["uid"] == other_than or found["spec"]["replicas"] != count:
                return None
            # Its controller may not have looked yet at what it is to be now.
            status, generation = found.get("status", {}), found["metadata"]["generation"]
            is_current = status.get("observedGeneration") == generation
            return found if is_current and status.get("readyReplicas") == count else None

        return await until(ready, f"{count} replicas are ready")

    async def nodes(count: int) -> dict[str, Any]:
        async def named() -> dict[str, Any] | None:
            found = await world.get(MEMCACHED, one)
            good = len(((found or {}).get("status") or {}).get("nodes") or ()) == count
            return found if good else None

        return await until(named, f"the status names {count} pods")

    made = await replicas(3)
    labels = {"app": "memcached", "memcached_cr": "one"}
    assert made["metadata"]["labels"] == labels
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (cr["metadata"]["uid"], True, True)
    spec = made["spec"]
    assert spec["replicas"] == 3
    assert spec["selector"]["matchLabels"] == labels
    pod = spec["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (container,) = pod["containers"]
    assert container["image"] == "memcached:1.4.36-alpine"
    assert container["command"] == ["memcached", "-m=64", "-o", "modern", "-v"]
    assert container["ports"] == [{"containerPort": 11211, "name": "memcached", "protocol": "TCP"}]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    scale = await world.path(MEMCACHED, one) + "/scale"
    await world.client.patch(scale, {"spec": {"replicas": 5}})
    made = await replicas(5)
    found = await nodes(5)
    assert (await world.client.get(scale))["status"] == {"replicas": 5, "selector": "app=memcached,memcached_cr=one"}
    assert condition(found, "Failure").get("status") != "True"
    await world.patch(DEPLOYMENT, one, {"spec": {"replicas": 1}})
    await replicas(5)
    await world.delete(DEPLOYMENT, one)
    await replicas(5, other_than=made["metadata"]["uid"])
    await world.delete(MEMCACHED, one)

    async def gone() -> bool:
        return await world.get(DEPLOYMENT, one) is None

    await until(gone, "the Deployment went with its CR")
    settings = {**memcached("settings", 0), "kind": "MemcachedSettings", "spec": {"options": {"m": "64", "c": "1024"}}}
    await world.create(settings, one.namespace)

    async def rendered() -> dict[str, Any] | None:
        return await world.get(CONFIG_MAP, ObjectKey(one.namespace, "settings"))

    assert (await until(rendered, "the ConfigMap"))["data"] == {"memcached.conf": "-c 1024\n-m 64\n"}
    assert "Traceback" not in operator.output


async def test_a_blacklisted_kind_is_not_watched(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(MAKE_CONFIG_MAP)
    project.watch(blacklist=[{"version": "v1", "kind": "ConfigMap"}])
    operator = await project.start()
    await world.create(thing(), one.namespace)
    made = await blue(world, one)
    assert made["metadata"]["ownerReferences"][0]["name"] == "one"
    await counted(operator, "one", 1)
    await world.delete(CONFIG_MAP, one)
    # By the end of another CR's run, news of the deletion would have been there.
    await world.create(thing("two"), one.namespace)
    await counted(operator, "two", 1)
    assert len(lines(operator, "Running", name="one")) == 1
    assert lines(operator, "Watching dependents") == []


async def test_related_objects_requeue_crs(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role("- ansible.builtin.debug: {msg: hello}")
    late = GroupVersionKind("related.example.com", "v1", "Late")
    project.watch(
        watchRelatedResources=[
            {
                "version": "v1",
                "kind": "Secret",
                "byExpression": "crs | selectattr('spec.secret', 'eq', object.metadata.name)",
            },
            {"group": late.group, "version": "v1", "kind": late.kind, "byLabel": "thing"},
        ]
    )
    operator = await project.start()
    await world.create(thing(secret="key"), one.namespace)
    await world.create(thing("two", secret="other"), one.namespace)

    await counted(operator, "one", 1)
    await counted(operator, "two", 1)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}, "stringData": {"a": "1"}}
    await world.create(secret, one.namespace)
    await counted(operator, "one", 2)
    await world.patch(SECRET, ObjectKey(one.namespace, "key"), {"stringData": {"a": "2"}})
    await counted(operator, "one", 3)
    # A kind that is served only later.
    await world.install(crd(late))
    related = thing("related", late)
    related["metadata"]["labels"] = {"thing": "two"}
    await world.create(related, one.namespace)
    await counted(operator, "two", 2)
    assert len(lines(operator, "Running", name="one")) == 3
