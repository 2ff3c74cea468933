"""What a tenant may do: CRs and other objects of every shape, and runs that never end. A good CR beside them is served."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from runner.kube.client import ApiError, KubeError
from runner.resource.metadata import GroupVersionKind
from tests.chaos.oracle import alive, served
from tests.chaos.scenario import Scenario, scenario
from tests.chaos.world import CONFIG_MAP, RELATED, THING, TROUBLE, Failed, cr

# Seconds in which a good CR has to be served beside them.
PATIENCE = 60.0
_BATCH = 20
_SDK = "ansible.sdk.operatorframework.io/"
ANNOTATIONS = (
    *(_SDK + name for name in ("reconcile-period", "max-runner-artifacts", "verbosity", "foreign")),
    *("rolerunner.io/dry-run", "operator-sdk/primary-resource", "operator-sdk/primary-resource-type"),
    "kubectl.kubernetes.io/last-applied-configuration",
)
# All annotations of an object together.
_ANNOTATION = 256 * 1024 - 200
# A request, less than which a CR may be.
_LARGE = 1_400_000


@scenario
async def malformed(the: Scenario) -> None:
    """1,000 generated CRs and related objects that nobody would write, beside a good CR."""
    operator = await the.operator()
    total = 60 if the.short else 1000
    taken = refused = 0
    makers = generators(the.world.chance)
    number = 0
    while number < total:
        made: list[tuple[GroupVersionKind, str]] = []
        for _ in range(min(_BATCH, total - number)):
            kind, gvk, text, status = next(makers)(number)
            number += 1
            name = json.loads(text)["metadata"]["name"] if len(text) < 100_000 and "[[[[" not in text else f"odd-{number - 1}"
            if await _post(the, gvk, text):
                taken += 1
                made.append((gvk, name))
                if status is not None:
                    await _put_status(the, gvk, name, status)
            else:
                refused += 1
            the.outcome.notes = [f"{taken} taken by the API server, {refused} refused"]
        try:
            await the.recovered(PATIENCE)
            alive(the.world)
        except (Failed, AssertionError) as error:
            kinds = sorted({name for _, name in made})
            raise Failed(f"beside {', '.join(kinds[:_BATCH])}: {error}") from error
        for gvk, name in made:
            with contextlib.suppress(KubeError):
                await the.world.cluster.delete(gvk, the.world.key(name))
        the.outcome.rounds += 1
        the.alive(operator)
    await the.recovered(PATIENCE)
    await the.settled(300)


async def _post(the: Scenario, gvk: GroupVersionKind, text: str) -> bool:
    """Whether the API server takes it. The text goes as it is: Python's own writer does not nest so deep."""
    client = the.world.cluster.client
    path = await the.world.cluster.path(gvk, namespace=the.world.namespace)
    async with client.session.post(
        client.server + path, data=text.encode(), headers={"Content-Type": "application/json"}
    ) as answer:
        await answer.read()
        return answer.status < 400


async def _put_status(the: Scenario, gvk: GroupVersionKind, name: str, status: Any) -> None:
    client = the.world.cluster.client
    path = await the.world.cluster.path(gvk, the.world.key(name)) + "/status"
    body = json.dumps([{"op": "add", "path": "/status", "value": status}])
    async with client.session.patch(
        client.server + path, data=body.encode(), headers={"Content-Type": "application/json-patch+json"}
    ) as answer:
        await answer.read()


Made = tuple[str, GroupVersionKind, str, Any]


def generators(chance: random.Random) -> Iterator[Callable[[int], Made]]:
    """Without end, all sorts in turn: each makes (its sort, kind, JSON text, status or None) of a number."""

    def anything(depth: int = 0) -> Any:
        leaves: list[Any] = [None, True, False, 0, -1, 1 << 62, 1.5e300, "", "x", "{{ lookup('env', 'HOME') }}", "\u0000\uffff", "é" * 99]
        if depth > 3 or chance.random() < 0.4:
            return chance.choice(leaves)
        if chance.random() < 0.5:
            return [anything(depth + 1) for _ in range(chance.randrange(4))]
        return {chance.choice(["value", "metadata", "name", "", "a b", "vars", "_x", "é"]): anything(depth + 1) for _ in range(3)}

    def metadata(number: int, **more: Any) -> dict[str, Any]:
        return {"name": f"odd-{number}", **more}

    def whole(gvk: GroupVersionKind, meta: dict[str, Any], **rest: Any) -> str:
        return json.dumps({"apiVersion": gvk.api_version, "kind": gvk.kind, "metadata": meta, **rest})

    def deep(number: int) -> Made:
        depth = chance.choice([100, 480, 700, 900, 1100, 2000, 5000, 9000, 9990])
        opened, closed = chance.choice([('{"a":', "}"), ("[", "]")])
        nested = opened * depth + "1" + closed * depth
        gvk = chance.choice([THING, RELATED])
        head = whole(gvk, metadata(number))[:-1]
        return "deep", gvk, head + ', "spec": {"value": "x", "deep": ' + nested + "}}", None

    def wide(number: int) -> Made:
        spec = {f"k{key}": 1 for key in range(_LARGE // 13)}
        return "wide", THING, whole(THING, metadata(number), spec={"value": "x", **spec}), None

    def reserved(number: int) -> Made:
        spec = {f"ansible_{key}": "x" * 20 for key in range(5000)}
        return "reserved", THING, whole(THING, metadata(number), spec={"value": "x", **spec}), None

    def untyped(number: int) -> Made:
        return "untyped", THING, whole(THING, metadata(number), spec=anything()), anything()

    def conditions(number: int) -> Made:
        status = {"conditions": chance.choice([anything(), [anything(), anything()]]), "observedGeneration": anything()}
        return "conditions", THING, whole(THING, metadata(number), spec={"value": "x"}), status

    def annotated(number: int) -> Made:
        name = chance.choice(ANNOTATIONS)
        value = chance.choice(["1" * _ANNOTATION, "1h" * (_ANNOTATION // 2), "x/" * (_ANNOTATION // 2), "1ns", "-1", "", "\u2028" * 1000, "1" * 5000])
        value = value[: _ANNOTATION - len(name)]
        return "annotated", THING, whole(THING, metadata(number, annotations={name: value}), spec={"value": "x"}), None

    def forged(number: int) -> Made:
        victim = f"{chance.choice(['chaos', 'default', ''])}/thing-{chance.randrange(20)}"
        marks = {
            "operator-sdk/primary-resource": chance.choice([victim, "/", "a/b/c", "x" * 1000, "é/é"]),
            "operator-sdk/primary-resource-type": chance.choice(["Thing.chaos.example.com", "Thing", "", ".", "x" * 1000]),
        }
        reference = {
            **{"apiVersion": THING.api_version, "kind": THING.kind, "controller": chance.choice([True, False])},
            **{"name": f"thing-{chance.randrange(20)}", "uid": chance.choice(["0", "not-a-uid", "x" * 1000])},
        }
        # Not one that the garbage collector would take for lost: it is of a kind that it does not know the uid of.
        owned = metadata(number, annotations=marks, ownerReferences=[reference] if chance.random() < 0.3 else [])
        gvk = chance.choice([CONFIG_MAP, RELATED, THING])
        rest = {"data": {"value": "x"}} if gvk == CONFIG_MAP else {"spec": {"value": "x"}}
        return "forged", gvk, whole(gvk, owned, **rest), None

    def named(number: int) -> Made:
        odd = [f"a.{number}", f"{number}", ("x" * 245 + str(number))[:253], f"{number}.artifacts", f"latest.{number}", f"a--{number}", f"e{number}e5", f"0x{number}"]
        name = chance.choice([*odd, "artifacts", "latest", "inventory", "env", "project", "true", "null", "1e5"])
        return "named", THING, whole(THING, metadata(number, name=name), spec={"value": "x"}), None

    def related(number: int) -> Made:
        ref = chance.choice([anything(), ["a"], {"metadata": {"name": ["a"]}}, {"metadata": {"name": {}, "namespace": 1}}, "x" * 100_000])
        return "related", RELATED, whole(RELATED, metadata(number), spec=chance.choice([{"ref": ref}, {"ref": ref}, anything()])), None

    sorts = [deep, wide, reserved, untyped, conditions, annotated, annotated, forged, named, related]
    while True:
        yield from sorts


@scenario
async def fairness(the: Scenario) -> None:
    """More runs of one kind hang than there is room for; the other kind is served nevertheless."""
    await the.operator()
    count = 8
    for number in range(count):
        await the.world.cluster.create(cr(TROUBLE, f"hangs-{number}", mode="hang"), the.world.namespace)
    try:
        async for _ in the.rounds(5):
            async with the.world.load():
                await the.some_time(5)
                await the.recovered(PATIENCE)
            await served(the.world, the.outcome, patience=300)
    finally:
        for number in range(count):
            with contextlib.suppress(ApiError):
                await the.world.cluster.delete(TROUBLE, the.world.key(f"hangs-{number}"))
