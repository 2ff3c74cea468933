"""What a tenant may do: CRs and other objects of every shape, and runs that never end. A good CR beside them is served."""

from __future__ import annotations

import contextlib
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
        made: list[Odd] = []
        for _ in range(min(_BATCH, total - number)):
            odd = next(makers)(number)
            number += 1
            if await _post(the, odd):
                taken += 1
                made.append(odd)
                if odd.status is not None:
                    await _put_status(the, odd)
            else:
                refused += 1
            the.outcome.notes = [f"{taken} taken by the API server, {refused} refused"]
        try:
            await the.recovered(PATIENCE)
            alive(the.world)
        except (Failed, AssertionError) as error:
            sorts = sorted(f"{odd.sort} {odd.name[:30]}" for odd in made)
            raise Failed(f"{error} - beside {', '.join(sorts)}") from error
        finally:
            for odd in made:
                with contextlib.suppress(KubeError):
                    await _delete(the, odd)
        the.outcome.rounds += 1
        the.alive(operator)
    await the.recovered(PATIENCE)
    await the.settled(300)


async def _post(the: Scenario, odd: Odd) -> bool:
    """Whether the API server takes it. The text goes as it is: Python's own writer does not nest so deep."""
    return await _send(the, "POST", await the.world.cluster.path(odd.gvk, namespace=the.world.namespace), odd.text) < 400


async def _put_status(the: Scenario, odd: Odd) -> None:
    patch = json.dumps([{"op": "add", "path": "/status", "value": odd.status}])
    await _send(the, "PATCH", await the.world.cluster.path(odd.gvk, the.world.key(odd.name)) + "/status", patch)


async def _delete(the: Scenario, odd: Odd) -> None:
    await _send(the, "DELETE", await the.world.cluster.path(odd.gvk, the.world.key(odd.name)), "")


async def _send(the: Scenario, method: str, path: str, text: str) -> int:
    """The answer's status; its body may be nested deeper than Python reads."""
    client = the.world.cluster.client
    kind = "application/json-patch+json" if method == "PATCH" else "application/json"
    async with client.session.request(
        method, client.server + path, data=text.encode() or None, headers={"Content-Type": kind}
    ) as answer:
        await answer.read()
        return answer.status


@dataclass(frozen=True, slots=True)
class Odd:
    """An object that nobody would write: its sort, name and JSON, and what its status is made afterwards, if anything."""

    sort: str
    gvk: GroupVersionKind
    name: str
    text: str
    status: Any = None


def generators(chance: random.Random) -> Iterator[Callable[[int], Odd]]:
    """Without end, all sorts in turn: each makes the object of a number."""

    def anything(depth: int = 0) -> Any:
        leaves: list[Any] = [
            None,
            True,
            False,
            0,
            -1,
            1 << 62,
            1.5e300,
            "",
            "x",
            "{{ lookup('env', 'HOME') }}",
            "\uffff",
            "é" * 99,
        ]
        if depth > 3 or chance.random() < 0.4:
            return chance.choice(leaves)
        if chance.random() < 0.5:
            return [anything(depth + 1) for _ in range(chance.randrange(4))]
        return {
            chance.choice(["value", "metadata", "name", "", "a b", "vars", "_x", "é"]): anything(depth + 1) for _ in range(3)
        }

    def odd(
        gvk: GroupVersionKind, number: int, *, name: str = "", metadata: Any = None, status: Any = None, **rest: Any
    ) -> Odd:
        sort = sys._getframe(1).f_code.co_name
        name = name or f"odd-{number}"
        whole = {"apiVersion": gvk.api_version, "kind": gvk.kind, "metadata": {"name": name, **(metadata or {})}, **rest}
        return Odd(sort, gvk, name, json.dumps(whole), status)

    def deep(number: int) -> Odd:
        depth = chance.choice([100, 480, 700, 900, 1100, 2000, 5000, 9000, 9990])
        opened, closed = chance.choice([('{"a":', "}"), ("[", "]")])
        made = odd(chance.choice([THING, RELATED]), number, spec={"value": "x", "deep": "HERE"})
        return replace(made, sort=f"deep {depth}", text=made.text.replace('"HERE"', opened * depth + "1" + closed * depth))

    def wide(number: int) -> Odd:
        return odd(THING, number, spec={"value": "x", **{f"k{key}": 1 for key in range(_LARGE // 13)}})

    def reserved(number: int) -> Odd:
        return odd(THING, number, spec={"value": "x", **{f"ansible_{key}": "x" * 20 for key in range(5000)}})

    def untyped(number: int) -> Odd:
        return odd(THING, number, spec=anything(), status=anything())

    def conditions(number: int) -> Odd:
        status = {"conditions": chance.choice([anything(), [anything(), anything()]]), "observedGeneration": anything()}
        return odd(THING, number, spec={"value": "x"}, status=status)

    def annotated(number: int) -> Odd:
        name = chance.choice(ANNOTATIONS)
        long = ["1" * _ANNOTATION, "1h" * (_ANNOTATION // 2), "x/" * (_ANNOTATION // 2), "1" * 5000]
        value = chance.choice([*long, "1ns", "-1", "", "\u2028" * 1000])[: _ANNOTATION - len(name)]
        return odd(THING, number, metadata={"annotations": {name: value}}, spec={"value": "x"})

    def forged(number: int) -> Odd:
        victim = f"{chance.choice(['chaos', 'default', ''])}/thing-{chance.randrange(20)}"
        marks = {
            "operator-sdk/primary-resource": chance.choice([victim, "/", "a/b/c", "x" * 1000, "é/é"]),
            "operator-sdk/primary-resource-type": chance.choice(["Thing.chaos.example.com", "Thing", "", ".", "x" * 1000]),
        }
        reference = {
            **{"apiVersion": THING.api_version, "kind": THING.kind, "controller": chance.choice([True, False])},
            **{"name": f"thing-{chance.randrange(20)}", "uid": chance.choice(["0", "not-a-uid", "x" * 1000])},
        }
        metadata = {"annotations": marks, "ownerReferences": [reference] if chance.random() < 0.3 else []}
        gvk = chance.choice([CONFIG_MAP, RELATED, THING])
        if gvk == CONFIG_MAP:
            return odd(gvk, number, metadata=metadata, data={"value": "x"})
        return odd(gvk, number, metadata=metadata, spec={"value": "x"})

    def named(number: int) -> Odd:
        own = [f"a.{number}", f"{number}", f"{'x' * 240}{number}", f"{number}.artifacts", f"latest.{number}", f"a--{number}"]
        name = chance.choice([*own, "artifacts", "latest", "inventory", "env", "project", "true", "null", "1e5", "0x1"])
        return odd(THING, number, name=name, spec={"value": "x"})

    def related(number: int) -> Odd:
        names = [["a"], {}, 1, None, "x" * 100_000]
        ref = chance.choice([anything(), ["a"], *({"metadata": {"name": name, "namespace": "chaos"}} for name in names)])
        return odd(RELATED, number, spec=chance.choice([{"ref": ref}, {"ref": ref}, anything()]))

    while True:
        yield from (deep, wide, reserved, untyped, conditions, annotated, annotated, forged, named, related)


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
