"""Owners of what runs create."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from runner.kube.discovery import Resource
from runner.proxy.requestinfo import parse
from runner.resource.metadata import PRIMARY_RESOURCE, PRIMARY_RESOURCE_TYPE, Owner
from tests.proxy.test_server import (
    APPLY,
    CLUSTER_OWNER,
    CONFIG_MAP,
    CONFIG_MAPS,
    NODE,
    OWNER,
    REFERENCE,
    Echo,
    config_map,
    proxied,
    stored,
)


@pytest.mark.parametrize(
    ("owner", "path", "reference"),
    [
        (OWNER, CONFIG_MAPS, True),
        (OWNER, "/api/v1/namespaces/there/configmaps", False),
        (OWNER, "/api/v1/nodes", False),
        (CLUSTER_OWNER, CONFIG_MAPS, True),
        (CLUSTER_OWNER, "/api/v1/nodes", True),
    ],
)
async def test_what_is_created_gets_its_owner(owner: Owner, path: str, reference: bool) -> None:
    echo = Echo()
    async with proxied(echo.answer, owner=owner) as run:
        kind = "Node" if "nodes" in path else "ConfigMap"
        async with run.http.post(path, json={"kind": kind, "metadata": {"generateName": "x-"}}) as answer:
            assert answer.status == 201
        assert run.noticed == [NODE if "nodes" in path else CONFIG_MAP]
    if reference:
        assert echo.metadata["ownerReferences"] == [owner.reference()]
        assert "annotations" not in echo.metadata
    else:
        assert "ownerReferences" not in echo.metadata
        assert echo.metadata["annotations"] == {
            PRIMARY_RESOURCE: "here/one",
            PRIMARY_RESOURCE_TYPE: "Thing.example.com",
        }
    assert echo.metadata["generateName"] == "x-"


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        (CONFIG_MAPS + "/x/anything", b'{"metadata": {}}', "application/json"),
        ("/apis/authorization.k8s.io/v1/selfsubjectreviews", b'{"metadata": {}}', "application/json"),
        ("/apis/example.com/v1/unknowns", b'{"metadata": {}}', "application/json"),
        (CONFIG_MAPS, b"k8s\x00\n\x0b", "application/vnd.kubernetes.protobuf"),
        (CONFIG_MAPS, gzip.compress(b'{"metadata": {}}'), "application/json"),
        (CONFIG_MAPS, b"kind: ConfigMap\n", "application/yaml"),
        (CONFIG_MAPS, b"[]", "application/json"),
        (CONFIG_MAPS, b'{"metadata": 1}', "application/json"),
        (CONFIG_MAPS, b'{"metadata": {"annotations": "oops"}}', "application/json"),
        (CONFIG_MAPS, b'{"metadata": {"ownerReferences": ["oops"]}}', "application/json"),
        (CONFIG_MAPS, b"{", "application/json"),
    ],
    ids=[
        "subresource",
        "review",
        "unknown kind",
        "protobuf",
        "gzip",
        "yaml",
        "array",
        "odd metadata",
        "odd annotations",
        "odd references",
        "cut off",
    ],
)
async def test_what_gets_no_owner_passes_as_it_is(path: str, body: bytes, kind: str) -> None:
    seen: list[bytes] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(await request.read())
        return web.json_response({"kind": "Status", "code": 400}, status=400)

    async with proxied(handler) as run:
        headers = {"Content-Type": kind, "Content-Encoding": "gzip" if body[:2] == b"\x1f\x8b" else "identity"}
        async with run.http.post(path, data=body, headers=headers) as answer:
            assert answer.status == 400
    assert seen == [body]


async def test_without_injection_nothing_is_added_but_what_is_owned_is_noticed() -> None:
    echo = Echo()
    async with proxied(echo.answer, inject_owner=False) as run:
        await run.http.post(CONFIG_MAPS, json=config_map())
        assert "ownerReferences" not in echo.metadata
        assert run.noticed == []
        await run.http.post(CONFIG_MAPS, json=config_map(ownerReferences=[REFERENCE]))
        assert run.noticed == [CONFIG_MAP]


@pytest.mark.parametrize(
    ("existing", "owned"),
    [
        (None, True),
        (config_map(), False),
        (config_map(ownerReferences=[{**REFERENCE, "uid": "another"}]), False),
        # What an applier no longer names is taken from what it applied before.
        (config_map(ownerReferences=[REFERENCE]), True),
    ],
    ids=["not there", "nobody's", "another's", "ours"],
)
@pytest.mark.parametrize("in_store", [True, False], ids=["stored", "not stored"])
async def test_a_server_side_apply_makes_no_strange_object_ones_own(
    existing: dict[str, Any] | None, owned: bool, in_store: bool
) -> None:
    echo = Echo(existing)
    async with proxied(echo.answer) as run:
        if in_store and existing:
            run.informers.append(stored(existing, version="5"))
        await run.http.patch(CONFIG_MAPS + "/x?fieldManager=me", data=json.dumps({"metadata": {"name": "x"}}), headers=APPLY)
        assert run.noticed == ([CONFIG_MAP] if owned else [])
    assert echo.metadata.get("ownerReferences") == ([REFERENCE] if owned else None)


class Kept:
    """One object, which may be there already. A body that is no JSON is taken for it. Others write it `disturbed` times."""

    def __init__(self, obj: dict[str, Any] | None, *, disturbed: int = 0) -> None:
        self.obj = obj
        self.disturbed = disturbed
        self.asked: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        body = await request.read()
        if request.method == "GET":
            return web.json_response(self.obj or {"kind": "Status"}, status=200 if self.obj else 404)
        if request.content_type != "application/merge-patch+json":
            created = self.obj is None
            self.obj = config_map("odd name", version="5", uid="u")
            return web.json_response(self.obj, status=201 if created else 200)
        assert self.obj is not None
        metadata = json.loads(body)["metadata"]
        if self.disturbed:
            self.disturbed -= 1
            self.obj["metadata"].update(
                resourceVersion=f"{self.obj['metadata']['resourceVersion']}0", labels={"by": "others"}
            )
        if metadata.pop("resourceVersion") != self.obj["metadata"]["resourceVersion"]:
            return web.json_response({"kind": "Status"}, status=409)
        self.obj["metadata"].update(metadata, resourceVersion=f"{self.obj['metadata']['resourceVersion']}1")
        return web.json_response(self.obj)


@pytest.mark.parametrize("disturbed", [0, 2], ids=["at rest", "written by others"])
@pytest.mark.parametrize(
    ("method", "body", "kind"),
    [
        ("POST", b"k8s\x00\n\x0b", "application/vnd.kubernetes.protobuf"),
        ("POST", b"\xd9\xd9\xf7\xa0", "application/cbor"),
        ("POST", gzip.compress(b'{"metadata": {}}'), "application/json"),
        ("POST", b"kind: ConfigMap\n", "application/yaml"),
        ("PATCH", b"metadata: {name: odd name}\n", "application/apply-patch+yaml"),
        ("PUT", b"k8s\x00\n\x0b", "application/vnd.kubernetes.protobuf"),
    ],
    ids=["protobuf", "cbor", "gzip", "yaml", "apply in YAML", "update that creates"],
)
async def test_what_is_created_in_another_encoding_gets_its_owner_afterwards(
    method: str, body: bytes, kind: str, disturbed: int
) -> None:
    kept = Kept(None, disturbed=disturbed)
    async with proxied(kept.answer) as run:
        path = CONFIG_MAPS if method == "POST" else CONFIG_MAPS + "/odd%20name"
        headers = {
            "Content-Type": kind,
            "Accept": "application/vnd.kubernetes.protobuf,application/json",
            "Accept-Encoding": "gzip",
        }
        async with run.http.request(method, URL(path, encoded=True), data=body, headers=headers) as answer:
            assert answer.status == 201
            assert await answer.json() == kept.obj
        (first, *_), last = [request for request in kept.asked if request.method != "GET"], kept.asked[-1]
        assert run.noticed == [CONFIG_MAP]
        assert run.written[0] == ("u", "", "5")
        assert run.written[-1] == ("u", "5" + "0" * disturbed, "5" + "0" * disturbed + "1")
        assert len(run.written) == 2
    # Else the answer could not be read.
    assert first.headers["Accept"] == "application/json"
    assert first.headers["Accept-Encoding"] == "identity"
    assert last.raw_path == CONFIG_MAPS + "/odd%20name"
    assert kept.obj is not None
    assert kept.obj["metadata"]["ownerReferences"] == [REFERENCE]
    assert kept.obj["metadata"].get("labels") == ({"by": "others"} if disturbed else None)


async def test_what_cannot_get_its_owner_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            return web.json_response(config_map(), status=201)
        return web.json_response({"kind": "Status", "message": "may not"}, status=403)

    async with (
        proxied(handler) as run,
        run.http.post(CONFIG_MAPS, data=b"k8s", headers={"Content-Type": "application/x"}) as answer,
    ):
        assert (answer.status, await answer.json()) == (201, config_map())
    assert "What a run has created got no owner" in [record.msg for record in caplog.records]


@pytest.mark.parametrize(
    ("existing", "sent", "references"),
    [
        (None, config_map(), [REFERENCE]),
        (config_map(), config_map(), None),
        (config_map(ownerReferences=[{**REFERENCE, "uid": "another"}]), config_map(), None),
        (config_map(ownerReferences=[REFERENCE]), config_map(), [REFERENCE]),
        (
            config_map(ownerReferences=[REFERENCE]),
            config_map(ownerReferences=[{**REFERENCE, "controller": True}]),
            [{**REFERENCE, "controller": True}],
        ),
        (
            config_map(ownerReferences=[REFERENCE]),
            config_map(ownerReferences=[{**REFERENCE, "uid": "another"}]),
            [{**REFERENCE, "uid": "another"}, REFERENCE],
        ),
    ],
    ids=["not there", "nobody's", "another's", "ours", "ours in the role's words", "ours and another's"],
)
async def test_an_update_keeps_the_owner(
    existing: dict[str, Any] | None, sent: dict[str, Any], references: list[dict[str, Any]] | None
) -> None:
    echo = Echo(existing)
    async with proxied(echo.answer) as run:
        await run.http.put(CONFIG_MAPS + "/x", json=sent)
        assert run.noticed == ([CONFIG_MAP] if references else [])
    assert echo.metadata.get("ownerReferences") == references


CONTROLLER = {**REFERENCE, "controller": True}
OTHER = {**REFERENCE, "name": "another", "uid": "another"}


@pytest.mark.parametrize(
    ("owner", "path", "sent", "references"),
    [
        (OWNER, CONFIG_MAPS, [], [CONTROLLER]),
        (OWNER, CONFIG_MAPS, [OTHER], [OTHER, CONTROLLER]),
        (OWNER, CONFIG_MAPS, [{**OTHER, "controller": True}], [{**OTHER, "controller": True}, REFERENCE]),
        (OWNER, CONFIG_MAPS, [REFERENCE], [REFERENCE]),
        (OWNER, "/api/v1/namespaces/here/events", [], [REFERENCE]),
        (CLUSTER_OWNER, CONFIG_MAPS, [], [CLUSTER_OWNER.reference()]),
    ],
    ids=["nobody's", "another's", "controlled by another", "the role's own", "of another kind", "a cluster-scoped CR's"],
)
async def test_of_the_kinds_that_a_sharder_labels_the_owner_is_the_controller(
    owner: Owner, path: str, sent: list[dict[str, Any]], references: list[dict[str, Any]]
) -> None:
    echo = Echo()
    async with proxied(echo.answer, owner=owner, controlled=(CONFIG_MAP,)) as run:
        await run.http.post(path, json={"metadata": {"name": "x", "ownerReferences": sent}})
    assert echo.metadata["ownerReferences"] == references


@pytest.mark.parametrize("controlled", [(CONFIG_MAP,), ()], ids=["labelled", "not labelled any more"])
@pytest.mark.parametrize(
    ("existing", "reference"),
    [
        ([REFERENCE], None),
        ([CONTROLLER], CONTROLLER),
        ([REFERENCE, {**OTHER, "controller": True}], REFERENCE),
    ],
    ids=["made without a controller", "ours", "controlled by another"],
)
async def test_what_replaces_an_object_does_not_change_its_controller(
    existing: list[dict[str, Any]], reference: dict[str, Any] | None, controlled: tuple[Resource, ...]
) -> None:
    echo = Echo(config_map(ownerReferences=existing))
    async with proxied(echo.answer, controlled=controlled) as run:
        await run.http.patch(CONFIG_MAPS + "/x?fieldManager=me", data=json.dumps({"metadata": {"name": "x"}}), headers=APPLY)
    # One without any gets it now.
    assert echo.metadata["ownerReferences"] == [reference or (CONTROLLER if controlled else REFERENCE)]


async def test_what_is_created_in_another_encoding_gets_its_controller_afterwards() -> None:
    kept = Kept(None)
    async with proxied(kept.answer, controlled=(CONFIG_MAP,)) as run:
        await run.http.post(CONFIG_MAPS, data=b"k8s", headers={"Content-Type": "application/vnd.kubernetes.protobuf"})
    assert kept.obj is not None
    assert kept.obj["metadata"]["ownerReferences"] == [CONTROLLER]


async def test_a_trial_gets_its_owner_and_starts_nothing() -> None:
    echo = Echo()
    async with proxied(echo.answer) as run:
        run.informers.append(stored(version="1"))
        await run.http.post(CONFIG_MAPS + "?dryRun=All", json=config_map())
        assert echo.metadata["ownerReferences"] == [REFERENCE]
        assert run.noticed == []
        assert run.session.writes.covered_at(parse(CONFIG_MAPS), "1")


async def test_events_are_not_watched() -> None:
    echo = Echo()
    async with proxied(echo.answer) as run:
        await run.http.post("/api/v1/namespaces/here/events", json={"metadata": {"name": "x"}})
        assert echo.metadata["ownerReferences"] == [REFERENCE]
        assert run.noticed == []


async def test_an_object_that_is_read_and_found_to_be_ours_is_watched() -> None:
    async with proxied(Echo(config_map(ownerReferences=[REFERENCE])).answer) as run:
        async with run.http.get(CONFIG_MAPS + "/x") as answer:
            assert "X-Cache" not in answer.headers
        assert run.noticed == [CONFIG_MAP]
