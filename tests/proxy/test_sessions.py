import json

import pytest

from runner.proxy.requestinfo import RequestInfo, parse
from runner.proxy.sessions import Session, Sessions, Token, Writes, basic_authorization, kubeconfigs
from runner.resource.metadata import GroupVersionKind, ObjectKey, Owner

SESSION = Session(
    owner=Owner(GroupVersionKind("example.com", "v1", "Thing"), ObjectKey("default", "one"), "uid"),
    inject_owner=True,
    on_dependent=lambda *_: None,
)


def test_a_token_is_good_while_its_session_is_open() -> None:
    sessions = Sessions()
    with sessions.opened(SESSION) as token:
        basic = basic_authorization(token)
        assert sessions.of("/api?x=/", f"Bearer {token}") == (SESSION, "/api?x=/")
        assert sessions.of("/api", f"Basic {basic}") == (SESSION, "/api")
        assert sessions.of(f"/run/{token}/api/v1?x=/", None) == (SESSION, "/api/v1?x=/")
        assert sessions.of(f"/run/{token}", None) == (SESSION, "/")
        assert sessions.of("/run/other/api", f"Bearer {token}")[0] is None
        # One of several is enough.
        assert sessions.of("/api", None, "Basic ???", f"Basic {basic}") == (SESSION, "/api")
    assert sessions.of("/api", f"Bearer {token}")[0] is None
    assert sessions.of("/api", f"Basic {basic}")[0] is None
    assert sessions.of(f"/run/{token}/api", None)[0] is None


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer x", "Basic ???", "Basic /w==", "Digest x"])
def test_nothing_else_is(header: str | None) -> None:
    sessions = Sessions()
    with sessions.opened(SESSION):
        assert sessions.of("/api", header) == (None, "/api")


def test_the_kubeconfigs_serve_gos_clients_and_pythons() -> None:
    for_go, for_python = map(json.loads, kubeconfigs(Token("tok"), port=8001, namespace="default"))
    assert for_go["clusters"][0]["cluster"]["server"] == "http://127.0.0.1:8001/run/tok"
    # The same for all runs: it is what kubernetes.core's cache is named by.
    assert for_python["clusters"][0]["cluster"]["server"] == "http://127.0.0.1:8001"
    # Go's clients send no other credentials without TLS.
    assert for_python["clusters"][0]["cluster"]["proxy-url"] == "http://tok:unused@127.0.0.1:8001"
    for config in (for_go, for_python):
        assert config["users"][0]["user"] == {"username": "tok", "password": "unused"}
        assert config["contexts"][0]["context"]["namespace"] == "default"
    for text in kubeconfigs(Token("tok"), port=1, namespace=""):
        assert "namespace" not in json.loads(text)["contexts"][0]["context"]


HERE = parse("/apis/apps/v1/namespaces/here/deployments/x")
EVERYWHERE = parse("/apis/apps/v1/deployments")


@pytest.mark.parametrize(
    "other",
    [
        parse("/apis/apps/v1/namespaces/there/deployments/x"),
        parse("/apis/apps/v1/namespaces/here/daemonsets/x"),
        parse("/apis/other/v1/namespaces/here/deployments/x"),
    ],
)
def test_a_store_has_to_come_as_far_as_what_was_written_to_it(other: RequestInfo) -> None:
    writes = Writes()
    assert writes.covered_at(HERE, "1")
    writes.add(HERE, "9")
    # A write that changed nothing gives an older version.
    writes.add(HERE, "8")
    # All versions of a group show the same objects.
    for info in (HERE, EVERYWHERE, parse("/apis/apps/v1beta1/namespaces/here/deployments")):
        # As numbers: 10 comes after 9.
        assert [writes.covered_at(info, version) for version in ("8", "9", "10")] == [False, True, True]
    assert writes.covered_at(other, "1")


@pytest.mark.parametrize("version", [None, "", "9a", "-1"])
def test_what_cannot_be_known_no_store_shows(version: str | None) -> None:
    writes = Writes()
    writes.add(HERE, version)
    writes.add(HERE, "9")
    assert not writes.covered_at(HERE, "10")
    assert not writes.covered_at(EVERYWHERE, "10")
    assert writes.covered_at(parse("/apis/apps/v1/namespaces/there/deployments"), "1")


def test_a_version_that_is_no_number_shows_nothing() -> None:
    writes = Writes()
    writes.add(HERE, "9")
    assert not writes.covered_at(HERE, "ten")
