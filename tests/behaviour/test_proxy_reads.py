"""What a role reads through the proxy: from the stores where they can tell, and never less than it has written."""

from __future__ import annotations

import json

from bench.driver import Cluster, until
from runner.resource.metadata import ObjectKey
from tests.behaviour.test_dependents import CONFIG_MAP, MAKE_CONFIG_MAP, blue
from tests.behaviour.test_runs import counted
from tests.conftest import Project, lines, thing

# A client as simple as can be: `call` gives the status, whether the store answered, and the JSON.
CLIENT = """
import http.client, json, os, sys, time
from urllib.parse import urlsplit

name, namespace, out = sys.argv[1:4]
server = urlsplit(json.load(open(os.environ["KUBECONFIG"]))["clusters"][0]["cluster"]["server"])
connection = http.client.HTTPConnection(server.netloc)
maps = f"/api/v1/namespaces/{namespace}/configmaps"

def call(method, path, body=None, kind="application/json"):
    connection.request(method, server.path + path, body and json.dumps(body), {"Content-Type": kind})
    answer = connection.getresponse()
    return answer.status, answer.headers.get("X-Cache") == "HIT", json.loads(answer.read())

def until(condition):
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found

"""

ROLE = """
- ansible.builtin.command: "{{ ansible_playbook_python }} {{ script }} {{ ansible_operator_meta.name }}
    {{ ansible_operator_meta.namespace }} {{ out }}-{{ ansible_operator_meta.name }}.json"
"""


async def test_several_runs_read_what_each_has_written(project: Project, world: Cluster, namespace: str) -> None:
    """Four runs write objects of one kind at the same time, and read each at once."""
    script = project.folder / "script.py"
    script.write_text(
        CLIENT
        + """
mine = f"?labelSelector=of={name}"
metadata = {"name": name, "labels": {"of": name}}
assert call("POST", maps, {"metadata": metadata, "data": {"n": "0"}})[0] in (201, 409)
for n in range(300):
    status, _, written = call("PATCH", f"{maps}/{name}", {"data": {"n": str(n)}}, "application/merge-patch+json")
    assert status == 200, written
    # Now and then there is time for the store to catch up.
    if n % 3 == 0:
        time.sleep(0.01)
    status, hit, read = call("GET", f"{maps}/{name}")
    assert (status, read["data"]["n"]) == (200, str(n)), (n, hit, read)
    status, hit, read = call("GET", maps + mine)
    assert [item["data"]["n"] for item in read["items"]] == [str(n)], (n, hit, read)
    assert read["kind"] == "ConfigMapList"
# The store does answer, as soon as it can.
until(lambda: call("GET", f"{maps}/{name}")[1])
until(lambda: call("GET", maps + mine)[1])
for _ in range(20):
    assert call("DELETE", f"{maps}/{name}")[0] == 200
    assert call("GET", f"{maps}/{name}")[0] == 404
    assert call("GET", maps + mine)[2]["items"] == []
    assert call("POST", maps, {"metadata": metadata, "data": {"n": "again"}})[0] == 201
    assert call("GET", f"{maps}/{name}")[2]["data"]["n"] == "again"
    assert len(call("GET", maps + mine)[2]["items"]) == 1
json.dump("done", open(out, "w"))
"""
    )
    project.role(ROLE)
    project.watch(vars={"script": str(script), "out": str(project.folder / "out")})
    operator = await project.start("--max-concurrent-reconciles=4")
    names = ["a", "b", "c", "d"]
    for name in names:
        await world.create(thing(name), namespace)
    for name in names:
        await counted(operator, name, 1)
        assert json.loads((project.folder / f"out-{name}.json").read_text()) == "done"
    assert lines(operator, "Run failed") == []


async def test_what_others_write_is_seen(project: Project, world: Cluster, one: ObjectKey) -> None:
    script, out, gate = project.folder / "script.py", project.folder / "out", project.folder / "gate"
    script.write_text(
        CLIENT
        + f"""
assert call("POST", maps, {{"metadata": {{"name": name}}, "data": {{"color": "blue"}}}})[0] in (201, 409)

def read(color, path=f"{{maps}}/{{name}}"):
    status, hit, found = call("GET", path)
    return status == 200 and hit and found["data"]["color"] == color

until(lambda: read("blue"))
json.dump("read", open(out, "w"))
until(lambda: os.path.exists({str(gate)!r}))
until(lambda: read("red"))
json.dump("seen", open(out, "w"))
# Gone for others' sake: what the store lacks, the server is asked for.
until(lambda: call("GET", f"{{maps}}/{{name}}")[0] == 404)
json.dump("gone", open(out, "w"))
# What is not fully understood the store leaves to the server.
for query in ("?limit=1", "?resourceVersion=0", "?fieldSelector=data.x%3Dy", "?labelSelector=%21%21"):
    assert not call("GET", maps + query)[1], query
"""
    )
    project.role(ROLE)
    project.watch(vars={"script": str(script), "out": str(out)})
    operator = await project.start()
    await world.create(thing(), one.namespace)
    said = project.folder / "out-one.json"

    async def says(word: str) -> None:
        async def found() -> bool:
            return said.exists() and said.read_text() == json.dumps(word)

        await until(found, f"the run has {word}")

    await says("read")
    await world.patch(CONFIG_MAP, one, {"data": {"color": "red"}})
    gate.touch()
    await says("seen")
    await world.delete(CONFIG_MAP, one)
    await says("gone")
    await counted(operator, "one", 1)


async def test_a_blacklisted_kind_is_neither_watched_nor_stored(project: Project, world: Cluster, one: ObjectKey) -> None:
    project.role(MAKE_CONFIG_MAP)
    project.watch(blacklist=[{"group": "", "version": "v1", "kind": "ConfigMap"}])
    operator = await project.start()
    await world.create(thing(), one.namespace)
    await counted(operator, "one", 1)
    made = await blue(world, one)
    assert made["metadata"]["ownerReferences"][0]["name"] == "one"
    assert lines(operator, "Watching dependents") == []
